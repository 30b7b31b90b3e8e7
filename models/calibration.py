"""Calibration windows: from the user's text, or sampled from the model itself where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.models.divergence import WINDOW
from edgekit.models.errors import InputError

MINIMUM_WINDOWS = 4  # fewer say nothing about a model, and some are held out
_PIECE_CHARACTERS_PER_TOKEN = 32  # a piece of a long text holds several windows in any language


class CalibrationTokenizer(Protocol):
    """What is needed of `models.tokenizer.TokenizerFiles`."""

    @property
    def tokenizer(self) -> Any: ...  # tokenizers.Tokenizer

    @property
    def bos(self) -> int | None: ...

    @property
    def eos(self) -> int | None: ...

    @property
    def add_bos(self) -> bool: ...


def calibration_windows(
    tokenizer: CalibrationTokenizer,
    texts: Sequence[Path],
    *,
    tokens: int,
    length: int = WINDOW,
    seed: int = 0,
    model: Any = None,
) -> NDArray[np.int64]:
    """Windows (W, length) of token ids, about `tokens` in all, each beginning with BOS where the tokenizer adds one.

    With texts, the windows are spread evenly over all of them, one at a random place of each of W equal parts. Without,
    they are sampled from `model` (transformers') at temperature 1. The same seed gives the same windows. Raises
    InputError where a file is missing, empty or not UTF-8, or where all together fill fewer than 4 windows.
    """
    wanted = max(MINIMUM_WINDOWS, -(-tokens // length))
    rng = np.random.default_rng(seed)
    if not texts:
        if model is None:
            raise InputError("there is no calibration text and no model to sample it from: give --calib FILE")
        from edgekit.models.sampled_text import sampled_windows

        return sampled_windows(model, wanted, length, rng, bos=tokenizer.bos, eos=tokenizer.eos)
    stream = np.concatenate([_tokens(tokenizer, path, wanted, length) for path in texts])
    return _spread(stream, tokenizer.bos if tokenizer.add_bos else None, wanted, length, rng, texts)


def split(windows: NDArray[np.int64], held_out: int, *, run: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(windows for statistics, `held_out` windows for measuring), the latter at most half of all.

    They are spread evenly, in runs of `run` neighbours: the longer a run, the fewer of its documents are elsewhere.
    """
    runs = min(held_out, len(windows) // 2) // run
    starts = (np.arange(runs) * 2 + 1) * len(windows) // (2 * runs) - run // 2 if runs else np.arange(0)
    mask = np.zeros(len(windows), dtype=bool)
    mask[(starts[:, None] + np.arange(run)).ravel()] = True
    return windows[~mask], windows[mask]


def _tokens(tokenizer: CalibrationTokenizer, path: Path, wanted: int, length: int) -> NDArray[np.int64]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read the calibration text {path}: {error.strerror}: check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}): convert it, for example with iconv -t utf-8"
        ) from error
    if not text.strip():
        raise InputError(f"{path} holds no text: give more, or (but for --qat) leave --calib out to sample it")
    tokenizer.tokenizer.encode_special_tokens = True  # "<unk>" written out in a text is text
    ids = tokenizer.tokenizer.encode(
        _thinned(text, wanted, length * _PIECE_CHARACTERS_PER_TOKEN), add_special_tokens=False
    ).ids
    return np.asarray(ids, dtype=np.int64)


def _thinned(text: str, pieces: int, piece: int) -> str:
    """A long text's evenly spaced pieces of so many characters, cut at spaces, so that not all of it is tokenised."""
    if len(text) <= 2 * pieces * piece:
        return text
    kept = []
    for start in np.linspace(0, len(text) - piece, pieces).astype(int).tolist():
        words = text[start : start + piece].split(" ")
        kept.append(" ".join(words[1:-1]) if len(words) > 2 else text[start : start + piece])
    return "\n".join(kept)


def _spread(
    stream: NDArray[np.int64],
    bos: int | None,
    wanted: int,
    length: int,
    rng: np.random.Generator,
    texts: Sequence[Path],
) -> NDArray[np.int64]:
    body = length if bos is None else length - 1  # BOS costs the text no token
    count = min(wanted, len(stream) // body)
    if count < MINIMUM_WINDOWS:
        names = ", ".join(str(path) for path in texts)
        raise InputError(
            f"{names}: {len(stream)} tokens of calibration text, at least {MINIMUM_WINDOWS * body} are needed: "
            "give more text, or (but for --qat) leave --calib out to sample it from the model"
        )
    part = len(stream) / count
    slack = rng.random(count) * (part - body)
    starts = (np.arange(count) * part + slack).astype(np.int64)
    windows = np.stack([stream[start : start + body] for start in starts])
    if bos is None:
        return windows
    return np.concatenate([np.full((count, 1), bos, dtype=np.int64), windows], axis=1)
