"""Predictions from a model's specification and a device's profile. They are estimates, not measurements."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgekit.devices.profile import Device
from edgekit.devices.result import Bound, Predicted, Reads
from edgekit.models.spec import ModelSpec
from edgekit.runtimes import CacheTypes
from edgekit.runtimes.attention_cache import MICRO_BATCH, cache_bytes, element_bytes

__all__ = [
    "Prediction",
    "cache_bytes",
    "cache_read",
    "lookup_parameters",
    "parameters",
    "predict_decode",
    "predict_run",
    "ram_bytes",
    "seconds_per_weight",
    "weight_counts",
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
    bound_by: Bound
    explanation: str


def predict_decode(device: Device, spec: ModelSpec, read_bytes: int, *, position: int = 0) -> Prediction:
    """llama.cpp's tokens per second from what a token reads: weights (`read_bytes`) and the cache up to `position`.

    `read_bytes` is the sum of the tensors' bytes without a table that is only looked up (an untied input embedding).
    """
    total = read_bytes + cache_read(spec, position)
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


def predict_run(device: Device, reads: Reads) -> Predicted:
    """The native runtime's tokens per second: reading and arithmetic, added up as `plan --objective speed` does.

    Without cycles_per_block in the profile, reading alone, which is then a bound from above.
    """
    total = sum(reads.weights.values()) + reads.cache
    memory_s = total / device.bandwidth_bytes_per_s
    compute_s = _arithmetic(device, reads) if device.cycles_per_block else None
    text = (
        f"{total / 1e6:.1f} MB are read for each token, {reads.cache / 1e6:.1f} MB of it attention cache, at "
        f"{device.bandwidth_bytes_per_s / 1e9:.2f} GB/s of usable memory bandwidth: {1e3 * memory_s:.2f} ms"
    )
    if compute_s is None:
        text += "; the profile does not tell what the arithmetic takes (a prediction)"
    else:
        text += f"; the arithmetic takes {1e3 * compute_s:.2f} ms (a prediction)"
    bound: Bound = "compute" if compute_s is not None and compute_s > memory_s else "memory"
    return Predicted(1 / (memory_s + (compute_s or 0)), bound, memory_s, compute_s, text)


def _arithmetic(device: Device, reads: Reads) -> float:
    """The seconds of a token's products; a type that the profile lacks is taken to be as slow as the slowest."""
    each = seconds_per_weight(device)
    slowest = max(each.values())
    return sum(count * each.get(name.lower(), slowest) for name, count in weight_counts(reads).items())


def weight_counts(reads: Reads) -> dict[str, float]:
    """The number of weights that a token reads, by ggml type."""
    counts = {}
    for name, size in reads.weights.items():
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        counts[name] = size * block / block_bytes
    return counts


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


def cache_read(spec: ModelSpec, position: int, types: CacheTypes | None = None) -> int:
    """The bytes of keys and values that a token sees at a position; types None: float16."""
    sliding = spec.sliding or (False,) * spec.layers
    seen = (min(position, spec.window) if own and spec.window is not None else position for own in sliding)
    each = spec.head_dim * element_bytes(types)
    return int(sum(count * kv_heads * each for count, kv_heads in zip(seen, spec.kv_heads, strict=True)))
