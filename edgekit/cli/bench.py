"""edgekit bench: this machine's load time, first token, prefill, decode and peak memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text

if TYPE_CHECKING:
    from edgekit.devices.result import BenchResult, Quantiles

EXAMPLES = ("edgekit bench model.gguf --prompt-tokens 512 --gen-tokens 64 --reps 5 --threads 2",)


def command(
    model: options.ModelArgument,
    runtime: options.RuntimeOption = None,
    cache_type: options.CacheTypeOption = None,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of the prompt.")] = 512,
    gen_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens to decode.")] = 64,
    reps: Annotated[int, typer.Option(metavar="N", min=1, help="Repetitions, after one run to warm up.")] = 5,
    threads: options.ThreadsOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time a file on this machine.

    Load, first token, prefill, decode and peak memory, with a verdict on how far the figures can be trusted.
    """
    if not model.is_dir():
        options.check_files("MODEL", [model])
    from edgekit.devices.bench import bench
    from edgekit.runtimes import CacheTypes

    with output.stdout_reserved(as_json):
        result = bench(
            model,
            runtime=runtime,
            prompt_tokens=prompt_tokens,
            gen_tokens=gen_tokens,
            reps=reps,
            threads=threads,
            cache=None if cache_type is None else CacheTypes.parse(cache_type),
        )
    if as_json:
        output.print_json(output.plain(result))
    else:
        _print(result)


def _print(result: BenchResult) -> None:
    config, summary, memory = result.config, result.summary, result.memory
    peak = "not known" if memory.peak_bytes is None else bytes_text(memory.peak_bytes)
    cache = "" if config.cache_type is None else f", {config.cache_type} attention cache"
    reasons = f": {'; '.join(result.reasons)}" if result.reasons else ""
    output.print_facts(
        [
            ("model", f"{result.model.path} ({bytes_text(result.model.bytes)})"),
            ("machine", f"{result.machine.cpu or 'unknown processor'}, {config.threads} threads"),
            ("runtime", f"{result.build.runtime} ({result.build.runtime_version}){cache}"),
            ("verdict", f"{result.status}{reasons}"),
            ("peak memory", peak),
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


def _line(name: str, quantiles: Quantiles, unit: str) -> tuple[str, ...]:
    digits = 3 if unit == "s" else 1
    figures = (quantiles.median, quantiles.p10, quantiles.p90)
    return (name, unit, *(f"{figure:.{digits}f}" for figure in figures))
