"""Each sampling filter against a slow oracle, the drawn frequencies against the distribution, and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgekit.models.errors import InputError
from edgekit.runtimes.sampling import REPETITION_WINDOW, Sampler, Sampling, distribution

ALL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def oracle(logits: list[float], options: Sampling, recent: list[int]) -> dict[int, float]:
    """Token -> probability, element by element in plain Python."""
    scores = list(logits)
    for token in set(recent[-REPETITION_WINDOW:]):
        down = options.repetition_penalty
        scores[token] = scores[token] / down if scores[token] > 0 else scores[token] * down
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if options.temperature == 0:
        return {order[0]: 1.0}
    if options.top_k > 0:
        order = order[: options.top_k]
    weights = [math.exp(scores[token] - scores[order[0]]) for token in order]
    probabilities = [weight / math.fsum(weights) for weight in weights]
    if options.top_p < 1:
        kept = 1
        while kept < len(order) and math.fsum(probabilities[:kept]) < options.top_p:
            kept += 1
        order, probabilities = order[:kept], probabilities[:kept]
    order = [token for token, p in zip(order, probabilities, strict=True) if p >= options.min_p * probabilities[0]]
    weights = [math.exp((scores[token] - scores[order[0]]) / options.temperature) for token in order]
    return {token: weight / math.fsum(weights) for token, weight in zip(order, weights, strict=True)}


def check(logits: np.ndarray, options: Sampling, recent: list[int]) -> None:
    tokens, probabilities = distribution(logits, options, recent)
    expected = oracle([float(value) for value in logits], options, recent)
    assert list(tokens) == list(expected)
    np.testing.assert_allclose(probabilities, list(expected.values()), rtol=1e-12)


def random_logits(seed: int, size: int = 50) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": 0.3},
        {"temperature": 2.0},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 50},
        {"top_k": 1000},
        {"top_p": 0.01},
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"min_p": 0.05},
        {"min_p": 0.5},
        {"min_p": 1.0},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
    ],
    ids=lambda change: "{}={}".format(*next(iter(change.items()))),
)
def test_each_filter_alone(change: dict[str, float]) -> None:
    for seed in range(20):
        check(random_logits(seed), Sampling(**{**ALL, "temperature": 1.0, **change}), [3, 3, 11, 49])


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 10**6),
    st.floats(0.05, 3),
    st.integers(0, 60),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.floats(0.5, 2),
    st.lists(st.integers(0, 49), max_size=100),
)
def test_all_filters_together(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float, recent: list[int]
) -> None:
    check(random_logits(seed), Sampling(temperature, top_k, top_p, min_p, penalty), recent)


def test_equal_logits_keep_the_lower_ids() -> None:
    logits = np.array([1, 2, 2, 2, 0, 2], np.float32)
    tokens, _ = distribution(logits, Sampling(**{**ALL, "temperature": 1.0, "top_k": 3}))
    assert list(tokens) == [1, 2, 3]
    assert Sampler(Sampling(temperature=0)).choose(logits) == 1


@pytest.mark.parametrize("top_k", [1, 40, 77, 78, 79, 500])
def test_top_k_of_a_large_vocabulary(top_k: int) -> None:
    """5000 logits of which many are equal, some of them impossible; 78 stripes of 64 and 8 more."""
    for seed in range(3):
        logits = np.round(random_logits(seed, 5000), 1)
        logits[::7] = -np.inf
        check(logits, Sampling(**{**ALL, "temperature": 1.0, "top_k": top_k}), [])


def test_only_the_last_tokens_are_penalised() -> None:
    logits = np.array([2, 1], np.float32)
    greedy = Sampling(temperature=0, repetition_penalty=4.0)
    assert Sampler(greedy).choose(logits, [0] + [1] * (REPETITION_WINDOW - 1)) == 0  # both: 0.5 and 0.25
    assert Sampler(greedy).choose(logits, [0] + [1] * REPETITION_WINDOW) == 0
    assert Sampler(greedy).choose(logits, [0]) == 1


def test_draws_follow_the_distribution() -> None:
    logits = random_logits(4, 12)
    options = Sampling(temperature=1.3, top_k=9, top_p=0.999, min_p=0.001, seed=5)
    tokens, probabilities = distribution(logits, options)
    assert len(tokens) > 4
    sampler = Sampler(options)
    draws = np.array([sampler.choose(logits) for _ in range(20_000)])
    counts = np.array([np.count_nonzero(draws == token) for token in tokens])
    assert counts.sum() == len(draws)  # nothing that was filtered out
    assert stats.chisquare(counts, probabilities * len(draws)).pvalue > 1e-3


def test_the_same_seed_draws_the_same_tokens() -> None:
    rows = [random_logits(seed) for seed in range(30)]

    def draw(seed: int) -> list[int]:
        sampler = Sampler(Sampling(seed=seed, temperature=1.0))
        return [sampler.choose(row) for row in rows]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.full(8, -np.inf, np.float32)
    logits[5] = 1.0
    tokens, probabilities = distribution(logits, Sampling(**{**ALL, "temperature": 1.0}))
    assert probabilities[list(tokens).index(5)] == 1.0
    assert Sampler(Sampling(**{**ALL, "temperature": 1.0})).choose(logits) == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    logits = random_logits(0)
    logits[3] = bad
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="not a number"):
            distribution(logits, Sampling(temperature=temperature))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("seed", -1),
    ],
)
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        Sampling(**{option: value})
