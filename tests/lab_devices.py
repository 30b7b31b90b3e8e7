"""The lab's devices, which `make lab` builds: a phone with Android's own adbd, and emulated AArch64 machines."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from device_lab import free_port

LAB = Path(__file__).parents[1] / "build" / "lab"
ADBD, MACHINE = LAB / "adbd" / "adbd", LAB / "machine"
WHOLE = os.environ.get("EDGEKIT_LAB") == "whole"  # as make test-lab has it; else what fits into ten minutes
takes_long = pytest.mark.skipif(not WHOLE, reason="it takes long, and make test-lab runs it")
PROGRAMS = ("adb", "unshare", "nsenter", "ip")

needs_phone = pytest.mark.skipif(
    not ADBD.is_file() or os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
    reason="there is no adbd, or no right to a network namespace: make lab, as root",
)
needs_machine = pytest.mark.skipif(
    not (MACHINE / "16k" / "kernel").is_file() or not all(map(shutil.which, ("qemu-system-aarch64", "ssh"))),
    reason="there is no emulated machine: make lab",
)


def wait_for(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def once(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Does something as soon as a condition holds, while the test goes on."""

    def act() -> None:
        wait_for(condition)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


class Phone:
    """Android's adbd and an adb server in a network namespace of their own: both listen there alone.

    Its files and processors are this machine's, its name and temperature come from a getprop and a dumpsys of ours.
    """

    serial = "127.0.0.1:5555"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        answers = {
            "getprop": 'case $1 in ro.product.manufacturer) echo Acme;; ro.product.model) echo "Phone 3";; esac',
            "dumpsys": 'echo "IsStatusOverride: false"; echo "Thermal Status: 0"',
        }
        (folder / "system").mkdir(parents=True)
        for name, text in answers.items():
            _script(folder / "system" / name, text)
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        assert self.holder.stdout is not None and self.holder.stdout.readline() == b"up\n"
        self.inside = ("nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--")
        # The client that edgekit finds: the namespace is where its server is.
        self.bin = folder / "bin"
        self.bin.mkdir()
        _script(self.bin / "adb", f'HOME={folder} exec {" ".join(self.inside)} {shutil.which("adb")} "$@"')
        with (folder / "server.log").open("ab") as log:
            command = [str(self.bin / "adb"), "nodaemon", "server"]
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        listens = Path(f"/proc/{self.holder.pid}/net/tcp")
        wait_for(lambda: ":13AD " in listens.read_text())  # port 5037; else a client starts a server of its own
        self.daemon: subprocess.Popen[bytes] | None = None

    def adb(self, *words: str) -> str:
        """What the client says to us."""
        done = subprocess.run([self.bin / "adb", *words], capture_output=True, text=True, check=False, timeout=30)
        return done.stdout + done.stderr

    def settings(self) -> str:
        """The profile's keys for it."""
        return f'serial = "{self.serial}"\n'

    def start(self) -> None:
        """Plug it in."""
        environment = {"PATH": f"{self.folder / 'system'}:/usr/bin:/bin", "ADBD_PORT": self.serial.split(":")[1]}
        with (self.folder / "adbd.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.inside, str(ADBD)], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        wait_for(lambda: "connected" in self.adb("connect", self.serial) and self._is_there())

    def _is_there(self) -> bool:
        return self.adb("-s", self.serial, "get-state").strip() == "device"

    def cut(self) -> None:
        """Pull the cable: what was started over it does not hear of it."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> None:
        for process in (self.daemon, self.server, self.holder):
            if process is not None:
                process.kill()
                process.wait()
        if self.holder.stdout is not None:
            self.holder.stdout.close()


class Machine:
    """An AArch64 machine in qemu, over ssh; its port is on the loopback interface, and it reaches no other network."""

    def __init__(self, folder: Path, pages: str = "4k", cpu: str = "cortex-a76", ram_mb: int = 512) -> None:
        folder.mkdir()
        self.folder, self.pages, self.port = folder, pages, free_port()
        host_key = (MACHINE / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        self.command = [
            *("qemu-system-aarch64", "-machine", "virt", "-cpu", cpu, "-smp", "1", "-m", str(ram_mb)),
            *("-kernel", str(MACHINE / pages / "kernel"), "-initrd", str(MACHINE / pages / "initramfs")),
            *("-append", "console=ttyAMA0 quiet panic=-1", "-no-reboot", "-nodefaults", "-display", "none"),
            *("-serial", f"file:{folder / 'console'}", "-netdev", network),
            *("-device", "virtio-net-pci,id=card,netdev=net,romfile="),
            *("-monitor", f"unix:{folder / 'monitor'},server=on,wait=off"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Switch it on, and wait until it can be logged into."""
        with (self.folder / "qemu.log").open("ab") as log:
            # Ends with us, whatever happens to us.
            command = ["setpriv", "--pdeathsig", "KILL", *self.command]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        console = self.folder / "console"
        wait_for(lambda: console.is_file() and b"init: ready" in console.read_bytes(), 120)
        wait_for(lambda: self._ask("true").returncode == 0, 60)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def link(self, up: bool) -> None:
        """Pull the network's cable, or plug it in: nobody is told, packets just get lost."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.folder / "monitor"))
            monitor.settimeout(10)
            answer = b""
            for line in ("", f"set_link card {'on' if up else 'off'}\n"):
                monitor.sendall(line.encode())
                answer = b""
                while not answer.endswith(b"(qemu) "):
                    answer += monitor.recv(4096)
            assert b"rror" not in answer, answer

    def settings(self) -> str:
        """The profile's keys for it."""
        return (
            f'host = "127.0.0.1"\nport = {self.port}\nuser = "root"\nidentity_file = "{MACHINE / "user"}"\n'
            f'known_hosts_file = "{self.folder / "known_hosts"}"\n'
        )

    def ask(self, command: str) -> str:
        """What a command there says, by a way of our own."""
        done = self._ask(command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _ask(self, command: str) -> subprocess.CompletedProcess[str]:
        options = {
            "BatchMode": "yes",
            "IdentityFile": MACHINE / "user",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "ConnectTimeout": "20",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        line = ["ssh", *words, "-p", str(self.port), "root@127.0.0.1", command]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)

    def left_behind(self, workdir: str) -> list[str]:
        """Files under the workdir, and processes that were started from there."""
        files = self.ask(f"find {workdir} 2> /dev/null; true").splitlines()
        pattern = f"[{workdir[0]}]{workdir[1:]}"  # which does not match the line that it stands in
        return files + self.ask(f"ps -o args | grep '{pattern}'; true").splitlines()


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
