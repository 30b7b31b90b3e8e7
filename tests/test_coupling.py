"""Rows that make up for each other's errors, against the dense definition of the KL that their blocks lower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rounding_oracle import allowed_levels, parts_of
from rounding_oracle import compensated as dense_compensated

from edgekit.quant import coupling
from edgekit.quant.compensation import compensated, descended, row_groups
from edgekit.quant.coupling import DAMPING, noise_left, outer_hessian
from edgekit.quant.formats import format_of
from edgekit.quant.quadratic import quadratic_kl
from edgekit.quant.rounding import Refinement, round_tensor, round_to_nearest
from edgekit.quant.statistics import KroneckerTerm, MatrixStatistics, RowCorrelation


def make_matrix(rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, MatrixStatistics]:
    """Inputs that depend on one another, and gradients that do; what is held out comes from the same."""
    generator = np.random.default_rng(seed)
    values = (0.02 * generator.standard_t(5, (rows, columns))).astype(np.float32)

    def mixing(width: int) -> np.ndarray:
        return generator.standard_normal((width, width)) * generator.lognormal(0, 0.5, width)

    def moments(mixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = (generator.standard_normal((16 * len(mixed), len(mixed))) @ mixed for _ in range(2))
        fitted, held_out = ((x.T @ x / len(x)).astype(np.float32) for x in drawn)
        return fitted, held_out

    columns_of, outer = moments(mixing(columns)), moments(mixing(rows))
    weights = (1e-4 * np.diagonal(outer[0])).astype(np.float32)
    correlation = RowCorrelation(*(o / np.sqrt(np.outer(np.diagonal(o), np.diagonal(o))) for o in outer))
    return values, MatrixStatistics("m", (KroneckerTerm(weights, columns_of[0]),), (columns_of[1],), correlation)


def dense_outer(statistics: MatrixStatistics, correlation: np.ndarray) -> np.ndarray:
    roots = np.sqrt(statistics.terms[0].rows.astype(np.float64))
    return correlation * np.outer(roots, roots)


def dense_kl(error: np.ndarray, outer: np.ndarray, columns: np.ndarray) -> float:
    """vec(E)^T (O x C) vec(E) / 2 by the definition."""
    total = 0.0
    for n in range(len(error)):
        for m in range(len(error)):
            total += 0.5 * outer[n, m] * float(error[n] @ columns.astype(np.float64) @ error[m])
    return total


def test_the_outer_hessian() -> None:
    _, statistics = make_matrix(20, 32)
    assert statistics.correlation is not None
    exact = dense_outer(statistics, statistics.correlation.fitted)
    exact += DAMPING * np.trace(exact) / 20 * np.eye(20)
    found = outer_hessian(statistics.terms[0].rows, statistics.correlation.fitted)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-7 * exact.max())
    np.testing.assert_array_equal(outer_hessian(np.zeros(3, np.float32), np.eye(3, dtype=np.float32)), np.eye(3))


def test_the_predicted_kl_counts_pairs_of_rows() -> None:
    values, statistics = make_matrix(12, 64)
    assert statistics.correlation is not None
    format = format_of("q4_0")
    blocks = round_to_nearest(values, format, statistics.importance())
    error = format.decode(blocks).astype(np.float64) - values
    outer = dense_outer(statistics, statistics.correlation.held_out)
    exact = dense_kl(error, outer, statistics.held_out[0])
    assert quadratic_kl(values, format, blocks, statistics).sum() == pytest.approx(exact, rel=1e-4)
    some = np.array([1, 4, 7])
    part = quadratic_kl(values[some], format, blocks[some], statistics.of_rows(some)).sum()
    assert part == pytest.approx(dense_kl(error[some], outer[np.ix_(some, some)], statistics.held_out[0]), rel=1e-4)


def test_white_noise_is_shaped_by_feedback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn: each block's own noise, and what the least of the whole, dense, makes of the blocks before it."""
    monkeypatch.setattr(coupling, "ROWS_AT_ONCE", 8)
    _, statistics = make_matrix(20, 32)
    assert statistics.correlation is not None
    rows = statistics.terms[0].rows
    outer = outer_hessian(rows, statistics.correlation.fitted).astype(np.float64)
    judge = dense_outer(statistics, statistics.correlation.held_out)
    noise = np.random.default_rng(4).standard_normal((20, 100_000))
    errors = np.zeros_like(noise)
    for start in range(0, 20, 8):
        here, left, done = slice(start, min(start + 8, 20)), slice(start, 20), slice(0, start)
        moved = np.linalg.solve(outer[left, left], outer[left, done] @ errors[done])[: here.stop - start]
        errors[here] = noise[here] - moved
    exact = np.vdot(judge @ errors, errors) / np.vdot(judge @ noise, noise)
    assert noise_left(outer.astype(np.float32), judge.astype(np.float32)) == pytest.approx(exact, rel=0.02)
    assert exact < 0.9
    apart = outer_hessian(rows, np.eye(20, dtype=np.float32))
    assert noise_left(apart, judge.astype(np.float32)) == pytest.approx(1.0, rel=1e-6)
    assert noise_left(apart, np.zeros((20, 20), np.float32)) == 1.0


@pytest.mark.parametrize("name", ["q4_0", "q5_1", "iq4_nl"])
def test_each_block_of_rows_is_compensated_for_those_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No factor of O: a dense solution for the rows still to come, at every block."""
    monkeypatch.setattr(coupling, "ROWS_AT_ONCE", 8)
    values, statistics = make_matrix(30, 64)
    assert statistics.correlation is not None
    format = format_of(name)
    plain = round_to_nearest(values, format, statistics.importance())
    other = format_of("q8_0")
    nearest = round_to_nearest(values, other, statistics.importance())
    found, beside = compensated(values, [(format, plain), (other, nearest)], statistics)
    np.testing.assert_array_equal(beside, compensated(values, [(other, nearest)], statistics)[0])
    outer = outer_hessian(statistics.terms[0].rows, statistics.correlation.fitted).astype(np.float64)
    (group,) = row_groups(statistics)
    order, _ = group.order_and_factor()
    errors = format.decode(found).astype(np.float64) - values
    for start in range(0, 30, 8):
        here, left, done = slice(start, min(start + 8, 30)), slice(start, 30), slice(0, start)
        moved = np.linalg.solve(outer[left, left], outer[left, done] @ errors[done])[: here.stop - start]
        wanted = values[here] - moved
        expected = dense_compensated(format, wanted, plain[here], group.hessian.astype(np.float64), order)
        assert np.mean(parts_of(format, found[here]).level != expected) < 2e-3  # float32 ties


def test_descent_ends_where_no_code_can_be_bettered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row, until nothing changes: no code one level up or down lowers the whole."""
    monkeypatch.setattr(coupling, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(coupling, "PASSES", 30)
    values, statistics = make_matrix(6, 32)
    assert statistics.correlation is not None
    format = format_of("q4_0")
    plain = round_to_nearest(values, format, statistics.importance())
    parts = parts_of(format, descended(values, format, plain, statistics))
    outer = outer_hessian(statistics.terms[0].rows, statistics.correlation.fitted).astype(np.float64)
    (group,) = row_groups(statistics)
    least = dense_kl(np.stack([parts.decoded(n) for n in range(6)]) - values, outer, group.hessian)
    for n in range(6):
        for k in range(32):
            for step in (-1, 1):
                parts.level[n, k] += step
                if parts.level[n, k] in allowed_levels(format):
                    kl = dense_kl(np.stack([parts.decoded(m) for m in range(6)]) - values, outer, group.hessian)
                    assert kl > least * (1 - 1e-5)
                parts.level[n, k] -= step


@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q4_k", "q6_k"])
@pytest.mark.parametrize("strength", [1.0, 0.999])
def test_the_whole_never_rises(name: str, strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a block do not see one another: where all are one and the same, only the check holds them back."""
    values, statistics = make_matrix(100, 256, seed=1)
    assert statistics.correlation is not None
    alike = np.full((100, 100), strength, np.float32)
    np.fill_diagonal(alike, 1)
    hard = replace(statistics, correlation=RowCorrelation(alike, alike))
    monkeypatch.setattr(coupling, "PASSES", 1)
    for each in (statistics, hard):
        assert each.correlation is not None
        format = format_of(name)
        outer = outer_hessian(each.terms[0].rows, each.correlation.fitted).astype(np.float64)
        (group,) = row_groups(each)
        blocks, before = round_to_nearest(values, format, each.importance()), np.inf
        for _ in range(4):
            error = format.decode(blocks).astype(np.float64) - values
            now = float(np.vdot(outer @ error, error @ group.hessian))
            assert now <= before * (1 + 1e-6)
            blocks, before = descended(values, format, blocks, each), now


@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q5_1", "q6_k"])
def test_rows_that_are_felt_together_are_worth_knowing(name: str) -> None:
    values, statistics = make_matrix(128, 256)
    format = format_of(name)
    apart = replace(statistics, correlation=None)
    plain = round_to_nearest(values, format, statistics.importance())
    (first,) = compensated(values, [(format, plain)], statistics)
    second = descended(values, format, first, statistics)
    (alone,) = compensated(values, [(format, plain)], apart)
    alone = descended(values, format, alone, apart)
    kls = [quadratic_kl(values, format, blocks, statistics).sum() for blocks in (plain, first, second, alone)]
    assert kls[2] < kls[1] < 0.9 * kls[0]
    assert kls[2] < 0.85 * kls[3]
    np.testing.assert_array_equal(round_tensor(values, format, statistics, refinement=Refinement.GPTQ), first)


def test_rows_without_gradient_still_round() -> None:
    values, statistics = make_matrix(70, 64)
    rows = statistics.terms[0].rows.copy()
    rows[:5] = 0
    for weights in (rows, np.zeros_like(rows)):
        term = replace(statistics.terms[0], rows=weights)
        format = format_of("q4_0")
        decoded = format.decode(round_tensor(values, format, replace(statistics, terms=(term,))))
        assert np.square(decoded - values).sum() < 0.05 * np.square(values).sum()
