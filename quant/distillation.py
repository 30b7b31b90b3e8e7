"""Distillation of what stays free in a quantised file: float16 block scales, norms and biases; the codes are frozen.

KL(model || quantised) over all positions of the calibration windows is lowered by Adam (Kingma and Ba, arXiv 1412.6980)
on relative changes: a scale d becomes d (1 + change), a vector's element v becomes v + rms(vector) change. The loss is
that of the scales as float16 stores them, its gradient goes to the unrounded ones (straight-through, Bengio et al.,
arXiv 1308.3432). Types, codes and sub-scales stay: the file is a stock GGUF of the same size. Windows that training
never sees choose the best step, and the start is one of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.forward import parameter_name, parts, replaced
from edgekit.models.spec import MATRIX_ROLES, TensorSpec
from edgekit.quant.formats import Blocks, Format
from edgekit.quant.formats.block_scales import read_scales, scale_gradient, with_scales
from edgekit.quant.teacher import Teacher, backward, gradients_taken, judge
from edgekit.quant.training import Training, Weights, batches, train

if TYPE_CHECKING:
    import torch

STEPS = 64  # of a window each
VECTOR_RATE = 1e-3  # learning rates; both fall to zero
SCALE_RATE = 2e-4  # after descent the scales' gradient is mostly noise: larger steps in it do harm
BETAS = (0.95, 0.99)
CHUNK_WEIGHTS = 1 << 21  # of a matrix, decoded or differentiated at once


def distil(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Mapping[str, tuple[Format, Blocks]],
    windows: NDArray[np.integer],
    held_out: NDArray[np.integer],
    *,
    seconds: float,
    seed: int = 0,
) -> Training:
    """Train the scales of `rounded` (matrix -> format, blocks) and all vectors to follow `model`, the checkpoint's own.

    `windows` and `held_out` (W, T) are token ids; the losses are KLs in nats per token over all positions of
    `held_out`. Takes about `seconds` at most; where training is done before, the same seed on the same machine gives
    the same bits. The model is left as it was.
    """
    teacher = Teacher(model, np.concatenate([windows, held_out]))
    order = batches(len(windows), 1, STEPS, seed)
    with (
        replaced(model, _start_values(checkpoint, rounded), checkpoint.read),
        _student(model, checkpoint, rounded, teacher, np.arange(len(windows), len(teacher.ids))) as student,
    ):
        return train(student, order, "distillation", seconds=seconds)


class _Scales:
    """One matrix's float16 scales in training; `parameter` holds what the blocks decode to."""

    def __init__(self, format: Format, blocks: Blocks, parameter: torch.nn.Parameter) -> None:
        self.blocks, self.parameter = blocks, parameter
        self._format = format
        self._start = read_scales(format, blocks)  # (N, S, F)
        self.change = _zeros(self._start.shape)

    def add_gradient(self, rows: NDArray[np.int64], gradient: torch.Tensor) -> None:
        """Add to the scales' gradient what (R, K) at those rows of the decoded weights makes of it; no row twice."""
        assert self.change.grad is not None
        total = self.change.grad.numpy()
        step = max(1, CHUNK_WEIGHTS // gradient.shape[1])
        for first in range(0, len(rows), step):
            chosen = rows[first : first + step]
            piece = gradient[first : first + step].numpy()
            total[chosen] += scale_gradient(self._format, self.blocks[chosen], piece) * self._start[chosen]

    def add_whole_gradient(self, gradient: torch.Tensor) -> None:
        """`add_gradient` for all rows."""
        self.add_gradient(np.arange(len(gradient)), gradient)

    def write(self) -> None:
        """The change into new blocks, and these into the parameter."""
        import torch

        self.blocks = with_scales(self._format, self.blocks, self._start * (1 + self.change.numpy()))
        step = max(1, CHUNK_WEIGHTS // self.parameter.shape[1])
        for start in range(0, len(self.blocks), step):
            values = self._format.decode(self.blocks[start : start + step])
            self.parameter.data[start : start + step] = torch.from_numpy(values)


class _Vector:
    """A norm or a bias in training; `offset` is what the model adds to the stored values."""

    def __init__(self, values: NDArray[np.float32], offset: float, parameter: torch.nn.Parameter) -> None:
        import torch

        self.parameter = parameter
        self._start = torch.tensor(values)
        self._unit = (self._start + offset).square().mean().sqrt()
        self.change = _zeros(self._start.shape)

    def add_gradient(self, gradient: torch.Tensor) -> None:
        assert self.change.grad is not None
        self.change.grad += gradient * self._unit

    def write(self) -> None:
        """The change into the parameter."""
        self.parameter.data.copy_(self._start + self._unit * self.change)


@dataclass(frozen=True)
class _Student:
    """The model with rounded weights, and what is trained of it, by Hugging Face name."""

    model: Any
    teacher: Teacher
    held_out: NDArray[np.int64]  # of the teacher's windows
    untrained: dict[str, Blocks]  # matrices stored as floating-point numbers
    matrices: dict[str, _Scales]
    vectors: dict[str, _Vector]
    optimiser: torch.optim.Optimizer

    def gradients(self, windows: NDArray[np.int64]) -> None:
        """The gradient of the mean KL over the teacher's windows of those numbers into every change's."""
        part = parts(self.model)
        self.optimiser.zero_grad(set_to_none=False)
        backward(
            self.model,
            self.teacher,
            windows,
            to_head=self._adder(part.head.weight),
            to_embedding=self._adder(part.embedding.weight),
        )

    def learn(self, windows: NDArray[np.int64], rate: float) -> None:
        self.gradients(windows)
        for group, own in zip(self.optimiser.param_groups, (SCALE_RATE, VECTOR_RATE), strict=True):
            group["lr"] = own * rate
        self.optimiser.step()
        owners: tuple[_Scales | _Vector, ...] = (*self.matrices.values(), *self.vectors.values())
        for owner in owners:
            owner.write()

    def judge(self) -> float:
        return judge(self.model, self.teacher, self.held_out).kl

    def weights(self) -> Weights:
        return Weights(
            blocks=self.untrained | {name: matrix.blocks for name, matrix in self.matrices.items()},
            vectors={name: vector.parameter.detach().numpy().copy() for name, vector in self.vectors.items()},
        )

    def _adder(self, parameter: torch.nn.Parameter) -> Callable[[NDArray[np.int64], torch.Tensor], None]:
        for matrix in self.matrices.values():
            if matrix.parameter is parameter:
                return matrix.add_gradient
        return lambda rows, gradient: None  # stored as floating-point numbers


@contextmanager
def _student(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Mapping[str, tuple[Format, Blocks]],
    teacher: Teacher,
    held_out: NDArray[np.int64],
) -> Iterator[_Student]:
    """The student, while autograd's gradients go to it: no matrix's dense one lives longer than its reduction."""
    import torch

    part, parameters = parts(model), dict(model.named_parameters())
    matrices = {
        name: _Scales(format, blocks, parameters[parameter_name(name)])
        for name, (format, blocks) in rounded.items()
        if format.scales
    }
    vectors = {
        tensor.name: _Vector(checkpoint.read(tensor.name), tensor.offset, parameters[parameter_name(tensor.name)])
        for tensor in _vectors(checkpoint)
    }
    takers = {matrix.parameter: matrix.add_whole_gradient for matrix in matrices.values()}
    for outer in (part.head.weight, part.embedding.weight):  # `backward` hands theirs out itself
        takers.pop(outer, None)
    takers |= {vector.parameter: vector.add_gradient for vector in vectors.values()}
    optimiser = torch.optim.Adam(
        [{"params": [owner.change for owner in owners.values()]} for owners in (matrices, vectors)], betas=BETAS
    )
    untrained = {name: blocks for name, (format, blocks) in rounded.items() if not format.scales}
    with gradients_taken(takers):
        yield _Student(model, teacher, held_out, untrained, matrices, vectors, optimiser)


def _start_values(
    checkpoint: Checkpoint, rounded: Mapping[str, tuple[Format, Blocks]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The rounded matrices, and the vectors as they are, so that `replaced` puts all of them back afterwards."""
    for name, (format, blocks) in rounded.items():
        yield name, format.decode(blocks)
    for tensor in _vectors(checkpoint):
        yield tensor.name, checkpoint.read(tensor.name)


def _vectors(checkpoint: Checkpoint) -> list[TensorSpec]:
    return [tensor for tensor in checkpoint.tensors if tensor.role not in MATRIX_ROLES]


def _zeros(shape: Sequence[int]) -> torch.Tensor:
    """Zeros with a gradient of zeros, which is filled by hand."""
    import torch

    change = torch.zeros(*shape)
    change.grad = torch.zeros_like(change)
    return change
