"""edgekit bench: load time, first token, prefill, decode and peak memory, here or on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text
from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from edgekit.devices.result import BenchResult, Quantiles

EXAMPLES = (
    "edgekit bench model.gguf --prompt-tokens 512 --gen-tokens 64 --reps 5 --threads 2",
    "edgekit bench model.gguf --device ssh:pi@192.168.1.20",
    "edgekit bench model.gguf --device adb:R58M123456 --keep --json",
)
EXIT_CODES = {"valid": 0, "degraded": 3, "invalid": 5}


def command(
    model: options.ModelArgument,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="Where: ssh:USER@HOST, adb:SERIAL, local, or a profile's name or .toml file that says how it is "
            "reached.  [default: in this process]",
            show_default=False,
        ),
    ] = None,
    runtime: options.RuntimeOption = None,
    cache_type: options.CacheTypeOption = None,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of the prompt.")] = 512,
    gen_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens to decode.")] = 64,
    reps: Annotated[int, typer.Option(metavar="N", min=1, help="Repetitions, after one run to warm up.")] = 5,
    threads: options.ThreadsOption = None,
    deadline: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", min=1, max=86400, help="With --device: stop after so long.  [default: 3600]"),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="With --device: leave model and runner there for the next time.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time a file on this machine, or on a device from here.

    Load, first token, prefill, decode and peak memory, with a verdict on how far the figures can be trusted. Exit code:
    0 valid, 3 degraded, 5 invalid, 6 where the device could not be reached or failed.
    """
    if not model.is_dir():
        options.check_files("MODEL", [model])
    _check_device(model, device, runtime, deadline, keep)
    from edgekit.runtimes import CacheTypes

    workload: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "gen_tokens": gen_tokens,
        "reps": reps,
        "threads": threads,
        "cache": None if cache_type is None else CacheTypes.parse(cache_type),
    }
    with output.stdout_reserved(as_json):
        if device is None:
            from edgekit.devices.bench import bench

            result = bench(model, runtime=runtime, **workload)
        else:
            from edgekit.devices.bench_device import bench_device
            from edgekit.devices.target import Target

            result = bench_device(model, Target.parse(device), deadline_s=deadline or 3600, keep=keep, **workload)
    if as_json:
        output.print_json(output.plain(result))
    else:
        _print(result)
    raise typer.Exit(EXIT_CODES[result.status])


def _check_device(model: Path, device: str | None, runtime: str | None, deadline: int | None, keep: bool) -> None:
    if device is None:
        for option, given in {"--deadline": deadline is not None, "--keep": keep}.items():
            if given:
                raise InputError(f"{option} goes with --device only: add a --device or drop {option}")
    elif runtime not in (None, "native"):
        raise InputError(f"--runtime {runtime} does not run on a device: with --device it is native alone")
    elif model.is_dir():
        raise InputError(f"{model} is a folder, and a device runs GGUF files alone: export it to GGUF")


def _print(result: BenchResult) -> None:
    config, summary, memory = result.config, result.summary, result.memory
    peak = "not known" if memory.peak_bytes is None else bytes_text(memory.peak_bytes)
    cache = "" if config.cache_type is None else f", {config.cache_type} attention cache"
    reasons = f": {'; '.join(result.reasons)}" if result.reasons else ""
    output.print_facts(
        [
            ("model", f"{result.model.path} ({bytes_text(result.model.bytes)})"),
            ("device", _device(result)),
            ("machine", f"{result.machine.cpu or 'unknown processor'}, {config.threads} threads"),
            ("runtime", f"{result.build.runtime} ({result.build.runtime_version}){cache}"),
            ("verdict", f"{result.status}{reasons}"),
            ("peak memory", peak),
            ("predicted", _predicted(result)),
        ]
    )
    print()
    prefill, decode = f"prefill, {config.prompt_tokens} tokens", f"decode, {config.gen_tokens} tokens"
    lines = [
        _line("load", summary.load_s, "s"),
        _line("first token", summary.ttft_s, "s"),
        _line(prefill, summary.prefill_tps, "tok/s"),
        _line(decode, summary.decode_tps, "tok/s"),
    ]
    output.print_table((f"of {config.reps} runs", "unit", "median", "p10", "p90"), lines, left=2)


def _device(result: BenchResult) -> str | None:
    if result.device is None:
        return None
    emulated = ", emulated" if result.emulated else ""
    return f"{result.device.target} ({result.device.model or 'unknown model'}{emulated})"


def _predicted(result: BenchResult) -> str | None:
    if result.predicted is None:
        return None
    measured, predicted = result.summary.decode_tps.median, result.predicted.decode_tps
    return f"{predicted:.1f} tok/s to decode, measured {measured:.1f}: {result.predicted.explanation}"


def _line(name: str, quantiles: Quantiles, unit: str) -> tuple[str, ...]:
    digits = 3 if unit == "s" else 1
    figures = (quantiles.median, quantiles.p10, quantiles.p90)
    return (name, unit, *(f"{figure:.{digits}f}" for figure in figures))
