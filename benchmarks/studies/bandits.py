"""Logs of bandits that learn as they go, with the propensities they drew by; many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bandit = Literal["fixed", "epsilon-greedy", "thompson", "thompson, fading floor"]

MEANS = np.array([[0.6, 0.5, 0.3], [0.5, 0.6, 0.5], [0.2, 0.2, 0.4], [0.7, 0.7, 0.6]])
"""(n_states, n_arms) probability that an outcome is one; the states are equally frequent.

The first two arms are worth the same."""

N_STATES, N_ARMS = MEANS.shape
FLOOR = 0.1
"""What bandits spread over all arms; the fading one takes min(FLOOR, 1 / sqrt(t))."""
N_POSTERIOR_DRAWS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class BanditLogs:
    """Several logs of one bandit, each (n_logs, n_rounds) unless it says otherwise.

    Attributes:
        state: What the prompt is.
        arm: What was drawn.
        outcome: Of it.
        propensity: Probability of it given all rounds before.
        probabilities: (n_logs, n_rounds, n_arms) that of every arm.
        predicted: (n_logs, n_rounds, n_arms) mean outcome of the arm in this state in the rounds before.
        least_propensity: What every arm has in every round at least.
    """

    state: NDArray[np.int64]
    arm: NDArray[np.int64]
    outcome: NDArray[np.float64]
    propensity: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    predicted: NDArray[np.float64]
    least_propensity: float


def run_bandit(bandit: Bandit, *, n_logs: int, n_rounds: int, rng: np.random.Generator) -> BanditLogs:
    """Return logs of a bandit on the states of `MEANS`.

    fixed           each arm a third;
    epsilon-greedy  1 - FLOOR on the arm of highest mean so far in the state, FLOOR spread over all;
    thompson        arms by the share of 20 normal posterior draws that each wins, 1 - FLOOR of them, FLOOR spread:
                    which 20 were drawn is part of the past, so that the propensity is exact.
    """
    state = rng.integers(N_STATES, size=(n_logs, n_rounds))
    shape = (n_logs, n_rounds)
    arm, outcome, propensity = np.empty(shape, dtype=np.int64), np.empty(shape), np.empty(shape)
    probabilities, predicted = np.empty((*shape, N_ARMS)), np.empty((*shape, N_ARMS))
    # One success of two trials each to begin with.
    total, count = np.ones((n_logs, N_STATES, N_ARMS)), np.full((n_logs, N_STATES, N_ARMS), 2.0)
    logs = np.arange(n_logs)
    for t in range(n_rounds):
        at = state[:, t]
        n, mean = count[logs, at], total[logs, at] / count[logs, at]
        floor = _floor(bandit, t + 1)
        probs = floor / N_ARMS + (1 - floor) * _preferred(bandit, mean, n, rng=rng)
        chosen = np.minimum((rng.random((n_logs, 1)) >= probs.cumsum(axis=1)).sum(axis=1), N_ARMS - 1)
        won = (rng.random(n_logs) < MEANS[at, chosen]).astype(np.float64)
        arm[:, t], outcome[:, t], propensity[:, t] = chosen, won, probs[logs, chosen]
        probabilities[:, t], predicted[:, t] = probs, mean
        total[logs, at, chosen] += won
        count[logs, at, chosen] += 1
    return BanditLogs(
        state=state,
        arm=arm,
        outcome=outcome,
        propensity=propensity,
        probabilities=probabilities,
        predicted=predicted,
        least_propensity=_floor(bandit, n_rounds) / N_ARMS,
    )


def value(policy: NDArray[np.float64]) -> float:
    """Return the value of a policy, (n_states, n_arms)."""
    return float((policy * MEANS).sum(axis=1).mean())


def _floor(bandit: Bandit, t: int) -> float:
    if bandit == "fixed":
        return 1.0
    return min(FLOOR, float(t) ** -0.5) if bandit == "thompson, fading floor" else FLOOR


def _preferred(
    bandit: Bandit, mean: NDArray[np.float64], count: NDArray[np.float64], *, rng: np.random.Generator
) -> NDArray[np.float64]:
    if bandit in ("fixed", "epsilon-greedy"):
        return np.asarray(np.eye(N_ARMS)[mean.argmax(axis=1)])
    spread = np.sqrt(mean * (1 - mean) / count)
    drawn = mean[:, None] + spread[:, None] * rng.normal(size=(mean.shape[0], N_POSTERIOR_DRAWS, N_ARMS))
    return np.asarray(np.eye(N_ARMS)[drawn.argmax(axis=2)].mean(axis=1))
