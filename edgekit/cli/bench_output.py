"""How bench and compare end: files, a document or a table, and an exit code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text
from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from edgekit.devices.comparison import Comparison, Ratio
    from edgekit.devices.result import BenchResult, Memory, Quantiles

EXIT_CODES = {"valid": 0, "degraded": 3, "invalid": 5}
REGRESSION = 4

OutputsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the result there too: .json, a page as .html, or a table as .csv; may be repeated.",
        show_default=False,
    ),
]
GateOption = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Fail where B prefills or decodes slower than A by so much, as 5% or 0.05.",
        show_default=False,
    ),
]


def read_gate(value: str | None) -> float | None:
    """ "5%" or "0.05" as 0.05."""
    if value is None:
        return None
    number = value.removesuffix("%")
    try:
        share = float(number) / (100 if number != value else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise InputError(f"--gate {value} is no share between 0 and 1: write 5% or 0.05")
    return share


def check_outputs(outputs: list[Path] | None, inputs: Sequence[Path]) -> list[Path]:
    """Refuse, before anything is measured, files that could not be written."""
    from edgekit.report.bench import kind_of

    for path in outputs or []:
        options.check_output(path, kind_of(path))
        for given in inputs:
            if path.exists() and given.exists() and path.samefile(given):
                raise InputError(f"-o {path} is an input: name another file")
    return outputs or []


def finish(result: BenchResult | Comparison, outputs: Sequence[Path], as_json: bool) -> None:
    """Write and print, and leave with the exit code."""
    from edgekit.devices.comparison import Comparison
    from edgekit.report.bench import write

    for path in outputs:
        write(result, path)
    if as_json:
        output.print_json(output.plain(result))
    elif isinstance(result, Comparison):
        _print_comparison(result)
    else:
        _print_result(result)
    regression = isinstance(result, Comparison) and result.outcome == "regression" and result.status != "invalid"
    raise typer.Exit(REGRESSION if regression else EXIT_CODES[result.status])


def _print_result(result: BenchResult) -> None:
    config, summary = result.config, result.summary
    output.print_facts(
        [
            ("model", _model(result)),
            ("device", _device(result)),
            ("machine", f"{result.machine.cpu or 'unknown processor'}, {config.threads} threads"),
            ("runtime", _runtime(result)),
            ("verdict", _verdict(result)),
            ("peak memory", _peak(result.memory)),
            ("predicted", _predicted(result)),
        ]
    )
    print()
    rows = []
    for name, label, unit in _figures(result):
        quantiles: Quantiles = getattr(summary, name)
        rows.append((label, unit, *(_figure(x, unit) for x in (quantiles.median, quantiles.p10, quantiles.p90))))
    output.print_table((f"of {config.reps} runs", "unit", "median", "p10", "p90"), rows, left=2)


def _print_comparison(found: Comparison) -> None:
    a, b = found.a, found.b
    same_runtime = _runtime(a) == _runtime(b)
    output.print_facts(
        [
            ("A", _model(a)),
            ("B", _model(b)),
            ("device", _device(a)),
            ("machine", f"{a.machine.cpu or 'unknown processor'}, {a.config.threads} threads"),
            ("runtime", _runtime(a) if same_runtime else f"A: {_runtime(a)}; B: {_runtime(b)}"),
            ("differ in", ", ".join(found.differs) or "nothing"),
            ("verdict", _verdict(found)),
            ("gate", None if found.gate is None else f"{found.outcome}, at {100 * found.gate:.3g}% slower"),
            ("peak memory", f"A {_peak(a.memory)}, B {_peak(b.memory)}"),
        ]
    )
    print()
    rows = []
    for name, label, unit in _figures(a):
        medians = (_figure(getattr(side.summary, name).median, unit) for side in (a, b))
        ratio: Ratio = getattr(found.ratios, name)
        rows.append((label, unit, *medians, f"{ratio.median:.3f}", _interval(ratio)))
    kind = f"of {min(a.config.reps, b.config.reps)} {'pairs' if found.paired else 'runs each'}"
    output.print_table((kind, "unit", "A", "B", "B / A", "95 % interval"), rows, left=2)


def _interval(ratio: Ratio) -> str:
    return "not known" if math.isnan(ratio.low) else f"{ratio.low:.3f} to {ratio.high:.3f}"


def _figures(result: BenchResult) -> list[tuple[str, str, str]]:
    """The field of a summary, what it is called, and its unit."""
    config = result.config
    return [
        ("load_s", "load", "s"),
        ("ttft_s", "first token", "s"),
        ("prefill_tps", f"prefill, {config.prompt_tokens} tokens", "tok/s"),
        ("decode_tps", f"decode, {config.gen_tokens} tokens", "tok/s"),
    ]


def _figure(value: float, unit: str) -> str:
    return f"{value:.{3 if unit == 's' else 1}f}"


def _model(result: BenchResult) -> str:
    return f"{result.model.path} ({bytes_text(result.model.bytes)})"


def _runtime(result: BenchResult) -> str:
    cache = "" if result.config.cache_type is None else f", {result.config.cache_type} attention cache"
    return f"{result.build.runtime} ({result.build.runtime_version}){cache}"


def _verdict(result: BenchResult | Comparison) -> str:
    return ": ".join([result.status, *(["; ".join(result.reasons)] if result.reasons else [])])


def _peak(memory: Memory) -> str:
    return "not known" if memory.peak_bytes is None else bytes_text(memory.peak_bytes)


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
