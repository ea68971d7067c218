"""Savings along a frontier."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.frontier import FrontierPoint, cost_at_equal_quality, linearised, quality_at_equal_cost


def mean_of(values: np.ndarray) -> Estimate:
    """Return a plain mean as an estimate."""
    return Estimate(name="mean", terms=(Ratio(values, np.ones(values.size)),))


def point(quality: np.ndarray, cost_usd: np.ndarray) -> FrontierPoint:
    """Return a point from what each round contributes."""
    return FrontierPoint(quality=mean_of(quality), cost_usd=mean_of(cost_usd))


def constant(quality: float, cost_usd: float, *, n_rounds: int = 4) -> FrontierPoint:
    """Return a point without noise."""
    return point(np.full(n_rounds, quality), np.full(n_rounds, cost_usd))


def test_cost_is_read_between_neighbouring_settings():
    """Half way in quality between two settings is half way in cost."""
    frontier = [constant(0.8, 4.0), constant(0.4, 1.0), constant(0.6, 2.0)]

    found = cost_at_equal_quality(frontier, constant(0.5, 3.0))

    assert found.change is not None
    assert found.share is not None
    assert found.change.value == pytest.approx(-1.5)
    assert found.share.value == pytest.approx(-0.5)


def test_quality_is_read_between_neighbouring_settings():
    """A quarter of the way in cost is a quarter of the way in quality."""
    found = quality_at_equal_cost([constant(0.6, 2.0), constant(0.8, 4.0)], constant(0.5, 2.5))

    assert found.change is not None
    assert found.change.value == pytest.approx(0.15)


def test_a_cheapest_setting_as_good_as_the_point_saves_all_of_the_difference():
    """Nothing is split where the cheapest setting is already good enough."""
    found = cost_at_equal_quality([constant(0.7, 1.0), constant(0.8, 4.0)], constant(0.6, 3.0))

    assert found.change is not None
    assert found.change.value == pytest.approx(-2.0)


def test_the_best_setting_at_less_cost_gains_all_of_the_difference():
    """Nothing is split where the whole frontier is cheaper than the point."""
    found = quality_at_equal_cost([constant(0.7, 1.0), constant(0.8, 2.0)], constant(0.6, 3.0))

    assert found.change is not None
    assert found.change.value == pytest.approx(0.2)


def test_what_a_frontier_does_not_reach_has_a_reason_and_no_number():
    """A better point than any setting, and a cheaper one, have no equal."""
    frontier = [constant(0.6, 2.0), constant(0.8, 4.0)]

    assert cost_at_equal_quality(frontier, constant(0.9, 5.0)).change is None
    assert "0.8000 against 0.9000" in cost_at_equal_quality(frontier, constant(0.9, 5.0)).reason
    assert quality_at_equal_cost(frontier, constant(0.9, 1.0)).change is None
    assert "2 USD against 1" in quality_at_equal_cost(frontier, constant(0.9, 1.0)).reason


def test_unknown_costs_have_a_reason_and_no_number():
    """A log without costs has no savings to speak of."""
    unknown = point(np.full(4, 0.5), np.full(4, np.nan))

    assert cost_at_equal_quality([unknown], unknown).reason == "quality or cost is not known in this log"


def test_an_empty_frontier_is_refused():
    """There is nothing to read from no point."""
    with pytest.raises(InvalidParameterError, match="at least one point; got none"):
        cost_at_equal_quality([], constant(0.5, 1.0))


@pytest.mark.parametrize("read", [cost_at_equal_quality, quality_at_equal_cost])
def test_the_influence_is_the_derivative_in_the_weight_of_a_round(read, rng):
    """Giving round i the weight 1 + h moves the change by h influence_i / n, and its share likewise."""
    n_rounds, h = 40, 1e-5
    noise = rng.normal(scale=0.05, size=(6, n_rounds))
    means = np.array([0.5, 1.0, 0.7, 3.0, 0.6, 2.0])
    values = means[:, None] + noise

    def measured(weight: np.ndarray):
        def weighted(row: np.ndarray) -> Estimate:
            return Estimate(name="mean", terms=(Ratio(row * weight, weight),))

        low, high, other = (
            FrontierPoint(quality=weighted(values[2 * j]), cost_usd=weighted(values[2 * j + 1])) for j in range(3)
        )
        return read([low, high], other)

    base = measured(np.ones(n_rounds))
    for i in range(5):
        weight = np.ones(n_rounds)
        weight[i] += h
        moved = measured(weight)
        for name in ("change", "share"):
            slope = (getattr(moved, name).value - getattr(base, name).value) / h
            # The error of a one-sided difference is of the order of h.
            assert slope == pytest.approx(getattr(base, name).influence[i] / n_rounds, rel=1e-3, abs=1e-6)


def test_a_linearised_estimate_keeps_value_and_influence(rng):
    """What goes in comes out."""
    influence = rng.normal(size=50)
    influence -= influence.mean()

    estimate = linearised("dr", value=3.0, influence=influence)

    assert estimate.value == pytest.approx(3.0)
    np.testing.assert_allclose(estimate.influence, influence, atol=1e-12)
