"""Which format each matrix gets where speed counts: the least time per decoded token instead of the fewest bytes.

A token reads every matrix once but an embedding that is only a lookup table, of which it reads a row. Reading and
arithmetic are added up, as if they did not overlap: at 11.8 cycles for 32 weights, what llvm-mca's model of a
Cortex-A72 says of llama.cpp's Q4_0, a Raspberry Pi 4 then decodes at 3.4 GB/s, and 3.2 to 3.5 were seen there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgekit.models.errors import InputError
from edgekit.models.spec import TensorSpec
from edgekit.quant.allocation import Allocation, admitted, frontier, table_of_shapes
from edgekit.quant.knapsack import ROUNDING, FloatVector, Items, solve, undominated
from edgekit.quant.plan import Budget, Candidate, Sensitivity

PER_SECOND = 1e12  # times are whole picoseconds, whose sums are exact
PRICES = 40  # of a byte that are tried where the bytes are what binds

Picks = tuple[int, ...]  # of every matrix the index of a candidate


@dataclass(frozen=True)
class DecodeTime:
    """What a decoded token takes on a device, and the most that it may.

    `seconds_per_weight`: the arithmetic by format; one that is not there is taken to be as slow as the slowest. Empty:
    not known, reading alone counts. `lookup_roles`: matrices of which a token reads a single row.
    """

    max_seconds: float
    seconds_per_byte: float
    seconds_per_weight: Mapping[str, float] = field(default_factory=dict)
    lookup_roles: tuple[str, ...] = ()

    def seconds(self, sensitivity: Sensitivity, candidate: Candidate) -> float:
        """What a matrix in a format adds to every token."""
        if sensitivity.role in self.lookup_roles:
            return 0.0
        slowest = max(self.seconds_per_weight.values(), default=0.0)
        arithmetic = math.prod(sensitivity.shape) * self.seconds_per_weight.get(candidate.format, slowest)
        return candidate.bytes * self.seconds_per_byte + arithmetic

    def total(self, sensitivities: Sequence[Sensitivity], formats: Mapping[str, str]) -> float:
        """The seconds per token of a plan."""
        return math.fsum(
            self.seconds(sensitivity, candidate)
            for sensitivity in sensitivities
            for candidate in sensitivity.candidates
            if candidate.format == formats[sensitivity.name]
        )


def allocate_for_speed(
    sensitivities: Sequence[Sensitivity], budget: Budget, time: DecodeTime, fixed_bytes: int = 0
) -> Allocation:
    """The formats that decode fastest with a KL of at most `budget.max_kl`; else those of least KL, and `note` says so.

    Neither `time.max_seconds` nor `budget.max_bytes` is exceeded. Exact where the bytes do not bind; where they do, a
    price is put on a byte and raised until they are kept to (Lagrange), which may miss the optimum by the last few.
    Raises InputError where nothing keeps to both.
    """
    table, max_kl = _Table(sensitivities, budget, time, fixed_bytes), budget.max_kl
    if max_kl is not None:
        fastest = _priced(lambda price: table.fastest(price, max_kl), table)
        if fastest is not None and table.seconds(fastest) <= table.max_seconds:
            return table.allocation(fastest)
    best = _priced(table.best, table)
    if best is None:
        raise InputError(
            f"no plan decodes {1 / time.max_seconds:.4g} tokens per second within {budget.max_bytes:,} bytes: "
            "lower --tps or allow narrower types"
        )
    kl = table.kl(best)
    note = None
    if max_kl is not None and kl > max_kl:
        note = f"no plan within the budget keeps to a KL of {max_kl:g}: the best that fits is predicted at {kl:.4g}"
    return table.allocation(best, note)


def require_possible_speed(
    tensors: Sequence[TensorSpec], budget: Budget, time: DecodeTime, fixed_bytes: int = 0
) -> None:
    """Raise `allocate_for_speed`'s InputError of impossible limits from shapes alone, before anything is measured."""
    allocate_for_speed(table_of_shapes(tensors, budget), replace(budget, max_kl=None), time, fixed_bytes)


class _Table:
    """The candidates' KLs, bytes and times, as vectors for each matrix."""

    def __init__(
        self, sensitivities: Sequence[Sensitivity], budget: Budget, time: DecodeTime, fixed_bytes: int
    ) -> None:
        self._sensitivities, self._formats, self._fixed_bytes = sensitivities, budget.formats, fixed_bytes
        self._candidates = [admitted(sensitivity, budget.formats) for sensitivity in sensitivities]
        self._bytes = [np.array([c.bytes for c in row], np.float64) for row in self._candidates]
        self._kls = [np.array([c.kl for c in row], np.float64) for row in self._candidates]
        self._seconds = [
            np.array([math.ceil(PER_SECOND * time.seconds(sensitivity, c)) for c in row], np.float64)
            for sensitivity, row in zip(sensitivities, self._candidates, strict=True)
        ]
        self.max_seconds = math.floor(PER_SECOND * time.max_seconds)
        self.max_bytes = math.inf if budget.max_bytes is None else budget.max_bytes - fixed_bytes
        least = math.fsum(row.min() for row in self._seconds)
        if least > self.max_seconds:
            raise InputError(
                f"{1 / time.max_seconds:.4g} tokens per second are too many: the fastest types decode at most "
                f"{PER_SECOND / least:.4g} on this device: lower --tps or allow narrower types"
            )
        smallest = math.fsum(row.min() for row in self._bytes)
        if smallest > self.max_bytes:
            raise InputError(
                f"the device's memory takes a file of {budget.max_bytes:,} bytes, and the smallest for this model and "
                f"these types is {fixed_bytes + int(smallest):,}: shorten --context or allow narrower types"
            )

    def fastest(self, price: float, max_kl: float) -> Picks | None:
        """The least time + price * bytes with at most that KL."""
        costs = [seconds + price * size for seconds, size in zip(self._seconds, self._bytes, strict=True)]
        return _solve(self._kls, costs, max_kl * (1 - ROUNDING))

    def best(self, price: float) -> Picks | None:
        """The least KL + price * bytes in the time that there is."""
        values = [kls + price * size for kls, size in zip(self._kls, self._bytes, strict=True)]
        return _solve(self._seconds, values, self.max_seconds)

    def bytes(self, picks: Picks) -> float:
        return _sum(self._bytes, picks)

    def seconds(self, picks: Picks) -> float:
        return _sum(self._seconds, picks)

    def kl(self, picks: Picks) -> float:
        return _sum(self._kls, picks)

    def allocation(self, picks: Picks, note: str | None = None) -> Allocation:
        chosen = [row[pick] for row, pick in zip(self._candidates, picks, strict=True)]
        names = [sensitivity.name for sensitivity in self._sensitivities]
        return Allocation(
            formats={name: candidate.format for name, candidate in zip(names, chosen, strict=True)},
            bytes=self._fixed_bytes + sum(candidate.bytes for candidate in chosen),
            kl=self.kl(picks),
            curve=frontier(self._sensitivities, self._fixed_bytes, self._formats),
            note=note,
        )


def _priced(solved: Callable[[float], Picks | None], table: _Table) -> Picks | None:
    """The picks at the lowest price of a byte found at which the bytes are kept to; None where none does."""
    picks = solved(0.0)
    if picks is None or table.bytes(picks) <= table.max_bytes:
        return picks
    fitting, low, high = None, 0.0, math.inf
    price = 1e-12
    for _ in range(PRICES):
        picks = solved(price)
        if picks is not None and table.bytes(picks) <= table.max_bytes:
            fitting, high = picks, price
        else:
            low = price
        price = 10 * low if math.isinf(high) else math.sqrt(low * high) if low else high / 10
    return fitting


def _solve(costs: Sequence[FloatVector], values: Sequence[FloatVector], limit: float) -> Picks | None:
    """The choice of least value with cost <= limit, one for each matrix."""
    kept = [undominated(cost, value) for cost, value in zip(costs, values, strict=True)]
    items = Items(
        tuple(cost[index] for cost, index in zip(costs, kept, strict=True)),
        tuple(value[index] for value, index in zip(values, kept, strict=True)),
    )
    found = solve(items, limit)
    return None if found is None else tuple(int(index[pick]) for index, pick in zip(kept, found.picks, strict=True))


def _sum(rows: Sequence[FloatVector], picks: Picks) -> float:
    return math.fsum(float(row[pick]) for row, pick in zip(rows, picks, strict=True))
