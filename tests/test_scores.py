"""The hub: pseudo-outcomes, and the nuisances behind them."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from pointsman.errors import InvalidLogError, InvalidParameterError, OverlapWarning
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.scores import make_scores, pseudo_outcomes


def arguments(log, **changes):
    """Return what make_scores needs of a log."""
    n_rounds, n_arms = log.propensities.shape
    return {
        "context": log.context,
        "arm": log.arm,
        "quality": log.outcome,
        "cost_usd": np.full(n_rounds, 0.01),
        "logged_propensity": log.propensity,
        "eligible": np.ones((n_rounds, n_arms), dtype=bool),
        "outcome_model": PerArmRidge(),
        "seed": 0,
    } | changes


def test_pseudo_outcomes_by_hand():
    """mu, plus the weighted residual on the logged arm alone; an unknown outcome leaves mu."""
    scores = pseudo_outcomes(
        arm=np.array([0, 1, 1]),
        outcome=np.array([1.0, 0.0, np.nan]),
        propensity=np.array([0.5, 0.25, 0.1]),
        predicted=np.array([[0.4, 0.6], [0.4, 0.6], [0.4, 0.6]]),
    )

    np.testing.assert_allclose(scores, [[1.6, 0.6], [0.4, -1.8], [0.4, 0.6]])


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.1, np.nan])
def test_an_impossible_propensity_is_refused(propensity):
    """Zero, negative, above one or unknown."""
    with pytest.raises(InvalidLogError, match=r"propensity must be in \(0, 1\]"):
        pseudo_outcomes(
            arm=np.array([0]), outcome=np.ones(1), propensity=np.array([propensity]), predicted=np.zeros((1, 2))
        )


@pytest.mark.parametrize("propensity", ["auto", "logged", "estimated"])
def test_the_mean_of_a_column_is_the_value_of_its_arm(seed, rng, propensity):
    """Under a confounded logger, with propensities known or estimated, every arm's mean lies within noise."""
    log = synthetic.linear(n_rounds=3_000, n_features=3, n_arms=3, rng=rng, noise=0.5)

    scores, estimate = make_scores(**arguments(log, propensity=propensity))

    columns = scores.quality_scores
    standard_error = (columns - log.mean).std(axis=0, ddof=1) / np.sqrt(3_000)
    assert (abs((columns - log.mean).mean(axis=0)) < synthetic.FALSE_FAILURE_Z * standard_error).all()
    assert (estimate is None) == (propensity != "estimated")


def test_auto_estimates_only_what_is_unknown(rng):
    """Logged propensities are kept, the others come from the rounds that lack one."""
    log = synthetic.linear(n_rounds=400, n_features=2, n_arms=2, rng=rng)
    logged = log.propensity.copy()
    logged[::2] = np.nan

    scores, estimate = make_scores(**arguments(log, logged_propensity=logged))

    np.testing.assert_array_equal(scores.estimated, np.isnan(logged))
    np.testing.assert_array_equal(scores.propensity[1::2], logged[1::2])
    np.testing.assert_array_equal(scores.propensity[::2], estimate.of_logged_arm)


def test_unknown_costs_leave_unknown_cost_scores(rng):
    """Quality is learned all the same."""
    log = synthetic.linear(n_rounds=50, n_features=2, n_arms=2, rng=rng)

    scores, _ = make_scores(**arguments(log, cost_usd=np.full(50, np.nan)))

    assert np.isnan(scores.cost_scores).all()
    assert np.isfinite(scores.quality_scores).all()


def test_groups_share_a_fold(rng):
    """Repeats of a prompt are predicted by models that saw none of them."""
    log = synthetic.linear(n_rounds=60, n_features=2, n_arms=2, rng=rng)
    groups = np.arange(60) // 3

    scores, _ = make_scores(**arguments(log, groups=groups))

    np.testing.assert_array_equal(scores.fold, assign_folds(60, n_folds=5, seed=0, groups=groups))


def test_a_single_arm_needs_no_choice(rng):
    """With one arm everything is known but its mean."""
    log = synthetic.linear(n_rounds=30, n_features=2, n_arms=1, rng=rng)

    scores, estimate = make_scores(**arguments(log, propensity="estimated"))

    np.testing.assert_allclose(estimate.of_logged_arm, 1)
    np.testing.assert_allclose(scores.quality_scores[:, 0], log.outcome)


def test_an_arm_without_outcomes_draws_a_warning(rng):
    """Its name is given."""
    log = synthetic.linear(n_rounds=30, n_features=2, n_arms=2, rng=rng)
    quality = np.where(log.arm == 1, np.nan, log.outcome)

    with pytest.warns(OverlapWarning, match="known quality for large:"):
        make_scores(**arguments(log, quality=quality, arm_names=["small", "large"]))


def test_wrong_input_is_named(rng):
    """An unknown propensity where logged ones are asked for, an unknown mode, an arm that was not eligible."""
    log = synthetic.linear(n_rounds=30, n_features=2, n_arms=2, rng=rng)
    eligible = np.ones((30, 2), dtype=bool)
    eligible[7, log.arm[7]] = False

    with pytest.raises(InvalidLogError, match="30 of 30 are not known"):
        make_scores(**arguments(log, logged_propensity=np.full(30, np.nan), propensity="logged"))
    with pytest.raises(InvalidParameterError, match="'guessed'"):
        make_scores(**arguments(log, propensity="guessed"))
    with pytest.raises(InvalidLogError, match="round 7"):
        make_scores(**arguments(log, eligible=eligible))
