"""The program that runs on a device: `edgekit-bench`, one static file for each kind of processor."""

from __future__ import annotations

from pathlib import Path

from edgekit.models.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
# In an installed package, then in a checkout, where `make runner` puts them.
FOLDERS = (_PACKAGE / "runner", _PACKAGE.parent / "build" / "runner")


def runner_file(machine: str) -> Path:
    """The runner for a machine as `uname -m` names it; InputError where none was built."""
    for folder in FOLDERS:
        path = folder / f"edgekit-bench-{machine}"
        if path.is_file():
            return path
    raise InputError(f"there is no runner for {machine} here: build it in a checkout of edgekit with make runner")
