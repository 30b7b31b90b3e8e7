"""edgekit eval: a file against its checkpoint, on a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text, kl_text

if TYPE_CHECKING:
    from edgekit.evaluation import Evaluation

EXAMPLES = ("edgekit eval model.gguf --reference CHECKPOINT --text eval.txt --chunks 12",)


def command(
    model: options.ModelArgument,
    reference: Annotated[
        str, typer.Option(metavar="CHECKPOINT", help="What the file was made from; it is run in float32.")
    ],
    text: Annotated[Path, typer.Option(metavar="FILE", help="The text to predict, UTF-8.")],
    runtime: options.RuntimeOption = None,
    cache_type: options.CacheTypeOption = None,
    chunks: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Windows of 512 tokens to take.  [default: all]")
    ] = None,
    adapter: options.AdapterOption = None,
    threads: options.ThreadsOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure a file's KL against its checkpoint.

    Also perplexity, next-token accuracy and how often both put the same token first, on a text of yours.
    """
    if not model.is_dir():
        options.check_files("MODEL", [model])
    options.check_files("--text", [text])
    from edgekit.evaluation import evaluate
    from edgekit.runtimes import CacheTypes

    with output.stdout_reserved(as_json):
        result = evaluate(
            model,
            reference=reference,
            text=text,
            runtime=runtime,
            chunks=chunks,
            adapter=adapter,
            threads=threads,
            cache=None if cache_type is None else CacheTypes.parse(cache_type),
        )
    if as_json:
        output.print_json(output.plain(result))
    else:
        _print(result)


def _print(result: Evaluation) -> None:
    output.print_facts(
        [
            ("KL divergence, mean", f"{kl_text(result.kld_mean)} ± {kl_text(result.kld_stderr)} nats per token"),
            ("KL divergence, 99.9 %", f"{kl_text(result.kld_p999)} nats"),
            ("perplexity", f"{result.ppl:.4f}, reference {result.ppl_reference:.4f}"),
            ("next-token accuracy", f"{100 * result.top1:.2f} %, reference {100 * result.top1_reference:.2f} %"),
            ("same most likely token", f"{100 * result.same_top1:.2f} %"),
            ("scored", f"{result.tokens:,} tokens in {result.chunks} windows, {result.runtime}"),
            ("file", f"{bytes_text(result.bytes)} ({result.bytes:,} bytes, {result.tensor_bytes:,} in tensors)"),
        ]
    )
