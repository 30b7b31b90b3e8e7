"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Clock:
    """Wall seconds per stage, in the order in which the stages began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def within(self, name: str, outer: str, items: Iterator[T]) -> Iterator[T]:
        """The items, with the time spent in making them moved from the stage `outer` to the stage `name`."""
        while True:
            start = time.perf_counter()
            item = next(items, None)
            spent = time.perf_counter() - start
            self.add(name, spent)
            self.add(outer, -spent)
            if item is None:
                return
            yield item
