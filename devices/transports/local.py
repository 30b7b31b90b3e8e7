"""This machine as the device: the same steps as elsewhere, no shell."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgekit.devices.target import Target
from edgekit.devices.transports.capture import capture
from edgekit.devices.transports.transport import Ran
from edgekit.models.errors import InfrastructureError

_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # as a shell says it


class Local:
    """Commands are started here."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        try:
            captured = capture(argv, timeout_s=timeout_s)
        except OSError as error:
            status = _NOT_FOUND if error.errno == errno.ENOENT else _CANNOT_EXECUTE
            return Ran(status, "", f"{argv[0]}: {error.strerror}")
        stdout, stderr = (text.decode(errors="replace") for text in (captured.stdout, captured.stderr))
        if captured.returncode is None:
            return Ran(255, "", f"no answer within {timeout_s:g} s", lost=True)
        return Ran(captured.returncode if captured.returncode >= 0 else 128 - captured.returncode, stdout, stderr)

    def push(self, local: Path, remote: str, timeout_s: float) -> Ran:
        try:
            shutil.copyfile(local, remote)
        except OSError as error:
            return Ran(1, "", f"{remote}: {error.strerror}")
        return Ran(0, "", "")

    def pull(self, remote: str, limit_bytes: int, timeout_s: float) -> bytes:
        try:
            with Path(remote).open("rb") as file:
                content = file.read(limit_bytes + 1)
        except OSError as error:
            raise InfrastructureError(f"{remote} cannot be read: {error.strerror}") from error
        if len(content) > limit_bytes:
            raise InfrastructureError(f"{remote} is longer than {limit_bytes} bytes: it was not read")
        return content
