"""Folds, and predictions by models that never saw the round."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from sklearn.base import BaseEstimator

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge


class Memory(BaseEstimator):
    """Predicts 1 for a context it was fitted on, else 0."""

    def fit(self, X, y, *, n_arms, **_):
        """Remember the rounds."""
        assert not np.isnan(y).any()
        self.seen_ = set(X[:, 0])
        self.n_arms_ = n_arms
        return self

    def predict(self, X):
        """Tell whether each was seen."""
        return np.tile([[float(x in self.seen_)] for x in X[:, 0]], (1, self.n_arms_))


@pytest.mark.parametrize(("n_rounds", "n_folds"), [(10, 5), (11, 5), (2, 2), (1_003, 7)])
def test_folds_are_of_equal_size(n_rounds, n_folds):
    """Sizes differ by one round at most, and the draw follows the seed."""
    fold = assign_folds(n_rounds, n_folds=n_folds, seed=0)

    assert np.ptp(np.bincount(fold, minlength=n_folds)) <= 1
    np.testing.assert_array_equal(fold, assign_folds(n_rounds, n_folds=n_folds, seed=0))
    assert n_rounds < 1_000 or (fold != assign_folds(n_rounds, n_folds=n_folds, seed=1)).any()


def test_a_group_is_never_split(rng):
    """Repeats of one prompt share a fold; sizes differ by the largest group at most."""
    groups = np.array([f"prompt {i}" for i in rng.zipf(1.7, 2_000)])

    fold = assign_folds(2_000, n_folds=5, seed=0, groups=groups)

    names, member = np.unique(groups, return_inverse=True)
    folds_of = [np.unique(fold[member == g]).size for g in range(names.size)]
    assert max(folds_of) == 1
    assert np.ptp(np.bincount(fold)) <= np.bincount(member).max()


@pytest.mark.parametrize(("n_rounds", "n_folds", "groups"), [(10, 1, None), (3, 5, None), (10, 2, np.zeros(10))])
def test_impossible_folds_are_refused(n_rounds, n_folds, groups):
    """Too few folds, rounds or prompts is an error that says so."""
    with pytest.raises(InvalidParameterError, match="n_folds"):
        assign_folds(n_rounds, n_folds=n_folds, seed=0, groups=groups)


def test_no_round_is_predicted_by_a_model_that_saw_it():
    """Rounds of unknown outcome are predicted too, and never taught from."""
    context = np.arange(100.0)[:, None]
    outcome = np.ones(100)
    outcome[::3] = np.nan

    predicted = cross_fit_outcomes(
        Memory(),
        context=context,
        outcome=outcome,
        arm=np.zeros(100, dtype=int),
        n_arms=2,
        fold=assign_folds(100, n_folds=4, seed=0),
    )

    np.testing.assert_array_equal(predicted, np.zeros((100, 2)))


def test_weights_reach_the_model(rng):
    """A round of weight zero does not count."""
    log = synthetic.linear(n_rounds=80, n_features=2, n_arms=2, rng=rng)
    fold = assign_folds(80, n_folds=2, seed=0)
    weight = np.ones(80)
    weight[:10] = 0
    spoilt = log.outcome.copy()
    spoilt[:10] = 1e3

    first, second = (
        cross_fit_outcomes(
            PerArmRidge(),
            context=log.context,
            outcome=outcome,
            arm=log.arm,
            n_arms=2,
            fold=fold,
            sample_weight=weight,
        )
        for outcome in (log.outcome, spoilt)
    )

    np.testing.assert_allclose(first, second, rtol=1e-10)


def test_unknown_outcomes_give_unknown_predictions():
    """A log without costs has no predicted costs."""
    predicted = cross_fit_outcomes(
        PerArmRidge(),
        context=np.ones((6, 1)),
        outcome=np.full(6, np.nan),
        arm=np.zeros(6, dtype=int),
        n_arms=2,
        fold=np.arange(6) % 2,
    )

    assert np.isnan(predicted).all()


def test_outcomes_known_in_one_fold_only_are_refused():
    """There would be nothing to predict that fold from."""
    with pytest.raises(InvalidLogError, match="two folds"):
        cross_fit_outcomes(
            PerArmRidge(),
            context=np.ones((4, 1)),
            outcome=np.array([1.0, np.nan, np.nan, np.nan]),
            arm=np.zeros(4, dtype=int),
            n_arms=1,
            fold=np.array([0, 0, 1, 1]),
        )
