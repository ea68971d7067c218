"""Thompson's probabilities, and draws from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from pointsman.online.draw import best_probabilities, contrast_variances, draw, explored, greatest

N_DRAWS = 100_000


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("n_arms", [2, 5, 11])
def test_probabilities_are_those_of_thompson_sampling(n_arms, spread, rng):
    """They are the shares of the largest draw, to 0.011: 0.01 of cells and 3 errors of 100,000 draws."""
    mean = 0.1 * rng.normal(size=n_arms)
    deviation = 0.1 * np.exp(spread * rng.normal(size=n_arms))
    found = best_probabilities(mean, deviation, np.ones(n_arms, dtype=bool))
    largest = (mean + deviation * rng.normal(size=(N_DRAWS, n_arms))).argmax(axis=1)
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - np.bincount(largest, minlength=n_arms) / N_DRAWS).max() < 0.01 + 3 * 0.5 / np.sqrt(N_DRAWS)


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


@pytest.mark.parametrize("n_arms", [2, 3, 6])
def test_what_all_arms_share_cancels_in_contrasts(n_arms, rng):
    """Independent parts beside anything shared are found exactly: differences know nothing of what is in common."""
    own = rng.uniform(0.1, 2, size=n_arms) if n_arms > 2 else np.full(2, 0.7)
    found = contrast_variances(np.diag(own) + 5.0)
    np.testing.assert_allclose(found, own, rtol=1e-9)


def test_contrasts_are_of_eligible_arms_alone(rng):
    """An arm that is not compared does not count, whatever its doubt; one arm alone has none."""
    root = rng.normal(size=(5, 7))
    covariance = root @ root.T
    eligible = np.array([True, True, False, True, False])
    found = contrast_variances(covariance, eligible)
    np.testing.assert_allclose(found[eligible], contrast_variances(covariance[np.ix_(eligible, eligible)]))
    assert (found[~eligible] == 0).all()
    assert (contrast_variances(covariance, np.array([True, False, False, False, False])) == 0).all()


def test_contrasts_fit_the_differences_best(rng):
    """No other variances come nearer to those of all differences, by the least squares that define them."""
    root = rng.normal(size=(6, 9)) * np.linspace(1, 3, 6)[:, None]
    covariance = root @ root.T
    own = np.diag(covariance)
    apart = own[:, None] + own - 2 * covariance
    pairs = np.array(np.triu_indices(6, 1)).T
    design = np.zeros((len(pairs), 6))
    design[np.arange(len(pairs))[:, None], pairs] = 1
    least = np.linalg.lstsq(design, apart[pairs[:, 0], pairs[:, 1]], rcond=None)[0]
    np.testing.assert_allclose(contrast_variances(covariance), np.maximum(least, 0), atol=1e-9)


def test_the_greatest_is_eligible():
    """Probability one for the greatest of those that may be chosen, the first of equals."""
    assert greatest(np.array([1.0, 3.0, 2.0, 2.0]), np.array([True, False, True, True])).tolist() == [0, 0, 1, 0]


def test_deviations_that_vanish_beside_the_means_leave_the_best():
    """Where no float tells the draws apart, the best arm, or the first of equals, is certain."""
    for mean in ([0.9, 0.9], [0.2, 0.9]):
        found = best_probabilities(np.array(mean), np.full(2, 1e-18), np.ones(2, dtype=bool))
        assert found.tolist() == [float(t == int(np.argmax(mean))) for t in range(2)]
