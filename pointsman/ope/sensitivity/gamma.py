"""The strength of hidden confounding, and where it turns a conclusion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.ope.sensitivity.manski import Range


def flips(
    lowest: Callable[[NDArray[np.float64]], NDArray[np.float64]], *, n_resamples: int, largest: float
) -> NDArray[np.float64]:
    """Return the gamma at which each resample's lower bound turns from positive to not, by bisection on log gamma.

    Args:
        lowest: Lower bound of each resample, from a gamma a resample; falls as gamma grows.
        n_resamples: Number of resamples.
        largest: Where to give up.

    Returns:
        (n_resamples,), to a relative error of 1e-6: 1 where the bound is not positive at gamma = 1, infinity where it
        still is at `largest`.
    """
    # A resample without a round of some group has no bound: NaN, which is not positive.
    at_once = ~(lowest(np.ones(n_resamples)) > 0)
    never = lowest(np.full(n_resamples, largest)) > 0
    low, high = np.zeros(n_resamples), np.full(n_resamples, math.log(largest))
    for _ in range(math.ceil(math.log2(math.log(largest) * 1e6))):
        middle = (low + high) / 2
        positive = lowest(np.exp(middle)) > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
    return np.where(at_once, 1.0, np.where(never, np.inf, np.exp(high)))


def check_gamma(gamma: NDArray[np.float64], *, outcome_range: Range | None) -> None:
    """Raise where a gamma is less than 1, or infinite for an outcome that has no bounds."""
    invalid = ~(gamma >= 1)
    if invalid.any():
        raise InvalidParameterError(f"gamma must be at least 1 (nothing hidden); got {gamma[invalid][0]}")
    if np.isinf(gamma).any() and outcome_range is None:
        raise InvalidParameterError("gamma must be finite where outcome_range is None; got inf")


def check_largest(largest: float) -> None:
    """Raise where there is nothing to search between 1 and `largest`."""
    if not 1 < largest < math.inf:
        raise InvalidParameterError(f"largest must be a finite number above 1; got {largest}")
