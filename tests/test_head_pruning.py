"""Head pruning as a stage: what is written is what was chosen and measured, and bad input is refused by name."""

from __future__ import annotations

import html
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import random_tensors, save_folder, save_gguf
from models_random import SAMPLE, random_checkpoint
from pruned_models import structure_named

import edgekit
from edgekit import HeadOptions, HeadsPruned, InputError, Target, head_pruning
from edgekit.cli import main
from edgekit.export.huggingface import write_folder
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.forward import load_model, parameter_name
from edgekit.models.gguf_header import read_header
from edgekit.pruned_heads import structure_of
from edgekit.quant.cutting import cut, of_model
from edgekit.report.heads import pruning_page
from edgekit.runtimes import native


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("tiny") / "model", "llama", dtype="bfloat16")


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_pruning, "REPAIR_TOKENS", 2048)
    monkeypatch.setattr(head_pruning, "HELD_OUT", 2)


@pytest.fixture(scope="module")
def pruned(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> HeadsPruned:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(head_pruning, "REPAIR_TOKENS", 2048)
        options = HeadOptions(heads=0.3, kv_groups=True, ffn=0.2, score="magnitude", recover=3)
        return edgekit.prune_heads(tiny, tmp_path_factory.mktemp("pruned") / "less", options, calib=[text])


def test_the_folder_holds_the_kept_heads_alone(pruned: HeadsPruned, tiny: Path) -> None:
    before, after = open_checkpoint(tiny), open_checkpoint(pruned.path)
    structure = pruned.structure
    assert sum(structure.removed("groups")) == 4 and sum(structure.removed("channels")) == 64
    assert (after.spec.heads, after.spec.kv_heads, after.spec.ffn) == (
        structure.heads,
        structure.kv_heads,
        structure.ffn,
    )
    assert after.stored_bytes < before.stored_bytes == pruned.bytes_before
    assert pruned.bytes == (pruned.path / "model.safetensors").stat().st_size
    changed = set()
    for tensor in before.tensors:
        kept, written = structure.take(tensor, before.read(tensor.name)), after.read(tensor.name)
        assert after.source.dtype(tensor.name) == "BF16" and written.shape == kept.shape
        if not np.array_equal(written, kept):
            changed.add(tensor.role)
    assert {"o", "down"} <= changed and not changed & {"embedding", "head"}


def test_the_document_repeats_the_result(pruned: HeadsPruned, text: Path) -> None:
    content = (pruned.path / "pruning.json").read_text(encoding="utf-8")
    document = json.loads(content)
    expected = pruned.document()
    del expected["seconds"]["writing"]  # the document is among what is written then
    assert document == json.loads(json.dumps(expected))
    assert document["calibration"] == str(text)
    assert document["kept"]["query_heads"] == list(pruned.structure.heads)
    assert structure_of(document, pruned.structure.spec) == pruned.structure
    gone = [unit for round_ in document["rounds"] for unit in round_["removed"]]
    assert sum(len(unit["indices"]) for unit in gone if unit["kind"] == "groups") == 4
    assert sum(len(unit["indices"]) for unit in gone if unit["kind"] == "channels") == 64
    assert list(document["held_out"]) == ["unpruned", "pruned", "repaired", "recovered"]
    assert document["held_out"]["unpruned"]["kl"] < 1e-6 < document["held_out"]["repaired"]["kl"]
    assert max(map(len, content.splitlines())) > 100  # a list of numbers is one line


def test_repair_brings_the_model_back_some_way(pruned: HeadsPruned) -> None:
    quality = pruned.quality
    assert quality["repaired"].kl < quality["pruned"].kl


def test_less_cache_and_fewer_bytes_are_measured(pruned: HeadsPruned) -> None:
    before, after = pruned.before, pruned.after
    assert (before.cache_bytes_per_token, after.cache_bytes_per_token) == (4 * 16 * 6, 4 * 16 * 4)
    assert after.cache_bytes < before.cache_bytes
    assert after.file_bytes < before.file_bytes
    assert min(before.prefill_tps, after.prefill_tps, before.decode_tps, after.decode_tps) > 0


def test_the_page_says_the_same(pruned: HeadsPruned) -> None:
    page = (pruned.path / "pruning.html").read_text(encoding="utf-8")
    before_writing = {stage: spent for stage, spent in pruned.seconds.items() if stage != "writing"}
    assert page == pruning_page(replace(pruned, seconds=before_writing))
    assert page.count("<rect") >= 12 and page.count('class="cross"') == 2 * 4
    for word in ("4 of 12", "unpruned", "repaired", "recovered", "Q8_0 file", "64"):
        assert word in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_quantising_the_folder_tells_what_was_pruned(pruned: HeadsPruned, text: Path, tmp_path: Path) -> None:
    target = Target(formats=("q8_0",))
    artifact = edgekit.quantize(pruned.path, tmp_path / "m.gguf", target, calib=[text], report=False)
    assert pruned.document()["summary"] in artifact.notes and artifact.zeros is None
    session = native.load(artifact.path, context=None, threads=1)
    assert tuple(session.heads(layer)[0] for layer in range(3)) == pruned.structure.heads


def test_what_is_written_is_what_the_model_computes(tiny: Path, tmp_path: Path) -> None:
    """After training in float32 the model is rounded to the stored type, and the folder has these bits."""
    whole = open_checkpoint(tiny)
    smaller = cut(whole, structure_named("heads-per-layer", whole.spec))
    model = load_model(smaller)
    rng = np.random.default_rng(1)
    for tensor in smaller.tensors:
        if tensor.layer is not None:
            values = model.get_parameter(parameter_name(tensor.name)).data.numpy()
            values += rng.standard_normal(values.shape).astype(np.float32) * 1e-3
    left = of_model(smaller, model)
    write_folder(left, tmp_path / "out", left.read, config=left.config, texts={})
    again = open_checkpoint(tmp_path / "out")
    for tensor in again.tensors:
        expected = model.get_parameter(parameter_name(tensor.name)).detach().numpy()
        np.testing.assert_array_equal(again.read(tensor.name), expected)


def test_quantize_prunes_first(
    tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, work = tmp_path / "m.gguf", tmp_path / "work"
    line = (
        f"quantize {tiny} --formats q8_0 --prune-heads 0.3 --prune-kv-groups --calib {text} --work {work} -o {output}"
    )
    assert main([*shlex.split(line), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert any("4 of 12 query heads, 2 of 6 KV groups removed" in note for note in shown["notes"])
    header = read_header(output)
    assert header.metadata["general.architecture"] == "deci"
    assert sum(header.metadata["deci.attention.head_count"]) == 8
    assert "2 of 6 KV groups" in html.unescape(output.with_suffix(".report.html").read_text(encoding="utf-8"))
    assert "pruning report" in output.with_suffix(".pruning.html").read_text(encoding="utf-8")
    first = output.read_bytes()
    monkeypatch.setattr(head_pruning, "prune_heads", _refuse)  # a second run takes what the first one left
    assert main(shlex.split(line)) == 0
    assert output.read_bytes() == first


def _refuse(*_arguments: Any, **_options: Any) -> None:
    raise AssertionError("pruned again")


def test_what_no_other_program_loads_is_said(text: Path, tmp_path: Path) -> None:
    model = random_checkpoint(tmp_path / "model", "gemma3")
    options = HeadOptions(heads=0.2, score="magnitude")
    made = edgekit.prune_heads(model, tmp_path / "out", options, calib=[text])
    assert any("no gemma3 graph with counts of each layer's own" in note for note in made.notes)
    assert any("transformers' own class cannot" in note for note in made.notes)
    assert any("4 of 12 query heads went" in note and "at least 0.2" in note for note in made.notes)
    uniform = HeadOptions(heads=0.5, uniform=True, score="magnitude")
    made = edgekit.prune_heads(model, tmp_path / "uniform", uniform, calib=[text])
    assert made.notes == ()


CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ({}, "--heads 0.6", "give --heads 0.5 at most"),
        ({}, "--heads 0.3 --uniform --prune-kv-groups --ffn 0.99", "give --ffn 0.5 at most"),
        ({}, "--heads 1.5", "--heads 1.5 is out of range"),
        ({}, "", "give --heads, --ffn or --sparsity"),
        ({}, "--prune-kv-groups --ffn 0.1", "say how many with --heads"),
        ({}, "--heads 0.3 --sparsity 0.5", "--sparsity and --heads exclude each other"),
        ({}, "--sparsity 0.5 --recover 10", "--sparsity and --recover exclude each other"),
        ({}, "--heads 0.3 --recover soon", "--recover soon is neither a number of steps nor of minutes: give 300"),
        ({}, "--heads 0.3 --recover 0", "--recover 0 is neither"),
        ({}, "--heads 0.3 --recover nanmin", "--recover nanmin is neither"),
        ({}, "--heads 0.3 --score wanda", "no score 'wanda': choose one of gates, taylor, magnitude"),
        ({"num_key_value_heads": 4}, "--heads 0.3", "remove whole groups with --prune-kv-groups"),
        ({"num_attention_heads": 1, "num_key_value_heads": 1}, "--heads 0.3", "prune --ffn instead"),
        ({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}, "--heads 0.3", "prune --ffn instead"),
        ({"model_type": "deepseek_v3"}, "--heads 0.3", "'deepseek_v3' is not supported: edgekit knows"),
    ],
)
def test_bad_input_is_one_sentence(
    config: dict[str, Any], arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    save_folder(folder, {**CONFIG, **config}, random_tensors({**CONFIG, **config, "model_type": "llama"}))
    (folder / "tokenizer.json").write_bytes((SAMPLE / "tokenizer.json").read_bytes())
    assert main(["prune", str(folder), *shlex.split(arguments), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_whose_attention_is_scaled_by_its_heads_is_refused(tmp_path: Path) -> None:
    model = random_checkpoint(tmp_path / "model", "gemma3", layers=62)
    with pytest.raises(
        InputError, match=r"a gemma3 of these sizes cannot lose query heads \(.*\): prune --ffn instead"
    ):
        edgekit.prune_heads(model, tmp_path / "out", HeadOptions(heads=0.5, uniform=True))
    assert not (tmp_path / "out").exists()


def test_a_gguf_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "model.gguf", open_checkpoint(tiny))
    with pytest.raises(InputError, match="give the Hugging Face folder"):
        edgekit.prune_heads(path, tmp_path / "out", HeadOptions(heads=0.3))


@pytest.mark.parametrize("option", ["--recover 3", "--prune-kv-groups"])
def test_quantize_wants_a_share(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"quantize {SAMPLE} --formats q8_0 {option} -o {tmp_path / 'm.gguf'}"
    assert main(shlex.split(line)) == 2
    assert f"{option.split()[0]} goes with --prune-heads only" in capsys.readouterr().err
