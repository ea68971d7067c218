"""A user's own regressor, one copy per arm."""

from __future__ import annotations

import numpy as np
import synthetic
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from pointsman.nuisance.base import OutcomeModel
from pointsman.nuisance.per_arm import PerArmRegressor


def test_each_arm_is_fitted_on_its_own_rounds(rng):
    """Predictions are those of one regression per arm, weighted alike."""
    log = synthetic.linear(n_rounds=100, n_features=3, n_arms=2, rng=rng)
    weight = rng.uniform(size=100)

    model = PerArmRegressor(LinearRegression()).fit(
        log.context, log.outcome, arm=log.arm, n_arms=2, sample_weight=weight
    )

    for t in range(2):
        rows = log.arm == t
        alone = LinearRegression().fit(log.context[rows], log.outcome[rows], weight[rows])
        np.testing.assert_array_equal(model.predict(log.context)[:, t], alone.predict(log.context))


def test_arms_with_one_round_or_none_predict_a_mean(rng):
    """A regressor that needs neighbours is not asked where there are none."""
    arm = np.array([0] * 10 + [1])
    outcome = rng.normal(size=11)

    model = PerArmRegressor(KNeighborsRegressor(n_neighbors=3)).fit(
        rng.normal(size=(11, 2)), outcome, arm=arm, n_arms=3
    )

    predicted = model.predict(rng.normal(size=(4, 2)))
    np.testing.assert_allclose(predicted[:, 1], outcome[10])
    np.testing.assert_allclose(predicted[:, 2], outcome.mean())


def test_a_clone_is_unfitted_and_the_argument_is_left_alone(rng):
    """Fitting clones the regressor it was given."""
    estimator = LinearRegression()
    model = PerArmRegressor(estimator).fit(rng.normal(size=(9, 2)), np.ones(9), arm=np.arange(9) % 2, n_arms=2)

    assert isinstance(model, OutcomeModel)
    assert not hasattr(estimator, "coef_")
    assert not hasattr(clone(model), "estimators_")
