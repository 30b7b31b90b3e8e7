"""What each step is worth: which files are compared, and that the last of them is the plan's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from edgekit.ablation import ablation, best_uniform, steps
from edgekit.clock import Clock
from edgekit.planning import Planned
from edgekit.quant.containers import GGUF, ONNX
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Budget, Candidate, Plan, Sensitivity, priced
from edgekit.quant.rounding import Refinement
from edgekit.recovery import Recovery

SHAPES = {"a": (64, 512), "b": (32, 256)}
FIXED = 1000
KLS = {"q4_0": 0.4, "iq4_nl": 0.3, "q4_k": 0.31, "q5_0": 0.1, "q8_0": 0.001}


def sensitivity(name: str, columns: int | None = None) -> Sensitivity:
    rows, width = SHAPES[name]
    shape = (rows, columns or width)
    formats = [format_of(each) for each in KLS if format_of(each).carries(shape[1])]
    candidates = (Candidate(each.name, GGUF.stored_bytes(each, shape), KLS[each.name]) for each in formats)
    return Sensitivity(name, "q", 0, tuple(sorted(candidates, key=lambda c: c.bytes)), shape)


def plan(budget: Budget, **formats: str) -> Plan:
    table = tuple(map(sensitivity, SHAPES))
    size = FIXED + sum(GGUF.stored_bytes(format_of(formats[name]), SHAPES[name]) for name in formats)
    return Plan("", formats, size, 0.1, table, (), fixed_bytes=FIXED, budget=replace(budget, formats=tuple(KLS)))


def all_in(format: str) -> int:
    return FIXED + sum(GGUF.stored_bytes(format_of(format), shape) for shape in SHAPES.values())


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(max_bytes=all_in("q8_0")), "q8_0"),
        (Budget(max_bytes=all_in("q8_0") - 1), "q5_0"),
        (Budget(max_bytes=all_in("q5_0") - 1), "iq4_nl"),  # three of that width: the least predicted KL
        (Budget(max_bpw=5.5), "q5_0"),
        (Budget(max_bpw=5.49), "iq4_nl"),
        (Budget(max_bytes=all_in("q8_0"), max_kl=0.3), "iq4_nl"),  # the plan's own bytes count
        (Budget(), "iq4_nl"),
    ],
)
def test_the_best_uniform_type_fits_the_budget(budget: Budget, expected: str) -> None:
    made = plan(budget, a="q5_0", b="q4_k")
    assert best_uniform(made) == {"a": expected, "b": expected}


def test_where_no_type_fits_there_is_no_plain_row() -> None:
    made = plan(Budget(max_bytes=all_in("q4_0") - 1), a="q4_0", b="q4_0")
    assert best_uniform(made) is None
    assert [step.name for step in steps(made)] == ["+ allocation", "+ GPTQ", "+ descent"]


def test_rows_that_a_type_cannot_carry_take_its_stand_in() -> None:
    """For rows of 288 that is iq4_nl in place of q4_k."""
    made = plan(Budget(max_bytes=all_in("q4_0") + 4000), a="q4_k", b="q4_k")
    made = replace(made, sensitivities=(sensitivity("a"), sensitivity("b", 288)))
    assert best_uniform(made) == {"a": "iq4_nl", "b": "iq4_nl"}
    without = replace(made, budget=replace(made.budget or Budget(), formats=("q4_k", "q8_0")))
    assert best_uniform(without) == {"a": "q4_k", "b": "iq4_nl"}


def test_steps_lead_from_one_type_to_the_plan() -> None:
    made = plan(Budget(max_bytes=all_in("q5_0")), a="q4_k", b="q8_0")
    found = list(steps(made))
    assert [step.name for step in found] == ["plain", "+ allocation", "+ GPTQ", "+ descent"]
    assert [step.refinement for step in found] == [None, Refinement.NONE, Refinement.GPTQ, Refinement.DESCENT]
    assert found[0].formats == {"a": "q5_0", "b": "q5_0"} and found[0].bytes == all_in("q5_0")
    assert all(step.formats == made.formats and step.bytes == made.bytes for step in found[1:])


def test_a_uniform_plan_has_no_allocation_and_a_plan_without_a_table_no_steps() -> None:
    made = plan(Budget(), a="q5_0", b="q5_0")
    assert [step.name for step in steps(made)] == ["plain", "+ weights", "+ GPTQ", "+ descent"]
    assert list(steps(replace(made, sensitivities=()))) == []


def test_a_plan_for_onnx_is_compared_in_its_bytes() -> None:
    """Q8_0 fits in GGUF's 8.5 bits, and takes 9 there."""
    weights = sum(rows * columns for rows, columns in SHAPES.values())
    for bits, expected in ((9.0, "q8_0"), (8.9, "q4_0")):
        for budget in (Budget(max_bpw=bits), Budget(max_bytes=FIXED + int(bits * weights / 8))):
            made = plan(replace(budget, container=ONNX), a="q4_0", b="q4_0")
            made = replace(
                made,
                sensitivities=priced(made.sensitivities, ONNX),
                budget=replace(made.budget or Budget(), formats=("q4_0", "q8_0")),
                bytes=FIXED + 5 * weights // 8,
            )
            assert best_uniform(made) == {"a": expected, "b": expected}
            plain = next(steps(made))
            assert plain.bytes == FIXED + {"q4_0": 5, "q8_0": 9}[expected] * weights // 8


class Measured:
    """A measure that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, str], Refinement | None]] = []

    def __call__(self, formats: Mapping[str, str], *, refinement: Refinement | None) -> float:
        self.asked.append((dict(formats), refinement))
        return 1 / len(self.asked)


def test_three_are_measured_and_the_last_is_the_plans_own() -> None:
    made, measure, clock = plan(Budget(max_bytes=all_in("q5_0")), a="q4_k", b="q8_0"), Measured(), Clock()
    planned = Planned(made, rounded=None, kld_measured=0.01, measure=measure)  # type: ignore[arg-type]
    assert [row.kl for row in ablation(planned, None, clock)] == [1, 1 / 2, 1 / 3, 0.01]
    assert [refinement for _, refinement in measure.asked] == [None, Refinement.NONE, Refinement.GPTQ]
    assert "ablation" in clock.seconds
    weights: Any = None
    row = ablation(planned, Recovery(weights, 0.008, "", {"kld_before": 0.012}), clock)[-1]
    assert (row.step, row.kl, row.bytes) == ("+ distillation", 0.008, made.bytes)
    assert "0.0120 before" in row.what
    assert ablation(replace(planned, measure=None), None, clock) == ()
