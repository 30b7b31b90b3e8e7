"""Training of a planned file's tensors, as stages of the main line, and what it was worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.figures import kl_text
from edgekit.models.calibration import split
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.divergence import first_scored
from edgekit.models.forward import HeldOut, replaced
from edgekit.quant.distillation import distil
from edgekit.quant.formats import Blocks, format_of
from edgekit.quant.qat import finetune
from edgekit.quant.training import Weights

DISTILLATION_SECONDS = 600.0  # at most; the number of steps is fixed if they take less
DISTILLATION_TOKENS = 1 << 15  # of calibration text, beside what measures; rather these than few taken often
FINETUNING_TOKENS = 1 << 17  # of training text at most; what is longer is sampled from evenly
FINETUNING_HELD_OUT = 16  # windows


@dataclass(frozen=True)
class Recovery:
    """The file's tensors after training, their KL in nats per token on windows not trained on, a sentence for the user.

    `figures` are numbers of what the sentence says.
    """

    weights: Weights
    kld_measured: float
    note: str
    figures: Mapping[str, float]


def distilled(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Iterator[tuple[str, Blocks]],
    formats: Mapping[str, str],
    windows: NDArray[np.int64],
    measured: NDArray[np.int64],
    *,
    seed: int,
) -> Recovery:
    """Scales, norms and biases trained on `windows` (W, T) of token ids; the best step by the `measured` ones."""
    blocks = {name: (format_of(formats[name]), blocks) for name, blocks in rounded}
    training = distil(model, checkpoint, blocks, windows, measured, seconds=DISTILLATION_SECONDS, seed=seed)
    held_out = HeldOut(model, measured, first=first_scored(measured.shape[1]))
    with replaced(model, _values(training.weights, formats), checkpoint.read):
        kl = held_out.kld()
    note = f"distillation: KL {kl_text(training.before)} to {kl_text(training.after)} nats in {training.steps} steps"
    if not training.in_time:
        note += f", ended by its limit of {DISTILLATION_SECONDS / 60:.0f} minutes: another run may give other bytes"
    figures = {"kld_before": training.before, "kld_after": training.after, "steps": training.steps}
    return Recovery(training.weights, kl, note, figures)


def finetuned(
    model: Any,
    checkpoint: Checkpoint,
    formats: Mapping[str, str],
    text: NDArray[np.int64],
    *,
    steps: int,
    share_of_16_bits: float,
    seed: int,
) -> Recovery:
    """All weights trained under `formats` on most windows of `text` (W, T); the rest choose the step and are measured.

    `share_of_16_bits`: the file's bytes over those of one with 16-bit matrices, for the note.
    """
    windows, held_out = split(text, FINETUNING_HELD_OUT)
    made = finetune(model, checkpoint, formats, windows, held_out, steps=steps, seed=seed)
    original, rounded, trained = made.original, made.rounded, made.trained
    note = (
        f"quantisation-aware training: next-token accuracy {trained.top1:.2%} (checkpoint {original.top1:.2%}, rounded "
        f"without training {rounded.top1:.2%}), KL {kl_text(rounded.kl)} to {kl_text(trained.kl)} nats, "
        f"{1 - share_of_16_bits:.1%} less memory than 16 bits"
    )
    figures = {
        "top1_checkpoint": original.top1,
        "top1_rounded": rounded.top1,
        "top1": trained.top1,
        "nll_checkpoint": original.nll,
        "nll_rounded": rounded.nll,
        "nll": trained.nll,
        "kld_before": rounded.kl,
        "kld_after": trained.kl,
        "steps": made.training.steps,
        "share_of_16_bits": share_of_16_bits,
    }
    return Recovery(made.training.weights, trained.kl, note, figures)


def _values(weights: Weights, formats: Mapping[str, str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, blocks in weights.blocks.items():
        yield name, format_of(formats[name]).decode(blocks)
    yield from weights.vectors.items()
