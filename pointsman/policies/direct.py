"""Regress and compare: on the logged outcomes (`direct`) or on the doubly robust scores (`dr`)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.nuisance.base import OutcomeModel
from pointsman.policies.base import check_context, check_rounds
from pointsman.policies.comparing import LinearPolicy
from pointsman.scores import Scores
from pointsman.types import Arrays, Context, Eligible, PerArm, PerRound, State

RELATIVE_PENALTIES: tuple[float, ...] = tuple(float(x) for x in np.logspace(-3, 5, 17))
"""Ridge penalties tried, as multiples of the mean eigenvalue of the centred Gram matrix: the unit of the features and
the number of rounds drop out. From next to none to so much that only the arms' means are left, half a decade apart."""


class Direct(LinearPolicy):
    """Regresses quality and cost on the context, each arm on the rounds it served, and compares.

    Args:
        outcome_model: The regression, cloned for quality and for cost; ridge per arm where None. Any model works; one
            with `coef_` (n_arms, n_features) and `intercept_` (n_arms,) can also be saved.

    Attributes:
        models_: The fitted models of quality and cost where they are not linear, else None.
    """

    name = "direct"

    models_: tuple[OutcomeModel, OutcomeModel | None] | None

    def __init__(self, *, outcome_model: OutcomeModel | None = None) -> None:
        self.outcome_model = outcome_model

    def fit(self, context: Context, scores: Scores) -> Self:
        """Fit both regressions on the rounds whose outcome is known and return self."""
        check_rounds(context, scores)
        shape = (scores.n_arms, context.shape[1])
        quality = self._regress(context, scores, scores.quality, weight=scores.quality_weight)
        has_cost = np.isfinite(scores.cost_usd).any()
        cost = self._regress(context, scores, scores.cost_usd, weight=None) if has_cost else None
        self.models_ = None
        self.n_features_ = shape[1]
        self.quality_coef_, self.quality_intercept_ = np.zeros(shape), np.full(shape[0], np.nan)
        self.cost_coef_, self.cost_intercept_ = np.zeros(shape), np.full(shape[0], np.nan)
        if all(model is None or np.shape(getattr(model, "coef_", ())) == shape for model in (quality, cost)):
            self.quality_coef_, self.quality_intercept_ = _line_of(quality)
            if cost is not None:
                self.cost_coef_, self.cost_intercept_ = _line_of(cost)
        else:
            self.models_ = (quality, cost)
        return self

    def predict(self, context: Context) -> tuple[PerArm, PerArm]:
        """Return predicted quality and cost_usd of every arm; cost is NaN where the log had none."""
        if self.models_ is None:
            return super().predict(context)
        check_context(context, n_features=self.n_features_)
        quality_model, cost_model = self.models_
        quality = quality_model.predict(context)
        return quality, np.full_like(quality, np.nan) if cost_model is None else cost_model.predict(context)

    def _regress(self, context: Context, scores: Scores, outcome: PerRound, *, weight: PerRound | None) -> OutcomeModel:
        from sklearn.base import clone

        known = np.isfinite(outcome)
        model: OutcomeModel = clone(_ridge_per_arm() if self.outcome_model is None else self.outcome_model)
        return model.fit(
            context[known],
            outcome[known],
            arm=scores.arm[known],
            n_arms=scores.n_arms,
            sample_weight=None if weight is None else weight[known],
        )

    def state(self) -> tuple[State, Arrays]:
        """Return the coefficients.

        Raises:
            InvalidParameterError: The outcome model is not linear, so that no arrays describe it.
        """
        if self.models_ is not None:
            raise InvalidParameterError(
                "outcome_model must be linear (coef_ and intercept_ for every arm) for the policy to be saved; "
                f"got {type(self.models_[0]).__name__}"
            )
        return super().state()

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = super().from_state(values, arrays)
        policy.models_ = None
        return policy


class DoublyRobust(LinearPolicy):
    """Regresses the doubly robust scores of each arm on the context over all rounds, and compares.

    For every arm t, minimise sum_i (G_i(t) - b_t - w_t x_i)^2 + penalty_t |w_t|^2, for quality and for cost apart,
    over the rounds in which t was eligible; each penalty by leave-one-out error.

    Args:
        relative_penalties: Ridge penalties to try, as multiples of the mean eigenvalue of the centred Gram matrix.

    References:
        Kennedy (2023), Electronic Journal of Statistics 17(2): regression on doubly robust pseudo-outcomes.
    """

    name = "dr"

    def __init__(self, *, relative_penalties: tuple[float, ...] = RELATIVE_PENALTIES) -> None:
        self.relative_penalties = tuple(relative_penalties)

    def fit(self, context: Context, scores: Scores) -> Self:
        """Regress both kinds of scores and return self."""
        check_rounds(context, scores)
        shape = (scores.n_arms, context.shape[1])
        self.quality_coef_, self.quality_intercept_ = self._regress(context, scores.quality_scores, scores.eligible)
        cost_scores = scores.cost_scores
        if np.isfinite(cost_scores).all():
            self.cost_coef_, self.cost_intercept_ = self._regress(context, cost_scores, scores.eligible)
        else:
            self.cost_coef_, self.cost_intercept_ = np.zeros(shape), np.full(shape[0], np.nan)
        return self

    def _regress(
        self, context: Context, pseudo_outcome: PerArm, eligible: Eligible
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if eligible.all():
            return self._ridge(context, pseudo_outcome)
        lines = []
        for arm, mine in enumerate(eligible.T):
            # An arm that was nowhere eligible has the outcome model's predictions in all rounds.
            rows = mine if mine.any() else np.ones_like(mine)
            lines.append(self._ridge(context[rows], pseudo_outcome[rows, arm : arm + 1]))
        return np.concatenate([coef for coef, _ in lines]), np.concatenate([intercept for _, intercept in lines])

    def _ridge(self, context: Context, y: PerArm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from sklearn.linear_model import RidgeCV

        mean_eigenvalue = float(context.var(axis=0, dtype=np.float64).mean()) * len(context)
        if len(context) < 2 or mean_eigenvalue == 0:
            return np.zeros((y.shape[1], context.shape[1])), y.mean(axis=0)
        ridge = RidgeCV(alphas=mean_eigenvalue * np.array(self.relative_penalties), alpha_per_target=True)
        ridge.fit(np.asarray(context, dtype=np.float64), y)
        shape = (y.shape[1], context.shape[1])
        return np.reshape(ridge.coef_, shape), np.reshape(ridge.intercept_, shape[0])

    def options(self) -> State:
        """Return the constructor's arguments, JSON-ready."""
        return {"relative_penalties": list(self.relative_penalties)}


def _ridge_per_arm() -> Any:
    from pointsman.nuisance.ridge import PerArmRidge

    return PerArmRidge()


def _line_of(model: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array(model.coef_, dtype=np.float64), np.array(model.intercept_, dtype=np.float64)
