"""The log of a bandit that learns as it goes evaluates to the truth, where propensities are those it drew by."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from pointsman.ope.estimators import dr, ips

N_LOGS, N_ROUNDS = 2_000, 60
MEANS = np.array([0.4, 0.5])
EPSILON = 0.2


@pytest.mark.parametrize("called", [0, 1])
def test_exact_propensities_leave_no_bias_in_a_bandits_log(seed, rng, called):
    """IPS, and DR with the means of the rounds before, of either arm; the arm's own mean is too low."""
    arm, outcome, propensity, before = epsilon_greedy(rng=rng)
    target = np.broadcast_to(np.eye(2)[called], (arm.size, 2))
    logged = {
        "arm": arm.ravel(),
        "outcome": outcome.ravel(),
        "propensity": propensity.ravel(),
        "target_probs": target,
    }

    for estimate in (ips(**logged), dr(**logged, predicted=before.reshape(-1, 2))):
        values = estimate.terms[0].numerator.reshape(N_LOGS, N_ROUNDS).mean(axis=1)
        assert abs(deviation(values, MEANS[called])) < synthetic.FALSE_FAILURE_Z

    served = (arm == called).sum(axis=1)
    own = np.where(arm == called, outcome, 0.0).sum(axis=1)[served > 0] / served[served > 0]
    assert deviation(own, MEANS[called]) < -synthetic.FALSE_FAILURE_Z


def epsilon_greedy(*, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return arm, outcome and propensity, (n_logs, n_rounds), and every arm's mean before each round."""
    shape, logs = (N_LOGS, N_ROUNDS), np.arange(N_LOGS)
    arm, outcome, propensity = np.empty(shape, dtype=np.int64), np.empty(shape), np.empty(shape)
    before = np.empty((*shape, 2))
    wins, calls = np.ones((N_LOGS, 2)), np.full((N_LOGS, 2), 2.0)
    for i in range(N_ROUNDS):
        before[:, i] = wins / calls
        likely = EPSILON / 2 + (1 - EPSILON) * (before[:, i, 1] > before[:, i, 0])
        arm[:, i] = rng.random(N_LOGS) < likely
        propensity[:, i] = np.where(arm[:, i] == 1, likely, 1 - likely)
        outcome[:, i] = rng.random(N_LOGS) < MEANS[arm[:, i]]
        wins[logs, arm[:, i]] += outcome[:, i]
        calls[logs, arm[:, i]] += 1
    return arm, outcome, propensity, before


def deviation(values: np.ndarray, truth: float) -> float:
    """Return how many Monte Carlo standard errors the mean of the logs is from the truth."""
    return (values.mean() - truth) / (values.std(ddof=1) / np.sqrt(values.size))
