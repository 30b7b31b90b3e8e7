"""Output projections refitted to make up for the heads and channels that went, by ridge least squares.

Layer after layer, on the pruned model's own hidden states: o_proj's weights W become those that minimise

    sum over tokens of |W x + h' - (y + h)|^2 / |y + h|^2  +  ridge |W - W0|^2

where x is its input, y what the unpruned model's o_proj gives for the same token, h' and h the residual streams of both to which that is added, and W0 what pruning left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.models.forward import parts, quick_matmul
from edgekit.quant.structure import Structure
from edgekit.quant.teacher import Teacher

if TYPE_CHECKING:
    import torch

RIDGES = tuple(10.0**exponent for exponent in range(-5, 3))  # of the moment's mean diagonal
STREAM = True
DOWN = True


@dataclass(frozen=True)
class Refit:
    """One projection: its error on windows held out before and after, and the ridge; None where it stayed."""

    name: str
    before: float
    after: float
    ridge: float | None


@dataclass(frozen=True)
class Repaired:
    refits: tuple[Refit, ...]


class Stream:
    """A model's residual stream on some windows, layer after layer; every call takes one window."""

    def __init__(self, model: Any, ids: torch.Tensor) -> None:
        import torch

        self.layers = parts(model).layers
        self._arguments: list[dict[str, Any]] = []
        handles = [
            layer.register_forward_pre_hook(lambda _m, _a, kwargs: self._arguments.append(kwargs), with_kwargs=True)
            for layer in self.layers
        ]
        self.hidden = []
        first = self.layers[0].register_forward_pre_hook(lambda _m, args: self.hidden.append(args[0]))
        with torch.no_grad():
            model.get_decoder()(input_ids=ids[:1], use_cache=False)
        self.hidden = parts(model).embedding(ids)
        for h in (*handles, first): h.remove()

    def run(self, index: int) -> Iterator[torch.Tensor]:
        import torch

        for window in self.hidden:
            with torch.no_grad():
                out = self.layers[index](window[None], **self._arguments[index])
            yield out[0] if isinstance(out, tuple) else out

    def advance(self, index):
        import torch
        self.hidden = torch.cat(list(self.run(index)))


@contextmanager
def caught(linear: Any, what: list[Any]):
    h = linear.register_forward_hook(lambda _m, args, output: what.append((args[0][0], output[0])))
    try:
        yield
    finally:
        h.remove()


@quick_matmul()
def repair(whole: Any, model: Any, teacher: Teacher, structure: Structure, windows: NDArray[np.int64], held_out: NDArray[np.int64]) -> Repaired:
    import torch

    ids = torch.cat([teacher.ids[windows], teacher.ids[held_out]])
    n = len(windows)
    a, b = Stream(whole, ids), Stream(model, ids)
    refits = []
    for i in tqdm(range(len(a.layers)), desc="repair", unit="layer", disable=None):
        ys, zs = [], []
        with caught(a.layers[i].self_attn.o_proj, ys), caught(a.layers[i].mlp.down_proj, zs):
            out = list(a.run(i))
        ys = [y for _, y in ys]; zs = [z for _, z in zs]
        mid = [h + y for h, y in zip(a.hidden, ys, strict=True)]
        xs=[]
        with caught(b.layers[i].self_attn.o_proj, xs): list(b.run(i))
        xs=[x for x,_ in xs]
        target=[m - h for m, h in zip(mid, b.hidden)] if STREAM else ys
        refits.append(fit(f"{i}.o", b.layers[i].self_attn.o_proj, xs, target, [1/m.square().mean(1) for m in mid], n))
        if DOWN:
            xs=[]; cs=[]
            with caught(b.layers[i].mlp.down_proj, xs), caught(b.layers[i].self_attn.o_proj, cs): list(b.run(i))
            mid2=[h+y for h,(_,y) in zip(b.hidden, cs)]
            xs=[x for x,_ in xs]
            end=[o[0] for o in out]
            target=[e - m for e, m in zip(end, mid2)] if STREAM else zs
            refits.append(fit(f"{i}.d", b.layers[i].mlp.down_proj, xs, target, [1/m.square().mean(1) for m in end], n))
        a.hidden = torch.cat(out)
        b.advance(i)
    return Repaired(tuple(refits))


def fit(name, linear, xs, ys, ws, n):
    import torch
    w0 = linear.weight.detach().double()
    def moments(xs, ys, ws):
        g = torch.zeros(w0.shape[1], w0.shape[1], dtype=torch.float64); c = torch.zeros(w0.shape, dtype=torch.float64); e=0.
        for x, y, w in zip(xs, ys, ws, strict=True):
            r = y - x @ linear.weight.T
            g += ((x*w[:,None]).T @ x).double(); c += (r.T @ (x*w[:,None])).double(); e += float((r.square().mean(1)*w).double().sum())
        T=len(xs)*len(xs[0])
        return g/T, c/T, e/T
    g, c, e = moments(xs[:n], ys[:n], ws[:n])
    gh, ch, eh = moments(xs[n:], ys[n:], ws[n:])
    lam, q = torch.linalg.eigh(g)
    best = (eh, None, None)
    cq = c @ q
    N = len(w0)
    for ridge in RIDGES:
        d = (cq / (lam + ridge*lam.mean())) @ q.T
        err = eh + float(((d @ gh) * d).sum() - 2*(d*ch).sum())/N
        if err < best[0]: best = (err, ridge, d)
    if best[2] is not None: linear.weight.data += best[2].float()
    return Refit(name, eh, best[0], best[1])
