"""Logs of bandits: their propensities are those they drew by, and they learn."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from benchmarks.studies.bandits import MEANS, N_ARMS, Bandit, run_bandit
from pointsman.ope.diagnostics.significance import normal_p_value

ONE_IN_A_MILLION = 1e-6


@pytest.mark.parametrize("bandit", get_args(Bandit))
def test_a_bandit_draws_by_its_propensities(rng, bandit):
    """Each arm is drawn as often as the propensities add up to: a martingale, its variance the sum of p (1 - p)."""
    logs = run_bandit(bandit, n_logs=50, n_rounds=200, rng=rng)
    drawn = np.eye(N_ARMS)[logs.arm]
    p = logs.probabilities

    z = (drawn - p).sum(axis=(0, 1)) / np.sqrt((p * (1 - p)).sum(axis=(0, 1)))
    rows = np.indices(logs.arm.shape)

    np.testing.assert_allclose(p.sum(axis=2), 1)
    np.testing.assert_array_equal(logs.propensity, p[rows[0], rows[1], logs.arm])
    assert p.min() >= logs.least_propensity * (1 - 1e-12)
    assert normal_p_value(z).min() * N_ARMS > ONE_IN_A_MILLION


@pytest.mark.parametrize("bandit", ["epsilon-greedy", "thompson", "thompson, fading floor"])
def test_a_bandit_learns(rng, bandit):
    """In the last rounds it picks arms of higher mean than in the first: by 4.89 standard errors over 200 logs."""
    logs = run_bandit(bandit, n_logs=200, n_rounds=400, rng=rng)
    worth = (logs.probabilities * MEANS[logs.state]).sum(axis=2)

    gain = worth[:, -100:].mean(axis=1) - worth[:, :20].mean(axis=1)

    assert gain.mean() > 4.89 * gain.std(ddof=1) / np.sqrt(200)


def test_predictions_are_of_the_rounds_before(rng):
    """One log by hand: a mean of the state's earlier rounds of the arm, from one success in two trials."""
    logs = run_bandit("epsilon-greedy", n_logs=1, n_rounds=60, rng=rng)
    state, arm, outcome = logs.state[0], logs.arm[0], logs.outcome[0]
    for i in (0, 1, 30, 59):
        for t in range(N_ARMS):
            before = (state[:i] == state[i]) & (arm[:i] == t)
            assert logs.predicted[0, i, t] == (1 + outcome[:i][before].sum()) / (2 + before.sum())
