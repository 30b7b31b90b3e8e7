"""Rotary frequencies, and Llama 3's scaling of them as ggml carries it: one divisor per rotated pair."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgekit.models.spec import LinearScaling, Llama3Scaling, ModelSpec

ROPE_FACTORS = "rope_freqs.weight"  # the GGUF tensor of `rope_factors`


def inverse_frequencies(spec: ModelSpec, *, sliding: bool = False) -> NDArray[np.float64]:
    """The angle of each rotated pair per position, (head_dim / 2,), in full layers or in sliding ones.

    A scaling is the full layers': sliding ones with a base of their own are not scaled.
    """
    theta, scaling = spec.rope.theta, spec.rope.scaling
    if sliding and spec.rope.local_theta is not None:
        theta, scaling = spec.rope.local_theta, None
    frequencies = _frequencies(theta, spec.head_dim)
    if isinstance(scaling, LinearScaling):
        return frequencies / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return frequencies / llama3_factors(theta, spec.head_dim, scaling)
    return frequencies


def rope_factors(spec: ModelSpec) -> NDArray[np.float32] | None:
    """What each pair's frequency is divided by, (head_dim / 2,) float32: the F32 GGUF tensor `rope_freqs.weight`.

    None where the model needs none. Pairs that turn at least `high_freq_factor` times within the original context are
    kept, those that turn at most `low_freq_factor` times are divided by `factor`, those between get a blend that is
    linear in the number of turns.
    """
    scaling = spec.rope.scaling
    return llama3_factors(spec.rope.theta, spec.head_dim, scaling) if isinstance(scaling, Llama3Scaling) else None


def llama3_factors(theta: float, head_dim: int, scaling: Llama3Scaling) -> NDArray[np.float32]:
    """`rope_factors` from its parts."""
    turns = scaling.original_context * _frequencies(theta, head_dim) / (2 * np.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return (1.0 / ((1.0 - kept) / scaling.factor + kept)).astype(np.float32)


def _frequencies(theta: float, head_dim: int) -> NDArray[np.float64]:
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def find_llama3(
    factors: NDArray[np.float32], theta: float, context: int, stated_original: Iterable[int] = ()
) -> Llama3Scaling | None:
    """The scaling that these factors came from: a GGUF has the factors only. None where no likely one gives them.

    Tries the published low and high factors (1 and 4) with the original context that is stated, 8192, or what
    `factor` makes of the model's context.
    """
    factor = float(factors.max())
    for original in (*stated_original, 8192, round(context / factor), 4096, 2048):
        scaling = Llama3Scaling(factor, 1.0, 4.0, original)
        if np.allclose(llama3_factors(theta, 2 * factors.size, scaling), factors, rtol=1e-4, atol=0):
            return scaling
    return None
