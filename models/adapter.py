"""Merge a LoRA adapter: W + scaling * B A (Hu et al., arXiv 2106.09685), as tensors are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.sources.folder import read_json, text_name
from edgekit.models.sources.safetensors_file import SafetensorsSource
from edgekit.models.sources.stored import FLOAT_TYPES, StoredTensor, TensorSource
from edgekit.models.spec import ModelSpec, TensorSpec

ROWS = 4096  # of a product at a time
PREFIX = "base_model.model."
# A low-rank pair's tensors: of a linear A (r, in) and B (out, r), of an embedding A (r, vocabulary) and B (hidden, r).
PART = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(\.default)?(?P<weight>\.weight)?")
# These initialisations also change the base's weights, so that the published base is not the adapter's.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

# Options of peft's LoraConfig that make the layer something else than W + scaling * B A.
UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "layer_replication", "arrow_config"),
    *("alora_invocation_tokens", "kasa_config", "monteclora_config", "velora_config", "target_parameters"),
)


@dataclass
class _Change:
    """What the adapter does to one tensor: adds a low-rank pair, or replaces it (modules_to_save, trained biases)."""

    a: str | None = None
    b: str | None = None
    embedding: bool = False
    replacement: str | None = None
    scaling: float = 0.0


@dataclass
class AdaptedSource:
    """A source with an adapter merged on top; the products are made in float32 when a tensor is read."""

    base: TensorSource
    adapter: TensorSource
    changes: Mapping[str, _Change] = field(default_factory=dict)

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """The base's tensors."""
        return self.base.stored

    def dtype(self, name: str) -> str:
        return self.base.dtype(name)

    def read(self, name: str) -> NDArray[np.float32]:
        change = self.changes.get(name)
        if change is None:
            return self.base.read(name)
        if change.replacement:
            return self.adapter.read(change.replacement)
        assert change.a and change.b
        values = self.base.read(name)
        a, b = self.adapter.read(change.a), self.adapter.read(change.b)
        left, right = (a.T, b.T) if change.embedding else (b, a)
        for start in range(0, len(values), ROWS):
            values[start : start + ROWS] += np.float32(change.scaling) * (left[start : start + ROWS] @ right)
        return values


def merge(base: TensorSource, spec: ModelSpec, tensors: tuple[TensorSpec, ...], folder: Path) -> AdaptedSource:
    """The base with the adapter in `folder` merged.

    Raises InputError for adapters of other kinds, for tensors that the base does not have, for wrong shapes, and where
    the embedding or head of a tied model would change (the two would no longer be one).
    """
    if not (folder / "adapter_config.json").exists():
        raise InputError(f"{folder} has no adapter_config.json: give the folder of a LoRA adapter")
    config = read_json(folder / "adapter_config.json")
    _check_config(folder, config)
    adapter = _open(folder)
    specs = {tensor.name: tensor for tensor in tensors}
    changes = _changes(folder, adapter.stored, specs)
    for name, change in changes.items():
        if spec.tied and specs[name].role == "embedding":
            raise InputError(f"{folder} changes {name}, which is tied to the head: untie them in the base first")
        _check_shapes(folder, adapter.stored, specs[name], change)
        if change.a is not None:
            change.scaling = _scaling(folder, config, name, adapter.stored[change.a].shape[0])
    return AdaptedSource(base, adapter, changes)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{folder} is a {kind} adapter: edgekit merges LoRA adapters only")
    for key in UNSUPPORTED:
        if config.get(key):
            raise InputError(f"{folder}/adapter_config.json: {key} is not supported: merge the adapter with peft first")
    initialisation = config.get("init_lora_weights")
    if isinstance(initialisation, str) and initialisation.lower().startswith(CHANGES_BASE):
        raise InputError(
            f"{folder} was initialised with {initialisation}, which changes the base: merge it with peft first"
        )


def _open(folder: Path) -> TensorSource:
    if (folder / "adapter_model.safetensors").exists():
        return SafetensorsSource((folder / "adapter_model.safetensors",))
    if (folder / "adapter_model.bin").exists():
        from edgekit.models.sources.pickle_file import PickleSource

        return PickleSource((folder / "adapter_model.bin",))
    raise InputError(f"{folder} has no adapter_model.safetensors: download the adapter's weights too")


def _changes(folder: Path, stored: Mapping[str, StoredTensor], specs: Mapping[str, TensorSpec]) -> dict[str, _Change]:
    """Base tensor's name -> what changes it; every adapter tensor must belong to one."""
    changes: dict[str, _Change] = {}
    for key, tensor in stored.items():
        name = text_name(key.removeprefix(PREFIX))
        match = PART.fullmatch(name)
        if match and bool(match["weight"]) is not bool(match["embedding"]):
            name = f"{match['module']}.weight"
        if name not in specs:
            raise InputError(f"{folder} changes {key}, which the base does not have: is it this model's adapter?")
        if tensor.dtype not in FLOAT_TYPES:
            raise InputError(f"{folder}: {key} is stored as {tensor.dtype}, not as F16, BF16 or F32")
        change = changes.setdefault(name, _Change())
        if match is None:
            change.replacement = key
            continue
        change.embedding = bool(match["embedding"])
        setattr(change, match["part"].lower(), key)
    if not changes:
        raise InputError(f"{folder} holds no tensors: download the adapter's weights again")
    return changes


def _check_shapes(folder: Path, stored: Mapping[str, StoredTensor], spec: TensorSpec, change: _Change) -> None:
    if change.replacement is not None:
        shape = stored[change.replacement].shape
        fits = shape == spec.shape and change.a is None and change.b is None
        raise_for = change.replacement
    else:
        if change.a is None or change.b is None:
            raise InputError(f"{folder} has only one of the two LoRA matrices of {spec.name}: download it again")
        a, b = stored[change.a].shape, stored[change.b].shape
        rows, columns = reversed(spec.shape) if change.embedding else spec.shape
        shape, raise_for = a, change.a
        fits = len(a) == len(b) == 2 and a[0] >= 1 and a == (a[0], columns) and b == (rows, a[0])
        fits = fits and change.embedding == (spec.role == "embedding")
    if not fits:
        raise InputError(f"{folder}: {raise_for} {list(shape)} does not fit the base's {spec.name} {list(spec.shape)}")


def _scaling(folder: Path, config: Mapping[str, Any], name: str, rank: int) -> float:
    """lora_alpha / r, or lora_alpha / sqrt(r) where rank-stabilised (Kalajdzievski, arXiv 2312.03732)."""
    module = name.removesuffix(".weight")
    stated = _pattern(folder, config, "rank_pattern", module, config.get("r"))
    alpha = _pattern(folder, config, "alpha_pattern", module, config.get("lora_alpha", 8))
    if stated != rank:
        raise InputError(f"{folder}: {name} has rank {rank}, but adapter_config.json says {stated}: use its own config")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise InputError(f"{folder}/adapter_config.json: lora_alpha is {alpha!r}, not a number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(folder: Path, config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """A per-module value: the first pattern that ends the module's name, whole names between dots; `^` anchors it."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise InputError(f"{folder}/adapter_config.json: {key} is not an object")
    for pattern, value in patterns.items():
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.-]+", plain):
            raise InputError(f"{folder}/adapter_config.json: {key} {pattern!r} is not a module's name")
        if module == plain or (not pattern.startswith("^") and module.endswith(f".{plain}")):
            return value
    return default
