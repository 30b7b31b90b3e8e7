"""The harness on emulated AArch64 machines with 4 KB and 16 KB pages, over ssh to dropbear."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_lab import demand_runner, write_profile
from lab_devices import MACHINE, Machine, needs_machine
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices.measure import measure

pytestmark = needs_machine

WORKDIR = "/root/edgekit"
LINE = ("--prompt-tokens", "8", "--gen-tokens", "4", "--reps", "1", "--threads", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand_runner("aarch64")
    return write_sample_gguf(tmp_path_factory.mktemp("model") / "sample.gguf")


@pytest.fixture(scope="module", params=["4k", "16k"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine") / request.param, request.param)
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


def profile(machine: Machine, tmp_path: Path, more: str = "") -> Path:
    return write_profile(tmp_path / "arm.toml", "ssh", Path(WORKDIR), more=machine.settings() + more)


def test_what_it_says_of_itself(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demand_runner("aarch64")
    assert main(["devices", "probe", str(profile(machine, tmp_path)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page_bytes"] == {"4k": 4096, "16k": 16384}[machine.pages]
    assert found["machine"] == "aarch64" and "dotprod" in found["isa"] and found["cpu"] is not None
    assert found["emulated"] is True and "dummy-virt" in found["emulated_why"]
    assert machine.left_behind(WORKDIR) == []


def test_a_run(machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command as everywhere; the tokens are this machine's, the result is marked and never valid."""
    assert main(["bench", str(model), "--device", str(profile(machine, tmp_path)), *LINE, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["emulated"] is True and found["status"] == "degraded"
    assert "the device is emulated (" in "".join(found["reasons"])
    assert found["machine"]["page_bytes"] == {"4k": 4096, "16k": 16384}[machine.pages]
    assert found["build"]["runtime"] == "native" and found["memory"]["peak_bytes"] > 0
    assert found["samples"][0]["output_sha256"] == measure(model, "native", 8, 4, 1).output_sha256
    assert machine.left_behind(WORKDIR) == []


def test_its_key_is_checked(machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another key than the one that `make lab` gave it: nobody talks to it."""
    other = tmp_path / "known_hosts"
    other.write_text(f"[127.0.0.1]:{machine.port} {(MACHINE / 'user.pub').read_text()}")
    file = profile(machine, tmp_path)
    file.write_text(file.read_text().replace(str(machine.folder / "known_hosts"), str(other)))
    assert main(["bench", str(model), "--device", str(file), *LINE]) == 6
    assert "Host key verification failed" in capsys.readouterr().err
