"""Gradient-boosted trees over context and arm."""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from pointsman.errors import InvalidParameterError
from pointsman.nuisance.batches import batches
from pointsman.types import ArmIndex, Context, PerArm, PerRound

MAX_ARMS = 255
"""The most categories scikit-learn's histograms can hold."""


class BoostedTrees(BaseEstimator):  # type: ignore[misc]
    """Histogram gradient boosting on the context with the arm as one more, categorical, feature.

    One ensemble for all arms, not one per arm: a tree shares what arms have in common and splits on the arm where
    they differ, so arms keep their own response to the context (which a one-hot *linear* model denies them) and an
    arm with few rounds still borrows from the others. Slow and weak on dense embeddings; meant for side features such
    as prompt length or task.

    Runs on one thread, so that the same seed gives the same trees. An arm without rounds predicts the mean outcome of
    all rounds.

    Args:
        n_trees: Trees at most; on more than 10,000 rounds boosting stops early on a held-out tenth.
        learning_rate: Shrinkage of each tree, > 0.
        max_leaf_nodes: Leaves a tree.
        min_samples_leaf: Rounds in a leaf at least.
        seed: Draws the held-out tenth.
    """

    def __init__(
        self,
        *,
        n_trees: int = 100,
        learning_rate: float = 0.1,
        max_leaf_nodes: int = 31,
        min_samples_leaf: int = 20,
        seed: int = 0,
    ) -> None:
        self.n_trees = n_trees
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.seed = seed

    def fit(
        self,
        X: Context,
        y: PerRound,
        *,
        arm: ArmIndex,
        n_arms: int,
        sample_weight: PerRound | None = None,
    ) -> Self:
        """Grow the trees. y holds no NaN.

        Raises:
            InvalidParameterError: There are more arms than `MAX_ARMS`.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        if n_arms > MAX_ARMS:
            raise InvalidParameterError(f"n_arms must be at most {MAX_ARMS} for boosted trees; got {n_arms}")
        self.logged_ = np.bincount(arm, minlength=n_arms) > 0
        self.mean_ = float(np.average(y, weights=sample_weight))
        n_features = X.shape[1]
        self.trees_ = HistGradientBoostingRegressor(
            max_iter=self.n_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_leaf=self.min_samples_leaf,
            categorical_features=[n_features],
            random_state=self.seed,
        )
        with threadpool_limits(limits=1):
            self.trees_.fit(np.column_stack([X, arm]), y, sample_weight=sample_weight)
        return self

    def predict(self, X: Context) -> PerArm:
        """Return mu_t(x) for every arm, (n_rounds, n_arms), in the unit of y."""
        from threadpoolctl import threadpool_limits

        n_arms = self.logged_.size
        predicted = np.full((len(X), n_arms), self.mean_)
        with threadpool_limits(limits=1):
            for rows in batches(np.arange(len(X)), n_features=X.shape[1]):
                features = np.column_stack([X[rows], np.zeros(rows.size)])
                for t in np.flatnonzero(self.logged_):
                    features[:, -1] = t
                    predicted[rows, t] = self.trees_.predict(features)
        return predicted
