"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgekit.models.errors import InputError, TargetError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an error, flushed to disk and renamed.

    On any error, Ctrl-C included, the temporary file is removed and an existing `path` stays as it was.
    Raises InputError where the folder is missing or not writable, TargetError where the disk is full or fails.
    """
    folder = path.parent
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it")
    try:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.", suffix=".partial")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}: choose a folder that exists and is writable"
        ) from error
    try:
        with disk_errors(path):
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What a full, broken or read-only disk says while `path` is written becomes a TargetError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            raise TargetError(
                f"cannot write {path}: {error.strerror}: free some space or choose another disk"
            ) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
