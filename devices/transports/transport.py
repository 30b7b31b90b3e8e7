"""What a transport provides: commands run on a device, files put there and fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekit.models.errors import InfrastructureError

MOST_OUTPUT_BYTES = 1 << 20  # of a command's output, on either stream


class LostLink(InfrastructureError):
    """Nothing proved that what was asked for was done: the link broke, or the device did not answer in time."""


@dataclass(frozen=True)
class Ran:
    """A command's end. `lost`: nothing proved that it ended, `returncode` says nothing, and `stderr` why.

    A command that a signal ended has 128 plus the signal's number, as in a shell.
    """

    returncode: int
    stdout: str
    stderr: str
    lost: bool = False


class Transport(Protocol):
    """One device. Paths on it are absolute, or relative to where its commands start; no argument needs quoting.

    All raise InfrastructureError where the transport's own program is missing or a device says more than it may.
    """

    def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Run a program to its end."""

    def push(self, local: Path, remote: str, timeout_s: float) -> Ran:
        """Copy a file to the device. Its success is proven by the file's hash alone, which is for the caller to ask."""

    def pull(self, remote: str, limit_bytes: int, timeout_s: float) -> bytes:
        """A file's content; LostLink, or InfrastructureError where it cannot be read or is longer than the limit."""
