"""Read PyTorch's pickle checkpoints, with `weights_only` (no code is run) or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError, MissingExtra
from edgekit.models.sources.stored import StoredTensor

WAY_OUT = "convert it to safetensors where you trust it"


class PickleSource:
    """The tensors of one or more pickle files, mapped and not loaded."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._tensors: dict[str, Any] = {}
        self._stored: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in _load(file).items():
                if name in self._stored:
                    raise InputError(f"{file} and {self._stored[name].file} both hold {name}: keep one model's shards")
                size = tensor.numel() * tensor.element_size()
                self._stored[name] = StoredTensor(name, _dtype(tensor), tuple(tensor.shape), size, file)
                self._tensors[name] = tensor

    @property
    def stored(self) -> dict[str, StoredTensor]:
        """Every tensor in the files by name."""
        return self._stored

    def dtype(self, name: str) -> str:
        return self._stored[name].dtype

    def read(self, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._tensors[name].float().numpy()
        return np.array(values, order="C")


def _load(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "quantize") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} does not load with weights_only: {WAY_OUT}") from error
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise InputError(f"{path} is not a PyTorch checkpoint that can be mapped: {WAY_OUT}") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) and name.isprintable() for name in state):
        raise InputError(f"{path} holds no tensors by name: {WAY_OUT}")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise InputError(f"{path}: {name} is not a plain tensor: {WAY_OUT}")
    return state


def _dtype(tensor: Any) -> str:
    """safetensors' name of a tensor's type."""
    known = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    kind = str(tensor.dtype).removeprefix("torch.")
    return known.get(kind, kind.upper().replace("FLOAT8", "F8"))
