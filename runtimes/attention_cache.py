"""How large llama.cpp's attention cache is."""

from __future__ import annotations

from edgekit.models.spec import ModelSpec
from edgekit.runtimes.session import CacheTypes

MICRO_BATCH = 512  # positions that llama.cpp computes at once, by default
_CELLS = 256  # it allocates positions in multiples of this
_ELEMENT_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}


def cache_bytes(
    spec: ModelSpec, context: int, *, micro_batch: int = MICRO_BATCH, types: CacheTypes | None = None
) -> int:
    """The bytes that llama.cpp allocates for keys and values (None: float16) at a context of that many positions.

    A sliding-window layer keeps its window and one micro-batch, not the whole context (llama-kv-cache-iswa.cpp).
    """
    full = _padded(context)
    windowed = full if spec.window is None else _padded(min(full, spec.window + min(micro_batch, context)))
    sliding = spec.sliding or (False,) * spec.layers
    cells = (windowed if is_sliding else full for is_sliding in sliding)
    per_cell = spec.head_dim * element_bytes(types)
    return int(sum(count * kv_heads * per_cell for count, kv_heads in zip(cells, spec.kv_heads, strict=True)))


def element_bytes(types: CacheTypes | None) -> float:
    """The bytes of a key's element and a value's; None: float16."""
    types = types or CacheTypes("f16", "f16")
    return _ELEMENT_BYTES[types.keys] + _ELEMENT_BYTES[types.values]


def _padded(positions: int) -> int:
    return -(-positions // _CELLS) * _CELLS
