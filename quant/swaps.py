"""The last step of allocation: a few swaps of bytes between classes of matrices, kept where the measured KL falls.

The plan is the best that the error table knows, so every swap is predicted to lose a little. But the table is off by
some factor for each role. The factors are taken as normal around 1 and learnt from every swap that is measured (linear
regression with a normal prior: the measured change is the sum over roles of factor * predicted change), and the next
swap is the one that may gain most within OPTIMISM standard deviations of what is known by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekit.quant.allocation import Costs, allocate, costs_of, limit_of
from edgekit.quant.knapsack import FloatVector, undominated
from edgekit.quant.plan import Budget, Sensitivity, predicted_kl

PROBES = 6
MOVED = 0.02  # of the matrices' bytes: what a swap moves, or a single matrix's step where that is more
PRIOR_DEVIATION = 0.5  # of a role's factor
OPTIMISM = 1.5
BEYOND_NOISE = 2.0  # standard errors by which the measured KL must fall

MeasureTokens = Callable[[Mapping[str, str]], FloatVector]  # formats -> KL of each held-out token


@dataclass(frozen=True)
class Swap:
    """A plan that was tried, and its KLs in nats per token."""

    what: str  # "up wider", "q narrower", "all, by the factors learnt"
    formats: dict[str, str]
    predicted: float
    measured: float
    kept: bool


@dataclass(frozen=True)
class Swapped:
    """The plan after the swaps that were kept, its measured KL in nats per token, and all that were tried."""

    formats: dict[str, str]
    kl: float
    tried: tuple[Swap, ...]


def measured_swaps(
    table: Sequence[Sensitivity],
    formats: Mapping[str, str],
    budget: Budget,
    measure: MeasureTokens,
    *,
    fixed_bytes: int = 0,
    probes: int = PROBES,
) -> Swapped:
    """Try at most `probes` plans around `formats` and keep what lowers the measured KL; the budget is kept to.

    A plan is kept where the KL falls by more than two standard errors of the paired difference over the held-out
    tokens; the next ones start from it. Without a limit in the budget nothing takes more than `formats`.
    """
    costs = [costs_of(sensitivity, budget) for sensitivity in table]
    chosen, current = dict(formats), measure(formats)
    spent = _spent(costs, chosen)
    limit = limit_of(table, budget, fixed_bytes)
    limit = spent if math.isinf(limit) else limit
    factors, tried = _Factors(table), list[Swap]()
    while len(tried) < probes:
        proposals = dict(propose(table, costs, chosen, limit))
        learnt = allocate(factors.corrected(table), replace(budget, max_kl=None), fixed_bytes).formats
        if _spent(costs, learnt) <= limit:
            proposals["all, by the factors learnt"] = learnt
        known = [chosen, *(swap.formats for swap in tried)]
        hopes = {what: factors.hope(chosen, plan) for what, plan in proposals.items() if plan not in known}
        what = min(hopes, key=lambda what: hopes[what], default=None)
        if what is None or hopes[what] >= 0:
            break
        tokens = measure(proposals[what])
        difference = tokens - current
        error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        factors.learn(chosen, proposals[what], float(difference.mean()), error)
        kept = float(difference.mean()) < -BEYOND_NOISE * error
        predicted = predicted_kl(table, proposals[what])
        assert predicted is not None
        tried.append(Swap(what, proposals[what], predicted, float(tokens.mean()), kept))
        if kept:
            chosen, current = proposals[what], tokens
    return Swapped(chosen, float(current.mean()), tuple(tried))


class _Factors:
    """What is known of true over predicted KL: a mean and a covariance over the roles."""

    def __init__(self, table: Sequence[Sensitivity]) -> None:
        self._roles = {role: index for index, role in enumerate(dict.fromkeys(s.role for s in table))}
        self._role = {sensitivity.name: self._roles[sensitivity.role] for sensitivity in table}
        self._kl = {(s.name, c.format): c.kl for s in table for c in s.candidates}
        self.mean = np.ones(len(self._roles))
        self.covariance = np.eye(len(self._roles)) * PRIOR_DEVIATION**2

    def hope(self, before: Mapping[str, str], after: Mapping[str, str]) -> float:
        """The change of KL expected, less what it may well be below that: under zero there may be a gain."""
        change = self._change(before, after)
        variance = max(float(change @ self.covariance @ change), 0.0)
        return float(change @ self.mean) - OPTIMISM * math.sqrt(variance)

    def learn(self, before: Mapping[str, str], after: Mapping[str, str], measured: float, error: float) -> None:
        """Update by a measured change of KL with that standard error."""
        change = self._change(before, after)
        shared = self.covariance @ change
        gain = shared / max(float(change @ shared) + error**2, 1e-300)
        self.mean = self.mean + gain * (measured - float(change @ self.mean))
        self.covariance = self.covariance - np.outer(gain, shared)

    def corrected(self, table: Sequence[Sensitivity]) -> list[Sensitivity]:
        """The table with every KL multiplied by its role's factor, which is at least a tenth."""
        result = []
        for s in table:
            factor = max(float(self.mean[self._roles[s.role]]), 0.1)
            result.append(replace(s, candidates=tuple(replace(c, kl=c.kl * factor) for c in s.candidates)))
        return result

    def _change(self, before: Mapping[str, str], after: Mapping[str, str]) -> FloatVector:
        """(roles,) the predicted change of KL."""
        change = np.zeros(len(self._roles))
        for name, role in self._role.items():
            change[role] += self._kl[name, after[name]] - self._kl[name, before[name]]
        return change


def propose(
    table: Sequence[Sensitivity], costs: Sequence[Costs], formats: Mapping[str, str], limit: float
) -> Iterator[tuple[str, dict[str, str]]]:
    """The swaps that are possible, with what they are: one role a step wider or narrower for about MOVED of the cost.

    The other matrices pay for it where that costs least, or get what it frees where that gains most.
    """
    spent = _spent(costs, formats)
    ups = sorted(_steps(costs, formats, up=True), key=lambda step: step.kl / step.cost)  # the greatest gain first
    downs = sorted(_steps(costs, formats, up=False), key=lambda step: step.kl / -step.cost)  # the least loss first
    roles = {sensitivity.name: sensitivity.role for sensitivity in table}
    for role in dict.fromkeys(roles.values()):
        for up in (True, False):
            own = [step for step in (ups if up else downs) if roles[step.name] == role]
            others = [step for step in (downs if up else ups) if roles[step.name] != role]
            moved = _until(own, MOVED * spent)
            paid = math.fsum(step.cost for step in moved)
            taken = _until(others, paid - (limit - spent)) if up else _within(others, limit - spent - paid)
            total = spent + paid + math.fsum(step.cost for step in taken)
            if moved and taken and total <= limit:
                swapped = {**formats, **{step.name: step.format for step in (*moved, *taken)}}
                yield f"{role} {'wider' if up else 'narrower'}", swapped


@dataclass(frozen=True)
class _Step:
    """One matrix to its next wider or narrower format: what that adds in cost and in predicted KL (one is negative)."""

    name: str
    format: str
    cost: float
    kl: float


def _steps(costs: Sequence[Costs], formats: Mapping[str, str], *, up: bool) -> Iterator[_Step]:
    for matrix in costs:
        names = [candidate.format for candidate in matrix.candidates]
        now = names.index(formats[matrix.name])
        kept = [int(index) for index in undominated(matrix.costs, matrix.kls)]
        wider = [
            index for index in kept if matrix.costs[index] > matrix.costs[now] and matrix.kls[index] < matrix.kls[now]
        ]
        narrower = [index for index in kept if matrix.costs[index] < matrix.costs[now]]
        if wider if up else narrower:
            index = wider[0] if up else narrower[-1]
            cost, kl = matrix.costs[index] - matrix.costs[now], matrix.kls[index] - matrix.kls[now]
            yield _Step(matrix.name, names[index], float(cost), float(kl))


def _until(steps: Sequence[_Step], cost: float) -> list[_Step]:
    """The first steps until their costs, taken without sign, reach `cost`."""
    taken, total = list[_Step](), 0.0
    for step in steps:
        if total >= cost:
            break
        taken.append(step)
        total += abs(step.cost)
    return taken


def _within(steps: Sequence[_Step], room: float) -> list[_Step]:
    """The steps in their order that fit into what the ones before them left of the room."""
    taken = []
    for step in steps:
        if step.cost <= room:
            taken.append(step)
            room -= step.cost
    return taken


def _spent(costs: Sequence[Costs], formats: Mapping[str, str]) -> float:
    return math.fsum(
        float(cost)
        for matrix in costs
        for candidate, cost in zip(matrix.candidates, matrix.costs, strict=True)
        if candidate.format == formats[matrix.name]
    )
