"""Collects what calibration learns of each matrix: a Kronecker-factored Fisher of the model's own predictions.

The KL of the softmax that a small change of the weights causes is, to second order, half the change's square under the
Fisher information F = E[grad grad^T], where grad is the gradient of log p(labels) and the labels are drawn from the
model itself. Take one matrix W (N, K) and a window of T tokens, whose log-likelihood is the sum over its positions; at
token t the layer computes W x_t, and g_t is the gradient of that sum there. Then grad_W = sum_t g_t x_t^T and

    KL per token = 1/2 1/T E[(sum_t g_t^T dW x_t)^2]
                 ~ s/2 1/T sum_t E[(g_t^T dW x_t)^2]                      tokens taken as independent, but for s
                 ~ 1/2 sum_n rows[n] dw_n^T columns dw_n                  Kronecker product, H_O's diagonal kept
    rows    = s/T sum_t g_t^2                                             (N,)
    columns = sum_t |g_t|^2 x_t x_t^T / sum_t |g_t|^2                     (K, K)
    s       = sum_windows |grad_W|^2 / sum_t |g_t|^2 |x_t|^2

Every fourth window's columns are kept apart: rounding is fitted on the others' and judged on these. What was judged
best is then fitted on all of them.

H_O is kept whole, as the correlation of its rows, where it is no larger than H_I and its use shows on the windows held
out: there, rows whose errors are felt together can make up for one another (`coupling`).

There is no further constant: rows carry the scale. s makes up for the cross terms of different tokens: with it the
expected KL of white noise in W is the Fisher's own trace. It is near 1 in feed-forward layers; values, whose errors add
up over the tokens attended to, have s of 2 and more; keys, whose common error the softmax does not see, less than 1.

The head needs no labels, and its gradients at different positions are independent: at one position
E[g_n^2] = p_n (1 - p_n) and E|g|^2 = 1 - sum p^2. A looked-up row n of the embedding enters as dw_n at the positions
that hold token n, so that its term has rows[n] = the token's frequency and columns = E[g g^T] at the table's output;
tokens that calibration does not hold get a share from the model's own mean softmax.

Sources: Martens and Grosse, arXiv 1503.05671 (K-FAC); Tseng et al., arXiv 2505.22988 (the same KL for rounding).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.forward import ROW_BLOCK, Parts, head_logits, parameter_name, parts, quick_matmul
from edgekit.quant.coupling import noise_left, outer_hessian
from edgekit.quant.statistics import HELD_OUT_EVERY, KroneckerTerm, MatrixStatistics, RowCorrelation

if TYPE_CHECKING:
    import torch

BATCH = 4  # windows run at once
RECORDED = "bfloat16"  # how a layer's inputs wait for its turn: half the memory, and noise that no moment shows
# Of a looked-up row's frequency; the rest is the model's mean softmax, which foretells other text's tokens better.
FREQUENCY_FROM_TEXT = 0.25
WORTH_COUPLING = 0.95  # of white noise's KL held out: rows are taken as independent where feedback leaves more


def collect(
    model: Any, checkpoint: Checkpoint, windows: NDArray[np.integer], *, seed: int = 0
) -> Iterator[MatrixStatistics]:
    """The statistics of every matrix, one at a time: an untied head, the layers from last to first, the embedding.

    `model` is `models.forward.load_model`'s, `windows` (W, T) token ids. The forward pass keeps each layer's input
    (W x T x hidden bfloat16 per layer); then each layer is run again with gradients, so that only one layer's moments
    and activations are in memory. The same seed on the same machine gives the same bits.
    """
    import torch
    from tqdm import tqdm

    part = parts(model)
    held = torch.from_numpy(held_out(len(windows)))
    names = {parameter_name(spec.name): spec.name for spec in checkpoint.tensors}
    modules = {id(module): f"{path}.weight" for path, module in model.named_modules()}
    ids = torch.as_tensor(np.asarray(windows, dtype=np.int64))
    batches = [slice(start, start + BATCH) for start in range(0, len(ids), BATCH)]
    with tqdm(total=len(part.layers) + 2, desc="statistics", unit="layer", disable=None) as progress:
        recording = _record(model, part, ids, batches)
        progress.update()
        head = _head(part, recording.hidden, held, torch.Generator().manual_seed(seed))
        progress.update()
        tied = part.head.weight is part.embedding.weight
        if not tied:
            yield head.factors.statistics(names[modules[id(part.head)]])
        gradient = _through_norm(part.norm, recording.hidden, head.gradient, batches)
        for index in range(len(part.layers) - 1, -1, -1):
            for linear, factors in _layer(part.layers[index], recording, index, gradient, batches, held):
                yield factors.statistics(names[modules[id(linear)]])
            progress.update()
        lookup = _lookup(part, ids, gradient, head.mean_softmax, held)
        name = names[modules[id(part.embedding)]]
        yield head.factors.statistics(name, lookup) if tied else lookup.statistics(name)


def held_out(windows: int) -> NDArray[np.bool_]:
    """(windows,) which of them are held out: the last of every four, of fewer the last; a single one is not."""
    held = np.arange(windows) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    held[windows - 1] |= 1 < windows < HELD_OUT_EVERY
    return np.asarray(held)


@dataclass
class _Recording:
    """What the forward pass leaves: each layer's inputs, its other arguments by batch, and the final norm's input."""

    inputs: list[torch.Tensor]  # per layer (W, T, D); emptied as the backward walk uses them up
    arguments: list[list[dict[str, Any]]]  # [layer][batch]
    hidden: torch.Tensor  # (W, T, D)


@quick_matmul()
def _record(model: Any, part: Parts, ids: torch.Tensor, batches: list[slice]) -> _Recording:
    import torch

    width = part.embedding.weight.shape[1]
    inputs = [torch.empty(*ids.shape, width, dtype=getattr(torch, RECORDED)) for _ in part.layers]
    hidden = torch.empty(*ids.shape, width)
    arguments: list[list[dict[str, Any]]] = [[] for _ in part.layers]
    current = batches[0]

    def keep(index: int) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[index][current] = args[0]
            arguments[index].append(kwargs)

        return hook

    def keep_last(_module: Any, args: tuple[Any, ...]) -> None:
        hidden[current] = args[0]

    handles = [layer.register_forward_pre_hook(keep(i), with_kwargs=True) for i, layer in enumerate(part.layers)]
    handles.append(part.norm.register_forward_pre_hook(keep_last))
    try:
        with torch.no_grad():
            for current in batches:  # read by the hooks
                model.get_decoder()(input_ids=ids[current], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return _Recording(inputs, arguments, hidden)


@dataclass(frozen=True)
class _Factors:
    """A term, and its columns on the windows held out."""

    term: KroneckerTerm
    held_out: NDArray[np.float32]
    correlation: RowCorrelation | None = None

    def statistics(self, name: str, *others: _Factors) -> MatrixStatistics:
        factors = (self, *others)
        terms, held_out = tuple(f.term for f in factors), tuple(f.held_out for f in factors)
        return MatrixStatistics(name, terms, held_out, self.correlation)


class _Columns:
    """Weighted sums of x x^T over tokens, those of windows held out apart."""

    def __init__(self, width: int) -> None:
        import torch

        self.moments = torch.zeros(2, width, width)  # [0] to fit on, [1] held out
        self.totals = [0.0, 0.0]  # of the weights

    def add(self, x: torch.Tensor, weights: torch.Tensor, held: torch.Tensor) -> None:
        """x (R, K), weights (R,) and whether each row is held out (R,)."""
        for side, rows in enumerate((~held, held)):
            if rows.any():
                chosen, weighing = x[rows], weights[rows]
                self.moments[side] += (chosen * weighing[:, None]).T @ chosen
                self.totals[side] += float(weighing.double().sum())

    def factors(self, rows: torch.Tensor) -> _Factors:
        """With the term's rows (N,), per token; where nothing was held out, what there is serves for both."""
        fit, apart = (
            moment / total if total > 0 else moment  # no weight: the matrix has no influence, and rows are zero
            for moment, total in zip(self.moments, self.totals, strict=True)
        )
        term = KroneckerTerm(rows.float().numpy(), fit.numpy())
        return _Factors(term, apart.numpy() if self.totals[1] > 0 else term.columns)


@dataclass(frozen=True)
class _Head:
    factors: _Factors
    mean_softmax: torch.Tensor  # (V,) float64
    gradient: torch.Tensor  # (W, T, D) float32, at the head's input


@quick_matmul()
def _head(part: Parts, hidden: torch.Tensor, held: torch.Tensor, generator: torch.Generator) -> _Head:
    """The head's term, in closed form, and the gradient at its input for sampled labels, in blocks of rows.

    The score of one sampled label y is W[y] - sum_v p[v] W[v]. The difference of two independent labels' rows over
    sqrt(2) has the same second moment, whatever follows linearly, and costs no product with the whole vocabulary.
    """
    import torch

    from edgekit.models.sampled_text import draw

    weight, softcap = part.head.weight, part.softcap
    vocab, width = weight.shape
    rows, mean = torch.zeros(vocab, dtype=torch.float64), torch.zeros(vocab, dtype=torch.float64)
    columns = _Columns(width)
    held_rows = held.repeat_interleave(hidden.shape[1])
    gradient = torch.empty_like(hidden)
    with torch.no_grad():
        states, flat = hidden.reshape(-1, width), gradient.view(-1, width)
        for start in range(0, len(states), ROW_BLOCK):
            x = part.norm(states[start : start + ROW_BLOCK])
            p = head_logits(x, weight, softcap)
            slope = None if softcap is None else 1 - (p / softcap).square_()  # d logits / d raw logits
            p.sub_(p.amax(dim=1, keepdim=True)).exp_()
            labels = draw(p, torch.rand(len(x), 2, dtype=torch.float64, generator=generator))  # (R, 2)
            scale = 1 / p.sum(dim=1)
            mean += scale @ p
            signs = torch.tensor([0.5**0.5, -(0.5**0.5)]).expand(labels.shape)
            if slope is None:
                spread = scale @ p - scale.square() @ p.square_()  # (V,) sum over rows of p (1 - p)
                weights = 1 - p.sum(dim=1) * scale.square()
            else:
                p.mul_(scale[:, None])
                variance = (p - p.square()).mul_(slope.square())
                spread, weights = variance.sum(dim=0), variance.sum(dim=1)
                signs = signs * torch.gather(slope, 1, labels)
            rows += spread
            columns.add(x, weights, held_rows[start : start + ROW_BLOCK])
            flat[start : start + ROW_BLOCK] = (weight[labels] * signs[:, :, None]).sum(dim=1)
    count = len(states)
    return _Head(columns.factors(rows / count), mean / count, gradient)


def _through_norm(norm: Any, hidden: torch.Tensor, gradient: torch.Tensor, batches: list[slice]) -> torch.Tensor:
    """The gradient (W, T, D) at the final norm's input; overwrites `gradient`."""
    import torch

    for batch in batches:
        x = hidden[batch].requires_grad_()
        with torch.enable_grad():
            (gradient[batch],) = torch.autograd.grad(norm(x), x, gradient[batch].clone())
    return gradient


@dataclass
class _Moments:
    """A linear's running sums over tokens."""

    rows: torch.Tensor  # (N,) float64: g^2
    columns: _Columns  # |g|^2 x x^T
    outer: torch.Tensor | None  # (2, N, N): g g^T, held out in [1]
    independent: float = 0.0  # |g|^2 |x|^2
    coherent: float = 0.0  # |sum of g x^T over a window|^2

    @classmethod
    def of(cls, linear: torch.nn.Linear) -> _Moments:
        import torch

        rows, columns = linear.weight.shape
        outer = torch.zeros(2, rows, rows) if rows <= columns else None
        return cls(torch.zeros(rows, dtype=torch.float64), _Columns(columns), outer)

    def add(self, x: torch.Tensor, g: torch.Tensor, held: torch.Tensor) -> None:
        """x (windows, T, K), g (windows, T, N), and which windows are held out (windows,)."""
        for window_x, window_g in zip(x, g, strict=True):
            gradient = window_g.T @ window_x
            self.coherent += float(gradient.square_().sum(dim=1).double().sum())
        held_rows = held.repeat_interleave(x.shape[1])
        x, g = x.flatten(0, 1), g.flatten(0, 1)
        squares = g.square()
        weights = squares.sum(dim=1)
        self.rows += squares.sum(dim=0)
        self.independent += float((weights * x.square().sum(dim=1)).double().sum())
        self.columns.add(x, weights, held_rows)
        if self.outer is not None:
            for side, chosen in enumerate((~held_rows, held_rows)):
                self.outer[side] += g[chosen].T @ g[chosen]

    def factors(self, tokens: int) -> _Factors:
        scale = self.coherent / self.independent if self.independent > 0 else 0.0
        factors = self.columns.factors(self.rows * (scale / tokens))
        if self.outer is None:
            return factors
        correlation, rows = _correlation(self.outer), factors.term.rows
        roots = np.sqrt(rows)
        left = noise_left(outer_hessian(rows, correlation.fitted), correlation.held_out * roots * roots[:, None])
        return replace(factors, correlation=correlation) if left < WORTH_COUPLING else factors


def _correlation(outer: torch.Tensor) -> RowCorrelation:
    """Of sums of g g^T (2, N, N), held out in [1]; an output without gradient goes with no other."""
    found = []
    for moment in outer if outer[1].any() else (outer[0], outer[0]):
        roots = moment.diagonal().clamp(min=0).sqrt()
        scales = (1 / roots).where(roots > 0, 0.0)
        correlation = moment * scales * scales[:, None]
        correlation.fill_diagonal_(1.0)
        found.append(correlation.numpy())
    return RowCorrelation(*found)


@quick_matmul()
def _layer(
    layer: Any, recording: _Recording, index: int, gradient: torch.Tensor, batches: list[slice], held: torch.Tensor
) -> list[tuple[Any, _Factors]]:
    """The terms of one layer's linears; `gradient` at the layer's output becomes that at its input."""
    import torch

    linears = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    moments = [_Moments.of(linear) for linear in linears]
    current = batches[0]

    def watch(moment: _Moments) -> Any:
        def hook(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = args[0].detach()
            output.register_hook(lambda g: moment.add(x, g, held[current]))  # type: ignore[no-untyped-call]

        return hook

    handles = [linear.register_forward_hook(watch(m)) for linear, m in zip(linears, moments, strict=True)]
    try:
        for number, current in enumerate(batches):  # read by the hooks
            x = recording.inputs[index][current].float().requires_grad_()
            with torch.enable_grad():
                output = layer(x, **recording.arguments[index][number])
                output = output[0] if isinstance(output, tuple) else output
                (gradient[current],) = torch.autograd.grad(output, x, gradient[current].clone())
    finally:
        for handle in handles:
            handle.remove()
    recording.inputs[index] = torch.empty(0)
    recording.arguments[index] = []
    tokens = gradient.shape[0] * gradient.shape[1]
    return [(linear, moment.factors(tokens)) for linear, moment in zip(linears, moments, strict=True)]


def _lookup(
    part: Parts, ids: torch.Tensor, gradient: torch.Tensor, mean_softmax: torch.Tensor, held: torch.Tensor
) -> _Factors:
    """The embedding's term as a table: rows = how often each token is looked up, weighted by |g|^2.

    Windows begin with the same token, which the model never predicts: its share is what was seen. The other positions'
    share is split between the tokens seen and the model's mean softmax.
    """
    import torch

    vocab, width = part.embedding.weight.shape
    g = gradient.reshape(-1, width) * part.embedding_scale
    weights = g.square().sum(dim=1).double().reshape(ids.shape)
    rows = torch.zeros(vocab, dtype=torch.float64)
    rows.index_add_(0, ids[:, 0], weights[:, 0])
    share = weights[:, 1:].sum()
    rows.index_add_(0, ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1) * FREQUENCY_FROM_TEXT)
    rows += mean_softmax / mean_softmax.sum() * share * (1 - FREQUENCY_FROM_TEXT)
    columns = _Columns(width)
    directions = torch.nn.functional.normalize(g, dim=1)  # each is weighted by its |g|^2
    columns.add(directions, g.square().sum(dim=1), held.repeat_interleave(ids.shape[1]))
    return columns.factors(rows / ids.numel())
