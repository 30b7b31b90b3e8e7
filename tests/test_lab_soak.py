"""Benchmarks one after another, over each transport in turn, for three minutes in make test-lab: nothing grows."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from device_lab import SshServer, children, demand_runner, left_behind, needs_sshd, write_profile
from lab_devices import WHOLE, Phone, needs_phone, wait_for
from sample_gguf import write_sample_gguf

from edgekit.cli import main

pytestmark = [needs_phone, needs_sshd]

SECONDS = 180.0 if WHOLE else 30.0


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:  # grows on the way
        found += [child for child, _ in children(parent)]
    return found[1:]


def test_nothing_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    demand_runner()
    model, workdir = write_sample_gguf(tmp_path / "sample.gguf"), tmp_path / "device"
    phone, server = Phone(tmp_path / "phone"), SshServer(tmp_path / "server")
    monkeypatch.setenv("PATH", str(phone.bin), prepend=os.pathsep)
    line = ["--prompt-tokens", "8", "--gen-tokens", "16", "--reps", "3", "--threads", "1"]

    def a_round() -> None:
        for kind, settings in (("local", ""), ("ssh", server.settings()), ("adb", phone.settings())):
            file = write_profile(tmp_path / f"{kind}.toml", kind, workdir, more=settings)
            assert main(["bench", str(model), "--device", str(file), *line]) in (0, 3), capsys.readouterr().err
            capsys.readouterr()
            assert left_behind(workdir) == []

    def census() -> dict[str, int]:
        assert phone.daemon is not None and server.process is not None
        return {
            "our descriptors": descriptors(os.getpid()),
            "our threads": threading.active_count(),
            "processes": len(descendants(os.getpid())),
            "files": sum(1 for _ in tmp_path.rglob("*")),
            "adbd's descriptors": descriptors(phone.daemon.pid),
            "adb server's descriptors": descriptors(phone.server.pid),
            "sshd's descriptors": descriptors(server.process.pid),
        }

    try:
        phone.start()
        server.start()
        a_round()
        time.sleep(1)  # for what closes its connections behind our back
        first, rounds, until = census(), 0, time.monotonic() + SECONDS
        while time.monotonic() < until:
            a_round()
            rounds += 1
        try:
            wait_for(lambda: census() == first, 10)
        except AssertionError:
            assert census() == first
    finally:
        phone.stop()
        if server.process is not None:
            server.cut()
    with capsys.disabled():
        print(f"\n{3 * rounds} benchmarks in {SECONDS:.0f} s: {first}")
