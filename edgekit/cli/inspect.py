"""edgekit inspect: what a file or a checkpoint holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text, count_text

if TYPE_CHECKING:
    from edgekit.inspection import Inspection, Part

EXAMPLES = ("edgekit inspect model.gguf", "edgekit inspect CHECKPOINT --json")


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A GGUF, a Hugging Face folder or a Hub id.", show_default=False),
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, too.")] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what a file or checkpoint holds."""
    from edgekit.inspection import inspect

    with output.stdout_reserved(as_json):
        inspection = inspect(model)
    if as_json:
        output.print_json({**output.plain(inspection), "bpw": inspection.bits_per_weight})
        return
    _print(inspection)
    if tensors:
        print()
        lines = [
            (tensor.name, tensor.type, " × ".join(map(str, tensor.shape)), f"{tensor.bytes:,}")
            for tensor in inspection.tensors
        ]
        output.print_table(("tensor", "type", "shape", "bytes"), lines, left=2)


def _print(inspection: Inspection) -> None:
    wide = f"{inspection.layers} layers, {inspection.hidden} wide, feed-forward {_span(inspection.ffn)}"
    heads = f"{_span(inspection.heads)} query, {_span(inspection.kv_heads)} KV, {inspection.head_dim} each"
    template = "with" if inspection.chat_template else "without"
    tokenizer = inspection.tokenizer or "none"
    output.print_facts(
        [
            ("model", inspection.path),
            ("architecture", f"{inspection.architecture}: {wide}"),
            ("heads", heads),
            ("context", f"{inspection.context:,}" if inspection.context else "not told"),
            ("tokenizer", f"{tokenizer}, {inspection.vocab:,} tokens, {template} chat template"),
            ("parameters", f"{count_text(inspection.parameters)} in {len(inspection.tensors)} tensors"),
            ("size", f"{bytes_text(inspection.bytes)} ({inspection.bytes:,} bytes)"),
            ("bits per weight", f"{inspection.bits_per_weight:.2f}"),
            *(("note", note) for note in inspection.notes),
        ]
    )
    for title, parts in (("type", inspection.by_type), ("part", inspection.by_role)):
        print()
        output.print_table(
            (title, "tensors", "weights", "bytes", "share"), [_line(part, inspection.bytes) for part in parts]
        )


def _line(part: Part, total: int) -> tuple[str, ...]:
    tensors = f"{part.tensors}" if part.tensors else ""
    weights = f"{part.weights:,}" if part.tensors else ""
    return part.name, tensors, weights, f"{part.bytes:,}", f"{100 * part.bytes / total:.1f} %"


def _span(counts: tuple[int, ...]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return str(low) if low == high else f"{low} to {high}"
