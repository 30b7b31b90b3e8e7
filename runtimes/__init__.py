"""Sessions that run exported files, behind one Protocol."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from edgekit.models.errors import InputError
from edgekit.runtimes.session import Runtime, Session, SessionStats

__all__ = ["RUNTIMES", "Session", "SessionStats", "load"]

# Name on the command line -> module; each is imported when it is asked for.
RUNTIMES: dict[str, str] = {
    "llama.cpp": "edgekit.runtimes.llama_cpp",
    "torch": "edgekit.runtimes.torch_reference",
}


def load(
    path: str | Path, *, runtime: str = "llama.cpp", context: int | None = None, threads: int | None = None
) -> Session:
    """Open a GGUF in a runtime.

    `context`: positions to allocate (None: the trained context, at most 4096); `threads`: None means all cores.
    Raises InputError for an unknown runtime, a missing or unreadable file, or a file that the runtime refuses, and
    MissingExtra where the runtime's package is not installed.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"there is no runtime {runtime!r}: choose one of {', '.join(RUNTIMES)}")
    path = Path(path)
    _check_gguf(path)
    module = cast(Runtime, import_module(RUNTIMES[runtime]))
    return module.load(path, context=context, threads=threads)


def _check_gguf(path: Path) -> None:
    if not path.is_file():
        what = "a folder, not a GGUF file: quantise it first" if path.is_dir() else "not there: check the path"
        raise InputError(f"{path} is {what}")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise InputError(f"{path} is not a GGUF file (it does not start with 'GGUF'): export the model again")
