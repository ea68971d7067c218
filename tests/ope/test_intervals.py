"""Intervals around an estimate."""

from __future__ import annotations

import pytest
from scipy.stats import norm

from pointsman.errors import InvalidParameterError
from pointsman.ope.intervals import wald


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_wald_is_the_normal_interval(level):
    """Its ends are scipy's quantiles."""
    assert wald(0.3, standard_error=0.2, level=level) == pytest.approx(norm.interval(level, loc=0.3, scale=0.2))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_probability(level):
    """Percent are refused."""
    with pytest.raises(InvalidParameterError, match="level"):
        wald(0.0, standard_error=1.0, level=level)
