"""Importance weights: how many rounds they leave, and how heavy their tail is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pointsman.types import PerRound

_TOP_SHARE = 0.01
_LEAST_TAIL = 5
_SAME = 1e-9
_LEAST_CURVATURE = 1e-6


def effective_sample_size(weight: PerRound) -> float:
    """Return (sum w)^2 / sum w^2, at most the number of rounds; 0 where all weights are zero.

    References:
        Kish (1965), Survey Sampling.
    """
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def heaviest_share(weight: PerRound) -> float:
    """Return the share of all weight on the 1% of rounds (one at least) that weigh most; 0 where all weigh nothing."""
    total = float(weight.sum())
    n_top = math.ceil(_TOP_SHARE * weight.size)
    return float(np.partition(weight, -n_top)[-n_top:].sum()) / total if total > 0 else 0.0


def default_clip(weight: PerRound) -> float:
    """Return ten times the median of the positive weights; infinity where there is none."""
    positive = weight[weight > 0]
    return 10 * float(np.median(positive)) if positive.size else math.inf


def clipped_share(weight: PerRound, *, clip: float) -> float:
    """Return the share of all weight that clipping at `clip` would take away."""
    total = float(weight.sum())
    return float(np.maximum(weight - clip, 0.0).sum()) / total if total > 0 else 0.0


def pareto_k(weight: PerRound) -> float:
    """Return the tail index k of the weights: moments of order 1 / k and above are infinite.

    A generalised Pareto distribution fitted to the excess of the M largest weights over the next, M = min(n / 5,
    3 sqrt(n)) of n positive weights, with k drawn towards 1/2 by as much as ten rounds weigh. NaN where fewer than five
    weights exceed the next, as on small logs, or five are the largest, as where propensities take few values: there is
    no tail to fit.

    References:
        Zhang and Stephens (2009), Technometrics 51(3): the fit; Vehtari, Simpson, Gelman, Yao and Gabry (2024), JMLR
        25(72): the tail and the pull.
    """
    excess, _ = _tail(weight)
    if excess.size < _LEAST_TAIL:
        return math.nan
    shape, _ = _fit(excess)
    return (excess.size * shape + 10 * 0.5) / (excess.size + 10)


def largest_to_expect(weight: PerRound, *, times: float = 10.0) -> float:
    """Return the largest weight that a log this many times as long would hold, by the fitted tail.

    With M excesses over u and the fitted shape k, at most 1 as weights have a mean, and scale s,
    u + s / k ((times M)^k - 1); the largest weight at hand where that is more, or there is no tail to fit.
    """
    largest = float(weight.max())
    excess, threshold = _tail(weight)
    if excess.size < _LEAST_TAIL:
        return largest
    shape, scale = _fit(excess)
    shape = min(shape, 1.0)
    return max(largest, threshold + scale * math.expm1(shape * math.log(times * excess.size)) / shape)


def pareto_k_limit(n_rounds: int) -> float:
    """Return min(1 - 1 / log10(n), 0.7): above it n rounds do not reach the law of large numbers, let alone a normal.

    The fitted k has a standard deviation of about (1 + k) / sqrt(M): of logs with 1,000 positive weights, 0.7% exceed
    the limit where k = 1/3 (a third moment, which a normal interval needs) and under 0.1% where tails are exponential;
    with 300, 7% and 0.05%; with 100, 29% and 4%.

    References:
        Vehtari et al. (2024), JMLR 25(72), section 3.2.4.
    """
    return min(1 - 1 / math.log10(n_rounds), 0.7) if n_rounds > 10 else 0.0


def _tail(weight: PerRound) -> tuple[NDArray[np.float64], float]:
    """Return the excesses of the largest positive weights over a threshold, ascending, and the threshold."""
    positive = weight[weight > 0]
    n_tail = math.ceil(min(positive.size / 5, 3 * math.sqrt(positive.size)))
    if n_tail < _LEAST_TAIL:
        return np.zeros(0), math.nan
    largest = np.sort(np.partition(positive, -n_tail - 1)[-n_tail - 1 :])
    excess = largest[1:] - largest[0]
    if np.count_nonzero(excess >= excess[-1] * (1 - _SAME)) >= _LEAST_TAIL:
        return np.zeros(0), float(largest[0])  # weights of a few values, which end at the largest
    return excess[excess > 1e-12 * largest[-1]], float(largest[0])


def _fit(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Return shape and scale of a generalised Pareto distribution, from excesses in ascending order."""
    n = excess.size
    n_grid = 30 + math.isqrt(n)
    quartile = excess[int(n / 4 + 0.5) - 1]
    inverse = 1 / excess[-1] + (1 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))) / (3 * quartile)
    inverse = inverse[abs(inverse) * excess[-1] > _LEAST_CURVATURE]  # shape and inverse scale are 0 / 0 there
    shape = np.log1p(-inverse[:, None] * excess).mean(axis=1)
    log_likelihood = n * (np.log(-inverse / shape) - shape - 1)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    mode = float(posterior @ inverse / posterior.sum())
    fitted = float(np.log1p(-mode * excess).mean())
    return fitted, -fitted / mode
