"""Training as a stage of the line: what is written is what was trained, and budgets and types are kept."""

from __future__ import annotations

import hashlib
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_random import SAMPLE, random_checkpoint

import edgekit
from edgekit import InputError, Target, pipeline, recovery
from edgekit.cli import main
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.gguf_header import read_header
from edgekit.models.spec import MATRIX_ROLES
from edgekit.quant.formats import format_of


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(a random checkpoint with a context of 256, a text of some thousand tokens), of which little is trained on."""
    monkeypatch.setattr(recovery, "FINETUNING_HELD_OUT", 2)
    monkeypatch.setattr(recovery, "FINETUNING_TOKENS", 2048)
    monkeypatch.setattr(recovery, "DISTILLATION_STEPS", (8, 8))
    text = tmp_path / "text.txt"
    root = Path(__file__).parent.parent
    text.write_text((root / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    return random_checkpoint(tmp_path / "model", "gemma3", layers=2), text


@pytest.fixture
def made_by_training(monkeypatch: pytest.MonkeyPatch) -> list[recovery.Recovery]:
    """What training gave to the writer."""
    made: list[recovery.Recovery] = []

    def watched(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> recovery.Recovery:
            made.append(function(*arguments, **options))
            return made[-1]

        return call

    monkeypatch.setattr(pipeline, "distilled", watched(recovery.distilled))
    monkeypatch.setattr(pipeline, "finetuned", watched(recovery.finetuned))
    return made


@pytest.mark.parametrize("options", [{"distil": True}, {"qat": 3}], ids=["distil", "qat"])
def test_the_file_holds_what_was_trained(
    options: dict[str, Any], tiny: tuple[Path, Path], made_by_training: list[recovery.Recovery], tmp_path: Path
) -> None:
    checkpoint, text = tiny
    target = Target(bpw=6.0, formats=("q4_0", "q8_0"))
    plain = edgekit.quantize(checkpoint, tmp_path / "plain.gguf", target, calib=[text])
    made = edgekit.quantize(checkpoint, tmp_path / "made.gguf", target, calib=[text], **options)
    (trained,) = made_by_training
    assert made.plan.formats == plain.plan.formats and made.bytes == plain.bytes == made.path.stat().st_size
    assert made.sha256 != plain.sha256
    assert [(t.name, t.ggml_type) for t in read_header(made.path).tensors] == [
        (t.name, t.ggml_type) for t in read_header(plain.path).tensors
    ]
    written = open_checkpoint(made.path, quantised=True)
    for tensor in open_checkpoint(checkpoint).tensors:
        if tensor.role in MATRIX_ROLES:
            wanted = format_of(made.plan.formats[tensor.name]).decode(trained.weights.blocks[tensor.name])
        else:
            wanted = trained.weights.vectors[tensor.name]
        assert np.allclose(written.read(tensor.name), wanted, atol=1e-6), tensor.name
    assert made.kld_measured == trained.kld_measured and made.training == trained.figures
    if "distil" in options:  # the model that the steps are measured with is as it was before
        *steps, last = made.ablation
        assert tuple(steps) == plain.ablation and len(steps) == 4
        assert (last.step, last.kl) == ("+ distillation", made.kld_measured)
    else:
        assert made.ablation == ()
    assert trained.note in made.notes


@pytest.mark.parametrize("words", [["--distil"], ["--qat", "3"]], ids=["distil", "qat"])
def test_the_command_tells_what_training_was_worth(
    words: list[str], tiny: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, text = tiny
    output = tmp_path / "m.gguf"
    line = ["quantize", str(checkpoint), "--formats", "q8_0", "--calib", str(text), *words, "-o", str(output), "--json"]
    assert main(line) == 0
    found = json.loads(capfd.readouterr().out)
    assert hashlib.sha256(output.read_bytes()).hexdigest() == found["sha256"]
    figures, (note,) = found["training"], found["notes"]
    assert figures["kld_after"] <= figures["kld_before"] or "nll" in figures  # the best step's loss, half of it the nll
    if words == ["--distil"]:
        assert note.startswith("distillation: KL") and f"{figures['steps']:.0f} steps" in note
    else:
        halves = tmp_path / "f16.gguf"
        assert main(["quantize", str(checkpoint), "--formats", "f16", "-o", str(halves), "--no-report"]) == 0
        assert figures["share_of_16_bits"] == output.stat().st_size / halves.stat().st_size
        for figure in ("top1_checkpoint", "top1_rounded", "top1"):
            assert 0 <= figures[figure] <= 1 and f"{100 * figures[figure]:.2f} %" in note
        assert f"{100 * (1 - figures['share_of_16_bits']):.2f} % less than 16 bits" in note
    assert html.escape(note, quote=False) in Path(found["report"]).read_text(encoding="utf-8")


def test_a_plan_can_be_distilled_and_gives_the_same_bytes(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, text = tiny
    target = Target(formats=("q4_0",))
    edgekit.plan(checkpoint, target, tmp_path / "plan.json", calib=[text])
    direct = edgekit.quantize(checkpoint, tmp_path / "d.gguf", target, calib=[text], report=False, distil=True)
    planned = edgekit.quantize(checkpoint, tmp_path / "p.gguf", plan=tmp_path / "plan.json", report=False, distil=True)
    assert direct.sha256 == planned.sha256


def test_contradictions_are_told_before_any_work(tmp_path: Path) -> None:
    target = Target(formats=("q8_0",))
    with pytest.raises(InputError, match="--distil and --qat exclude each other"):
        edgekit.quantize(SAMPLE, tmp_path / "m.gguf", target, distil=True, qat=3, calib=[tmp_path / "text"])
    with pytest.raises(InputError, match="--qat needs training text"):
        edgekit.quantize(SAMPLE, tmp_path / "m.gguf", target, qat=3)


@pytest.mark.parametrize("options", [{"distil": True}, {"qat": 3}], ids=["distil", "qat"])
def test_a_plan_that_quantises_nothing_is_not_trained(
    options: dict[str, Any], tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint, text = tiny
    edgekit.plan(checkpoint, Target(formats=("bf16",)), tmp_path / "plan.json")
    with pytest.raises(InputError, match="makes up for quantisation, and bf16 is none"):
        edgekit.quantize(checkpoint, tmp_path / "m.gguf", plan=tmp_path / "plan.json", calib=[text], **options)
    assert not (tmp_path / "m.gguf").exists()
