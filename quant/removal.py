"""Which heads and channels go: in rounds, each with fresh scores of what is left.

Units that do the same work cover for one another: each looks dispensable until the other is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.quant.factors import Factors, multiplied
from edgekit.quant.head_scores import HeadScore, UnitCosts
from edgekit.quant.structure import Goal, Structure, Unit, remove
from edgekit.quant.teacher import Judgement, Teacher, judge

ROUNDS = 4
WINDOWS = 32  # that scores look at, spread evenly over those there are


@dataclass(frozen=True)
class Round:
    """The units that went, the costs by which they did, and the masked model on windows held out."""

    units: tuple[Unit, ...]
    costs: UnitCosts
    judgement: Judgement


@dataclass(frozen=True)
class Removal:
    """What is kept in the end, and how it came to that."""

    structure: Structure
    rounds: tuple[Round, ...]


def choose(
    model: Any,
    teacher: Teacher,
    windows: NDArray[np.int64],
    held_out: NDArray[np.int64],
    structure: Structure,
    goals: Sequence[Goal],
    score: HeadScore,
) -> Removal:
    """Remove from `structure` until every goal is met, the same part of each in every round.

    `teacher` is `model` as it is, `windows` and `held_out` are numbers of its windows. The model is left as it was.
    """
    chosen = windows[np.linspace(0, len(windows), WINDOWS, endpoint=False).astype(int)]
    rounds: list[Round] = []
    for number in tqdm(range(1, ROUNDS + 1), desc="choosing heads", unit="round", disable=None):
        costs = score.score(model, teacher, np.unique(chosen), structure)
        gone: list[Unit] = []
        for goal in goals:
            of_kind = costs.channels if goal.kind == "channels" else costs.heads
            structure, units = remove(structure, of_kind, goal, goal.total * number // ROUNDS)
            gone += units
        with multiplied(model, Factors.keeping(structure)):
            rounds.append(Round(tuple(gone), costs, judge(model, teacher, held_out)))
    return Removal(structure, tuple(rounds))
