"""What inspect says of a checkpoint, of files, and of damaged ones."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from sample_gguf import SAMPLE, write_sample_gguf

from edgekit.inspection import Inspection, inspect
from edgekit.models.errors import InputError


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("inspect") / "sample.gguf", "q4_k")


def check_sums(inspection: Inspection) -> None:
    """The parts are a partition of the file."""
    assert sum(part.bytes for part in inspection.by_role) == inspection.bytes
    assert sum(part.bytes for part in inspection.by_type) + inspection.header_bytes == inspection.bytes
    assert sum(part.tensors for part in inspection.by_role) == len(inspection.tensors)
    assert sum(part.weights for part in inspection.by_type) == inspection.parameters


def test_a_checkpoint() -> None:
    found = inspect(SAMPLE)
    check_sums(found)
    assert (found.kind, found.architecture, found.layers, found.hidden) == ("checkpoint", "llama", 8, 256)
    assert (found.heads, found.kv_heads, found.head_dim, found.ffn) == ((8,) * 8, (4,) * 8, 32, (768,) * 8)
    assert (found.vocab, found.context, found.tied, found.chat_template) == (4096, 1024, True, False)
    assert found.parameters == 7_344_384 and found.bytes == (SAMPLE / "model.safetensors").stat().st_size
    assert found.tokenizer == "byte-level BPE"
    assert [part.name for part in found.by_type] == ["bf16"]
    assert found.bits_per_weight == 16


def test_a_quantised_file(quantised: Path) -> None:
    found = inspect(quantised)
    checkpoint = inspect(SAMPLE)
    check_sums(found)
    for fact in ("architecture", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context", "tied",
                 "parameters", "tokenizer", "chat_template"):  # fmt: skip
        assert getattr(found, fact) == getattr(checkpoint, fact), fact
    assert found.kind == "gguf" and found.bytes == quantised.stat().st_size
    assert [(part.name, part.tensors) for part in found.by_type] == [("q4_k", 57), ("f32", 17)]
    assert found.bits_per_weight == 4.5
    weights = {part.name: part.weights for part in found.by_role}
    assert weights == {part.name: part.weights for part in checkpoint.by_role}
    assert list(weights) == ["embedding", "q", "k", "v", "o", "gate", "up", "down", "norms and biases", "header"]


def test_any_architecture_and_type(tmp_path: Path) -> None:
    """An architecture that edgekit cannot quantise, with per-layer heads, experts and a type that it does not make."""
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "strange")
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_head_count([8, 4])
    writer.add_head_count_kv([2, 1])
    writer.add_feed_forward_length(512)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", np.zeros((10, 256), np.float16))
    writer.add_tensor("output.weight", np.zeros((10, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    writer.add_tensor("blk.0.ffn_gate_exps.weight", np.zeros((4, 8, 256), np.float32))
    writer.add_tensor("blk.0.ssm_in.weight", np.zeros((4, 8), np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.zeros(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = inspect(path)
    check_sums(found)
    assert (found.architecture, found.heads, found.kv_heads, found.ffn) == ("strange", (8, 4), (2, 1), (512, 512))
    assert found.head_dim == 32 and found.chat_template and found.tokenizer is None and not found.tied
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert (by_name["output.weight"].type, by_name["output.weight"].shape) == ("iq2_xxs", (10, 256))
    assert by_name["output.weight"].bytes == 660 and by_name["output.weight"].role == "head"
    assert by_name["blk.0.ffn_gate_exps.weight"].role == "gate"
    assert by_name["blk.0.ssm_in.weight"].role == "other"
    assert by_name["blk.0.attn_norm.weight"].role == "norms and biases"


@pytest.mark.parametrize("keep", [0, 3, 100, 100_000, -1])
def test_a_truncated_file_is_refused_by_name(quantised: Path, tmp_path: Path, keep: int) -> None:
    content = quantised.read_bytes()
    path = tmp_path / "short.gguf"
    # The last tensor's padding may be missing, its data not: cut further than the padding for the last case.
    path.write_bytes(content[: keep if keep >= 0 else len(content) - 64])
    with pytest.raises(InputError, match=r"short\.gguf"):
        inspect(path)


def test_an_unknown_type_is_refused(quantised: Path, tmp_path: Path) -> None:
    content = bytearray(quantised.read_bytes())
    name = b"output_norm.weight"
    place = content.index(name) + len(name) + 4 + 8  # dimensions, one extent, then the type
    assert content[place : place + 4] == b"\0\0\0\0"  # F32
    content[place : place + 4] = (9999).to_bytes(4, "little")
    path = tmp_path / "typed.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match="9999"):
        inspect(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            inspect(path)
    text = tmp_path / "notes.txt"
    text.write_text("not a model")
    with pytest.raises(InputError, match=r"notes\.txt"):
        inspect(text)


def test_a_file_that_does_not_tell_its_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    with pytest.raises(InputError, match="architecture"):
        inspect(path)
