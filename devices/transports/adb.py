"""An Android device over `adb` (Android 7 or later, whose shell keeps stdout, stderr and status apart)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.devices.target import Target
from edgekit.devices.transports.capture import capture
from edgekit.devices.transports.remote_shell import read_file, run_shell
from edgekit.devices.transports.transport import Ran
from edgekit.models.errors import InfrastructureError


class Adb:
    """The device's commands by `adb shell`, its files by `adb push` and `cat`."""

    def __init__(self, target: Target) -> None:
        assert target.serial is not None
        self.client = ("adb", "-s", target.serial)

    def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        return run_shell((*self.client, "shell", "-T"), argv, timeout_s=timeout_s)

    def push(self, local: Path, remote: str, timeout_s: float) -> Ran:
        try:
            captured = capture([*self.client, "push", str(local.absolute()), remote], timeout_s=timeout_s)
        except FileNotFoundError as error:
            raise InfrastructureError("adb is not installed, or not on the PATH: install it") from error
        if captured.returncode is None:
            return Ran(255, "", f"no answer within {timeout_s:g} s", lost=True)
        # A push that fails says why on stdout, before the line with its speed.
        said = (captured.stderr + captured.stdout).decode(errors="replace").splitlines()
        errors = [line for line in said if line.startswith(("adb: ", "error: "))]
        return Ran(captured.returncode, "", "\n".join(errors))

    def pull(self, remote: str, limit_bytes: int, timeout_s: float) -> bytes:
        return read_file((*self.client, "shell", "-T"), remote, limit_bytes, timeout_s)
