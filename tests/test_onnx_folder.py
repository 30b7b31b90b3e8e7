"""From a plan file to an ONNX folder, and what the command line does with it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from models_random import SAMPLE, random_checkpoint
from plain_files import needs, story, write_plain

import edgekit
from edgekit import InputError, MissingExtra, Target
from edgekit.calibrating import Calibration, open_source
from edgekit.cli import main
from edgekit.clock import Clock
from edgekit.export.gguf import write_gguf
from edgekit.export.onnx.options import OnnxOptions
from edgekit.measuring import Rounded
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.tokenizer import load_tokenizer
from edgekit.planning import planned_for
from edgekit.quant.containers import GGUF, ONNX
from edgekit.quant.formats import Blocks, format_of
from edgekit.quant.plan import Plan, matrices
from edgekit.quant.plan_file import read_plan
from edgekit.report.data import plan_bits_per_weight

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'edgekit[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")

from edgekit.export.onnx.write import write_onnx  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", "qwen3", tied=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8") * 8, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def planned(checkpoint: Path, text: Path, work: Path) -> Path:
    """A plan of what ONNX carries, in its bits."""
    path = work / "plan.json"
    made = edgekit.plan(checkpoint, Target(bpw=6.1, container=ONNX), path, calib=[text], work=work)
    assert {"q4_0", "q8_0"} <= set(made.plan.formats.values()) <= {"q4_0", "q8_0", "f16"}
    assert 5.8 < bits(made.plan) <= 6.1
    return path


@pytest.fixture(scope="module")
def gguf_planned(checkpoint: Path, text: Path, work: Path) -> Path:
    """A plan for a GGUF, of types that ONNX carries too."""
    path = work / "gguf-plan.json"
    target = Target(bpw=5.5, formats=("q4_0", "q8_0", "f16"))
    assert len(set(edgekit.plan(checkpoint, target, path, calib=[text], work=work).plan.formats.values())) > 1
    return path


def bits(plan: Plan) -> float:
    """Bits per weight of ONNX, from the types."""
    widths = {"q4_0": 5, "q8_0": 9, "f16": 16}
    weights = {s.name: s.shape[0] * s.shape[1] for s in plan.sensitivities}
    return sum(widths[plan.formats[name]] * count for name, count in weights.items()) / sum(weights.values())


@pytest.fixture(scope="module")
def folder(checkpoint: Path, planned: Path, work: Path) -> Path:
    edgekit.export(checkpoint, work / "onnx", plan=planned, work=work, onnx=OnnxOptions(accuracy_level=1))
    return work / "onnx"


def test_the_same_weights_as_the_gguf(checkpoint: Path, planned: Path, folder: Path, work: Path) -> None:
    edgekit.export(checkpoint, work / "model.gguf", plan=planned, work=work)
    tokens = np.random.default_rng(0).integers(0, 4096, 64).tolist()
    expected = edgekit.load(work / "model.gguf", runtime="torch", threads=1).score(tokens, 0)
    got = edgekit.load(folder, runtime="onnx", threads=1).score(tokens, 0)
    assert np.abs(got - expected).max() < 3e-5 * np.abs(expected).max()


def test_what_is_known_of_it(checkpoint: Path, planned: Path, work: Path, tmp_path: Path) -> None:
    made = edgekit.export(checkpoint, tmp_path / "onnx", plan=planned, work=work, onnx=OnnxOptions())
    assert made.path == tmp_path / "onnx" and made.bytes == (made.path / "model.onnx").stat().st_size
    assert made.bits_per_weight == pytest.approx(bits(made.plan)) == plan_bits_per_weight(made.plan)
    assert made.bytes <= made.plan.bytes < made.bytes + 8_000
    facts = {p.key: p.value for p in onnx.load(made.path / "model.onnx").metadata_props}
    assert json.loads(facts["edgekit.plan"]) == made.plan.formats
    assert facts["edgekit.checkpoint"] == made.plan.fingerprint and facts["edgekit.context"] == "256"
    assert facts["edgekit.version"] and len(facts["edgekit.weights_sha256"]) == 64


@pytest.mark.parametrize("format", [None, "q4_0", "bf16"])
def test_a_size_is_kept_by_the_folder(
    format: str | None, checkpoint: Path, text: Path, work: Path, tmp_path: Path
) -> None:
    size = None if format else 420_000
    target = Target(size_bytes=size, formats=() if format is None else (format,), container=ONNX)
    made = edgekit.plan(checkpoint, target, tmp_path / "plan.json", calib=[text], work=work).plan
    assert made == read_plan(tmp_path / "plan.json", open_checkpoint(checkpoint))
    found = edgekit.export(checkpoint, tmp_path / "onnx", plan=tmp_path / "plan.json", work=work, onnx=OnnxOptions())
    assert found.bytes == sum(file.stat().st_size for file in (tmp_path / "onnx").glob("model.onnx*")) <= made.bytes
    assert found.plan.bytes == made.bytes < found.bytes + 8_000
    if size is not None:
        assert 0.95 * size < made.bytes <= size and not found.notes
    options = OnnxOptions(portable=True, external_data=True)
    larger = edgekit.export(checkpoint, tmp_path / "other", plan=tmp_path / "plan.json", work=work, onnx=options)
    assert any("more than the 420,000 bytes" in note for note in larger.notes) == (size is not None)
    if size is not None:  # edited, the plan itself is beyond its budget
        stored = json.loads((tmp_path / "plan.json").read_text())
        for matrix in stored["tensors"].values():
            matrix["format"] = "f32"
        (tmp_path / "wide.json").write_text(json.dumps(stored))
        wide = tmp_path / "wide.json"
        edited = edgekit.export(checkpoint, tmp_path / "wide", plan=wide, work=work, onnx=OnnxOptions())
        assert "more than the 420,000 bytes that were asked for" in edited.notes


def test_what_cannot_become_onnx_is_refused_before_it_is_calibrated(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.planning.calibrate", None)
    with pytest.raises(InputError, match=r"the smallest file for this model and these types is [0-9,]+ bytes"):
        edgekit.plan(checkpoint, Target(size_bytes=250_000, container=ONNX))
    with pytest.raises(InputError, match=r"at least 5\.\d+ on this model"):
        edgekit.plan(checkpoint, Target(bpw=4.9, container=ONNX))
    gguf = write_plain(tmp_path / "model.gguf", "f16", checkpoint)
    with pytest.raises(InputError, match=r"model\.gguf is no folder with tokenizer files"):
        edgekit.plan(gguf, Target(bpw=6, container=ONNX))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"edgekit\[onnx\]"):
        edgekit.plan(checkpoint, Target(bpw=6, container=ONNX))


def test_a_plan_for_one_kind_of_file_is_exported_as_the_other(
    checkpoint: Path, planned: Path, gguf_planned: Path, work: Path, tmp_path: Path
) -> None:
    made = edgekit.export(checkpoint, tmp_path / "model.gguf", plan=planned, work=work)
    assert made.bytes == made.plan.bytes == (tmp_path / "model.gguf").stat().st_size
    assert made.plan.container == GGUF
    assert {s.name: s.candidates[0].bytes for s in made.plan.sensitivities} == {
        s.name: GGUF.stored_bytes(format_of("q4_0"), s.shape) for s in made.plan.sensitivities
    }
    found = edgekit.export(checkpoint, tmp_path / "onnx", plan=gguf_planned, work=work, onnx=OnnxOptions())
    assert found.bytes <= found.plan.bytes < found.bytes + 8_000
    assert found.plan.container == ONNX and found.bits_per_weight == pytest.approx(bits(found.plan))


def test_the_command_line(
    checkpoint: Path, planned: Path, work: Path, text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = f"plan {checkpoint} --for onnx --bpw 6.1 --calib {text} --work {work} -o {tmp_path}/plan.json"
    assert main(shlex.split(line)) == 0
    told = capfd.readouterr().out
    assert "at most" in told and f"--plan {tmp_path}/plan.json --work {work} --format onnx -o model-onnx" in told
    assert read_plan(tmp_path / "plan.json").formats == read_plan(planned).formats
    output = tmp_path / "onnx"
    line = f"export {checkpoint} --plan {planned} --work {work} --format onnx -o {output} --external-data"
    assert main(shlex.split(line)) == 0
    told = capfd.readouterr().out
    assert f"edgekit run {output} -p" in told
    assert {"model.onnx", "model.onnx.data", "tokenizer.json"} < {path.name for path in output.iterdir()}
    assert main(shlex.split(f"run {output} -p 'Once upon' -n 5 --threads 1")) == 0
    assert capfd.readouterr().out.strip()
    line = f"eval {output} --reference {checkpoint} --text {text} --chunks 1 --threads 1 --json"
    assert main(shlex.split(line)) == 2  # the context is shorter than a window of the protocol
    assert "512 is beyond the 256" in capfd.readouterr().err


def test_eval_counts_graph_and_weights(folder: Path, checkpoint: Path, text: Path) -> None:
    found = edgekit.evaluate(folder, reference=checkpoint, text=text, chunks=2, threads=1, context=128)
    assert found.bytes == found.tensor_bytes == (folder / "model.onnx").stat().st_size
    assert 0 < found.kld_mean < 1 and found.runtime == "onnx"


@pytest.fixture(scope="module")
def sample_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(story(900), encoding="utf-8")
    return path


def check_divergence(blocks: Iterable[tuple[str, Blocks]], formats: dict[str, str], text: Path, folder: Path) -> None:
    """On paired tokens, both with int8 activations; with float32 ones it is torch's of the dequantised weights."""
    checkpoint, kept, gguf = open_checkpoint(SAMPLE), list(blocks), folder / "model.gguf"
    write_gguf(checkpoint, load_tokenizer(checkpoint), kept, formats, gguf)
    files = {"torch": (gguf, "torch"), "gguf": (gguf, "native")}
    for level in (1, 4):
        options = OnnxOptions(accuracy_level=level)
        files[f"onnx {level}"] = (folder / f"onnx{level}", "onnx")
        write_onnx(checkpoint, load_tokenizer(checkpoint), kept, formats, folder / f"onnx{level}", options=options)
    found = {
        name: edgekit.evaluate(path, reference=SAMPLE, text=text, runtime=runtime, threads=1, chunks=5)
        for name, (path, runtime) in files.items()
    }
    assert {result.tokens for result in found.values()} == {5 * 255}
    kld = {name: result.kld_mean for name, result in found.items()}
    assert kld["onnx 1"] == pytest.approx(kld["torch"], rel=1e-3), kld
    assert kld["torch"] < kld["onnx 4"] <= 1.05 * kld["gguf"], kld


@needs("native")
def test_the_sample_in_a_size_has_the_ggufs_divergence(sample_text: Path, tmp_path: Path) -> None:
    """From one plan, of fewer calibration tokens than usual."""
    source, size = open_source(SAMPLE, None, Clock()), 5_600_000
    calibration = Calibration(source, (sample_text,), 0, tmp_path / "work", kept=True, tokens=2560)
    planned = planned_for(Target(size_bytes=size, container=ONNX), None, calibration, Clock())
    formats = planned.plan.formats
    assert set(formats.values()) == {"q4_0", "q8_0"}
    check_divergence(planned.rounded.stream(formats), formats, sample_text, tmp_path)
    for level in (1, 4):
        written = sum(file.stat().st_size for file in (tmp_path / f"onnx{level}").glob("model.onnx*"))
        assert 0.99 * size < written <= planned.plan.bytes <= size


@needs("native")
def test_the_sample_in_q8_0_has_the_ggufs_divergence(sample_text: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLE)
    formats = {tensor.name: "q8_0" for tensor in matrices(checkpoint.tensors)}
    check_divergence(Rounded(checkpoint).stream(formats), formats, sample_text, tmp_path)


def test_a_plan_of_other_formats_is_refused_at_once(
    checkpoint: Path, planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(planned.read_text())
    document["tensors"]["model.layers.1.self_attn.o_proj.weight"]["format"] = "iq4_nl"
    other = tmp_path / "plan.json"
    other.write_text(json.dumps(document))
    monkeypatch.setattr("edgekit.pipeline.planned_from_file", None)  # where the work begins
    with pytest.raises(InputError, match=r"cannot carry iq4_nl, the type of .*o_proj.*q4_0, q8_0, f16, bf16, f32"):
        edgekit.export(checkpoint, tmp_path / "onnx", plan=other, onnx=OnnxOptions())
    with pytest.raises(InputError, match="exists already"):
        edgekit.export(checkpoint, tmp_path, plan=planned, onnx=OnnxOptions())
    with pytest.raises(InputError, match=r"--context 300 is out of range"):
        edgekit.export(checkpoint, tmp_path / "onnx", plan=planned, onnx=OnnxOptions(context=300))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"edgekit\[onnx\]"):
        edgekit.export(checkpoint, tmp_path / "onnx", plan=planned, onnx=OnnxOptions())
    assert not (tmp_path / "onnx").exists()
