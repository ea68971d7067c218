"""Bounds that assume nothing on how arms were chosen."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.types import ArmIndex, PerArm, PerRound

Range: TypeAlias = tuple[float, float]
"""Least and greatest value an outcome can take."""


class Bounds(NamedTuple):
    """Least and greatest value compatible with a log, each with its influence."""

    low: Estimate
    high: Estimate

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the lower end of the lower bound's interval and the upper end of the upper bound's.

        Both ends of the bounds lie within with at least this probability, hence so does the value.
        """
        return self.low.interval(level)[0], self.high.interval(level)[1]


def manski_bounds(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    target_probs: PerArm,
    against_probs: PerArm | None = None,
    outcome_range: Range,
) -> Bounds:
    """Bound a policy's value, or its gain on another policy, assuming nothing on how arms were chosen.

    What the log shows counts as it is, d_{t_i} y_i; every other outcome is the worst, or the best, it can be.
    Arguments as for `sensitivity_bounds`.

    Raises:
        InvalidParameterError: The range is empty, or an outcome lies outside it.

    References:
        Manski (1990), American Economic Review 80(2).
    """
    least, greatest = outcome_range
    if not least < greatest or outcome.min() < least or outcome.max() > greatest:
        raise InvalidParameterError(
            f"outcome_range must hold every outcome; got {outcome_range} for outcomes from {outcome.min()} to "
            f"{outcome.max()}"
        )
    gain = gain_of(target_probs, against_probs)
    row = np.arange(arm.size)
    seen = gain[row, arm] * outcome
    unseen = gain.copy()
    unseen[row, arm] = 0.0
    gained, lost = np.maximum(unseen, 0).sum(axis=1), np.maximum(-unseen, 0).sum(axis=1)

    def bound(for_gained: float, for_lost: float) -> Estimate:
        score = seen + gained * for_gained - lost * for_lost
        return Estimate(name="manski", terms=(Ratio(score, np.ones(arm.size)),))

    return Bounds(low=bound(least, greatest), high=bound(greatest, least))


def gain_of(target_probs: PerArm, against_probs: PerArm | None) -> PerArm:
    """Return d_t(x), the probabilities of a policy, less those of another where there is one."""
    return target_probs if against_probs is None else target_probs - against_probs
