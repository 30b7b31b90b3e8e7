"""edgekit bench: load time, first token, prefill, decode and peak memory, of one file or of two in turns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import bench_output, options, output
from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from edgekit.devices.comparison import Comparison
    from edgekit.devices.result import BenchResult

EXAMPLES = (
    "edgekit bench model.gguf --prompt-tokens 512 --gen-tokens 64 --reps 5 --threads 2",
    "edgekit bench model.gguf --device ssh:pi@192.168.1.20",
    "edgekit bench model.gguf --device adb:R58M123456 --keep -o result.json -o report.html",
    "edgekit bench before.gguf --vs after.gguf --gate 5% --device local",
)


def command(
    model: options.ModelArgument,
    vs: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Measure this one (B) in turns with the first (A), and compare.",
            show_default=False,
        ),
    ] = None,
    gate: bench_output.GateOption = None,
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
    reps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Repetitions, after one run to warm up.  "
            "[default: 5; with --vs: 21 of each, of small files up to 101]",
            show_default=False,
        ),
    ] = None,
    threads: options.ThreadsOption = None,
    deadline: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", min=1, max=86400, help="With --device: stop after so long.  [default: 3600]"),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="With --device: leave model and runner there for the next time.")
    ] = False,
    outputs: bench_output.OutputsOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time a file on this machine, or on a device from here.

    Load, first token, prefill, decode and peak memory, with a verdict on how far the figures can be trusted. With --vs
    two files take turns (A B B A), and B / A is the median over the pairs, with a 95 % bootstrap interval; decoding
    counts by the lower quartile of the times between two tokens of a repetition, against noise. --gate fails where that
    interval is clear of 1 and the median is slower by what is given or more; where it is too wide to tell, more --reps
    help. Exit code: 0 valid, 3 degraded or inconclusive, 4 a regression, 5 invalid, or emulated with --gate, 6 where
    the device could not be reached or failed.
    """
    models = [model] if vs is None else [model, vs]
    _check(models, device, runtime, deadline, keep)
    share = bench_output.read_gate(gate)
    if share is not None and vs is None:
        raise InputError("--gate goes with --vs only: name the model to compare with, or drop --gate")
    files = bench_output.check_outputs(outputs, models)
    from edgekit.runtimes import CacheTypes

    workload: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "gen_tokens": gen_tokens,
        "threads": threads,
        "cache": None if cache_type is None else CacheTypes.parse(cache_type),
    }
    if reps is not None:
        workload["reps"] = reps
    with output.stdout_reserved(as_json):
        if device is None:
            result = _here(models, share, {"runtime": runtime, **workload})
        else:
            result = _on_device(models, device, share, {"deadline_s": deadline or 3600, "keep": keep, **workload})
    bench_output.finish(result, files, as_json)


def _here(models: list[Path], gate: float | None, settings: dict[str, Any]) -> BenchResult | Comparison:
    if len(models) == 1:
        from edgekit.devices.bench import bench

        return bench(models[0], **settings)
    from edgekit.devices.bench_vs import bench_vs

    return bench_vs(*models, gate=gate, **settings)


def _on_device(
    models: list[Path], device: str, gate: float | None, settings: dict[str, Any]
) -> BenchResult | Comparison:
    from edgekit.devices.target import Target

    target = Target.parse(device)
    if len(models) == 1:
        from edgekit.devices.bench_device import bench_device

        return bench_device(models[0], target, **settings)
    from edgekit.devices.bench_vs import bench_vs

    return bench_vs(*models, target=target, gate=gate, **settings)


def _check(models: list[Path], device: str | None, runtime: str | None, deadline: int | None, keep: bool) -> None:
    for name, path in zip(("MODEL", "--vs"), models, strict=False):
        if not path.is_dir():
            options.check_files(name, [path])
    if device is None:
        for option, given in {"--deadline": deadline is not None, "--keep": keep}.items():
            if given:
                raise InputError(f"{option} goes with --device only: add a --device or drop {option}")
    elif runtime not in (None, "native"):
        raise InputError(f"--runtime {runtime} does not run on a device: with --device it is native alone")
    else:
        for path in models:
            if path.is_dir():
                raise InputError(f"{path} is a folder, and a device runs GGUF files alone: export it to GGUF")
