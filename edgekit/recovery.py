"""Training of a planned file's tensors, as stages of the main line, and what it was worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgekit.calibrating import HELD_OUT_WINDOWS, Calibration
from edgekit.clock import Clock
from edgekit.export.gguf import file_bytes
from edgekit.figures import kl_text
from edgekit.models.calibration import split
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.divergence import WINDOW
from edgekit.models.errors import InputError
from edgekit.planning import Planned, rounded_by_statistics
from edgekit.quant.distillation import distil
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Plan
from edgekit.quant.qat import finetune
from edgekit.quant.training import Weights

DISTILLATION_SECONDS = 600.0  # at most; the number of steps is fixed if they take less
DISTILLATION_STEPS = (32, 768)  # windows at least and at most, by the model's size
DISTILLATION_HELD_OUT = 8  # windows
DISTILLATION_WORK = 5e12  # weights times tokens: about what the rest of the run takes
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


def distilled(calibration: Calibration, planned: Planned, clock: Clock) -> Recovery:
    """Norms, biases and block scales trained on windows of their own: more of them where there is text to take.

    Raises InputError where the plan quantises nothing.
    """
    _require_quantised(planned.plan, "--distil")
    with clock.stage("distillation"):
        steps = _distillation_steps(calibration.source.checkpoint)
        if calibration.texts:
            calibration = replace(calibration, tokens=(steps + DISTILLATION_HELD_OUT) * WINDOW)
        model, windows = calibration.source.model, calibration.windows()
        seen, held_out = split(windows, DISTILLATION_HELD_OUT if calibration.texts else HELD_OUT_WINDOWS)
        checkpoint, formats, seed = calibration.source.checkpoint, planned.plan.formats, calibration.seed
        rounded = {name: (format_of(formats[name]), blocks) for name, blocks in planned.rounded.stream(formats)}
        training = distil(
            model, checkpoint, rounded, seen, held_out, steps=steps, seconds=DISTILLATION_SECONDS, seed=seed
        )
    note = f"distillation: KL {kl_text(training.before)} to {kl_text(training.after)} nats in {training.steps} steps"
    if training.after == training.before:
        note += ", none of which was better than the start: the weights are as without --distil"
    if not training.in_time:
        note += f", ended by its limit of {DISTILLATION_SECONDS / 60:.0f} minutes: another run may give other bytes"
    figures = {"kld_before": training.before, "kld_after": training.after, "steps": training.steps}
    return Recovery(training.weights, training.after, note, figures)


def finetuned(calibration: Calibration, planned: Planned, steps: int, clock: Clock) -> Recovery:
    """All weights trained under the plan's types on the calibration texts; windows held out choose the step.

    Raises InputError where the plan quantises nothing.
    """
    source, plan = calibration.source, planned.plan
    _require_quantised(plan, "--qat")
    with clock.stage("calibration"):
        text = replace(calibration, tokens=FINETUNING_TOKENS).windows()
    with clock.stage("quantisation-aware training"):
        windows, held_out = split(text, FINETUNING_HELD_OUT)
        made = finetune(
            source.model, source.checkpoint, plan.formats, windows, held_out, steps=steps, seed=calibration.seed
        )
    halves = file_bytes(source.checkpoint, source.tokenizer, dict.fromkeys(plan.formats, "f16"))
    original, rounded, trained = made.original, made.rounded, made.trained
    note = (
        f"quantisation-aware training: next-token accuracy {_percent(trained.top1)} on held-out text, checkpoint "
        f"{_percent(original.top1)}, without training {_percent(rounded.top1)}; KL to the checkpoint "
        f"from {kl_text(rounded.kl)} to {kl_text(trained.kl)} nats, as the weights learn the text; "
        f"{_percent(1 - plan.bytes / halves)} less than 16 bits, in the file and in memory"
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
        "share_of_16_bits": plan.bytes / halves,
    }
    return Recovery(made.training.weights, trained.kl, note, figures)


def _distillation_steps(checkpoint: Checkpoint) -> int:
    """As many windows as cost `DISTILLATION_WORK`."""
    weights = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors)
    fewest, most = DISTILLATION_STEPS
    return min(most, max(fewest, int(DISTILLATION_WORK / (weights * WINDOW))))


def _require_quantised(plan: Plan, option: str) -> None:
    if not rounded_by_statistics(plan):
        types = ", ".join(sorted(set(plan.formats.values())))
        raise InputError(
            f"{option} makes up for quantisation, and {types} is none: choose types as q8_0, or drop {option}"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
