"""When a deviation is more than noise: false alarms once in a thousand logs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FALSE_ALARM_RATE = 0.001
"""How often a diagnostic may warn of a log that has nothing wrong with it."""

FALSE_ALARM_Z = 3.29
"""Two-sided normal quantile of that rate."""


def bonferroni(p_values: NDArray[np.float64]) -> float:
    """Return the p-value of several tests at once: the smallest times their number, at most one; NaN is no test."""
    made = p_values[~np.isnan(p_values)]
    return min(1.0, made.size * float(made.min())) if made.size else 1.0


def normal_p_value(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return two-sided p-values of standard normal statistics."""
    from scipy.special import ndtr

    return np.asarray(2 * ndtr(-abs(z)))


def student_p_value(t: NDArray[np.float64], *, degrees_of_freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return two-sided p-values of Student statistics."""
    from scipy.special import stdtr

    return np.asarray(2 * stdtr(degrees_of_freedom, -abs(t)))


def mean_z(value: NDArray[np.float64], *, expected: float) -> float:
    """Return how many standard errors the mean is off, corrected for skewness, so that it is normal sooner.

    With T = (mean - expected) / s, s^2 the variance and g the skewness of one value, this is Hall's
    sqrt(n) [T + g T^2 / 3 + g^2 T^3 / 27 + g / 6n].
    NaN where all values are the same.

    References:
        Hall (1992), JRSS B 54(1).
    """
    n = value.size
    centred = value - value.mean()
    spread = float(np.sqrt((centred**2).mean()))
    if not spread > np.finfo(np.float64).eps * max(1.0, abs(expected)):
        return float("nan")
    skewness = float(((centred / spread) ** 3).mean())
    t = (float(value.mean()) - expected) / spread
    return float(np.sqrt(n) * (t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / (6 * n)))
