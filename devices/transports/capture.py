"""A program of this machine run with bounds on its time and on what it says."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from edgekit.devices.transports.transport import MOST_OUTPUT_BYTES
from edgekit.models.errors import InfrastructureError

_POLL_S = 0.2


@dataclass(frozen=True)
class Captured:
    """returncode None: it was stopped when its time was up."""

    returncode: int | None
    stdout: bytes
    stderr: bytes


def capture(
    command: Sequence[str],
    *,
    timeout_s: float,
    stdin: BinaryIO | None = None,
    limit_bytes: int = MOST_OUTPUT_BYTES,
) -> Captured:
    """Run in a process group of its own, which is gone when this returns or raises.

    Raises OSError where the program cannot be started, InfrastructureError where its stdout is longer than
    `limit_bytes` or its stderr than a command's may be.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us alone: we still have to clean up over this link
    )
    try:
        stdout, stderr = _read(process, time.monotonic() + timeout_s, limit_bytes, command[0])
        returncode = process.poll()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    return Captured(returncode, stdout, stderr)


def _read(process: subprocess.Popen[bytes], end: float, limit_bytes: int, program: str) -> tuple[bytes, bytes]:
    """What the process says until it ends or the time does; a descendant that keeps a pipe open is not waited for."""
    assert process.stdout is not None and process.stderr is not None
    said = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    limits = dict(zip(said, (limit_bytes, MOST_OUTPUT_BYTES), strict=True))
    with selectors.DefaultSelector() as selector:
        for descriptor in said:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < end:
            ended = process.poll() is not None
            ready = selector.select(min(_POLL_S, max(0.0, end - time.monotonic())))
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                said[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                if len(said[key.fd]) > limits[key.fd]:
                    raise InfrastructureError(f"{program} gave back more than {limits[key.fd]} bytes: it was stopped")
            if ended and not ready:
                break
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, end - time.monotonic()))
    stdout, stderr = said.values()
    return bytes(stdout), bytes(stderr)
