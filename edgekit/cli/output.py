"""What commands print: one JSON document, or short aligned lines for people."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def stdout_reserved(active: bool) -> Iterator[None]:
    """Within, whatever is written to stdout, by C code too, goes to stderr: stdout is the document's alone."""
    if not active:
        yield
        return
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a descriptor that is closed needs no guard
            kept = os.dup(_STDOUT)
            stack.callback(os.close, kept)
            os.dup2(_STDERR, _STDOUT)
            stack.callback(os.dup2, kept, _STDOUT)
            stack.callback(_flush_c)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _flush_c() -> None:
    """What C code printed and its library still holds back would otherwise follow the document."""
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document; numbers that JSON lacks (infinity, NaN) become null."""
    print(json.dumps(plain(document), indent=2))


def plain(value: Any) -> Any:
    """Dataclasses, paths, tuples and non-finite numbers as JSON knows them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_facts(facts: Sequence[tuple[str, str | None]]) -> None:
    """Aligned lines "name  value"; those without a value are left out."""
    shown = [(name, value) for name, value in facts if value is not None]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Aligned columns, the first `left` of them to the left, the rest to the right."""
    lines = [titles, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        cells = [
            f"{cell:<{width}}" if column < left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
