"""The model families, one module each; a new one is a module that satisfies `Family` and a line in `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

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

    def config_from_gguf(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The Hugging Face config that `gguf_metadata` came from (for GGUF input and the torch reference)."""
