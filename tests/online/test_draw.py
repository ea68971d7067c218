"""Thompson's probabilities, and draws from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from pointsman.online.draw import best_probabilities, draw, explored

N_DRAWS = 100_000


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("n_arms", [2, 5, 11])
def test_probabilities_are_those_of_thompson_sampling(n_arms, spread, rng):
    """They are the shares of the largest draw, to 0.006: 0.005 of quadrature and 3 errors of 100,000 draws."""
    mean = 0.1 * rng.normal(size=n_arms)
    deviation = 0.1 * np.exp(spread * rng.normal(size=n_arms))
    found = best_probabilities(mean, deviation, np.ones(n_arms, dtype=bool))
    largest = (mean + deviation * rng.normal(size=(N_DRAWS, n_arms))).argmax(axis=1)
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - np.bincount(largest, minlength=n_arms) / N_DRAWS).max() < 0.005 + 3 * 0.5 / np.sqrt(N_DRAWS)


def test_two_equal_arms_share():
    """By symmetry each has one half, to rounding; three a third."""
    for n_arms in (2, 3):
        found = best_probabilities(np.zeros(n_arms), np.ones(n_arms), np.ones(n_arms, dtype=bool))
        np.testing.assert_allclose(found, 1 / n_arms, rtol=1e-12)


def test_what_is_not_eligible_is_never_drawn(rng):
    """Its probability is zero, before and after exploration; the others sum to one."""
    eligible = np.array([True, False, True, False])
    found = best_probabilities(rng.normal(size=4), np.full(4, 0.1), eligible)
    shared = explored(found, eligible=eligible, floor=0.1)
    assert (found[~eligible] == 0).all()
    assert (shared[~eligible] == 0).all()
    assert (shared[eligible] >= 0.05).all()
    assert shared.sum() == pytest.approx(1)


def test_without_doubt_the_best_is_certain():
    """Deviations of zero leave all to the largest mean; so does a single eligible arm."""
    eligible = np.ones(3, dtype=bool)
    np.testing.assert_array_equal(best_probabilities(np.array([0.1, 0.3, 0.2]), np.zeros(3), eligible), [0, 1, 0])
    only = np.array([False, False, True])
    np.testing.assert_array_equal(best_probabilities(np.array([0.1, 0.3, 0.2]), np.ones(3), only), [0, 0, 1])


def test_an_arm_far_behind_has_next_to_nothing():
    """Ten deviations behind, an arm is drawn less than once in a million."""
    found = best_probabilities(np.array([0.0, 10.0, 9.9]), np.ones(3), np.ones(3, dtype=bool))
    assert found[0] < 1e-6
    assert found[1] > found[2]


def test_draws_follow_the_stated_probabilities(seed):
    """Over 100,000 draws frequencies match by chi-square; it fails for right code once in 100,000."""
    rng = np.random.default_rng(seed)
    stated = explored(
        best_probabilities(rng.normal(size=6), np.ones(6), np.ones(6, dtype=bool)),
        eligible=np.ones(6, dtype=bool),
        floor=0.02,
    )
    counts = np.bincount([draw(stated, rng) for _ in range(N_DRAWS)], minlength=6)
    assert chisquare(counts, N_DRAWS * stated / stated.sum()).pvalue > 1e-5
