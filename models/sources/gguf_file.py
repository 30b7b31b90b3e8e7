"""Read a GGUF's tensors under their Hugging Face names: RoPE permutation and norm offset undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.families import Family, family_named
from edgekit.models.gguf_header import GgufHeader, read_header
from edgekit.models.rope import ROPE_FACTORS, find_llama3
from edgekit.models.sources.stored import FLOAT_TYPES, PIECE_BYTES, StoredTensor, opened, read_floats
from edgekit.models.spec import TensorSpec

Dequantise = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class GgufSource:
    """The tensors of a GGUF; `by_gguf_name` says which of them the model has."""

    def __init__(self, stored: Mapping[str, StoredTensor], by_gguf_name: Mapping[str, TensorSpec]) -> None:
        self._stored: dict[str, StoredTensor] = {}
        self._specs: dict[str, TensorSpec] = {}
        for gguf_name, tensor in stored.items():
            spec = by_gguf_name.get(gguf_name)
            self._stored[spec.name if spec else gguf_name] = tensor
            if spec:
                self._specs[spec.name] = spec

    @property
    def stored(self) -> dict[str, StoredTensor]:
        """Every tensor in the file; those that the model does not have keep their GGUF names."""
        return self._stored

    def dtype(self, name: str) -> str:
        return self._stored[name].dtype

    def read(self, name: str) -> NDArray[np.float32]:
        stored, spec = self._stored[name], self._specs[name]
        values = read_floats(stored) if stored.dtype in FLOAT_TYPES else _read_blocks(stored)
        if spec.rope_heads:
            rows = len(values) // spec.rope_heads
            pairs = values.reshape(spec.rope_heads, rows // 2, 2, *values.shape[1:])
            values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
        if spec.offset:
            values -= np.float32(spec.offset)
        return values


def _read_blocks(stored: StoredTensor) -> NDArray[np.float32]:
    """A quantised tensor, dequantised by the gguf library a piece of rows at a time."""
    from gguf import GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType[stored.dtype]
    result = np.empty(stored.shape, np.float32)
    flat = result.reshape(-1, stored.shape[-1])
    row_bytes = stored.bytes // len(flat)
    step = max(1, PIECE_BYTES // row_bytes)
    with opened(stored.file) as file:
        file.seek(stored.offset)
        for start in range(0, len(flat), step):
            rows = min(step, len(flat) - start)
            blocks = np.fromfile(file, np.uint8, rows * row_bytes)
            if blocks.size != rows * row_bytes:
                raise InputError(f"{stored.file} ends within {stored.name}: copy or download it again")
            with np.errstate(all="ignore"):  # a damaged scale may be NaN or Inf, which the checkpoint refuses
                flat[start : start + rows] = dequantize(blocks.reshape(rows, row_bytes), kind)
    return result


def open_gguf(path: Path, *, quantised: bool) -> tuple[dict[str, Any], Family, GgufSource]:
    """The config, family and tensors of a GGUF; InputError where it is damaged, split, unknown or quantised."""
    header = read_header(path)
    metadata = header.metadata
    if metadata.get("split.count", 1) not in (0, 1):
        raise InputError(f"{path} is one part of a split GGUF: join the parts with llama-gguf-split --merge")
    stored = stored_tensors(path, header)
    if not quantised:
        refuse_quantised(path, stored)
    try:
        family = family_named(str(metadata.get("general.architecture")))
        config = family.config_from_gguf(metadata, stored.keys())
        _add_vocabulary(config, metadata, stored)
        _add_rope_factors(config, metadata, stored)
        by_gguf_name = {spec.gguf_name: spec for spec in family.tensors(family.read_spec(config))}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return config, family, GgufSource({n: s for n, s in stored.items() if n != ROPE_FACTORS}, by_gguf_name)


def stored_tensors(path: Path, header: GgufHeader) -> dict[str, StoredTensor]:
    """GGUF name -> tensor, each a whole number of blocks and within the file; InputError where the header lies."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size = path.stat().st_size
    stored: dict[str, StoredTensor] = {}
    for info in header.tensors:
        if info.ggml_type not in iter(GGMLQuantizationType):
            raise InputError(f"{path}: {info.name} has the unknown ggml type {info.ggml_type}")
        kind = GGMLQuantizationType(info.ggml_type)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if not info.shape or min(info.shape) < 1 or info.shape[-1] % block:
            raise InputError(f"{path}: {info.name} has no valid shape {list(info.shape)} for {kind.name}")
        count = math.prod(info.shape) // block * block_bytes
        if info.offset + count > size:
            raise InputError(f"{path} is cut short: {info.name} ends after its {size} bytes: copy or download it again")
        if info.name in stored:
            raise InputError(f"{path}: {info.name} occurs twice: the header is damaged")
        stored[info.name] = StoredTensor(info.name, kind.name, info.shape, count, path, info.offset)
    end = header.data_offset
    for tensor in sorted(stored.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise InputError(f"{path}: {tensor.name} overlaps another tensor: the header is damaged")
        end = tensor.offset + tensor.bytes
    return stored


def refuse_quantised(path: Path, stored: Mapping[str, StoredTensor]) -> None:
    """InputError where a tensor is not stored as F32, F16 or BF16."""
    kinds = sorted({tensor.dtype for tensor in stored.values()} - FLOAT_TYPES.keys())
    if kinds:
        raise InputError(
            f"{path} is already quantised ({', '.join(kinds)}): give the original checkpoint or its F16 GGUF"
        )


def _add_vocabulary(config: dict[str, Any], metadata: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> None:
    """The vocabulary is as large as the embedding; the special tokens' ids are the tokenizer's."""
    if "token_embd.weight" not in stored:
        raise InputError("token_embd.weight is missing: the file is not a whole model")
    config["vocab_size"] = stored["token_embd.weight"].shape[0]
    for key in ("bos", "eos"):
        if (token := metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[f"{key}_token_id"] = token


def _add_rope_factors(config: dict[str, Any], metadata: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> None:
    """Put Llama 3's RoPE scaling back into the config: a GGUF has only the factors that it makes."""
    tensor = stored.get(ROPE_FACTORS)
    if tensor is None:
        return
    if tensor.dtype != "F32" or tensor.bytes > 1 << 20:
        raise InputError(f"{ROPE_FACTORS} is no list of RoPE factors: {tensor.dtype} {list(tensor.shape)}")
    factors = read_floats(tensor).reshape(-1)
    if (factors == 1).all():
        return
    architecture = metadata["general.architecture"]
    parameters = config.get("rope_parameters", {})
    theta, context = parameters.get("rope_theta"), config.get("max_position_embeddings")
    stated = metadata.get(f"{architecture}.rope.scaling.original_context_length")
    scaling = None
    if isinstance(theta, float) and isinstance(context, int) and np.isfinite(factors).all() and factors.min() > 0:
        scaling = find_llama3(factors, theta, context, [stated] if isinstance(stated, int) and stated > 0 else [])
    if scaling is None or parameters.get("rope_type") != "default":
        raise InputError(f"{ROPE_FACTORS} holds RoPE factors that are not Llama 3's: give the original checkpoint")
    parameters |= {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }
