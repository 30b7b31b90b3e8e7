"""Open a checkpoint: a Hugging Face folder, a Hub id or an unquantised GGUF; tensors are read one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.families import Family, family_of
from edgekit.models.sources.folder import open_weights, read_config
from edgekit.models.sources.stored import PIECE_BYTES, StoredTensor
from edgekit.models.spec import ModelSpec, TensorSpec


class TensorSource(Protocol):
    """Where tensors lie: safetensors shards, a GGUF, a pickle loaded with weights_only, an adapter merged on top."""

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """Every tensor that is there, by Hugging Face name: type, shape, bytes, file."""

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor of that Hugging Face name as float32, in torch's shape."""

    def dtype(self, name: str) -> str:
        """Its stored type: "F32", "F16", "BF16" or, from a quantised GGUF, the ggml type's name."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: everything about it but the tensors' values, which `read` fetches."""

    path: Path
    spec: ModelSpec
    config: Mapping[str, Any]  # as a Hugging Face config.json, of the text model
    tensors: tuple[TensorSpec, ...]  # in file order, each present with its expected shape
    source: TensorSource
    notes: tuple[str, ...] = ()  # what the user should know: a shortened context, ignored parts

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor of that Hugging Face name as float32; InputError where it holds NaN or Inf."""
        values = self.source.read(name)
        flat, step = values.reshape(-1), PIECE_BYTES // 4
        for start in range(0, flat.size, step):
            if not np.isfinite(flat[start : start + step]).all():
                file = self.source.stored[name].file
                raise InputError(f"{file}: {name} holds NaN or Inf: the checkpoint is damaged or its training diverged")
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

    `adapter` is the folder of a LoRA adapter, whose product is added to the tensors as they are read.
    Raises InputError, naming the file and the way out.
    """
    path = Path(path_or_id)
    config = read_config(path)
    return _checkpoint(path, config, family_of(config), open_weights(path))


def _checkpoint(path: Path, config: dict[str, Any], family: Family, source: TensorSource) -> Checkpoint:
    try:
        spec = family.read_spec(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    tensors = family.tensors(spec)
    return Checkpoint(path, spec, config, tensors, source)
