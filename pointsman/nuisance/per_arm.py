"""Any scikit-learn regressor, one copy per arm."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from pointsman.types import ArmIndex, Context, PerArm, PerRound


class PerArmRegressor(BaseEstimator):  # type: ignore[misc]
    """One clone of a scikit-learn regressor per arm, each fitted on the rounds its arm served.

    An arm with one round predicts its outcome and an arm without rounds the mean outcome of all: a regression has
    nothing to go by there, and many refuse to be fitted.

    Args:
        estimator: A regressor with scikit-learn's `fit(X, y)` and `predict(X)`; `sample_weight` is passed to `fit`
            only where it is given.

    Attributes:
        estimators_: One fitted regressor per arm; None for an arm with fewer than two rounds.
        mean_: (n_arms,) mean outcome of each arm; of all rounds for an arm without any.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(
        self,
        X: Context,
        y: PerRound,
        *,
        arm: ArmIndex,
        n_arms: int,
        sample_weight: PerRound | None = None,
    ) -> Self:
        """Fit one regressor per arm on the rounds it served. y holds no NaN."""
        self.mean_ = np.full(n_arms, np.average(y, weights=sample_weight))
        self.estimators_: list[Any] = [None] * n_arms
        for t in range(n_arms):
            rows = np.flatnonzero(arm == t)
            if rows.size:
                weight = None if sample_weight is None else sample_weight[rows]
                self.mean_[t] = np.average(y[rows], weights=weight)
            if rows.size > 1:
                weighted = {} if sample_weight is None else {"sample_weight": sample_weight[rows]}
                self.estimators_[t] = clone(self.estimator).fit(X[rows], y[rows], **weighted)
        return self

    def predict(self, X: Context) -> PerArm:
        """Return mu_t(x) for every arm, (n_rounds, n_arms), in the unit of y."""
        predicted = np.tile(self.mean_, (len(X), 1))
        for t, estimator in enumerate(self.estimators_):
            if estimator is not None:
                predicted[:, t] = estimator.predict(X)
        return predicted
