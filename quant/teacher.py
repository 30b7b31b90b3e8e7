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

from edgekit.models.forward import Parts, head_logits, hidden_states, parts, quick_matmul

if TYPE_CHECKING:
    import torch

LOGITS_PER_WINDOW = 1 << 25  # more would cost more than all layers of a small model do
LOGITS = 1 << 25  # of the student, and of the teacher, alive at once: 128 MiB each
HEAD_ROWS = 1 << 12  # of the head, of which a float32 copy, the gradient or the logits are alive at once

ToRows: TypeAlias = Callable[[NDArray[np.int64], "torch.Tensor"], None]  # some rows' numbers (R,), gradient (R, D)


@dataclass(frozen=True)
class Judgement:
    """A student on some windows: KL(teacher || student) and -log p(next token) in nats, next-token accuracy."""

    kl: float
    nll: float
    top1: float


def stride(length: int, vocabulary: int) -> int:
    """Every how many positions windows of `length` tokens are to be scored where the vocabulary is large."""
    return max(1, length * vocabulary // LOGITS_PER_WINDOW)


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

    @property
    def stride(self) -> int:
        """The `every` that keeps a window's logits few."""
        return stride(self.ids.shape[1], len(self._head))

    def states(self, windows: NDArray[np.int64]) -> torch.Tensor:
        """The final hidden states (len(windows) * T, D) on some of the windows."""
        return self._states[windows].flatten(0, 1)

    def logits(self, states: torch.Tensor, rows: slice) -> torch.Tensor:
        """(R, rows) of its states (R, D), for some rows of the head."""
        return head_logits(states, self._head[rows].float(), self._softcap)

    def all_logits(self, states: torch.Tensor, out: torch.Tensor) -> None:
        """(R, V) of its states (R, D) into `out`."""
        for first in range(0, len(self._head), HEAD_ROWS):
            rows = slice(first, first + HEAD_ROWS)
            out[:, rows] = self.logits(states, rows)

    def labels(self, windows: NDArray[np.int64]) -> torch.Tensor:
        """The next token (len(windows) * T,) after each position; -1 after a window's last."""
        import torch

        return torch.nn.functional.pad(self.ids[windows, 1:], (0, 1), value=-1).flatten()


@quick_matmul()
def judge(model: Any, teacher: Teacher, windows: NDArray[np.int64], *, first: int = 0, every: int = 1) -> Judgement:
    """The model against the teacher, over every `every`th of positions `first`.. of those of the teacher's windows."""
    kl = nll = right = 0.0
    tokens = predicted = 0
    scored = slice(first + every - 1, None, every)
    for window in windows:
        chosen = np.array([window])
        hidden = hidden_states(model, teacher.ids[chosen])[0, scored]
        labels = teacher.labels(chosen)[scored]
        sums = _compared(parts(model), hidden, teacher, teacher.states(chosen)[scored], labels)
        kl += sums.kl
        nll += sums.nll
        right += sums.top1
        tokens += len(labels)
        predicted += int((labels >= 0).sum())
    return Judgement(kl / tokens, nll / predicted, right / predicted)


def _compared(
    part: Parts, hidden: torch.Tensor, teacher: Teacher, states: torch.Tensor, labels: torch.Tensor
) -> Judgement:
    """Sums over final hidden states (R, D) of the student and of the teacher, some rows of their heads at a time.

    With logits a of the teacher and b of the student, KL = sum_v p_v (a_v - b_v) - log sum_v e^a_v + log sum_v e^b_v.
    """
    import torch

    weight = part.head.weight.detach()
    known = labels >= 0
    following = torch.zeros(len(hidden))  # the logit of the next token
    p_sums, q_sums, gaps, tops, guesses = [], [], [], [], []  # (R,) each: of one piece of the vocabulary
    for first in range(0, len(weight), HEAD_ROWS):
        rows = slice(first, first + HEAD_ROWS)
        a, b = teacher.logits(states, rows), head_logits(hidden, weight[rows], part.softcap)
        top, at = b.max(dim=1)
        here = ((labels >= first) & (labels < first + len(weight[rows]))).nonzero()[:, 0]
        following[here] = b[here, labels[here] - first]
        tops.append(top)
        guesses.append(at + first)
        q_sums.append(b.logsumexp(dim=1))
        p_sums.append(a.logsumexp(dim=1))
        b.sub_(a).neg_()
        gaps.append(a.sub_(p_sums[-1][:, None]).exp_().mul_(b).sum(dim=1))
    pieces = torch.stack(p_sums).double()
    q_sum, p_sum = torch.stack(q_sums).double().logsumexp(dim=0), pieces.logsumexp(dim=0)
    kl = ((pieces - p_sum).exp() * torch.stack(gaps)).sum(dim=0) - p_sum + q_sum
    guess = torch.stack(guesses).gather(0, torch.stack(tops).argmax(dim=0)[None])[0]
    return Judgement(
        kl=float(kl.sum()),
        nll=float((q_sum - following)[known].sum()),
        top1=float((guess == labels)[known].sum()),
    )


@quick_matmul()
def backward(
    model: Any,
    teacher: Teacher,
    windows: NDArray[np.int64],
    *,
    to_head: ToRows | None = None,
    to_embedding: ToRows | None = None,
    label_share: float = 0.0,
    every: int = 1,
) -> None:
    """The gradient of (1 - label_share) KL(teacher || model) + label_share * nll, mean over positions of the windows.

    Of the positions every `every`th is scored; those in between are its context.
    Parameters that require gradients get theirs from autograd. The head and the embedding should not: `to_head` and
    `to_embedding`, where given, take their rows' gradients piece by piece, as (row numbers (R,), gradient (R, D)), the
    head's several times over, the embedding's only of rows that were looked up, after all others.
    """
    import torch

    part, ids = parts(model), teacher.ids[windows]
    looked_up = part.embedding(ids).detach().requires_grad_(to_embedding is not None)
    with torch.enable_grad():
        hidden = model.get_decoder()(inputs_embeds=looked_up, use_cache=False).last_hidden_state
    scored = torch.arange(ids.numel()).view_as(ids)[:, every - 1 :: every].flatten()
    target = _Target(teacher, teacher.states(windows)[scored], teacher.labels(windows)[scored], label_share)
    flat = hidden.detach().flatten(0, 1)
    gradient = torch.zeros_like(flat)
    gradient[scored] = _head_gradient(part, flat[scored], target, to_head)
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

    def probabilities(self, rows: slice, out: torch.Tensor) -> torch.Tensor:
        """(rows, V), in the memory of `out`."""
        self.teacher.all_logits(self.states[rows], out)
        p = _softmax_(out)
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
    step = min(len(hidden), max(1, LOGITS // len(weight)))
    buffers = torch.empty(2, step, len(weight))  # reused: fresh memory costs as much as its matmul
    for start in range(0, len(hidden), step):
        x = hidden[start : start + step]
        logits, targets = buffers[:, : len(x)]
        head_logits(x, weight, part.softcap, out=logits)
        slope = None if part.softcap is None else 1 - (logits / part.softcap).square_()
        _softmax_(logits).sub_(target.probabilities(slice(start, start + len(x)), targets)).div_(len(hidden))
        if slope is not None:
            logits.mul_(slope)
        torch.mm(logits, weight, out=gradient[start : start + step])
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
