"""Balance: do weighted rounds look like the prompts a policy would have seen?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OverlapWarning
from pointsman.ope.diagnostics.features import principal_features
from pointsman.ope.diagnostics.significance import FALSE_ALARM_RATE, bonferroni, student_p_value
from pointsman.ope.diagnostics.weights import effective_sample_size, largest_to_expect
from pointsman.types import ArmIndex, Context, Eligible, PerArm, PerRound

_LEAST_EFFECTIVE = 30
_FARTHEST = 3.0
_LARGEST_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class CovariateBalance:
    """Standardised mean differences of the context between an arm's rounds and all the rounds they stand for.

    Attributes:
        features: Names of the features compared.
        before: (n_arms, n_features) without inverse propensities, in standard deviations of the feature over all
            rounds; NaN for an arm without rounds.
        after: (n_arms, n_features) with them.
        z: (n_arms, n_features) `after` in its standard errors; NaN where it cannot be tested: under an effective sample
            size of 30, or where a round that the log happens not to hold could decide.
        largest_before: Largest |before|, 0 where there is none.
        largest_after: Largest |after|.
        mean_before: Mean |before|.
        mean_after: Mean |after|.
        worst_arm: Arm of the largest |z|; -1 where nothing could be tested.
        worst_feature: Its feature; empty where nothing could be tested.
        p_value: Chance of a |z| this large, in any place, under right propensities.
    """

    features: tuple[str, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    z: NDArray[np.float64]
    largest_before: float
    largest_after: float
    mean_before: float
    mean_after: float
    worst_arm: int
    worst_feature: str
    p_value: float


def check_balance(
    *,
    context: Context,
    arm: ArmIndex,
    propensity: PerRound,
    n_arms: int,
    probabilities: PerArm | None = None,
    target_probs: PerArm | None = None,
    eligible: Eligible | None = None,
    n_features: int = 20,
    feature_names: Sequence[str] | None = None,
    arm_names: Sequence[str] | None = None,
) -> CovariateBalance:
    """Compare the context of each arm's weighted rounds with that of all rounds, weighted by the target.

    With r_t(x) = pi(t | x), or 1[t eligible] where no target is given, and f a feature in standard deviations, cut off
    at 3 on both sides,

        sum_i 1[t_i = t] r_t(x_i) / e_i f_i / sum_i 1[t_i = t] r_t(x_i) / e_i = sum_i r_t(x_i) f_i / sum_i r_t(x_i)

    up to noise where weights are right. `after` is the difference of the two sides, `before` the same without 1 / e.
    Where the logging policy is known in full, the variance of `after` under right propensities is
    sum_i r_t^2 (1 / e_t(x_i) - 1) (f_i - mean)^2 / (sum_i r_t)^2, and a place is tested where its skewness, known as
    well, is 1/5 at most (Cochran's rule). Else it is that of the influence, and a place is tested where one more round
    of the largest weight to expect (`largest_to_expect`) would add at most half to it. P-values are Student's on the
    arm's effective sample size less one, the smallest times their number (Bonferroni): a fixed limit such as 0.1 would
    fire on every small arm and pass over small faults of large logs.

    Args:
        context: Features of each round.
        arm: Logged arm.
        propensity: Probability of the logged arm, in (0, 1].
        n_arms: Number of arms.
        probabilities: Logging policy's probability of every arm, where known or estimated.
        target_probs: Target policy's probability of every arm; every arm's own rounds against all where None.
        eligible: Arms that could have been chosen; all where None. Not used where there is a target.
        n_features: Features to compare at most; principal components where the context has more.
        feature_names: Names of the context's columns.
        arm_names: Names for messages; column numbers where None.

    Warns:
        OverlapWarning: Differences this large come once in a thousand logs whose propensities are right.

    References:
        Austin and Stuart (2015), Statistics in Medicine 34(28): differences before and after weighting.
    """
    features, names = principal_features(context, at_most=n_features, names=feature_names)
    features = np.clip(features, -_FARTHEST, _FARTHEST)
    shape = (n_arms, len(names))
    before, after, z, p_values = np.full((4, *shape), np.nan)
    for t in range(n_arms):
        if target_probs is not None:
            share = target_probs[:, t]
        else:
            share = np.ones(arm.size) if eligible is None else eligible[:, t].astype(np.float64)
        own = np.where(arm == t, share, 0.0)
        if not own.any():
            continue
        reference = share / share.mean()
        centred = features - reference @ features / arm.size
        before[t] = own @ centred / own.sum()
        weight = own / propensity
        after[t] = weight @ centred / weight.sum()
        effective = effective_sample_size(weight)
        if effective < _LEAST_EFFECTIVE:
            continue
        if probabilities is not None:
            claimed = probabilities[:, t]
            odds = np.divide(1 - claimed, claimed, out=np.full(arm.size, np.inf), where=claimed > 0)
            spread = np.where(share > 0, reference**2 * odds, 0.0) @ centred**2
            third = np.where(share > 0, reference**3 * odds * (odds - 1), 0.0) @ centred**3
            testable = 25 * third**2 <= spread**3
        else:
            weight = weight / weight.mean()
            spread = (weight - reference) ** 2 @ centred**2
            testable = (largest_to_expect(weight) * _FARTHEST) ** 2 <= _LARGEST_SHARE * spread
        # A log in which the arm always served has nothing to balance, but for rounding errors.
        testable &= spread > (np.finfo(np.float64).eps * arm.size) ** 2
        z[t, testable] = after[t, testable] * arm.size / np.sqrt(spread[testable])
        p_values[t] = student_p_value(z[t], degrees_of_freedom=np.full(len(names), effective - 1))
    tested = not np.isnan(z).all()
    place = np.unravel_index(int(np.nanargmax(abs(z))), shape) if tested else (-1, -1)
    found = CovariateBalance(
        features=names,
        before=before,
        after=after,
        z=z,
        largest_before=_largest(before),
        largest_after=_largest(after),
        mean_before=_mean(before),
        mean_after=_mean(after),
        worst_arm=int(place[0]),
        worst_feature=names[int(place[1])] if tested else "",
        p_value=bonferroni(p_values),
    )
    if found.p_value < FALSE_ALARM_RATE:
        name = str(found.worst_arm) if arm_names is None else arm_names[found.worst_arm]
        warnings.warn(
            f"weighting does not balance the log: in the rounds of {name}, {found.worst_feature} is "
            f"{after[place]:+.2f} standard deviations off, {before[place]:+.2f} before (p = {found.p_value:.1e}): the "
            "propensities are wrong, or the rounds that matter are not in this log",
            OverlapWarning,
            stacklevel=2,
        )
    return found


def _largest(difference: NDArray[np.float64]) -> float:
    known = abs(difference[~np.isnan(difference)])
    return float(known.max()) if known.size else 0.0


def _mean(difference: NDArray[np.float64]) -> float:
    known = abs(difference[~np.isnan(difference)])
    return float(known.mean()) if known.size else 0.0
