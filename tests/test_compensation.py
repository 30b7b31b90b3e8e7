"""GPTQ and descent over whole matrices: groups of rows, Hessians and factors, the choice on what is held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rounding_oracle import compensated as dense_compensated
from rounding_oracle import parts_of

from edgekit import _native
from edgekit.models.errors import InputError
from edgekit.quant import compensation, rounding, row_sample
from edgekit.quant.compensation import DAMPING, LARGEST_PROPORTION, PROPORTION_STEP, compensated, descended, row_groups
from edgekit.quant.formats import FORMATS, Format, format_of
from edgekit.quant.quadratic import quadratic_kl
from edgekit.quant.rounding import Refinement, round_tensor, round_to_nearest
from edgekit.quant.statistics import KroneckerTerm, MatrixStatistics

BLOCK_FORMATS = tuple(format for format in FORMATS if format.unpack)


def make_matrix(
    rows: int, columns: int, terms: int, seed: int = 0, inputs: int | None = None
) -> tuple[np.ndarray, MatrixStatistics]:
    """Heavy-tailed weights; inputs that depend on one another; what is held out comes from the same inputs."""
    generator = np.random.default_rng(seed)
    values = (0.02 * generator.standard_t(5, (rows, columns))).astype(np.float32)
    mixings = [
        generator.standard_normal((columns, columns)) * generator.lognormal(0, 0.5, columns) for _ in range(terms)
    ]
    weights = [(1e-4 * generator.lognormal(0, 2, rows)).astype(np.float32) for _ in range(terms)]

    def moments(count: int) -> list[np.ndarray]:
        drawn = [generator.standard_normal((count, columns)) @ mixing for mixing in mixings]
        return [(x.T @ x / count).astype(np.float32) for x in drawn]

    fitted = moments(inputs or 4 * columns)
    held_out = moments(inputs or 4 * columns)
    terms_of = tuple(KroneckerTerm(w, c) for w, c in zip(weights, fitted, strict=True))
    return values, MatrixStatistics("m", terms_of, tuple(held_out))


def damped(hessian: np.ndarray) -> np.ndarray:
    return hessian + DAMPING * np.trace(hessian) / len(hessian) * np.eye(len(hessian))


def test_one_term_is_one_group() -> None:
    _, statistics = make_matrix(9, 64, 1)
    (group,) = row_groups(statistics)
    np.testing.assert_array_equal(group.rows, np.arange(9))
    np.testing.assert_allclose(group.hessian, damped(statistics.terms[0].columns.astype(np.float64)), rtol=1e-6)


def test_a_group_has_nearly_the_hessian_of_each_of_its_rows() -> None:
    _, statistics = make_matrix(300, 32, 2)
    head, lookup = statistics.terms
    head.rows[5], lookup.rows[6] = 0, 0
    head.rows[7] = lookup.rows[7] = 0
    groups = list(row_groups(statistics))
    assert len(groups) > 5
    assert sorted(np.concatenate([group.rows for group in groups]).tolist()) == list(range(300))
    for group in groups:
        found = group.hessian.astype(np.float64)
        for row in group.rows:
            exact = sum(float(t.rows[row]) * t.columns.astype(np.float64) for t in (head, lookup))
            if not exact.any():
                continue
            ratio = np.linalg.eigvals(np.linalg.solve(damped(exact), found)).real
            # the proportion of the two terms is off by a step at most, or it is beyond the largest
            assert ratio.max() / ratio.min() < np.exp(PROPORTION_STEP) * (1 + 2 / LARGEST_PROPORTION) ** 2


def test_the_factor_is_the_textbooks() -> None:
    _, statistics = make_matrix(3, 96, 1)
    (group,) = row_groups(statistics)
    order, factor = group.order_and_factor()
    diagonal = np.diagonal(group.hessian)
    assert np.all(np.diff(diagonal[order]) <= 0) and sorted(order.tolist()) == list(range(96))
    inverse = np.linalg.inv(group.hessian.astype(np.float64)[np.ix_(order, order)])
    np.testing.assert_allclose(factor, np.linalg.cholesky(inverse).T, atol=1e-5 * float(np.abs(factor).max()))


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=lambda format: format.name)
def test_every_row_is_compensated_under_its_groups_hessian(format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    values, statistics = make_matrix(20, 256, 2)
    plain = round_to_nearest(values, format, statistics.importance())
    other = format_of("q4_0")
    nearest = round_to_nearest(values, other, statistics.importance())
    found, beside = compensated(values, [(format, plain), (other, nearest)], statistics)
    np.testing.assert_array_equal(beside, compensated(values, [(other, nearest)], statistics)[0])
    monkeypatch.setattr(compensation, "CHUNK_WEIGHTS", 3 * 256)
    np.testing.assert_array_equal(found, compensated(values, [(format, plain)], statistics)[0])
    for group in row_groups(statistics):
        order, _ = group.order_and_factor()
        rows = group.rows
        expected = dense_compensated(
            format, values[rows].astype(np.float64), plain[rows], group.hessian.astype(np.float64), order
        )
        assert np.mean(parts_of(format, found[rows]).level != expected) < 1e-3  # float32 ties


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q4_k", "q5_1", "q6_k"])
def test_each_step_lowers_the_kl(name: str, terms: int) -> None:
    values, statistics = make_matrix(24, 256, terms)
    format = format_of(name)
    plain = round_to_nearest(values, format, statistics.importance())
    (first,) = compensated(values, [(format, plain)], statistics)
    second = descended(values, format, first, statistics)
    kls = [quadratic_kl(values, format, blocks, statistics).sum() for blocks in (plain, first, second)]
    assert kls[1] < 0.9 * kls[0] and kls[2] < 0.98 * kls[1]
    np.testing.assert_array_equal(round_tensor(values, format, statistics, refinement=Refinement.GPTQ), first)
    np.testing.assert_array_equal(round_tensor(values, format, statistics, refinement=Refinement.NONE), plain)


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q4_k", "q5_1", "q6_k"])
def test_descent_starts_twice_and_keeps_the_better_row(name: str, terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, statistics = make_matrix(40, 256, terms)
    format = format_of(name)
    plain = round_to_nearest(values, format, statistics.importance())
    (start,) = compensated(values, [(format, plain)], statistics)
    found = descended(values, format, start, statistics)
    monkeypatch.setattr(compensation, "CHUNK_WEIGHTS", 3 * 256)
    np.testing.assert_array_equal(descended(values, format, start, statistics), found)
    bettered = 0
    for group in row_groups(statistics):
        rows, hessian = group.rows, group.hessian
        once, _ = _native.descend(format.name, values[rows], start[rows], hessian, compensation.SWEEPS, 1)
        order, factor = group.order_and_factor()
        again = _native.compensate(format.name, values[rows], once, factor, order, 1)
        again, _ = _native.descend(format.name, values[rows], again, hessian, compensation.SWEEPS, 1)
        for n, row in enumerate(rows):
            errors = [format.decode(b[None])[0].astype(np.float64) - values[row] for b in (once[n], again[n])]
            costs = [float(e @ hessian.astype(np.float64) @ e) for e in errors]
            if abs(costs[0] - costs[1]) > 1e-4 * costs[0]:
                np.testing.assert_array_equal(found[row], (once, again)[int(costs[1] < costs[0])][n])
            bettered += costs[1] < costs[0]
    assert bettered > 10


def test_what_the_windows_held_out_do_not_confirm_is_not_taken() -> None:
    """Inputs that move together in the fit only: making up for one another's errors would do harm."""
    values, statistics = make_matrix(16, 64, 1)
    diagonal = np.diag(np.diagonal(statistics.terms[0].columns)).copy()
    statistics = replace(statistics, held_out=(diagonal,))
    format = format_of("q4_0")
    plain = round_to_nearest(values, format, statistics.importance())
    again = round_to_nearest(values, format, statistics.on_all_windows().importance())
    np.testing.assert_array_equal(round_tensor(values, format, statistics), again)
    np.testing.assert_array_equal(round_tensor(values, format, statistics, refinement=Refinement.GPTQ), plain)


@pytest.mark.parametrize("terms", [1, 2])
def test_the_last_codes_are_fitted_on_all_windows(terms: int) -> None:
    """Which is better on inputs that neither side has seen, by as much as a third more of them is worth."""
    values, statistics = make_matrix(24, 128, terms, inputs=400)
    format = format_of("iq4_nl")
    every = statistics.on_all_windows()
    for term, fitted, apart in zip(every.terms, statistics.terms, statistics.held_out, strict=True):
        np.testing.assert_array_equal(term.rows, fitted.rows)
        np.testing.assert_allclose(term.columns, 0.75 * fitted.columns + 0.25 * apart, rtol=1e-5)
    plain = round_to_nearest(values, format, every.importance())
    (first,) = compensated(values, [(format, plain)], every)
    found = round_tensor(values, format, statistics)
    np.testing.assert_array_equal(found, descended(values, format, first, every))
    (less,) = compensated(values, [(format, plain)], statistics)
    less = descended(values, format, less, statistics)
    truth = replace(statistics, held_out=make_matrix(24, 128, terms, inputs=40_000)[1].held_out)
    kls = [quadratic_kl(values, format, blocks, truth).sum() for blocks in (less, found)]
    assert kls[1] < 0.99 * kls[0]


def test_a_sample_of_rows_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    values, statistics = make_matrix(400, 64, 2)
    format = format_of("q5_1")
    whole = round_tensor(values, format, statistics)
    monkeypatch.setattr(rounding, "CHOICE_WEIGHTS", 100 * 64)
    np.testing.assert_array_equal(round_tensor(values, format, statistics), whole)
    gptq = round_tensor(values, format, statistics, refinement=Refinement.GPTQ)
    monkeypatch.setattr(row_sample, "SAMPLE_WEIGHTS", 100 * 64)
    np.testing.assert_array_equal(round_tensor(values, format, statistics, refinement=Refinement.GPTQ), gptq)


def test_moments_without_weight_still_round() -> None:
    values, statistics = make_matrix(6, 64, 2)
    zero = tuple(KroneckerTerm(np.zeros(6, np.float32), np.zeros((64, 64), np.float32)) for _ in range(2))
    statistics = replace(statistics, terms=zero, held_out=tuple(term.columns for term in zero))
    format = format_of("q4_0")
    decoded = format.decode(round_tensor(values, format, statistics))
    assert np.square(decoded - values).sum() < 0.02 * np.square(values).sum()


def test_moments_that_are_no_numbers_are_refused() -> None:
    _, statistics = make_matrix(6, 64, 1)
    statistics.terms[0].columns[3, 3] = np.inf
    with pytest.raises(InputError, match="not finite"):
        list(row_groups(statistics))


def test_the_damping_is_worth_it() -> None:
    """Fitted on hardly more tokens than there are columns, GPTQ's usual damping follows their noise."""
    values, statistics = make_matrix(24, 128, 1)
    generator = np.random.default_rng(3)
    turned = np.linalg.qr(generator.standard_normal((128, 128)))[0] * generator.lognormal(0, 0.5, (128, 1))

    def moments(count: int) -> np.ndarray:
        inputs = generator.standard_normal((count, 128)) @ turned
        return (inputs.T @ inputs / count).astype(np.float32)

    fitted = (KroneckerTerm(statistics.terms[0].rows, moments(150)),)
    statistics = replace(statistics, terms=fitted, held_out=(moments(20_000),))
    format = format_of("iq4_nl")
    plain = round_to_nearest(values, format, statistics.importance())

    def kl(damping: float) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compensation, "DAMPING", damping)
            (blocks,) = compensated(values, [(format, plain)], statistics)
        return float(quadratic_kl(values, format, blocks, statistics).sum())

    assert kl(DAMPING) < 0.8 * kl(0.001)
