"""The harness over Android's own adbd."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_lab import demand_runner, left_behind, write_profile
from lab_devices import Phone, needs_phone
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices.measure import measure
from edgekit.devices.target import Target
from edgekit.devices.transports import LostLink, Transport, open_transport
from edgekit.models.errors import InfrastructureError

pytestmark = needs_phone


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    phone = Phone(tmp_path_factory.mktemp("phone") / "phone")
    try:
        phone.start()
        yield phone
    finally:
        phone.stop()


@pytest.fixture
def transport(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> Transport:
    monkeypatch.setenv("PATH", str(phone.bin), prepend=":")
    return open_transport(Target.parse(f"adb:{phone.serial}"))


def test_what_is_said_comes_back_as_it_was(transport: Transport, tmp_path: Path) -> None:
    marks = ("; touch {0}", "$(touch {0})", "`touch {0}`", "a' ; touch {0} ; '", '"; touch {0}; "')
    words = [
        *(mark.format(tmp_path / "pwned") for mark in marks),
        "-n",
        "--help",
        "*",
        "a\nb",
        "~",
        "\\",
        "ü",
        "",
        "%h",
    ]
    done = transport.run(["printf", "%s\\0", *words], 20)
    assert (done.returncode, done.lost, done.stderr) == (0, False, "")
    assert done.stdout.split("\0") == [*words, ""]
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], 20)
    assert (done.returncode, done.stdout, done.stderr, done.lost) == (7, "out\n", "err\n", False)
    assert transport.run(["sh", "-c", "kill -ILL $$"], 20).returncode == 132
    assert not (tmp_path / "pwned").exists()


def test_files_go_and_come_back(transport: Transport, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(content)
    name = str(tmp_path / "b '; touch pwned; $(x)")
    assert transport.push(tmp_path / "a", name, 20).returncode == 0
    assert Path(name).read_bytes() == content == transport.pull(name, len(content), 20)
    with pytest.raises(InfrastructureError, match="longer than"):
        transport.pull(name, len(content) - 1, 20)
    assert transport.push(tmp_path / "a", "/proc/none/b", 20).returncode != 0  # elsewhere adbd makes the folder


def test_exit_code_0_proves_nothing(transport: Transport, phone: Phone) -> None:
    """This adb returns 0 for a command whose daemon dies."""
    threading.Timer(1.0, phone.cut).start()
    try:
        done = transport.run(["sh", "-c", "echo half; sleep 4; echo whole"], 20)
        assert done.lost
        with pytest.raises(LostLink):
            transport.pull("/etc/hostname", 1000, 20)
    finally:
        phone.start()


def test_a_run(transport: Transport, phone: Phone, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tokens are those of this process, the phone's name is its own."""
    demand_runner()
    model, workdir = write_sample_gguf(tmp_path / "sample.gguf"), tmp_path / "device"
    file = write_profile(tmp_path / "phone.toml", "adb", workdir, more=phone.settings())
    line = ["--prompt-tokens", "8", "--gen-tokens", "4", "--reps", "1", "--threads", "1", "--json"]
    assert main(["bench", str(model), "--device", str(file), *line]) == 3  # one repetition is few
    found = json.loads(capsys.readouterr().out)
    assert found["device"]["transport"] == "adb" and found["device"]["model"] == "Acme Phone 3"
    assert found["emulated"] is False
    assert found["samples"][0]["output_sha256"] == measure(model, "native", 8, 4, 1).output_sha256
    assert left_behind(workdir) == []
