"""Ridge per arm against scikit-learn and against the density of the outcomes."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from scipy import stats
from sklearn.base import clone
from sklearn.linear_model import Ridge

from pointsman.errors import InvalidParameterError
from pointsman.nuisance.ridge import ArmMoments, PerArmRidge

# Two algebraically equal solutions of systems of condition number up to 1e5 in double precision.
TOLERANCE = 1e-8


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_features", [1, 2, 6, 60])
def test_agrees_with_scikit_learn_and_the_density_of_the_outcomes(rng, weighted, n_features):
    """Coefficients are Ridge's, and the penalty is the one whose Gaussian model gives contrasts of outcomes most."""
    log = synthetic.linear(n_rounds=90, n_features=n_features, n_arms=3, rng=rng, noise=0.5)
    weight = rng.uniform(0.5, 2.0, 90) if weighted else None
    penalties = [0.1, 1.0, 10.0, 100.0]

    model = PerArmRidge(penalties=penalties).fit(log.context, log.outcome, arm=log.arm, n_arms=3, sample_weight=weight)

    for t in range(3):
        rows = np.flatnonzero(log.arm == t)
        x, y = log.context[rows], log.outcome[rows]
        v = np.ones(rows.size) if weight is None else weight[rows]
        # Contrasts that the intercept drops out of, whatever their basis: the restricted likelihood is their density.
        contrasts = np.linalg.svd(np.ones((1, rows.size)))[2][1:]
        densities = []
        for penalty in penalties:
            covariance = contrasts @ (np.diag(1 / v) + x @ x.T / penalty) @ contrasts.T
            scale = (contrasts @ y) @ np.linalg.solve(covariance, contrasts @ y) / (rows.size - 1)
            densities.append(
                stats.multivariate_normal.logpdf(contrasts @ y, cov=scale * covariance, allow_singular=False)
            )
        best = int(np.argmax(densities))
        expected = Ridge(alpha=penalties[best]).fit(x, y, v)
        assert model.penalty_[t] == penalties[best]
        np.testing.assert_allclose(model.coef_[t], expected.coef_, atol=TOLERANCE)
        np.testing.assert_allclose(model.predict(log.context)[:, t], expected.predict(log.context), atol=TOLERANCE)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_fitting_is_a_fit_on_the_other_folds(rng, weighted):
    """Moments shared by folds predict what a fit a fold does; with unknown outcomes, a missing arm and lone rounds."""
    log = synthetic.linear(n_rounds=300, n_features=8, n_arms=4, rng=rng, noise=0.5)
    outcome = np.where(rng.random(300) < 0.1, np.nan, log.outcome)
    weight = rng.choice([0.0, 0.5, 2.0], 300) if weighted else None
    arm, fold = log.arm.copy(), 10 + 5 * rng.integers(0, 4, 300)
    arm[arm == 3] = 2
    arm[[5, 6]], fold[[5, 6]] = 3, 15  # arm 3 is learned of from one fold only
    context = 100 + log.context.astype(np.float32)

    predicted = PerArmRidge().cross_fit(context, outcome, arm=arm, n_arms=5, fold=fold, sample_weight=weight)

    for k in np.unique(fold):
        rest = (fold != k) & ~np.isnan(outcome)
        model = PerArmRidge().fit(
            context[rest],
            outcome[rest],
            arm=arm[rest],
            n_arms=5,
            sample_weight=None if weight is None else weight[rest],
        )
        np.testing.assert_allclose(predicted[fold == k], model.predict(context[fold == k]), atol=TOLERANCE)


def test_no_round_decides_its_own_prediction(rng):
    """A held-out outcome may be anything: the predictions of its fold stay the same to the last bit."""
    log = synthetic.linear(n_rounds=120, n_features=5, n_arms=2, rng=rng)
    fold = np.arange(120) % 3
    changed = np.where(fold == 1, 1e6 * rng.normal(size=120), log.outcome)

    before, after = (
        PerArmRidge().cross_fit(log.context, outcome, arm=log.arm, n_arms=2, fold=fold)
        for outcome in (log.outcome, changed)
    )

    np.testing.assert_array_equal(before[fold == 1], after[fold == 1])
    assert (before[fold != 1] != after[fold != 1]).any()


def test_an_infinite_penalty_is_the_mean_of_the_arm(rng):
    """The last point of the default path ignores the context."""
    log = synthetic.linear(n_rounds=200, n_features=4, n_arms=2, rng=rng)

    model = PerArmRidge(penalties=[np.inf]).fit(log.context, log.outcome, arm=log.arm, n_arms=2)

    means = [log.outcome[log.arm == t].mean() for t in range(2)]
    np.testing.assert_allclose(model.predict(log.context[:3]), np.tile(means, (3, 1)), rtol=1e-12)


def test_more_features_than_rounds_still_generalises(seed, rng):
    """With 30 rounds an arm and 200 features of noise, error stays within that of predicting a constant, nearly."""
    context = rng.normal(size=(560, 200))
    outcome = rng.normal(size=560)
    arm = np.arange(560) % 2

    model = PerArmRidge().fit(context[:60], outcome[:60], arm=arm[:60], n_arms=2)

    error = ((model.predict(context[60:])[np.arange(500), arm[60:]] - outcome[60:]) ** 2).mean()
    # The least squares fit of smallest norm would err by about 1 + 30 / 170 + 1: twice the variance. The best
    # constant errs by 1; the choice of a penalty is off by its own noise, sqrt(2 / 30) an arm at the optimum, and
    # the test's by sqrt(2 / 500).
    assert error < 1 + synthetic.FALSE_FAILURE_Z * (np.sqrt(2 / 500) + np.sqrt(2 / 60) / 2)


def test_moments_of_shards_add_up_to_those_of_all_rounds(rng):
    """Two shards, far from zero and unequal, merge to one pass; so does an empty one."""
    context, outcome, arm = 1e4 + rng.normal(size=(300, 5)), rng.normal(size=300), rng.integers(0, 3, 300)
    arm[:100] %= 2  # the first shard lacks an arm
    weight = rng.uniform(size=300)

    def moments(rows):
        return ArmMoments.of(context[rows], outcome[rows], arm=arm[rows], n_arms=4, sample_weight=weight[rows])

    merged = moments(slice(0, 100)) + moments(slice(100, 100)) + moments(slice(100, 300))

    whole = moments(slice(None))
    for name in ("n_rounds", "weight", "context", "outcome", "gram", "cross", "spread"):
        # Features of 1e4 carry rounding of 1e4 * 2.2e-16, times 300 rounds of spread one.
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-11, atol=1e-8)


def test_permuting_arms_permutes_predictions(rng):
    """An arm's column does not depend on its number."""
    log = synthetic.linear(n_rounds=120, n_features=4, n_arms=3, rng=rng)
    order = np.array([2, 0, 1])

    predicted = PerArmRidge().fit(log.context, log.outcome, arm=log.arm, n_arms=3).predict(log.context)
    permuted = PerArmRidge().fit(log.context, log.outcome, arm=order[log.arm], n_arms=3).predict(log.context)

    # One column or another, BLAS may sum the last product in another order.
    np.testing.assert_allclose(permuted[:, order], predicted, rtol=1e-12)


def test_an_arm_without_rounds_predicts_the_mean_of_all(rng):
    """Nothing is made up for an arm that never served."""
    log = synthetic.linear(n_rounds=50, n_features=3, n_arms=2, rng=rng)

    predicted = PerArmRidge().fit(log.context, log.outcome, arm=log.arm, n_arms=3).predict(log.context)

    np.testing.assert_allclose(predicted[:, 2], log.outcome.mean())


def test_an_arm_with_one_round_predicts_its_outcome(rng):
    """One round allows no slope, and no choice of penalty."""
    context, arm = rng.normal(size=(20, 3)), np.array([1] + [0] * 19)
    outcome = rng.normal(size=20)

    model = PerArmRidge().fit(context, outcome, arm=arm, n_arms=2)

    assert model.penalty_[1] == np.inf
    np.testing.assert_allclose(model.predict(context)[:, 1], outcome[0])


@pytest.mark.parametrize("features", ["random", "constant"])
def test_constant_outcomes_are_predicted_exactly(rng, features):
    """A constant outcome, and features without variance, leave the intercept alone."""
    context = rng.normal(size=(40, 3)) if features == "random" else np.ones((40, 3))

    model = PerArmRidge().fit(context, np.full(40, 0.7), arm=np.arange(40) % 2, n_arms=2)

    np.testing.assert_allclose(model.predict(context), 0.7, rtol=1e-12)


def test_a_clone_has_the_same_parameters():
    """scikit-learn can copy it."""
    assert clone(PerArmRidge(penalties=[1.0])).penalties == [1.0]


@pytest.mark.parametrize("penalties", [[], [0.0], [-1.0, 1.0], [np.nan]])
def test_penalties_must_be_positive(rng, penalties):
    """A penalty of zero would divide by zero on a singular Gram matrix."""
    with pytest.raises(InvalidParameterError, match="penalties"):
        PerArmRidge(penalties=penalties).fit(np.ones((2, 1)), np.ones(2), arm=np.zeros(2, dtype=int), n_arms=1)


@pytest.mark.parametrize("outcome", [[], [np.nan, 1.0]])
def test_outcomes_must_be_known(outcome):
    """An unknown outcome is refused, not averaged into NaN."""
    with pytest.raises(InvalidParameterError, match="y must hold"):
        PerArmRidge().fit(
            np.ones((len(outcome), 1)), np.array(outcome), arm=np.zeros(len(outcome), dtype=int), n_arms=1
        )
