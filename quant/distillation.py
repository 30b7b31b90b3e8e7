"""Distillation of what stays free in a quantised file: float16 block scales, norms and biases; the codes are frozen.

KL(model || quantised) over all positions of the calibration windows is lowered by Adam (Kingma and Ba, arXiv 1412.6980)
on relative changes: each field (d, dmin) of a matrix row's scales is multiplied by exp(change), a vector's element v
becomes v + rms(vector) change. A block's scale alone moves the KL by less than the gradient's noise, so these have no
change of their own; nor have the rows of embedding and head where the text is short for their number. The loss is that
of the scales as float16 stores them, its gradient goes to the unrounded ones (straight-through, Bengio et al., arXiv
1308.3432). What a step learns is mostly noise: rates are constant, and what is judged and kept is an average of all
steps that counts later ones more (polynomial-decay averaging, Shamir and Zhang, arXiv 1212.1824). Types, codes and
sub-scales stay: the file is a stock GGUF of the same size. Windows that training never sees choose among the start and
the average at some steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.divergence import first_scored
from edgekit.models.forward import parameter_name, parts, replaced
from edgekit.models.spec import MATRIX_ROLES, TensorSpec
from edgekit.quant.formats import Blocks, Format
from edgekit.quant.formats.block_scales import read_scales, with_scales
from edgekit.quant.teacher import Teacher, backward, gradients_taken, judge
from edgekit.quant.training import Training, Weights, batches, train

if TYPE_CHECKING:
    import torch

PASSES = 2  # over the windows, at most: few windows taken often are learnt by heart
VECTOR_RATE = 1e-3  # learning rates
SCALE_RATE = 3e-4
BETAS = (0.9, 0.99)
AVERAGING = 1  # the power of its number by which a step counts in the average
VOCABULARY = ("embedding", "head")  # roles of matrices with one row a token
TOKENS_PER_ROW = 16  # of text, for these to be trained: fewer tell nothing of most rows


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

    `windows` and `held_out` (W, T) are token ids; the losses are KLs in nats per token over the scored positions of
    `held_out`. Takes at most `steps` of a window each, and about `seconds`; where training is done before, the same
    seed on the same machine gives the same bits. The model is left as it was.
    """
    teacher = Teacher(model, np.concatenate([windows, held_out]))
    order = batches(len(windows), 1, min(steps, PASSES * len(windows)), seed)
    with replaced(model, _start_values(checkpoint, rounded), checkpoint.read):
        training = _trained(model, checkpoint, rounded, teacher, len(windows), order, seconds)
        del teacher  # with its copy of the head, before the model's own is read again
    return training


def _trained(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Mapping[str, tuple[Format, Blocks]],
    teacher: Teacher,
    windows: int,
    order: Sequence[NDArray[np.int64]],
    seconds: float,
) -> Training:
    """Training on the first `windows` of the teacher's windows, the others held out."""
    held_out, tokens = np.arange(windows, len(teacher.ids)), len(order) * teacher.ids.shape[1]
    with _student(model, checkpoint, rounded, teacher, held_out, tokens) as student:
        return train(student, order, "distillation", seconds=seconds, falling=False)


class _Matrix:
    """One matrix in training: relative changes (N, F) of each row's scales, `d` and `dmin` apart where both are stored.

    The model's parameter holds what the blocks decode to.
    """

    def __init__(self, format: Format, blocks: Blocks, parameter: torch.nn.Parameter) -> None:
        import torch

        self.blocks, self.parameter = blocks, parameter
        self._format, self._start = format, read_scales(format, blocks)  # (N, S, F)
        self.change = torch.zeros(len(blocks), self._start.shape[2])

    def add_gradient(self, rows: NDArray[np.int64], gradient: torch.Tensor) -> None:
        """Add that of some rows' weights (R, K), no row twice: a weight is the sum of what each field makes of it."""
        import torch

        if self.change.grad is None:
            self.change.grad = torch.zeros_like(self.change)
        blocks = self.blocks[rows]
        scales = read_scales(self._format, blocks)
        for field in range(scales.shape[2]):
            alone = np.zeros_like(scales)
            alone[:, :, field] = scales[:, :, field]
            part = torch.from_numpy(self._format.decode(with_scales(self._format, blocks, alone)))
            self.change.grad[torch.from_numpy(rows), field] += torch.einsum("rk,rk->r", gradient, part)

    def take_gradient(self, gradient: torch.Tensor) -> None:
        self.add_gradient(np.arange(len(gradient)), gradient)

    def write(self, change: torch.Tensor) -> None:
        """The change into new blocks, and these into the parameter."""
        import torch

        self.blocks = with_scales(self._format, self.blocks, self._start * change.exp().numpy()[:, None, :])
        self.parameter.data.copy_(torch.from_numpy(self._format.decode(self.blocks)))


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

    def write(self, change: torch.Tensor) -> None:
        """The change into the parameter."""
        self.parameter.data.copy_(self._start + self._unit * change)


class _Student:
    """The model with rounded weights, and what is trained of it, by Hugging Face name.

    It learns by its current changes, and is judged and written by their average.
    """

    def __init__(
        self,
        model: Any,
        teacher: Teacher,
        held_out: NDArray[np.int64],  # of the teacher's windows
        untrained: dict[str, Blocks],
        matrices: dict[str, _Matrix],
        vectors: dict[str, _Vector],
    ) -> None:
        import torch

        self.matrices, self.vectors = matrices, vectors
        self._model, self._teacher, self._held_out, self._untrained = model, teacher, held_out, untrained
        self._owners: list[_Matrix | _Vector] = [*matrices.values(), *vectors.values()]
        self._by_parameter = {matrix.parameter: matrix for matrix in matrices.values()}
        self._average = [owner.change.clone() for owner in self._owners]
        self._steps = 0
        groups = [{"params": [owner.change for owner in part.values()]} for part in (matrices, vectors)]
        self._optimiser = torch.optim.Adam(groups, betas=BETAS)

    def gradients(self, windows: NDArray[np.int64]) -> None:
        """The gradient of the mean KL over the teacher's windows of those numbers into every change's."""
        self._optimiser.zero_grad()
        part = parts(self._model)
        head, embedding = (self._by_parameter.get(module.weight) for module in (part.head, part.embedding))
        backward(
            self._model,
            self._teacher,
            windows,
            to_head=None if head is None else head.add_gradient,
            to_embedding=None if embedding is None else embedding.add_gradient,
        )

    def learn(self, windows: NDArray[np.int64], rate: float) -> None:
        for owner in self._owners:
            owner.write(owner.change)
        self.gradients(windows)
        for group, own in zip(self._optimiser.param_groups, (SCALE_RATE, VECTOR_RATE), strict=True):
            group["lr"] = own * rate
        self._optimiser.step()
        self._steps += 1
        share = (AVERAGING + 1) / (self._steps + AVERAGING)
        for average, owner in zip(self._average, self._owners, strict=True):
            average.lerp_(owner.change, share)

    def judge(self) -> float:
        self._write_average()
        first = first_scored(self._teacher.ids.shape[1])
        return judge(self._model, self._teacher, self._held_out, first=first).kl

    def weights(self) -> Weights:
        self._write_average()
        return Weights(
            blocks=self._untrained | {name: matrix.blocks for name, matrix in self.matrices.items()},
            vectors={name: vector.parameter.detach().numpy().copy() for name, vector in self.vectors.items()},
        )

    def _write_average(self) -> None:
        for average, owner in zip(self._average, self._owners, strict=True):
            owner.write(average)


@contextmanager
def _student(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Mapping[str, tuple[Format, Blocks]],
    teacher: Teacher,
    held_out: NDArray[np.int64],
    tokens: int,
) -> Iterator[_Student]:
    """The student of so many tokens of text, while autograd's gradients go to it."""
    parameters = dict(model.named_parameters())
    roles = {tensor.name: tensor.role for tensor in checkpoint.tensors}
    matrices = {
        name: _Matrix(format, blocks, parameters[parameter_name(name)])
        for name, (format, blocks) in rounded.items()
        if format.scales and (roles[name] not in VOCABULARY or len(blocks) * TOKENS_PER_ROW <= tokens)
    }
    vectors = {
        tensor.name: _Vector(checkpoint.read(tensor.name), tensor.offset, parameters[parameter_name(tensor.name)])
        for tensor in _vectors(checkpoint)
    }
    untrained = {name: blocks for name, (_, blocks) in rounded.items() if name not in matrices}
    owners: tuple[_Matrix | _Vector, ...] = (
        *(matrix for name, matrix in matrices.items() if roles[name] not in VOCABULARY),
        *vectors.values(),
    )
    takers = {owner.parameter: owner.take_gradient for owner in owners}
    with gradients_taken(takers):
        yield _Student(model, teacher, held_out, untrained, matrices, vectors)


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
