"""Partial pooling over arms, its strength learned from the log."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from pointsman.nuisance.base import OutcomeModel
from pointsman.nuisance.pooled import Hyperparameters, PooledOutcomeModel, PooledRegression
from pointsman.nuisance.ridge import PerArmRidge


def pooled_log(rng, *, n_rounds=600, n_arms=5, n_features=6, own=0.3):
    """A log in which arms share a slope and differ by their mean and, with sd `own`, by their slope."""
    x = rng.standard_normal((n_rounds, n_features)).astype(np.float32)
    common, slopes = rng.standard_normal(n_features), own * rng.standard_normal((n_arms, n_features))
    mean = np.linspace(-1, 1, n_arms) + x @ (common + slopes).T
    arm = rng.integers(n_arms, size=n_rounds)
    y = mean[np.arange(n_rounds), arm] + rng.standard_normal(n_rounds)
    return x - x.mean(axis=0), arm, y, mean


def covariance_of(x, arm, variances, regression):
    """The marginal covariance of the outcomes that the priors imply, for arms taken as equally able."""
    unit = regression._unit
    shared = x * (variances.shared * regression._shared_prior) @ x.T
    own = x * (variances.specific * regression._specific_prior) @ x.T
    same = arm[:, None] == arm
    return 0.25 * unit + shared + same * (unit + own) + variances.noise * np.eye(len(x))


def test_the_evidence_is_the_marginal_likelihood(rng):
    """Block elimination gives log N(y; 0, covariance), computed here in the space of rounds."""
    x, arm, y, _ = pooled_log(rng, n_rounds=80)
    x = x.astype(np.float64)
    regression = PooledRegression(n_passes=1).fit(x, x, y, arm=arm, n_arms=5)
    covariance = covariance_of(x, arm, regression.hyperparameters_, regression)
    residual = y - regression.base_
    sign, log_determinant = np.linalg.slogdet(covariance)
    expected = -(residual @ np.linalg.solve(covariance, residual) + log_determinant + 80 * np.log(2 * np.pi)) / 2
    assert sign == 1
    assert regression.log_evidence_ == pytest.approx(expected, rel=1e-8)


def test_predictions_are_the_posterior_mean(rng):
    """Block elimination gives the Gaussian-process prediction, computed here in the space of rounds."""
    x, arm, y, _ = pooled_log(rng, n_rounds=80)
    x = x.astype(np.float64)
    regression = PooledRegression(n_passes=1).fit(x, x, y, arm=arm, n_arms=5)
    variances = regression.hyperparameters_
    covariance = covariance_of(x, arm, variances, regression)
    noiseless = covariance - variances.noise * np.eye(80)
    own = regression.base_ + noiseless @ np.linalg.solve(covariance, y - regression.base_)
    np.testing.assert_allclose(regression.predict(x, x)[np.arange(80), arm], own, rtol=1e-7, atol=1e-9)


def test_the_gradient_of_the_evidence_is_that_of_its_differences(rng, seed):
    """The closed-form gradient equals central differences, abilities included."""
    x, arm, y, _ = pooled_log(rng, n_rounds=200)
    regression = PooledRegression(n_passes=1).fit(x, x, y, arm=arm, n_arms=5)
    regression._rows = [np.flatnonzero(arm == t) for t in range(5)]
    response = y - regression.base_
    moments = regression._moments(x, x, response, np.ones(200), np.linspace(-1, 1, 5))
    total = float(response @ response)
    log = np.log([0.7, 0.2, 0.3, 1.1])

    def evidence(log):
        shared, graded, specific, noise = np.exp(log)
        variances = Hyperparameters(shared=shared, graded=graded, specific=specific, noise=noise)
        return regression._factorise(moments, total, 200, variances), variances

    factors, variances = evidence(log)
    gradient = regression._evidence_gradient(factors, total, 200, variances)
    step = 1e-5
    differences = [
        (evidence(log + step * e)[0].log_evidence - evidence(log - step * e)[0].log_evidence) / (2 * step)
        for e in np.eye(4)
    ]
    # Central differences of a number near 300 carry a rounding error of about 300 * 2e-16 / 1e-5.
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-6)


def test_arms_with_few_rounds_learn_from_the_others(rng, seed):
    """With 12 rounds an arm and a common slope, pooling predicts better than a ridge of its own for every arm."""
    x, arm, y, mean = pooled_log(rng, n_rounds=120, n_arms=10, own=0.1)
    pooled = PooledRegression().fit(x, x, y, arm=arm, n_arms=10).predict(x, x)
    alone = PerArmRidge().fit(x, y, arm=arm, n_arms=10).predict(x)
    assert ((pooled - mean) ** 2).mean() < ((alone - mean) ** 2).mean()


@pytest.mark.parametrize("link", ["identity", "logit"])
def test_permuting_arms_permutes_predictions(rng, seed, link):
    """No arm is special."""
    x, arm, y, _ = pooled_log(rng)
    y = (y > 0).astype(np.float64)
    order = rng.permutation(5)
    here = PooledRegression(link=link).fit(x, x, y, arm=arm, n_arms=5).predict(x, x)
    there = PooledRegression(link=link).fit(x, x, y, arm=np.argsort(order)[arm], n_arms=5).predict(x, x)
    # Sums over arms round differently in another order, and the optimiser stops at 1e-7 of the evidence.
    np.testing.assert_allclose(there, here[:, order], atol=1e-3)


def test_the_logit_link_keeps_predictions_in_the_unit_interval(rng):
    """Even where all outcomes are one."""
    x, arm, _, _ = pooled_log(rng)
    predicted = PooledRegression(link="logit").fit(x, x, np.ones(600), arm=arm, n_arms=5).predict(x, x)
    assert ((predicted > 0.9) & (predicted < 1)).all()


def test_an_arm_without_rounds_is_predicted_from_the_others(rng):
    """Nothing is known of it but that it is an arm."""
    x, arm, y, _ = pooled_log(rng)
    predicted = PooledRegression().fit(x, x, y, arm=arm, n_arms=6).predict(x, x)
    assert np.isfinite(predicted).all()


def test_integer_weights_are_repeated_rounds(rng):
    """Up to the scale of the weights, which have mean one."""
    x, arm, y, _ = pooled_log(rng, n_rounds=200)
    twice = np.full(200, 2.0)
    once = PooledRegression().fit(x, x, y, arm=arm, n_arms=5).predict(x, x)
    weighted = PooledRegression().fit(x, x, y, arm=arm, n_arms=5, sample_weight=twice).predict(x, x)
    np.testing.assert_allclose(weighted, once, atol=1e-10)


def test_constant_outcomes_are_predicted(rng):
    """No variance to share out is no error."""
    x, arm, _, _ = pooled_log(rng)
    predicted = PooledRegression().fit(x, x, np.full(600, 0.25), arm=arm, n_arms=5).predict(x, x)
    np.testing.assert_allclose(predicted, 0.25, atol=1e-6)


def test_the_outcome_model_can_be_cloned_like_any_other(rng):
    """It keeps scikit-learn's contract, so cross-fitting takes it."""
    x, arm, y, mean = pooled_log(rng)
    model = clone(PooledOutcomeModel(seed=3))
    assert isinstance(model, OutcomeModel)
    predicted = model.fit(x, y, arm=arm, n_arms=5).predict(x)
    assert ((predicted - mean) ** 2).mean() < mean.var() / 4


def test_the_state_is_enough_to_predict(rng):
    """A restored regression gives the same bits."""
    x, arm, y, _ = pooled_log(rng)
    fitted = PooledRegression().fit(x, x, y, arm=arm, n_arms=5)
    restored = PooledRegression.from_state(*fitted.state())
    np.testing.assert_array_equal(fitted.predict(x, x), restored.predict(x, x))
