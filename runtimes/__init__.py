"""Sessions that run exported files, behind one Protocol."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from edgekit.models.errors import InputError
from edgekit.runtimes.session import CacheTypes, Runtime, Session, SessionStats, choose_threads

__all__ = ["RUNTIMES", "CacheTypes", "Session", "SessionStats", "choose_runtime", "load", "thread_count"]

# Name on the command line -> module; each is imported when it is asked for.
RUNTIMES: dict[str, str] = {
    "native": "edgekit.runtimes.native",
    "llama.cpp": "edgekit.runtimes.llama_cpp",
    "torch": "edgekit.runtimes.torch_reference",
    "onnx": "edgekit.runtimes.onnx",
}


def choose_runtime(asked: str | None, path: Path) -> str:
    """The runtime that was asked for, else the one for what lies there: "onnx" for an ONNX folder, "native" for a GGUF.

    Raises InputError for an unknown one.
    """
    if asked is None:
        return "onnx" if _is_onnx_folder(path) else "native"
    if asked not in RUNTIMES:
        raise InputError(f"there is no runtime {asked!r}: choose one of {', '.join(RUNTIMES)}")
    return asked


def load(
    path: str | Path,
    *,
    runtime: str | None = None,
    context: int | None = None,
    threads: int | None = None,
    cache: CacheTypes | None = None,
) -> Session:
    """Open a GGUF or an exported ONNX folder in a runtime; None: `choose_runtime`'s.

    `context`: positions to allocate (None: the trained context, at most 4096); `threads`: None means all cores (native:
    all big ones); `cache`: types of keys and values (None: float16; torch and onnx: float32, no other).
    Raises InputError for an unknown runtime, a missing or unreadable file, or a file that the runtime refuses, and
    MissingExtra where the runtime's package is not installed.
    """
    path = Path(path)
    runtime = choose_runtime(runtime, path)
    if runtime != "onnx":
        _check_gguf(path)
    module = cast(Runtime, import_module(RUNTIMES[runtime]))
    return module.load(path, context=context, threads=threads, cache=cache)


def thread_count(runtime: str, threads: int | None) -> int:
    """How many threads a runtime works with where it is asked for that many, or for None."""
    if threads is None and runtime == "native":
        from edgekit import _native

        return _native.big_cores()
    return choose_threads(threads)


def _is_onnx_folder(path: Path) -> bool:
    return (path / "model.onnx").is_file()


def _check_gguf(path: Path) -> None:
    if _is_onnx_folder(path):
        raise InputError(f"{path} is an ONNX folder: choose --runtime onnx, or none")
    if not path.is_file():
        what = "a folder, not a GGUF file: quantise it first" if path.is_dir() else "not there: check the path"
        raise InputError(f"{path} is {what}")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if path.suffix == ".onnx":
        raise InputError(f"{path} is a graph, not a GGUF file: give the folder that it is in")
    if magic != b"GGUF":
        raise InputError(f"{path} is not a GGUF file (it does not start with 'GGUF'): export the model again")
