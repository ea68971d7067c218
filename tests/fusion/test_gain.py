"""The efficiency-gain curve against its definition."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.integrate import quad

from pointsman.errors import InvalidParameterError
from pointsman.fusion.gain import efficiency_gain

# Sums of at most a few hundred numbers of size one, in another order.
TOLERANCE = 1e-12


def brute(order, gain):
    """Return the curve of one order: what the first k gain, less k times the mean, over n."""
    n = len(gain)
    return [sum(gain[i] for i in order[:k]) / n - k / n * np.mean(gain) for k in range(n + 1)]


def test_the_curve_is_its_definition(seed, rng):
    """Without ties: prompts sorted by prediction, cumulative gain less that of random routing."""
    predicted, gain = rng.normal(size=40), rng.choice([-1.0, 0.0, 1.0], 40)

    curve = efficiency_gain(predicted=predicted, gain=gain)

    np.testing.assert_allclose(curve.gain, brute(np.argsort(-predicted), gain), atol=TOLERANCE)
    np.testing.assert_allclose(curve.share, np.arange(41) / 40)
    assert curve.largest == curve.gain.max()


def test_ties_count_by_expectation(rng):
    """The curve is the mean over every order in which tied prompts can be taken."""
    predicted = np.array([0.3, 0.1, 0.3, 0.1, 0.1, 0.9])
    gain = rng.normal(size=6)
    orders = [order for order in permutations(range(6)) if all(np.diff(predicted[list(order)]) <= 0)]

    curve = efficiency_gain(predicted=predicted, gain=gain)

    assert len(orders) == 12
    np.testing.assert_allclose(curve.gain, np.mean([brute(order, gain) for order in orders], axis=0), atol=TOLERANCE)


def test_a_router_that_says_nothing_gains_nothing(rng):
    """A constant prediction is random routing, and the opposite router loses what the router gains."""
    gain = rng.normal(size=200)
    predicted = np.round(rng.normal(size=200), 1)

    np.testing.assert_allclose(efficiency_gain(predicted=np.zeros(200), gain=gain).gain, 0, atol=TOLERANCE)
    forward, backward = (efficiency_gain(predicted=sign * predicted, gain=gain).gain for sign in (1, -1))
    np.testing.assert_allclose(backward, -forward[::-1], atol=TOLERANCE)


def test_no_router_gains_more_than_the_one_that_knows(rng):
    """Predicting the gain itself is above every other curve, everywhere."""
    gain = rng.choice([-1.0, 0.0, 0.5, 1.0], 100)
    best = efficiency_gain(predicted=gain, gain=gain).gain

    for _ in range(20):
        other = efficiency_gain(predicted=gain + rng.normal(size=100), gain=gain).gain
        assert (other <= best + TOLERANCE).all()


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.8), (0.0, 1.0), (0.03, 0.04)])
def test_the_area_is_the_integral(rng, low, high):
    """Of the curve as it is interpolated, also where the ends lie between two points."""
    curve = efficiency_gain(predicted=rng.normal(size=17), gain=rng.normal(size=17))
    corners = [share for share in curve.share if low < share < high]

    expected = quad(lambda share: float(curve.at(np.array(share))), low, high, points=corners or None)[0]

    assert curve.area(low, high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("predicted", "gain"),
    [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.inf]), ([[1.0]], [[1.0]])],
)
def test_numbers_must_be_finite_and_one_a_prompt(predicted, gain):
    """Anything else is refused."""
    with pytest.raises(InvalidParameterError, match="predicted and gain"):
        efficiency_gain(predicted=np.array(predicted), gain=np.array(gain))


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_an_area_needs_an_interval_of_shares(low, high):
    """Shares lie in [0, 1], low under high."""
    curve = efficiency_gain(predicted=np.zeros(3), gain=np.zeros(3))

    with pytest.raises(InvalidParameterError, match="low and high"):
        curve.area(low, high)
