"""The loop of distillation and of quantisation-aware training: seeded batches, a rate over time, the best step kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.formats import Blocks

TOKENS_PER_STEP = 2048
LOGITS_PER_STEP = 1 << 27  # fewer tokens a step where the vocabulary is large
WARMUP = 0.1  # of the steps
JUDGEMENTS = 4  # times that the held-out windows are looked at


@dataclass(frozen=True)
class Weights:
    """What training made of a file's tensors, by Hugging Face name: matrices as blocks, norms and biases as values."""

    blocks: dict[str, Blocks]
    vectors: dict[str, NDArray[np.float32]]


class Student(Protocol):
    """A quantised model in training."""

    def learn(self, windows: NDArray[np.int64], rate: float) -> None:
        """One step on those windows, with the learning rate times `rate`."""

    def judge(self) -> float:
        """The loss on held-out windows, nats per token."""

    def weights(self) -> Weights:
        """The file's tensors as they are now; later steps do not change what was returned."""


@dataclass(frozen=True)
class Training:
    """The weights of the best step, and the held-out loss at the start and there; the start is one of the steps."""

    weights: Weights
    before: float
    after: float
    steps: int
    in_time: bool  # False where the time limit ended training: another run may take another number of steps


def train(
    student: Student, batches: Sequence[NDArray[np.int64]], name: str, *, seconds: float | None, falling: bool
) -> Training:
    """Take every batch, or as many as `seconds` allow.

    The rate rises for a tenth of the way; then it stays, or with `falling` goes to zero: a student that is judged by an
    average of its steps needs no fall.
    """
    from tqdm import tqdm

    began = time.perf_counter()
    before = best = student.judge()
    kept = student.weights()
    steps, judged_at, progress = 0, 0.0, 0.0
    with tqdm(total=len(batches), desc=name, unit="step", disable=None) as bar:
        while progress < 1:
            rise = (progress + 1 / len(batches)) / WARMUP
            student.learn(batches[steps], min(rise, 1 - progress if falling else 1.0))
            steps += 1
            progress = steps / len(batches)
            if seconds is not None:
                progress = max(progress, (time.perf_counter() - began) / seconds)
            if progress >= min(1.0, judged_at + 1 / JUDGEMENTS):
                judged_at = progress
                loss = student.judge()
                if loss < best:
                    best, kept = loss, student.weights()
                bar.set_postfix_str(f"held-out loss {before:.5f}, best {best:.5f}")
            bar.update(progress * len(batches) - bar.n)
    return Training(kept, before, best, steps, steps == len(batches))


def windows_per_step(length: int, vocabulary: int) -> int:
    """How many windows of `length` tokens a step takes."""
    return max(1, min(TOKENS_PER_STEP, LOGITS_PER_STEP // vocabulary) // length)


def batches(windows: int, at_once: int, steps: int, seed: int) -> list[NDArray[np.int64]]:
    """The windows that each of `steps` steps takes: all of them in a random order, then in another, and so on."""
    generator = np.random.default_rng(seed)
    taken: list[NDArray[np.int64]] = []
    while len(taken) < steps:
        order = generator.permutation(windows)
        taken += [order[start : start + at_once] for start in range(0, windows, at_once)]
    return taken[:steps]
