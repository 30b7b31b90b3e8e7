"""Distillation of what stays free in a quantised file: float16 block scales, norms and biases; the codes are frozen.

KL(model || quantised) over all positions of the calibration windows is lowered by Adam (Kingma and Ba, arXiv 1412.6980)
on relative changes: all scales of a layer's matrix row are multiplied by exp(change), a vector's element v becomes
v + rms(vector) change. A block's scale alone, or a token's row of the embedding, moves the KL by less than the
gradient's noise, so these have no change of their own. The loss is that of the scales as float16 stores them, its
gradient goes to the unrounded ones (straight-through, Bengio et al., arXiv 1308.3432). Types, codes and sub-scales
stay: the file is a stock GGUF of the same size. Windows that training never sees choose the best step, and the start is
one of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.forward import parameter_name, replaced
from edgekit.models.spec import MATRIX_ROLES, TensorSpec
from edgekit.quant.formats import Blocks, Format
from edgekit.quant.formats.block_scales import read_scales, with_scales
from edgekit.quant.teacher import Teacher, backward, gradients_taken, judge
from edgekit.quant.training import Training, Weights, batches, train

if TYPE_CHECKING:
    import torch

PASSES = 2  # over the windows, at most: few windows taken often are learnt by heart
VECTOR_RATE = 2e-3  # learning rates; both fall to zero
ROW_RATE = 7e-4
BETAS = (0.9, 0.99)
UNTRAINED = ("embedding", "head")  # roles of matrices


def distil(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Mapping[str, tuple[Format, Blocks]],
    windows: NDArray[np.integer],
    held_out: NDArray[np.integer],
    *,
    steps: int,
    seconds: float,
    seed: int = 0,
) -> Training:
    """Train scales of `rounded` (matrix -> format, blocks) and all vectors to follow `model`, the checkpoint's own.

    `windows` and `held_out` (W, T) are token ids; the losses are KLs in nats per token over all positions of
    `held_out`. Takes at most `steps` of a window each, and about `seconds`; where training is done before, the same
    seed on the same machine gives the same bits. The model is left as it was.
    """
    teacher = Teacher(model, np.concatenate([windows, held_out]))
    order = batches(len(windows), 1, min(steps, PASSES * len(windows)), seed)
    with (
        replaced(model, _start_values(checkpoint, rounded), checkpoint.read),
        _student(model, checkpoint, rounded, teacher, np.arange(len(windows), len(teacher.ids))) as student,
    ):
        return train(student, order, "distillation", seconds=seconds)


class _Rows:
    """One matrix in training: the logarithm of each row's scale; the parameter holds what the blocks decode to."""

    def __init__(self, format: Format, blocks: Blocks, module: Any) -> None:
        import torch

        self.blocks, self.module = blocks, module
        self.change = torch.zeros(len(blocks), requires_grad=True)
        self._format, self._start = format, read_scales(format, blocks)  # (N, S, F)

    def scale(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """The module's output, unchanged but for the gradient's way to the change: a forward hook."""
        product = output if module.bias is None else output - module.bias
        return output + product * (self.change - self.change.detach())

    def write(self) -> None:
        """The change into new blocks, and these into the parameter."""
        import torch

        scales = self._start * self.change.detach().exp().numpy()[:, None, None]
        self.blocks = with_scales(self._format, self.blocks, scales)
        self.module.weight.data.copy_(torch.from_numpy(self._format.decode(self.blocks)))


class _Vector:
    """A norm or a bias in training; `offset` is what the model adds to the stored values."""

    def __init__(self, values: NDArray[np.float32], offset: float, parameter: torch.nn.Parameter) -> None:
        import torch

        self.parameter = parameter
        self._start = torch.tensor(values)
        self._unit = (self._start + offset).square().mean().sqrt()
        self.change = torch.zeros_like(self._start)

    def take_gradient(self, gradient: torch.Tensor) -> None:
        self.change.grad = gradient * self._unit

    def write(self) -> None:
        """The change into the parameter."""
        self.parameter.data.copy_(self._start + self._unit * self.change)


@dataclass(frozen=True)
class _Student:
    """The model with rounded weights, and what is trained of it, by Hugging Face name."""

    model: Any
    teacher: Teacher
    held_out: NDArray[np.int64]  # of the teacher's windows
    untrained: dict[str, Blocks]
    matrices: dict[str, _Rows]
    vectors: dict[str, _Vector]
    optimiser: torch.optim.Optimizer

    def gradients(self, windows: NDArray[np.int64]) -> None:
        """The gradient of the mean KL over the teacher's windows of those numbers into every change's."""
        self.optimiser.zero_grad()
        backward(self.model, self.teacher, windows)

    def learn(self, windows: NDArray[np.int64], rate: float) -> None:
        self.gradients(windows)
        for group, own in zip(self.optimiser.param_groups, (ROW_RATE, VECTOR_RATE), strict=True):
            group["lr"] = own * rate
        self.optimiser.step()
        owners: tuple[_Rows | _Vector, ...] = (*self.matrices.values(), *self.vectors.values())
        for owner in owners:
            owner.write()

    def judge(self) -> float:
        return judge(self.model, self.teacher, self.held_out).kl

    def weights(self) -> Weights:
        return Weights(
            blocks=self.untrained | {name: matrix.blocks for name, matrix in self.matrices.items()},
            vectors={name: vector.parameter.detach().numpy().copy() for name, vector in self.vectors.items()},
        )


@contextmanager
def _student(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Mapping[str, tuple[Format, Blocks]],
    teacher: Teacher,
    held_out: NDArray[np.int64],
) -> Iterator[_Student]:
    """The student, while autograd's gradients go to it."""
    import torch

    parameters = dict(model.named_parameters())
    roles = {tensor.name: tensor.role for tensor in checkpoint.tensors}
    matrices = {
        name: _Rows(format, blocks, model.get_submodule(parameter_name(name).removesuffix(".weight")))
        for name, (format, blocks) in rounded.items()
        if format.scales and roles[name] not in UNTRAINED
    }
    vectors = {
        tensor.name: _Vector(checkpoint.read(tensor.name), tensor.offset, parameters[parameter_name(tensor.name)])
        for tensor in _vectors(checkpoint)
    }
    optimiser = torch.optim.Adam(
        [{"params": [owner.change for owner in owners.values()]} for owners in (matrices, vectors)], betas=BETAS
    )
    untrained = {name: blocks for name, (_, blocks) in rounded.items() if name not in matrices}
    takers = {vector.parameter: vector.take_gradient for vector in vectors.values()}
    handles = [matrix.module.register_forward_hook(matrix.scale) for matrix in matrices.values()]
    try:
        with gradients_taken(takers):
            yield _Student(model, teacher, held_out, untrained, matrices, vectors, optimiser)
    finally:
        for handle in handles:
            handle.remove()


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
