"""Boosted trees over context and arm."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from pointsman.errors import InvalidParameterError
from pointsman.nuisance.boosted import BoostedTrees


def test_arms_keep_their_own_response_to_the_context(rng):
    """Two arms of opposite slope are told apart, which a pooled one-hot linear model cannot do."""
    context = rng.uniform(-1, 1, (2_000, 1))
    arm = rng.integers(0, 2, 2_000)
    outcome = np.where(arm == 0, 1, -1) * context[:, 0]

    predicted = BoostedTrees().fit(context, outcome, arm=arm, n_arms=2).predict(np.array([[-0.8], [0.8]]))

    # A leaf of 20 rounds spans about 0.04 of the range; 100 steps of 0.1 leave 0.9^100 of the signal.
    np.testing.assert_allclose(predicted, [[-0.8, 0.8], [0.8, -0.8]], atol=0.1)


def test_the_same_seed_gives_the_same_trees(rng):
    """Bit for bit, early stopping's split included."""
    context, arm = rng.normal(size=(10_500, 2)), rng.integers(0, 3, 10_500)
    outcome = context[:, 0] + rng.normal(size=10_500)
    model = BoostedTrees(n_trees=5, seed=3)

    first = model.fit(context, outcome, arm=arm, n_arms=3).predict(context)
    second = clone(model).fit(context, outcome, arm=arm, n_arms=3).predict(context)

    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("n_rounds", [1, 2, 30])
def test_small_logs_and_silent_arms_predict_a_mean(n_rounds):
    """A single round, constant outcomes and an arm that never served are no errors."""
    predicted = (
        BoostedTrees()
        .fit(np.zeros((n_rounds, 1)), np.full(n_rounds, 0.5), arm=np.zeros(n_rounds, dtype=int), n_arms=2)
        .predict(np.ones((3, 1)))
    )

    np.testing.assert_allclose(predicted, 0.5)


def test_more_arms_than_categories_are_refused():
    """scikit-learn's limit is ours to explain."""
    with pytest.raises(InvalidParameterError, match="n_arms"):
        BoostedTrees().fit(np.zeros((1, 1)), np.zeros(1), arm=np.zeros(1, dtype=int), n_arms=256)
