"""Paired differences over seeds, and what can be said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: The mean.
        half_width: Half the width of its 95% t-interval; NaN with fewer than two seeds.
        p_value: Two-sided, of the mean being 0; NaN with fewer than two seeds.
        n: Number of seeds.
    """

    value: float
    half_width: float
    p_value: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64], *, level: float = 0.95) -> Mean:
        """Return the mean of one number a seed."""
        from scipy.stats import t

        x = np.asarray(values, dtype=np.float64)
        if x.size == 0:
            return cls(value=math.nan, half_width=math.nan, p_value=math.nan, n=0)
        mean = float(x.mean())
        if x.size == 1:
            return cls(value=mean, half_width=math.nan, p_value=math.nan, n=1)
        error = float(x.std(ddof=1)) / math.sqrt(x.size)
        if error == 0:
            return cls(value=mean, half_width=0.0, p_value=1.0 if mean == 0 else 0.0, n=x.size)
        return cls(
            value=mean,
            half_width=float(t.ppf((1 + level) / 2, x.size - 1)) * error,
            p_value=float(2 * t.sf(abs(mean) / error, x.size - 1)),
            n=x.size,
        )


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> Mean:
    """Return mean(numerator) / mean(denominator) over seeds, with the interval of its linearisation."""
    below = float(denominator.mean())
    share = float(numerator.mean()) / below
    spread = Mean.of((numerator - share * denominator) / below)
    return Mean(value=share, half_width=spread.half_width, p_value=math.nan, n=spread.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: rejecting those under alpha makes any false rejection at most alpha likely.

    References:
        Holm (1979), Scandinavian Journal of Statistics 6(2).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(x) for x in adjusted]
