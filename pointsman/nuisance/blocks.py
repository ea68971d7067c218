"""Linear regression whose coefficients come in blocks, each with a prior variance chosen by evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError

LOG_RANGE = 9.0
"""A log variance is sought within +-9 of its prior's centre: beyond, the precision matrix is as good as singular."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Coefficients that share a prior.

    Attributes:
        name: What they are of.
        n_columns: How many there are; they are adjacent columns of the design.
        variance: Centre of the prior on the variance of one coefficient, in squared units of the outcome over the
            feature.
        log_sd: Standard deviation of the normal prior on the logarithm of that variance; 0 leaves it as it is.

    Raises:
        InvalidParameterError: The variance is not above 0, or `log_sd` below 0.
    """

    name: str
    n_columns: int
    variance: float
    log_sd: float = 1.5

    def __post_init__(self) -> None:
        _check_prior(self.variance, self.log_sd, of=self.name)


class BlockRidge:
    """y = Phi w + noise,  w_j ~ N(0, v_b) for every coefficient j of block b,  noise ~ N(0, s).

    The variances v_b and s maximise the log evidence plus normal log priors on their logarithms,

        log p(y) = (r' S^-1 r / s^2 - y' y / s - log |S| - sum_j log v_b(j) - n log 2 pi s) / 2,

    with S = Phi' Phi / s + diag(1 / v) the posterior precision and r = Phi' y. Only Phi' Phi, r, y' y and n are needed,
    so the design is read once, in batches, and moments of shards add.

    Args:
        blocks: The blocks, in the order of the design's columns.
        noise: Centre of the prior on s.
        noise_log_sd: Standard deviation of the normal prior on log s.

    Attributes:
        coef_: (n_columns,) posterior mean.
        covariance_: (n_columns, n_columns) posterior covariance.
        variance_: Variance chosen for each block, by name.
        noise_: s.
        log_evidence_: Log evidence at these.

    Raises:
        InvalidParameterError: `noise` is not above 0, or `noise_log_sd` below 0.

    References:
        MacKay (1992), Neural Computation 4(3); Gelman and Hill (2007), Data Analysis Using Regression and Multilevel
        Models.
    """

    def __init__(self, blocks: Sequence[Block], *, noise: float, noise_log_sd: float = 1.5) -> None:
        _check_prior(noise, noise_log_sd, of="noise")
        self.blocks = list(blocks)
        self.noise = noise
        self.noise_log_sd = noise_log_sd

    def fit(self, batches: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Self:
        """Learn from batches of (design rows, outcomes).

        Raises:
            InvalidParameterError: There is no row, or the design has other columns than the blocks.
        """
        width = sum(block.n_columns for block in self.blocks)
        gram, cross, total, n_rows = np.zeros((width, width)), np.zeros(width), 0.0, 0
        for design, outcome in batches:
            if design.shape[1] != width:
                raise InvalidParameterError(f"design must have {width} columns, as the blocks say; got {design.shape}")
            gram += design.T @ design
            cross += design.T @ outcome
            total += float(outcome @ outcome)
            n_rows += outcome.size
        if n_rows == 0:
            raise InvalidParameterError("batches must hold at least one row; got none")
        return self.fit_moments(gram, cross, total, n_rows)

    def fit_moments(self, gram: NDArray[np.float64], cross: NDArray[np.float64], total: float, n_rows: float) -> Self:
        """Learn from Phi' Phi, Phi' y, y' y and the number of rows, which may be a sum of weights."""
        from scipy.optimize import minimize
        from threadpoolctl import threadpool_limits

        owner = np.repeat(np.arange(len(self.blocks)), [block.n_columns for block in self.blocks])
        center = np.log([*(block.variance for block in self.blocks), self.noise])
        spread = np.array([*(block.log_sd for block in self.blocks), self.noise_log_sd])
        free = spread > 0

        def posterior(log: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
            from scipy.linalg import cho_factor, cho_solve

            prior, noise = np.exp(log[owner]), float(np.exp(log[-1]))
            # In units of the prior the precision is I + D G D / s: well conditioned whatever the features' scales.
            root = np.sqrt(prior)
            factor = cho_factor(np.eye(prior.size) + gram * (root[:, None] * root) / noise, lower=True)
            covariance = cho_solve(factor, np.eye(prior.size)) * (root[:, None] * root)
            mean = covariance @ cross / noise
            log_determinant = 2 * float(np.log(np.diag(factor[0])).sum())
            evidence = (
                float(cross @ mean) / noise - total / noise - log_determinant - n_rows * np.log(2 * np.pi * noise)
            ) / 2
            return evidence, mean, covariance

        def loss(moved: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            log = center.copy()
            log[free] = moved
            evidence, mean, covariance = posterior(log)
            prior, noise = np.exp(log[:-1]), float(np.exp(log[-1]))
            squares = np.bincount(owner, weights=mean**2 + np.diag(covariance), minlength=len(self.blocks))
            sizes = np.bincount(owner, minlength=len(self.blocks))
            residual = total - 2 * float(mean @ cross) + float(mean @ gram @ mean)
            of_noise = (residual + float((covariance * gram).sum())) / noise - n_rows
            gradient = np.append((squares / prior - sizes) / 2, of_noise / 2)
            away = np.where(free, (log - center) / np.where(free, spread, 1.0) ** 2, 0.0)
            value = float(away @ (log - center)) / 2 - evidence
            return value / n_rows, (away - gradient)[free] / n_rows

        # The matrices are small: a second BLAS thread would cost more than it brings.
        with threadpool_limits(limits=1, user_api="blas"):
            log = center.copy()
            if free.any():
                log[free] = minimize(
                    loss,
                    center[free],
                    jac=True,
                    method="L-BFGS-B",
                    bounds=[(middle - LOG_RANGE, middle + LOG_RANGE) for middle in center[free]],
                    options={"ftol": 1e-9, "gtol": 1e-6},
                ).x
            self.log_evidence_, self.coef_, self.covariance_ = posterior(log)
        self.variance_ = {block.name: float(np.exp(each)) for block, each in zip(self.blocks, log, strict=False)}
        self.noise_ = float(np.exp(log[-1]))
        return self

    def predict(self, design: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the expected outcome of each row."""
        return np.asarray(design @ self.coef_)

    def variance(self, design: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the posterior variance of each row's expected outcome, without the noise."""
        return np.asarray(np.einsum("ij,ij->i", design @ self.covariance_, design))


def _check_prior(variance: float, log_sd: float, *, of: str) -> None:
    if not (0 < variance < math.inf and log_sd >= 0):
        raise InvalidParameterError(
            f"the variance of {of} must be above 0 and finite, and its log_sd >= 0; got {variance} and {log_sd}"
        )
