"""Read a Hugging Face config field by field, each checked for its type and range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.models.errors import InputError
from edgekit.models.spec import LinearScaling, Llama3Scaling, Rope

Config = Mapping[str, Any]

MAX_LAYERS = 512  # llama.cpp's own bound
MAX_HIDDEN = 1 << 17
MAX_FFN = 1 << 20
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 12
MAX_VOCAB = 1 << 22
MAX_CONTEXT = 1 << 30


def integer(config: Config, key: str, limit: int, default: int | None = None) -> int:
    """A positive integer up to `limit`; a missing or null key means `default`, and is an InputError without one."""
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise InputError(f"config.json has no {key}: take the config.json that came with the weights")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise InputError(f"config.json: {key} is {value!r}, not an integer from 1 to {limit}")
    return value


def integers(config: Config, key: str, layers: int, limit: int, default: int | None = None) -> tuple[int, ...]:
    """A positive integer per layer: the config has one for all, or (a pruned model) a list with one for each."""
    value = config.get(key)
    if not isinstance(value, list):
        return (integer(config, key, limit, default),) * layers
    if len(value) != layers:
        raise InputError(f"config.json: {key} has {len(value)} entries for {layers} layers")
    return tuple(integer({key: entry}, key, limit) for entry in value)


def number(config: Config, key: str, default: float | None = None) -> float:
    """A positive finite number; a missing or null key means `default`, and is an InputError without one."""
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise InputError(f"config.json: {key} is {value!r}, not a positive number")
    return float(value)


def flag(config: Config, key: str, default: bool = False) -> bool:
    """True or false; a missing or null key means `default`."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"config.json: {key} is {value!r}, not true or false")
    return value


def require(config: Config, key: str, expected: str, default: str | None = None) -> None:
    """Refuse a config whose `key` (missing means `default`) is anything but `expected`."""
    value = config.get(key) or default
    if value != expected:
        raise InputError(f"config.json: {key} is {value!r}, but edgekit knows this architecture with {expected!r} only")


def refuse(config: Config, *keys: str) -> None:
    """Refuse a config that sets any of `keys` to something other than null or false."""
    for key in keys:
        if config.get(key):
            raise InputError(f"config.json: {key} is {config[key]!r}, which no GGUF of this architecture can express")


def mapping(value: Any, key: str) -> Config:
    """`value` as a mapping; None means an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"config.json: {key} is {value!r}, not an object")
    return value


def layer_types(config: Config, layers: int) -> tuple[bool, ...] | None:
    """Per layer whether `layer_types` calls it a sliding one; None where the config has no such key."""
    value = config.get("layer_types")
    if value is None:
        return None
    known = {"sliding_attention": True, "full_attention": False}
    if not isinstance(value, list) or len(value) != layers or not all(isinstance(v, str) and v in known for v in value):
        raise InputError(
            f"config.json: layer_types must have {layers} entries, each 'full_attention' or 'sliding_attention'"
        )
    return tuple(known[entry] for entry in value)


def rope(config: Config, theta: float = 10000.0, *, llama3: bool = False) -> Rope:
    """The rotary embedding, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    parameters = dict(mapping(config.get("rope_scaling"), "rope_scaling"))
    parameters.update(mapping(config.get("rope_parameters"), "rope_parameters"))
    base = number(parameters, "rope_theta", number(config, "rope_theta", theta))
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise InputError(
            f"config.json: partial_rotary_factor is {partial!r}: edgekit knows full rotary embeddings only"
        )
    return Rope(base, scaling=rope_scaling(parameters, llama3=llama3))


def rope_scaling(parameters: Config, *, llama3: bool) -> LinearScaling | Llama3Scaling | None:
    """The scaling that a `rope_scaling` or `rope_parameters` object names: none, linear or llama3, else InputError."""
    kind = parameters.get("rope_type", parameters.get("type"))
    if kind is None or kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(number(parameters, "factor"))
    if kind == "llama3" and llama3:
        low, high = number(parameters, "low_freq_factor"), number(parameters, "high_freq_factor")
        if low >= high:
            raise InputError(f"config.json: low_freq_factor {low} is not below high_freq_factor {high}")
        original = integer(parameters, "original_max_position_embeddings", MAX_CONTEXT)
        return Llama3Scaling(number(parameters, "factor"), low, high, original)
    known = "default, linear and llama3" if llama3 else "default and linear"
    raise InputError(f"config.json: rope type {kind!r} is not supported: edgekit knows {known} for this architecture")
