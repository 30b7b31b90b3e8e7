"""Quantisation-aware training: a short fine-tuning of the weights under the types that the file will have.

The forward pass runs on the decoded blocks, gradients go straight through the rounding to float32 weights (Bengio et
al., arXiv 1308.3432), and these are rounded anew after every step. The loss is half KL(model || quantised), half the
-log p of the training text's next token. Adafactor (Shazeer and Stern, arXiv 1804.04235) takes no memory of the
weights' size and steps in proportion to each tensor's own; a tensor is updated as soon as its gradient is there. So
training holds the model twice in float32, as rounded and as trained, the head once more as the teacher's and once as a
gradient, and one batch's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.forward import parameter_name, parts, replaced
from edgekit.models.spec import MATRIX_ROLES
from edgekit.quant.formats import Format, format_of
from edgekit.quant.rounding import round_tensor
from edgekit.quant.teacher import Judgement, Teacher, backward, gradients_taken, judge
from edgekit.quant.training import Training, Weights, batches, train, windows_per_step

if TYPE_CHECKING:
    import torch

LABEL_SHARE = 0.5  # of the loss
LEARNING_RATE = 3e-4  # of a tensor's root mean square
CHUNK_WEIGHTS = 1 << 21  # rounded and decoded at once


@dataclass(frozen=True)
class Finetuned:
    """The trained weights, and how checkpoint, plain rounding and trained weights do on held-out windows."""

    training: Training
    original: Judgement
    rounded: Judgement
    trained: Judgement


def finetune(
    model: Any,
    checkpoint: Checkpoint,
    formats: Mapping[str, str],
    windows: NDArray[np.integer],
    held_out: NDArray[np.integer],
    *,
    steps: int,
    seed: int = 0,
) -> Finetuned:
    """Train `model`, the checkpoint's own, under `formats` (matrix -> format) on `windows` (W, T) of token ids.

    The step with the lowest loss on `held_out` is kept; plain rounding is one of the steps. The same seed on the same
    machine gives the same bits. The model is left as it was.
    """
    teacher = Teacher(model, np.concatenate([windows, held_out]))
    judged = np.arange(len(windows), len(teacher.ids))
    at_once = windows_per_step(windows.shape[1], len(parts(model).head.weight))
    order = batches(len(windows), at_once, steps, seed)
    original = judge(model, teacher, judged)
    with _student(model, checkpoint, formats, teacher, judged) as student:
        rounded = judge(model, teacher, judged)
        training = train(student, order, "quantisation-aware training", seconds=None, falling=True)
    weights = training.weights
    values = ((name, format_of(formats[name]).decode(blocks)) for name, blocks in weights.blocks.items())
    with replaced(model, [*values, *weights.vectors.items()], checkpoint.read):
        trained = judge(model, teacher, judged)
    return Finetuned(training, original, rounded, trained)


class _Matrix:
    """One matrix in training: float32 weights, their blocks, and the model's parameter, which holds the decoded blocks.

    Where a type stores floating-point numbers, that rounding is gone through too.
    """

    def __init__(self, values: NDArray[np.float32], format: Format, parameter: torch.nn.Parameter) -> None:
        import torch

        self.parameter = parameter
        self._format = format
        self._weights = torch.tensor(values)
        self._optimiser: torch.optim.Optimizer = torch.optim.Adafactor([self._weights])
        self.blocks = np.empty(0, dtype=np.uint8)
        self.write()

    def add_gradient(self, rows: NDArray[np.int64], gradient: torch.Tensor) -> None:
        """Add (R, K) to some rows of the gradient; no row twice."""
        import torch

        if self._weights.grad is None:
            self._weights.grad = torch.zeros_like(self._weights)
        self._weights.grad[torch.from_numpy(rows)] += gradient

    def step(self, rate: float) -> None:
        """A step along the gradient that was added, which is dropped."""
        self._optimiser.param_groups[0]["lr"] = LEARNING_RATE * rate
        self._optimiser.step()
        self._weights.grad = None
        self.write()

    def write(self) -> None:
        """The weights into new blocks, and these into the parameter."""
        import torch

        rows, columns = self._weights.shape
        self.blocks = np.empty((rows, self._format.bytes(1, columns)), dtype=np.uint8)
        step = max(1, CHUNK_WEIGHTS // columns)
        for start in range(0, rows, step):
            chunk = slice(start, start + step)
            self.blocks[chunk] = round_tensor(self._weights[chunk].numpy(), self._format)
            self.parameter.data[chunk] = torch.from_numpy(self._format.decode(self.blocks[chunk]))


class _Vector:
    """A norm or a bias in training: the model's parameter itself."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        import torch

        self.parameter = parameter
        self._optimiser: torch.optim.Optimizer = torch.optim.Adafactor([parameter])

    def step(self, rate: float) -> None:
        """A step along the gradient that autograd made."""
        self._optimiser.param_groups[0]["lr"] = LEARNING_RATE * rate
        self._optimiser.step()


@dataclass(frozen=True)
class _Student:
    """The model with rounded weights, and what is trained of it, by Hugging Face name."""

    model: Any
    teacher: Teacher
    held_out: NDArray[np.int64]  # of the teacher's windows
    matrices: dict[str, _Matrix]
    vectors: dict[str, _Vector]

    def learn(self, windows: NDArray[np.int64], rate: float) -> None:
        part = parts(self.model)
        by_parameter = {matrix.parameter: matrix for matrix in self.matrices.values()}
        head = by_parameter.pop(part.head.weight)
        embedding = head if part.embedding.weight is part.head.weight else by_parameter.pop(part.embedding.weight)
        with gradients_taken(self._takers(by_parameter, rate)):
            backward(
                self.model,
                self.teacher,
                windows,
                to_head=head.add_gradient,
                to_embedding=embedding.add_gradient,
                label_share=LABEL_SHARE,
            )
        for matrix in {id(head): head, id(embedding): embedding}.values():
            matrix.step(rate)

    def judge(self) -> float:
        judgement = judge(self.model, self.teacher, self.held_out)
        return (1 - LABEL_SHARE) * judgement.kl + LABEL_SHARE * judgement.nll

    def weights(self) -> Weights:
        return Weights(
            blocks={name: matrix.blocks for name, matrix in self.matrices.items()},
            vectors={name: vector.parameter.detach().numpy().copy() for name, vector in self.vectors.items()},
        )

    def _takers(
        self, inner: Mapping[torch.nn.Parameter, _Matrix], rate: float
    ) -> dict[torch.nn.Parameter, Callable[[torch.Tensor], None]]:
        """A step of each inner matrix and vector as soon as its gradient is there."""

        def matrix_step(matrix: _Matrix) -> Callable[[torch.Tensor], None]:
            def take(gradient: torch.Tensor) -> None:
                matrix.add_gradient(np.arange(len(gradient)), gradient)
                matrix.step(rate)

            return take

        takers = {parameter: matrix_step(matrix) for parameter, matrix in inner.items()}
        return takers | {vector.parameter: lambda _, v=vector: v.step(rate) for vector in self.vectors.values()}


@contextmanager
def _student(
    model: Any, checkpoint: Checkpoint, formats: Mapping[str, str], teacher: Teacher, held_out: NDArray[np.int64]
) -> Iterator[_Student]:
    """The student; afterwards the model has the checkpoint's weights again."""
    parameters = dict(model.named_parameters())
    named = {tensor.name: parameters[parameter_name(tensor.name)] for tensor in checkpoint.tensors}
    with replaced(model, ((name, checkpoint.read(name)) for name in named), checkpoint.read):
        matrices = {
            name: _Matrix(checkpoint.read(name), format_of(format), named[name]) for name, format in formats.items()
        }
        vectors = {
            tensor.name: _Vector(named[tensor.name]) for tensor in checkpoint.tensors if tensor.role not in MATRIX_ROLES
        }
        yield _Student(model, teacher, held_out, matrices, vectors)
