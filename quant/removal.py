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

from edgekit.models.forward import parts
from edgekit.quant.factors import Factors, multiplied
from edgekit.quant.head_scores import Candidates, HeadScore, UnitCosts
from edgekit.quant.structure import Goal, Structure, Unit, remove
from edgekit.quant.teacher import Judgement, Teacher, judge

ROUNDS = 4
WINDOWS, FEWEST = 32, 8  # that scores look at
WORK = 5e11  # tokens times parameters of the layers, of a round's windows


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
    looked_at, kinds = spread(windows, affordable(model, teacher, WORK, WINDOWS)), tuple(goal.kind for goal in goals)
    rounds: list[Round] = []
    costs: UnitCosts | None = None
    for number in tqdm(range(1, ROUNDS + 1), desc="choosing heads", unit="round", disable=None):
        totals = [goal.total * number // ROUNDS for goal in goals]
        if all(sum(structure.removed(goal.kind)) >= total for goal, total in zip(goals, totals, strict=True)):
            continue  # the last round's units were large
        costs = score.score(Candidates(model, teacher, looked_at, structure, kinds, costs))
        gone: list[Unit] = []
        for goal, total in zip(goals, totals, strict=True):
            of_kind = costs.channels if goal.kind == "channels" else costs.heads
            structure, units = remove(structure, of_kind, goal, total)
            gone += units
        with multiplied(model, Factors.keeping(structure)):
            rounds.append(Round(tuple(gone), costs, judge(model, teacher, held_out, every=teacher.stride)))
    return Removal(structure, tuple(rounds))


def affordable(model: Any, teacher: Teacher, work: float, most: int) -> int:
    """How many windows, times the parameters of the layers, are that much work: `most` of a small model's."""
    weights = sum(parameter.numel() for layer in parts(model).layers for parameter in layer.parameters())
    return max(FEWEST, min(most, int(work / (weights * teacher.ids.shape[1]))))


def spread(windows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Those of the windows, or `most` of them from all over."""
    return windows[np.arange(most) * len(windows) // most] if len(windows) > most else windows
