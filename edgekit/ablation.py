"""What each step is worth: the KL of the same budget's file with one more step at a time, measured like the plan's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgekit.clock import Clock
from edgekit.figures import kl_text
from edgekit.planning import Planned
from edgekit.quant.allocation import limit_of
from edgekit.quant.candidates import candidate_formats, fallback
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Budget, Plan, predicted_kl
from edgekit.quant.rounding import Refinement
from edgekit.recovery import Recovery
from edgekit.report import AblationRow


@dataclass(frozen=True)
class Step:
    """A file: the types of its matrices, how they are rounded (None: without statistics), and its bytes."""

    name: str  # "+ GPTQ"
    what: str
    formats: Mapping[str, str]
    refinement: Refinement | None
    bytes: int


def steps(plan: Plan) -> Iterator[Step]:
    """From the best uniform type, rounded to nearest, to the plan as it is rounded; none for a plan without a table."""
    if not plan.sensitivities:
        return
    everywhere = best_uniform(plan)
    if everywhere is not None:
        names = " and ".join(sorted(name.upper() for name in set(everywhere.values())))
        yield Step("plain", f"{names} everywhere, to nearest", everywhere, None, _bytes(plan, everywhere))
    weighted = "+ weights" if everywhere == plan.formats else "+ allocation"
    types = "the same" if everywhere == plan.formats else "the plan's"
    for name, what, refinement in (
        (weighted, f"{types} types, to nearest with weighted errors", Refinement.NONE),
        ("+ GPTQ", "later weights make up for errors", Refinement.GPTQ),
        ("+ descent", "scales, minima and codes, fitted on all windows", Refinement.DESCENT),
    ):
        yield Step(name, what, plan.formats, refinement, plan.bytes)


def best_uniform(plan: Plan) -> dict[str, str] | None:
    """Of the types that fit the plan's budget in all matrices, the one of least predicted KL; None where none does.

    A budget without a size, or one that a KL limit rules, counts as the plan's own bytes.
    """
    budget, table = plan.budget or Budget(), plan.sensitivities
    by_bits = budget.max_bpw is not None
    if by_bits or (budget.max_bytes is not None and budget.max_kl is None):
        limit = limit_of(table, budget, plan.fixed_bytes)
    else:
        limit = _cost(plan, plan.formats, by_bits)
    fitting = []
    for name in budget.formats or candidate_formats(container=budget.container):
        formats = {s.name: fallback(name, s.shape[1]).name for s in table}
        kl = predicted_kl(table, formats)
        if kl is not None and _cost(plan, formats, by_bits) <= limit:
            fitting.append((kl, name, formats))
    return min(fitting)[2] if fitting else None


def ablation(planned: Planned, distillation: Recovery | None, clock: Clock) -> tuple[AblationRow, ...]:
    """The rows of a plan that was measured, with what distillation made of it where there was one; else none.

    At most three measurements: the last step's is the plan's own, and distillation brings one on its own windows.
    """
    measure, rows = planned.measure, list[AblationRow]()
    if measure is None or planned.kld_measured is None:
        return ()
    with clock.stage("ablation"):
        for step in steps(planned.plan):
            own = step.refinement is Refinement.DESCENT
            kl = planned.kld_measured if own else measure(step.formats, refinement=step.refinement)
            rows.append(AblationRow(step.name, step.what, step.bytes, kl))
    if distillation is not None:
        what = f"on windows of its own, {kl_text(distillation.figures['kld_before'])} before it"
        rows.append(AblationRow("+ distillation", what, planned.plan.bytes, distillation.kld_measured))
    return tuple(rows)


def _bytes(plan: Plan, formats: Mapping[str, str]) -> int:
    """The whole file's."""
    return plan.fixed_bytes + int(_cost(plan, formats, by_bits=False))


def _cost(plan: Plan, formats: Mapping[str, str], by_bits: bool) -> float:
    """What `limit_of` limits: bytes of the matrices in the file, or by bits, without padding."""
    size = plan.container.bytes if by_bits else plan.container.stored_bytes
    return float(sum(size(format_of(formats[s.name]), s.shape) for s in plan.sensitivities))
