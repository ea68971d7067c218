"""A Gaussian linear regression that learns one outcome at a time, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

from pointsman.errors import InvalidParameterError
from pointsman.types import Arrays

Row: TypeAlias = Sequence[tuple[slice, NDArray[np.float64]]]
"""A row of a design by its pieces that are not zero: where they stand, and their values."""

REFACTOR_EVERY = 512
"""Rank-one updates after which the covariance is computed anew from the precision: rounding has then moved it by some
1e-12 of itself, and the factorisation costs each update a few microseconds."""


class LinearPosterior:
    """w given outcomes y_i = phi_i . w + noise of variance s / weight_i, with the prior w ~ N(prior_mean, diag(V)).

        precision  P = diag(1 / V) + sum_i weight_i phi_i phi_i' / s,     P (mean - prior_mean) = r,
                   r = sum_i weight_i (y_i - phi_i . prior_mean) phi_i / s

    The covariance P^-1 is kept by rank-one updates (Sherman and Morrison) and computed anew from P every
    `REFACTOR_EVERY` of them; until then outcomes wait to be added to P all at once. Rows phi are given by their nonzero
    pieces: a row of one arm touches that arm's block and what all arms share. Forgetting moves P and r towards the
    prior, so that nothing is ever less certain than before the first outcome.

    Args:
        prior_variance: (n_columns,) V, each > 0.
        noise: s > 0.
        prior_mean: (n_columns,); zero where None.

    Attributes:
        mean: (n_columns,) posterior mean.
        covariance: (n_columns, n_columns) posterior covariance.
        n_updates: Outcomes learned from.

    References:
        Sherman and Morrison (1950), Annals of Mathematical Statistics 21(1); Kulhavy and Zarrop (1993), International
        Journal of Control 58(4): forgetting towards a prior.
    """

    def __init__(
        self,
        prior_variance: NDArray[np.float64],
        *,
        noise: float,
        prior_mean: NDArray[np.float64] | None = None,
    ) -> None:
        variance = np.asarray(prior_variance, dtype=np.float64)
        if variance.ndim != 1 or not (np.isfinite(variance) & (variance > 0)).all():
            raise InvalidParameterError(f"prior_variance must be a list of finite numbers > 0; got {prior_variance}")
        if not (np.isfinite(noise) and noise > 0):
            raise InvalidParameterError(f"noise must be a finite number > 0; got {noise}")
        self.prior_variance = variance
        self.prior_mean = np.zeros(variance.size) if prior_mean is None else np.array(prior_mean, dtype=np.float64)
        self.noise = noise
        self.precision = np.diag(1 / variance)
        self.shift = np.zeros(variance.size)
        # Column by column, as BLAS updates it in place.
        self.covariance = np.asfortranarray(np.diag(variance))
        self.mean = self.prior_mean.copy()
        self.n_updates = 0
        self._waiting: list[tuple[Row, float, float]] = []

    def update(self, row: Row, outcome: float, *, weight: float = 1.0) -> tuple[float, float]:
        """Learn from one outcome; return its mean and variance, without the noise, as they were expected before.

        Args:
            row: phi, its pieces that are not zero; pieces do not overlap.
            outcome: y.
            weight: Of the outcome, >= 0; one stands for variance s.
        """
        scale = weight / self.noise
        gain = self.spread(row)
        variance = expected = 0.0
        for place, values in row:
            variance += float(values.dot(gain[place]))
            expected += float(values.dot(self.mean[place]))
        if scale == 0:
            return expected, variance
        total = variance + 1 / scale
        self.mean += gain * ((outcome - expected) / total)
        # In place: the covariance is symmetric, so its rows are columns. Increments, matrix and what may be overwritten
        # go by their places: by name they take a microsecond more.
        dger(-1 / total, gain, gain, 1, 1, self.covariance, 0, 0, 1)
        self._waiting.append((row, outcome, scale))
        self.n_updates += 1
        if len(self._waiting) >= REFACTOR_EVERY:
            self.refactor()
        return expected, variance

    def revise(self, row: Row, difference: float, *, weight: float = 1.0) -> None:
        """Take an outcome that was learned to have been higher by `difference`: the mean moves, nothing else."""
        scale = weight / self.noise
        self.mean += self.spread(row) * (scale * difference)
        for place, values in row:
            self.shift[place] += scale * difference * values

    def spread(self, row: Row) -> NDArray[np.float64]:
        """Return covariance times phi, (n_columns,)."""
        (place, values), *others = row
        spread = self.covariance[:, place].dot(values)
        for place, values in others:
            spread += self.covariance[:, place].dot(values)
        return np.asarray(spread)

    def update_many(
        self, rows: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> None:
        """Learn from many outcomes at once: the same as one by one, for one factorisation.

        Args:
            rows: (n, n_columns) phi.
            outcomes: (n,) y.
            weights: (n,) >= 0.
        """
        weighted = rows * weights[:, None]
        cross = weighted.T @ (outcomes - rows @ self.prior_mean)
        self.add_moments(weighted.T @ rows, cross, n_outcomes=int(np.count_nonzero(weights)))

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sum_i weight_i phi_i phi_i' and sum_i weight_i (y_i - phi_i . prior_mean) phi_i of all outcomes."""
        self._settle()
        return self.noise * (self.precision - np.diag(1 / self.prior_variance)), self.noise * self.shift

    def add_moments(self, gram: NDArray[np.float64], cross: NDArray[np.float64], *, n_outcomes: int) -> None:
        """Learn from outcomes by their `moments`, as if one by one."""
        self._settle()
        self.precision += gram / self.noise
        self.shift += cross / self.noise
        self.n_updates += n_outcomes
        self.refactor()

    def extend(self, prior_variance: NDArray[np.float64]) -> None:
        """Take in coefficients of which nothing is known but their prior N(0, diag(prior_variance)), as the last."""
        self.refactor()
        n, more = self.mean.size, prior_variance.size
        whole = np.zeros((n + more, n + more))
        whole[:n, :n] = self.precision
        whole[n:, n:] = np.diag(1 / prior_variance)
        self.precision = whole
        self.prior_variance = np.concatenate([self.prior_variance, prior_variance])
        self.prior_mean = np.concatenate([self.prior_mean, np.zeros(more)])
        self.shift = np.concatenate([self.shift, np.zeros(more)])
        self.refactor()

    def forget(self, kept: float) -> None:
        """Move the posterior towards the prior: every outcome so far keeps this share of its weight.

        Args:
            kept: In [0, 1]; 0 is to know nothing but the prior.

        Raises:
            InvalidParameterError: `kept` lies outside [0, 1].
        """
        _check_share(kept)
        self._settle()
        prior = np.diag(1 / self.prior_variance)
        self.precision = kept * (self.precision - prior) + prior
        self.shift = kept * self.shift
        self.refactor()

    def loosen(self, columns: NDArray[np.int64], kept: float) -> None:
        """Take these coefficients to have moved since: their means stay, what outcomes said of them counts less.

        With G the outcomes' second moments over s and D the root of `kept` on these columns, 1 elsewhere, the precision
        becomes diag(1 / V) + D G D: what other coefficients owe to the outcomes stays.

        Args:
            columns: Which.
            kept: In [0, 1]; 0 leaves them as uncertain as before the first outcome.

        Raises:
            InvalidParameterError: `kept` lies outside [0, 1].
        """
        _check_share(kept)
        self.refactor()
        factor = np.ones(self.mean.size)
        factor[columns] = np.sqrt(kept)
        prior = np.diag(1 / self.prior_variance)
        self.precision = prior + (self.precision - prior) * (factor[:, None] * factor)
        self.recentre(self.mean)

    @property
    def explained(self) -> float:
        """What r explains, r' P^-1 r: squares of outcomes about the prior mean, over s, less this are their misfit."""
        self._settle()
        return float(self.shift @ (self.mean - self.prior_mean))

    def recentre(self, mean: NDArray[np.float64]) -> None:
        """Move the mean there, as if the outcomes so far had said so; the covariance stays."""
        self._settle()
        self.shift = self.precision @ (mean - self.prior_mean)
        self.refactor()

    def refactor(self) -> None:
        """Compute covariance and mean anew from the precision."""
        from scipy.linalg import cho_factor, cho_solve

        self._settle()
        # In units of the prior the precision is I plus something positive: well conditioned whatever the units.
        root = np.sqrt(self.prior_variance)
        factor = cho_factor(self.precision * (root[:, None] * root), lower=True, check_finite=False)
        inverse = cho_solve(factor, np.eye(root.size), check_finite=False) * (root[:, None] * root)
        self.covariance = np.asfortranarray((inverse + inverse.T) / 2)
        self.mean = self.prior_mean + self.covariance @ self.shift

    def state(self) -> Arrays:
        """Return all that `from_state` needs."""
        self._settle()
        return {
            "prior_variance": self.prior_variance,
            "prior_mean": self.prior_mean,
            "noise": np.array([self.noise]),
            "precision": self.precision,
            "shift": self.shift,
            "n_updates": np.array([self.n_updates]),
        }

    @classmethod
    def from_state(cls, arrays: Arrays) -> Self:
        """Return the posterior that `state` described."""
        posterior = cls(arrays["prior_variance"], noise=float(arrays["noise"][0]), prior_mean=arrays["prior_mean"])
        posterior.precision, posterior.shift = arrays["precision"].copy(), arrays["shift"].copy()
        posterior.n_updates = int(arrays["n_updates"][0])
        posterior.refactor()
        return posterior

    def _settle(self) -> None:
        """Add the outcomes that wait to the precision."""
        if not self._waiting:
            return
        rows = np.zeros((len(self._waiting), self.mean.size))
        outcomes, scales = np.empty(len(rows)), np.empty(len(rows))
        for i, (row, outcome, scale) in enumerate(self._waiting):
            for place, values in row:
                rows[i, place] = values
            outcomes[i], scales[i] = outcome, scale
        self._waiting.clear()
        scaled = rows * scales[:, None]
        self.precision += scaled.T @ rows
        self.shift += scaled.T @ (outcomes - rows @ self.prior_mean)


def _check_share(kept: float) -> None:
    if not 0 <= kept <= 1:
        raise InvalidParameterError(f"kept must be in [0, 1]; got {kept}")
