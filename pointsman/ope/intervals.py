"""Intervals for an estimate."""

from __future__ import annotations

from statistics import NormalDist

from pointsman.errors import InvalidParameterError


def wald(value: float, *, standard_error: float, level: float = 0.95) -> tuple[float, float]:
    """Return the normal interval value -+ z standard_error, z the (1 + level) / 2 quantile of the standard normal.

    Its coverage tends to `level` as rounds accumulate, if the estimate is unbiased and no few rounds dominate it.

    Raises:
        InvalidParameterError: `level` lies outside (0, 1).
    """
    if not 0 < level < 1:
        raise InvalidParameterError(f"level must be in (0, 1); got {level}")
    half_width = NormalDist().inv_cdf((1 + level) / 2) * standard_error
    return value - half_width, value + half_width
