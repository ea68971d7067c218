"""Ridge regression per arm, its penalty chosen per arm from the moments of its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Self

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
        spread: (n_arms,) weighted sum of squares of the centred outcome.
    """

    n_rounds: NDArray[np.int64]
    weight: NDArray[np.float64]
    context: NDArray[np.float64]
    outcome: NDArray[np.float64]
    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, X: Context, y: PerRound, *, arm: ArmIndex, n_arms: int, sample_weight: PerRound) -> ArmMoments:
        """Return the moments of these rounds, read in batches."""
        moments = cls._none(n_arms=n_arms, n_features=X.shape[1])
        for t in range(n_arms):
            moments._read(t, X, y, sample_weight, rows=np.flatnonzero(arm == t))
        return moments

    @classmethod
    def _none(cls, *, n_arms: int, n_features: int) -> ArmMoments:
        return cls(
            n_rounds=np.zeros(n_arms, dtype=np.int64),
            weight=np.zeros(n_arms),
            context=np.zeros((n_arms, n_features)),
            outcome=np.zeros(n_arms),
            gram=np.zeros((n_arms, n_features, n_features)),
            cross=np.zeros((n_arms, n_features)),
            spread=np.zeros(n_arms),
        )

    def _read(self, t: int, X: Context, y: PerRound, weight: PerRound, *, rows: NDArray[np.int64]) -> None:
        self.n_rounds[t] += rows.size
        for some in batches(rows, n_features=X.shape[1]):
            self._add(t, X[some].astype(np.float64, copy=False), y[some], weight[some])  # X[some] is a copy

    def _add(self, t: int, x: NDArray[np.float64], y: PerRound, weight: PerRound) -> None:
        """Add these rounds of arm t; x is overwritten."""
        total = weight.sum()
        if total == 0:
            return
        mean_x, mean_y = weight @ x / total, weight @ y / total
        x -= mean_x
        y = y - mean_y
        if (weight != 1).any():
            root = np.sqrt(weight)
            x *= root[:, None]
            y *= root
        # Of one array and its own transpose BLAS computes one half only.
        self.gram[t] += x.T @ x
        self.cross[t] += x.T @ y
        self.spread[t] += y @ y
        self._shift(t, weight=total, context=mean_x, outcome=mean_y)

    def _shift(self, t: int, *, weight: float, context: NDArray[np.float64], outcome: float) -> None:
        """Bring sums about two means, of arm t and of rounds of this weight, to the mean of both."""
        # So merged (Chan, Golub and LeVeque 1983), nothing cancels; raw sums of squares would where features are far
        # from zero.
        total = self.weight[t] + weight
        step_x, step_y = context - self.context[t], outcome - self.outcome[t]
        between = self.weight[t] * weight / total
        if between > 0:
            self.gram[t] += (between * step_x)[:, None] * step_x
            self.cross[t] += between * step_y * step_x
            self.spread[t] += between * step_y**2
        self.context[t] += step_x * (weight / total)
        self.outcome[t] += step_y * (weight / total)
        self.weight[t] = total

    def __add__(self, other: ArmMoments) -> ArmMoments:
        merged = ArmMoments(
            n_rounds=self.n_rounds + other.n_rounds,
            weight=self.weight.copy(),
            context=self.context.copy(),
            outcome=self.outcome.copy(),
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            spread=self.spread + other.spread,
        )
        for t in np.flatnonzero(other.weight > 0):
            merged._shift(int(t), weight=other.weight[t], context=other.context[t], outcome=other.outcome[t])
        return merged


class _Fit(NamedTuple):
    """One arm's slopes and the penalty that chose them."""

    coef: NDArray[np.float64]
    penalty: float


class PerArmRidge(BaseEstimator):  # type: ignore[misc]
    """Ridge regression with its own slopes, unpenalised intercept and penalty for every arm.

    mu_t(x) = b_t + x . w_t minimises  sum_i v_i (y_i - b_t - x_i . w_t)^2 + penalty_t |w_t|^2  over the rounds of arm
    t, with weights v. With z the centred context, G = sum_i v_i z_i z_i' and c = sum_i v_i z_i (y_i - mean), the
    penalty maximises the restricted evidence of w_t ~ N(0, s / penalty), y_i ~ N(b_t + x_i . w_t, s / v_i), that is,
    it minimises

        (n - 1) log q + log |I + G / penalty|,    q = sum_i v_i (y_i - mean)^2 - c' (G + penalty I)^-1 c

    G is brought to tridiagonal form once, in which each penalty costs as little as reading c. No round is read a
    second time, so the moments of shards are enough, and folds share theirs (`cross_fit`).

    An arm without rounds predicts the mean outcome of all rounds.

    Args:
        penalties: Penalties to choose from, each > 0 and in scikit-learn's unit for `Ridge.alpha`; infinity is the
            arm's mean. `RELATIVE_PENALTIES` times the mean eigenvalue of the arm's Gram matrix where None.

    Attributes:
        coef_: (n_arms, n_features).
        intercept_: (n_arms,).
        penalty_: (n_arms,) the penalties chosen; infinity where an arm has too few rounds to choose by.
        n_rounds_: (n_arms,) rounds of each arm.

    References:
        Patterson and Thompson (1971), Biometrika 58(3): restricted likelihood; MacKay (1992), Neural Computation 4(3):
        evidence.
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
        self._start(moments.n_rounds, mean=float(np.average(y, weights=weight)), n_features=X.shape[1])
        for t in range(n_arms):
            if moments.weight[t] > 0:
                self._take(t, moments, place=t, n_weighted=int(np.count_nonzero(weight[arm == t])))
        return self

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
        """Return what a fit on the other folds predicts for each round, from second moments computed once.

        Args:
            X: Context, (n_rounds, n_features).
            y: Outcome of the logged arm; a round whose outcome is NaN teaches nothing but is predicted. At least two
                folds hold outcomes.
            arm: Logged arm.
            n_arms: Number of arms.
            fold: Fold of each round.
            sample_weight: Weight of each round, >= 0; one where None.

        Returns:
            Predictions, (n_rounds, n_arms), those of a `fit` on the other folds.

        Raises:
            InvalidParameterError: A penalty is not positive.
        """
        n_features = X.shape[1]
        labels, position = np.unique(fold, return_inverse=True)
        known = ~np.isnan(y)
        weight = np.where(known, 1.0 if sample_weight is None else sample_weight, 0.0)
        outcome = np.where(known, y, 0.0)
        served = np.bincount(position * n_arms + arm, weights=known, minlength=labels.size * n_arms)
        served = served.reshape(labels.size, n_arms).astype(np.int64)
        total = np.bincount(position, weights=weight)
        sums = np.bincount(position, weights=weight * outcome)
        models = []
        for k in range(labels.size):
            model = PerArmRidge(penalties=self.penalties)
            mean = float(np.delete(sums, k).sum() / np.delete(total, k).sum())
            model._start(served.sum(axis=0) - served[k], mean=mean, n_features=n_features)
            models.append(model)
        for t in range(n_arms):
            mine = np.flatnonzero((arm == t) & (weight > 0))
            shards = []
            for k in range(labels.size):
                shard = ArmMoments._none(n_arms=1, n_features=n_features)
                shard._read(0, X, outcome, weight, rows=mine[position[mine] == k])
                shards.append(shard)
            for model, rest in zip(models, _without_each(shards), strict=True):
                if rest.weight[0] > 0:
                    model._take(t, rest, place=0, n_weighted=int(rest.n_rounds[0]))
        predicted = np.empty((len(y), n_arms))
        for k, model in enumerate(models):
            for rows in batches(np.flatnonzero(position == k), n_features=n_features):
                predicted[rows] = model.predict(X[rows])
        return predicted

    def predict(self, X: Context) -> PerArm:
        """Return mu_t(x) for every arm, (n_rounds, n_arms), in the unit of y."""
        return affine(X, coef=self.coef_.T, intercept=self.intercept_)

    def _start(self, n_rounds: NDArray[np.int64], *, mean: float, n_features: int) -> None:
        self.n_rounds_ = n_rounds
        self.coef_ = np.zeros((n_rounds.size, n_features))
        self.intercept_ = np.full(n_rounds.size, mean)
        self.penalty_ = np.full(n_rounds.size, np.inf)

    def _take(self, t: int, moments: ArmMoments, *, place: int, n_weighted: int) -> None:
        """Learn arm t from the moments in this place, of so many rounds with a positive weight."""
        coef, self.penalty_[t] = self._most_evident(
            moments.gram[place], moments.cross[place], float(moments.spread[place]), n_rounds=n_weighted
        )
        self.coef_[t] = coef
        self.intercept_[t] = moments.outcome[place] - moments.context[place] @ coef

    def _most_evident(
        self, gram: NDArray[np.float64], cross: NDArray[np.float64], spread: float, *, n_rounds: int
    ) -> _Fit:
        """Return the fit of the penalty of largest evidence; the arm's mean where nothing can be learned."""
        penalties = self._penalties(float(np.trace(gram)) / cross.size)
        best = _Fit(coef=np.zeros(cross.size), penalty=np.inf)
        if n_rounds < 2 or not spread > 0:
            return best
        rotation = _Tridiagonal.of(gram)
        rotated = rotation.apply(cross, transposed=True)
        smallest = np.inf
        for penalty in penalties:
            if np.isinf(penalty):
                solution, explained, log_determinant = np.zeros(cross.size), 0.0, 0.0
            else:
                solution, log_determinant = rotation.solve(rotated, penalty=penalty)
                explained = float(rotated @ solution)
            # What is left where all is explained is rounding; its logarithm must not win by being noise.
            left = max(spread - explained, np.finfo(np.float64).eps * spread)
            loss = (n_rounds - 1) * np.log(left / spread) + log_determinant
            if loss < smallest:
                smallest, best = loss, _Fit(coef=solution, penalty=float(penalty))
        return best._replace(coef=rotation.apply(best.coef, transposed=False))

    def _penalties(self, scale: float) -> NDArray[np.float64]:
        """Return the penalties, largest first, so that a tie goes to the simplest regression."""
        if self.penalties is None:
            return np.asarray(RELATIVE_PENALTIES[::-1] * (scale if scale > 0 else 1.0))
        penalties = np.sort(np.asarray(self.penalties, dtype=np.float64))[::-1]
        if penalties.size == 0 or not (penalties > 0).all():
            raise InvalidParameterError(f"penalties must be one or more numbers > 0; got {self.penalties}")
        return penalties


@dataclass(frozen=True, kw_only=True)
class _Tridiagonal:
    """A symmetric matrix as Q T Q', T tridiagonal and Q orthogonal, kept as LAPACK's reflectors."""

    reflectors: NDArray[np.float64]
    scales: NDArray[np.float64]
    diagonal: NDArray[np.float64]
    beside: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: NDArray[np.float64]) -> _Tridiagonal:
        from scipy.linalg import lapack

        size = len(matrix)
        packed, diagonal, beside, scales, info = lapack.dsytrd(matrix.T, lower=1, lwork=64 * size)
        assert info == 0  # noqa: S101 - LAPACK fails on wrong arguments only
        if size == 1:
            beside = np.zeros(1)  # what LAPACK's wrapper wants of a matrix that has nothing beside its diagonal
        return cls(reflectors=np.asfortranarray(packed[1:, :-1]), scales=scales, diagonal=diagonal, beside=beside)

    def apply(self, vector: NDArray[np.float64], *, transposed: bool) -> NDArray[np.float64]:
        """Return Q' v or Q v."""
        from scipy.linalg import lapack

        if vector.size < 2:
            return vector
        rotated, _, info = lapack.dormqr(
            "L", "T" if transposed else "N", self.reflectors, self.scales, vector[1:, None], lwork=64 * vector.size
        )
        assert info == 0  # noqa: S101 - LAPACK fails on wrong arguments only
        return np.concatenate([vector[:1], rotated[:, 0]])

    def solve(self, vector: NDArray[np.float64], *, penalty: float) -> tuple[NDArray[np.float64], float]:
        """Return (T + penalty I)^-1 v and log |I + T / penalty|."""
        from scipy.linalg import lapack

        pivots, _, solution, info = lapack.dptsv(self.diagonal + penalty, self.beside, vector)
        assert info == 0  # noqa: S101 - a Gram matrix plus a positive penalty is positive definite
        return solution, float(np.log(pivots / penalty).sum())


def _without_each(shards: Sequence[ArmMoments]) -> list[ArmMoments]:
    """Return, for each shard, the moments of all others: sums, for a difference would cancel."""
    before = list(accumulate(shards))
    after = list(accumulate(reversed(shards)))[::-1]
    return [after[1], *(before[k - 1] + after[k + 1] for k in range(1, len(shards) - 1)), before[-2]]
