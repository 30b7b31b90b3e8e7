"""What a decoded token reads of a GGUF: its weights by type, and the attention cache."""

from __future__ import annotations

import math
from pathlib import Path

from edgekit.devices.predict import cache_read
from edgekit.devices.result import Config, Reads
from edgekit.models.errors import InputError
from edgekit.models.sources.gguf_file import open_gguf
from edgekit.runtimes import CacheTypes


def token_reads(model: Path, config: Config) -> Reads | None:
    """On average over the tokens that a benchmark decodes; None for an architecture that edgekit does not know.

    The first of them sees the prompt and itself, the last gen_tokens - 2 more.
    """
    try:
        found, family, source = open_gguf(model, quantised=True)
        spec = family.read_spec(found)
    except InputError:
        return None
    looked_up = set() if spec.tied else {t.name for t in family.tensors(spec) if t.role == "embedding"}
    weights: dict[str, int] = {}
    for name, tensor in source.stored.items():
        rows = math.prod(tensor.shape[:-1]) if name in looked_up else 1
        weights[tensor.dtype] = weights.get(tensor.dtype, 0) + tensor.bytes // rows
    types = None if config.cache_type is None else CacheTypes.parse(config.cache_type)
    return Reads(weights, cache_read(spec, config.prompt_tokens + config.gen_tokens // 2, types))
