"""What tests of devices share: the fake runner in place of the real one, and what is left behind after a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgekit.devices import deploy, remote, runner

FAKE = Path(__file__).parent / "fake_runner.py"


def install_fake_runner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake one for every machine, and waits that suit tests."""
    folder.mkdir()
    for machine in ("x86_64", "aarch64"):
        (folder / f"edgekit-bench-{machine}").write_text(f"#!{sys.executable} -ISB\n{FAKE.read_text()}")
    monkeypatch.setattr(runner, "FOLDERS", (folder,))
    monkeypatch.setattr(remote, "WAIT_S", 1)
    monkeypatch.setattr(remote, "REATTACH_S", 3.0)
    monkeypatch.setattr(remote, "_BACKOFF_S", (0.05, 0.1, 0.2))
    monkeypatch.setattr(remote, "_STOP_S", 3.0)
    monkeypatch.setattr(remote, "_GRACE_S", 0.0)
    monkeypatch.setattr(deploy, "_RETRIES_S", (0.0, 0.1, 0.2))


def left_behind(workdir: Path) -> list[str]:
    """Files under the workdir, the folder itself, and processes that were started from there."""
    files = [str(path) for path in (workdir, *workdir.rglob("*"))] if workdir.exists() else []
    processes = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            try:
                line = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(workdir) in line:
                processes.append(line)
    return files + processes
