"""Output projections refitted to make up for the heads and channels that went, by ridge least squares.

Layer after layer, on the pruned model's own hidden states, o_proj's and then down_proj's weights W become those that
minimise

    mean over tokens of |h + W x - target|^2 / |target|^2  +  ridge |W - W0|^2

where x is the projection's input, h the residual stream to which its output is added, the target the unpruned model's
stream at that place and W0 what pruning left: every projection also makes up for what the ones before could not, and an
error counts by the size by which the next norm divides it. In Gemma a norm comes in between, h + g W x / |W x|: its
denominator is taken as it was before. Windows held out choose the ridge, with nothing taken as it was, and a projection
that gains nothing on them stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.models.forward import parts, quick_matmul
from edgekit.quant.removal import affordable, spread
from edgekit.quant.teacher import Teacher

if TYPE_CHECKING:
    import torch

WINDOWS = 64  # to fit on
WORK = 1.6e12  # tokens times parameters of the layers, of these
RIDGES = tuple(10.0**exponent for exponent in range(-5, 3))  # of the input moment's mean eigenvalue
NO_ERROR = 1e-9  # float32's rounding, squared: nothing has gone before here


@dataclass(frozen=True)
class Refit:
    """A projection's relative squared error on windows held out, before and after; ridge None: it stayed as it was."""

    name: str
    before: float
    after: float
    ridge: float | None


@dataclass(frozen=True)
class Repaired:
    """The projections in the order of the forward pass."""

    refits: tuple[Refit, ...]


@quick_matmul()
def repair(
    whole: Any, model: Any, teacher: Teacher, windows: NDArray[np.int64], held_out: NDArray[np.int64]
) -> Repaired:
    """Refit `model`, the pruned one, in place to follow `whole`; windows are numbers of the teacher's."""
    fit_on = spread(windows, affordable(model, teacher, WORK, WINDOWS))
    ids = teacher.ids[np.concatenate([fit_on, held_out])]
    walk = _Walk(_Stream(whole, ids), _Stream(model, ids), len(fit_on))
    layers = tqdm(range(len(parts(model).layers)), desc="repair", unit="layer", disable=None)
    return Repaired(tuple(refit for layer in layers for refit in walk.layer(layer)))


class _Stream:
    """A model's residual stream (W, T, D) on some windows, taken through one layer after another."""

    def __init__(self, model: Any, ids: torch.Tensor) -> None:
        """`ids` (W, T); what a layer is called with besides the stream is the same for all windows."""
        import torch

        part = parts(model)
        self.layers = part.layers
        self._arguments: list[dict[str, Any]] = []

        def keep(_module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._arguments.append(kwargs)

        handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self.layers]
        try:
            with torch.no_grad():
                model.get_decoder()(input_ids=ids[:1], use_cache=False)
                self.hidden = part.embedding(ids)
        finally:
            for handle in handles:
                handle.remove()

    def through(self, layer: int, *watches: _Watch) -> torch.Tensor:
        """The stream after that layer; the watches see what goes through its projections."""
        import torch

        return torch.cat(list(self._ends(layer, *watches)))

    def into(self, layer: int, watch: _Watch) -> None:
        """No further into that layer than to the watch's projection."""
        watch.then_stop = True
        for _ in self._ends(layer, watch):
            raise AssertionError("the watch saw nothing")

    def _ends(self, layer: int, *watches: _Watch) -> Iterator[torch.Tensor]:
        import torch

        with ExitStack() as stack, torch.no_grad():
            for watch in watches:
                stack.enter_context(watch)
            for window in self.hidden:
                try:
                    end = self.layers[layer](window[None], **self._arguments[layer])
                except _Enough:
                    continue
                yield end[0] if isinstance(end, tuple) else end


class _Enough(Exception):
    """What is wanted of this layer is there."""


class _Watch:
    """A block that watches a projection; after it there are its outputs (W, T, D) and, if wanted, inputs (W, T, K)."""

    inputs: torch.Tensor
    outputs: torch.Tensor

    def __init__(self, projection: Any, *, inputs: bool) -> None:
        self._projection = projection
        self.then_stop = False
        self._inputs: list[torch.Tensor] | None = [] if inputs else None
        self._outputs: list[torch.Tensor] = []

    def __enter__(self) -> None:
        def hook(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._outputs.append(output)
            if self._inputs is not None:
                self._inputs.append(args[0])
            if self.then_stop:
                raise _Enough

        self._handle = self._projection.register_forward_hook(hook)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import torch

        self._handle.remove()
        if kind is not None:
            return
        self.outputs, self._outputs = torch.cat(self._outputs), []
        if self._inputs is not None:
            self.inputs, self._inputs = torch.cat(self._inputs), None


@dataclass
class _Walk:
    """Both models' streams at the same layer; the first `fit_on` windows are to fit on, the others are held out."""

    whole: _Stream
    pruned: _Stream
    fit_on: int

    def layer(self, index: int) -> Iterator[Refit]:
        """Refit the layer's projections, one after the other, and go on to the next layer."""
        whole, pruned, name = self.whole.layers[index], self.pruned.layers[index], f"model.layers.{index}"
        norms = "post_attention_layernorm", "post_feedforward_layernorm"  # of the outputs, if there is the second
        attention_norm, feed_forward_norm = (
            _Norm(getattr(pruned, norm) if hasattr(pruned, norms[1]) else None) for norm in norms
        )

        theirs = _Watch(whole.self_attn.o_proj, inputs=False)
        end = self.whole.through(index, theirs)
        target = self.whole.hidden + attention_norm(theirs.outputs)  # pruning leaves norms as they are
        now = _Watch(pruned.self_attn.o_proj, inputs=True)
        self.pruned.into(index, now)
        yield self._refit(
            f"{name}.self_attn.o_proj", pruned.self_attn.o_proj, now, self.pruned.hidden, attention_norm, target
        )

        now = _Watch(pruned.mlp.down_proj, inputs=True)
        stream = self.pruned.through(index, now)
        before = stream - feed_forward_norm(now.outputs)
        refit = self._refit(f"{name}.mlp.down_proj", pruned.mlp.down_proj, now, before, feed_forward_norm, end)
        yield refit
        if refit.ridge is not None:
            stream = before + feed_forward_norm(pruned.mlp.down_proj(now.inputs))
        self.whole.hidden, self.pruned.hidden = end, stream

    def _refit(
        self, name: str, linear: Any, now: _Watch, stream: torch.Tensor, norm: _Norm, target: torch.Tensor
    ) -> Refit:
        """Change the linear (D, K) so that the stream (W, T, D) with its normed outputs comes nearer the target."""
        import torch

        missing, weights = target - stream, 1 / target.square().mean(dim=-1)

        def error(outputs: torch.Tensor) -> float:
            """On the windows held out."""
            left = missing[self.fit_on :] - norm(outputs)
            return float((left.square().mean(dim=2) * weights[self.fit_on :]).double().mean())

        before = error(now.outputs[self.fit_on :])
        best, kept = Refit(name, before, before, None), (linear.weight.data, linear.bias)
        if before < NO_ERROR:
            return best
        x, outputs = now.inputs[: self.fit_on], now.outputs[: self.fit_on]
        if linear.bias is not None:
            x = torch.nn.functional.pad(x, (0, 1), value=1.0)
        wanted = missing[: self.fit_on] - norm(outputs)
        moments = _Moments.of(x * norm.factor(outputs), wanted, weights[: self.fit_on])
        for ridge, change in moments.solutions(norm.gain(outputs.shape[2])):
            weight = linear.weight.data + change[:, : linear.in_features]
            bias = None if linear.bias is None else linear.bias.data + change[:, linear.in_features]
            after = error(torch.nn.functional.linear(now.inputs[self.fit_on :], weight, bias))
            if after < best.after:
                best, kept = Refit(name, before, after, ridge), (weight, bias)
        linear.weight.data = kept[0]
        if kept[1] is not None:
            linear.bias.data = kept[1].data
        return best


@dataclass(frozen=True)
class _Norm:
    """What is between a projection's outputs y and the stream: gain * factor(y) * y, the factor one number a token."""

    module: Any  # None: nothing

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """(W, T, D), as (W, T, D)."""
        return outputs if self.module is None else self.module(outputs)

    def factor(self, outputs: torch.Tensor) -> torch.Tensor | float:
        """(W, T, 1): 1 / root mean square."""
        if self.module is None:
            return 1.0
        epsilon: float = self.module.eps
        return (outputs.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()

    def gain(self, columns: int) -> torch.Tensor:
        """(D, 1), float64."""
        import torch

        ones = torch.ones(1, 1, columns)
        return (self(ones) / self.factor(ones)).double().view(columns, 1)


@dataclass(frozen=True)
class _Moments:
    """Weighted means over tokens, float64."""

    inputs: torch.Tensor  # (K, K) x x^T
    cross: torch.Tensor  # (D, K) error x^T

    @classmethod
    def of(cls, x: torch.Tensor, error: torch.Tensor, weights: torch.Tensor) -> _Moments:
        """x (W, T, K), error (W, T, D), weights (W, T)."""
        import torch

        inputs = torch.zeros(x.shape[2], x.shape[2], dtype=torch.float64)
        cross = torch.zeros(error.shape[2], x.shape[2], dtype=torch.float64)
        for window_x, window_error, weight in zip(x, error, weights, strict=True):
            weighted = window_x * weight[:, None]
            inputs += weighted.T @ window_x
            cross += window_error.T @ weighted
        return cls(inputs / weights.numel(), cross / weights.numel())

    def solutions(self, gain: torch.Tensor) -> Iterator[tuple[float, torch.Tensor]]:
        """The best change (D, K) of the weights, whose rows count times their gain (D, 1), under each ridge."""
        import torch

        values, vectors = torch.linalg.eigh(self.inputs)
        along, power = gain * (self.cross @ vectors), gain.square()
        level = values.mean() * power.mean()
        for ridge in RIDGES:
            yield ridge, ((along / (power * values + ridge * level)) @ vectors.T).float()
