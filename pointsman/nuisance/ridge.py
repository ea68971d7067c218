"""Ridge regression per arm, its penalty chosen per arm by closed-form leave-one-out error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from pointsman.errors import InvalidParameterError
from pointsman.nuisance.batches import affine, batches
from pointsman.types import ArmIndex, Context, PerArm, PerRound

RELATIVE_PENALTIES = np.append(np.logspace(-3, 4, 29), np.inf)
"""Penalties in units of the mean eigenvalue of an arm's Gram matrix: from all but least squares to the arm's mean."""


@dataclass(frozen=True, kw_only=True)
class ArmMoments:
    """First and second moments of context and outcome, arm by arm; the moments of two shards add up to those of both.

    Attributes:
        n_rounds: (n_arms,) rounds of each arm.
        weight: (n_arms,) their total weight.
        context: (n_arms, n_features) weighted mean context.
        outcome: (n_arms,) weighted mean outcome.
        gram: (n_arms, n_features, n_features) weighted sum of outer products of the centred context.
        cross: (n_arms, n_features) weighted sum of centred context times centred outcome.
    """

    n_rounds: NDArray[np.int64]
    weight: NDArray[np.float64]
    context: NDArray[np.float64]
    outcome: NDArray[np.float64]
    gram: NDArray[np.float64]
    cross: NDArray[np.float64]

    @classmethod
    def of(cls, X: Context, y: PerRound, *, arm: ArmIndex, n_arms: int, sample_weight: PerRound) -> ArmMoments:
        """Return the moments of these rounds, read in batches."""
        n_features = X.shape[1]
        moments = cls(
            n_rounds=np.bincount(arm, minlength=n_arms).astype(np.int64),
            weight=np.zeros(n_arms),
            context=np.zeros((n_arms, n_features)),
            outcome=np.zeros(n_arms),
            gram=np.zeros((n_arms, n_features, n_features)),
            cross=np.zeros((n_arms, n_features)),
        )
        for t in range(n_arms):
            for rows in batches(np.flatnonzero(arm == t), n_features=n_features):
                moments._add(t, X[rows].astype(np.float64), y[rows], sample_weight[rows])
        return moments

    def _add(self, t: int, x: NDArray[np.float64], y: PerRound, weight: PerRound) -> None:
        total = weight.sum()
        if total == 0:
            return
        mean_x, mean_y = weight @ x / total, weight @ y / total
        x = x - mean_x
        weighted = x * weight[:, None]
        self._merge(t, total, mean_x, mean_y, weighted.T @ x, weighted.T @ (y - mean_y))

    def _merge(
        self,
        t: int,
        weight: float,
        context: NDArray[np.float64],
        outcome: float,
        gram: NDArray[np.float64],
        cross: NDArray[np.float64],
    ) -> None:
        # Centred sums are merged with their shift (Chan, Golub and LeVeque 1983): raw sums of squares would cancel
        # where features are far from zero.
        total = self.weight[t] + weight
        step_x, step_y = context - self.context[t], outcome - self.outcome[t]
        between = self.weight[t] * weight / total
        self.gram[t] += gram + between * np.outer(step_x, step_x)
        self.cross[t] += cross + between * step_x * step_y
        self.context[t] += step_x * (weight / total)
        self.outcome[t] += step_y * (weight / total)
        self.weight[t] = total

    def __add__(self, other: ArmMoments) -> ArmMoments:
        merged = ArmMoments(
            n_rounds=self.n_rounds + other.n_rounds,
            weight=self.weight.copy(),
            context=self.context.copy(),
            outcome=self.outcome.copy(),
            gram=self.gram.copy(),
            cross=self.cross.copy(),
        )
        for t in np.flatnonzero(other.weight > 0):
            merged._merge(int(t), other.weight[t], other.context[t], other.outcome[t], other.gram[t], other.cross[t])
        return merged


class PerArmRidge(BaseEstimator):  # type: ignore[misc]
    """Ridge regression with its own slopes, unpenalised intercept and penalty for every arm.

    mu_t(x) = b_t + x . w_t minimises  sum_i v_i (y_i - b_t - x_i . w_t)^2 + penalty_t |w_t|^2  over the rounds of arm
    t, and penalty_t minimises the leave-one-out error

        sum_i v_i ((y_i - mu_t(x_i)) / (1 - h_i))^2,    h_i = v_i (1 / V + z_i . (G + penalty I)^-1 z_i)

    with weights v, V their sum, z the centred context and G its Gram matrix. One eigendecomposition of G gives the
    whole path; the rounds are read twice, in batches, once for G and once for the leverages.

    An arm without rounds predicts the mean outcome of all rounds.

    Args:
        penalties: Penalties to choose from, each > 0 and in scikit-learn's unit for `Ridge.alpha`; infinity is the
            arm's mean. `RELATIVE_PENALTIES` times the mean eigenvalue of the arm's Gram matrix where None.

    Attributes:
        coef_: (n_arms, n_features).
        intercept_: (n_arms,).
        penalty_: (n_arms,) the penalties chosen; infinity where an arm has too few rounds to choose by.
        loo_error_: (n_arms,) weighted mean squared leave-one-out error; NaN where it does not exist.
        n_rounds_: (n_arms,) rounds of each arm.

    References:
        Allen (1974), Technometrics 16(1): the leave-one-out identity.
    """

    def __init__(self, *, penalties: Sequence[float] | None = None) -> None:
        self.penalties = penalties

    def fit(
        self,
        X: Context,
        y: PerRound,
        *,
        arm: ArmIndex,
        n_arms: int,
        sample_weight: PerRound | None = None,
    ) -> Self:
        """Learn every arm's regression from the rounds it served.

        Args:
            X: Context, (n_rounds, n_features).
            y: Outcome of the logged arm; holds no NaN.
            arm: Logged arm.
            n_arms: Number of arms.
            sample_weight: Weight of each round, >= 0; one where None.

        Raises:
            InvalidParameterError: An outcome is not finite, there is no round, or a penalty is not positive.
        """
        if len(y) == 0 or not np.isfinite(y).all():
            raise InvalidParameterError(
                f"y must hold at least one outcome and only finite ones; got {np.count_nonzero(~np.isfinite(y))} "
                f"that are not among {len(y)}; leave those rounds out"
            )
        y = np.asarray(y, dtype=np.float64)
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        moments = ArmMoments.of(X, y, arm=arm, n_arms=n_arms, sample_weight=weight)
        n_features = X.shape[1]
        self.n_rounds_ = moments.n_rounds
        self.coef_ = np.zeros((n_arms, n_features))
        self.intercept_ = np.full(n_arms, np.average(y, weights=weight))
        self.penalty_ = np.full(n_arms, np.inf)
        self.loo_error_ = np.full(n_arms, np.nan)
        for t in np.flatnonzero(moments.weight > 0):
            eigenvalues, axes = np.linalg.eigh(moments.gram[t])
            eigenvalues = np.maximum(eigenvalues, 0.0)
            penalties = self._penalties(eigenvalues)
            shrinkage = 1 / (eigenvalues[:, None] + penalties)
            path = (axes.T @ moments.cross[t])[:, None] * shrinkage
            error = np.zeros(penalties.size)
            for rows in batches(np.flatnonzero(arm == t), n_features=n_features):
                z = (X[rows].astype(np.float64) - moments.context[t]) @ axes
                v = weight[rows, None]
                leverage = v * (1 / moments.weight[t] + z**2 @ shrinkage)
                residual = (y[rows] - moments.outcome[t])[:, None] - z @ path
                with np.errstate(divide="ignore", invalid="ignore"):
                    error += (v * (residual / (1 - leverage)) ** 2).sum(axis=0)
            error[~np.isfinite(error)] = np.inf  # a round that alone decides its own prediction cannot be left out
            best = int(error.argmin())
            if np.isfinite(error[best]):
                self.penalty_[t] = penalties[best]
                self.loo_error_[t] = error[best] / moments.weight[t]
                self.coef_[t] = axes @ path[:, best]
            self.intercept_[t] = moments.outcome[t] - moments.context[t] @ self.coef_[t]
        return self

    def predict(self, X: Context) -> PerArm:
        """Return mu_t(x) for every arm, (n_rounds, n_arms), in the unit of y."""
        return affine(X, coef=self.coef_.T, intercept=self.intercept_)

    def _penalties(self, eigenvalues: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the penalties, largest first, so that a tie goes to the simplest regression."""
        if self.penalties is None:
            scale = eigenvalues.mean()
            return np.asarray(RELATIVE_PENALTIES[::-1] * (scale if scale > 0 else 1.0))
        penalties = np.sort(np.asarray(self.penalties, dtype=np.float64))[::-1]
        if penalties.size == 0 or not (penalties > 0).all():
            raise InvalidParameterError(f"penalties must be one or more numbers > 0; got {self.penalties}")
        return penalties
