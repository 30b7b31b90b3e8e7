"""edgekit export: the last stage on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options, output, quantize

EXAMPLES = ("edgekit export CHECKPOINT --plan plan.json -o model.gguf",)


def command(
    checkpoint: options.CheckpointArgument,
    output_path: options.OutputOption,
    plan: Annotated[Path, typer.Option(metavar="FILE", help="The plan to follow.")],
    calib: options.CalibOption = None,
    adapter: options.AdapterOption = None,
    work: options.WorkOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a GGUF with the types of a plan."""
    options.check_output(output_path, ".gguf")
    options.refuse_same(checkpoint, output_path)
    options.check_files("--plan", [plan])
    options.check_files("--calib", calib or [])
    options.check_work(work)
    from edgekit import pipeline

    with output.stdout_reserved(as_json):
        artifact = pipeline.export(checkpoint, output_path, plan=plan, calib=calib or [], adapter=adapter, work=work)
    quantize.show(artifact, as_json)
