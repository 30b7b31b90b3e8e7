"""What a decoded token reads, against what the runtime itself says and against arithmetic done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from models_random import random_checkpoint
from plain_files import write_plain

from edgekit import _native
from edgekit.devices.reads import token_reads
from edgekit.devices.result import Config
from edgekit.models.checkpoint import open_checkpoint


@pytest.mark.parametrize(
    ("family", "options"), [("llama", {"tied": True}), ("llama", {"tied": False}), ("gemma3", {"window": 32})]
)
def test_weights_and_cache(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    source = random_checkpoint(tmp_path / "hf", family, ffn=128, **options)
    spec = open_checkpoint(source).spec
    path = write_plain(tmp_path / "model.gguf", "q4_0", source)
    found = token_reads(path, Config(100, 20, 1, 1))
    assert found is not None
    assert sum(found.weights.values()) == _native.Model(str(path)).decode_bytes
    sliding = spec.sliding or (False,) * spec.layers
    # at a mean position of 110: the first decoded token sees 101, the last of the 19 that are timed 119
    seen = [min(110, spec.window or 0) if slides else 110 for slides in sliding]
    each = spec.head_dim * 2 * 2  # a key and a value of two bytes
    assert found.cache == sum(count * heads * each for count, heads in zip(seen, spec.kv_heads, strict=True))
    small = token_reads(path, Config(100, 20, 1, 1, "q8_0,q4_0"))
    assert small is not None and small.weights == found.weights
    assert small.cache == int(found.cache / 4 * (34 / 32 + 18 / 32))


def test_a_file_that_edgekit_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(b"GGUF")
    assert token_reads(path, Config(100, 20, 1, 1)) is None
