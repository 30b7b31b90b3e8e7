"""Predictions from a model's specification and a device's profile. They are estimates, not measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.devices.profile import Device
from edgekit.models.spec import ModelSpec
from edgekit.runtimes.attention_cache import MICRO_BATCH, cache_bytes

__all__ = [
    "Prediction",
    "cache_bytes",
    "lookup_parameters",
    "parameters",
    "predict_decode",
    "predict_reading",
    "ram_bytes",
    "seconds_per_weight",
]

BLOCK = 32  # weights: what a profile's cycles_per_block are for
PROCESS_BYTES = 64 << 20  # the program itself: libraries, tokenizer, scratch


@dataclass(frozen=True)
class Prediction:
    """An estimate of decoding on a device: tokens per second, and what bounds it.

    bound_by "memory": every byte is read once per token at the device's usable bandwidth. "compute": llama.cpp was seen
    to be slower than that there; `ceiling_tps` is then what the memory would allow.
    """

    decode_tps: float
    ceiling_tps: float
    bound_by: Literal["memory", "compute"]
    explanation: str


def predict_decode(device: Device, spec: ModelSpec, read_bytes: int, *, position: int = 0) -> Prediction:
    """Tokens per second from the bytes that a token reads: weights (`read_bytes`) and the cache up to `position`.

    `read_bytes` is the sum of the tensors' bytes without a table that is only looked up (an untied input embedding).
    """
    return predict_reading(device, read_bytes + _cache_read(spec, position))


def predict_reading(device: Device, total: int) -> Prediction:
    """Tokens per second where each of them reads `total` bytes."""
    ceiling = device.bandwidth_bytes_per_s / total
    seen = device.llama_cpp_bytes_per_s
    each = f"{total / 1e6:.0f} MB are read for each token"
    if seen is None or seen >= device.bandwidth_bytes_per_s:
        text = f"{each} at {device.bandwidth_bytes_per_s / 1e9:.1f} GB/s of usable memory bandwidth (a prediction)"
        return Prediction(ceiling, ceiling, "memory", text)
    text = (
        f"{each}; llama.cpp was seen to get through {seen / 1e9:.1f} GB/s there, of "
        f"{device.bandwidth_bytes_per_s / 1e9:.1f} GB/s that the memory gives (a prediction)"
    )
    return Prediction(seen / total, ceiling, "compute", text)


def seconds_per_weight(device: Device) -> dict[str, float]:
    """The arithmetic of one weight by type, all cores at work; empty where the profile has no figures."""
    if device.clock_hz is None:
        return {}
    blocks_per_s = device.cores * device.clock_hz
    return {name: cycles / blocks_per_s / BLOCK for name, cycles in device.cycles_per_block.items()}


def ram_bytes(spec: ModelSpec, file_bytes: int, context: int) -> int:
    """An estimate of what running the file takes: the file, the attention cache, scratch and the program."""
    return file_bytes + overhead_bytes(spec, context)


def overhead_bytes(spec: ModelSpec, context: int) -> int:
    """What a run takes beside the file: attention cache, a micro-batch's activations, a row of logits, the program."""
    activations = MICRO_BATCH * 4 * (4 * spec.hidden + 3 * max(spec.ffn))
    return cache_bytes(spec, context) + activations + 4 * spec.vocab + PROCESS_BYTES


def parameters(spec: ModelSpec) -> int:
    """The number of weights in the matrices; a tied embedding counts once."""
    embeddings = spec.vocab * spec.hidden * (1 if spec.tied else 2)
    attention = sum(2 * (heads + kv_heads) for heads, kv_heads in zip(spec.heads, spec.kv_heads, strict=True))
    return embeddings + spec.hidden * (attention * spec.head_dim + 3 * sum(spec.ffn))


def lookup_parameters(spec: ModelSpec) -> int:
    """The weights that a token does not read: an untied input embedding gives one row. A tied one is the head too."""
    return 0 if spec.tied else spec.vocab * spec.hidden


def _cache_read(spec: ModelSpec, position: int) -> int:
    sliding = spec.sliding or (False,) * spec.layers
    seen = (min(position, spec.window) if own and spec.window is not None else position for own in sliding)
    return sum(count * kv_heads * spec.head_dim * 4 for count, kv_heads in zip(seen, spec.kv_heads, strict=True))
