"""The evaluation protocol against dense float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.models.divergence import TokenDivergences, evaluation_windows, first_scored
from edgekit.models.errors import InputError


def logit_pair(rows: int, vocab: int, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = (rng.standard_normal((rows, vocab)) * 3 + 7).astype(np.float32)
    candidate = (reference + noise * rng.standard_normal((rows, vocab))).astype(np.float32)
    return reference, candidate, rng.integers(0, vocab, rows)


def dense_log_softmax(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def test_windows_are_those_of_llama_perplexity() -> None:
    tokens = list(range(100, 100 + 40))
    windows = evaluation_windows(tokens, bos=1, length=8)
    stream = [1, *tokens]  # BOS is prepended to the text once, then overwrites the first token of every window
    assert windows.shape == (5, 8)
    for index, window in enumerate(windows.tolist()):
        assert window == [1, *stream[8 * index + 1 : 8 * index + 8]]


def test_windows_without_bos_are_consecutive_and_limited_by_chunks() -> None:
    windows = evaluation_windows(np.arange(50), None, length=16, chunks=2)
    assert windows.tolist() == [list(range(16)), list(range(16, 32))]
    assert len(evaluation_windows(np.arange(50), None, length=16, chunks=99)) == 3


def test_a_text_shorter_than_a_window_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"notes\.txt holds 14 tokens and one window takes 16"):
        evaluation_windows(np.arange(14), 0, length=16, source="notes.txt")
    assert len(evaluation_windows(np.arange(15), 0, length=16)) == 1
    with pytest.raises(InputError, match="--chunks 0"):
        evaluation_windows(np.arange(64), 0, length=16, chunks=0)


def test_every_figure_equals_the_dense_oracle() -> None:
    reference, candidate, following = logit_pair(211, 4099)
    collected = TokenDivergences()
    collected.add(reference[:100], candidate[:100], following[:100])
    collected.add(reference[100:], candidate[100:], following[100:])
    result = collected.result()
    p, q = dense_log_softmax(reference), dense_log_softmax(candidate)
    kld = (np.exp(p) * (p - q)).sum(axis=1)
    at = np.arange(211)
    np.testing.assert_allclose(np.concatenate(collected.kld), kld, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(collected.nll), -q[at, following], rtol=1e-6)
    assert result.tokens == 211
    assert result.kld_mean == pytest.approx(kld.mean(), rel=1e-6)
    assert result.kld_stderr == pytest.approx(np.sqrt((np.mean(kld**2) - kld.mean() ** 2) / 210), rel=1e-5)
    assert result.ppl == pytest.approx(np.exp(-q[at, following].mean()), rel=1e-6)
    assert result.ppl_reference == pytest.approx(np.exp(-p[at, following].mean()), rel=1e-6)
    assert result.same_top1 == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
    assert 0.5 < result.same_top1 < 1


def test_accuracies_count_the_next_token() -> None:
    reference, candidate, _ = logit_pair(64, 33, noise=3.0)
    collected = TokenDivergences()
    collected.add(reference, candidate, candidate.argmax(axis=1))
    result = collected.result()
    assert result.top1 == 1.0
    assert result.top1_reference == result.same_top1 < 1.0


def test_quantile_interpolates_as_llama_perplexity_does() -> None:
    reference, candidate, following = logit_pair(137, 50, noise=1.0)
    collected = TokenDivergences()
    collected.add(reference, candidate, following)
    ordered = sorted(np.concatenate(collected.kld).tolist())
    position = 0.999 * (len(ordered) - 1)
    below = int(position)
    part = position - below
    expected = (1 - part) * ordered[below] + part * ordered[min(below + 1, len(ordered) - 1)]
    assert collected.result().kld_p999 == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 25.0, -300.0])
def test_a_constant_added_to_all_logits_changes_nothing(shift: float) -> None:
    reference, _, following = logit_pair(8, 20_000)
    collected = TokenDivergences()
    collected.add(reference, reference + np.float32(shift), following)
    result = collected.result()
    assert abs(result.kld_mean) < (1e-7 if shift == 0 else 2e-5)  # adding 300 rounds float32 logits to 3e-5
    assert result.same_top1 == 1.0


def test_a_tiny_divergence_is_not_lost_in_a_large_vocabulary() -> None:
    reference, candidate, following = logit_pair(4, 262_144, noise=0.01)
    collected = TokenDivergences()
    collected.add(reference, candidate, following)
    p, q = dense_log_softmax(reference), dense_log_softmax(candidate)
    kld = (np.exp(p) * (p - q)).sum(axis=1)
    assert kld.max() < 1e-4
    np.testing.assert_allclose(collected.kld[0], kld, atol=5e-7)


@pytest.mark.parametrize("length", [8, 9])
def test_a_window_scores_its_second_half(length: int) -> None:
    """Logits at position i are a spike on the token at i + 1: only a right alignment gives a perplexity of 1."""
    window = np.arange(length) + 3
    first = first_scored(length)
    assert first == length // 2
    logits = np.zeros((length, 32), dtype=np.float32)
    logits[np.arange(length - 1), window[1:]] = 50.0
    collected = TokenDivergences()
    collected.add_window(logits[first:], logits[first:], window)
    result = collected.result()
    assert result.tokens == length - 1 - first
    assert result.ppl == pytest.approx(1.0)
    assert result.top1 == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_damaged_logits_are_refused_and_blamed_on_the_right_side(bad: float) -> None:
    reference, candidate, following = logit_pair(6, 40)
    damaged = candidate.copy()
    damaged[3, 7] = bad
    with pytest.raises(InputError, match="the candidate model"):
        TokenDivergences().add(reference, damaged, following)
    with pytest.raises(InputError, match="the reference model"):
        TokenDivergences().add(damaged, candidate, following)


def test_models_of_different_vocabularies_are_refused() -> None:
    reference, candidate, following = logit_pair(6, 40)
    with pytest.raises(InputError, match="39 wide and the reference's 40"):
        TokenDivergences().add(reference, candidate[:, :39], following)
