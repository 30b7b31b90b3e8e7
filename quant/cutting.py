"""A checkpoint without the heads, KV groups and channels that a structure leaves out, cut as tensors are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint, TensorSource
from edgekit.models.families import family_of
from edgekit.models.families.counts import pruned_config
from edgekit.models.forward import parameter_name
from edgekit.models.sources.stored import StoredTensor
from edgekit.models.spec import TensorSpec
from edgekit.quant.formats import format_of
from edgekit.quant.structure import Structure


class _Cut:
    """A checkpoint's tensors under the same names, without what the structure leaves out."""

    def __init__(self, source: TensorSource, tensors: Mapping[str, TensorSpec], structure: Structure) -> None:
        self._source, self._tensors, self._structure = source, tensors, structure

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """The uncut tensors' places."""
        return self._source.stored

    def dtype(self, name: str) -> str:
        return self._source.dtype(name)

    def read(self, name: str) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._structure.take(self._tensors[name], self._source.read(name)))


def cut(checkpoint: Checkpoint, structure: Structure) -> Checkpoint:
    """The checkpoint that is left; `load_model` makes its model, which computes what the masked unpruned one does."""
    config = pruned_config(checkpoint.config, structure.pruned_spec)
    family = family_of(config)
    spec = family.read_spec(config)
    source = _Cut(checkpoint.source, {tensor.name: tensor for tensor in checkpoint.tensors}, structure)
    return replace(checkpoint, spec=spec, config=config, tensors=family.tensors(spec), source=source)


class _OfModel:
    """Tensors as a model has them now, in the types of a checkpoint's."""

    def __init__(self, source: TensorSource, model: Any) -> None:
        self._source, self._parameters = source, dict(model.named_parameters())

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """The places of those that the model came from."""
        return self._source.stored

    def dtype(self, name: str) -> str:
        return self._source.dtype(name)

    def read(self, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._parameters[parameter_name(name)].detach().numpy()
        return values


def of_model(checkpoint: Checkpoint, model: Any) -> Checkpoint:
    """The checkpoint with the values of `model`, which was made from it; its layers are first rounded to stored types.

    So what is measured of the model is what a folder written from here holds.
    """
    parameters = dict(model.named_parameters())
    for tensor in checkpoint.tensors:
        dtype = checkpoint.source.dtype(tensor.name)
        if tensor.layer is not None and dtype in ("F16", "BF16"):
            values = parameters[parameter_name(tensor.name)].data.numpy()
            format = format_of(dtype.lower())
            values[...] = format.decode(format.encode(values.reshape(1, -1), None)).reshape(values.shape)
    return replace(checkpoint, source=_OfModel(checkpoint.source, model))
