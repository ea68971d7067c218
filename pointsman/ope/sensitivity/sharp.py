"""Bounds that keep E[r | x, arm] = 1 for every context: no others are tighter."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OverlapError
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.sensitivity.gamma import check_gamma, check_largest, flips
from pointsman.ope.sensitivity.manski import Bounds, Range, gain_of, manski_bounds
from pointsman.types import ArmIndex, PerArm, PerRound


def sharp_bounds(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    predicted: PerArm,
    target_probs: PerArm,
    against_probs: PerArm | None = None,
    gamma: float,
    fold: ArmIndex,
    outcome_range: Range | None = None,
    n_bins: int = 10,
) -> Bounds:
    """Bound a policy's doubly robust value, or its gain on another policy, as tightly as the model allows.

    For an arm, with q its outcome's conditional quantile at level gamma / (1 + gamma) and

        R = q + gamma (y - q)_+ - (q - y)_+ / gamma,    rho(x) = E[R | x, arm],

    the greatest mean outcome is E[e mu + (1 - e) rho]; for the least, q is the quantile at 1 / (1 + gamma) and the
    factors change places. With d_t(x) as in `sensitivity_bounds`, the upper bound is the mean of

        d_{t_i} y_i + sum_{t != t_i} d_t rho_t(x_i) + (1 / e_i - 1) d_{t_i} (R_i - rho_{t_i}(x_i)),

    with the lower bound's R and rho where d_t < 0. Any q gives a valid bound, the quantile the tightest (the derivative
    there is zero, so that q was estimated is not felt); with right propensities, or a right rho, the mean is unbiased
    for it. Here q is the prediction plus the quantile of its residuals, and rho the prediction plus the mean of R - y,
    over the other folds' rounds of the same arm with a similar prediction. At gamma = 1 both bounds are `dr`.

    Args:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        predicted: Out-of-fold predicted outcome of every arm.
        target_probs: Target policy's probability of every arm.
        against_probs: The other policy's, for the difference target - other.
        gamma: At least 1; infinity, with an `outcome_range`, gives `manski_bounds`.
        fold: Fold of each round, at least two.
        outcome_range: Keeps quantiles within what the outcome can be.
        n_bins: Bins of similar predictions an arm at most, each of 50 rounds at least.

    Raises:
        InvalidParameterError: `gamma` is less than 1, or infinite without an outcome range.
        OverlapError: A policy uses an arm of which the log has no round.

    References:
        Dorn and Guo (2022), JASA 118(544): the sharp bound; Dorn, Guo and Kallus (2024), JASA 120(549): this estimator.
    """
    check_gamma(np.array([gamma]), outcome_range=outcome_range)
    if outcome_range is not None and math.isinf(gamma):
        return manski_bounds(
            arm=arm,
            outcome=outcome,
            target_probs=target_probs,
            against_probs=against_probs,
            outcome_range=outcome_range,
        )
    gain = gain_of(target_probs, against_probs)
    _check_served(arm, carried=abs(gain))
    row = np.arange(arm.size)
    own, odds = gain[row, arm], 1 / propensity - 1
    greatest, least = (
        _extremes(
            arm=arm,
            outcome=sign * outcome,
            predicted=sign * predicted,
            gamma=gamma,
            fold=fold,
            ceiling=math.inf if outcome_range is None else max(sign * end for end in outcome_range),
            n_bins=n_bins,
        )
        for sign in (1.0, -1.0)
    )

    def bound(upper: _Extreme, lower: _Extreme, *, sign: float) -> Estimate:
        """Return the upper bound of the outcome times `sign`, times `sign`."""
        rho = np.where(gain > 0, upper.rho, -lower.rho)
        realised = np.where(own > 0, upper.realised, -lower.realised)
        elsewhere = np.where(gain != 0, gain * rho, 0.0)
        elsewhere[row, arm] = 0.0
        correction = np.where(own != 0, odds * own * (realised - rho[row, arm]), 0.0)
        score = own * (sign * outcome) + elsewhere.sum(axis=1) + correction
        return Estimate(name="sharp", terms=(Ratio(sign * score, np.ones(arm.size)),))

    return Bounds(low=bound(least, greatest, sign=-1.0), high=bound(greatest, least, sign=1.0))


def sharp_flip_gamma(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    predicted: PerArm,
    target_probs: PerArm,
    against_probs: PerArm | None = None,
    fold: ArmIndex,
    outcome_range: Range | None = None,
    n_bins: int = 10,
    level: float | None = None,
    largest: float = 1_000.0,
) -> float:
    """Return the gamma from which on `sharp_bounds` no longer exclude a value, or gain, of zero or less.

    With a `level` the lower end of the interval for the bound must stay positive, not the bound alone. Other arguments
    as for `sharp_bounds` and `flip_gamma`.

    Returns:
        1 where the lower bound is not positive even without hidden confounding; infinity where it is still positive
        at `largest`.

    Raises:
        InvalidParameterError: `largest` is not a finite number above 1.
        OverlapError: As for `sharp_bounds`.
    """
    check_largest(largest)

    def lowest(gamma: NDArray[np.float64]) -> NDArray[np.float64]:
        low, _ = sharp_bounds(
            arm=arm,
            outcome=outcome,
            propensity=propensity,
            predicted=predicted,
            target_probs=target_probs,
            against_probs=against_probs,
            gamma=float(gamma[0]),
            fold=fold,
            outcome_range=outcome_range,
            n_bins=n_bins,
        )
        return np.array([low.value if level is None else low.interval(level)[0]])

    return float(flips(lowest, n_resamples=1, largest=largest)[0])


class _Extreme(NamedTuple):
    """R of the logged arm, (n_rounds,), and rho of every arm, (n_rounds, n_arms)."""

    realised: PerRound
    rho: PerArm


def _extremes(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    predicted: PerArm,
    gamma: float,
    fold: ArmIndex,
    ceiling: float,
    n_bins: int,
) -> _Extreme:
    """Return R and rho for the greatest mean outcome, each round's quantiles from the other folds."""
    residual = outcome - predicted[np.arange(arm.size), arm]
    rho, realised = predicted.astype(np.float64), outcome.astype(np.float64)
    for k in np.unique(fold):
        mine = np.flatnonzero(fold == k)
        for t in range(predicted.shape[1]):
            others = np.flatnonzero((fold != k) & (arm == t))
            if others.size == 0:
                continue  # with nothing to learn from, q = rho = the prediction is still a valid bound
            edges = _bin_edges(predicted[others, t], n_bins=min(n_bins, max(1, others.size // 50)))
            bin_of, bin_mine = (np.searchsorted(edges, predicted[rows, t]) for rows in (others, mine))
            for b in range(edges.size + 1):
                members, rows = others[bin_of == b], mine[bin_mine == b]
                offset = float(np.quantile(residual[members], gamma / (1 + gamma), method="inverted_cdf"))
                quantile = np.minimum(predicted[members, t] + offset, ceiling)
                gap = _worst_case(outcome[members], quantile=quantile, gamma=gamma) - outcome[members]
                rho[rows, t] += gap.mean()
                served = rows[arm[rows] == t]
                realised[served] = _worst_case(
                    outcome[served], quantile=np.minimum(predicted[served, t] + offset, ceiling), gamma=gamma
                )
    return _Extreme(realised=realised, rho=rho)


def _worst_case(outcome: PerRound, *, quantile: PerRound, gamma: float) -> PerRound:
    beyond = outcome - quantile
    return np.asarray(quantile + gamma * np.maximum(beyond, 0) - np.maximum(-beyond, 0) / gamma)


def _bin_edges(value: PerRound, *, n_bins: int) -> NDArray[np.float64]:
    """Return inner edges that leave a value in every bin: equal values share one."""
    edges = np.unique(np.quantile(value, np.arange(1, n_bins) / n_bins, method="inverted_cdf"))
    return np.asarray(edges[edges < value.max()])


def _check_served(arm: ArmIndex, *, carried: PerArm) -> None:
    """Raise where policies take at least one decision for an arm without a round."""
    decisions = carried.sum(axis=0)
    absent = np.flatnonzero((np.bincount(arm, minlength=decisions.size) == 0) & (decisions > 1))
    if absent.size:
        raise OverlapError(
            f"a policy uses arms that never served in this log: columns {absent.tolist()}; leave them out, or log with "
            "exploration so that every arm is tried"
        )
