"""edgekit compare: two stored benchmarks side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import bench_output, options, output

EXAMPLES = (
    "edgekit compare before.json after.json",
    "edgekit compare before.json after.json --gate 5% -o report.html",
)


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="A result, as bench -o A.json wrote it.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The one to judge.", show_default=False)],
    gate: bench_output.GateOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare what was measured on unlike devices or with unlike settings too.")
    ] = False,
    outputs: bench_output.OutputsOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare two stored benchmarks: how many times as fast or as long B is.

    Medians of their repetitions, with a 95 % bootstrap interval of their ratio, and what differs between the two. What
    has changed between the runs beside the model or the build is not in the interval: bench --vs measures in turns.
    Exit code: 0 valid, 3 degraded or inconclusive, 4 a regression, 5 a result that is invalid, or emulated with --gate.
    """
    options.check_files("A", [a])
    options.check_files("B", [b])
    share = bench_output.read_gate(gate)
    files = bench_output.check_outputs(outputs, [a, b])
    from edgekit.devices.comparison import compare_stored
    from edgekit.devices.stored import read_result

    with output.stdout_reserved(as_json):
        found = compare_stored(read_result(a), read_result(b), share, force=force, names=(str(a), str(b)))
    bench_output.finish(found, files, as_json)
