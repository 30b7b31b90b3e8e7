"""Pruning the sample: the share asked for, exact zeros, a checkpoint like any other, and less KL than by magnitude."""

from __future__ import annotations

import html
import json
import shlex
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from checkpoints import LLAMA, random_tensors, save_folder, save_gguf

import edgekit
from edgekit import InputError
from edgekit.cli import main
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.spec import MATRIX_ROLES
from edgekit.pruning import Pruned, prune
from edgekit.quant.formats import format_of

SAMPLE = Path(__file__).parent / "assets" / "sample"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(__file__).parent.parent
    parts = [(root / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "LICENSE")]
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pruned(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    return edgekit.prune(SAMPLE, tmp_path_factory.mktemp("pruned") / "half", sparsity=0.5, calib=[text])


def test_half_of_the_layers_weights_are_zero_and_nothing_else_changed(pruned: Pruned) -> None:
    before, after = open_checkpoint(SAMPLE), open_checkpoint(pruned.path)
    zeros, weights = 0, 0
    for tensor in before.tensors:
        values = after.read(tensor.name)
        assert after.source.dtype(tensor.name) == "BF16"
        if tensor.role in MATRIX_ROLES and tensor.role != "embedding":
            assert np.mean(values == 0) == pruned.matrices[tensor.name]
            zeros, weights = zeros + np.count_nonzero(values == 0), weights + values.size
        else:
            np.testing.assert_array_equal(values, before.read(tensor.name))
    assert zeros == weights // 2 and pruned.sparsity == 0.5
    assert pruned.bytes == (pruned.path / "model.safetensors").stat().st_size


def test_what_is_written_is_what_was_measured(pruned: Pruned, text: Path, tmp_path: Path) -> None:
    """transformers reads the folder; pruning.json repeats the result; the perplexity is that of the file."""
    document = json.loads((pruned.path / "pruning.json").read_text(encoding="utf-8"))
    assert document["matrices"] == pruned.matrices and document["sparsity"] == 0.5
    assert document["held_out"]["kld"] == pruned.kld and document["calibration"] == str(text)
    assert transformers.AutoModelForCausalLM.from_pretrained(pruned.path).num_parameters() == 7_344_384
    again = prune(pruned.path, tmp_path / "again", sparsity=0.001, score="magnitude", calib=[text])
    assert again.perplexity_before == pytest.approx(pruned.perplexity_after, rel=1e-6)
    assert again.perplexity_after == pytest.approx(
        pruned.perplexity_after, rel=1e-6
    )  # the zeros that are there suffice
    assert again.sparsity == 0.5 and abs(again.kld) < 1e-6


def test_the_kl_is_far_below_that_of_magnitude(pruned: Pruned, text: Path, tmp_path: Path) -> None:
    magnitude = prune(SAMPLE, tmp_path / "m", sparsity=0.5, score="magnitude", calib=[text])
    assert magnitude.sparsity == 0.5 and set(magnitude.matrices.values()) == {0.5}
    assert magnitude.perplexity_before == pruned.perplexity_before
    assert 0 < pruned.kld < 0.4 * magnitude.kld
    # That of a few windows may fall by chance where so little changes.
    assert 0.97 * pruned.perplexity_before < pruned.perplexity_after < magnitude.perplexity_after


def test_the_sizes_are_what_zlib_makes(pruned: Pruned) -> None:
    assert pruned.stored.plain == 2 * 6_291_456 and pruned.four_bit.plain == 6_291_456 * 18 // 32
    for sizes in (pruned.stored, pruned.four_bit):
        assert 0.5 * sizes.plain < 0.9 * sizes.zlib_before < sizes.plain
        assert 0.4 * sizes.plain < sizes.zlib_after < 0.9 * sizes.zlib_before
    assert "q4_0" in pruned.zero_types and "q4_k" not in pruned.zero_types


def test_the_same_seed_gives_the_same_bytes(pruned: Pruned, text: Path, tmp_path: Path) -> None:
    prune(SAMPLE, tmp_path / "again", sparsity=0.5, calib=[text])
    for path in pruned.path.iterdir():
        if path.name != "pruning.json":
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_plain_rounding_keeps_the_zeros_where_it_is_said_to(pruned: Pruned) -> None:
    values = open_checkpoint(pruned.path).read("model.layers.3.mlp.down_proj.weight")
    for name in pruned.zero_types:
        blocks = format_of(name).encode(values, None)
        np.testing.assert_array_equal(format_of(name).decode(blocks)[values == 0], 0)


@pytest.mark.parametrize(("format", "least"), [("f16", 1.0), ("q4_0", 0.9), ("iq4_nl", 0.0)])
def test_a_file_tells_what_the_zeros_come_to(
    format: str, least: float, pruned: Pruned, text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output, plain = tmp_path / "m.gguf", tmp_path / "plain.gguf"
    line = ["--formats", format, "--calib", str(text), "--json", "-o"]
    assert main(["quantize", str(pruned.path), *line, str(output), *(["--no-report"] if format != "f16" else [])]) == 0
    found = json.loads(capfd.readouterr().out)
    zeros = found["zeros"]
    before, after = open_checkpoint(pruned.path), open_checkpoint(output, quantised=True)
    gone = {name: before.read(name) == 0 for name in pruned.matrices}
    kept = sum(np.count_nonzero(after.read(name)[mask] == 0) for name, mask in gone.items())
    assert zeros["share"] == 0.5 and zeros["kept"] == kept / sum(map(np.count_nonzero, gone.values())) >= least
    assert zeros["zlib_bytes"] == len(zlib.compress(output.read_bytes(), 6)) < 0.9 * output.stat().st_size
    (note,) = found["notes"]
    told = ("50.0 % of its layers' weights", f"{100 * zeros['kept']:.1f} % of these", "no type makes the file smaller")
    assert all(words in note for words in told)
    if format == "f16":
        assert html.escape(note, quote=False) in Path(found["report"]).read_text(encoding="utf-8")
        assert main(["quantize", str(SAMPLE), *line, str(plain)]) == 0
        unpruned = json.loads(capfd.readouterr().out)
        assert unpruned["zeros"] is None and unpruned["notes"] == [] and unpruned["bytes"] == found["bytes"]


def test_a_gguf_has_no_folder_to_write(tmp_path: Path) -> None:
    path = save_gguf(
        tmp_path / "model.gguf", open_checkpoint(save_folder(tmp_path / "a", LLAMA, random_tensors(LLAMA)))
    )
    with pytest.raises(InputError, match="is a GGUF: give the Hugging Face folder"):
        prune(path, tmp_path / "out", sparsity=0.5)


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_out_of_range(sparsity: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        prune(SAMPLE, tmp_path / "out", sparsity=sparsity)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("prune CP --sparsity 2 -o OUT", "--sparsity 2 is out of range"),
        ("prune CP --sparsity 0.5 --score snip -o OUT", "no score 'snip': choose one of sparsegpt, wanda, magnitude"),
        ("prune CP --sparsity 0.5 -o CP", "exists already"),
        ("prune CP --sparsity 0.5 -o OUT/there/is/none", "there is no folder"),
        ("prune CP --sparsity 0.5 --calib OUT -o OUT", "is not a file"),
        ("prune CP -o OUT", "--sparsity"),
    ],
)
def test_bad_options_are_told_at_once(line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line.replace("CP", str(SAMPLE)).replace("OUT", str(tmp_path / "out")))
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_the_command_tells_what_it_did(
    pruned: Pruned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def record(checkpoint: str, output: Path, **options: Any) -> Pruned:
        asked.update(checkpoint=checkpoint, output=output, **options)
        return pruned

    monkeypatch.setattr("edgekit.pruning.prune", record)
    line = ["prune", "CP", "--sparsity", "0.5", "--score", "wanda", "--seed", "3", "-o", str(tmp_path / "out")]
    assert main(line) == 0
    assert asked == {
        "checkpoint": "CP", "output": tmp_path / "out", "sparsity": 0.5, "score": "wanda", "calib": [], "seed": 3,
        "adapter": None,
    }  # fmt: skip
    out = capsys.readouterr().out
    for fact in (
        "50.00 % of 56 matrices",
        "nats per token",
        "no type makes the file smaller",
        "zeros stay zeros in q4_0",
    ):
        assert fact in out
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sparsity"] == 0.5 and found["kld"] == pruned.kld and found["matrices"] == pruned.matrices
