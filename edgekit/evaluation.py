"""Measure a file against the checkpoint that it was made from, in a runtime, on a text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.divergence import WINDOW, TokenDivergences, evaluation_windows, first_scored
from edgekit.models.errors import InputError
from edgekit.models.gguf_header import read_header
from edgekit.models.tokenizer import TokenizerFiles, load_tokenizer
from edgekit.runtimes import CacheTypes, Session, choose_runtime, load
from edgekit.runtimes.session import choose_threads

_BYTES_PER_TOKEN = 64  # far more than any tokenizer's average, to cut long texts before they are tokenised


@dataclass(frozen=True)
class Evaluation:
    """A file against its reference over `tokens` scored tokens of a text; KLs in nats, accuracies as fractions.

    kld_stderr takes the tokens as independent. tensor_bytes is the file without its header, which holds the tokenizer.
    """

    kld_mean: float
    kld_stderr: float
    kld_p999: float
    ppl: float
    ppl_reference: float
    same_top1: float
    top1: float
    top1_reference: float
    tokens: int
    bytes: int
    tensor_bytes: int
    chunks: int
    runtime: str


def evaluate(
    model: Path,
    *,
    reference: str | Path,
    text: Path,
    runtime: str | None = None,
    chunks: int | None = None,
    adapter: Path | None = None,
    threads: int | None = None,
    cache: CacheTypes | None = None,
    context: int = WINDOW,
) -> Evaluation:
    """Compare a model's predictions with its checkpoint's (`models/divergence.py` is the protocol).

    `reference` is a checkpoint or an F32, F16 or BF16 GGUF, run in float32 by transformers; `adapter` is merged into it
    first. `text` is a UTF-8 file of which the first `chunks` windows of `context` tokens are taken (None: all).
    `runtime`: None for `choose_runtime`'s. Raises InputError where the text is missing or fills no window, or where the
    two models' vocabularies differ.
    """
    if context < 8:
        raise InputError(f"a context of {context} tokens is too short to evaluate: choose 8 or more")
    checkpoint = open_checkpoint(reference, adapter=adapter)
    if context > checkpoint.spec.context:
        raise InputError(f"a context of {context} is beyond the {checkpoint.spec.context} of {reference}: choose less")
    tokenizer = load_tokenizer(checkpoint)
    windows = text_windows(tokenizer, text, context, chunks)
    runtime = choose_runtime(runtime, model)
    session = load(model, runtime=runtime, context=context, threads=threads, cache=cache)
    try:
        _check_vocabulary(session, tokenizer, checkpoint, windows, model)
        divergences = _score(checkpoint, session, windows, threads)
    finally:
        session.close()
    result = divergences.result()
    size, tensor_bytes = _sizes(model)
    return Evaluation(
        **vars(result),
        bytes=size,
        tensor_bytes=tensor_bytes,
        chunks=len(windows),
        runtime=runtime,
    )


def _sizes(model: Path) -> tuple[int, int]:
    """A GGUF's bytes, with and without its header; an ONNX folder's graph and weights, which have no tokenizer."""
    if model.is_dir():
        size = sum(file.stat().st_size for file in model.glob("model.onnx*"))
        return size, size
    size = model.stat().st_size
    return size, size - read_header(model).data_offset


def text_windows(tokenizer: TokenizerFiles, text: Path, context: int, chunks: int | None) -> NDArray[np.int64]:
    """The windows (W, context) of a text that are scored, at most `chunks`. Raises InputError as `evaluate` does."""
    try:
        content = text.read_bytes().decode("utf-8")  # line ends as they are
    except OSError as error:
        raise InputError(f"cannot read {text}: {error.strerror}: check --text") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{text} is not UTF-8 text: convert it") from error
    if chunks is not None and chunks > 0:
        content = content[: chunks * context * _BYTES_PER_TOKEN]
    # As in llama-perplexity, "<unk>" in a text is those five characters, not the special token.
    tokenizer.tokenizer.encode_special_tokens = True
    ids = tokenizer.tokenizer.encode(content, add_special_tokens=False).ids
    bos = tokenizer.bos if tokenizer.add_bos else None
    return evaluation_windows(ids, bos, length=context, chunks=chunks, source=str(text))


def _check_vocabulary(
    session: Session, tokenizer: TokenizerFiles, checkpoint: Checkpoint, windows: NDArray[np.int64], model: Path
) -> None:
    if session.vocab != checkpoint.spec.vocab:
        raise InputError(
            f"{model} has a vocabulary of {session.vocab} and {checkpoint.path} one of {checkpoint.spec.vocab}: "
            "compare a file with the checkpoint that it was made from"
        )
    for token in np.unique(windows):
        spelt, expected = session.token_text(int(token)), tokenizer.tokens[token]
        if spelt != expected:
            raise InputError(
                f"{model} spells token {token} {spelt!r} and {checkpoint.path} {expected!r}: "
                "compare a file with the checkpoint that it was made from"
            )


def _score(
    checkpoint: Checkpoint, session: Session, windows: NDArray[np.int64], threads: int | None
) -> TokenDivergences:
    """Both models on window after window; only the scored half's logits are kept, and of one window at a time."""
    from edgekit.models.forward import load_model, reference_logits

    model = load_model(checkpoint)
    import torch

    torch.set_num_threads(choose_threads(threads))
    divergences = TokenDivergences()
    first = first_scored(windows.shape[1])
    progress = tqdm(windows, desc="evaluate", unit="window", disable=None)
    for window in progress:
        expected = reference_logits(model, window, first)
        divergences.add_window(expected, session.score([int(token) for token in window], first), window)
        progress.set_postfix_str(f"mean KLD {math.fsum(map(np.sum, divergences.kld)) / _count(divergences):.4f}")
    return divergences


def _count(divergences: TokenDivergences) -> int:
    return sum(len(part) for part in divergences.kld)
