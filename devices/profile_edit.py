"""New figures in a profile's text, the rest of it, comments too, as it was."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping

from edgekit.models.errors import InputError

_HEADER = re.compile(r"\s*\[")


def with_figures(text: str, figures: Mapping[str, object], sources: Mapping[str, str], where: str) -> str:
    """The TOML text with the figures at its top and their sources set; numbers, or tables of numbers.

    The file is edited line by line and then read again: InputError where it is laid out so that this goes wrong.
    """
    lines = text.splitlines()
    for key, value in figures.items():
        _set(lines, 0, _end(lines, 0), key, _toml(value))
    start = next(
        (place for place, line in enumerate(lines) if re.fullmatch(r"\s*\[\s*sources\s*\]\s*(#.*)?", line)), None
    )
    if start is None:
        lines += ["", "[sources]"]
        start = len(lines) - 1
    for key, source in sources.items():
        _set(lines, start + 1, _end(lines, start + 1), key, json.dumps(source, ensure_ascii=False))
    edited = "\n".join([*lines, ""])
    if _parsed(edited) != _wanted(tomllib.loads(text), figures, sources):
        raise InputError(
            f"{where}: it is laid out in a way that edgekit cannot edit: write each figure on a line of its own, "
            "cycles_per_block as { q4_0 = 5.0 }, and the sources under [sources]"
        )
    return edited


def _end(lines: list[str], start: int) -> int:
    """Where the table that begins there ends: behind its last line that says something."""
    end = next((place for place in range(start, len(lines)) if _HEADER.match(lines[place])), len(lines))
    while end > start and not lines[end - 1].strip():
        end -= 1
    return end


def _set(lines: list[str], start: int, end: int, key: str, value: str) -> None:
    """Put the key where it was, else at the end. A comment behind a value says something of the old one, and goes."""
    for place in range(start, end):
        if re.match(rf"\s*{re.escape(key)}\s*=", lines[place]):
            lines[place] = f"{key} = {value}"
            return
    lines.insert(end, f"{key} = {value}")


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(number)}" for name, number in value.items()) + " }"
    short = f"{value:.6g}".replace("e+0", "e").replace("e+", "e") if isinstance(value, float) else ""
    return short if short and float(short) == value and set(short) & set(".e") else repr(value)


def _parsed(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _wanted(table: dict[str, object], figures: Mapping[str, object], sources: Mapping[str, str]) -> dict[str, object]:
    old = table.get("sources")
    return {**table, **figures, "sources": {**(old if isinstance(old, dict) else {}), **sources}}
