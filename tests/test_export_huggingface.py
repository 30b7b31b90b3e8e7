"""Checkpoint folders: read back by Hugging Face's own libraries, bit for bit, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from checkpoints import GEMMA, LLAMA, random_tensors, save_folder
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from edgekit.export import huggingface
from edgekit.export.huggingface import write_folder
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.errors import InputError, TargetError
from edgekit.models.tokenizer import load_tokenizer

SAMPLE = Path(__file__).parent / "assets" / "sample"


def copy(checkpoint: Checkpoint, folder: Path, **options: Any) -> int:
    return write_folder(checkpoint, folder, checkpoint.read, **{"config": checkpoint.config, "texts": {}, **options})


def test_a_copy_of_the_sample_is_the_sample(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLE)
    size = copy(checkpoint, tmp_path / "copy", texts={"note.json": "{}"})
    assert size == (tmp_path / "copy" / "model.safetensors").stat().st_size
    names = {path.name for path in SAMPLE.iterdir()} - {"README.md"} | {"note.json"}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names
    for name in names - {"note.json", "model.safetensors", "config.json"}:
        assert (tmp_path / "copy" / name).read_bytes() == (SAMPLE / name).read_bytes()
    with (
        safe_open(SAMPLE / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "copy" / "model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())
        assert after.metadata() == {"format": "pt"}  # without which transformers refuses the file
        for name in before.keys():  # noqa: SIM118
            assert before.get_tensor(name).dtype == after.get_tensor(name).dtype
            assert before.get_tensor(name).equal(after.get_tensor(name))
    again = open_checkpoint(tmp_path / "copy")
    assert again.spec == checkpoint.spec and again.fingerprint == checkpoint.fingerprint
    assert load_tokenizer(again).tokens == load_tokenizer(checkpoint).tokens
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    assert model.num_parameters() == 7_344_384


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2"])
def test_types_are_kept(dtype: str, tmp_path: Path) -> None:
    """Wider types lie first, each aligned to itself: one-dimensional tensors of an odd length are among them."""
    tensors = {
        name: values.astype(np.float32 if name.endswith("norm.weight") else dtype)
        for name, values in random_tensors(GEMMA | {"hidden_size": 33}).items()
    }
    checkpoint = open_checkpoint(save_folder(tmp_path / "a", GEMMA | {"hidden_size": 33}, tensors))
    copy(checkpoint, tmp_path / "b")
    written = load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, values in tensors.items():
        assert written[name].dtype == values.dtype
        np.testing.assert_array_equal(written[name], values.astype(np.float32).astype(values.dtype))
    with (tmp_path / "b" / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, values in tensors.items():
        assert (8 + length + header[name]["data_offsets"][0]) % values.dtype.itemsize == 0


def test_bfloat16_is_rounded_to_nearest(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLE)
    changed = np.float32(1) + np.float32(2**-8) * np.array([0.99, 1, 1.01, 3], np.float32)

    def read(name: str) -> NDArray[np.float32]:
        values = checkpoint.read(name)
        if name == "model.norm.weight":
            values[:4] = changed
        return values

    write_folder(checkpoint, tmp_path / "b", read, config=checkpoint.config, texts={})
    values = open_checkpoint(tmp_path / "b").read("model.norm.weight")
    np.testing.assert_array_equal(values[:4], 1 + np.array([0, 0, 2, 4]) * 2.0**-8)


def test_shards_and_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 10_000)
    tensors = random_tensors(LLAMA)
    checkpoint = open_checkpoint(save_folder(tmp_path / "a", LLAMA, tensors))
    size = copy(checkpoint, tmp_path / "b")
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "b").glob("*.safetensors"))
    count = len(shards)
    assert count > 3 and size == sum(path.stat().st_size for path in shards)
    assert [path.name for path in shards] == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    for path in shards:
        written = load_file(path)
        assert sum(values.nbytes for values in written.values()) <= 10_000 or len(written) == 1
        assert set(written) == {name for name, file in index["weight_map"].items() if file == path.name}
    again = open_checkpoint(tmp_path / "b")
    for name, values in tensors.items():
        np.testing.assert_array_equal(again.read(name), values)


def test_another_config_has_other_shapes(tmp_path: Path) -> None:
    """As of a model with fewer heads: the tensors follow from the config, and `read` must give them so."""
    checkpoint = open_checkpoint(save_folder(tmp_path / "a", LLAMA, random_tensors(LLAMA)))
    narrow = LLAMA | {"intermediate_size": 32}
    tensors = random_tensors(narrow)
    write_folder(checkpoint, tmp_path / "b", tensors.__getitem__, config=narrow, texts={})
    assert open_checkpoint(tmp_path / "b").spec.ffn == (32, 32)
    with pytest.raises(InputError, match=r"gate_proj.weight is \[64, 32\], config.json makes it \[32, 32\]"):
        write_folder(checkpoint, tmp_path / "c", checkpoint.read, config=narrow, texts={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLE)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        copy(checkpoint, tmp_path / "there")
    with pytest.raises(InputError, match="there is no folder"):
        copy(checkpoint, tmp_path / "missing" / "b")
    tensors = {name: values.astype(np.float16) for name, values in random_tensors(LLAMA).items()}
    half = open_checkpoint(save_folder(tmp_path / "half", LLAMA, tensors))
    with pytest.raises(InputError, match="beyond float16's range"):
        write_folder(half, tmp_path / "b", lambda name: half.read(name) * 1e6, config=half.config, texts={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "there"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_nothing_half_written_is_left(error: BaseException, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLE)

    def read(name: str) -> NDArray[np.float32]:
        if name == "model.layers.3.mlp.up_proj.weight":
            raise error
        return checkpoint.read(name)

    expected = TargetError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_folder(checkpoint, tmp_path / "b", read, config=checkpoint.config, texts={})
    assert list(tmp_path.iterdir()) == []
