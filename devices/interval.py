"""How sure a median is: bootstrap intervals, the same at every call."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FEWEST = 5  # figures, for an interval: of fewer, even the span of them all misses the median more often than 1 in 10
CONFIDENCE = 0.95
_RESAMPLED = 10_000_000  # figures drawn at most, which bounds memory
_MOST_RESAMPLES, _LEAST_RESAMPLES = 10_000, 1000


def resampled_medians(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """The medians of many samples with replacement; none where there are no values."""
    if not values.size:
        return np.empty(0)
    count = min(_MOST_RESAMPLES, max(_LEAST_RESAMPLES, _RESAMPLED // values.size))
    drawn: NDArray[np.float64] = np.random.default_rng(seed).choice(values, (count, values.size))
    return np.asarray(np.median(drawn, axis=1))


def tail(n: int) -> float:
    """What is cut off at each end of n figures' resampled medians, less than 2.5 % where there are few.

    Resampled medians vary too little, as a sample's variance does with n in place of n - 1, and normal quantiles are
    not Student's: the expanded percentile interval of Hesterberg, https://arxiv.org/abs/1411.5279.
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + CONFIDENCE) / 2)
    degrees = n - 1
    # Student's quantile to 1 % from 4 degrees of freedom up: Abramowitz and Stegun, 26.7.5.
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return normal.cdf(-t * math.sqrt(n / degrees))
