"""JSON from elsewhere, checked value by value: whatever is odd is refused in a sentence that names it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

_MOST_DEPTH = 8
_MOST_TEXT = 1024

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A value of a document and the way to it, which names it in every message; `wrong` makes the error of one."""

    value: Any
    path: str
    wrong: Callable[[str], Exception]

    def odd(self, what: str) -> Exception:
        return self.wrong(f"{self.path} {what}")

    def __getitem__(self, key: str) -> Found:
        if not isinstance(self.value, dict):
            raise self.odd("is not an object")
        if key not in self.value:
            raise self.odd(f"has no {key}")
        return Found(self.value[key], f"{self.path}.{key}", self.wrong)

    def maybe(self, key: str, read: Callable[[Found], T]) -> T | None:
        """None for null; a missing field is an error, so that nothing is unknown by mistake."""
        return self[key].maybe_self(read)

    def maybe_self(self, read: Callable[[Found], T]) -> T | None:
        return None if self.value is None else read(self)

    def items(self, most: int) -> Iterator[Found]:
        if not isinstance(self.value, list) or len(self.value) > most:
            raise self.odd(f"is not a list of at most {most} entries")
        return (Found(item, f"{self.path}[{index}]", self.wrong) for index, item in enumerate(self.value))

    def entries(self, most: int) -> Iterator[tuple[str, Found]]:
        if not isinstance(self.value, dict) or len(self.value) > most:
            raise self.odd(f"is not an object of at most {most} entries")
        for key, item in self.value.items():
            name = Found(key, self.path, self.wrong).text()
            yield name, Found(item, f"{self.path}.{name}", self.wrong)

    def text(self, pattern: re.Pattern[str] | None = None, *, most: int = _MOST_TEXT) -> str:
        """Printable characters alone: what is printed on a terminal must not command it."""
        good = isinstance(self.value, str) and len(self.value) <= most and self.value.isprintable()
        if not good or (pattern is not None and not pattern.fullmatch(self.value)):
            raise self.odd("is not the text that it should be")
        return str(self.value)

    def choice(self, *choices: T) -> T:
        for choice in choices:
            if self.value == choice and isinstance(self.value, type(choice)):
                return choice
        raise self.odd(f"is none of {', '.join(map(str, choices))}")

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.odd("is neither true nor false")
        return self.value

    def whole(self, low: int, high: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not low <= self.value <= high:
            raise self.odd(f"is not a whole number from {low} to {high}")
        return self.value

    def number(self, low: float, high: float) -> float:
        good = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not good or not low <= self.value <= high:
            raise self.odd(f"is not a number from {low:g} to {high:g}")
        return float(self.value)

    def figure(self) -> float:
        """A measured figure; NaN for null, which the verdict then calls impossible."""
        return math.nan if self.value is None else self.number(-1e12, 1e12)


def document(content: bytes, name: str, wrong: Callable[[str], Exception], most_bytes: int) -> Found:
    """JSON of at most that many bytes, of bounded depth, with no key twice and no number that JSON lacks."""
    if len(content) > most_bytes:
        raise wrong(f"{name} is longer than {most_bytes >> 20} MiB")
    try:
        text = content.decode()
        if _depth(text) > _MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except ValueError as error:
        raise wrong(f"{name} is not JSON ({error})") from error
    return Found(value, name, wrong)


def _depth(text: str) -> int:
    """The deepest nesting, without a recursion that the text could exhaust."""
    depth = deepest = 0
    for mark in re.findall(r'(?s)"(?:[^"\\]|\\.)*+"?|[\[{\]}]', text):  # "?: a string that never ends is passed once
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    return deepest


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found
