"""Open a checkpoint: a Hugging Face folder, a Hub id or an unquantised GGUF; tensors are read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.models.spec import ModelSpec, TensorSpec


class TensorSource(Protocol):
    """Where tensors lie: safetensors shards, a GGUF, a pickle loaded with weights_only, an adapter merged on top."""

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor of that Hugging Face name as float32, in torch's shape."""

    def dtype(self, name: str) -> str:
        """Its stored type: "F32", "F16", "BF16" or, from a quantised GGUF, the ggml type's name."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: everything about it but the tensors' values, which `read` fetches."""

    path: Path
    spec: ModelSpec
    config: Mapping[str, Any]  # as a Hugging Face config.json
    tensors: tuple[TensorSpec, ...]  # in file order, each present with its expected shape
    source: TensorSource

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor of that Hugging Face name as float32; InputError where it holds NaN or Inf."""
        raise NotImplementedError


def open_checkpoint(path_or_id: str | Path, *, adapter: Path | None = None, quantised: bool = False) -> Checkpoint:
    """Open and validate a checkpoint; `quantised` admits a quantised GGUF (the torch reference runtime's input).

    Raises InputError, naming the file and the way out.
    """
    raise NotImplementedError
