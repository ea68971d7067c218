"""What an outcome model is: the regression that predicts every arm's outcome from the context."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

from pointsman.types import ArmIndex, Context, PerArm, PerRound


@runtime_checkable
class OutcomeModel(Protocol):
    """A scikit-learn style regression with one prediction per arm.

    `get_params` / `set_params` make it clonable by `sklearn.base.clone`, so a user's own model works.
    """

    def fit(
        self,
        X: Context,
        y: PerRound,
        *,
        arm: ArmIndex,
        n_arms: int,
        sample_weight: PerRound | None = None,
    ) -> Self:
        """Learn mu_t(x) = E[y | x, t] from the rounds in which arm t served. y holds no NaN."""

    def predict(self, X: Context) -> PerArm:
        """Return mu_t(x) for every arm, (n_rounds, n_arms)."""


@runtime_checkable
class CrossFittingModel(Protocol):
    """An outcome model that cross-fits itself, for less than one `fit` a fold."""

    def cross_fit(
        self,
        X: Context,
        y: PerRound,
        *,
        arm: ArmIndex,
        n_arms: int,
        fold: ArmIndex,
        sample_weight: PerRound | None = None,
    ) -> PerArm:
        """Return for every round what `predict` gives after `fit` on the other folds, (n_rounds, n_arms).

        Rounds whose y is NaN are predicted but teach nothing. At least two folds hold outcomes.
        """
