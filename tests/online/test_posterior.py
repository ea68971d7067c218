"""Recursive regression against the exact solution."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online.posterior import REFACTOR_EVERY, LinearPosterior

SHARED, OWN, N_ARMS = 4, 3, 5
N_COLUMNS = SHARED + OWN * N_ARMS


def drawn(rng, n_rounds):
    """Rounds of a world in which every arm has a part of its own: rows as pieces, the same dense, outcomes, weights."""
    dense = np.zeros((n_rounds, N_COLUMNS))
    rows = []
    for i in range(n_rounds):
        arm = int(rng.integers(N_ARMS))
        start = SHARED + OWN * arm
        dense[i, :SHARED] = rng.normal(size=SHARED)
        dense[i, start : start + OWN] = rng.normal(size=OWN)
        rows.append([(slice(0, SHARED), dense[i, :SHARED]), (slice(start, start + OWN), dense[i, start : start + OWN])])
    truth = rng.normal(size=N_COLUMNS)
    outcome = dense @ truth + rng.normal(size=n_rounds)
    return rows, dense, outcome, rng.uniform(0.2, 1, size=n_rounds)


def solved(dense, outcome, weight, *, prior_variance, prior_mean, noise):
    """The posterior in one solve, by numpy."""
    precision = np.diag(1 / prior_variance) + (dense * weight[:, None]).T @ dense / noise
    right = (dense * weight[:, None]).T @ (outcome - dense @ prior_mean) / noise
    return prior_mean + np.linalg.solve(precision, right), np.linalg.inv(precision)


@pytest.mark.parametrize("n_rounds", [1, 40, REFACTOR_EVERY - 1, REFACTOR_EVERY, 3 * REFACTOR_EVERY + 7])
def test_one_by_one_is_the_exact_solution(n_rounds):
    """Mean and covariance never drift from one solve of all rounds by more than 1e-8."""
    rng = np.random.default_rng(n_rounds)
    rows, dense, outcome, weight = drawn(rng, n_rounds)
    prior = {"prior_variance": rng.uniform(0.01, 10, size=N_COLUMNS), "prior_mean": rng.normal(size=N_COLUMNS)}
    posterior = LinearPosterior(prior["prior_variance"], noise=0.3, prior_mean=prior["prior_mean"])
    for row, y, w in zip(rows, outcome, weight, strict=True):
        posterior.update(row, y, weight=w)
    mean, covariance = solved(dense, outcome, weight, noise=0.3, **prior)
    assert np.abs(posterior.mean - mean).max() < 1e-8
    assert np.abs(posterior.covariance - covariance).max() < 1e-8
    assert posterior.n_updates == n_rounds


def test_batches_and_order_change_nothing(rng):
    """One by one, all at once, or half and half in another order: the same posterior."""
    rows, dense, outcome, weight = drawn(rng, 100)
    single, batch, mixed = (LinearPosterior(np.ones(N_COLUMNS), noise=0.5) for _ in range(3))
    for row, y, w in zip(rows, outcome, weight, strict=True):
        single.update(row, y, weight=w)
    batch.update_many(dense, outcome, weight)
    for i in range(99, 49, -1):
        mixed.update(rows[i], outcome[i], weight=weight[i])
    mixed.update_many(dense[:50], outcome[:50], weight[:50])
    for other in (batch, mixed):
        np.testing.assert_allclose(other.mean, single.mean, atol=1e-10)
        np.testing.assert_allclose(other.covariance, single.covariance, atol=1e-10)


def test_forgetting_all_is_the_prior_and_none_is_nothing(rng):
    """Kept 0 gives the prior back exactly, kept 1 changes nothing, and between them certainty lies between."""
    rows, _, outcome, weight = drawn(rng, 60)
    prior_mean = rng.normal(size=N_COLUMNS)
    posterior = LinearPosterior(np.full(N_COLUMNS, 2.0), noise=0.5, prior_mean=prior_mean)
    for row, y, w in zip(rows, outcome, weight, strict=True):
        posterior.update(row, y, weight=w)
    before, certain = posterior.mean.copy(), np.diag(posterior.covariance).copy()
    posterior.forget(1.0)
    np.testing.assert_allclose(posterior.mean, before, atol=1e-12)
    posterior.forget(0.5)
    between = np.diag(posterior.covariance).copy()
    assert (between > certain).all()
    assert (between < 2.0).all()
    posterior.forget(0.0)
    np.testing.assert_allclose(posterior.mean, prior_mean)
    np.testing.assert_allclose(posterior.covariance, np.diag(np.full(N_COLUMNS, 2.0)))


def test_half_forgotten_is_half_the_weight(rng):
    """Outcomes before forgetting count as if each had had that share of its weight."""
    rows, dense, outcome, weight = drawn(rng, 60)
    posterior = LinearPosterior(np.ones(N_COLUMNS), noise=0.5)
    for row, y, w in zip(rows, outcome, weight, strict=True):
        posterior.update(row, y, weight=w)
    posterior.forget(0.25)
    mean, covariance = solved(
        dense, outcome, 0.25 * weight, prior_variance=np.ones(N_COLUMNS), prior_mean=np.zeros(N_COLUMNS), noise=0.5
    )
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-10)
    np.testing.assert_allclose(posterior.covariance, covariance, atol=1e-10)


def test_one_arm_is_loosened_alone(rng):
    """Its coefficients keep their means and get the prior's variances; what is known of others stays known."""
    rows, _, outcome, weight = drawn(rng, 300)
    posterior = LinearPosterior(np.ones(N_COLUMNS), noise=0.5)
    for row, y, w in zip(rows, outcome, weight, strict=True):
        posterior.update(row, y, weight=w)
    own = np.arange(SHARED, SHARED + OWN)
    others = np.setdiff1d(np.arange(N_COLUMNS), own)
    mean, before = posterior.mean.copy(), np.diag(posterior.covariance).copy()
    posterior.loosen(own, 0.0)
    np.testing.assert_allclose(np.diag(posterior.covariance)[own], 1.0)
    # What they owed to the outcomes stays; taken beside a part that is at its prior, it says hardly more.
    np.testing.assert_allclose(np.diag(posterior.covariance)[others], before[others], rtol=0.05)
    posterior.refactor()
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-8)
    np.testing.assert_allclose(np.diag(posterior.covariance)[own], 1.0)


def test_state_goes_round(rng):
    """A posterior saved in the middle goes on exactly like the one that was not."""
    rows, _, outcome, weight = drawn(rng, 80)
    posterior = LinearPosterior(np.ones(N_COLUMNS), noise=0.5)
    for i in range(40):
        posterior.update(rows[i], outcome[i], weight=weight[i])
    other = LinearPosterior.from_state(posterior.state())
    for i in range(40, 80):
        posterior.update(rows[i], outcome[i], weight=weight[i])
        other.update(rows[i], outcome[i], weight=weight[i])
    np.testing.assert_allclose(other.mean, posterior.mean, atol=1e-10)
    assert other.n_updates == posterior.n_updates


@pytest.mark.parametrize(
    ("variance", "noise", "message"),
    [([1.0, 0.0], 1.0, "prior_variance"), ([1.0, np.inf], 1.0, "prior_variance"), ([1.0], 0.0, "noise")],
)
def test_bad_priors_are_named(variance, noise, message):
    """A prior without certainty, or without doubt, is refused by name."""
    with pytest.raises(InvalidParameterError, match=message):
        LinearPosterior(np.array(variance), noise=noise)


@pytest.mark.parametrize("kept", [-0.1, 1.1, np.nan])
def test_only_a_share_can_be_kept(kept):
    """What is kept lies in [0, 1]."""
    with pytest.raises(InvalidParameterError, match="kept"):
        LinearPosterior(np.ones(2), noise=1.0).forget(kept)


def test_a_wider_posterior_knows_nothing_of_what_is_new(rng):
    """Taking in coefficients later is having had them from the start: they meet no outcome before."""
    rows, dense, outcome, weight = drawn(rng, 60)
    grown, whole = LinearPosterior(np.ones(N_COLUMNS), noise=0.5), LinearPosterior(np.ones(N_COLUMNS + 2), noise=0.5)
    for row, y, w in zip(rows, outcome, weight, strict=True):
        grown.update(row, y, weight=w)
    grown.extend(np.ones(2))
    whole.update_many(np.hstack([dense, np.zeros((60, 2))]), outcome, weight)
    np.testing.assert_allclose(grown.mean, whole.mean, atol=1e-9)
    np.testing.assert_allclose(grown.covariance, whole.covariance, atol=1e-9)


def test_moments_are_all_that_was_learned(rng):
    """Under another prior they give what the outcomes themselves would have given."""
    _, dense, outcome, weight = drawn(rng, 50)
    first = LinearPosterior(np.full(N_COLUMNS, 2.0), noise=0.5, prior_mean=np.full(N_COLUMNS, 0.3))
    first.update_many(dense, outcome, weight)
    gram, cross = first.moments()
    other, told = (
        LinearPosterior(np.full(N_COLUMNS, 0.1), noise=0.05, prior_mean=np.full(N_COLUMNS, 0.3)) for _ in range(2)
    )
    other.add_moments(gram, cross, n_outcomes=50)
    told.update_many(dense, outcome, weight)
    np.testing.assert_allclose(other.mean, told.mean, atol=1e-8)
    np.testing.assert_allclose(other.covariance, told.covariance, atol=1e-8)


def test_recentred_it_is_as_sure_as_before(rng):
    """The mean is where it was put, the covariance where it was, and the next outcome moves it as far as before."""
    rows, _, outcome, weight = drawn(rng, 50)
    posterior = LinearPosterior(np.ones(N_COLUMNS), noise=0.5)
    for row, y, w in zip(rows, outcome, weight, strict=True):
        posterior.update(row, y, weight=w)
    covariance, mean = posterior.covariance.copy(), rng.normal(size=N_COLUMNS)
    posterior.recentre(mean)
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-9)
    np.testing.assert_allclose(posterior.covariance, covariance, atol=1e-9)
