"""The error table against dense float64 algebra, its row sample against the laws of sampling, and its rescaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.models.errors import InputError
from edgekit.models.spec import TensorSpec
from edgekit.quant import quadratic, row_sample
from edgekit.quant.candidates import candidate_formats
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Candidate, Sensitivity, predicted_kl
from edgekit.quant.rescaling import (
    ALL,
    LARGEST_FACTOR,
    Measurement,
    Probe,
    calibrate,
    choose_probes,
    class_factors,
    measure_probes,
    rescale,
)
from edgekit.quant.rounding import Refinement, round_tensor
from edgekit.quant.row_sample import RowSample, draw_rows, inclusion_probabilities
from edgekit.quant.sensitivity import error_rows, evaluate_formats, table_of
from edgekit.quant.statistics import KroneckerTerm, MatrixStatistics


def make_matrix(
    rows: int, columns: int, terms: int, *, seed: int = 0, tail: float = 0.5
) -> tuple[np.ndarray, MatrixStatistics]:
    """Weights and Kronecker terms with strong correlations between columns; `tail` 3 is that of token frequencies.

    What is held out differs somewhat from the terms.
    """
    generator = np.random.default_rng(seed)
    values = (0.02 * generator.standard_normal((rows, columns)) * generator.lognormal(0, 0.5, (rows, 1))).astype("f4")
    parts, scale = [], generator.lognormal(0, 0.1, columns)
    for _ in range(terms):
        factor = generator.standard_normal((columns, columns)) * generator.lognormal(0, 1, (columns, 1))
        factor += 3 * generator.standard_normal(columns)  # a common direction: errors add up or cancel along it
        moments = factor @ factor.T / columns
        parts.append(KroneckerTerm((1e-4 * generator.lognormal(0, tail, rows)).astype("f4"), moments.astype("f4")))
    held_out = tuple((part.columns * np.outer(scale, scale)).astype("f4") for part in parts)
    return values, MatrixStatistics("m", tuple(parts), held_out)


def dense_kl(values: np.ndarray, statistics: MatrixStatistics, format_name: str) -> np.ndarray:
    """(N,) float64, from the definition: 1/2 sum over terms of rows[n] dw_n C dw_n, C of what is held out."""
    format = format_of(format_name)
    blocks = round_tensor(values, format, statistics, refinement=Refinement.GPTQ)
    error = format.decode(blocks).astype(np.float64) - values
    shares = np.zeros(len(values))
    for term, held_out in zip(statistics.terms, statistics.held_out, strict=True):
        columns = held_out.astype(np.float64)
        for row in range(len(values)):
            shares[row] += 0.5 * float(term.rows[row]) * (error[row] @ columns @ error[row])
    return shares


@pytest.mark.parametrize(("columns", "terms"), [(512, 1), (96, 2)])
def test_the_whole_matrix_against_dense_algebra(columns: int, terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, statistics = make_matrix(70, columns, terms)
    monkeypatch.setattr(quadratic, "CHUNK_WEIGHTS", 9 * columns)
    names = [name for name in candidate_formats() if format_of(name).carries(columns)]
    candidates = evaluate_formats(values, statistics, [format_of(name) for name in names])
    assert sorted(c.format for c in candidates) == sorted(names)
    assert list(candidates) == sorted(candidates, key=lambda c: (c.bytes, c.kl))
    for candidate in candidates:
        assert candidate.kl == pytest.approx(dense_kl(values, statistics, candidate.format).sum(), rel=1e-4)
        assert candidate.kl_error == 0
        size = format_of(candidate.format).bytes(*values.shape)
        assert size <= candidate.bytes < size + 32 and candidate.bytes % 32 == 0


def test_errors_that_cancel_do_not_count() -> None:
    """A quadratic form, not a sum of squares: along a direction that inputs do not have, an error is free."""
    values, _ = make_matrix(8, 64, 1)
    direction = np.zeros((64, 64), dtype=np.float32)
    direction[:2, :2] = 1  # only the sum of the first two inputs ever varies
    rows = np.ones(8, dtype=np.float32)
    statistics = MatrixStatistics("m", (KroneckerTerm(rows, direction),), (direction,))
    (candidate,) = evaluate_formats(values, statistics, [format_of("q4_0")])
    format = format_of("q4_0")
    error = format.decode(round_tensor(values, format, statistics, refinement=Refinement.GPTQ)) - values
    assert candidate.kl == pytest.approx(0.5 * float(np.sum((error[:, 0] + error[:, 1]) ** 2)), rel=1e-4)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, MatrixStatistics]:
    """A small stand-in for a tied embedding: two terms, rows' weights over many orders of magnitude, 1 in 8 sampled."""
    monkeypatch.setattr(row_sample, "SAMPLE_WEIGHTS", 150 * 64)
    return make_matrix(1200, 64, 2, tail=3.0)


def test_the_sample_is_unbiased_and_knows_its_error(sampled: tuple[np.ndarray, MatrixStatistics]) -> None:
    values, statistics = sampled
    for name in ("q4_0", "q5_1"):
        exact = float(dense_kl(values, statistics, name).sum())
        draws = [evaluate_formats(values, statistics, [format_of(name)], seed=seed)[0] for seed in range(40)]
        kls = np.array([draw.kl for draw in draws])
        stated = math.sqrt(np.mean([draw.kl_error**2 for draw in draws]))
        spread = kls.std(ddof=1)
        assert abs(kls.mean() - exact) < 4 * spread / math.sqrt(len(kls)) + 1e-4 * exact
        assert spread < 0.05 * exact
        assert 0.7 * spread < stated < 3 * spread  # drawn in order of size, the sample is rather better than stated


def test_proportional_drawing_beats_plain_drawing(sampled: tuple[np.ndarray, MatrixStatistics]) -> None:
    values, statistics = sampled
    shares = dense_kl(values, statistics, "q4_0")
    plain = [
        8 * shares[np.random.default_rng(seed).choice(len(shares), len(shares) // 8, replace=False)].sum()
        for seed in range(50)
    ]
    ours = [evaluate_formats(values, statistics, [format_of("q4_0")], seed=seed)[0].kl for seed in range(50)]
    assert np.std(ours) < 0.1 * np.std(plain)


def test_inclusion(sampled: tuple[np.ndarray, MatrixStatistics]) -> None:
    """Each row comes in as often as its probability says, and the sum of the weights is right for any quantity."""
    values, statistics = sampled
    samples = [draw_rows(values, statistics.terms, seed=seed) for seed in range(2000)]
    count = np.zeros(len(values))
    probability = np.zeros(len(values))
    for sample in samples:
        assert len(np.unique(sample.rows)) == len(sample.rows)
        assert abs(len(sample.rows) - 150) <= 1
        count[sample.rows] += 1
        probability[sample.rows] = sample.probability
    expected = 2000 * probability
    assert np.all(np.abs(count - expected) <= 5.5 * np.sqrt(np.maximum(expected * (1 - probability), 1)))
    assert np.count_nonzero(probability == 1) > 5  # the heaviest are always in


def test_inclusion_probabilities() -> None:
    np.testing.assert_allclose(inclusion_probabilities(np.array([1.0, 1, 2]), 2), [0.5, 0.5, 1])
    np.testing.assert_allclose(inclusion_probabilities(np.array([100.0, 10, 1, 1]), 3), [1, 1, 0.5, 0.5])
    np.testing.assert_allclose(inclusion_probabilities(np.array([5.0, 0, 0, 1]), 3), [1, 0, 0, 1])


def test_same_seed_same_rows_other_seed_other_rows(sampled: tuple[np.ndarray, MatrixStatistics]) -> None:
    values, statistics = sampled
    first, again, other = (draw_rows(values, statistics.terms, seed=seed).rows for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_rows_without_weight_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "SAMPLE_WEIGHTS", 20 * 64)
    values, statistics = make_matrix(100, 64, 1)
    rows = statistics.terms[0].rows.copy()
    rows[10:] = 0
    statistics = replace(statistics, terms=(KroneckerTerm(rows, statistics.terms[0].columns),))
    sample = draw_rows(values, statistics.terms)
    assert np.array_equal(sample.rows, np.arange(10))
    (candidate,) = evaluate_formats(values, statistics, [format_of("q4_0")])
    assert candidate.kl == pytest.approx(dense_kl(values, statistics, "q4_0").sum(), rel=1e-4)
    assert candidate.kl_error == 0


def test_a_row_is_not_missed_for_zeros_where_inputs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding makes something of a zero, so a row whose weights are zero wherever inputs are can still err."""
    monkeypatch.setattr(row_sample, "SAMPLE_WEIGHTS", 40 * 64)
    values, _ = make_matrix(50, 64, 1)
    values[:45, :32] = 0
    inputs = np.diag(np.repeat([1.0, 0.0], 32)).astype(np.float32)
    terms = (KroneckerTerm(np.ones(50, np.float32), inputs),)
    assert max(draw_rows(values, terms, seed=seed).rows[0] for seed in range(5)) < 45
    assert max(len(draw_rows(values, terms, seed=seed).rows) for seed in range(5)) >= 39


def test_the_estimator_by_hand() -> None:
    sample = RowSample(np.array([0, 3, 5]), np.array([1.0, 0.5, 0.25]))
    total, error = sample.total(np.array([2.0, 3.0, 1.0]))
    assert total == 2 + 6 + 4
    centre = (0.5 * 6 + 0.75 * 4) / 1.25
    assert error == pytest.approx(math.sqrt(2 * (0.5 * (6 - centre) ** 2 + 0.75 * (4 - centre) ** 2)))


def checkpoint_of(values: Mapping[str, np.ndarray], roles: Mapping[str, str]) -> Any:
    tensors = tuple(TensorSpec(name, name, array.shape, roles[name], 0) for name, array in values.items())  # type: ignore[arg-type]
    return SimpleNamespace(tensors=tensors, read=values.__getitem__)


def test_the_table_has_the_file_order_whatever_the_statistics_order() -> None:
    first, first_statistics = make_matrix(20, 64, 2, seed=1)
    second, second_statistics = make_matrix(10, 256, 1, seed=2)
    checkpoint = checkpoint_of(
        {"embed": first, "norm": np.ones(64, np.float32), "down": second},
        {"embed": "embedding", "norm": "norm", "down": "down"},
    )
    arriving = iter([replace(second_statistics, name="down"), replace(first_statistics, name="embed")])
    table = table_of(dict(error_rows(arriving, checkpoint, ("q4_0", "q4_k"))), checkpoint)
    assert [s.name for s in table] == ["embed", "down"]
    assert [s.role for s in table] == ["embedding", "down"]
    assert [s.shape for s in table] == [(20, 64), (10, 256)]
    assert [{c.format for c in s.candidates} for s in table] == [{"q4_0"}, {"q4_0", "q4_k"}]


def test_stand_ins() -> None:
    values, statistics = make_matrix(10, 96, 1)
    checkpoint = checkpoint_of({"m": values}, {"m": "q"})
    (row,) = error_rows(iter([statistics]), checkpoint, ("q4_k", "q6_k"))
    assert {c.format for c in row[1]} == {"iq4_nl", "q8_0"}


def test_bf16_where_float16_overflows() -> None:
    values, statistics = make_matrix(4, 32, 1)
    formats = [format_of("q8_0"), format_of("f16")]
    assert [c.format for c in evaluate_formats(values, statistics, formats)] == ["q8_0", "f16"]
    values[1, 2] = 70000.0
    candidates = evaluate_formats(values, statistics, formats)
    assert [c.format for c in candidates] == ["q8_0", "bf16"]
    assert all(math.isfinite(c.kl) for c in candidates)
    both = evaluate_formats(values, statistics, [format_of("f16"), format_of("bf16")])
    assert [c.format for c in both] == ["bf16"]


def test_weights_out_of_any_range() -> None:
    values, statistics = make_matrix(4, 32, 1)
    formats = [format_of("q4_0"), format_of("q8_0"), format_of("f32")]
    values[1, 2] = 1e6  # beyond the scale of q4_0
    assert all(math.isfinite(c.kl) for c in evaluate_formats(values, statistics, formats))
    values[1, 2] = 3e38  # so is the error under the moments, of float32
    assert [c.format for c in evaluate_formats(values, statistics, formats)] == ["f32"]
    with pytest.raises(InputError, match='"m" is not a finite number'):
        evaluate_formats(values, statistics, formats[:2])


# Rescaling


def class_table(names: tuple[str, ...] = ("q4_0", "q5_0", "q8_0", "f16")) -> list[Sensitivity]:
    """Three roles of two layers each, each width four times as exact as the one before."""
    kls = {"q4_0": 1.0, "q5_0": 0.25, "q8_0": 4e-3, "f16": 1e-7}
    sizes = {"q4_0": 450, "q5_0": 550, "q8_0": 850, "f16": 1600}
    return [
        Sensitivity(
            f"{role}{layer}", role, layer, tuple(Candidate(n, sizes[n], kls[n] * scale * (1 + layer)) for n in names)
        )
        for role, scale in (("embedding", 4e-2), ("q", 1e-3), ("down", 1e-2))
        for layer in (0, 1)
    ]


def test_the_probes_are_few_and_of_two_widths() -> None:
    probes = choose_probes(class_table())
    assert [(p.role, p.level) for p in probes] == [
        (role, level) for role in ("embedding", "q", "down", ALL) for level in (0, 1)
    ]
    assert probes[2].formats == {"q0": "q4_0", "q1": "q4_0"} and probes[2].predicted == pytest.approx(3e-3)
    assert set(probes[7].formats.values()) == {"q5_0"} and len(probes[7].formats) == 6
    roles = ("embedding", "head", "q", "k", "v", "o", "gate", "up", "down")
    many = [Sensitivity(role, role, 0, class_table()[0].candidates) for role in roles]
    assert len(choose_probes(many)) == 20
    assert [p.level for p in choose_probes(class_table(("q4_0", "f16")))] == [0, 0, 0, 0]
    assert choose_probes(class_table(("f16",))) == ()


def test_true_factors_are_found_and_the_whole_model_is_met() -> None:
    """A model whose errors are 3, 0.5 and 1 times as large as predicted, at all widths, and add up."""
    truth = {"embedding": 3.0, "q": 0.5, "down": 1.0}
    table = class_table()

    def measure(formats: Mapping[str, str]) -> float:
        return sum(truth[s.role] * c.kl for s in table for c in s.candidates if formats.get(s.name) == c.format)

    rescaled, measurements = calibrate(table, measure, noise=1e-9)
    assert len(measurements) == 8
    for before, after in zip(table, rescaled, strict=True):
        for old, new in zip(before.candidates, after.candidates, strict=True):
            assert new.kl == pytest.approx(truth[before.role] * old.kl, rel=1e-3)
            assert (new.format, new.bytes) == (old.format, old.bytes)


def test_errors_that_do_not_add_up_are_met_by_a_joint_factor() -> None:
    table = class_table()

    def measure(formats: Mapping[str, str]) -> float:
        plain = sum(c.kl for s in table for c in s.candidates if formats.get(s.name) == c.format)
        return 1.5 * plain if len(formats) == len(table) else plain

    rescaled, _ = calibrate(table, measure, noise=1e-9)
    everything = {s.name: "q4_0" for s in table}
    assert predicted_kl(rescaled, everything) == pytest.approx(measure(everything), rel=1e-3)


def test_factors_between_the_probes_and_beyond() -> None:
    table = class_table(("q4_0", "q5_0", "q8_0"))
    table[2] = replace(table[2], candidates=tuple(replace(c, kl_error=0.1 * c.kl) for c in table[2].candidates))
    rescaled = rescale(table, {"q": (4.0, 2.0)})
    assert rescaled[0] == table[0]
    assert all(c.kl_error == pytest.approx(0.1 * c.kl) for c in rescaled[2].candidates)
    old, new = table[2].candidates, rescaled[2].candidates
    assert [c.kl / o.kl for c, o in zip(new, old, strict=True)] == pytest.approx([4.0, 2.0, 2.0])
    halfway = Sensitivity("q9", "q", 9, (*old, Candidate("q4_1", 500, math.sqrt(old[0].kl * old[1].kl))))
    (between,) = rescale([halfway], {"q": (4.0, 2.0)})
    assert between.candidates[-1].kl / halfway.candidates[-1].kl == pytest.approx(math.sqrt(8))


def test_rescaling_keeps_the_order_of_candidates() -> None:
    """Measured factors that would make the narrower type the better one are noise."""
    (rescaled,) = rescale(class_table()[:1], {"embedding": (0.2, 5.0)})
    kls = [c.kl for c in rescaled.candidates]
    assert kls == sorted(kls, reverse=True)


def test_factors_are_bounded_and_tend_to_one_in_the_noise() -> None:
    def factor(predicted: float, measured: float, noise: float) -> float:
        probe = Probe("q", 0, {}, predicted)
        return class_factors([Measurement(probe, measured)], noise)["q"][0]

    assert factor(1e-2, 2e-2, 1e-5) == pytest.approx(2, rel=1e-2)
    assert factor(1e-8, 9e-6, 1e-5) < 2  # without the noise: 900
    assert factor(1e-8, -9e-6, 1e-5) > 0.5
    assert factor(1e-3, 1.0, 1e-5) == LARGEST_FACTOR
    assert factor(1.0, 1e-3, 1e-5) == 1 / LARGEST_FACTOR


def test_a_measurement_that_is_not_a_number() -> None:
    with pytest.raises(InputError, match="embedding matrices"):
        measure_probes(choose_probes(class_table()), lambda formats: math.nan)
