"""The harness on this machine as the device, with a fake runner: the whole way, and every fault on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from device_lab import demand_runner, install_fake_runner, left_behind, write_profile
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices import remote
from edgekit.devices.bench_device import bench_device
from edgekit.devices.measure import measure
from edgekit.devices.profile import load_device
from edgekit.devices.target import Target
from edgekit.models.errors import InfrastructureError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("device") / "it's a $(model).gguf")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_fake_runner(tmp_path / "runners", monkeypatch)
    return tmp_path / "device"


def profile(workdir: Path, faults: str = "", more: str = "") -> Path:
    return write_profile(workdir.parent / "board.toml", "local", workdir, faults, more)


def bench(model: Path, file: Path, *more: str) -> int:
    return main(["bench", str(model), "--device", str(file), "--gen-tokens", "8", "--reps", "4", *more])


def test_a_run(model: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, profile(workdir, more='tags = ["a tag"]\nthreads = 1'), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 4 and found["status"] == "valid" and found["reasons"] == []
    assert found["emulated"] is False and found["device"]["target"] == "board" and found["device"]["tags"] == ["a tag"]
    assert found["device"]["model"] == "A board of the tests" and found["config"]["affinity"] == [0]
    assert found["summary"]["decode_tps"]["median"] == 20.0 and len(found["samples"]) == 4
    assert found["timeline"][0]["freq_hz"] == [2.0e9] and found["timeline"][0]["temp_c"] is None
    assert found["predicted"] is None and "no profile" in found["unavailable"].pop("predicted")
    assert found["unavailable"] == {"temp_c": "there is no thermal zone"}
    assert found["build"]["python"] is None and len(found["build"]["sha256"]) == 64
    assert left_behind(workdir) == []


FIGURES = """title = "A board"
isa = ["x86_64"]
cores = 1
ram_bytes = 2_000_000_000
bandwidth_bytes_per_s = 40e6
"""
SOURCES = """[sources]
cores = "counted"
ram_bytes = "printed on it"
bandwidth_bytes_per_s = "an estimate"
"""


def test_predicted_beside_measured(model: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = profile(workdir, more=FIGURES)
    file.write_text(file.read_text() + SOURCES)
    assert load_device(file).bandwidth_bytes_per_s == 40e6  # the same file is a profile to plan for
    assert bench(model, file) == 0
    out = capsys.readouterr().out
    assert "4.0 tok/s to decode, measured 20.0" in out and "9.9 MB are read" in out and "(a prediction)" in out
    assert "board (A board of the tests)" in out


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ("emulated", "emulated (DMI says QEMU)"),
        ("throttle", "core 0's clock varied between 1.00 and 2.00 GHz"),
    ],
)
def test_doubts(model: Path, workdir: Path, faults: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, profile(workdir, faults), "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "degraded" and reason in "".join(found["reasons"])
    assert found["emulated"] is (faults == "emulated")
    assert left_behind(workdir) == []


def test_a_figure_that_is_missing_is_invalid(model: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, profile(workdir, "null"), "--json") == 5
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "invalid" and found["samples"][0]["decode_tps"] is None
    assert left_behind(workdir) == []


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ("sigill", "an instruction that this processor lacks"),
        ("illegal", "an instruction that this processor lacks"),
        ("killed", "memory runs out"),
        ("die", "refused by the system: no memory for a thread"),
        ("badmodel", "cannot run this model: it's a $(model).gguf ends"),
        ("full", "could not write its result"),
        ("nospace", "MB free in"),
        ("garbage", "is not JSON"),
        ("deep", "nested deeper"),
        ("huge", "longer than"),
        ("nan", "NaN is no number"),
        ("missing", "has no memory"),
        ("othernonce", "another run's result"),
        ("unproven", "without proof"),
        ("ignores", "used 1 as prompt_tokens where 512"),
        ("chatty", "gave back more than"),
        ("escape", "probe.model is not the text"),
        ("deaf", "no answer within"),
    ],
)
def test_faults(model: Path, workdir: Path, faults: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, profile(workdir, faults)) == 6
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert out == "" and last.startswith("edgekit: error: ") and told in last and "Traceback" not in err
    assert "\x1b" not in last
    assert left_behind(workdir) == []


@pytest.mark.parametrize("faults", ["hang", "hang,obeys"])
def test_a_runner_that_hangs_is_stopped_at_the_deadline(
    model: Path, workdir: Path, faults: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the desk, or by the runner's own supervisor."""
    assert bench(model, profile(workdir, faults), "--deadline", "1") == 6
    assert "did not end within 1 s" in capsys.readouterr().err
    assert left_behind(workdir) == []


def test_two_at_once(model: Path, workdir: Path) -> None:
    """The second is told so at once; the first goes on, and its files are not taken from under it."""
    options: dict[str, Any] = {"gen_tokens": 8, "reps": 4}
    first: list[object] = []

    def run() -> None:
        first.append(bench_device(model, Target.parse(str(profile(workdir, "slow=2"))), **options))

    other = threading.Thread(target=run)
    other.start()
    deadline = time.monotonic() + 10
    while not list(workdir.glob("run-*/pid")) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(InfrastructureError, match="busy with another benchmark"):
        bench_device(model, Target.parse(str(workdir.parent / "board.toml")), **options)
    assert len(list((workdir / "blobs").glob("*"))) == 4  # two files, each with the first run's mark
    other.join()
    assert [result.status for result in first] == ["valid"]  # type: ignore[attr-defined]
    assert left_behind(workdir) == []


def test_keep(model: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is not pushed again, and stays when a run without --keep has used it."""
    from edgekit.devices.transports import local

    pushed: list[Path] = []
    push = local.Local.push

    def counted(self: local.Local, file: Path, remote: str, timeout_s: float) -> Any:
        pushed.append(file)
        return push(self, file, remote, timeout_s)

    monkeypatch.setattr(local.Local, "push", counted)
    file = profile(workdir)
    assert bench(model, file, "--keep") == 0 and len(pushed) == 2
    assert bench(model, file) == 0 and len(pushed) == 2
    names = sorted(path.name for path in (workdir / "blobs").iterdir())
    assert len(names) == 4 and all(name.endswith(".keep") == (index % 2 == 1) for index, name in enumerate(names))


def test_a_damaged_blob_is_pushed_again(model: Path, workdir: Path) -> None:
    file = profile(workdir)
    assert bench(model, file, "--keep") == 0
    for path in (workdir / "blobs").iterdir():
        if path.suffix == "" and path.stat().st_size > 100_000:
            path.write_bytes(b"half")
    assert bench(model, file) == 0


def test_what_an_earlier_desk_left_is_removed(model: Path, workdir: Path) -> None:
    import os

    blobs = workdir / "blobs"
    blobs.mkdir(parents=True)
    old = time.time() - 3 * 24 * 3600
    for name in (f".{'a' * 64}.{'b' * 32}.part", "c" * 64, f"{'c' * 64}.{'b' * 32}.use"):
        (blobs / name).write_text("left")
        os.utime(blobs / name, (old, old))
    assert bench(model, profile(workdir)) == 0
    assert left_behind(workdir) == []


def test_probe(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, written = (
        profile(workdir, more='tags = ["x"]\nrunner_prefix = ["nice", "-n", "1"]'),
        workdir.parent / "mine.toml",
    )
    assert main(["devices", "probe", str(file), "-o", str(written)]) == 0
    assert "A board of the tests" in capsys.readouterr().out
    target, again = Target.parse(str(file)), Target.parse(str(written))
    assert again.workdir == target.workdir and again.env == target.env and again.abi == "x86_64"
    assert again.runner_prefix == ("nice", "-n", "1") and again.tags == ("x",)
    assert main(["devices", "show", str(written)]) == 2  # no bandwidth yet
    assert "has no bandwidth_bytes_per_s: add it, or let edgekit devices calibrate" in capsys.readouterr().err
    assert main(["devices", "probe", str(written), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ram_bytes"] == 2 << 30
    assert left_behind(workdir) == []


def test_a_missing_runner(
    model: Path, workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir.parent / "runners" / "edgekit-bench-x86_64").unlink()
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert bench(model, profile(workdir)) == 2
    assert "pip install ziglang" in capsys.readouterr().err and left_behind(workdir) == []


def test_an_instruction_set_that_is_required(model: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, profile(workdir, more='required_isa = ["dotprod"]')) == 6
    assert "lacks dotprod" in capsys.readouterr().err and left_behind(workdir) == []


def test_interrupting_cleans_up(model: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: remote._Session, workload: remote.Workload) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(remote._Session, "follow", interrupted)
    assert bench(model, profile(workdir, "hang")) == 1
    assert left_behind(workdir) == []


@pytest.fixture
def small_disk(workdir: Path) -> Iterator[Path]:
    """A folder on a disk of 4 MiB of its own."""
    disk = workdir.parent / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk takes the right to mount one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(
    model: Path, workdir: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device said that there was room, and then there was not."""
    file = write_profile(workdir.parent / "board.toml", "local", small_disk / "device")
    assert bench(model, file) == 6
    err = capsys.readouterr().err
    assert "there is no space left in" in err and len(err.strip().splitlines()) == 1
    assert list(small_disk.iterdir()) == []


def test_the_real_runner_generates_the_same_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same workload in this process and by the static program, down to the hash of what is generated."""
    demand_runner()
    model = write_sample_gguf(tmp_path / "sample.gguf")
    file = tmp_path / "board.toml"
    file.write_text(f'transport = "local"\nworkdir = "{tmp_path / "device"}"\n')
    line = ["--prompt-tokens", "20", "--gen-tokens", "6", "--reps", "1", "--threads", "1", "--json"]
    assert main(["bench", str(model), "--device", str(file), *line]) == 3  # one repetition is few
    found = json.loads(capsys.readouterr().out)
    assert found["samples"][0]["output_sha256"] == measure(model, "native", 20, 6, 1).output_sha256
    assert found["samples"][0]["load_cold_s"] is not None or "load_cold_s" in found["unavailable"]
    assert found["memory"]["peak_bytes"] > found["memory"]["baseline_bytes"] > 0
    assert left_behind(tmp_path / "device") == []
