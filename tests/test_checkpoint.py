"""Opening checkpoints: each way in which the input can be wrong gives one InputError that names it."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from checkpoints import GEMMA, LLAMA, Tensors, random_tensors, save_folder, save_gguf
from safetensors.numpy import save_file

from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.errors import InputError
from edgekit.models.sources.safetensors_file import read_header

Q = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@pytest.fixture
def tensors() -> Tensors:
    return random_tensors(LLAMA)


@pytest.fixture
def folder(tmp_path: Path, tensors: Tensors) -> Path:
    return save_folder(tmp_path / "model", LLAMA, tensors)


def read_all(checkpoint: Checkpoint) -> Tensors:
    return {tensor.name: checkpoint.read(tensor.name) for tensor in checkpoint.tensors}


def assert_refused(path: str | Path, message: str, **options: Any) -> None:
    """Opening or reading fails with an InputError of one line that has `message` and names the path."""
    with pytest.raises(InputError) as caught:
        read_all(open_checkpoint(path, **options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert Path(path).name in str(caught.value)


def shard(folder: Path, tensors: Tensors, ending: str = "safetensors") -> dict[str, Any]:
    """Put the folder's tensors into two shards with an index; returns the index."""
    stem = "model" if ending == "safetensors" else "pytorch_model"
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-0000{number}-of-00002.{ending}"
        if ending == "safetensors":
            save_file({name: tensors[name] for name in part}, folder / file)
        else:
            torch.save({name: torch.from_numpy(tensors[name]) for name in part}, folder / file)
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return index


# --- what works


def test_reads_a_folder(folder: Path, tensors: Tensors) -> None:
    checkpoint = open_checkpoint(folder)
    assert {name: values.tobytes() for name, values in read_all(checkpoint).items()} == {
        name: values.tobytes() for name, values in tensors.items()
    }
    assert checkpoint.stored_bytes == sum(values.nbytes for values in tensors.values())
    assert checkpoint.path == folder
    assert checkpoint.notes == ()


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_reads_shards(ending: str, folder: Path, tensors: Tensors) -> None:
    shard(folder, tensors, ending)
    for name, values in read_all(open_checkpoint(str(folder))).items():
        assert np.array_equal(values, tensors[name])


def test_reading_holds_little_more_than_the_tensor(tmp_path: Path) -> None:
    config = {**LLAMA, "vocab_size": 1 << 18, "tie_word_embeddings": True}
    tensors = random_tensors(config)
    tensors = {name: values.astype(np.float16) for name, values in tensors.items()}
    checkpoint = open_checkpoint(save_folder(tmp_path, config, tensors))
    del tensors
    tracemalloc.start()
    values = checkpoint.read(EMBEDDING)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.nbytes == 1 << 25
    assert peak < values.nbytes + (40 << 20)


def test_fingerprint_is_of_names_and_shapes_only(tmp_path: Path, folder: Path) -> None:
    other = open_checkpoint(save_folder(tmp_path / "other", LLAMA, random_tensors(LLAMA, seed=1)))
    wider = {**LLAMA, "intermediate_size": 96}
    assert other.fingerprint == open_checkpoint(folder).fingerprint
    assert other.fingerprint != open_checkpoint(save_folder(tmp_path / "w", wider, random_tensors(wider))).fingerprint


def test_known_buffers_and_an_equal_tied_head_are_ignored(tmp_path: Path) -> None:
    tensors = random_tensors(GEMMA)
    extra = {HEAD: tensors[EMBEDDING], "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    checkpoint = open_checkpoint(save_folder(tmp_path / "model", GEMMA, {**tensors, **extra}))
    assert HEAD not in {tensor.name for tensor in checkpoint.tensors}
    with pytest.raises(InputError, match=r"lm_head\.weight differs from the embedding, .* tie_word_embeddings"):
        open_checkpoint(save_folder(tmp_path / "other", GEMMA, {**tensors, HEAD: tensors[EMBEDDING] + 1}))


@pytest.mark.parametrize("layout", ["language_model.", "model.language_model."])
def test_the_language_model_of_a_multimodal_checkpoint(layout: str, tmp_path: Path) -> None:
    tensors = random_tensors(GEMMA)
    names = {name: layout + name if layout == "language_model." else layout + name[6:] for name in tensors}
    nested = {names[name]: values for name, values in tensors.items()}
    nested["vision_tower.x.weight"] = nested["model.multi_modal_projector.w"] = np.zeros((2, 2), np.float32)
    text = {key: value for key, value in GEMMA.items() if key != "tie_word_embeddings"}
    config = {"model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106]}
    checkpoint = open_checkpoint(save_folder(tmp_path, config, nested))
    assert checkpoint.config["model_type"] == "gemma3_text"
    assert checkpoint.config["eos_token_id"] == [1, 106]
    assert "language model alone" in checkpoint.notes[0]
    for name, values in read_all(checkpoint).items():
        assert np.array_equal(values, tensors[name])


# --- folders


def test_paths_that_are_no_checkpoint(tmp_path: Path, folder: Path) -> None:
    assert_refused(tmp_path / "nothing", "there is no file or folder")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "has no config.json")
    assert_refused(folder / "model.safetensors", "give the folder that holds config.json")
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "has no model.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "is not valid JSON"),
        ("{}", "architecture None is not supported"),
        ('{"model_type": ["llama"]}', "is not supported"),
        ('{"model_type": "gpt2"}', "'gpt2' is not supported: edgekit knows llama, mistral, qwen2, qwen3, gemma3_text"),
    ],
)
def test_bad_config(text: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    assert_refused(folder, message)


def test_config_that_is_not_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    assert_refused(folder, "is not valid JSON")


def test_an_adapter_without_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base", "peft_type": "LORA"}')
    assert_refused(tmp_path, "without its base: give the base (some/base) as checkpoint and --adapter")


@pytest.mark.parametrize(
    ("quantisation", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "already quantised (gptq)"),
        ({"quant_method": "awq"}, "already quantised (awq)"),
        ({"quant_method": "fp8"}, "already quantised (fp8)"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "already quantised (bitsandbytes)"),
        ({}, "already quantised (unknown method)"),
    ],
)
def test_quantised_by_config(quantisation: dict[str, Any], message: str, folder: Path, tensors: Tensors) -> None:
    save_folder(folder, {**LLAMA, "quantization_config": quantisation}, tensors)
    assert_refused(folder, message)


@pytest.mark.parametrize(("file", "method"), [("quantize_config.json", "gptq"), ("quant_config.json", "awq")])
def test_quantised_by_an_older_tools_file(file: str, method: str, folder: Path) -> None:
    (folder / file).write_text("{}")
    assert_refused(folder, f"already quantised ({method})")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("model.layers.0.self_attn.q_proj.qweight", np.zeros((4, 4), np.int32), "already quantised (GPTQ or AWQ"),
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", np.zeros((1, 1), np.float32), "already quantised (FP8"),
        ("model.layers.0.self_attn.q_proj.weight.absmax", np.zeros(4, np.float32), "already quantised (bitsandbytes"),
        (Q, np.zeros((32, 32), np.int8), "is stored as I8"),
    ],
)
def test_quantised_by_its_tensors(name: str, values: Any, message: str, folder: Path, tensors: Tensors) -> None:
    save_folder(folder, LLAMA, {**tensors, name: values})
    assert_refused(folder, message)


def test_fp8_by_its_type(folder: Path, tensors: Tensors) -> None:
    from safetensors.torch import save_file as save_torch

    values = {name: torch.from_numpy(v) for name, v in tensors.items()}
    values[Q] = values[Q].to(torch.float8_e4m3fn)
    save_torch(values, folder / "model.safetensors")
    assert_refused(folder, "already quantised (FP8")


# --- tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({Q: None}, f"lacks {Q}: download"),
        (
            {f"model.layers.{i}.mlp.up_proj.weight": None for i in (0, 1)} | {Q: None, HEAD: None},
            "and 1 more: download",
        ),
        ({Q: np.zeros((32, 31))}, f"{Q} is [32, 31], not [32, 32]"),
        ({Q: np.zeros((32, 32, 1))}, f"{Q} is [32, 32, 1], not [32, 32]"),
        ({EMBEDDING: np.zeros((97, 32))}, "the embedding has 97 rows, but config.json says vocab_size 96"),
        ({"model.layers.2.mlp.up_proj.weight": np.zeros((64, 32))}, "that a llama model does not: model.layers.2.mlp"),
        ({"model.layers.0.self_attn.q_proj.bias": np.zeros(32)}, "does not: model.layers.0.self_attn.q_proj.bias"),
        ({Q: np.full((32, 32), np.nan)}, f"{Q} holds NaN or Inf"),
        ({"model.norm.weight": np.full(32, np.inf)}, "model.norm.weight holds NaN or Inf"),
    ],
)
def test_bad_tensors(change: dict[str, Any], message: str, folder: Path, tensors: Tensors) -> None:
    changed = {name: values.astype(np.float32) for name, values in (tensors | change).items() if values is not None}
    save_folder(folder, LLAMA, changed)
    assert_refused(folder, message)


def test_one_value_beyond_float32(folder: Path, tensors: Tensors) -> None:
    wide = tensors[Q].astype(np.float64)
    wide[5, 7] = 1e300
    save_folder(folder, LLAMA, {**tensors, Q: wide})
    assert_refused(folder, f"{Q} holds NaN or Inf")


# --- shards


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_missing_shard(ending: str, folder: Path, tensors: Tensors) -> None:
    shard(folder, tensors, ending)
    next(folder.glob(f"*00002-of-00002.{ending}")).unlink()
    with pytest.raises(InputError, match=f"00002-of-00002.{ending} is missing, which .* names: download all shards"):
        open_checkpoint(folder)


def test_truncated_shard(folder: Path, tensors: Tensors) -> None:
    shard(folder, tensors)
    path = folder / "model-00002-of-00002.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"00002-of-00002\.safetensors is cut short"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra.weight": "model-00001-of-00002.safetensors"}, "has no extra.weight, which the index promises"),
        ({Q: "../model.safetensors"}, "is not the name of a file beside it"),
        ({Q: "/etc/passwd"}, "is not the name of a file beside it"),
        ({Q: ""}, "is not the name of a file beside it"),
        ({Q: 3}, "is not the name of a file beside it"),
    ],
)
def test_lying_index(change: dict[str, Any], message: str, folder: Path, tensors: Tensors) -> None:
    index = shard(folder, tensors)
    index["weight_map"] |= change
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(folder, message)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert_refused(folder, "has no weight_map")


def test_a_tensor_in_two_shards(folder: Path, tensors: Tensors) -> None:
    index = shard(folder, tensors)
    file = next(file for name, file in index["weight_map"].items() if name != Q and file != index["weight_map"][Q])
    there = {name: tensors[name] for name, where in index["weight_map"].items() if where == file}
    save_file({**there, Q: tensors[Q]}, folder / file)
    assert_refused(folder, f"both hold {Q}")


# --- safetensors headers


def with_header(header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\x01\x00", "in a file of 2"),
        (with_header({}, length=1 << 63), f"a header of {1 << 63} bytes in a file of 10"),
        (with_header({}, length=3), "a header of 3 bytes in a file of 10"),
        (with_header(b"not json"), "the header is not JSON"),
        (with_header(b"\xff\xff"), "the header is not JSON"),
        (with_header(b"[" * 100_000), "the header is not JSON"),
        (with_header(b"[]"), "the header is not a JSON object"),
        (with_header(b'{"a": 1, "a": 2}'), "a name occurs twice"),
        (with_header({"a": 1}), "a has the unknown type"),
        (with_header({"a\n\x1b[2J": entry()}, EIGHT), "a tensor's name is not printable"),
        (with_header({"a" * 2000: entry()}, EIGHT), "a tensor's name is not printable"),
        (with_header({"a": entry("F31")}, EIGHT), "a has the unknown type 'F31'"),
        (with_header({"a": entry(["F32"])}, EIGHT), "a has the unknown type"),
        (with_header({"a": entry(shape=[-2])}, EIGHT), "a has no valid shape"),
        (with_header({"a": entry(shape=[2.0])}, EIGHT), "a has no valid shape"),
        (with_header({"a": entry(shape=[True, 2])}, EIGHT), "a has no valid shape"),
        (with_header({"a": entry(shape=[1 << 70])}, EIGHT), "a has no valid shape"),
        (with_header({"a": entry(shape=[1] * 9)}, EIGHT), "a has no valid shape"),
        (with_header({"a": entry(shape="ab")}, EIGHT), "a has no valid shape"),
        (with_header({"a": entry(offsets=[8, 0])}, EIGHT), "a has no valid data_offsets"),
        (with_header({"a": entry(offsets=[0])}, EIGHT), "a has no valid data_offsets"),
        (with_header({"a": entry(offsets=[-8, 0])}, EIGHT), "a has no valid data_offsets"),
        (with_header({"a": entry(shape=[3])}, EIGHT), "a has 8 bytes for F32 [3]"),
        (with_header({"a": entry(shape=[1 << 31, 1 << 31])}, EIGHT), "a has 8 bytes for F32"),
        (with_header({"a": entry(offsets=[4, 12])}, EIGHT + EIGHT), "a starts at byte"),
        (with_header({"a": entry(), "b": entry()}, EIGHT), "b starts at byte"),
        (with_header({"a": entry(), "b": entry(offsets=[16, 24])}, bytes(24)), "b starts at byte"),
        (with_header({"a": entry()}, EIGHT[:7]), "is cut short"),
        (with_header({"a": entry()}, EIGHT + b"x"), "is longer than its header says"),
    ],
)
def test_lying_safetensors_header(content: bytes, message: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder)
    assert message in str(caught.value)
    assert str(folder / "model.safetensors") in str(caught.value)


def test_header_of_a_sane_file_is_what_was_saved(folder: Path, tensors: Tensors) -> None:
    assert {stored.name: stored.shape for stored in read_header(folder / "model.safetensors")} == {
        name: values.shape for name, values in tensors.items()
    }


def test_a_huge_header_is_not_read(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 32))
        file.truncate((1 << 32) + 100)  # sparse: takes no disk space
    assert_no_large_allocation(lambda: open_checkpoint(folder))


def test_a_file_that_shrinks_after_opening(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model.safetensors", 4096)
    with pytest.raises(InputError, match=r"model\.safetensors ends within"):
        read_all(checkpoint)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot read"):
        checkpoint.read(Q)


# --- pickles


def pickled(folder: Path, content: Any) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def test_pickle_of_plain_tensors(folder: Path, tensors: Tensors) -> None:
    state = {name: torch.from_numpy(values).bfloat16() for name, values in tensors.items()}
    checkpoint = open_checkpoint(pickled(folder, state))
    assert checkpoint.source.dtype(Q) == "BF16"
    for name, values in read_all(checkpoint).items():
        assert np.array_equal(values, state[name].float().numpy())


class Touch:
    """Unpickling it makes a file: the code that must not run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.path),))


def test_pickle_with_code_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    assert_refused(pickled(folder, {"a": Touch(tmp_path / "ran")}), "does not load with weights_only")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PyTorch checkpoint that can be mapped"),
        (b"PK\x03\x04" + bytes(50), "is not a PyTorch checkpoint that can be mapped"),
        (pickle.dumps({"a": 1}), "is not a PyTorch checkpoint that can be mapped"),
    ],
)
def test_other_pickles(content: bytes, message: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    assert_refused(folder, message)


def test_pickles_of_something_else(folder: Path, tmp_path: Path, tensors: Tensors) -> None:
    assert_refused(pickled(folder, [1, 2]), "holds no tensors by name")
    (folder / "model.safetensors").touch()
    assert_refused(pickled(folder, {"state_dict": {"a": torch.zeros(2)}}), "state_dict is not a plain tensor")
    (folder / "model.safetensors").touch()
    assert_refused(pickled(folder, {Q: torch.zeros(2).to_sparse()}), "is not a plain tensor")


def test_truncated_pickle(folder: Path, tensors: Tensors) -> None:
    pickled(folder, {name: torch.from_numpy(values) for name, values in tensors.items()})
    path = folder / "pytorch_model.bin"
    os.truncate(path, path.stat().st_size // 2)
    assert_refused(folder, "is not a PyTorch checkpoint that can be mapped")


# --- the Hub


def test_local_paths_are_never_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*_: Any, **__: Any) -> str:
        raise AssertionError("asked the Hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    paths = ["./a/b", "/a/b", "../a", "a", "models/missing", "a/b/c", "~/a", "x/model.gguf", "a\\b", "x/m.safetensors"]
    for path in [*paths, Path("owner/name")]:
        with pytest.raises(InputError, match="there is no file or folder"):
            open_checkpoint(path)


def test_hub_download(monkeypatch: pytest.MonkeyPatch, folder: Path, tensors: Tensors) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    checkpoint = open_checkpoint("some-owner/some-model_1.5")
    assert checkpoint.path == folder
    assert [hub_id for hub_id, _ in asked] == ["some-owner/some-model_1.5"]
    assert not any("bin" in pattern or pattern == "*" for pattern in asked[0][1])
    pickled(folder, {name: torch.from_numpy(values) for name, values in tensors.items()})
    open_checkpoint("some-owner/some-model_1.5")
    assert "pytorch_model*.bin" in asked[-1][1]


def hub_errors() -> list[tuple[Exception, str]]:
    from huggingface_hub import errors

    http_error = errors.HfHubHTTPError.__bases__[0]
    http = importlib.import_module(http_error.__module__.partition(".")[0])  # httpx, or what took its place
    response = http.Response(404, request=http.Request("GET", "https://huggingface.co"))
    return [
        (errors.LocalEntryNotFoundError("offline"), "cannot be reached"),
        (errors.OfflineModeIsEnabled("offline mode"), "cannot be reached"),
        (errors.RepositoryNotFoundError("404 Client Error\n\nmore", response=response), "does not give it (404 Client"),
        (errors.GatedRepoError("403: gated", response=response), "does not give it (403: gated)"),
        (errors.HFValidationError("bad id"), "does not give it (bad id)"),
        (http_error("the connection broke"), "does not give it (the connection broke)"),
        (ConnectionError("refused"), "cannot be reached"),
    ]


@pytest.mark.parametrize(("error", "message"), hub_errors(), ids=lambda value: type(value).__name__)
def test_hub_failures(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError) as caught:
        open_checkpoint("owner/name")
    assert message in str(caught.value)
    assert "owner/name" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- GGUF


@pytest.fixture
def gguf_file(tmp_path: Path, folder: Path) -> Path:
    return save_gguf(tmp_path / "model.gguf", open_checkpoint(folder))


def test_truncated_gguf(gguf_file: Path) -> None:
    size = gguf_file.stat().st_size
    for length in [*range(0, 4000, 97), size // 2, size - 1]:
        data = gguf_file.read_bytes()[:length]
        gguf_file.with_name("cut.gguf").write_bytes(data)
        assert_refused(gguf_file.with_name("cut.gguf"), "")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "mamba"}, "architecture 'mamba' is not supported: edgekit knows llama"),
        ({"split__count": 3}, "one part of a split GGUF"),
        ({"llama__embedding_length": None}, "has no hidden_size"),
        ({"llama__embedding_length": 64}, "is [96, 32], not [96, 64]"),
        ({"llama__embedding_length": "many"}, "hidden_size is 'many'"),
        ({"llama__block_count": 3}, "lacks model.layers.2.input_layernorm.weight"),
        ({"llama__block_count": 1}, "that a llama model does not: blk.1.attn_norm.weight"),
        ({"llama__block_count": 1 << 31}, "num_hidden_layers is 2147483648"),
        ({"llama__rope__dimension_count": 4}, "llama.rope.dimension_count is 4"),
        ({"llama__attention__value_length": 4}, "llama.attention.value_length is 4"),
        ({"llama__rope__scaling__type": "yarn"}, "rope type 'yarn' is not supported"),
        ({"llama__attention__head_count": [4, 4, 4]}, "num_attention_heads has 3 entries"),
    ],
)
def test_wrong_gguf(metadata: dict[str, Any], message: str, tmp_path: Path, folder: Path) -> None:
    assert_refused(save_gguf(tmp_path / "wrong.gguf", open_checkpoint(folder), **metadata), message)


def test_gguf_tensor_infos_that_lie(tmp_path: Path, gguf_file: Path) -> None:
    data = bytearray(gguf_file.read_bytes())
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name)  # then: dimensions u32, 2 sizes u64, type u32, offset u64
    cases = [
        (at - 1, "<B", 0xFF, "a name in its header is not printable"),
        (at, "<I", 5, "5 dimensions"),
        (at + 4, "<Q", 1 << 40, "cut short"),
        (at + 4, "<Q", 0, "no valid shape"),
        (at + 12, "<Q", 1 << 63, "cut short"),
        (at + 20, "<I", 99, "unknown ggml type 99"),
        (at + 20, "<I", int(gguf.GGMLQuantizationType.Q4_K), "no valid shape [32, 32] for Q4_K"),
        (at + 24, "<Q", 0, "overlaps another tensor"),
        (at + 24, "<Q", 1 << 62, "truncated"),
    ]
    for offset, kind, value, message in cases:
        damaged = bytearray(data)
        struct.pack_into(kind, damaged, offset, value)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        assert_refused(tmp_path / "damaged.gguf", message)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([1.0, 1.0, 1.0, 1.0], None),  # scale nothing
        ([1.0, 2.0, 3.0, 7.0], "RoPE factors that are not Llama 3's"),
        ([1.0, 1.0, 1.0, np.nan], "RoPE factors that are not Llama 3's"),
        ([0.0, 1.0, 1.0, 1.0], "RoPE factors that are not Llama 3's"),
    ],
)
def test_foreign_rope_factors(factors: list[float], message: str | None, tmp_path: Path, folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    path = save_gguf(tmp_path / "model.gguf", checkpoint, factors=np.array(factors, np.float32))
    if message:
        assert_refused(path, message)
    else:
        assert open_checkpoint(path).spec.rope == checkpoint.spec.rope


# --- fuzzing: whatever the bytes, an InputError or a checkpoint, and no large allocation


def assert_no_large_allocation(action: Callable[[], Any], limit: int = 64 << 20) -> None:
    tracemalloc.start()
    try:
        action()
    except InputError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes"


def mutated(data: bytes, end: int, generator: np.random.Generator) -> bytes:
    """`data` with one to three changes before `end`: bits, bytes, integers, digits replaced, pieces cut or doubled."""
    changed = bytearray(data)
    only_digits = generator.random() < 0.5  # most other changes leave no JSON
    for _ in range(generator.integers(1, 4)):
        at, length = int(generator.integers(0, end)), int(generator.integers(1, 9))
        kind = 5 if only_digits else generator.integers(0, 6)
        if kind == 0:
            changed[at] ^= 1 << int(generator.integers(0, 8))
        elif kind == 1:
            changed[at : at + length] = generator.bytes(length)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            extremes = (0, 1, 255, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)
            value = extremes[int(generator.integers(0, len(extremes)))]
            changed[at : at + 8] = struct.pack("<Q", value)
        else:
            if digits := [i for i, byte in enumerate(changed[:end]) if 48 <= byte < 58]:
                changed[digits[int(generator.integers(0, len(digits)))]] = int(generator.integers(48, 58))
    return bytes(changed)


@pytest.mark.parametrize("seed", range(8))
def test_fuzzed_safetensors(seed: int, folder: Path) -> None:
    path, generator = folder / "model.safetensors", np.random.default_rng(seed)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(60):
        path.write_bytes(mutated(data, end, generator))
        assert_no_large_allocation(lambda: read_all(open_checkpoint(folder)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["F16", "Q4_0"])
def test_fuzzed_gguf(seed: int, kind: str, folder: Path, tmp_path: Path) -> None:
    path, generator = tmp_path / "model.gguf", np.random.default_rng(seed)
    data = save_gguf(path, open_checkpoint(folder), kind).read_bytes()
    end = data.index(b"output.weight") + 60
    for _ in range(40):
        path.write_bytes(mutated(data, end, generator))
        assert_no_large_allocation(lambda: read_all(open_checkpoint(path, quantised=True)))


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_config(seed: int, folder: Path) -> None:
    generator = np.random.default_rng(seed)
    gemma = {**GEMMA, "layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": {}}}
    odd: list[Any] = [None, True, -1, 0, 1.5, 1 << 40, float("nan"), "x", [], [1, 2], {}, {"full_attention": 3}, [[]]]
    for _ in range(200):
        config: dict[str, Any] = dict(LLAMA if generator.integers(0, 2) else gemma)
        keys = [*config, "rope_scaling", "rope_parameters", "quantization_config", "text_config", "head_dim"]
        for _ in range(generator.integers(1, 3)):
            config[keys[int(generator.integers(0, len(keys)))]] = odd[int(generator.integers(0, len(odd)))]
        (folder / "config.json").write_text(json.dumps(config))
        assert_no_large_allocation(lambda: open_checkpoint(folder))
