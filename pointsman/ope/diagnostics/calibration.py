"""Propensities against what was logged: do arms serve as often as claimed?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import CalibrationWarning
from pointsman.ope.diagnostics.significance import FALSE_ALARM_RATE, bonferroni, mean_z, normal_p_value
from pointsman.ope.diagnostics.weights import largest_to_expect
from pointsman.types import ArmIndex, Eligible, PerArm, PerRound

if TYPE_CHECKING:
    from pointsman.nuisance.propensity import Calibration

_LEAST_SERVINGS = 10
_LARGEST_SHARE = 0.2


def check_calibration(
    *,
    probabilities: PerArm,
    arm: ArmIndex,
    eligible: Eligible | None = None,
    fold: ArmIndex | None = None,
    n_bins: int = 10,
    arm_names: Sequence[str] | None = None,
) -> Calibration:
    """Return claimed beside observed frequencies of every arm, where the logging policy is known in full.

    Args:
        probabilities: Logging policy's probability of every arm, logged or estimated out of fold.
        arm: Logged arm.
        eligible: Arms that could have been chosen; those of positive probability where None.
        fold: Fold of each round where probabilities were estimated.
        n_bins: Bins an arm at most.
        arm_names: Names for messages; column numbers where None.

    Warns:
        CalibrationWarning: Deviations this large come once in a thousand logs whose propensities are right.

    References:
        See `nuisance.propensity.calibration`.
    """
    from pointsman.nuisance.propensity import calibration

    found = calibration(
        probabilities,
        arm=arm,
        eligible=probabilities > 0 if eligible is None else eligible,
        fold=np.zeros(arm.size, dtype=np.int64) if fold is None else fold,
        n_bins=n_bins,
    )
    if found.p_value < FALSE_ALARM_RATE:
        worst = int(abs(found.predicted - found.observed).argmax())
        name = str(found.arm[worst]) if arm_names is None else arm_names[int(found.arm[worst])]
        warnings.warn(
            f"propensities are off by {found.expected_calibration_error:.3f} on average where noise would explain "
            f"{found.noise:.3f} (p = {found.p_value:.1e}); most for {name}, which served {found.observed[worst]:.1%} "
            f"of rounds said to be {found.predicted[worst]:.1%}: the log does not hold the probabilities it was drawn "
            "with, do not trust estimates that lean on weights",
            CalibrationWarning,
            stacklevel=2,
        )
    return found


@dataclass(frozen=True, kw_only=True)
class PropensityCurve:
    """Claimed beside observed frequencies of all arms together, one entry per bin of similar claims.

    Attributes:
        n_claims: (n_bins,) pairs of a round and an eligible arm.
        claimed: (n_bins,) mean claimed propensity.
        observed: (n_bins,) share of the pairs in which the arm served.
        standard_error: (n_bins,) of `observed` if the claims are right; at most that, as arms of one round exclude
            each other.
    """

    n_claims: NDArray[np.int64]
    claimed: NDArray[np.float64]
    observed: NDArray[np.float64]
    standard_error: NDArray[np.float64]


def propensity_curve(
    *, probabilities: PerArm, arm: ArmIndex, eligible: Eligible | None = None, n_bins: int = 20
) -> PropensityCurve:
    """Return the calibration curve over all arms, in bins of as many pairs each: a picture, not a test.

    Arguments as for `check_calibration`.
    """
    eligible = probabilities > 0 if eligible is None else eligible
    claim = probabilities[eligible]
    served = (np.arange(probabilities.shape[1]) == arm[:, None])[eligible]
    bins = [members for members in np.array_split(np.argsort(claim, kind="stable"), n_bins) if members.size]
    variance = np.array([(claim[members] * (1 - claim[members])).sum() for members in bins])
    size = np.array([members.size for members in bins])
    return PropensityCurve(
        n_claims=size,
        claimed=np.array([claim[members].mean() for members in bins]),
        observed=np.array([served[members].mean() for members in bins]),
        standard_error=np.sqrt(variance) / size,
    )


@dataclass(frozen=True, kw_only=True)
class InversePropensities:
    """Mean inverse propensity by arm, over the rounds in which it was eligible; one if propensities are right.

    Attributes:
        n_eligible: (n_arms,) rounds in which the arm could have been chosen.
        n_served: (n_arms,) rounds in which it was.
        mean: (n_arms,) mean of 1[arm served] / e; NaN where never eligible.
        z: (n_arms,) standard errors it is off one, corrected for skewness; NaN where it cannot be tested: under ten
            servings, or where a round that the log happens not to hold could decide.
        p_value: Chance that any arm is this far off under right propensities.
    """

    n_eligible: NDArray[np.int64]
    n_served: NDArray[np.int64]
    mean: NDArray[np.float64]
    z: NDArray[np.float64]
    p_value: float


def check_inverse_propensities(
    *,
    arm: ArmIndex,
    propensity: PerRound,
    n_arms: int,
    eligible: Eligible | None = None,
    arm_names: Sequence[str] | None = None,
) -> InversePropensities:
    """Return whether E[1[arm = t] / e] = 1 for every arm, all that can be asked of the logged arm's propensity alone.

    A mean above one says that propensities are too low where the arm served; one below, that they are too high, or that
    there were rounds in which the arm could not be chosen. An arm is tested where one more round of the largest
    weight to expect (`largest_to_expect`) would add at most a fifth to the sum of squares. `p_value` is the smallest
    over arms times their number.

    Args:
        arm: Logged arm.
        propensity: Probability of the logged arm, in (0, 1].
        n_arms: Number of arms.
        eligible: Arms that could have been chosen; all where None.
        arm_names: Names for messages; column numbers where None.

    Warns:
        CalibrationWarning: Deviations this large come once in a thousand logs whose propensities are right.
    """
    eligible = np.ones((arm.size, n_arms), dtype=np.bool_) if eligible is None else eligible
    n_served = np.bincount(arm, minlength=n_arms)
    mean, z = np.full((2, n_arms), np.nan)
    for t in range(n_arms):
        inverse = np.where(arm == t, 1 / propensity, 0.0)[eligible[:, t]]
        if inverse.size:
            mean[t] = inverse.mean()
        if n_served[t] >= _LEAST_SERVINGS and largest_to_expect(inverse) ** 2 <= _LARGEST_SHARE * (inverse**2).sum():
            z[t] = mean_z(inverse, expected=1.0)
    found = InversePropensities(
        n_eligible=eligible.sum(axis=0),
        n_served=n_served,
        mean=mean,
        z=z,
        p_value=bonferroni(normal_p_value(z)),
    )
    if found.p_value < FALSE_ALARM_RATE:
        worst = int(np.nanargmax(abs(z)))
        name = str(worst) if arm_names is None else arm_names[worst]
        meaning = (
            "its propensities are too low"
            if mean[worst] > 1
            else "its propensities are too high, or it could not be chosen in some of these rounds"
        )
        warnings.warn(
            f"the inverse propensities of {name} average {mean[worst]:.3f} over the rounds in which it was eligible, "
            f"which should be 1 (p = {found.p_value:.1e} over all models): {meaning}",
            CalibrationWarning,
            stacklevel=2,
        )
    return found
