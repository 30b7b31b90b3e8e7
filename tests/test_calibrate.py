"""Fitting a profile: made-up devices whose truth is known come out, and what cannot be told is left as it was."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from bench_samples import device_result, plain_result, samples
from device_lab import install_fake_runner, write_profile
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices.calibrate import calibrate
from edgekit.devices.predict import predict_run
from edgekit.devices.profile import Device, load_device
from edgekit.devices.profile_edit import with_figures
from edgekit.devices.result import BenchResult, Core, Machine, Reads, summarise
from edgekit.models.errors import InputError
from edgekit.report.bench import write

GB = 10**9
TRUTH = Device(
    "board", "A board", ("aarch64", "dotprod"), 4, 4 * GB, 8e9, {}, None, 2e9,
    {"q4_0": 12.0, "q8_0": 5.0, "q6_k": 9.0, "f32": 10.0},
)  # fmt: skip
PROFILE = """# My board, on the shelf by the window
title = "A board"  # the second one
isa = ["aarch64", "dotprod"]
cores = 4
ram_bytes = 4_000_000_000
bandwidth_bytes_per_s = 5e9  # a guess

transport = "local"

[sources]
cores = "counted"
ram_bytes = "printed on it"
bandwidth_bytes_per_s = "a guess"

[env]
A = "b"  # keep me
"""
CYCLES = """clock_hz = 2e9
cycles_per_block = { q4_0 = 6, q8_0 = 5.0, q6_k = 9.0, f32 = 10.0 }
"""
CYCLES_SOURCES = """[sources]
clock_hz = "printed on it"
cycles_per_block = "counted"
"""
Q4, Q8, Q6 = ({"Q4_0": GB}, {"Q8_0": 2 * GB}, {"Q6_K": GB, "Q4_0": GB // 10})


def seconds(device: Device, reads: Reads) -> float:
    """By hand: reading and arithmetic, added up."""
    blocks = {"Q4_0": 18, "Q8_0": 34, "Q6_K": 210 / 8, "F32": 128}  # bytes of 32 weights
    arithmetic = sum(
        size / blocks[name] * device.cycles_per_block.get(name.lower(), 0.0) for name, size in reads.weights.items()
    )
    clock = device.clock_hz or 1.0
    return (sum(reads.weights.values()) + reads.cache) / device.bandwidth_bytes_per_s + arithmetic / 4 / clock


def result(weights: dict[str, int], truth: Device = TRUTH, noise: float = 1.0, **changes: object) -> BenchResult:
    """As a device of that truth would give it."""
    reads = Reads({**weights, "F32": 100_000}, 30_000_000)
    taken = samples(token_s=1.0)
    rate = 1 / (seconds(truth, reads) * noise)
    taken = tuple(replace(sample, decode_tps=rate, at_s=None, load_cold_s=None) for sample in taken)
    run = replace(
        plain_result(),
        run_id=f"r{'-'.join(weights)}{next(iter(weights.values()))}",
        machine=Machine("A processor", ("aarch64", "dotprod"), 4, int(3.9 * GB), 4096, "Linux", "6.1", 0.1),
        config=replace(plain_result().config, threads=4),
        samples=taken,
        summary=summarise(taken),
        reads=reads,
    )
    return replace(run, **changes)


def named(*results: BenchResult) -> dict[str, BenchResult]:
    return {f"{place}.json": one for place, one in enumerate(results)}


def test_one_result_tells_the_bandwidth_alone() -> None:
    guess = replace(TRUTH, bandwidth_bytes_per_s=5e9)
    found = calibrate(guess, named(result(Q4)))
    assert found.fitted == ("bandwidth_bytes_per_s",)
    assert found.device.bandwidth_bytes_per_s == pytest.approx(8e9, rel=1e-3)
    assert found.device.cycles_per_block == TRUTH.cycles_per_block
    assert "one result tells one figure" in found.notes[0]
    (row,) = found.agreement
    assert row.after_tps == pytest.approx(row.measured_tps, rel=1e-3) and row.before_tps < 0.9 * row.measured_tps


def test_several_types_tell_bandwidth_and_cycles() -> None:
    """The widest, Q8_0, keeps its cycles; the others come out of wrong ones."""
    guess = replace(TRUTH, bandwidth_bytes_per_s=5e9, cycles_per_block={**TRUTH.cycles_per_block, "q4_0": 2, "q6_k": 2})
    found = calibrate(guess, named(result(Q4), result(Q8), result(Q6)))
    assert set(found.fitted) == {"bandwidth_bytes_per_s", "Q4_0", "Q6_K"}
    assert found.device.bandwidth_bytes_per_s == pytest.approx(8e9, rel=1e-3)
    assert found.device.cycles_per_block == pytest.approx(TRUTH.cycles_per_block, rel=2e-3)
    assert found.notes == ("the cycles of q8_0 stay as they were: these results do not tell them",)


def test_a_profile_without_cycles_gets_those_that_the_results_tell() -> None:
    truth = replace(TRUTH, cycles_per_block={"q4_0": 12.0})
    bare = replace(TRUTH, bandwidth_bytes_per_s=5e9, clock_hz=None, cycles_per_block={})
    device = replace(device_result().device, cores=tuple(Core(cpu, 2e9, None, True) for cpu in range(4)))
    results = [result(each, truth, device=device) for each in (Q4, Q8)]
    found = calibrate(bare, named(*results))
    assert found.device.clock_hz == 2e9 and found.fitted == ("bandwidth_bytes_per_s", "Q4_0")
    assert found.device.bandwidth_bytes_per_s == pytest.approx(8e9, rel=1e-2)
    assert found.device.cycles_per_block["q4_0"] == pytest.approx(12, rel=2e-2)
    assert "q8_0 are taken as none" in found.notes[0]
    for one, row in zip(results, found.agreement, strict=True):
        assert row.after_tps == pytest.approx(row.measured_tps, rel=1e-2)
        assert predict_run(found.device, one.reads).decode_tps == row.after_tps


def test_without_a_clock_the_bandwidth_alone() -> None:
    bare = replace(TRUTH, clock_hz=None, cycles_per_block={})
    found = calibrate(bare, named(result(Q4), result(Q8)))
    assert found.fitted == ("bandwidth_bytes_per_s",) and "tell the clock" in found.notes[0]
    assert "still up to" in found.notes[1]  # two types, one figure


def test_one_type_in_two_sizes_tells_no_more_than_one_result() -> None:
    found = calibrate(TRUTH, named(result(Q4), result({"Q4_0": 3 * GB})))
    assert found.fitted == ("bandwidth_bytes_per_s",) and "all results are of q4_0" in found.notes[0]


def test_no_figure_becomes_negative() -> None:
    """Q4_0 faster than its bytes allow at Q8_0's bandwidth: its cycles are as good as none, and the fit says so."""
    odd = [result(Q4, noise=0.3), result(Q8)]
    found = calibrate(TRUTH, named(*odd))
    assert found.device.cycles_per_block["q4_0"] == 0.01
    assert found.device.bandwidth_bytes_per_s > 0 and "still up to" in found.notes[-1]


def test_noise_moves_the_figures_a_little() -> None:
    """4 % either way: the worst case moves the cycles by a third and the predictions by no more than that 4 %."""
    found = calibrate(TRUTH, named(result(Q4, noise=1.04), result(Q8, noise=0.96), result(Q6)))
    assert found.device.bandwidth_bytes_per_s == pytest.approx(8e9, rel=0.1)
    assert found.device.cycles_per_block["q4_0"] == pytest.approx(12, rel=0.34)
    assert all(row.after_tps == pytest.approx(row.measured_tps, rel=0.02) for row in found.agreement)


def test_arithmetic_that_takes_longer_than_was_measured() -> None:
    with pytest.raises(InputError, match="cycles_per_block alone take longer than was measured"):
        calibrate(replace(TRUTH, cycles_per_block={"q4_0": 120.0}), named(result(Q4)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"status": "invalid", "reasons": ("odd",)}, r"is invalid \(odd\): leave it out"),
        ({"emulated": True}, "is of an emulated device"),
        ({"reads": None}, "the native one's"),
        ({"machine": replace(result(Q4).machine, ram_bytes=8 * GB)}, "of another device: it has 8.0 GB of RAM"),
        ({"machine": replace(result(Q4).machine, cores=2)}, "of another device: it has 2 big cores and board 4"),
        ({"machine": replace(result(Q4).machine, isa=("aarch64",))}, "only one of it and board has dotprod"),
        ({"device": device_result().device}, "of another device: it has 2 big cores"),
    ],
    ids=str,
)
def test_what_cannot_be_used(changes: dict[str, object], told: str) -> None:
    for force in (False, True):
        with pytest.raises(InputError, match=told):
            calibrate(TRUTH, named(result(Q4, **changes)), force=force)


def test_results_of_two_devices_or_one_twice() -> None:
    other = result(Q8, machine=replace(result(Q8).machine, cpu="Another"))
    with pytest.raises(InputError, match=r"1\.json is of another device than 0\.json"):
        calibrate(TRUTH, named(result(Q4), other))
    with pytest.raises(InputError, match=r"1\.json is given twice"):
        calibrate(TRUTH, named(result(Q4), result(Q4)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"status": "degraded", "reasons": ("it was busy",)},
            r"is degraded \(it was busy\): measure again, or .*--force",
        ),
        ({"config": replace(result(Q4).config, threads=1)}, "ran with 1 threads and board has 4 cores"),
    ],
    ids=str,
)
def test_what_needs_force(changes: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        calibrate(TRUTH, named(result(Q4, **changes)))
    assert calibrate(TRUTH, named(result(Q4, **changes)), force=True).fitted


# The command


def stored(folder: Path, *results: BenchResult) -> list[str]:
    return [str(write(one, folder / f"{place}.json")) for place, one in enumerate(results)]


def test_the_command_keeps_the_rest_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.toml"
    path.write_text(PROFILE)
    files = stored(tmp_path, result(Q4, replace(TRUTH, cycles_per_block={})))
    assert main(["devices", "calibrate", str(path), *files]) == 0
    text, out = path.read_text(), capsys.readouterr().out
    assert load_device(path).bandwidth_bytes_per_s == pytest.approx(8e9, rel=1e-3)
    assert load_device(path).sources["bandwidth_bytes_per_s"] == "fitted from bench rQ4_01000000000, 2026-01-02"
    for kept in ("# My board, on the shelf by the window", '"A board"  # the second one', '[env]\nA = "b"  # keep me'):
        assert kept in text
    assert "\nbandwidth_bytes_per_s = 8e9\n" in text or "\nbandwidth_bytes_per_s = 7.99" in text
    assert "a guess" not in text  # neither the source nor the comment of what is no guess any more
    assert "5.00 GB/s -> 8.00 GB/s" in out and "bandwidth_bytes_per_s alone is fitted" in out
    tail = out.splitlines()[-1].split()
    assert tail[0] == "model.gguf" and tail[1] == tail[3] and tail[2] != tail[1]


def test_the_command_writes_another_file_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "board.toml", tmp_path / "other.toml"
    path.write_text(PROFILE.replace("[sources]", CYCLES + CYCLES_SOURCES))
    before = path.read_text()
    files = stored(tmp_path, result(Q4), result(Q8))
    assert main(["devices", "calibrate", str(path), *files, "-o", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert path.read_text() == before and found["path"] == str(other)
    assert found["fitted"] == ["bandwidth_bytes_per_s", "Q4_0"] and len(found["agreement"]) == 2
    device = load_device(other)
    assert device.cycles_per_block["q4_0"] == pytest.approx(12, rel=2e-3) and device.cycles_per_block["q8_0"] == 5
    assert device.sources["cycles_per_block"].startswith("q4_0 fitted from bench rQ4_0")
    assert device.sources["cycles_per_block"].endswith("q8_0, q6_k, f32: counted")


def test_a_profile_that_was_probed_gets_its_bandwidth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in PROFILE.splitlines(keepends=True) if "bandwidth" not in line]
    path = tmp_path / "board.toml"
    path.write_text("".join(lines))
    with pytest.raises(InputError, match="has no bandwidth"):
        load_device(path)
    files = stored(tmp_path, result(Q4, replace(TRUTH, cycles_per_block={})))
    assert main(["devices", "calibrate", str(path), *files]) == 0
    assert "not known -> 8.00 GB/s" in capsys.readouterr().out
    assert load_device(path).bandwidth_bytes_per_s == pytest.approx(8e9, rel=1e-3)


def test_from_a_look_at_a_device_to_a_prediction_that_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Probe, bench, calibrate, bench: the second bench is predicted."""
    install_fake_runner(tmp_path / "runners", monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_profile(tmp_path / "way.toml", "local", tmp_path / "work")
    write_sample_gguf(tmp_path / "model.gguf")
    bench = ["bench", "model.gguf", "--device", "board.toml", "--gen-tokens", "8", "--reps", "5", "-o", "r.json"]
    assert main(["devices", "probe", "way.toml", "-o", "board.toml"]) == 0
    assert main(bench) == 0
    assert main(["devices", "calibrate", "board.toml", "r.json"]) == 0
    capsys.readouterr()
    assert main(bench) == 0
    assert "20.0 tok/s to decode, measured 20.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pi4b", "0.json"], "pi4b is one of edgekit's own profiles: name a file of yours with -o pi4b.toml"),
        (["host", "0.json"], "host is measured anew each time"),
        (["board.toml"], "RESULT"),
        (["board.toml", "none.json"], "none.json cannot be read"),
        (["board.toml", "board.toml"], "board.toml: the result is not JSON"),
        (["board.toml", "0.json", "-o", "x.json"], "does not end in .toml"),
        (["board.toml", "1.json"], "is of an emulated device"),
        (["odd.toml", "0.json"], "odd.toml: it is laid out in a way"),
    ],
    ids=str,
)
def test_mistakes(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "board.toml").write_text(PROFILE)
    (tmp_path / "odd.toml").write_text(PROFILE.replace("bandwidth_bytes_per_s = 5e9", '"bandwidth_bytes_per_s" = 5e9'))
    stored(tmp_path, result(Q4), result(Q4, emulated=True))
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    assert main(["devices", "calibrate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and len(err.splitlines()) == 1
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "text",
    [
        "a = 1\n", "", "# only a comment", "[b]\nc = 2\n",
        "[ sources ] # yes\na = 'x'\n[b]\nc = 2", "a = 1\r\nb = 2\r\n",
        'a = """\nbandwidth\n"""\n[sources]\nx = "y"\n\n\n[[t]]\nk = 1\n', "clock_hz=3\n\n\n# end\n\n[z]\n",
    ],
    ids=repr,
)  # fmt: skip
def test_editing(text: str) -> None:
    """Everything else is as it was, and twice is as once."""
    figures = {"clock_hz": 1.5e9, "cycles_per_block": {"q4_0": 5.0}}
    edited = with_figures(text, figures, {"clock_hz": 'he said "so"'}, "f.toml")
    found = tomllib.loads(edited)
    assert found["clock_hz"] == 1.5e9 and found["cycles_per_block"] == {"q4_0": 5.0}
    assert found["sources"]["clock_hz"] == 'he said "so"'
    rest = {key: value for key, value in tomllib.loads(text).items() if key not in ("clock_hz", "sources")}
    assert rest.items() <= found.items()
    assert with_figures(edited, figures, {"clock_hz": 'he said "so"'}, "f.toml") == edited
    for line in text.splitlines():
        assert line in edited or "clock_hz" in line


def test_figures_are_written_as_people_do() -> None:
    for value, spelled in {2.917e10: "2.917e10", 8e9: "8e9", 12.5: "12.5", 2437500001.5: "2437500001.5"}.items():
        assert with_figures("", {"clock_hz": value}, {}, "f.toml").startswith(f"clock_hz = {spelled}\n")


def test_the_model_is_that_of_the_prediction() -> None:
    reads = Reads({"Q4_0": GB, "F32": 1000}, 5000)
    assert predict_run(TRUTH, reads).decode_tps == pytest.approx(1 / seconds(TRUTH, reads))
    assert not math.isnan(predict_run(TRUTH, reads).memory_s)
