"""The evaluation protocol: how a candidate model is compared with its reference, token by token.

Text becomes consecutive windows of 512 tokens, the first token of each replaced by BOS where the model has one; the
logits at positions 256 to 510 score tokens 257 to 511, exactly as llama-perplexity does with `-c 512`. Unlike there,
log-probabilities keep float32 on both sides, and the whole vocabulary counts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError

WINDOW = 512
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Divergence:
    """A candidate against its reference over `tokens` scored tokens; KLs and errors in nats, the rest as fractions.

    kld_stderr takes the tokens as independent; kld_p999 is the 99.9 % quantile with linear interpolation, as in
    llama-perplexity. top1 is next-token accuracy, same_top1 the share of tokens where both put the same one first.
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


def first_scored(length: int) -> int:
    """The first position whose logits are scored in a window of that length; the last one is length - 2."""
    return length // 2


def evaluation_windows(
    tokens: Sequence[int] | NDArray[np.integer],
    bos: int | None,
    *,
    length: int = WINDOW,
    chunks: int | None = None,
    source: str = "the text",
) -> NDArray[np.int64]:
    """Consecutive windows (W, length) int64 of a text's tokens, the first `chunks` of them where given.

    `tokens` come without BOS; `bos` is the token that the model's tokenizer prepends, or None where it prepends none.
    As in llama-perplexity, BOS stands before the text once, so that the first window loses no token to it, and then
    replaces each window's first token. Raises InputError where the text fills no window, naming `source`.
    """
    if chunks is not None and chunks < 1:
        raise InputError(f"--chunks {chunks}: at least one window must be scored")
    stream = np.asarray(tokens, dtype=np.int64)
    if bos is not None:
        stream = np.concatenate([np.array([bos], dtype=np.int64), stream])
    count = len(stream) // length
    if count == 0:
        raise InputError(f"{source} holds {len(tokens)} tokens and one window takes {length}: give a longer text")
    count = count if chunks is None else min(count, chunks)
    windows = stream[: count * length].reshape(count, length).copy()
    if bos is not None:
        windows[:, 0] = bos
    return windows


class TokenDivergences:
    """Collects per-token comparisons; `add` takes a block of rows or a whole window, `result` freezes the figures."""

    def __init__(self) -> None:
        self.kld: list[NDArray[np.float64]] = []
        self.nll: list[NDArray[np.float64]] = []
        self.nll_reference: list[NDArray[np.float64]] = []
        self.same: list[NDArray[np.bool_]] = []
        self.right: list[NDArray[np.bool_]] = []
        self.right_reference: list[NDArray[np.bool_]] = []

    def add_window(
        self, reference: NDArray[np.float32], candidate: NDArray[np.float32], window: NDArray[np.integer]
    ) -> None:
        """Add one window's logits, (length - first, vocab) or without the last, unscored row."""
        first = first_scored(len(window))
        scored = len(window) - 1 - first
        self.add(reference[:scored], candidate[:scored], window[first + 1 :])

    def add(
        self, reference: NDArray[np.float32], candidate: NDArray[np.float32], next_tokens: NDArray[np.integer]
    ) -> None:
        """Add rows: logits (R, vocab) float32 of both models, and the tokens (R,) that followed in the text.

        Temporaries are two rows per thread. Raises InputError where the shapes differ or a model gave NaN or infinity.
        """
        if reference.shape != candidate.shape:
            raise InputError(
                f"the candidate's logits are {candidate.shape[-1]} wide and the reference's {reference.shape[-1]}: "
                "compare a model with its own checkpoint"
            )
        rows = len(next_tokens)
        assert reference.shape[0] == rows, "one row of logits per token"
        table = np.empty((rows, 3), dtype=np.float64)
        tops = np.empty((rows, 2), dtype=np.int64)

        def compare(part: range) -> None:
            buffers = np.empty((2, reference.shape[1]), dtype=np.float32)
            with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are looked for below
                for row in part:
                    table[row], tops[row] = _compare_row(reference[row], candidate[row], int(next_tokens[row]), buffers)

        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(compare, (range(start, rows, _THREADS) for start in range(_THREADS))):
                pass  # an error in a thread is raised here
        if not np.isfinite(table).all():
            side = "reference" if not np.isfinite(table[:, 2]).all() else "candidate"
            raise InputError(f"the {side} model gave NaN or infinite logits: its file is damaged or unsupported")
        self.kld.append(table[:, 0])
        self.nll.append(table[:, 1])
        self.nll_reference.append(table[:, 2])
        self.same.append(tops[:, 0] == tops[:, 1])
        self.right_reference.append(tops[:, 0] == next_tokens)
        self.right.append(tops[:, 1] == next_tokens)

    def result(self) -> Divergence:
        """The figures over all rows added so far (at least one)."""
        kld = np.concatenate(self.kld)
        deviation = float(kld.std())
        return Divergence(
            kld_mean=float(kld.mean()),
            kld_stderr=deviation / math.sqrt(len(kld) - 1) if len(kld) > 1 else math.inf,
            kld_p999=float(np.quantile(kld, 0.999)),
            ppl=float(np.exp(np.concatenate(self.nll).mean())),
            ppl_reference=float(np.exp(np.concatenate(self.nll_reference).mean())),
            same_top1=float(np.concatenate(self.same).mean()),
            top1=float(np.concatenate(self.right).mean()),
            top1_reference=float(np.concatenate(self.right_reference).mean()),
            tokens=len(kld),
        )


def _compare_row(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], token: int, buffers: NDArray[np.float32]
) -> tuple[tuple[float, float, float], tuple[int, int]]:
    """((KL, -log q(token), -log p(token)), (argmax p, argmax q)) of one row; sums are numpy's pairwise ones."""
    weights, work = buffers
    top_reference, top = int(reference.argmax()), int(candidate.argmax())
    np.subtract(candidate, candidate[top], out=work)
    np.exp(work, out=work)
    log_sum = float(candidate[top]) + math.log(work.sum())
    np.subtract(reference, reference[top_reference], out=weights)
    np.exp(weights, out=weights)
    total = float(weights.sum())
    log_sum_reference = float(reference[top_reference]) + math.log(total)
    # KL = sum p (r - c) - lse(r) + lse(c); both tops are taken off first, so that the sum stays small
    np.subtract(reference, candidate, out=work)
    shift = float(reference[top_reference]) - float(candidate[top_reference])
    work -= np.float32(shift)
    work *= weights
    kld = float(work.sum()) / total + shift - log_sum_reference + log_sum
    return (kld, log_sum - float(candidate[token]), log_sum_reference - float(reference[token])), (top_reference, top)
