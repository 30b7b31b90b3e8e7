"""The harness on emulated AArch64 machines with 4 KB and 16 KB pages, over ssh to dropbear."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_lab import demand_runner, write_profile
from lab_devices import MACHINE, Machine, needs_machine, once, takes_long
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices import build_runner, remote
from edgekit.devices.measure import measure

pytestmark = needs_machine

WORKDIR = "/root/edgekit"
LINE = ("--prompt-tokens", "8", "--gen-tokens", "4", "--reps", "1", "--threads", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand_runner("aarch64")
    return write_sample_gguf(tmp_path_factory.mktemp("model") / "sample.gguf")


@pytest.fixture(scope="module", params=[pytest.param("4k", marks=takes_long), "16k"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine") / request.param, request.param)
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


def profile(machine: Machine, tmp_path: Path, more: str = "") -> Path:
    return write_profile(tmp_path / "arm.toml", "ssh", Path(WORKDIR), more=machine.settings() + more)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one that was said; there are no figures beside it."""
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and err.startswith("edgekit: error: ")
    return err.strip()


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


# --- one with an old processor, and what goes wrong on it ---


@pytest.fixture(scope="module")
def old_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With a Cortex-A53, which has none of the instructions that later ones bring."""
    machine = Machine(tmp_path_factory.mktemp("machine") / "old", cpu="cortex-a53")
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def runner_for_a_cortex_a76() -> Path:
    """The same program, every part of it compiled for that processor."""
    folder = MACHINE.parent / "cortex-a76"
    if not build_runner.is_current("aarch64", folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CFLAGS", "-mcpu=cortex_a76")
            try:
                build_runner.build("aarch64", folder, lambda done, of: None, "zig")
            except build_runner.CannotBuild as error:
                pytest.skip(str(error))
    return build_runner.runner_path("aarch64", folder)


def test_the_runner_takes_the_kernels_that_the_processor_has(
    old_machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(model), "--device", str(profile(old_machine, tmp_path)), *LINE, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["isa"] == ["aarch64"]
    assert found["samples"][0]["output_sha256"] == measure(model, "native", 8, 4, 1).output_sha256


def test_it_is_no_evidence(
    old_machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gate refuses it before anything is measured; without one the comparison is marked."""
    other, file = tmp_path / "other.gguf", profile(old_machine, tmp_path)
    shutil.copy(model, other)
    line = ["bench", str(model), "--vs", str(other), "--device", str(file), *LINE]
    assert main([*line, "--gate", "5%"]) == 5
    assert "is emulated" in sentence(capsys)
    assert main([*line, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "degraded" and found["a"]["emulated"] is True
    assert old_machine.left_behind(WORKDIR) == []


def test_an_instruction_that_the_processor_lacks(
    old_machine: Machine,
    model: Path,
    runner_for_a_cortex_a76: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(remote, "runner_file", lambda machine: runner_for_a_cortex_a76)
    assert main(["bench", str(model), "--device", str(profile(old_machine, tmp_path)), *LINE]) == 6
    assert "an instruction that this processor lacks" in sentence(capsys)
    assert old_machine.left_behind(WORKDIR) == []


def test_a_runner_for_another_kind_of_processor(
    old_machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demand_runner("x86_64")
    file = profile(old_machine, tmp_path, 'abi = "x86_64"')
    assert main(["bench", str(model), "--device", str(file), *LINE]) == 6
    assert "the runner cannot be started" in sentence(capsys)
    assert old_machine.left_behind(WORKDIR) == []


def test_an_instruction_set_that_is_required(
    old_machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = profile(old_machine, tmp_path, 'required_isa = ["dotprod"]')
    assert main(["bench", str(model), "--device", str(file), *LINE]) == 6
    assert "lacks dotprod, which its profile requires" in sentence(capsys)
    assert old_machine.left_behind(WORKDIR) == []


def test_memory_that_runs_out(
    old_machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel kills the runner."""
    group = "/sys/fs/cgroup/bench"
    old_machine.ask(
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup; echo +memory > /sys/fs/cgroup/cgroup.subtree_control; "
        f"mkdir {group}; echo 1500000 > {group}/memory.max"
    )
    limited = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    file = profile(old_machine, tmp_path, f"runner_prefix = {json.dumps(limited)}")
    assert main(["bench", str(model), "--device", str(file), *LINE]) == 6
    assert "the runner was killed, as happens when memory runs out" in sentence(capsys)
    assert int(dict(map(str.split, old_machine.ask(f"cat {group}/memory.events").splitlines()))["oom_kill"]) > 0
    assert old_machine.left_behind(WORKDIR) == []


@takes_long
def test_a_network_that_is_gone_for_a_while(
    old_machine: Machine, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody closes a connection: packets are lost. The run goes on and is taken up again."""

    def fail() -> None:
        old_machine.link(False)
        time.sleep(20)  # ssh gives a connection up after 15
        old_machine.link(True)

    other = once(lambda: old_machine.ask(f"ls {WORKDIR}/run-*/pid 2> /dev/null; true"), fail)
    line = ["--prompt-tokens", "8", "--gen-tokens", "20", "--reps", "10", "--threads", "1", "--json"]
    assert main(["bench", str(model), "--device", str(profile(old_machine, tmp_path)), *line]) == 3
    other.join()
    assert len(json.loads(capsys.readouterr().out)["samples"]) == 10
    assert old_machine.left_behind(WORKDIR) == []
