"""edgekit prune: zeros in a checkpoint's matrices, and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.cli.quantize import nats
from edgekit.figures import bytes_text, seconds_text

if TYPE_CHECKING:
    from edgekit.pruning import CompressedBytes, Pruned

EXAMPLES = (
    "edgekit prune CHECKPOINT --sparsity 0.5 -o PRUNED",
    "edgekit prune CHECKPOINT --sparsity 0.5 --calib notes.txt -o PRUNED",
    "edgekit quantize PRUNED --bpw 4.5 -o model.gguf",
)


def command(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face folder or a Hub id.", show_default=False)
    ],
    output_path: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write; a new one.")],
    sparsity: Annotated[float, typer.Option(metavar="SHARE", help="Of the layers' weights, as 0.5, to set to zero.")],
    score: Annotated[
        str, typer.Option(metavar="NAME", help="sparsegpt; for comparison also wanda or magnitude.")
    ] = "sparsegpt",
    calib: options.CalibOption = None,
    adapter: options.AdapterOption = None,
    seed: options.SeedOption = 0,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Set weights to zero where they matter least; write a checkpoint.

    The embedding and the head stay as they are. Other weights make up for those that are gone.
    """
    options.check_files("--calib", calib or [])
    from edgekit import pruning

    with output.stdout_reserved(as_json):
        pruned = pruning.prune(
            checkpoint, output_path, sparsity=sparsity, score=score, calib=calib or [], seed=seed, adapter=adapter
        )
    if as_json:
        output.print_json(output.plain(pruned))
    else:
        _print(pruned)


def _print(pruned: Pruned) -> None:
    from edgekit.pruning import ZERO_NOTE
    from edgekit.zeros import GGUF_NOTE

    output.print_facts(
        [
            ("wrote", str(pruned.path)),
            ("zeros", f"{100 * pruned.sparsity:.2f} % of {len(pruned.matrices)} matrices, {_range(pruned)}"),
            ("KL", nats(pruned.kld)),
            ("perplexity", f"{pruned.perplexity_after:.4f}, before {pruned.perplexity_before:.4f}"),
            ("matrices, zlib", _sizes(pruned.stored)),
            ("at four bits, zlib", _sizes(pruned.four_bit)),
            ("note", GGUF_NOTE),
            ("note", f"zeros stay zeros in {', '.join(pruned.zero_types)}; {ZERO_NOTE}"),
            *(("note", note) for note in pruned.notes),
            ("time", seconds_text(sum(pruned.seconds.values()))),
            ("next", f"edgekit quantize {pruned.path} --bpw 4.5 -o model.gguf"),
        ]
    )


def _range(pruned: Pruned) -> str:
    least, most = min(pruned.matrices.values()), max(pruned.matrices.values())
    return f"from {100 * least:.0f} to {100 * most:.0f} % of one"


def _sizes(sizes: CompressedBytes) -> str:
    before, after = bytes_text(sizes.zlib_before), bytes_text(sizes.zlib_after)
    return f"{after}, before {before}, uncompressed {bytes_text(sizes.plain)}"
