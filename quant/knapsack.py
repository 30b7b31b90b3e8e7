"""The multiple-choice knapsack: one choice per item, least total value, total cost within a limit.

An item is a matrix, its choices are formats; cost and value are bytes and KL, or KL and bytes when the smallest file is
sought. The linear relaxation is solved by walking down the items' convex hulls in order of slope (Kellerer, Pferschy
and Pisinger, Knapsack Problems, 2004, chapter 11); here it bounds the states of a dynamic program over the items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatVector = NDArray[np.float64]

MAX_STATES = 4_000  # kept per item: beyond it those with the best bounds go on, and the answer may miss the optimum
ROUNDING = 1e-12  # relative: a smaller improvement is not looked for


@dataclass(frozen=True)
class Items:
    """The choices of every item: `costs[i]` strictly ascends, `values[i]` strictly descends (see `undominated`)."""

    costs: tuple[FloatVector, ...]  # whole numbers are exact up to 2**53
    values: tuple[FloatVector, ...]

    def cost(self, picks: Sequence[int]) -> float:
        return math.fsum(float(costs[pick]) for costs, pick in zip(self.costs, picks, strict=True))

    def value(self, picks: Sequence[int]) -> float:
        return math.fsum(float(values[pick]) for values, pick in zip(self.values, picks, strict=True))

    def reversed(self) -> Items:
        """Costs and values exchanged, each item's choices in reverse order."""
        return Items(tuple(values[::-1] for values in self.values), tuple(costs[::-1] for costs in self.costs))


@dataclass(frozen=True)
class Solution:
    """The choice of each item; `exact` says whether nothing better exists, but for float64 rounding."""

    picks: tuple[int, ...]
    exact: bool


@dataclass(frozen=True)
class Walk:
    """The steps along some items' lower convex hulls, the greatest gain per cost first, from their cheapest choices on.

    Step s moves `item[s]` to choice `to[s]`, for `cost[s]` more and `gain[s]` less value.
    """

    item: NDArray[np.int64]
    to: NDArray[np.int64]
    cost: FloatVector
    gain: FloatVector

    def over(self, items: NDArray[np.bool_]) -> Walk:
        """The walk over those items alone (a mask)."""
        kept = items[self.item]
        return Walk(self.item[kept], self.to[kept], self.cost[kept], self.gain[kept])

    def complete(self, room: FloatVector) -> tuple[NDArray[np.int64], FloatVector, FloatVector]:
        """For each room >= 0: how many whole steps fit, what they gain, and what the relaxation gains (a bound)."""
        cost, gain = np.concatenate(([0.0], np.cumsum(self.cost))), np.concatenate(([0.0], np.cumsum(self.gain)))
        steps = np.searchsorted(cost, room, side="right") - 1
        slopes = np.append(self.gain / self.cost, 0.0)
        return steps, gain[steps], gain[steps] + slopes[steps] * (room - cost[steps])


def undominated(costs: FloatVector, values: FloatVector) -> NDArray[np.int64]:
    """Indices of the choices that no other matches at no more cost, in ascending cost; of equal ones the first."""
    order = np.lexsort((np.arange(len(costs)), values, costs))
    best = np.minimum.accumulate(np.concatenate(([np.inf], values[order])))
    return np.asarray(order[values[order] < best[:-1]], dtype=np.int64)


def walk(items: Items) -> Walk:
    """All steps of all items."""
    steps = []
    for item, (costs, values) in enumerate(zip(items.costs, items.values, strict=True)):
        hull = _hull(costs, values)
        for start, stop in pairwise(hull):
            steps.append((item, stop, float(costs[stop] - costs[start]), float(values[start] - values[stop])))
    steps.sort(key=lambda step: (-step[3] / step[2], step[0], step[1]))
    item_column, to, cost, gain = (list(column) for column in zip(*steps, strict=True)) if steps else ([], [], [], [])
    return Walk(np.array(item_column, np.int64), np.array(to, np.int64), np.array(cost), np.array(gain))


def solve(items: Items, limit: float) -> Solution | None:
    """The choices of least value with cost <= limit; None where even the cheapest cost more.

    A dynamic program over the items, the widest first. A state is dropped where another has neither more cost nor more
    value, or where the relaxation of the items to come says that it cannot beat the best complete choice known.
    """
    count = len(items.costs)
    start = [0] * count
    if items.cost(start) > limit:
        return None
    states = _States(np.array([items.cost(start)]), np.array([items.value(start)]), np.zeros((1, count), np.uint8))
    best, best_value, exact = states.picks[0], float(states.values[0]), True
    undecided, rest = np.ones(count, dtype=bool), walk(items)
    for item in np.argsort([costs[0] - costs[-1] for costs in items.costs], kind="stable"):
        undecided[item] = False
        rest = rest.over(undecided)
        states = states.decide(int(item), items, limit)
        steps, gain, bound = rest.complete(limit - states.costs)
        state = int(np.argmin(states.values - gain))
        if states.values[state] - gain[state] < best_value:
            best_value = float(states.values[state] - gain[state])
            best = states.picks[state].copy()
            best[rest.item[: steps[state]]] = rest.to[: steps[state]]  # in order: an item's last step stands
        hopes = states.values - bound
        alive = np.flatnonzero(hopes < best_value - ROUNDING * abs(best_value))
        if len(alive) == 0:
            break
        if len(alive) > MAX_STATES:
            alive, exact = np.sort(alive[np.argsort(hopes[alive], kind="stable")[:MAX_STATES]]), False
        states = states.keep(alive)
    return Solution(tuple(int(pick) for pick in best), exact)


@dataclass(frozen=True)
class _States:
    """Partial choices, in ascending cost: an item not yet decided has its cheapest choice in all three."""

    costs: FloatVector  # (S,)
    values: FloatVector  # (S,)
    picks: NDArray[np.uint8]  # (S, items)

    def decide(self, item: int, items: Items, limit: float) -> _States:
        """Every state with every choice of the item that fits, those left out that another dominates."""
        costs, values = items.costs[item], items.values[item]
        all_costs = (self.costs[:, None] + (costs - costs[0])).ravel()
        all_values = (self.values[:, None] + (values - values[0])).ravel()
        fitting = np.flatnonzero(all_costs <= limit)
        kept = fitting[undominated(all_costs[fitting], all_values[fitting])]
        picks = self.picks[kept // len(costs)]
        picks[:, item] = kept % len(costs)
        return _States(all_costs[kept], all_values[kept], picks)

    def keep(self, alive: NDArray[np.int64]) -> _States:
        return _States(self.costs[alive], self.values[alive], self.picks[alive])


def _hull(costs: FloatVector, values: FloatVector) -> list[int]:
    """Indices of the lower convex hull, from the cheapest choice to the best."""
    hull: list[int] = []
    for point in range(len(costs)):
        while len(hull) > 1:
            a, b = hull[-2:]
            if (values[a] - values[b]) * (costs[point] - costs[b]) > (values[b] - values[point]) * (
                costs[b] - costs[a]
            ):
                break
            hull.pop()
        hull.append(point)
    return hull
