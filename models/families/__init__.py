"""The model families, one module each; a new one is a module that satisfies `Family` and a line in `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Protocol

from edgekit.models.errors import InputError
from edgekit.models.families import deci, gemma3, llama, qwen2, qwen3
from edgekit.models.spec import ModelSpec, TensorSpec


class Family(Protocol):
    """What a module of this package provides."""

    name: str  # also GGUF's general.architecture
    model_types: tuple[str, ...]  # config.json's model_type values

    def read_spec(self, config: Mapping[str, Any]) -> ModelSpec:
        """The specification in a Hugging Face config; InputError where a field is missing or unsupported."""

    def tensors(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """Every stored tensor, in file order: embedding, layers in order, final norm, head (where untied)."""

    def gguf_metadata(self, spec: ModelSpec) -> dict[str, Any]:
        """The architecture's own GGUF keys (`llama.block_count`, ...) with plain Python values."""

    def config_from_gguf(self, metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
        """The Hugging Face config that `gguf_metadata` came from (for GGUF input and the torch reference).

        Biases and an untied head have no key: `tensor_names`, the GGUF's, tell them. `vocab_size` is the caller's.
        """


FAMILIES: tuple[Family, ...] = (llama, qwen2, qwen3, gemma3, deci)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a Hugging Face config's model_type; InputError where it is unknown."""
    model_type = config.get("model_type")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    raise InputError(f"architecture {model_type!r} is not supported: edgekit knows {known}")


def family_named(name: str) -> Family:
    """The family of that name, which is GGUF's general.architecture; InputError where it is unknown."""
    for family in FAMILIES:
        if name == family.name:
            return family
    raise InputError(f"architecture {name!r} is not supported: edgekit knows {', '.join(f.name for f in FAMILIES)}")
