"""Calibration windows: where they come from, and what bad text gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.models.calibration import calibration_windows, split
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError
from edgekit.models.forward import load_model
from edgekit.models.sampled_text import draw, sampled_windows
from edgekit.models.tokenizer import load_tokenizer

SAMPLE = Path(__file__).parent / "assets" / "sample"
BOS, EOS = 0, 1


class NumberTokenizer:
    """Each white-space separated number is its own token, so that windows tell where they come from."""

    def __init__(self) -> None:
        self.characters = 0

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        assert not add_special_tokens
        self.characters += len(text)
        return SimpleNamespace(ids=[int(word) for word in text.split()])


def numbered(bos: int | None = BOS, add_bos: bool = True) -> Any:
    return SimpleNamespace(tokenizer=NumberTokenizer(), bos=bos, eos=EOS, add_bos=add_bos)


def write_numbers(path: Path, count: int, start: int = 10) -> Path:
    path.write_text(" ".join(str(start + index) for index in range(count)), encoding="utf-8")
    return path


def test_windows_cover_the_whole_text_evenly_each_after_bos(tmp_path: Path) -> None:
    text = write_numbers(tmp_path / "text.txt", 4000)
    windows = calibration_windows(numbered(), [text], tokens=8 * 64, length=64, seed=3)
    assert windows.shape == (8, 64)
    assert windows.dtype == np.int64
    assert (windows[:, 0] == BOS).all()
    assert (np.diff(windows[:, 1:], axis=1) == 1).all()  # consecutive text
    for index, window in enumerate(windows[:, 1:] - 10):
        assert index * 500 <= window[0]
        assert window[-1] < (index + 1) * 500


@pytest.mark.parametrize(("bos", "add_bos"), [(None, True), (BOS, False)])
def test_no_bos_where_the_tokenizer_adds_none(tmp_path: Path, bos: int | None, add_bos: bool) -> None:
    text = write_numbers(tmp_path / "text.txt", 4 * 64)
    windows = calibration_windows(numbered(bos, add_bos), [text], tokens=64 * 4, length=64)
    assert windows.reshape(-1).tolist() == list(range(10, 10 + 4 * 64))  # just enough: all of it, in order


def test_the_seed_decides_and_repeats(tmp_path: Path) -> None:
    text = write_numbers(tmp_path / "text.txt", 9000)
    first, again, other = (
        calibration_windows(numbered(), [text], tokens=1024, length=64, seed=seed) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_short_text_gives_what_it_has_and_several_files_all_count(tmp_path: Path) -> None:
    one, two = write_numbers(tmp_path / "a.txt", 400), write_numbers(tmp_path / "b.txt", 400, start=5000)
    windows = calibration_windows(numbered(), [one, two], tokens=100_000, length=64)
    assert len(windows) == 800 // 63
    assert (windows == 10 + 30).any()
    assert (windows == 5000 + 370).any()


def test_a_long_text_is_read_at_both_ends_without_tokenising_all_of_it(tmp_path: Path) -> None:
    text = write_numbers(tmp_path / "text.txt", 400_000, start=1_000_000)
    tokenizer = numbered()
    windows = calibration_windows(tokenizer, [text], tokens=16 * 64, length=64)
    assert tokenizer.tokenizer.characters < text.stat().st_size // 5
    positions = windows[:, 1:] - 1_000_000
    assert positions.min() < 400_000 / 16
    assert positions.max() > 400_000 * 15 / 16
    assert positions.min() >= 0  # no number cut in two
    assert positions.max() < 400_000


def test_bad_text_is_refused_by_name(tmp_path: Path) -> None:
    empty, latin, short = tmp_path / "empty.txt", tmp_path / "latin.txt", write_numbers(tmp_path / "short.txt", 100)
    empty.write_text(" \n\n")
    latin.write_bytes("caf\u00e9 ".encode("latin-1") * 500)
    good = write_numbers(tmp_path / "good.txt", 4000)
    for path, message in (
        (empty, r"empty\.txt holds no text"),
        (latin, r"latin\.txt is not UTF-8 \(byte 3\)"),
        (short, r"short\.txt: 100 tokens of calibration text, at least 252 are needed"),
        (tmp_path / "absent.txt", r"absent\.txt: No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(InputError, match=message):
            calibration_windows(numbered(), [path], tokens=512, length=64)
    with pytest.raises(InputError, match=r"empty\.txt"):
        calibration_windows(numbered(), [good, empty], tokens=512, length=64)
    with pytest.raises(InputError, match="--calib"):
        calibration_windows(numbered(), [], tokens=512, length=64)


@pytest.mark.parametrize(("count", "held_out"), [(24, 8), (24, 1), (7, 3), (4, 100), (5, 0)])
def test_split_holds_out_windows_from_all_over(count: int, held_out: int) -> None:
    windows = np.arange(count)[:, None] * np.ones((1, 3), dtype=np.int64)
    fitted, measured = split(windows, held_out)
    assert len(measured) == min(held_out, count // 2)
    assert sorted([*fitted[:, 0].tolist(), *measured[:, 0].tolist()]) == list(range(count))
    if len(measured) > 1:
        gaps = np.diff(measured[:, 0])
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("vocab", [7, 512, 513, 4096])
def test_draw_inverts_the_cumulative_sum(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    weights = rng.random((50, vocab)).astype(np.float32) ** 8
    weights[:, rng.integers(0, vocab, vocab // 3)] = 0.0
    weights[:, 3] = 0.5
    uniform = rng.random((50, 4))
    uniform[0] = [0.0, 1 - 2**-53, 0.5, 2**-60]
    drawn = draw(torch.from_numpy(weights), torch.from_numpy(uniform)).numpy()
    sums = weights.astype(np.float64).cumsum(axis=1)
    for row in range(50):
        for sample in range(4):
            token, target = drawn[row, sample], uniform[row, sample] * sums[row, -1]
            assert weights[row, token] > 0
            below = sums[row, token - 1] if token else 0.0
            assert below - 1e-6 * sums[row, -1] <= target <= sums[row, token] + 1e-6 * sums[row, -1]


def test_draw_follows_the_weights() -> None:
    weights = torch.tensor([0.5, 0.0, 0.2, 0.3]).repeat(20_000, 1)
    generator = torch.Generator().manual_seed(0)
    drawn = draw(weights, torch.rand(20_000, 1, dtype=torch.float64, generator=generator))
    np.testing.assert_allclose(np.bincount(drawn[:, 0].numpy(), minlength=4) / 20_000, weights[0], atol=0.015)


@pytest.fixture(scope="module")
def sample() -> tuple[Any, Any]:
    checkpoint = open_checkpoint(SAMPLE)
    return load_model(checkpoint), load_tokenizer(checkpoint)


def test_text_sampled_from_the_model_follows_its_own_softmax(sample: tuple[Any, Any]) -> None:
    """The oracle draws again, from the same uniform numbers, with the logits of the whole window and no cache."""
    model, tokenizer = sample
    windows = calibration_windows(tokenizer, [], tokens=1, length=24, seed=11, model=model)  # the least: 4 windows
    assert windows.shape == (4, 24)
    assert (windows[:, 0] == tokenizer.bos).all()
    assert np.array_equal(windows, calibration_windows(tokenizer, [], tokens=1, length=24, seed=11, model=model))
    uniform = np.stack([generator_row[:, 0] for generator_row in _uniform_rows(11, 4, 23)], axis=1)  # (W, 23)
    with torch.no_grad():
        probabilities = model(torch.from_numpy(windows)).logits.softmax(-1).double().numpy()
    sums = probabilities.cumsum(axis=2)[:, :-1]  # (W, 23, V)
    at = windows[:, 1:, None]
    above = np.take_along_axis(sums, at, axis=2)[:, :, 0]
    below = above - np.take_along_axis(probabilities[:, :-1], at, axis=2)[:, :, 0]
    after_end = windows[:, :-1] == tokenizer.eos
    assert ((below - 1e-4 <= uniform) & (uniform <= above + 1e-4) | after_end).all()


def _uniform_rows(seed: int, rows: int, steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random((rows, 1)) for _ in range(steps)]


def test_sampled_text_starts_a_new_document_after_eos(sample: tuple[Any, Any]) -> None:
    model, tokenizer = sample
    plain = sampled_windows(model, 8, 64, np.random.default_rng(0), bos=tokenizer.bos, eos=tokenizer.eos)[:, 1:]
    common = int(np.bincount(plain.reshape(-1)).argmax())
    windows = sampled_windows(model, 8, 64, np.random.default_rng(0), bos=tokenizer.bos, eos=common)
    ends = np.argwhere(windows[:, :-1] == common)
    assert len(ends) > 0
    assert (windows[ends[:, 0], ends[:, 1] + 1] == tokenizer.bos).all()


def test_sampled_without_bos_begins_with_eos(sample: tuple[Any, Any]) -> None:
    model, _ = sample
    windows = sampled_windows(model, 2, 8, np.random.default_rng(0), bos=None, eos=EOS)
    assert (windows[:, 0] == EOS).all()


@pytest.mark.parametrize(("count", "run"), [(4, 1), (9, 2), (24, 6), (76, 6), (77, 5)])
def test_split_in_runs_keeps_neighbours_together(count: int, run: int) -> None:
    fitted, measured = split(np.arange(count), 2 * run, run=run)
    assert sorted([*fitted, *measured]) == list(range(count))
    first, second = measured[:run], measured[run:]
    assert list(np.diff(first)) == list(np.diff(second)) == [1] * (run - 1)
    assert first[0] < count / 2 <= second[-1] and second[0] > first[-1]
