"""An arm that has drifted is noticed, one that has not hardly ever is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pointsman.online.cusum import Cusum


def until_alarm(residuals, *, alarm=10.0):
    """The round of the first alarm, and what it says; None where there is none."""
    cusum = Cusum(1, alarm=alarm)
    for i, residual in enumerate(residuals, start=1):
        drift = cusum.watch(0, float(residual), seen=2.0, expected=1.0)
        if drift is not None:
            return i, drift
    return None


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_drift_is_noticed_either_way(sign):
    """At a steady drift of 1.5 deviations the sum gains one a round, so the eleventh exceeds ten."""
    round_, drift = until_alarm(np.full(50, sign * 1.5) + 1e-9 * sign)
    assert round_ in (11, 12)  # squares above one make a deviation a little larger
    assert drift.n_outcomes == round_
    assert (drift.seen, drift.expected) == (2.0 * round_, 1.0 * round_)


def test_what_came_before_the_drift_is_not_counted(rng):
    """After a hundred rounds on the other side, the window begins with the drift."""
    round_, drift = until_alarm([-0.1] * 100 + [3.0] * 20)
    assert 100 < round_ < 110
    assert drift.n_outcomes == round_ - 100


def test_no_drift_gives_no_alarm(seed):
    """2,000 rounds of normal residuals pass: at slack .5 and alarm 17 the mean time between alarms is some 10^8.

    Siegmund's approximation of it, for both sides, is exp(h + 1.17) rounds at alarm h; at 10 it is 70,000.
    """
    assert until_alarm(np.random.default_rng(seed).normal(size=2000), alarm=17.0) is None


def test_a_noisy_arm_is_not_taken_to_drift(seed):
    """Residuals of three deviations, evenly either way, are about one by the arm's own root mean square."""
    rng = np.random.default_rng(seed)
    residuals = 3.0 * rng.choice([-1.0, 1.0], size=2000)
    cusum = Cusum(1, alarm=17.0)
    for residual in residuals[:200]:  # what is usual is learned
        cusum.watch(0, float(residual))
    assert all(cusum.watch(0, float(residual)) is None for residual in residuals[200:])


def test_one_outlier_is_no_drift():
    """However far off, one outcome counts for four deviations."""
    assert until_alarm([1e9]) is None
    assert until_alarm([1e9, 0.0, 0.0, 0.0]) is None


def test_arms_are_followed_apart_and_from_disk():
    """An arm's alarm leaves another's sums; what is read back goes on as what was written."""
    cusum = Cusum(2, alarm=10.0)
    for _ in range(3):
        assert cusum.watch(1, 3.0) is None
    cusum.add_arm()
    again = Cusum.from_state(cusum.state(), alarm=10.0)
    rounds = []
    for each in (cusum, again):
        rounds.append(next(i for i in range(100) if each.watch(1, 3.0) is not None))
        assert each.watch(0, 3.0) is None
        assert each.watch(2, 3.0) is None
    assert rounds[0] == rounds[1] < 3


def test_infinity_never_alarms():
    """An infinite alarm is none."""
    assert until_alarm([4.0] * 1000, alarm=math.inf) is None
