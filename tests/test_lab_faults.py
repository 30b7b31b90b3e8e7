"""What goes wrong with devices, done to the real runner over the real transports.

Each time: one sentence, the exit code 6, no figures; no process and no file stays on the device.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from device_lab import SshServer, demand_runner, left_behind, needs_sshd, write_profile
from lab_devices import Phone, needs_phone, once, takes_long, wait_for
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices import deploy, remote

pytestmark = needs_phone

SHORT = ("--prompt-tokens", "8", "--gen-tokens", "8", "--reps", "2", "--threads", "1")
SECONDS = ("--prompt-tokens", "8", "--gen-tokens", "400", "--reps", "60", "--threads", "1")
MINUTES = ("--prompt-tokens", "8", "--gen-tokens", "900", "--reps", "300", "--threads", "1")


@dataclass(frozen=True)
class Link:
    """A way to this machine as the device; the last two for those that can be cut."""

    kind: str
    settings: Callable[[], str]
    cut: Callable[[], None]
    back: Callable[[], None]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand_runner()
    return write_sample_gguf(tmp_path_factory.mktemp("model") / "sample.gguf")


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    phone = Phone(tmp_path_factory.mktemp("phone") / "phone")
    try:
        phone.start()
        yield phone
    finally:
        phone.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(tmp_path_factory.mktemp("ssh") / "server")
    server.start()
    yield server
    assert server.process is not None
    if server.process.poll() is None:
        server.cut()


def link_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Link:
    if request.param == "local":
        return Link("local", str, lambda: None, lambda: None)
    if request.param == "ssh":
        server: SshServer = request.getfixturevalue("server")
        return Link("ssh", server.settings, server.cut, server.start)
    phone: Phone = request.getfixturevalue("phone")
    monkeypatch.setenv("PATH", str(phone.bin), prepend=os.pathsep)
    return Link("adb", phone.settings, phone.cut, phone.start)


@pytest.fixture(params=[pytest.param("local", marks=takes_long), pytest.param("ssh", marks=needs_sshd), "adb"])
def link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Link:
    return link_of(request, monkeypatch)


@pytest.fixture(params=[pytest.param("ssh", marks=needs_sshd), "adb"])
def cable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Link:
    return link_of(request, monkeypatch)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / "device"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk that gives up soon, and a lease that is over soon."""
    monkeypatch.setattr(remote, "REATTACH_S", 4.0)
    monkeypatch.setattr(remote, "LEASE_S", 10)
    monkeypatch.setattr(deploy, "_RETRIES_S", (0.0, 1.0))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(kilobytes: int) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)], check=True)
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], check=True)


def profile(link: Link, workdir: Path, folder: Path, more: str = "") -> Path:
    return write_profile(folder / "board.toml", link.kind, workdir, more=f"{link.settings()}{more}")


def bench(model: Path, file: Path, *more: str) -> int:
    return main(["bench", str(model), "--device", str(file), *more])


def runs(workdir: Path) -> list[Path]:
    return list(workdir.glob("run-*/pid"))


def worker(workdir: Path) -> int:
    return int(runs(workdir)[0].read_text().split()[0])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one that was said; there are no figures beside it."""
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and err.startswith("edgekit: error: ")
    return err.strip()


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def age(workdir: Path) -> None:
    """As if an hour had gone by."""
    old = time.time() - 3600
    for path in (workdir / "blobs").iterdir():
        os.utime(path, (old, old))


def test_a_cable_pulled_and_plugged_in_again(
    model: Path, cable: Link, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run went on meanwhile: its result is as good as any."""

    def pull() -> None:
        cable.cut()
        time.sleep(2)
        cable.back()

    other = once(lambda: runs(workdir), pull)
    code = bench(model, profile(cable, workdir, tmp_path), *SECONDS, "--json")
    other.join()
    assert code in (0, 3)
    found = result(capsys)
    assert len(found["samples"]) == 60 and found["status"] in ("valid", "degraded")
    assert left_behind(workdir) == []


def test_a_cable_pulled_for_good(
    model: Path, cable: Link, workdir: Path, tmp_path: Path, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends by itself, and the next desk clears away what this one could not."""
    other = once(lambda: runs(workdir), cable.cut)
    try:
        code = bench(model, profile(cable, workdir, tmp_path), *MINUTES)
        other.join()
        told = sentence(capsys)
        assert code == 6 and "cannot be reached" in told and f"{workdir} there could not be cleaned up" in told
        wait_for(lambda: not [line for line in left_behind(workdir) if "run-" in line])
    finally:
        cable.back()
    assert bench(model, profile(cable, workdir, tmp_path), *SHORT) in (0, 3)
    kept = [path.name for path in (workdir / "blobs").iterdir()]
    assert len(kept) == 4 and not any(name.endswith(".part") for name in kept)  # whole, and marked as in use
    age(workdir)
    assert bench(model, profile(cable, workdir, tmp_path), *SHORT) in (0, 3)
    assert left_behind(workdir) == []


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_file_pushed_by_half(
    model: Path,
    cable: Link,
    comes_back: bool,
    workdir: Path,
    tmp_path: Path,
    impatient: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is never taken for the whole one."""
    big = tmp_path / "big.gguf"
    shutil.copy(model, big)
    with big.open("r+b") as file:  # zeros behind what the header speaks of
        file.truncate(120 << 20)

    def parts() -> bool:
        with contextlib.suppress(FileNotFoundError):  # one that is whole gets another name
            return any((1 << 20) < path.stat().st_size < (100 << 20) for path in (workdir / "blobs").glob(".*.part"))
        return False

    def pull() -> None:
        cable.cut()
        if comes_back:
            cable.back()

    other = once(parts, pull)
    try:
        code = bench(big, profile(cable, workdir, tmp_path), *SHORT)
        other.join()
        told = sentence(capsys)
        assert code == 6
        if comes_back:
            assert "did not arrive whole" in told or "cannot be reached" in told
            assert left_behind(workdir) == []
        else:
            assert "cannot be reached" in told and f"{workdir} there could not be cleaned up" in told
            assert len(list((workdir / "blobs").glob(".*.part"))) == 1
    finally:
        if not comes_back:
            cable.back()
    if not comes_back:
        age(workdir)
    assert bench(big, profile(cable, workdir, tmp_path), *SHORT) in (0, 3)
    assert left_behind(workdir) == []


@pytest.mark.parametrize(
    ("kilobytes", "told"), [(300, "there is no space left in"), (8 << 10, "MB free in")], ids=["runner", "model"]
)
def test_a_disk_without_room(
    model: Path,
    link: Link,
    small_disk: Callable[[int], Path],
    kilobytes: int,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = small_disk(kilobytes)
    assert bench(model, profile(link, disk / "device", tmp_path), *SHORT) == 6
    assert told in sentence(capsys)
    assert list(disk.iterdir()) == []


def test_a_disk_that_fills_up_in_mid_run(
    model: Path, link: Link, small_disk: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no room for the result."""
    disk = small_disk(40 << 10)

    def fill() -> None:
        with (disk / "somebody's").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass

    other = once(lambda: runs(disk / "device"), fill)
    assert bench(model, profile(link, disk / "device", tmp_path), *SECONDS) == 6
    other.join()
    assert "could not write its result" in sentence(capsys)
    assert [path.name for path in disk.iterdir()] == ["somebody's"]
    assert left_behind(disk / "device") == []


def test_no_memory(model: Path, link: Link, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Enough of it to answer, not for the model."""
    limited = ["sh", "-c", 'ulimit -v 8000; exec "$@"', "sh"]
    more = f"runner_prefix = {json.dumps(limited)}\n"
    assert bench(model, profile(link, workdir, tmp_path, more), *SHORT) == 6
    assert "memory" in sentence(capsys)
    assert left_behind(workdir) == []


def test_an_instruction_that_the_processor_lacks(
    model: Path, link: Link, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In mid-run; the machine's tests have a program that a processor really refuses."""
    other = once(lambda: runs(workdir), lambda: os.kill(worker(workdir), signal.SIGILL))
    assert bench(model, profile(link, workdir, tmp_path), *MINUTES) == 6
    other.join()
    assert "an instruction that this processor lacks" in sentence(capsys)
    assert left_behind(workdir) == []


def test_a_runner_that_hangs(
    model: Path, link: Link, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its supervisor sees to the deadline."""
    other = once(lambda: runs(workdir), lambda: os.kill(worker(workdir), signal.SIGSTOP))
    assert bench(model, profile(link, workdir, tmp_path), *MINUTES, "--deadline", "4") == 6
    other.join()
    assert "did not end within 4 s and was stopped" in sentence(capsys)
    assert left_behind(workdir) == []


def test_a_runner_whose_supervisor_hangs_too(
    model: Path,
    link: Link,
    workdir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Then the desk does."""
    monkeypatch.setattr(remote, "_GRACE_S", 2.0)
    monkeypatch.setattr(remote, "WAIT_S", 2)

    def stop() -> None:
        for pid in runs(workdir)[0].read_text().split()[::2]:
            os.kill(int(pid), signal.SIGSTOP)

    other = once(lambda: runs(workdir), stop)
    assert bench(model, profile(link, workdir, tmp_path), *MINUTES, "--deadline", "3") == 6
    other.join()
    assert "did not end within 3 s and was stopped" in sentence(capsys)
    assert left_behind(workdir) == []


def test_two_at_once(
    model: Path, link: Link, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is told so, the first is not disturbed."""
    file = profile(link, workdir, tmp_path)
    line = [sys.executable, "-m", "edgekit", "bench", str(model), "--device", str(file), *SECONDS, "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        wait_for(lambda: runs(workdir))
        os.kill(worker(workdir), signal.SIGSTOP)  # it has to last for longer than the second takes
        try:
            assert bench(model, file, *SHORT) == 6
            assert "busy with another benchmark" in sentence(capsys)
            assert first.poll() is None
        finally:
            os.kill(worker(workdir), signal.SIGCONT)
        out, err = first.communicate(timeout=60)
    assert first.returncode in (0, 3), err
    assert len(json.loads(out)["samples"]) == 60
    assert left_behind(workdir) == []


@pytest.mark.parametrize(
    ("link", "number", "code"),
    [
        ("local", signal.SIGTERM, 143),
        ("local", signal.SIGHUP, 129),
        ("local", signal.SIGINT, 1),
        pytest.param("ssh", signal.SIGTERM, 143, marks=needs_sshd),
        ("adb", signal.SIGTERM, 143),
    ],
    indirect=["link"],
    ids=["local-TERM", "local-HUP", "local-INT", "ssh-TERM", "adb-TERM"],
)
def test_a_desk_that_is_told_to_end(
    model: Path, link: Link, workdir: Path, tmp_path: Path, number: int, code: int
) -> None:
    """It cleans up first."""
    line = [sys.executable, "-m", "edgekit", "bench", str(model), "--device", str(profile(link, workdir, tmp_path))]
    with subprocess.Popen([*line, *MINUTES], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as desk:
        wait_for(lambda: runs(workdir))
        desk.send_signal(number)
        out, err = desk.communicate(timeout=60)
    assert desk.returncode == code and out == "" and "Traceback" not in err
    assert left_behind(workdir) == []


def test_a_desk_that_is_killed(
    model: Path, cable: Link, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends when its lease is up; its files stay for half an hour, then the next desk removes them."""
    program = "import sys; from edgekit.cli import main; from edgekit.devices import remote; "
    program += "remote.LEASE_S, remote.WAIT_S = 5, 1; sys.exit(main(sys.argv[1:]))"
    file = profile(cable, workdir, tmp_path)
    line = [sys.executable, "-c", program, "bench", str(model), "--device", str(file), *MINUTES]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as desk:
        wait_for(lambda: runs(workdir))
        desk.kill()
    wait_for(lambda: not [name for name in left_behind(workdir) if "run-" in name])
    assert len(list((workdir / "blobs").iterdir())) == 4
    age(workdir)
    assert bench(model, file, *SHORT) in (0, 3)
    assert left_behind(workdir) == []
