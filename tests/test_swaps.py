"""Measured swaps against a model of the world whose true KLs differ from the table's by a factor per role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.calibrating import Calibrated
from edgekit.clock import Clock
from edgekit.measuring import Rounded
from edgekit.models.checkpoint import open_checkpoint
from edgekit.planning import Planned, swapped
from edgekit.quant.allocation import allocate, costs_of
from edgekit.quant.candidates import candidate_formats, carried_formats
from edgekit.quant.containers import GGUF
from edgekit.quant.plan import Budget, Candidate, Plan, Sensitivity, predicted_kl
from edgekit.quant.rounding import Refinement
from edgekit.quant.swaps import measured_swaps, propose

ROLES = ("embedding", "q", "k", "v", "o", "gate", "up", "down")
SHAPES = {"embedding": (4096, 256), "gate": (768, 256), "up": (768, 256), "down": (256, 768)}


def table_of(seed: int, layers: int = 6) -> list[Sensitivity]:
    generator = np.random.default_rng(seed)
    rows = []
    for layer in range(layers):
        for role in ROLES if layer == 0 else ROLES[1:]:
            shape = SHAPES.get(role, (256, 256))
            scale = 10 ** generator.normal(-2, 0.5) * shape[0] * shape[1] / 1e5
            candidates = [
                Candidate(
                    f.name, GGUF.stored_bytes(f, shape), scale * 4.0**-f.bits_per_weight * generator.uniform(0.7, 1.4)
                )
                for f in carried_formats(candidate_formats(), shape[1])
            ]
            candidates.sort(key=lambda c: (c.bytes, c.kl))
            rows.append(Sensitivity(f"{layer}.{role}", role, layer, tuple(candidates), shape))
    return rows


class World:
    """True KLs: the table's times a factor per role, spread over tokens; every measurement is counted."""

    def __init__(self, table: list[Sensitivity], factors: Mapping[str, float], tokens: int = 1024) -> None:
        self.true = {
            (s.name, c.format): c.kl * factors.get(s.role, 1.0) for s in table for c in s.candidates
        }  # fmt: skip
        generator = np.random.default_rng(1)
        spread = generator.exponential(1.0, (tokens, 1)) * generator.exponential(1.0, (tokens, len(table)))
        self.spread = dict(zip([s.name for s in table], (spread / spread.mean(axis=0)).T, strict=True))
        self.measured: list[dict[str, str]] = []

    def __call__(self, formats: Mapping[str, str]) -> NDArray[np.float64]:
        self.measured.append(dict(formats))
        return np.sum([self.spread[name] * self.true[name, format] for name, format in formats.items()], axis=0)

    def kl(self, formats: Mapping[str, str]) -> float:
        return sum(self.true[choice] for choice in formats.items())

    def table(self, table: list[Sensitivity]) -> list[Sensitivity]:
        return [
            replace(s, candidates=tuple(replace(c, kl=self.true[s.name, c.format]) for c in s.candidates))
            for s in table
        ]


def cost(table: list[Sensitivity], formats: Mapping[str, str], budget: Budget) -> float:
    costs = [costs_of(sensitivity, budget) for sensitivity in table]
    return sum(m.costs[[c.format for c in m.candidates].index(formats[m.name])] for m in costs)


@pytest.mark.parametrize("budget", [Budget(max_bytes=4_400_100), Budget(max_bpw=5.7)], ids=["bytes", "bpw"])
@pytest.mark.parametrize("seed", range(5))
def test_a_table_with_wrong_roles_is_corrected(seed: int, budget: Budget) -> None:
    """About half or more of what an allocation by the true KLs would gain is found within six measurements."""
    table = table_of(seed)
    world = World(table, {"down": 4.0, "k": 0.3})
    plan = allocate(table, budget, 100)
    found = measured_swaps(table, plan.formats, budget, world, fixed_bytes=100)
    assert len(found.tried) <= 6 and len(world.measured) == 1 + len(found.tried)  # the plan itself is measured once
    kept = [swap for swap in found.tried if swap.kept]
    assert kept and kept[-1].formats == found.formats
    before, after, best = world.kl(plan.formats), world.kl(found.formats), allocate(world.table(table), budget, 100).kl
    assert best is not None and best * (1 - 1e-9) <= after < before - 0.45 * (before - best)
    assert found.kl == pytest.approx(after, rel=1e-9) == pytest.approx(kept[-1].measured)
    if budget.max_bytes is not None:
        assert cost(table, found.formats, budget) <= budget.max_bytes - 100
    else:
        assert 8 * cost(table, found.formats, budget) <= 5.7 * sum(s.shape[0] * s.shape[1] for s in table)
    for swap in found.tried:
        assert swap.predicted == predicted_kl(table, swap.formats)
        assert swap.measured == pytest.approx(world.kl(swap.formats))


@pytest.mark.parametrize("seed", range(5))
def test_a_true_table_is_left_alone(seed: int) -> None:
    """The plan is the best there is, and what a swap seems to gain is noise."""
    table, budget = table_of(seed), Budget(max_bytes=4_400_000)
    plan = allocate(table, budget)
    found = measured_swaps(table, plan.formats, budget, World(table, {}))
    assert found.formats == plan.formats and not any(swap.kept for swap in found.tried)
    assert found.kl == pytest.approx(plan.kl)


def test_a_gain_within_the_noise_is_not_kept() -> None:
    table, budget = table_of(0), Budget(max_bytes=4_400_000)
    plan, world = allocate(table, budget), World(table, {"down": 4.0})

    def noisy(formats: Mapping[str, str]) -> NDArray[np.float64]:
        return world(formats) + np.random.default_rng(len(world.measured)).normal(0, 50 * plan.kl, 1024)

    assert not any(swap.kept for swap in measured_swaps(table, plan.formats, budget, noisy).tried)


def test_the_number_of_probes_is_bounded_and_without_a_limit_nothing_grows() -> None:
    table = table_of(1)
    plan, world = allocate(table, Budget(max_bytes=4_200_000)), World(table, {"gate": 5.0})
    found = measured_swaps(table, plan.formats, Budget(), world, probes=2)
    assert len(found.tried) <= 2 and len(world.measured) == 1 + len(found.tried)
    assert cost(table, found.formats, Budget()) <= cost(table, plan.formats, Budget())
    assert measured_swaps(table, plan.formats, Budget(), world, probes=0).formats == plan.formats


def test_proposals_move_one_role_against_the_others() -> None:
    table, budget = table_of(2), Budget(max_bytes=4_400_000)
    formats = allocate(table, budget).formats
    costs = [costs_of(sensitivity, budget) for sensitivity in table]
    proposals = dict(propose(table, costs, formats, 4_400_000))
    assert len(proposals) > len(ROLES)
    role_of, size = {s.name: s.role for s in table}, {(s.name, c.format): c.bytes for s in table for c in s.candidates}
    least = predicted_kl(table, formats)
    assert least is not None
    for what, proposed in proposals.items():
        role, direction = what.split()
        changed = {name for name, format in proposed.items() if format != formats[name]}
        wider = {name for name in changed if size[name, proposed[name]] > size[name, formats[name]]}
        own = {name for name in changed if role_of[name] == role}
        assert own and own == (wider if direction == "wider" else changed - wider)
        assert cost(table, proposed, budget) <= 4_400_000
        assert (predicted_kl(table, proposed) or 0.0) >= least * (1 - 1e-9)


def test_a_single_matrix_leaves_nothing_to_swap() -> None:
    table = table_of(3)[:1]
    plan = allocate(table, Budget(max_bytes=700_000))
    found = measured_swaps(table, plan.formats, Budget(max_bytes=700_000), World(table, {}))
    assert found.tried == () and found.formats == plan.formats


def test_the_line_takes_the_swapped_plan_and_shows_what_was_tried() -> None:
    table, budget = tuple(table_of(1)), Budget(max_bytes=4_400_100)
    world = World(list(table), {"down": 4.0, "k": 0.3})

    class Measured:
        def tokens(self, formats: Mapping[str, str], *, refinement: Refinement) -> NDArray[np.float64]:
            assert refinement is Refinement.GPTQ  # codes alone are refined at the end, of the plan that is taken
            return world(formats)

        def __call__(self, formats: Mapping[str, str]) -> float:
            return world.kl(formats)

    choice = allocate(table, budget, 100)
    plan = Plan("0" * 64, choice.formats, choice.bytes, choice.kl, table, choice.curve, fixed_bytes=100, budget=budget)
    rounded = Rounded(open_checkpoint(Path(__file__).parent / "assets" / "sample"))
    calibrated = Calibrated(table, (), rounded, Measured(), "0" * 64)  # type: ignore[arg-type]
    found = swapped(Planned(plan, rounded, world.kl(plan.formats)), budget, calibrated, Clock())
    assert found.plan.formats != plan.formats and found.plan.bytes <= 4_400_100
    assert found.plan.bytes == 100 + cost(list(table), found.plan.formats, Budget())
    assert found.kld_measured == world.kl(found.plan.formats) < world.kl(plan.formats)
    assert found.plan.kld_predicted == predicted_kl(table, found.plan.formats)
    assert 0 < len(found.plan.measured) <= 6
    assert all(
        m.what.startswith("plan, ") and m.bytes is not None and m.bytes <= 4_400_100 for m in found.plan.measured
    )
