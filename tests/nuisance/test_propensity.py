"""Estimated propensities: right where a logit is right, floored once, and doubted where they are off."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import synthetic
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from pointsman.errors import CalibrationWarning, InvalidParameterError
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.nuisance.propensity import (
    LogitFitter,
    PropensityModel,
    calibration,
    estimate_propensities,
    floored,
    propensity_floor,
)


def test_the_fit_agrees_with_scikit_learn(rng):
    """Where all arms are eligible and features uncorrelated, the posterior mode is LogisticRegression's."""
    drawn = rng.normal(size=(400, 4))
    context = np.linalg.qr(drawn - drawn.mean(axis=0))[0] * np.sqrt(400)  # mean zero, variance one, uncorrelated
    arm = synthetic.draw_arms(synthetic.softmax(context @ rng.normal(size=(4, 3))), rng=rng)

    logit = LogitFitter(context, arm, supported=np.ones((400, 3), dtype=bool)).fit(0.01)

    expected = LogisticRegression(C=0.01, tol=1e-8, max_iter=1_000).fit(context, arm)
    probabilities = synthetic.softmax(logit(context))
    # The fit stops at gradients a tenth of their sampling error, so probabilities are off by a tenth of theirs at most:
    # sqrt(p (1 - p) parameters / n) = 0.5 sqrt(10 / 400).
    np.testing.assert_allclose(probabilities, expected.predict_proba(context), atol=0.1 * 0.5 * np.sqrt(10 / 400))


def test_estimates_approach_a_logit_logger(seed, rng):
    """The mean squared error is that of a regression with as many parameters, not more."""
    log = synthetic.linear(n_rounds=4_000, n_features=5, n_arms=4, rng=rng)

    estimate = estimate_propensities(
        context=log.context, arm=log.arm, n_arms=4, fold=assign_folds(4_000, n_folds=5, seed=seed)
    )

    error = ((estimate.probabilities - log.propensities) ** 2).sum(axis=1).mean()
    # 18 free parameters on 3,200 rounds: the expected squared error of a multinomial's mean, summed over arms, is
    # below (1 - 1/K) parameters / n. Its square root scatters little; three times it is far beyond.
    assert error < 3 * 18 / 3_200
    assert abs(np.log(estimate.temperature)).max() < 0.3
    np.testing.assert_allclose(estimate.probabilities.sum(axis=1), 1, rtol=1e-12)


def test_the_eligible_arms_are_part_of_the_likelihood(rng):
    """Two arms chosen evenly when both are eligible are found even, though one is eligible half the time."""
    context = rng.normal(size=(6_000, 2))
    eligible = np.ones((6_000, 2), dtype=bool)
    eligible[::2, 0] = False
    arm = np.where(eligible[:, 0], rng.integers(0, 2, 6_000), 1)

    estimate = estimate_propensities(
        context=context, arm=arm, n_arms=2, eligible=eligible, fold=assign_folds(6_000, n_folds=5, seed=0)
    )

    # 3,000 fair draws.
    assert abs(estimate.probabilities[1::2, 0].mean() - 0.5) < synthetic.FALSE_FAILURE_Z * 0.5 / np.sqrt(3_000)
    np.testing.assert_array_equal(estimate.probabilities[::2], np.tile([0.0, 1.0], (3_000, 1)))


def test_a_logger_that_is_no_logit_draws_a_warning(seed, rng):
    """A logger that prefers an arm at both ends of a feature is not one a logit can follow."""
    context = rng.normal(size=(4_000, 1))
    arm = synthetic.draw_arms(synthetic.softmax(np.outer(context[:, 0] ** 2 - 1, [-1, 0, 1])), rng=rng)

    # Its square is hidden from a logit of the feature alone; the exponential shows some of it.
    curved = np.column_stack([context[:, 0], np.exp(0.5 * context[:, 0])])
    with pytest.warns(CalibrationWarning, match="not a logit"):
        estimate_propensities(context=curved, arm=arm, n_arms=3, fold=assign_folds(4_000, n_folds=5, seed=0))


def test_right_propensities_are_seldom_doubted(seed):
    """Under right propensities p-values are not smaller than uniform: under 2% fall below 0.01 in 500 logs."""
    rng = np.random.default_rng(seed)
    small = 0
    for _ in range(500):
        propensities = synthetic.softmax(rng.normal(size=(400, 1)) * np.array([-1, 0, 1]))
        checked = calibration(
            propensities,
            arm=synthetic.draw_arms(propensities, rng=rng),
            eligible=np.ones((400, 3), dtype=bool),
            fold=np.arange(400) % 5,
        )
        small += checked.p_value < 0.01
    # Binomial(500, 0.01) exceeds 20 with probability 2e-7; the chi-square is approximate, hence 0.015.
    assert small <= 500 * 0.015 + synthetic.FALSE_FAILURE_Z * np.sqrt(500 * 0.015)


def test_marginal_frequencies_are_not_doubted(seed, rng):
    """A uniform logger estimated out of fold is calibrated, though each fold is predicted from the others' counts."""
    arm = rng.integers(0, 11, 2_000)

    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        estimate = estimate_propensities(
            context=rng.normal(size=(2_000, 20)), arm=arm, n_arms=11, fold=assign_folds(2_000, n_folds=5, seed=0)
        )

    # A share of 1/11 counted on 1,600 rounds.
    spread = np.sqrt(1 / 11 * 10 / 11 / 1_600)
    assert abs(estimate.of_logged_arm - 1 / 11).mean() < 3 * spread


def test_the_table_counts_what_it_says():
    """One arm, two bins, by hand."""
    probabilities = np.column_stack([np.repeat([0.2, 0.8], 20), np.repeat([0.8, 0.2], 20)])
    arm = np.r_[np.zeros(4), np.ones(16), np.zeros(10), np.ones(10)].astype(int)

    checked = calibration(
        probabilities, arm=arm, eligible=np.ones((40, 2), dtype=bool), fold=np.zeros(40, dtype=int), n_bins=2
    )

    np.testing.assert_array_equal(checked.arm, [0, 0, 1, 1])
    np.testing.assert_array_equal(checked.n_rounds, [20, 20, 20, 20])
    np.testing.assert_allclose(checked.predicted, [0.2, 0.8, 0.2, 0.8])
    np.testing.assert_allclose(checked.observed, [0.2, 0.5, 0.5, 0.8])
    np.testing.assert_allclose(checked.expected_calibration_error, 0.15)


def test_flooring_keeps_the_sum_and_leaves_what_is_above():
    """A row above the floor stays; one below gains from the others; unsupported arms stay at zero."""
    probabilities = np.array([[0.5, 0.5, 0.0], [0.01, 0.99, 0.0], [0.3, 0.3, 0.4]])
    supported = np.array([[True, True, False], [True, True, False], [True, True, True]])

    result = floored(probabilities, supported=supported, floor=0.1)

    np.testing.assert_allclose(result, [[0.5, 0.5, 0.0], [0.1, 0.9, 0.0], [0.3, 0.3, 0.4]], rtol=1e-12)
    np.testing.assert_allclose(floored(np.array([[0.5, 0.5]]), supported=np.ones((1, 2), dtype=bool), floor=0.5), 0.5)


@pytest.mark.parametrize(("n_rounds", "expected"), [(0, 0.25), (1, 0.25), (10, 0.25), (10_000, 5 / (100 * 9.210340))])
def test_the_floor_follows_the_sample_size(n_rounds, expected):
    """It vanishes as the log grows, and never exceeds an even chance."""
    assert propensity_floor(n_rounds, n_arms=4) == pytest.approx(expected)


@pytest.mark.parametrize("n_rounds", [2, 3, 40])
@pytest.mark.parametrize("n_arms", [1, 2, 5])
def test_arms_that_never_served_have_no_propensity(rng, n_rounds, n_arms):
    """One arm, one round of an arm, or a silent arm are no errors; a single arm is certain."""
    arm = np.zeros(n_rounds, dtype=int)
    arm[0] = min(1, n_arms - 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        estimate = estimate_propensities(
            context=rng.normal(size=(n_rounds, 3)),
            arm=arm,
            n_arms=n_arms,
            fold=assign_folds(n_rounds, n_folds=2, seed=0),
        )

    assert (estimate.of_logged_arm >= estimate.floor * (1 - 1e-12)).all()
    assert (estimate.of_logged_arm <= 1).all()
    np.testing.assert_array_equal(estimate.probabilities[:, 2:], 0)
    np.testing.assert_allclose(estimate.probabilities.sum(axis=1), 1)


def test_a_fitted_model_predicts_fresh_rounds(rng):
    """Probabilities sum to one over the eligible arms, also where only an arm that never served is eligible."""
    log = synthetic.linear(n_rounds=500, n_features=3, n_arms=2, rng=rng)
    model = clone(PropensityModel(seed=1)).fit(log.context, log.arm, n_arms=3)
    eligible = np.array([[True, True, True], [True, False, True], [False, False, True]])

    probabilities = model.predict_proba(log.context[:3], eligible)

    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[1:], [[1, 0, 0], [0, 0, 1]])


def test_a_subsample_is_enough_and_the_same_each_time(rng):
    """With caps below the log's size the estimate still follows the logger, and repeats bit for bit."""
    log = synthetic.linear(n_rounds=6_000, n_features=3, n_arms=3, rng=rng)
    model = PropensityModel(max_fit_rounds=2_000, max_tuning_rounds=1_000)
    fold = assign_folds(6_000, n_folds=5, seed=0)

    first, second = (
        estimate_propensities(context=log.context, arm=log.arm, n_arms=3, fold=fold, model=model) for _ in range(2)
    )

    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert ((first.probabilities - log.propensities) ** 2).sum(axis=1).mean() < 3 * 8 / 2_000


@pytest.mark.parametrize("variances", [(), (0.0,), (np.inf,)])
def test_prior_variances_must_be_positive(variances):
    """An improper prior is refused."""
    with pytest.raises(InvalidParameterError, match="prior_variances"):
        PropensityModel(prior_variances=variances).fit(np.ones((4, 1)), np.array([0, 1, 0, 1]), n_arms=2)
