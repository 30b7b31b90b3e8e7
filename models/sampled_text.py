"""Text sampled from a model itself: windows of what it says at temperature 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers.cache_utils import Cache, DynamicLayer

from edgekit.models.forward import head_logits, parts

AT_ONCE = 40  # windows: all that statistics and measurements take


def sampled_windows(
    model: Any, wanted: int, length: int, rng: np.random.Generator, *, bos: int | None, eos: int | None
) -> NDArray[np.int64]:
    """(wanted, length) token ids drawn one by one from `model`'s softmax; after EOS comes BOS, as a new document."""
    part = parts(model)
    begin = next((token for token in (bos, eos) if token is not None), 0)
    restart = eos if bos is not None else None
    batches = []
    progress = tqdm(total=wanted * length, desc="sampling text", unit="token", disable=None)
    # No `quick_matmul` here: oneDNN takes ten times as long for the small products within one query's attention.
    with torch.no_grad(), progress:
        for start in range(0, wanted, AT_ONCE):
            rows = min(AT_ONCE, wanted - start)
            ids = torch.full((rows, length), begin, dtype=torch.int64)
            cache = Cache(layers=[_FixedRoom(length) for _ in part.layers])
            for position in range(1, length):
                last = ids[:, position - 1 : position]
                hidden = model.get_decoder()(input_ids=last, past_key_values=cache, use_cache=True).last_hidden_state
                logits = head_logits(hidden[:, -1], part.head.weight, part.softcap)
                drawn = draw(torch.softmax(logits, dim=1), torch.from_numpy(rng.random((rows, 1))))[:, 0]
                if restart is not None:
                    drawn = torch.where(last[:, 0] == restart, begin, drawn)
                ids[:, position] = drawn
                progress.update(rows)
            batches.append(ids.numpy())
    return np.concatenate(batches)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Samples (R, S) int64 from each row of non-negative weights (R, V), by inverting the cumulative sum.

    `uniform` (R, S) is float64 in [0, 1). Two levels, blocks of 512 and then within one, keep a vocabulary of 262144
    both quick and exact: a float32 sum over the whole row would lose its tail.
    """
    block = 512
    rows, width = weights.shape
    if width % block:
        weights = torch.nn.functional.pad(weights, (0, block - width % block))
    blocks = weights.reshape(rows, -1, block)
    totals = blocks.sum(dim=2, dtype=torch.float32).double().cumsum(dim=1)  # (R, V / block)
    target = uniform * totals[:, -1:]
    chosen = torch.searchsorted(totals, target, right=True).clamp_(max=totals.shape[1] - 1)
    within = torch.gather(blocks, 1, chosen[:, :, None].expand(-1, -1, block)).double().cumsum(dim=2)  # (R, S, block)
    before = torch.where(chosen > 0, torch.gather(totals, 1, (chosen - 1).clamp_(min=0)), 0.0)
    # scaled to the block's own total, since its float64 sum differs from the float32 one in the last bits
    share = (target - before) / (torch.gather(totals, 1, chosen) - before)
    inner = torch.searchsorted(within, (share.clamp(0.0, 1.0) * within[:, :, -1])[:, :, None], right=True)[:, :, 0]
    last = (within < within[:, :, -1:]).sum(dim=2)  # the last token with any weight
    return chosen * block + torch.minimum(inner, last)


class _FixedRoom(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (B, K, T, D) in room made once: transformers' own copies all of them at every token."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length, self._used = length, 0
        self._room: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [
                new.new_empty(*new.shape[:2], self._length, new.shape[3]) for new in (key_states, value_states)
            ]
        end = self._used + key_states.shape[2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, self._used : end] = new
        self._used = end
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values
