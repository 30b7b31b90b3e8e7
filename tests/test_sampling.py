"""Sampling against a slow oracle: each filter, drawn tokens and their frequencies, seeds, bad logits and options."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgekit.models.errors import InputError
from edgekit.runtimes.sampling import Sampler, Sampling

ALL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
REPETITION_WINDOW = 64  # how many of the last tokens the penalty looks at


def oracle(logits: np.ndarray, options: Sampling, recent: list[int]) -> dict[int, float] | None:
    """Token -> probability, by token, element by element in plain Python; None where rounding decides what is left."""
    temperature, _, top_p, min_p, penalty = (float(np.float32(value)) for value in astuple(options)[:5])
    scores, clear = [float(value) for value in logits], True
    for token in set(recent[-REPETITION_WINDOW:]):
        value = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        scores[token] = float(np.float32(value))
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if temperature == 0:
        return {order[0]: 1.0}
    if options.top_k > 0:
        order = order[: options.top_k]
    weights = [math.exp(scores[token] - scores[order[0]]) for token in order]
    probabilities = [weight / math.fsum(weights) for weight in weights]
    if top_p < 1:
        kept, mass = 1, probabilities[0]
        clear = abs(mass - top_p) > 1e-6
        while kept < len(order) and mass < top_p:
            mass += probabilities[kept]
            kept += 1
            clear &= abs(mass - top_p) > 1e-6
        order, probabilities = order[:kept], probabilities[:kept]
    clear &= all(abs(p / probabilities[0] - min_p) > 1e-9 for p in probabilities[1:])
    order = sorted(token for token, p in zip(order, probabilities, strict=True) if p >= min_p * probabilities[0])
    best = max(scores[token] for token in order)
    weights = [math.exp((scores[token] - best) / temperature) for token in order]
    return {token: weight / math.fsum(weights) for token, weight in zip(order, weights, strict=True)} if clear else None


def split_mix(state: int) -> Iterator[float]:
    """SplitMix64 (doi 10.1145/2714064.2660195): 0 <= x < 1."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        yield ((mixed ^ mixed >> 31) >> 11) / 2**53


def sampler_after(options: Sampling, vocab: int, recent: list[int]) -> Sampler:
    sampler = Sampler(options, vocab)
    for token in recent:
        sampler.accept(token)
    return sampler


def check(logits: np.ndarray, options: Sampling, recent: list[int], draws: int = 4) -> None:
    """Each draw is the token in which the random number falls where probabilities are laid side by side, by token."""
    sampler, recent, randoms = sampler_after(options, len(logits), recent), list(recent), split_mix(options.seed)
    for _ in range(draws):
        expected, random, drawn = oracle(logits, options, recent), next(randoms), sampler.choose(logits)
        recent.append(drawn)
        if expected is None:
            continue
        edges = np.cumsum(list(expected.values()))
        if np.abs(edges[:-1] - random).min(initial=1) > 1e-9:
            assert drawn == list(expected)[np.searchsorted(edges[:-1], random, side="right")]


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
        check(random_logits(seed), Sampling(**{**ALL, "temperature": 1.0, "seed": seed, **change}), [3, 3, 11, 49])


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
    check(random_logits(seed), Sampling(temperature, top_k, top_p, min_p, penalty, seed), recent)


def test_of_equal_logits_the_first_are_kept() -> None:
    logits = np.array([1, 2, 2, 2, 0, 2], np.float32)
    sampler = Sampler(Sampling(**{**ALL, "temperature": 1.0, "top_k": 3}), 6)
    assert {sampler.choose(logits) for _ in range(100)} == {1, 2, 3}
    assert Sampler(Sampling(temperature=0), 6).choose(logits) == 1


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
    both, forgotten, one = [0] + [1] * (REPETITION_WINDOW - 1), [0] + [1] * REPETITION_WINDOW, [0]
    for recent, chosen in ((both, 0), (forgotten, 0), (one, 1)):  # both: 0.5 and 0.25
        assert sampler_after(greedy, 2, recent).choose(logits) == chosen


def test_draws_follow_the_distribution() -> None:
    logits = random_logits(4, 12)
    options = Sampling(temperature=1.3, top_k=9, top_p=0.999, min_p=0.001, seed=5)
    expected = oracle(logits, options, [])
    assert expected is not None and len(expected) > 4
    sampler = Sampler(options, 12)
    draws = np.array([sampler.choose(logits) for _ in range(20_000)])
    counts = np.array([np.count_nonzero(draws == token) for token in expected])
    assert counts.sum() == len(draws)  # nothing that was filtered out
    assert stats.chisquare(counts, np.array(list(expected.values())) * len(draws)).pvalue > 1e-3


def test_the_same_seed_draws_the_same_tokens() -> None:
    rows = [random_logits(seed) for seed in range(30)]

    def draw(seed: int) -> list[int]:
        sampler = Sampler(Sampling(seed=seed, temperature=1.0), 50)
        return [sampler.choose(row) for row in rows]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(2**64 - 1) != draw(2**63 - 1)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.full(8, -np.inf, np.float32)
    logits[5] = 1.0
    sampler = Sampler(Sampling(**{**ALL, "temperature": 1.0}), 8)
    assert {sampler.choose(logits) for _ in range(100)} == {5}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    logits = random_logits(0)
    logits[3] = bad
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="NaN or infinite"):
            Sampler(Sampling(temperature=temperature), 50).choose(logits)


def test_logits_of_another_shape_or_type() -> None:
    for logits, message in (
        (random_logits(0, 49), r"\(49,\) do not fit: they are \(50,\)"),
        (random_logits(0).reshape(1, 50), r"\(1, 50\) do not fit"),
        (random_logits(0).astype(np.float64), "logits must be float32"),
        (random_logits(0, 100)[::2], "C-contiguous"),
    ):
        with pytest.raises(InputError, match=message):
            Sampler(Sampling(), 50).choose(logits)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("temperature", 1e39),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1e-40),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("top_k", 2**32),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        Sampling(**{option: value})
