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
    adapter: options.AdapterOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a GGUF with the types of a plan."""
    options.check_output(output_path, ".gguf")
    options.refuse_same(checkpoint, output_path)
    options.check_files("--plan", [plan])
    from edgekit import pipeline

    with output.stdout_reserved(as_json):
        artifact = pipeline.export(checkpoint, output_path, plan=plan, adapter=adapter)
    quantize.show(artifact, as_json)
