"""What a file or a checkpoint holds: architecture, tensors, types, and where the bytes are; no weights are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.errors import InputError, MissingExtra
from edgekit.models.gguf_header import GgufHeader, TensorInfo, read_header

# GGUF tensor names by part; a mixture's expert tensors carry suffixes.
_GGUF_ROLES = (
    (re.compile(r"token_embd\.weight"), "embedding"),
    (re.compile(r"output\.weight"), "head"),
    (re.compile(r"blk\.\d+\.attn_q\.weight"), "q"),
    (re.compile(r"blk\.\d+\.attn_k\.weight"), "k"),
    (re.compile(r"blk\.\d+\.attn_v\.weight"), "v"),
    (re.compile(r"blk\.\d+\.attn_output\.weight"), "o"),
    (re.compile(r"blk\.\d+\.ffn_gate(_\w+)?\.weight"), "gate"),
    (re.compile(r"blk\.\d+\.ffn_up(_\w+)?\.weight"), "up"),
    (re.compile(r"blk\.\d+\.ffn_down(_\w+)?\.weight"), "down"),
)
_PARTS = ("embedding", "head", "q", "k", "v", "o", "gate", "up", "down", "norms and biases", "other", "header")
_TOKENIZER_KINDS = {"gpt2": "byte-level BPE", "bpe": "byte-level BPE", "llama": "SentencePiece", "spm": "SentencePiece"}


@dataclass(frozen=True)
class InspectedTensor:
    """One stored tensor: torch's shape, the type's name in lower case, and its part of the model."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    role: str

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Part:
    """Some of the tensors, added up. The part "header" is what a file holds beside tensors, padding included."""

    name: str
    tensors: int
    weights: int
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """A model file or checkpoint as it lies on disk; per-layer values: one entry a layer; 0 or () where not told."""

    path: str
    kind: Literal["gguf", "checkpoint"]
    architecture: str
    bytes: int  # of the file, or of the files that hold the tensors
    header_bytes: int
    parameters: int
    layers: int
    hidden: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim: int
    ffn: tuple[int, ...]
    vocab: int
    context: int
    tied: bool
    tokenizer: str | None
    chat_template: bool
    by_type: tuple[Part, ...]
    by_role: tuple[Part, ...]
    tensors: tuple[InspectedTensor, ...]
    notes: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Of the matrices: no header, no vectors."""
        matrices = [tensor for tensor in self.tensors if len(tensor.shape) > 1]
        return 8 * sum(tensor.bytes for tensor in matrices) / max(1, sum(tensor.weights for tensor in matrices))


def inspect(path_or_id: str | Path) -> Inspection:
    """Look into a GGUF of any types and architecture, a Hugging Face folder, or a Hub id.

    Raises InputError where the file is damaged, or the checkpoint is not one that edgekit reads.
    """
    path = Path(path_or_id)
    if path.is_file():
        return _gguf(path, read_header(path))
    checkpoint = open_checkpoint(path_or_id)
    return _checkpoint(str(path_or_id), checkpoint)


def _gguf(path: Path, header: GgufHeader) -> Inspection:
    facts = _Metadata(path, header.metadata)
    tensors = tuple(_gguf_tensor(path, info) for info in header.tensors)
    size = path.stat().st_size
    last = max((info.offset + tensor.bytes for info, tensor in zip(header.tensors, tensors, strict=True)), default=0)
    if last > size:
        raise InputError(f"{path} ends within its last tensor: download or export it again")
    layers = facts.number("block_count")
    heads = facts.per_layer("attention.head_count", layers)
    hidden = facts.number("embedding_length")
    spread = hidden // max(1, *heads) if heads else 0
    header_bytes = size - sum(tensor.bytes for tensor in tensors)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return Inspection(
        path=str(path),
        kind="gguf",
        architecture=facts.architecture,
        bytes=size,
        header_bytes=header_bytes,
        parameters=sum(tensor.weights for tensor in tensors),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=facts.per_layer("attention.head_count_kv", layers) or heads,
        head_dim=facts.number("attention.key_length") or spread,
        ffn=facts.per_layer("feed_forward_length", layers),
        vocab=len(tokens) if isinstance(tokens, list) else facts.number("vocab_size"),
        context=facts.number("context_length"),
        tied=all(tensor.role != "head" for tensor in tensors),
        tokenizer=_tokenizer_kind(header.metadata.get("tokenizer.ggml.model")),
        chat_template=bool(header.metadata.get("tokenizer.chat_template")),
        by_type=_parts(tensors, lambda tensor: tensor.type, None),
        by_role=_parts(tensors, lambda tensor: tensor.role, header_bytes),
        tensors=tensors,
    )


def _gguf_tensor(path: Path, info: TensorInfo) -> InspectedTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {int(kind): kind for kind in GGMLQuantizationType}
    if info.ggml_type not in known:
        raise InputError(f"{path}: {info.name!r} has type {info.ggml_type}, which is unknown: update edgekit and gguf")
    kind = known[info.ggml_type]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    weights = math.prod(info.shape)
    role = next((role for pattern, role in _GGUF_ROLES if pattern.fullmatch(info.name)), None)
    if role is None:
        role = "norms and biases" if len(info.shape) < 2 else "other"
    return InspectedTensor(info.name, info.shape, kind.name.lower(), weights // block * block_bytes, role)


def _checkpoint(name: str, checkpoint: Checkpoint) -> Inspection:
    spec, stored = checkpoint.spec, checkpoint.source.stored
    tensors = tuple(
        InspectedTensor(
            name=tensor.name,
            shape=tensor.shape,
            type=stored[tensor.name].dtype.lower(),
            bytes=stored[tensor.name].bytes,
            role="norms and biases" if tensor.role in ("norm", "bias") else tensor.role,
        )
        for tensor in checkpoint.tensors
    )
    size = sum(file.stat().st_size for file in {tensor.file for tensor in stored.values()})
    header_bytes = size - sum(tensor.bytes for tensor in tensors)
    kind, template = _checkpoint_tokenizer(checkpoint)
    return Inspection(
        path=name,
        kind="checkpoint",
        architecture=spec.family,
        bytes=size,
        header_bytes=header_bytes,
        parameters=sum(tensor.weights for tensor in tensors),
        layers=spec.layers,
        hidden=spec.hidden,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        ffn=spec.ffn,
        vocab=spec.vocab,
        context=spec.context,
        tied=spec.tied,
        tokenizer=kind,
        chat_template=template,
        by_type=_parts(tensors, lambda tensor: tensor.type, None),
        by_role=_parts(tensors, lambda tensor: tensor.role, header_bytes),
        tensors=tensors,
        notes=checkpoint.notes,
    )


def _checkpoint_tokenizer(checkpoint: Checkpoint) -> tuple[str | None, bool]:
    """Kind, and whether there is a chat template; None and False where the tokenizer cannot be used."""
    from edgekit.models.tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(checkpoint)
    except MissingExtra:
        raise
    except InputError:
        return None, False
    return _tokenizer_kind(tokenizer.kind), tokenizer.chat_template is not None


def _tokenizer_kind(name: object) -> str | None:
    return _TOKENIZER_KINDS.get(name, name) if isinstance(name, str) else None


def _parts(
    tensors: tuple[InspectedTensor, ...], key: Callable[[InspectedTensor], str], header_bytes: int | None
) -> tuple[Part, ...]:
    """By type: the largest first. By role (where `header_bytes` is given): in the model's order, the header last."""
    groups: dict[str, list[InspectedTensor]] = {}
    for tensor in tensors:
        groups.setdefault(key(tensor), []).append(tensor)
    parts = [
        Part(name, len(group), sum(tensor.weights for tensor in group), sum(tensor.bytes for tensor in group))
        for name, group in groups.items()
    ]
    if header_bytes is None:
        return tuple(sorted(parts, key=lambda part: (-part.bytes, part.name)))
    return tuple(sorted([*parts, Part("header", 0, 0, header_bytes)], key=lambda part: _PARTS.index(part.name)))


class _Metadata:
    """A GGUF's keys under its architecture's name; a key of the wrong type counts as absent."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        name = metadata.get("general.architecture")
        if not isinstance(name, str):
            raise InputError(f"{path} does not tell its architecture: it is no language model's GGUF")
        self.architecture, self._metadata = name, metadata

    def number(self, key: str) -> int:
        value = self._metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0

    def per_layer(self, key: str, layers: int) -> tuple[int, ...]:
        value = self._metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, list) and all(isinstance(item, int) for item in value):
            return tuple(value)
        return (value,) * min(layers, 4096) if isinstance(value, int) else ()
