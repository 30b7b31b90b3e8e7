#!/usr/bin/env python3
"""How near the native runtime comes to a file's own logits, and to its checkpoint's, beside llama.cpp.

    python tests/side_by_side/native_accuracy.py MODEL.gguf --checkpoint HF_FOLDER --text TEXT --chunks 8 --length 512

Window by window all of them read the same tokens, of which the second half is scored. Three comparisons:

- with float activations, the largest difference from the torch reference on the dequantised weights, relative to the
  largest logit (the first windows alone, as that mode is slow);
- with int8 activations, the distance from that reference of ours and of llama.cpp: the root mean square over all
  logits, and the mean KL(reference || runtime);
- the mean KL(checkpoint || runtime) of both.

A ratio is ours over llama.cpp's on the same tokens, with its standard error from a paired bootstrap. A limit is missed
beyond two of them; where a ratio is above its limit by less, more windows are to tell. In both cases the exit status is
1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.divergence import TokenDivergences, evaluation_windows, first_scored
from edgekit.models.forward import load_model, reference_logits
from edgekit.models.tokenizer import load_tokenizer
from edgekit.runtimes import CacheTypes, Session, load, native

FLOAT_LIMIT = 1e-4
RATIO_LIMIT = 1.05
FLOAT_WINDOWS = 2
CACHES = ("f16", "q8_0")
RUNTIMES = ("native", "llama.cpp")
BLOCK = 32  # consecutive tokens that the bootstrap keeps together, as neighbours share most of their context
RESAMPLES = 2000
ROWS = 32  # of logits at once: 32 MiB where the vocabulary has 262144 tokens

Sums = dict[str, NDArray[np.float64]]  # comparison -> one figure for each scored token


@dataclass
class Comparison:
    """One runtime with one type of cache: its figures for each token, window after window."""

    session: Session
    squares: list[NDArray[np.float64]] = field(default_factory=list)
    from_file: TokenDivergences = field(default_factory=TokenDivergences)
    from_checkpoint: TokenDivergences = field(default_factory=TokenDivergences)

    def add(self, of_file: NDArray[np.float32], of_checkpoint: NDArray[np.float32], window: NDArray[np.int64]) -> None:
        """Score a window against both references, each (positions, vocab)."""
        first = first_scored(len(window))
        logits = self.session.score([int(token) for token in window], first)
        self.squares.append(squared_distances(logits[:-1], of_file[:-1]))
        self.from_file.add_window(of_file, logits, window)
        self.from_checkpoint.add_window(of_checkpoint, logits, window)

    def per_token(self) -> Sums:
        return {
            "squares": np.concatenate(self.squares),
            "kld_file": np.concatenate(self.from_file.kld),
            "kld_checkpoint": np.concatenate(self.from_checkpoint.kld),
        }


def squared_distances(got: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """(R,): the mean over the vocabulary of the squared difference, of logits (R, vocab)."""
    parts = (np.square(got[i : i + ROWS] - expected[i : i + ROWS]) for i in range(0, len(got), ROWS))
    return np.concatenate([part.mean(1, dtype=np.float64) for part in parts])


def largest_difference(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))


def bootstrap(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], summary: Callable[..., Any], *, window: int
) -> tuple[float, float]:
    """Standard errors of summary(ours) / summary(theirs) and of their difference, over the same resampled blocks.

    `ours` and `theirs` (tokens,) come in windows of `window` tokens; `summary` reduces the last axis. Blocks of
    neighbours are drawn with replacement; what a window has beyond whole blocks is left out.
    """
    size = min(BLOCK, window)
    whole = window // size * size
    blocks = [part.reshape(-1, window)[:, :whole].reshape(-1, size) for part in (ours, theirs)]
    drawn = np.random.default_rng(0).integers(0, len(blocks[0]), (RESAMPLES, len(blocks[0])))
    # blocks are equally long: the mean of their means is the tokens' mean
    first, second = (summary(part.mean(1)[drawn]) for part in blocks)
    return float(np.std(first / second)), float(np.std(first - second))


def root_of_mean(values: NDArray[np.float64]) -> Any:
    return np.sqrt(values.mean(-1))


def mean(values: NDArray[np.float64]) -> Any:
    return values.mean(-1)


def summarise(ours: Sums, theirs: Sums, *, window: int) -> dict[str, dict[str, float]]:
    """For each comparison both figures, their ratio and the standard errors."""
    found = {}
    for name, key, summary in (
        ("rms_from_reference", "squares", root_of_mean),
        ("kld_from_reference", "kld_file", mean),
        ("kld_from_checkpoint", "kld_checkpoint", mean),
    ):
        first, second = float(summary(ours[key])), float(summary(theirs[key]))
        ratio_stderr, difference_stderr = bootstrap(ours[key], theirs[key], summary, window=window)
        found[name] = {
            "native": first,
            "llama.cpp": second,
            "difference_stderr": difference_stderr,
            "ratio": first / second,
            "ratio_stderr": ratio_stderr,
        }
    return found


def read_windows(checkpoint: Any, text: Path, length: int, chunks: int) -> NDArray[np.int64]:
    """(chunks, length), as `edgekit eval` takes them."""
    files = load_tokenizer(checkpoint)
    files.tokenizer.encode_special_tokens = True  # "<unk>" in a text is those five characters
    content = text.read_bytes().decode("utf-8")[: chunks * length * 64]
    ids = files.tokenizer.encode(content, add_special_tokens=False).ids
    bos = files.bos if files.add_bos else None
    return evaluation_windows(ids, bos, length=length, chunks=chunks, source=str(text))


def measure(path: Path, checkpoint_path: Path, text: Path, *, chunks: int, length: int, threads: int) -> dict[str, Any]:
    checkpoint = open_checkpoint(checkpoint_path)
    windows = read_windows(checkpoint, text, length, chunks)
    original = load_model(checkpoint)
    reference = load(path, runtime="torch", context=length, threads=threads)
    floating = native.load(path, context=length, threads=threads, float_activations=True)
    comparisons = {
        (runtime, cache): Comparison(
            load(path, runtime=runtime, context=length, threads=threads, cache=CacheTypes.parse(cache))
        )
        for runtime in RUNTIMES
        for cache in CACHES
    }
    first = first_scored(length)
    largest, difference = 0.0, 0.0
    for number, window in enumerate(tqdm(windows, desc="windows", disable=None)):
        tokens = [int(token) for token in window]
        of_file = reference.score(tokens, first)
        if number < FLOAT_WINDOWS:
            difference = max(difference, largest_difference(floating.score(tokens, first), of_file))
            largest = max(largest, -float(of_file.min()), float(of_file.max()))
        of_checkpoint = reference_logits(original, window, first)
        for comparison in comparisons.values():
            comparison.add(of_file, of_checkpoint, window)
    scored = length - 1 - first
    found = {key: comparison.per_token() for key, comparison in comparisons.items()}
    return {
        "model": path.name,
        "bytes": path.stat().st_size,
        "windows": len(windows),
        "length": length,
        "tokens": len(windows) * scored,
        "isa": floating.isa,
        "float_activations": {"windows": min(len(windows), FLOAT_WINDOWS), "relative_difference": difference / largest},
        "int8_activations": {
            cache: summarise(found["native", cache], found["llama.cpp", cache], window=scored) for cache in CACHES
        },
    }


def show(result: dict[str, Any]) -> bool:
    """Print the figures; whether all are within their limits."""
    relative = result["float_activations"]["relative_difference"]
    within = [relative <= FLOAT_LIMIT]
    print(f"{result['model']}, {result['windows']} windows, {result['tokens']} scored tokens, {result['isa']}")
    print(f"float activations: largest difference {relative:.2e} of the largest logit, limit {FLOAT_LIMIT:.0e}")
    print(f"{'int8 activations':32} {'native':>10} {'llama.cpp':>10} {'difference':>22} {'ratio':>16}   limit")
    for cache, rows in result["int8_activations"].items():
        for name, row in rows.items():
            over = row["ratio"] - RATIO_LIMIT
            within.append(over <= 0)
            verdict = "" if over <= 0 else " MISSED" if over > 2 * row["ratio_stderr"] else " undecided: more --chunks"
            difference = f"{row['native'] - row['llama.cpp']:+.6f} ± {row['difference_stderr']:.6f}"
            ratio = f"{row['ratio']:.4f} ± {row['ratio_stderr']:.4f}"
            print(
                f"{name + ', ' + cache + ' cache':32} {row['native']:10.6f} {row['llama.cpp']:10.6f} {difference:>22} "
                f"{ratio:>16}   {RATIO_LIMIT}{verdict}"
            )
    return all(within)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what the file was made from")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=8, help="windows")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    result = measure(
        arguments.model,
        arguments.checkpoint,
        arguments.text,
        chunks=arguments.chunks,
        length=arguments.length,
        threads=arguments.threads,
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if show(result) else 1


if __name__ == "__main__":
    sys.exit(main())
