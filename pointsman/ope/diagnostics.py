"""What a log can say about a policy: overlap, effective sample size, and when not to trust a normal interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pointsman.errors import OverlapError, OverlapWarning, SmallSampleWarning
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import importance_weights
from pointsman.types import ArmIndex, PerArm, PerRound

FALSE_ALARM_Z = 3.29
"""Two-sided normal quantile of a false alarm in a thousand."""


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """How well the log covers the target policy.

    Attributes:
        n_rounds: Logged rounds.
        effective_sample_size: (sum w)^2 / sum w^2: rounds the target's own log would need for like precision.
        smallest_propensity: Of the logged arms.
        largest_weight: Largest importance weight.
        mean_weight: Mean importance weight; one, but for noise, if propensities are right and overlap holds.
        unsupported_share: Share of the target's decisions of which the log holds nothing: calls of arms that never
            served, and calls of another arm where the logging policy was sure of its choice.
    """

    n_rounds: int
    effective_sample_size: float
    smallest_propensity: float
    largest_weight: float
    mean_weight: float
    unsupported_share: float


def effective_sample_size(weight: PerRound) -> float:
    """Return (sum w)^2 / sum w^2, at most the number of rounds; 0 where all weights are zero.

    References:
        Kish (1965), Survey Sampling.
    """
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def diagnose(
    *, arm: ArmIndex, propensity: PerRound, target_probs: PerArm, arm_names: Sequence[str] | None = None
) -> Diagnostics:
    """Return the overlap of a log with a target policy.

    A share of the target's decisions counts once it exceeds 1 / n, that is, once the target would have taken at least
    one such decision in these rounds.

    Args:
        arm: Logged arm.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        arm_names: Names for messages; column numbers where None.

    Raises:
        OverlapError: The target uses an arm that never served, or every propensity is one and the target would have
            chosen otherwise.

    Warns:
        OverlapWarning: Some of the target's decisions have no support, or the mean weight is not one.
    """
    n_rounds, n_arms = target_probs.shape
    share = target_probs.mean(axis=0)
    absent = (np.bincount(arm, minlength=n_arms) == 0) & (share > 1 / n_rounds)
    if absent.any():
        names = [str(t) for t in range(n_arms)] if arm_names is None else arm_names
        missing = [f"{name} ({part:.1%})" for name, part, gone in zip(names, share, absent, strict=True) if gone]
        raise OverlapError(
            f"the target policy uses arms that never served in this log: {', '.join(missing)} of its decisions; "
            "evaluate it without them, or log with exploration so that every arm is tried"
        )
    own = target_probs[np.arange(n_rounds), arm]
    sure = propensity >= 1
    never_served = np.bincount(arm, minlength=n_arms) == 0
    unsupported = float(np.where(sure, 1 - own, target_probs[:, never_served].sum(axis=1)).mean())
    if sure.all() and unsupported > 1 / n_rounds:
        raise OverlapError(
            f"the logging policy was deterministic (every propensity is 1) and the target policy differs in "
            f"{unsupported:.1%} of its decisions: this log cannot tell how they would have turned out; log with "
            "exploration, for instance 5% of traffic spread over all arms"
        )
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    mean_weight = float(weight.mean())
    found = Diagnostics(
        n_rounds=n_rounds,
        effective_sample_size=effective_sample_size(weight),
        smallest_propensity=float(propensity.min()),
        largest_weight=float(weight.max()),
        mean_weight=mean_weight,
        unsupported_share=unsupported,
    )
    if unsupported > 1 / n_rounds:
        warnings.warn(
            f"in {unsupported:.1%} of the target's decisions the logging policy was sure of another arm: the log holds "
            "nothing on them and every weighted estimate leaves them out",
            OverlapWarning,
            stacklevel=2,
        )
        return found
    standard_error = float(weight.std(ddof=1)) / math.sqrt(n_rounds) if n_rounds > 1 else math.inf
    # Weights leave out what has no support, and sums of n of them carry rounding errors.
    off = abs(mean_weight - 1) - unsupported - n_rounds * np.finfo(np.float64).eps
    if off > FALSE_ALARM_Z * standard_error:
        warnings.warn(
            f"importance weights average {mean_weight:.3f}, which should be 1 and is further off than chance explains: "
            "the propensities are wrong, or so small that the rounds that matter are not in this log",
            OverlapWarning,
            stacklevel=2,
        )
    return found


def check_sample_size(estimate: Estimate) -> None:
    """Warn where the influence is too skewed for the number of rounds.

    Cochran's rule: with n > 25 G^2, G the skewness of one round's influence, a 95% normal interval misses at most 6%
    of the time. A sample's skewness never exceeds sqrt(n), so a few dominant rounds always set it off.

    Warns:
        SmallSampleWarning: n <= 25 G^2.

    References:
        Cochran (1977), Sampling Techniques, 3rd edition, section 2.15.
    """
    influence = estimate.influence
    spread = float(np.sqrt((influence**2).mean()))
    # An influence of rounding errors has no shape.
    if not spread > np.finfo(np.float64).eps * max(1.0, abs(estimate.value)):
        return
    skewness = float(((influence / spread) ** 3).mean())
    needed = 25 * skewness**2
    if estimate.n_rounds <= needed:
        warnings.warn(
            f"{estimate.name}: {estimate.n_rounds} rounds are too few for a normal interval, {math.ceil(needed)} "
            f"are needed at this skewness ({skewness:.1f}); a few rounds dominate: log more exploration",
            SmallSampleWarning,
            stacklevel=2,
        )
