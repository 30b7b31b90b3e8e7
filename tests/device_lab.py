"""What tests of devices share: the fake runner in place of the real one, an ssh server, and what runs leave behind."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.devices import deploy, remote, runner
from edgekit.models.errors import InputError

FAKE = Path(__file__).parent / "fake_runner.py"


def install_fake_runner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake one for every machine, and waits that suit tests."""
    folder.mkdir()
    for machine in ("x86_64", "aarch64"):
        (folder / f"edgekit-bench-{machine}").write_text(f"#!{sys.executable} -ISB\n{FAKE.read_text()}")
    monkeypatch.setattr(runner, "default_folder", lambda: folder)
    monkeypatch.setattr(runner, "is_current", lambda machine, folder: runner.runner_path(machine, folder).is_file())
    monkeypatch.setattr(remote, "WAIT_S", 1)
    monkeypatch.setattr(remote, "REATTACH_S", 3.0)
    monkeypatch.setattr(remote, "_BACKOFF_S", (0.05, 0.1, 0.2))
    monkeypatch.setattr(remote, "_STOP_S", 3.0)
    monkeypatch.setattr(remote, "_GRACE_S", 0.0)
    monkeypatch.setattr(deploy, "_RETRIES_S", (0.0, 0.1, 0.2))


def demand_runner(machine: str | None = None) -> None:
    """The real one for a machine, else this one, built if that was not done; without it the test is skipped."""
    try:
        runner.runner_file(machine or platform.machine())
    except InputError as error:
        pytest.skip(str(error))


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


def write_profile(path: Path, transport: str, workdir: Path, faults: str = "", more: str = "") -> Path:
    """A profile whose runner is told to fail; `more` is TOML for the top table."""
    lines = [f'transport = "{transport}"', f"workdir = {json.dumps(str(workdir))}", more]
    path.write_text("\n".join([*lines, "[env]", f'FAKE_RUNNER = "{faults}"', ""]))
    return path


class SshServer:
    """OpenSSH's own server on the loopback interface, with keys made for it; it takes one user, the one who tests."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port, self.process = folder, free_port(), None
        for name in ("host", "user", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, capture_output=True)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        self.trust("host")
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "PidFile": "none",
            "StrictModes": "no",  # the folder for temporary files is everybody's
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "UsePAM": "no",
            "MaxStartups": "100",
        }
        (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def trust(self, key: str) -> None:
        """Take a key of this name for the server's."""
        public = (self.folder / f"{key}.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    def settings(self) -> str:
        """The profile's keys for it."""
        return (
            f'host = "127.0.0.1"\nport = {self.port}\nuser = "{getpass.getuser()}"\n'
            f'identity_file = "{self.folder / "user"}"\nknown_hosts_file = "{self.folder / "known_hosts"}"\n'
        )

    def start(self) -> None:
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "config")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert time.monotonic() < until and self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def cut(self) -> None:
        """As if the cable were pulled: server and connections die, what they started does not hear of it."""
        assert self.process is not None
        victims = [self.process.pid]
        for parent in victims:  # grows on the way
            victims += [pid for pid, name in children(parent) if name.startswith("sshd")]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or ""
needs_sshd = pytest.mark.skipif(not (SSHD and shutil.which("ssh")), reason="OpenSSH's sshd is not installed")


def children(parent: int) -> list[tuple[int, str]]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text(errors="replace").partition(" (")[2].rpartition(") ")
            if int(rest.split()[1]) == parent:
                found.append((int(stat.parent.name), name))
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
