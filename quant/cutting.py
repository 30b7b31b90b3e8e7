"""A checkpoint without the heads, KV groups and channels that a structure leaves out, cut as tensors are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint, TensorSource
from edgekit.models.families import family_of
from edgekit.models.families.counts import pruned_config
from edgekit.models.forward import parameter_name
from edgekit.models.sources.stored import StoredTensor
from edgekit.quant.formats import format_of
from edgekit.quant.structure import Structure


@dataclass(frozen=True)
class _Changed:
    """A source's tensors under the same names and in the same types, with other values."""

    source: TensorSource
    values: Callable[[str], NDArray[np.float32]]

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """The places of the unchanged tensors."""
        return self.source.stored

    def dtype(self, name: str) -> str:
        return self.source.dtype(name)

    def read(self, name: str) -> NDArray[np.float32]:
        return self.values(name)


def cut(checkpoint: Checkpoint, structure: Structure) -> Checkpoint:
    """The checkpoint that is left; `load_model` makes its model, which computes what the masked unpruned one does."""
    config = pruned_config(checkpoint.config, structure.pruned_spec)
    family = family_of(config)
    spec = family.read_spec(config)
    uncut = {tensor.name: tensor for tensor in checkpoint.tensors}

    def values(name: str) -> NDArray[np.float32]:
        return np.ascontiguousarray(structure.take(uncut[name], checkpoint.source.read(name)))

    source = _Changed(checkpoint.source, values)
    return replace(checkpoint, spec=spec, config=config, tensors=family.tensors(spec), source=source)


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

    def values_now(name: str) -> NDArray[np.float32]:
        now: NDArray[np.float32] = parameters[parameter_name(name)].detach().numpy()
        return now

    return replace(checkpoint, source=_Changed(checkpoint.source, values_now))
