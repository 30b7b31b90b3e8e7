"""Recovery: the matrices of a pruned model's layers, trained to predict what the unpruned model predicts.

Adam (Kingma and Ba, arXiv 1412.6980) lowers KL(unpruned || pruned) with a share of the text's own -log p(next token)
(Hinton et al., arXiv 1503.02531); a matrix steps in proportion to its own root mean square. Embedding and head stay,
since every token's row would need text of its own, and so do norms and biases. Windows that training never sees choose
the best step, and the start is one of the steps.

A run that was killed goes on from the last time it was judged. Without a time limit it gives the bytes that it would
have given.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.files import atomic_write
from edgekit.models.forward import parts
from edgekit.quant.teacher import Teacher, backward, judge
from edgekit.quant.training import WARMUP, batches, windows_per_step

if TYPE_CHECKING:
    import torch

LABEL_SHARE = 0.1  # of the loss
LEARNING_RATE = 1e-3  # of a matrix's root mean square; falls to zero
BETAS = (0.9, 0.95)
JUDGEMENTS = 8  # times that the held-out windows are looked at, and that the state is kept
STATE = "recovery.pt"
METHOD = 1  # to be raised with every change of what scores, repair or recovery give


@dataclass(frozen=True)
class Recovered:
    """The held-out loss at the start and at the best of the steps, in nats per token."""

    steps: int  # that were taken
    best_step: int  # 0: the start
    before: float
    after: float


def recover(
    model: Any,
    teacher: Teacher,
    windows: NDArray[np.int64],
    held_out: NDArray[np.int64],
    *,
    steps: int,
    seconds: float | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> Recovered:
    """Train `model`, the pruned one, in place; `windows` and `held_out` are numbers of the teacher's windows.

    It ends after `steps`, or before that when `seconds` are over; the learning rate falls to zero until then. `folder`
    is where the run's state is kept: it must stand for the model, the windows, steps, seconds and seed.
    """
    from tqdm import tqdm

    length, vocabulary = teacher.ids.shape[1], len(parts(model).head.weight)
    order = batches(len(windows), windows_per_step(length, vocabulary // teacher.stride), steps, seed)
    with _student(model, teacher, held_out) as student:
        if folder is None or not student.load(folder / STATE):
            student.judge()
        began = time.perf_counter() - student.seconds
        with tqdm(total=steps, initial=student.step, desc="recovery", unit="step", disable=None) as bar:
            while (done := student.share_done(steps, seconds)) < 1:
                student.learn(windows[order[student.step]], min((done + 1 / steps) / WARMUP, 1 - done))
                student.seconds = time.perf_counter() - began
                now = student.share_done(steps, seconds)
                if int(now * JUDGEMENTS) > int(done * JUDGEMENTS):
                    student.judge()
                    if folder is not None:
                        student.save(folder / STATE)
                bar.set_postfix_str(f"held-out loss {student.losses[0]:.5f}, best {min(student.losses.values()):.5f}")
                bar.update(now * steps - bar.n)
        losses, best = student.losses, student.best_step
        student.take_best()
    return Recovered(student.step, best, losses[0], losses[best])


@dataclass
class _Student:
    """The pruned model in training, and its best step so far."""

    model: Any
    teacher: Teacher
    held_out: NDArray[np.int64]
    matrices: dict[str, torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    rates: tuple[float, ...]  # of each matrix
    step: int = 0
    seconds: float = 0.0  # that the steps took
    best_step: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)  # by step, on the windows held out

    def learn(self, windows: NDArray[np.int64], rate: float) -> None:
        """One step on those of the teacher's windows, with the learning rates times `rate`."""
        for window in windows:  # one by one in less memory; that the gradients' sum is no mean is nothing to Adam
            backward(self.model, self.teacher, np.array([window]), label_share=LABEL_SHARE, every=self.teacher.stride)
        for group, own in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = own * rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1

    def share_done(self, steps: int, seconds: float | None) -> float:
        """How much of the way lies behind, 1 at its end."""
        by_time = 0.0 if seconds is None else self.seconds / seconds
        return min(1.0, max(self.step / steps, by_time))

    def judge(self) -> None:
        """The loss on the windows held out; the weights are kept where there was none better."""
        judgement = judge(self.model, self.teacher, self.held_out, every=self.teacher.stride)
        loss = (1 - LABEL_SHARE) * judgement.kl + LABEL_SHARE * judgement.nll
        if loss < min(self.losses.values(), default=math.inf):
            self.best_step = self.step
            self.best = {name: matrix.detach().clone() for name, matrix in self.matrices.items()}
        self.losses[self.step] = loss

    def take_best(self) -> None:
        """The model's weights become those of the best step."""
        for name, matrix in self.matrices.items():
            matrix.data.copy_(self.best[name])

    def save(self, path: Path) -> None:
        """All that the next steps depend on."""
        import torch

        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best_step": self.best_step,
            "losses": self.losses,
            "best": self.best,
            "matrices": {name: matrix.detach() for name, matrix in self.matrices.items()},
            "optimiser": self.optimiser.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            torch.save(state, file)

    def load(self, path: Path) -> bool:
        """Go on from what was saved; False where nothing was. Raises InputError where the file is damaged."""
        import torch

        if not path.exists():
            return False
        try:
            state = torch.load(path, weights_only=True)
            for name, matrix in self.matrices.items():
                matrix.data.copy_(state["matrices"][name])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds, self.best_step = state["step"], state["seconds"], state["best_step"]
            self.best, self.losses = state["best"], state["losses"]
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise InputError(f"{path} is damaged: remove it, and recovery will begin anew") from error
        return True


@contextmanager
def _student(model: Any, teacher: Teacher, held_out: NDArray[np.int64]) -> Iterator[_Student]:
    """The student; afterwards its matrices take no gradients any more."""
    import torch

    layers = parts(model).layers
    matrices = {
        f"{index}.{name}": parameter
        for index, layer in enumerate(layers)
        for name, parameter in layer.named_parameters()
        if parameter.ndim == 2
    }
    rates = tuple(LEARNING_RATE * float(matrix.square().mean().sqrt()) for matrix in matrices.values())
    optimiser = torch.optim.Adam([{"params": [matrix]} for matrix in matrices.values()], betas=BETAS)
    try:
        for matrix in matrices.values():
            matrix.requires_grad_()
        yield _Student(model, teacher, held_out, matrices, optimiser, rates)
    finally:
        for matrix in matrices.values():
            matrix.requires_grad_(False)
            matrix.grad = None
