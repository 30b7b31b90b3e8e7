"""edgekit run: generate text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import seconds_text

if TYPE_CHECKING:
    from edgekit.runtimes.generate import Piece

EXAMPLES = (
    'edgekit run model.gguf -p "Once upon a time" -n 64',
    'edgekit run model.gguf -p "Why is the sky blue?" --system "Answer briefly." --temperature 0',
)


def command(
    model: options.ModelArgument,
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="What to continue or answer.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", metavar="N", min=1, help="Tokens at most.")] = 256,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message, for chat models.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without the chat template.")
    ] = False,
    temperature: Annotated[float, typer.Option(metavar="T", help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(metavar="K", help="Keep the K likeliest tokens; 0 for all.")] = 40,
    top_p: Annotated[float, typer.Option(metavar="P", help="Keep the likeliest tokens up to this probability.")] = 0.95,
    min_p: Annotated[float, typer.Option(metavar="P", help="Drop tokens below this share of the likeliest.")] = 0.05,
    repeat_penalty: Annotated[float, typer.Option(metavar="R", help="Above 1 discourages repetition.")] = 1.0,
    seed: options.SeedOption = 0,
    context: Annotated[int | None, typer.Option(metavar="N", min=1, help="Positions to allocate.")] = None,
    threads: options.ThreadsOption = None,
    runtime: options.RuntimeOption = None,
    cache_type: options.CacheTypeOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Generate text, streamed to stdout.

    A chat template is applied where the file has one, unless --raw. The same seed draws the same tokens from the same
    logits, whatever the runtime.
    """
    from edgekit import runtimes
    from edgekit.runtimes.chat import prompt_tokens
    from edgekit.runtimes.generate import generate
    from edgekit.runtimes.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, repeat_penalty, seed)
    cache = None if cache_type is None else runtimes.CacheTypes.parse(cache_type)
    with output.stdout_reserved(as_json):
        session = runtimes.load(model, runtime=runtime, context=context, threads=threads, cache=cache)
        try:
            tokens = prompt_tokens(session, prompt, system=system, raw=raw)
            start = time.perf_counter()
            pieces = list(
                _stream(generate(session, tokens, max_tokens=max_tokens, sampling=sampling), show=not as_json)
            )
        finally:
            session.close()
    count, stop = sum(piece.token is not None for piece in pieces), pieces[-1].stop
    if as_json:
        text = "".join(piece.text for piece in pieces)
        output.print_json({"text": text, "prompt_tokens": len(tokens), "tokens": count, "stop": stop})
        return
    print()
    why = {"end": "the model ended", "length": "-n reached", "context": "the context is full"}[stop or "length"]
    print(f"{count} tokens in {seconds_text(time.perf_counter() - start)}: {why}", file=sys.stderr)


def _stream(pieces: Iterable[Piece], *, show: bool) -> Iterable[Piece]:
    """Each piece, written to stdout at once where `show` says so."""
    for piece in pieces:
        if show and piece.text:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
        yield piece
