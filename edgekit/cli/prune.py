"""edgekit prune: heads and channels cut away, or zeros in the matrices, and what that changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.cli.quantize import nats
from edgekit.figures import bytes_text, seconds_text
from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from edgekit.pruned_heads import HeadsPruned
    from edgekit.pruning import CompressedBytes, Pruned

EXAMPLES = (
    "edgekit prune CHECKPOINT --heads 0.25 --uniform --recover 300 --calib notes.txt -o PRUNED",
    "edgekit prune CHECKPOINT --heads 0.3 --prune-kv-groups --ffn 0.1 -o PRUNED",
    "edgekit prune CHECKPOINT --sparsity 0.5 -o PRUNED",
    "edgekit prune CHECKPOINT --sparsity 0.5 --calib notes.txt -o PRUNED",
    "edgekit quantize PRUNED --bpw 4.5 -o model.gguf",
)


def command(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face folder or a Hub id.", show_default=False)
    ],
    output_path: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write; a new one.")],
    heads: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of the query heads, as 0.3, to cut away.", show_default=False),
    ] = None,
    kv_groups: options.KvGroupsOption = False,
    uniform: Annotated[bool, typer.Option("--uniform", help="The same number from every layer.")] = False,
    ffn: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of the feed-forward channels, to cut away.", show_default=False),
    ] = None,
    recover: options.RecoverOption = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Of the layers' weights, as 0.5, to set to zero; nothing is cut.", show_default=False
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of heads: gates, taylor or magnitude; of single weights: sparsegpt, wanda or magnitude.  "
            "[default: gates, sparsegpt]",
            show_default=False,
        ),
    ] = None,
    calib: options.CalibOption = None,
    adapter: options.AdapterOption = None,
    seed: options.SeedOption = 0,
    work: options.WorkOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Cut away query heads and feed-forward channels, or set weights to zero, where they matter least.

    What is left makes up for what is gone. --heads and --ffn write a smaller checkpoint, --sparsity one of the same
    size with zeros. The embedding and the head stay as they are.
    """
    options.check_files("--calib", calib or [])
    options.check_work(work)
    if sparsity is not None:
        with_heads = {
            "--heads": heads,
            "--prune-kv-groups": kv_groups or None,
            "--uniform": uniform or None,
            "--ffn": ffn,
            "--recover": recover,
            "--work": work,
        }
        if given := [name for name, value in with_heads.items() if value is not None]:
            raise InputError(f"--sparsity and {given[0]} exclude each other: prune one way, then the result the other")
        from edgekit import pruning

        with output.stdout_reserved(as_json):
            pruned = pruning.prune(
                checkpoint,
                output_path,
                sparsity=sparsity,
                score=score or "sparsegpt",
                calib=calib or [],
                seed=seed,
                adapter=adapter,
            )
        if as_json:
            output.print_json(output.plain(pruned))
        else:
            _print(pruned)
        return
    if heads is None and ffn is None:
        raise InputError("nothing is to be pruned: give --heads, --ffn or --sparsity a share, as 0.3")
    from edgekit import head_pruning
    from edgekit.pruned_heads import HeadOptions

    steps, seconds = options.read_recovery(recover)
    how = HeadOptions(heads, kv_groups, uniform, ffn, score or "gates", steps, seconds)
    with output.stdout_reserved(as_json):
        smaller = head_pruning.prune_heads(
            checkpoint, output_path, how, calib=calib or [], seed=seed, adapter=adapter, work=work
        )
    if as_json:
        output.print_json({"path": smaller.path, "bytes": smaller.bytes, **smaller.document()})
    else:
        _print_heads(smaller)


def _print_heads(pruned: HeadsPruned) -> None:
    from edgekit.pruned_heads import counts_text

    before, after = pruned.before, pruned.after
    output.print_facts(
        [
            ("wrote", f"{pruned.path}, {bytes_text(pruned.bytes)}"),
            ("removed", counts_text(pruned.structure)),
            *((stage, _quality(pruned, stage)) for stage in pruned.quality),
            ("Q8_0 file", f"{bytes_text(after.file_bytes)}, before {bytes_text(before.file_bytes)}"),
            ("cache per token", f"{after.cache_bytes_per_token} bytes, before {before.cache_bytes_per_token}"),
            ("prefill here", f"{after.prefill_tps:.1f} tokens/s, before {before.prefill_tps:.1f}"),
            ("decode here", f"{after.decode_tps:.1f} tokens/s, before {before.decode_tps:.1f}"),
            *(("note", note) for note in pruned.notes),
            ("time", seconds_text(sum(pruned.seconds.values()))),
            ("report", str(pruned.path / "pruning.html")),
            ("next", f"edgekit quantize {pruned.path} --bpw 4.5 -o model.gguf"),
        ]
    )


def _quality(pruned: HeadsPruned, stage: str) -> str:
    judgement = pruned.quality[stage]
    figures = f"top-1 {judgement.top1:.2%}, perplexity {math.exp(judgement.nll):.3f}"
    if stage == "unpruned":
        return figures
    return f"{figures}, KL {nats(judgement.kl)}; top-1 {100 * pruned.top1_change(stage):+.2f} % relative"


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
