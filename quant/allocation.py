"""Which format each matrix gets: the least predicted KL for the bytes, or the fewest bytes for a KL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.models.errors import InputError
from edgekit.models.spec import TensorSpec
from edgekit.quant.candidates import candidate_formats, carried_formats, fallback
from edgekit.quant.containers import GGUF, Container
from edgekit.quant.formats import format_of
from edgekit.quant.knapsack import FloatVector, Items, solve, undominated, walk
from edgekit.quant.plan import Budget, Candidate, CurvePoint, Sensitivity

CURVE_POINTS = 40
ROUNDING = 1e-12  # relative: what summing in another order may change of a KL


@dataclass(frozen=True)
class Allocation:
    """A choice for every matrix, the whole file's bytes, its predicted KL, and the size-KL frontier around it."""

    formats: dict[str, str]
    bytes: int
    kl: float | None  # None where no statistics were taken
    curve: tuple[CurvePoint, ...]
    note: str | None = None


@dataclass(frozen=True)
class Costs:
    """One matrix's admitted candidates and what each counts against the budget."""

    name: str
    candidates: tuple[Candidate, ...]
    costs: FloatVector
    kls: FloatVector


def allocate(sensitivities: Sequence[Sensitivity], budget: Budget, fixed_bytes: int = 0) -> Allocation:
    """The formats of least predicted KL within the budget, which is never exceeded.

    `fixed_bytes` is what the file holds beside the matrices. With `budget.max_kl`: the smallest file that keeps to it;
    where none within the bytes does, the one of least KL, and `note` says so. Bytes left over go to wider types of no
    more KL. With neither limit every matrix gets its best candidate.
    Raises InputError, naming the smallest possible file, where nothing fits.
    """
    if not sensitivities:
        raise InputError("the checkpoint has no matrix to quantise")
    if budget.max_bytes is not None and budget.max_bpw is not None:
        raise InputError("a size and bits per weight exclude each other: give one of the two")
    matrices = [costs_of(sensitivity, budget) for sensitivity in sensitivities]
    kept = [undominated(matrix.costs, matrix.kls) for matrix in matrices]
    items = Items(
        tuple(matrix.costs[index] for matrix, index in zip(matrices, kept, strict=True)),
        tuple(matrix.kls[index] for matrix, index in zip(matrices, kept, strict=True)),
    )
    limit = limit_of(sensitivities, budget, fixed_bytes)
    smallest = items.cost([0] * len(matrices))
    if smallest > limit:
        raise _impossible(sensitivities, budget, smallest, fixed_bytes)
    picks, note = _solve(items, limit, budget.max_kl)
    chosen = [int(index[pick]) for index, pick in zip(kept, picks, strict=True)]
    if math.isfinite(limit) and (budget.max_kl is None or note is not None):
        chosen = _fill(matrices, chosen, limit)
    result = [matrix.candidates[index] for matrix, index in zip(matrices, chosen, strict=True)]
    return Allocation(
        formats={matrix.name: candidate.format for matrix, candidate in zip(matrices, result, strict=True)},
        bytes=fixed_bytes + sum(candidate.bytes for candidate in result),
        kl=math.fsum(candidate.kl for candidate in result),
        curve=frontier(sensitivities, fixed_bytes, budget.formats),
        note=note,
    )


def require_possible(tensors: Sequence[TensorSpec], budget: Budget, fixed_bytes: int = 0) -> None:
    """Raise `allocate`'s InputError of an impossible budget from shapes alone, before anything is measured."""
    table = table_of_shapes(tensors, budget)
    smallest = math.fsum(costs_of(sensitivity, budget).costs.min() for sensitivity in table)
    if smallest > limit_of(table, budget, fixed_bytes):
        raise _impossible(table, budget, smallest, fixed_bytes)


def table_of_shapes(tensors: Sequence[TensorSpec], budget: Budget) -> list[Sensitivity]:
    """What the error table will be, but for the KLs, which are 0."""
    return [
        Sensitivity(
            name=tensor.name,
            role=tensor.role,
            layer=tensor.layer,
            candidates=tuple(
                Candidate(format.name, budget.container.stored_bytes(format, tensor.shape), 0.0)
                for format in carried_formats(
                    budget.formats or candidate_formats(container=budget.container), tensor.shape[1]
                )
            ),
            shape=(tensor.shape[0], tensor.shape[1]),
        )
        for tensor in tensors
    ]


def uniform(
    tensors: Sequence[TensorSpec], format: str, fixed_bytes: int = 0, container: Container = GGUF
) -> Allocation:
    """One format for every matrix that can carry it; others take what stands in for it (`fallback`): `note` says so.

    `tensors` are the checkpoint's matrices. No statistics are needed, so the KL is None.
    """
    chosen = {tensor.name: fallback(format, tensor.shape[1]) for tensor in tensors}
    others = {name: taken.name for name, taken in chosen.items() if taken.name != format_of(format).name}
    return Allocation(
        formats={name: taken.name for name, taken in chosen.items()},
        bytes=fixed_bytes + sum(container.stored_bytes(chosen[tensor.name], tensor.shape) for tensor in tensors),
        kl=None,
        curve=(),
        note=_fallback_note(format, others, len(chosen)) if others else None,
    )


def frontier(
    sensitivities: Sequence[Sensitivity], fixed_bytes: int = 0, formats: tuple[str, ...] = ()
) -> tuple[CurvePoint, ...]:
    """About 40 plans on the lower convex hull of file bytes and predicted KL, from the smallest file to the best."""
    matrices = [costs_of(sensitivity, Budget(formats=formats)) for sensitivity in sensitivities]
    kept = [undominated(matrix.costs, matrix.kls) for matrix in matrices]
    items = Items(
        tuple(matrix.costs[index] for matrix, index in zip(matrices, kept, strict=True)),
        tuple(matrix.kls[index] for matrix, index in zip(matrices, kept, strict=True)),
    )
    start, steps = [0] * len(matrices), walk(items)
    costs = items.cost(start) + np.concatenate(([0.0], np.cumsum(steps.cost)))
    kls = items.value(start) - np.concatenate(([0.0], np.cumsum(steps.gain)))
    shown = np.unique(np.searchsorted(costs, np.linspace(costs[0], costs[-1], CURVE_POINTS)))
    return tuple(CurvePoint(fixed_bytes + int(costs[i]), max(float(kls[i]), 0.0)) for i in shown)


def costs_of(sensitivity: Sensitivity, budget: Budget) -> Costs:
    """The candidates that the budget admits."""
    candidates = admitted(sensitivity, budget.formats)
    if budget.max_bpw is None:
        costs = [candidate.bytes for candidate in candidates]
    else:  # bits per weight are counted without the padding
        costs = [budget.container.bytes(format_of(candidate.format), sensitivity.shape) for candidate in candidates]
    kls = np.array([candidate.kl for candidate in candidates], dtype=np.float64)
    return Costs(sensitivity.name, candidates, np.array(costs, dtype=np.float64), kls)


def admitted(sensitivity: Sensitivity, formats: tuple[str, ...]) -> tuple[Candidate, ...]:
    """The candidates of those names; all, where none of them carries the matrix and others stand in.

    Raises InputError where a KL is not a finite number.
    """
    if not all(math.isfinite(candidate.kl) for candidate in sensitivity.candidates):
        raise InputError(f'the predicted KL of "{sensitivity.name}" is not a finite number: the calibration failed')
    named = tuple(candidate for candidate in sensitivity.candidates if candidate.format in formats)
    if not named and formats and sensitivity.shape[1]:
        stand_ins = {fallback(name, sensitivity.shape[1]).name for name in formats}
        named = tuple(candidate for candidate in sensitivity.candidates if candidate.format in stand_ins)
    return named or sensitivity.candidates


def limit_of(sensitivities: Sequence[Sensitivity], budget: Budget, fixed_bytes: int) -> float:
    """What the matrices may take, in the unit of `Costs.costs`."""
    if budget.max_bpw is not None:
        return float(math.floor(budget.max_bpw * _weights(sensitivities) / 8))
    return math.inf if budget.max_bytes is None else float(budget.max_bytes - fixed_bytes)


def _weights(sensitivities: Sequence[Sensitivity]) -> int:
    return sum(rows * columns for rows, columns in (sensitivity.shape for sensitivity in sensitivities))


def _impossible(
    sensitivities: Sequence[Sensitivity],
    budget: Budget,
    smallest: float,
    fixed_bytes: int,
) -> InputError:
    if budget.max_bpw is not None:
        least = math.ceil(smallest * 8 / _weights(sensitivities) * 1000) / 1000
        return InputError(
            f"{budget.max_bpw:g} bits per weight are too few: these types take at least {least:.3f} on this model: "
            "raise --bpw"
        )
    return InputError(
        f"{budget.max_bytes:,} bytes are too few: the smallest file for this model and these types "
        f"is {fixed_bytes + int(smallest):,} bytes: raise --size (with --device, lower --tps) or allow narrower types"
    )


def _solve(items: Items, limit: float, max_kl: float | None) -> tuple[tuple[int, ...], str | None]:
    """The picks, and a note where the KL limit could not be met."""
    if max_kl is not None:
        for margin in (1.0, 1 - ROUNDING):  # the solver's own sum may be off in the last digits
            smallest = solve(items.reversed(), max_kl * margin)
            if smallest is None:
                break
            picks = tuple(len(costs) - 1 - pick for costs, pick in zip(items.costs, smallest.picks, strict=True))
            if items.cost(picks) <= limit and items.value(picks) <= max_kl:
                return picks, None
    if math.isinf(limit):
        best = tuple(len(costs) - 1 for costs in items.costs)
    else:
        found = solve(items, limit)
        assert found is not None  # the caller has seen that the smallest choices fit
        best = found.picks
    kl = items.value(best)
    if max_kl is None or kl <= max_kl:
        return best, None
    return best, f"no plan within the budget keeps to a KL of {max_kl:g}: the best that fits is predicted at {kl:.4g}"


def _fill(matrices: Sequence[Costs], chosen: Sequence[int], limit: float) -> list[int]:
    """Spend what is left on wider candidates of no more KL, the greatest gain first."""
    filled = list(chosen)
    room = limit - math.fsum(matrix.costs[index] for matrix, index in zip(matrices, filled, strict=True))
    while True:
        upgrades = []
        for item, matrix in enumerate(matrices):
            more = matrix.costs - matrix.costs[filled[item]]
            gain = matrix.kls[filled[item]] - matrix.kls
            upgrades += [
                (gain[c], more[c], -item, c) for c in np.flatnonzero((more > 0) & (more <= room) & (gain >= 0))
            ]
        if not upgrades:
            return filled
        _, more_bytes, negative_item, candidate = max(upgrades)
        filled[-negative_item] = int(candidate)
        room -= more_bytes


def _fallback_note(format: str, others: dict[str, str], count: int) -> str:
    taken = ", ".join(sorted(set(others.values())))
    return f"{len(others)} of {count} matrices take {taken}: {format_of(format).name} cannot carry their rows"
