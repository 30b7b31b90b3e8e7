"""Measuring several things in turns, so that what changes on the machine meanwhile changes it for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from tqdm import tqdm

NATIVE, LLAMA, LLAMA_BENCH, MEMORY = "native", "llama.cpp", "llama-bench", "memory"  # sides
PAUSE_S = 0.05  # before each turn: idle threads of OpenMP spin for some milliseconds, ours for a tenth of one

Figures = dict[str, float]
Turns = dict[str, list[Figures]]  # side -> what it measured in each round


def in_turns(sides: Mapping[str, Callable[[], Figures]], rounds: int, progress: tqdm[Any]) -> Turns:
    """A B A B."""
    found: Turns = {side: [] for side in sides}
    for _ in range(rounds):
        for side, measure in sides.items():
            progress.set_postfix_str(side)
            time.sleep(PAUSE_S)
            found[side].append(measure())
            progress.update()
    return found


def seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Row:
    """One quantity, with a sample from each round of each side."""

    label: str
    unit: str  # "s": less is better
    samples: dict[str, list[float]]

    def ratios(self, ours: str = NATIVE) -> dict[str, float]:
        """How many times as fast as each other side ours is: the median of the rounds' own ratios."""
        found = {}
        for side in self.samples.keys() - {ours, MEMORY}:
            pairs = zip(self.samples[ours], self.samples[side], strict=True)
            found[side] = median(b / a if self.unit == "s" else a / b for a, b in pairs)
        return found


def row(label: str, unit: str, figure: str, turns: Turns) -> Row:
    """The sides that measured that figure."""
    having = {side: many for side, many in turns.items() if figure in many[0]}
    return Row(label, unit, {side: [each[figure] for each in many] for side, many in having.items()})
