"""edgekit export: the last stage on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options, output, quantize
from edgekit.models.errors import InputError

EXAMPLES = (
    "edgekit export CHECKPOINT --plan plan.json -o model.gguf",
    "edgekit export CHECKPOINT --plan plan.json --format onnx -o model-onnx",
)


def command(
    checkpoint: options.CheckpointArgument,
    output_path: Annotated[
        Path, typer.Option("--output", "-o", metavar="PATH", help="The GGUF, or the new ONNX folder, to write.")
    ],
    plan: Annotated[Path, typer.Option(metavar="FILE", help="The plan to follow.")],
    format: Annotated[str, typer.Option(metavar="NAME", help="gguf or onnx.")] = "gguf",
    accuracy_level: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=4, help="onnx: activations as float32 (1) or int8 (4).  [default: 4]"),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="onnx: 23 for that version's standard operators alone.  [default: ONNX Runtime's own as well]",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="onnx: positions at most.  [default: the model's, at most 4096]"),
    ] = None,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="onnx: weights in a file of their own; beyond 2 GB always.")
    ] = False,
    calib: options.CalibOption = None,
    adapter: options.AdapterOption = None,
    work: options.WorkOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a GGUF, or a folder for ONNX Runtime, with the types of a plan."""
    if format not in ("gguf", "onnx"):
        raise InputError(f"--format {format}: choose gguf or onnx")
    if opset not in (None, 23):
        raise InputError(f"--opset {opset}: choose 23, or leave it out for ONNX Runtime's own operators")
    if opset is not None and accuracy_level is not None:
        raise InputError("--accuracy-level is of ONNX Runtime's own operators: drop it, or --opset")
    if format == "gguf":
        options.check_output(output_path, ".gguf")
        options.refuse_same(checkpoint, output_path)
        _refuse_without_onnx(accuracy_level, opset, context, external_data or None)
    options.check_files("--plan", [plan])
    options.check_files("--calib", calib or [])
    options.check_work(work)
    from edgekit import pipeline
    from edgekit.export.onnx.options import OnnxOptions

    onnx = None
    if format == "onnx":
        level = OnnxOptions.accuracy_level if accuracy_level is None else accuracy_level
        onnx = OnnxOptions(level, context, external_data, portable=opset is not None)
    with output.stdout_reserved(as_json):
        artifact = pipeline.export(
            checkpoint, output_path, plan=plan, calib=calib or [], adapter=adapter, work=work, onnx=onnx
        )
    quantize.show(artifact, as_json)


def _refuse_without_onnx(*values: object) -> None:
    names = ("--accuracy-level", "--opset", "--context", "--external-data")
    for name, value in zip(names, values, strict=True):
        if value is not None:
            raise InputError(f"{name} goes with --format onnx only: drop it")
