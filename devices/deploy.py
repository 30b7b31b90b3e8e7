"""Files put on a device by their content, checked there, and taken away again.

WORKDIR/blobs/SHA256 is a file; SHA256.NONCE.use says that the run NONCE uses it, SHA256.keep that it stays. Whoever
takes the last such mark away removes the file, so that two benchmarks can share one, and neither removes it under the
other. A file appears under its name only when it is whole: before, it is .SHA256.NONCE.part.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.devices.target import Target
from edgekit.devices.transports import LostLink, Ran, Transport
from edgekit.models.errors import InfrastructureError

SHORT_S = 60.0  # for commands that have little to do
_STALE_MINUTES = 30  # longer than anything that a desk does to a file, other than pushing or running it
_SLOWEST_BYTES_PER_S = 250e3  # a push may take this long
_SPARE_BYTES = 4 << 20  # for the result, beside the files
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RETRIES_S = (0.0, 1.0, 3.0, 6.0, 10.0)


# Several steps in one, since each command may be a connection of its own. Names are a script's arguments: they are
# quoted like everybody's.
# What desks that died have left is nobody's: a part that no push writes to any more, the mark of a run that is gone.
_OPEN = (
    'mkdir -p "$1/blobs" || exit; '
    rf'find "$1/blobs" -name ".*.part" -mmin +{_STALE_MINUTES} -exec rm -f {{}} +; '
    'for mark in "$1"/blobs/*.use; do nonce=${mark%.use}; nonce=${nonce##*.}; '
    '[ -d "$1/run-$nonce" ] || [ -n "$(find "$1/blobs" -name ".*.$nonce.part")" ] || '
    rf'find "$mark" -mmin +{_STALE_MINUTES} -exec rm -f {{}} + 2> /dev/null; done; exit 0'
)
_ARRIVE = 'chmod "$1" "$2" && mv -f "$2" "$3"'
_LEAVE = 'blobs=$1; shift; rm -f "$@"; ls -A "$blobs"'


def _script(text: str, *words: str) -> list[str]:
    return ["sh", "-c", text, "sh", *words]


class Store:
    """The files of one run on one device."""

    def __init__(self, transport: Transport, target: Target, nonce: str, *, keep: bool = False) -> None:
        self.transport, self.target, self.nonce, self.keep = transport, target, nonce, keep
        self._at(target.workdir)
        self._marked: list[str] = []
        self._files: dict[str, Path] = {}  # by sha256
        self._there = False

    def _at(self, workdir: str) -> None:
        self.workdir, self.blobs = workdir, f"{workdir}/blobs"
        self.run_folder = f"{workdir}/run-{self.nonce}"

    def open(self) -> None:
        """Make the folders, and remove what desks that died did not."""
        if not self.workdir.startswith("/"):
            home = self.must(["pwd"], "cannot tell its home folder").stdout.strip()
            if not (home.startswith("/") and home.isprintable()):
                raise InfrastructureError(f"{self.target.name} does not tell its home folder: set an absolute workdir")
            self._at(f"{home.rstrip('/')}/{self.workdir.removeprefix('./')}")
        self._there = True
        self.must(_script(_OPEN, self.workdir), f"cannot make the folder {self.workdir}")

    def put(self, path: Path, sha256: str, *, executable: bool = False) -> str:
        """The file's path on the device, pushed unless it is there already.

        Raises InfrastructureError where it did not arrive whole.
        """
        return self.put_all({sha256: path}, executable=executable)[sha256]

    def put_all(
        self, files: Mapping[str, Path], *, free_bytes: int | None = None, executable: bool = False
    ) -> dict[str, str]:
        """`put` for several, by their sha256; all must have room before the first is pushed (None: not known)."""
        self._files.update(files)
        missing = {sha256: path for sha256, path in files.items() if not self._claim(sha256)}
        self._check_room(list(missing.values()), free_bytes)
        for sha256, path in missing.items():
            self._push(path, sha256, "700" if executable else "600")
        return {sha256: self._blob(sha256) for sha256 in files}

    def _claim(self, sha256: str) -> bool:
        """Mark the file as this run's, so that nobody takes it away; whether it is there, and whole."""
        blob = self._blob(sha256)
        self._marked.append(sha256)
        marks = [f"{blob}.{self.nonce}.use", *([f"{blob}.keep"] if self.keep else [])]
        self.must(["touch", *marks], f"cannot write to {self.workdir}")
        return self._sha256(blob) == sha256

    def _check_room(self, files: Sequence[Path], free_bytes: int | None) -> None:
        size = sum(path.stat().st_size for path in files)
        if free_bytes is not None and files and size + _SPARE_BYTES > free_bytes:
            names = " and ".join(path.name for path in files)
            raise InfrastructureError(
                f"{self.target.name} has {free_bytes / 1e6:.0f} MB free in {self.workdir}, and {names} "
                f"take{'s' if len(files) == 1 else ''} {size / 1e6:.0f} MB: free some space or choose another workdir"
            )

    def _push(self, path: Path, sha256: str, mode: str) -> None:
        size = path.stat().st_size
        part = self._part(sha256)
        done = self.transport.push(path, part, SHORT_S + size / _SLOWEST_BYTES_PER_S)
        if done.lost:
            raise lost(self.target, done)
        if self._sha256(part) != sha256:
            if "No space left" in done.stderr:
                raise InfrastructureError(
                    f"{path.name} does not fit on {self.target.name}, there is no space left in {self.workdir}: "
                    "free some or choose another workdir"
                )
            why = last_line(done.stderr) or "its hash differs"
            raise InfrastructureError(
                f"{path.name} did not arrive whole on {self.target.name}: {why}: free some space there or try again"
            )
        self.must(_script(_ARRIVE, mode, part, self._blob(sha256)), f"cannot rename {part}")

    def _blob(self, sha256: str) -> str:
        return f"{self.blobs}/{sha256}"

    def _part(self, sha256: str) -> str:
        return f"{self.blobs}/.{sha256}.{self.nonce}.part"

    def _sha256(self, remote: str) -> str | None:
        done = self.command(["sha256sum", remote], timeout_s=10 * SHORT_S)
        if done.lost:
            raise lost(self.target, done)
        if done.returncode == 127:
            raise InfrastructureError(f"{self.target.name} has no sha256sum, so that what is pushed cannot be checked")
        # A name with a backslash or line break has a \ before the hash.
        match = re.match(r"\\?([0-9a-f]{64})\b", done.stdout)
        return match[1] if match and done.returncode == 0 else None

    def in_our_words(self, said: str) -> str:
        """What the device said, with the files' own names."""
        for sha256, path in self._files.items():
            said = said.replace(f"{self.blobs}/{sha256}", path.name)
        return said

    def close(self) -> None:
        """Remove what this run put there, and the folders if nothing else is in them.

        Raises InfrastructureError where the device cannot be reached for that.
        """
        if not self._there:
            return
        marks = [f"{self.blobs}/{sha256}.{self.nonce}.use" for sha256 in self._marked]
        parts = [self._part(sha256) for sha256 in self._marked]
        names = set(self.surely(_script(_LEAVE, self.blobs, *marks, *parts)).stdout.split())
        unused = {
            name for name in names if _SHA256.fullmatch(name) and not any(n.startswith(f"{name}.") for n in names)
        }
        if unused:
            self.surely(["rm", "-f", *(f"{self.blobs}/{name}" for name in sorted(unused))])
        if names == unused:  # nobody else is at work here
            self.surely(["rmdir", self.blobs, self.workdir])
        self._there = False

    def surely(self, argv: Sequence[str], *, timeout_s: float = SHORT_S) -> Ran:
        """Run a command that may be repeated until the link carries it; what it returns is not looked at."""
        for wait_s in _RETRIES_S:
            time.sleep(wait_s)
            done = self.command(argv, timeout_s=timeout_s)
            if not done.lost:
                return done
        raise InfrastructureError(
            f"{self.target.name} cannot be reached ({last_line(done.stderr)}), so that {self.workdir} there could "
            "not be cleaned up: remove it by hand"
        )

    def command(self, argv: Sequence[str], *, timeout_s: float = SHORT_S) -> Ran:
        """Run one of the system's programs on the device."""
        return self.transport.run(argv, timeout_s)

    def must(self, argv: Sequence[str], trouble: str, *, timeout_s: float = SHORT_S) -> Ran:
        """`command`, which has to succeed."""
        done = self.command(argv, timeout_s=timeout_s)
        if done.lost:
            raise lost(self.target, done)
        if done.returncode != 0:
            why = last_line(done.stderr) or f"{argv[0]} ended with {done.returncode}"
            raise InfrastructureError(f"{self.target.name}: {trouble}: {why}")
        return done


def file_sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What the programs say, and the way out.
_WAYS_OUT = (
    ("Host key verification failed", "check the device's key and add it to known_hosts, or set known_hosts_file"),
    ("Permission denied", "set user and identity_file in a profile, or add the key to ssh-agent"),
    ("Could not resolve hostname", "check the name"),
    ("Connection refused", "start sshd there, or check the port"),
    ("unauthorized", "accept this computer on the device's screen"),
    ("not found", "see adb devices"),
    ("offline", "plug it in again, see adb devices"),
)


def lost(target: Target, ran: Ran) -> LostLink:
    """The error for a link that is lost, or never was."""
    way = next((way for text, way in _WAYS_OUT if text in ran.stderr), "check its cable or network")
    why = last_line(ran.stderr) or "the link broke"
    return LostLink(f"{target.name} cannot be reached: {why}: {way}")


def last_line(text: str) -> str:
    """The last line of what a program said, without what could command a terminal, a long one's middle left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = "".join(mark for mark in (lines or [""])[-1] if mark.isprintable()).rstrip(" .:")
    return line if len(line) <= 240 else f"{line[:80]} ... {line[-150:]}"
