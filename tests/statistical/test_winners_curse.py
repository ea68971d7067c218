"""The best of many policies looks better than it is, but not on rounds that had no say in the choice."""

from __future__ import annotations

import numpy as np
import synthetic

from pointsman.ope.estimators import ips
from pointsman.ope.intervals import joint_intervals

N_LOGS, N_ROUNDS = 400, 200
N_POLICIES = 40
N_STATES, N_ARMS = 8, 4


def test_held_out_rounds_lift_the_winners_curse(seed, rng):
    """Over 400 logs the mean error of the chosen policy is noise held out, and far above it where it was chosen."""
    world = synthetic.FiniteWorld.random(n_states=N_STATES, n_arms=N_ARMS, least_propensity=0.1, rng=rng)
    policies = np.eye(N_ARMS)[rng.integers(N_ARMS, size=(N_POLICIES, N_STATES))]
    truths = np.array([world.value(policy) for policy in policies])
    chosen_on, held_out = (values(world, policies, rng=rng) for _ in range(2))
    best, each = chosen_on.argmax(axis=0), np.arange(N_LOGS)

    optimism, error = (found[best, each] - truths[best] for found in (chosen_on, held_out))

    root = np.sqrt(N_LOGS)
    assert optimism.mean() > synthetic.FALSE_FAILURE_Z * optimism.std(ddof=1) / root
    assert abs(error.mean()) < synthetic.FALSE_FAILURE_Z * error.std(ddof=1) / root


def test_a_band_over_all_policies_allows_for_the_choice(seed, rng):
    """The chosen one's place in the band misses, over 200 logs, no more often than 5% and binomial noise allow."""
    n_rounds, n_logs = 1_000, 200
    world = synthetic.FiniteWorld.random(n_states=N_STATES, n_arms=N_ARMS, least_propensity=0.1, rng=rng)
    policies = np.eye(N_ARMS)[rng.integers(N_ARMS, size=(N_POLICIES, N_STATES))]
    truths = np.array([world.value(policy) for policy in policies])
    missed = 0
    for number in range(n_logs):
        log = world.draw(n_rounds, rng=rng)
        scores = policies[:, log.state, log.arm] / log.propensity * log.outcome
        found = scores.mean(axis=1)
        best = found.argmax()
        band = joint_intervals(found, scores - found[:, None], n_draws=200, seed=number)
        missed += not band.low[best] <= truths[best] <= band.high[best]

    assert missed / n_logs < 0.05 + synthetic.FALSE_FAILURE_Z * np.sqrt(0.05 * 0.95 / n_logs)


def values(world: synthetic.FiniteWorld, policies: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return each policy's IPS estimate on each of the logs, (n_policies, n_logs)."""
    log = world.draw(N_LOGS * N_ROUNDS, rng=rng)
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity}
    terms = [ips(**logged, target_probs=policy[log.state]).terms[0].numerator for policy in policies]
    return np.stack(terms).reshape(N_POLICIES, N_LOGS, N_ROUNDS).mean(axis=2)
