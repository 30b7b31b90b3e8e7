"""Commands for transports that hand a string to a shell on the device: quoting, and proof that a command ended.

Neither exit code nor silence proves anything: `adb shell` may return 0 when the device's daemon dies in mid-command,
and ssh's 255 may be the command's own. So each command is followed by a line with a fresh nonce and its status.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from typing import BinaryIO

from edgekit.devices.transports.capture import Captured, capture
from edgekit.devices.transports.transport import MOST_OUTPUT_BYTES, LostLink, Ran
from edgekit.models.errors import InfrastructureError

_NONCE_BYTES = 16
_TRAILER_BYTES = 64


def run_shell(
    client: Sequence[str],
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: BinaryIO | None = None,
    output_to: str | None = None,
) -> Ran:
    """Run argv in the shell that the client program reaches; `output_to` names a file on the device for its stdout."""
    proven, captured = _ask(client, argv, timeout_s, stdin, output_to, MOST_OUTPUT_BYTES)
    stderr = captured.stderr.decode(errors="replace")
    if proven is None:
        why = f"no answer within {timeout_s:g} s" if captured.returncode is None else stderr
        return Ran(255, "", why, lost=True)
    stdout, status = proven
    return Ran(status, stdout.decode(errors="replace"), stderr)


def read_file(client: Sequence[str], remote: str, limit_bytes: int, timeout_s: float) -> bytes:
    """A file of the device; raises what `Transport.pull` does."""
    limit = limit_bytes + _TRAILER_BYTES
    proven, captured = _ask(client, ["cat", remote], timeout_s, None, None, limit)
    if proven is None:
        raise LostLink(f"the link broke while {remote} was fetched")
    content, status = proven
    if status != 0:
        raise InfrastructureError(f"{remote} cannot be read: {captured.stderr.decode(errors='replace').strip()}")
    if len(content) > limit_bytes:
        raise InfrastructureError(f"{remote} is longer than {limit_bytes} bytes: it was not read")
    return content


def _ask(
    client: Sequence[str],
    argv: Sequence[str],
    timeout_s: float,
    stdin: BinaryIO | None,
    output_to: str | None,
    limit_bytes: int,
) -> tuple[tuple[bytes, int] | None, Captured]:
    """What the command wrote and its status, None unless the trailer came; and all that came back."""
    nonce = secrets.token_hex(_NONCE_BYTES)
    target = "" if output_to is None else f" > {shlex.quote(output_to)}"
    command = f"{shlex.join(argv)}{target}; s=$?; echo; echo {nonce} $s"
    try:
        captured = capture([*client, command], timeout_s=timeout_s, stdin=stdin, limit_bytes=limit_bytes)
    except FileNotFoundError as error:
        raise InfrastructureError(f"{client[0]} is not installed, or not on the PATH: install it") from error
    match = re.search(rb"\r?\n%s (\d{1,3})\r?\n\Z" % nonce.encode(), captured.stdout)
    if match is None:
        return None, captured
    return (captured.stdout[: match.start()], int(match[1])), captured
