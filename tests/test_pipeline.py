"""The whole line on the sample: budgets kept, plans followed, files reproducible, nothing half-written."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType

import edgekit
from edgekit import InputError, Target
from edgekit.devices.predict import overhead_bytes
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.gguf_header import read_header
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Plan, matrices
from edgekit.quant.plan_file import read_plan
from edgekit.target import device_limit

SAMPLE = Path(__file__).parent / "assets" / "sample"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration text that needs nothing but this repository: its own documents, several times what is asked for."""
    root = Path(__file__).parent.parent
    parts = [(root / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "LICENSE")]
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join(parts) * 2, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def planned(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan file for 5 MB."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    edgekit.plan(SAMPLE, Target(size_bytes=5_000_000), path, calib=[text])
    return path


@pytest.mark.parametrize("size", [4_450_000, 6_000_000])
def test_a_size_is_kept_and_used(size: int, text: Path, tmp_path: Path) -> None:
    made = edgekit.quantize(SAMPLE, tmp_path / "m.gguf", Target(size_bytes=size), calib=[text], report=False)
    assert made.path.stat().st_size == made.bytes
    assert 0.99 * size <= made.bytes <= size
    assert made.kld_predicted is not None and made.kld_measured is not None
    assert 0.5 < made.kld_predicted / made.kld_measured < 2


def test_bits_per_weight_and_widths_are_kept(text: Path, tmp_path: Path) -> None:
    target = Target(bpw=5.0, bits=(4, 8, 16))
    made = edgekit.quantize(SAMPLE, tmp_path / "m.gguf", target, calib=[text], report=False)
    shapes = {tensor.name: tensor.shape for tensor in matrices(open_checkpoint(SAMPLE).tensors)}
    bits = sum(8 * format_of(name).bytes(*shapes[tensor]) for tensor, name in made.plan.formats.items())
    weights = sum(rows * columns for rows, columns in shapes.values())
    assert 0.99 * 5.0 <= bits / weights <= 5.0
    assert {format_of(name).width for name in made.plan.formats.values()} <= {4, 8, 16}


def test_a_device_gets_the_smallest_file_within_its_kl(text: Path, tmp_path: Path) -> None:
    made = edgekit.quantize(SAMPLE, tmp_path / "m.gguf", Target(device="pi4b", max_kl=0.01), calib=[text])
    assert made.plan.note is None and made.kld_measured is not None
    assert 0.8 * 0.01 < made.kld_measured < 1.2 * 0.01
    assert made.report is not None
    report = made.report.read_text(encoding="utf-8")
    assert "Raspberry Pi 4" in report and "What each step is worth" in report
    plain, nearest, gptq, descent = made.ablation
    assert plain.kl > nearest.kl > gptq.kl
    assert descent.kl == made.kld_measured < 1.1 * gptq.kl  # its few percent are within the noise of 1024 tokens
    assert plain.bytes <= made.bytes == nearest.bytes == descent.bytes


def test_a_device_too_slow_for_the_kl_gets_the_best_that_fits_and_is_told(text: Path, tmp_path: Path) -> None:
    target = Target(device="pi4b", tps=1200, max_kl=1e-4)  # 5.5 GB/s / 1200: a file of 4.58 MB
    made = edgekit.quantize(SAMPLE, tmp_path / "m.gguf", target, calib=[text], report=False)
    assert made.plan.budget is not None and made.plan.budget.max_bytes is not None
    assert 0.99 * made.plan.budget.max_bytes <= made.bytes <= made.plan.budget.max_bytes
    assert made.plan.note is not None and "0.0001" in made.plan.note


def test_speed_is_another_plan_than_size_and_kept_within_the_memory(text: Path, tmp_path: Path) -> None:
    """At the command line: on a Cortex-A72 Q4_0 takes fewer cycles than Q4_K, at the same bytes and more KL."""
    spec = open_checkpoint(SAMPLE).spec
    small = tmp_path / "small.toml"  # half of its memory, less what runs beside the file, is 4.5 MB
    profile = (Path(edgekit.__file__).parent / "devices" / "profiles" / "pi4b.toml").read_text(encoding="utf-8")
    ram_bytes = 2 * (4_500_000 + overhead_bytes(spec, spec.context))
    small.write_text(profile.replace("ram_bytes = 4_000_000_000", f"ram_bytes = {ram_bytes}"), encoding="utf-8")

    def planned(device: str, objective: str, max_kl: float) -> tuple[dict[str, Any], Plan]:
        path = tmp_path / f"{Path(device).stem}-{objective}.json"
        command = [
            "edgekit",
            "plan",
            str(SAMPLE),
            "--device",
            device,
            "--objective",
            objective,
            "--max-kl",
            str(max_kl),
        ]
        command += ["--calib", str(text), "--work", str(tmp_path / "work"), "--json", "-o", str(path)]
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), read_plan(path)

    (size, sized), (speed, fast), (tight, tightest) = (
        planned("pi4b", "size", 0.02),
        planned("pi4b", "speed", 0.02),
        planned(str(small), "speed", 1e-4),
    )
    limit = device_limit(Target(device="pi4b", objective="speed"), spec)
    assert limit is not None and limit.time is not None
    seconds = [limit.time.total(fast.sensitivities, plan.formats) for plan in (sized, fast)]
    assert seconds[1] < 0.99 * seconds[0] and fast.bytes >= sized.bytes
    assert max(size["kld_measured"], speed["kld_measured"]) < 0.02 * 1.1
    assert size["decode_tps_predicted"] is None
    assert speed["decode_tps_predicted"] == pytest.approx(1 / seconds[1]) == fast.facts["decode_tps_predicted"]
    assert tightest.budget is not None and tightest.budget.max_bytes == 4_500_000
    assert 0.98 * 4_500_000 < tight["bytes"] <= 4_500_000 and "0.0001" in tight["notes"][0]
    assert 15 < tight["decode_tps_predicted"] < speed["decode_tps_predicted"]


def test_an_impossible_size_names_the_smallest_file(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"the smallest file for this model and these types is ([\d,]+) bytes"
    ) as caught:
        edgekit.quantize(SAMPLE, tmp_path / "m.gguf", Target(size_bytes=1_000_000))
    smallest = int(str(caught.value).split(" is ")[-1].split(" bytes")[0].replace(",", ""))
    assert not (tmp_path / "m.gguf").exists()
    made = edgekit.quantize(SAMPLE, tmp_path / "m.gguf", Target(size_bytes=smallest), report=False)
    assert made.bytes == smallest


@pytest.mark.parametrize("format", ["q4_0", "q6_k", "f16", "f32"])
def test_one_format_everywhere(format: str, text: Path, tmp_path: Path) -> None:
    made = edgekit.quantize(SAMPLE, tmp_path / "m.gguf", Target(formats=(format,)), calib=[text], report=False)
    assert set(made.plan.formats.values()) == {format}
    expected = {"F32", format.upper()}
    assert {GGMLQuantizationType(tensor.ggml_type).name for tensor in read_header(made.path).tensors} == expected
    assert made.plan.note is None


def test_a_plan_can_be_written_used_and_exported_alike(planned: Path, text: Path, tmp_path: Path) -> None:
    quantised = edgekit.quantize(SAMPLE, tmp_path / "q.gguf", plan=planned, report=False)
    exported = edgekit.export(SAMPLE, tmp_path / "e.gguf", plan=planned)
    direct = edgekit.quantize(SAMPLE, tmp_path / "d.gguf", Target(size_bytes=5_000_000), calib=[text], report=False)
    assert quantised.sha256 == exported.sha256 == direct.sha256
    assert quantised.kld_predicted == direct.kld_predicted


def test_a_plan_edited_by_hand_is_followed(planned: Path, tmp_path: Path) -> None:
    document = json.loads(planned.read_text(encoding="utf-8"))
    document["tensors"]["model.layers.3.mlp.down_proj.weight"]["format"] = "f16"
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(document), encoding="utf-8")
    made = edgekit.export(SAMPLE, tmp_path / "m.gguf", plan=edited)
    types = {tensor.name: tensor.ggml_type for tensor in read_header(made.path).tensors}
    assert types["blk.3.ffn_down.weight"] == GGMLQuantizationType.F16
    assert made.bytes == read_plan(edited).bytes != read_plan(planned).bytes


def test_a_plan_fits_a_copy_of_the_checkpoint_with_another_header(planned: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(SAMPLE, tmp_path / "a-much-longer-name-than-the-sample-has")
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}" * 20, encoding="utf-8")
    made = edgekit.export(copy, tmp_path / "m.gguf", plan=planned)
    assert made.path.stat().st_size == made.bytes == made.plan.bytes > read_plan(planned).bytes


def test_a_plan_whose_text_is_gone_asks_for_another(planned: Path, text: Path, tmp_path: Path) -> None:
    document = json.loads(planned.read_text(encoding="utf-8"))
    document["facts"]["calibration_texts"] = str(tmp_path / "gone.txt")
    alone = tmp_path / "plan.json"
    alone.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match=r"gone\.txt, the calibration text of .*--calib"):
        edgekit.export(SAMPLE, tmp_path / "m.gguf", plan=alone)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text(encoding="utf-8")[1000:], encoding="utf-8")
    made = edgekit.export(SAMPLE, tmp_path / "m.gguf", plan=alone, calib=[other])
    assert made.plan.note is not None and "other calibration text" in made.plan.note


def test_two_processes_make_the_same_bytes(text: Path, tmp_path: Path) -> None:
    """Without calibration text too: the sampling is part of what the seed decides."""
    for calib in ([], ["--calib", str(text)]):
        digests = []
        for name in ("a", "b"):
            command = [
                "edgekit",
                "quantize",
                str(SAMPLE),
                "--size",
                "5MB",
                *calib,
                "-o",
                str(tmp_path / f"{name}.gguf"),
            ]
            done = subprocess.run(
                [sys.executable, "-m", *command, "--no-report", "--json"], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            digests.append(json.loads(done.stdout)["sha256"])
        assert digests[0] == digests[1]


def test_a_failed_run_leaves_an_existing_output_alone(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.gguf"
    target.write_bytes(b"precious")

    def interrupted(*_arguments: object) -> Iterator[object]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("edgekit.measuring.Rounded.stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edgekit.quantize(SAMPLE, target, Target(formats=("q8_0",)), calib=[text])
    assert target.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf"]


def test_the_allocation_beats_one_type_everywhere(text: Path, tmp_path: Path) -> None:
    """At the bytes of a uniform file, the mixed one is measurably closer to the model."""
    uniform = edgekit.quantize(SAMPLE, tmp_path / "u.gguf", Target(formats=("q5_k",)), calib=[text], report=False)
    mixed = edgekit.quantize(SAMPLE, tmp_path / "m.gguf", Target(size_bytes=uniform.bytes), calib=[text], report=False)
    assert mixed.bytes <= uniform.bytes
    assert uniform.kld_measured is not None and mixed.kld_measured is not None
    assert mixed.kld_measured < 0.97 * uniform.kld_measured


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size_bytes": 5, "bpw": 4.0}, "--size and --bpw exclude each other"),
        ({"bpw": 0.0}, "--bpw 0 is out of range"),
        ({"device": "pi4b", "max_kl": 0.0}, "--max-kl 0 is out of range"),
        ({}, "there is no budget"),
        ({"formats": ("q4_0", "q8_0")}, "there is no budget"),
        ({"formats": ("q3_9",)}, "q3_9"),
        ({"bits": (7,)}, "7"),
    ],
)
def test_impossible_targets(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Target(**options)  # type: ignore[arg-type]


def test_an_unknown_device_is_told_from_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pi4b"):
        edgekit.quantize(SAMPLE, tmp_path / "m.gguf", Target(device="pi9"))


def test_public_names() -> None:
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    importlib.import_module("edgekit.export.gguf")  # the folder of the same name does not take the function's place

    assert (
        callable(edgekit.export) and callable(edgekit.evaluate) and callable(edgekit.bench) and callable(edgekit.load)
    )
    with pytest.raises(AttributeError):
        edgekit.nothing  # noqa: B018


def test_values_are_plain(planned: Path) -> None:
    """A plan survives its file; numpy scalars would not."""
    plan = read_plan(planned)
    assert not any(isinstance(value, np.generic) for value in dataclasses.asdict(plan).values())
