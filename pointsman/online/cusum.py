"""Noticing that an arm is not what it was: its surprises, followed both ways."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

SLACK = 0.5
"""Standard deviations a round that an arm may drift without any alarm."""
LARGEST_RESIDUAL = 4.0
"""Standard deviations that one outcome may count for drift."""
USUAL = 30
"""Outcomes that the noise of all arms is worth beside an arm's own."""


class Drift(NamedTuple):
    """What came of an arm since it began to drift.

    Attributes:
        n_outcomes: How many outcomes.
        seen: Their sum.
        expected: The sum of what had been expected.
    """

    n_outcomes: int
    seen: float
    expected: float


class Cusum:
    """Two-sided CUSUM of each arm's standardised residuals r, over what is usual for the arm.

        up <- max(0, up + r / usual - SLACK),      down <- max(0, down - r / usual - SLACK);

    an alarm where either exceeds `alarm`, and both begin anew. One noise is taken for all arms; what is drift is told
    beside the arm's own root mean square, `usual`.

    Args:
        n_arms: Number of arms.
        alarm: In standard deviations; infinity never alarms.

    References:
        Page (1954), Biometrika 41.
    """

    def __init__(self, n_arms: int, *, alarm: float) -> None:
        self.alarm = alarm
        # Of each arm: how many and their squares, then either way the sum and the drift. Lists are quicker to change.
        self._arms = [[0.0] * 10 for _ in range(n_arms)]

    def add_arm(self) -> None:
        """Take in a new arm, as the last."""
        self._arms.append([0.0] * 10)

    def watch(self, arm: int, residual: float, *, seen: float = 0.0, expected: float = 0.0) -> Drift | None:
        """Follow an arm; return its drift where that is an alarm.

        Args:
            arm: Its index.
            residual: Standardised.
            seen: The outcome.
            expected: What had been expected.
        """
        of_arm = self._arms[arm]
        count, squares = of_arm[:2]
        usual = math.sqrt(max(1.0, (USUAL + squares) / (USUAL + count)))
        residual = max(-LARGEST_RESIDUAL, min(residual, LARGEST_RESIDUAL))
        of_arm[:2] = count + 1, squares + residual * residual
        step = residual / usual
        for start, toward in ((2, step), (6, -step)):
            total = of_arm[start] + toward - SLACK
            if total <= 0:
                of_arm[start] = 0.0
                continue
            if of_arm[start] == 0:
                of_arm[start + 1 : start + 4] = 0.0, 0.0, 0.0
            of_arm[start] = total
            of_arm[start + 1] += 1
            of_arm[start + 2] += seen
            of_arm[start + 3] += expected
            if total > self.alarm:
                drift = Drift(int(of_arm[start + 1]), of_arm[start + 2], of_arm[start + 3])
                of_arm[2] = of_arm[6] = 0.0
                return drift
        return None

    def state(self) -> NDArray[np.float64]:
        """Return all that `from_state` needs."""
        return np.array(self._arms)

    @classmethod
    def from_state(cls, arrays: NDArray[np.float64], *, alarm: float) -> Self:
        """Return what `state` described."""
        cusum = cls(0, alarm=alarm)
        cusum._arms = arrays.tolist()
        return cusum
