"""Open a checkpoint: a Hugging Face folder, a Hub id or an unquantised GGUF; tensors are read one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models import adapter as lora
from edgekit.models.errors import InputError
from edgekit.models.families import Family, family_of
from edgekit.models.sources import hub
from edgekit.models.sources.folder import WAY_OUT, LanguageModel, open_weights, read_config, read_json
from edgekit.models.sources.gguf_file import open_gguf
from edgekit.models.sources.stored import PIECE_BYTES, TensorSource
from edgekit.models.spec import ModelSpec, TensorSpec

__all__ = ["Checkpoint", "TensorSource", "open_checkpoint"]

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Buffers that old checkpoints saved: they follow from the config.
IGNORED_ENDINGS = ("rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")
# What marks a tensor of a quantised checkpoint whose config does not say so.
QUANTISED_ENDINGS = {
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "FP8 or compressed-tensors",
    ".weight_scale_inv": "FP8",
    ".absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: everything about it but the tensors' values, which `read` fetches."""

    path: Path
    spec: ModelSpec
    config: Mapping[str, Any]  # as a Hugging Face config.json, of the text model
    tensors: tuple[TensorSpec, ...]  # in file order, each present with its expected shape
    source: TensorSource
    notes: tuple[str, ...] = ()  # what the user should know: a shortened context, parts left out, a merged adapter

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor of that Hugging Face name as float32; InputError where it holds NaN or Inf."""
        values = self.source.read(name)
        flat, step = values.reshape(-1), PIECE_BYTES // 4
        for start in range(0, flat.size, step):
            if not np.isfinite(flat[start : start + step]).all():
                file = self.source.stored[name].file
                raise InputError(f"{file}: {name} holds NaN or Inf: take an undamaged checkpoint")
        return values

    @property
    def fingerprint(self) -> str:
        """sha256 of the family, tensor names and shapes: plans of one checkpoint fit another with the same."""
        parts = [self.spec.family, *([tensor.name, list(tensor.shape)] for tensor in self.tensors)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def stored_bytes(self) -> int:
        """What the tensors take in the checkpoint's own files."""
        return sum(self.source.stored[tensor.name].bytes for tensor in self.tensors)


def open_checkpoint(path_or_id: str | Path, *, adapter: Path | None = None, quantised: bool = False) -> Checkpoint:
    """Open and validate a checkpoint; `quantised` admits a quantised GGUF (the torch reference runtime's input).

    A path that does not exist and reads like owner/name is looked for on the Hugging Face Hub. `adapter` is the folder
    of a LoRA adapter, merged as tensors are read. Values are checked when they are read, all else here.
    Raises InputError, naming the file and the way out.
    """
    path = Path(path_or_id)
    if not path.exists():
        if not (isinstance(path_or_id, str) and hub.looks_like_id(path_or_id)):
            raise InputError(
                f"there is no file or folder {path_or_id}: give a checkpoint's folder or its Hub id owner/name"
            )
        path = hub.download(path_or_id)
    notes: list[str] = []
    source: TensorSource
    if path.is_dir():
        config = read_config(path)
        source = open_weights(path)
        if "text_config" in read_json(path / "config.json"):
            source = LanguageModel(source)
            notes.append(f"{path} is multimodal: its language model alone is used")
        try:
            family: Family = family_of(config)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    elif path.suffix == ".gguf":
        config, family, source = open_gguf(path, quantised=quantised)
    else:
        raise InputError(f"{path} is not a checkpoint: give the folder that holds config.json, or a .gguf file")
    return _checkpoint(path, config, family, source, adapter, notes)


def open_folder(path_or_id: str | Path, *, adapter: Path | None = None) -> Checkpoint:
    """As `open_checkpoint`, for what writes a Hugging Face folder again: InputError for a GGUF."""
    checkpoint = open_checkpoint(path_or_id, adapter=adapter)
    if not checkpoint.path.is_dir():
        raise InputError(f"{checkpoint.path} is a GGUF: give the Hugging Face folder that it was made from")
    return checkpoint


def _checkpoint(
    path: Path, config: dict[str, Any], family: Family, source: TensorSource, adapter: Path | None, notes: list[str]
) -> Checkpoint:
    try:
        spec = family.read_spec(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    tensors = family.tensors(spec)
    _check_tensors(path, spec, tensors, source)
    stated = config.get("max_position_embeddings")
    if isinstance(stated, int) and spec.context < stated:
        notes.append(
            f"the context is {spec.context} tokens, not {stated}: GGUF cannot express this model's sliding window, "
            "which has no effect up to there"
        )
    if adapter is not None:
        source = lora.merge(source, spec, tensors, adapter)
        notes.append(f"merged the LoRA adapter {adapter}: {len(source.changes)} tensors")
    return Checkpoint(path, spec, config, tensors, source, tuple(notes))


def _check_tensors(path: Path, spec: ModelSpec, tensors: tuple[TensorSpec, ...], source: TensorSource) -> None:
    """Every tensor of the family is there, of its shape and of a float type, and no other one is."""
    stored = source.stored
    _refuse_quantised_tensors(path, source)
    missing = [tensor.name for tensor in tensors if tensor.name not in stored]
    if missing:
        raise InputError(f"{path} lacks {_some(missing)}: download the whole checkpoint")
    for tensor in tensors:
        there = stored[tensor.name]
        if there.shape == tensor.shape:
            continue
        if tensor.role == "embedding" and there.shape[1:] == tensor.shape[1:]:
            raise InputError(
                f"{there.file}: the embedding has {there.shape[0]} rows, but config.json says vocab_size {spec.vocab}: "
                "correct vocab_size or take the matching files"
            )
        raise InputError(
            f"{there.file}: {tensor.name} is {list(there.shape)}, not {list(tensor.shape)} as config.json makes it: "
            "take the config.json that came with these weights"
        )
    names = {tensor.name for tensor in tensors}
    unknown = [name for name in stored if name not in names and not name.endswith(IGNORED_ENDINGS)]
    if spec.tied and HEAD in unknown:
        _check_tied_head(source)
        unknown.remove(HEAD)
    if unknown:
        raise InputError(
            f"{path} has tensors that a {spec.family} model does not: {_some(unknown)}: is config.json its own?"
        )


def _refuse_quantised_tensors(path: Path, source: TensorSource) -> None:
    for name, tensor in source.stored.items():
        method = next((method for ending, method in QUANTISED_ENDINGS.items() if name.endswith(ending)), None)
        if method is None and tensor.dtype.startswith(("F8_", "F6_", "F4")):
            method = "FP8" if tensor.dtype.startswith("F8_") else tensor.dtype
        if method is not None:
            raise InputError(f"{path}: the checkpoint is already quantised ({method}, see {name}): {WAY_OUT}")
        if tensor.dtype in ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "C64"):
            raise InputError(f"{tensor.file}: {name} is stored as {tensor.dtype}, not as F16, BF16 or F32: {WAY_OUT}")


def _check_tied_head(source: TensorSource) -> None:
    """A tied model's file may hold the head as well, but only as the embedding's equal."""
    head, embedding = source.stored[HEAD], source.stored.get(EMBEDDING)
    if embedding is None or head.shape != embedding.shape or _digest(source, HEAD) != _digest(source, EMBEDDING):
        raise InputError(
            f"{head.file}: {HEAD} differs from the embedding, but config.json says tie_word_embeddings: "
            "set it to false to keep both"
        )


def _digest(source: TensorSource, name: str) -> bytes:
    """Of a tensor's values, so that comparing two holds one at a time."""
    return hashlib.sha256(source.read(name).data).digest()


def _some(names: list[str]) -> str:
    """The first three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
