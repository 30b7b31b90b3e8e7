"""The harness over a stand-in for adb that returns 0 when the daemon dies in mid-command, as adb 29 does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from device_lab import install_fake_runner, left_behind, write_profile
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices.target import Target
from edgekit.devices.transports import LostLink, Transport, open_transport

SERIAL = 'serial = "emulator-5554"'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("device") / "-s $(touch pwned).gguf")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the stand-in's state; `phone/` in it has the phone's own programs."""
    folder = tmp_path / "adb"
    (folder / "phone").mkdir(parents=True)
    answers = {
        "getprop": 'case $1 in ro.product.manufacturer) echo Acme;; ro.product.model) echo "Phone 3";; esac',
        "dumpsys": f'echo "IsStatusOverride: false"; cat {folder}/thermal 2> /dev/null || echo "Thermal Status: 0"',
    }
    for name, text in answers.items():
        (folder / "phone" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "phone" / name).chmod(0o755)
    (folder / "adb").write_text(f"#!{sys.executable} -ISB\n{(Path(__file__).parent / 'fake_adb.py').read_text()}")
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB", str(folder))
    return folder


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_fake_runner(tmp_path / "runners", monkeypatch)
    return tmp_path / "device"


@pytest.fixture
def transport(phone: Path) -> Transport:
    return open_transport(Target.parse("adb:emulator-5554"))


def bench(model: Path, file: Path, *more: str) -> int:
    return main(["bench", str(model), "--device", str(file), "--gen-tokens", "8", "--reps", "4", *more])


def profile(workdir: Path, faults: str = "", more: str = "") -> Path:
    return write_profile(workdir.parent / "phone.toml", "adb", workdir, faults, f"{SERIAL}\n{more}")


def test_a_command_that_ended(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], 20)
    assert (done.returncode, done.stdout, done.stderr, done.lost) == (7, "out\n", "err\n", False)
    words = ["; touch pwned", "$(touch pwned)", "`touch pwned`", "'", '"', "a\nb", "-s", "", "*"]
    assert transport.run(["printf", "%s\\0", *words], 20).stdout.split("\0") == [*words, ""]
    assert not Path("pwned").exists()


def test_exit_code_0_proves_nothing(transport: Transport, phone: Path) -> None:
    (phone / "dies").write_text("echo")
    done = transport.run(["echo", "a long answer"], 20)
    assert done.lost and done.stdout == ""
    (phone / "dies").write_text("cat")
    (phone / "file").write_text("content" * 100)
    with pytest.raises(LostLink):
        transport.pull(str(phone / "file"), 1000, 20)
    assert transport.pull(str(phone / "file"), 1000, 20) == b"content" * 100


def test_a_trailer_that_the_output_makes_up_is_none(transport: Transport, phone: Path) -> None:
    """What a command prints cannot end it, as it does not know the nonce."""
    (phone / "dies").write_text("printf")
    done = transport.run(["printf", f"\\n{'0' * 32} 0\\n" * 3], 20)
    assert done.lost


def test_a_run(model: Path, phone: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, profile(workdir), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"]["transport"] == "adb" and found["device"]["model"] == "A board of the tests"
    assert left_behind(workdir) == []
    assert not Path("pwned").exists()


def test_what_android_tells(model: Path, phone: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (phone / "thermal").write_text("Thermal Status: 2\n")
    assert bench(model, profile(workdir, "anonymous"), "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert found["device"]["model"] == "Acme Phone 3"
    assert found["reasons"] == ["Android reported thermal throttling: moderate"]


@pytest.mark.parametrize("word", ["uname", "mkdir", "touch", "sha256sum", "probe", "mv -f"])
def test_a_daemon_that_dies_while_things_are_put_there(
    model: Path, phone: Path, workdir: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (phone / "dies").write_text(word)
    assert bench(model, profile(workdir)) == 6
    assert "cannot be reached" in capsys.readouterr().err
    assert left_behind(workdir) == []


def test_a_file_that_arrives_in_part(
    model: Path, phone: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (phone / "dies").write_text("push")
    assert bench(model, profile(workdir)) == 6
    assert "did not arrive whole" in capsys.readouterr().err
    assert left_behind(workdir) == []


@pytest.mark.parametrize("word", [" start ", " wait ", "cat", " stop ", "shift; rm"])
def test_a_daemon_that_dies_later_is_asked_again(model: Path, phone: Path, workdir: Path, word: str) -> None:
    (phone / "dies").write_text(word)
    assert bench(model, profile(workdir, "slow=1")) == 0
    assert left_behind(workdir) == []


def test_a_phone_that_is_gone_for_good(
    model: Path, phone: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (phone / "dies").write_text(" wait \nfor ever")
    assert bench(model, profile(workdir, "hang")) == 6
    assert "phone cannot be reached" in capsys.readouterr().err
    assert left_behind(workdir) == []  # stop and rm went through


def test_another_phone(model: Path, phone: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, Path("adb:R58M")) == 6
    assert "adb:R58M cannot be reached: adb: device 'R58M' not found: see adb devices" in capsys.readouterr().err


def test_no_adb(
    model: Path, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench(model, Path("adb:R58M")) == 6
    assert "adb is not installed" in capsys.readouterr().err


def test_a_full_disk(model: Path, phone: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The push itself fails, as where another program fills the disk meanwhile."""
    (phone / "full").touch()
    assert bench(model, profile(workdir)) == 6
    assert "there is no space left in" in capsys.readouterr().err
    assert left_behind(workdir) == []
