"""The unchanged model as a teacher: the loss of a student against it, and its gradient, in blocks of rows.

With a vocabulary of 262144 the logits of one window of 512 tokens take 512 MiB: the teacher's are computed anew in
blocks of rows wherever they are needed, from its final hidden states and its own copy of the head, in bfloat16 where
that loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekit.models.forward import ROW_BLOCK, Parts, head_logits, hidden_states, parts, quick_matmul

if TYPE_CHECKING:
    import torch

STUDENT_LOGITS = 1 << 25  # alive at once: 128 MiB
HEAD_ROWS = 1 << 14  # of the head, of which a float32 copy or the gradient is alive at once

ToRows: TypeAlias = Callable[[NDArray[np.int64], "torch.Tensor"], None]  # some rows' numbers (R,), gradient (R, D)


@dataclass(frozen=True)
class Judgement:
    """A student on some windows: KL(teacher || student) and -log p(next token) in nats, next-token accuracy."""

    kl: float
    nll: float
    top1: float


class Teacher:
    """A model as it is now, on windows (W, T) of token ids; changing its weights later does not change the teacher.

    Keeps the final hidden states (W, T, D) and a copy of the head.
    """

    def __init__(self, model: Any, windows: NDArray[np.integer]) -> None:
        import torch

        part = parts(model)
        self.ids = torch.as_tensor(np.asarray(windows, dtype=np.int64))
        self._states = torch.cat([hidden_states(model, window[None]) for window in self.ids])
        self._head = _copied(part.head.weight.detach())
        self._softcap = part.softcap

    @property
    def head_bytes(self) -> int:
        """Memory that its copy of the head takes."""
        return self._head.nbytes

    def states(self, windows: NDArray[np.int64]) -> torch.Tensor:
        """The final hidden states (len(windows) * T, D) on some of the windows."""
        return self._states[windows].flatten(0, 1)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(R, V) of its states (R, D)."""
        import torch

        logits = torch.empty(len(states), len(self._head))
        for first in range(0, len(self._head), HEAD_ROWS):
            rows = slice(first, first + HEAD_ROWS)
            logits[:, rows] = head_logits(states, self._head[rows].float(), self._softcap)
        return logits

    def labels(self, windows: NDArray[np.int64]) -> torch.Tensor:
        """The next token (len(windows) * T,) after each position; -1 after a window's last."""
        import torch

        return torch.nn.functional.pad(self.ids[windows, 1:], (0, 1), value=-1).flatten()


@quick_matmul()
def judge(model: Any, teacher: Teacher, windows: NDArray[np.int64]) -> Judgement:
    """The model against the teacher, over all positions of those of the teacher's windows."""
    part = parts(model)
    weight = part.head.weight.detach()
    kl = nll = right = 0.0
    for window in windows:
        chosen = np.array([window])
        hidden, states, labels = (
            hidden_states(model, teacher.ids[chosen])[0],
            teacher.states(chosen),
            teacher.labels(chosen),
        )
        for start in range(0, len(hidden), ROW_BLOCK):
            rows = slice(start, start + ROW_BLOCK)
            log_q = head_logits(hidden[rows], weight, part.softcap).log_softmax(dim=1)
            log_p = teacher.logits(states[rows]).log_softmax(dim=1)
            kl += float((log_p.exp() * (log_p - log_q)).sum(dim=1).double().sum())
            known = labels[rows] >= 0
            next_tokens = labels[rows][known]
            nll -= float(log_q[known].gather(1, next_tokens[:, None]).double().sum())
            right += float((log_q[known].argmax(dim=1) == next_tokens).sum())
    tokens = len(windows) * teacher.ids.shape[1]
    predicted = tokens - len(windows)
    return Judgement(kl / tokens, nll / predicted, right / predicted)


@quick_matmul()
def backward(
    model: Any,
    teacher: Teacher,
    windows: NDArray[np.int64],
    *,
    to_head: ToRows | None = None,
    to_embedding: ToRows | None = None,
    label_share: float = 0.0,
) -> None:
    """The gradient of (1 - label_share) KL(teacher || model) + label_share * nll, mean over positions of the windows.

    Parameters that require gradients get theirs from autograd. The head and the embedding should not: `to_head` and
    `to_embedding`, where given, take their rows' gradients piece by piece, as (row numbers (R,), gradient (R, D)), the
    head's several times over, the embedding's only of rows that were looked up, after all others.
    """
    import torch

    part, ids = parts(model), teacher.ids[windows]
    looked_up = part.embedding(ids).detach().requires_grad_(to_embedding is not None)
    with torch.enable_grad():
        hidden = model.get_decoder()(inputs_embeds=looked_up, use_cache=False).last_hidden_state
    target = _Target(teacher, teacher.states(windows), teacher.labels(windows), label_share)
    gradient = _head_gradient(part, hidden.detach().flatten(0, 1), target, to_head)
    hidden.backward(gradient.view_as(hidden))
    if to_embedding is None:
        return
    assert looked_up.grad is not None
    tokens, places = torch.unique(ids, return_inverse=True)
    rows = torch.zeros(len(tokens), looked_up.shape[2])
    rows.index_add_(0, places.flatten(), looked_up.grad.flatten(0, 1) * part.embedding_scale)
    to_embedding(tokens.numpy(), rows)


@contextmanager
def gradients_taken(takers: Mapping[torch.nn.Parameter, Callable[[torch.Tensor], None]]) -> Iterator[None]:
    """Within the block, each parameter's gradient goes to its taker as soon as autograd has made it, and is dropped."""

    def hook(parameter: torch.nn.Parameter) -> None:
        assert parameter.grad is not None
        takers[parameter](parameter.grad)
        parameter.grad = None

    handles: list[Any] = []
    try:
        for parameter in takers:
            parameter.requires_grad_()
            handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in takers:
            parameter.requires_grad_(False)


def _copied(head: torch.Tensor) -> torch.Tensor:
    """A copy (V, D), as bfloat16 where that holds the same values: it does where the checkpoint stores it so."""
    import torch

    short = head.bfloat16()
    pieces = range(0, len(head), HEAD_ROWS)
    same = all(torch.equal(short[i : i + HEAD_ROWS].float(), head[i : i + HEAD_ROWS]) for i in pieces)
    return short if same else head.clone()


@dataclass(frozen=True)
class _Target:
    """What the student's probabilities should be: a mixture of the teacher's and the token that did follow."""

    teacher: Teacher
    states: torch.Tensor  # (R, D)
    labels: torch.Tensor  # (R,)
    label_share: float

    def probabilities(self, rows: slice) -> torch.Tensor:
        """(rows, V)."""
        p = _softmax_(self.teacher.logits(self.states[rows]))
        if self.label_share:
            labels = self.labels[rows, None]
            share = (labels >= 0) * self.label_share
            p.mul_(1 - share).scatter_add_(1, labels.clamp(min=0), share)
        return p


def _head_gradient(part: Parts, hidden: torch.Tensor, target: _Target, to_head: ToRows | None) -> torch.Tensor:
    """The gradient (R, D) at the final hidden states (R, D) of the mean cross-entropy with the target."""
    import torch

    weight = part.head.weight.detach()
    gradient = torch.empty_like(hidden)
    step = max(1, STUDENT_LOGITS // len(weight))
    for start in range(0, len(hidden), step):
        x = hidden[start : start + step]
        logits = head_logits(x, weight, part.softcap)
        for first in range(0, len(x), ROW_BLOCK):
            block = logits[first : first + ROW_BLOCK]
            slope = None if part.softcap is None else 1 - (block / part.softcap).square_()
            rows = slice(start + first, start + first + len(block))
            _softmax_(block).sub_(target.probabilities(rows)).div_(len(hidden))
            if slope is not None:
                block.mul_(slope)
        gradient[start : start + step] = logits @ weight
        if to_head is None:
            continue
        for first in range(0, len(weight), HEAD_ROWS):
            numbers = np.arange(first, min(first + HEAD_ROWS, len(weight)))
            to_head(numbers, logits[:, first : first + HEAD_ROWS].T @ x)
    return gradient


def _softmax_(logits: torch.Tensor) -> torch.Tensor:
    """The probabilities in the logits' own memory: these are the largest tensors there are, while autograd's wait."""
    logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    return logits.div_(logits.sum(dim=1, keepdim=True))
