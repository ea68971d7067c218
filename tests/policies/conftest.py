"""A synthetic log whose truth is known, for every test of a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from pointsman.scores import Scores
from pointsman.types import Context, PerArm

N_FEATURES = 6


@dataclass(frozen=True, kw_only=True)
class Log:
    """A one-arm log and the truth behind it."""

    context: Context
    scores: Scores
    quality: PerArm
    cost_usd: PerArm


def draw(
    rng: np.random.Generator,
    *,
    n_rounds: int = 600,
    n_arms: int = 4,
    never_logged: int | None = None,
    with_cost: bool = True,
    with_masks: bool = False,
    exact_outcomes: bool = False,
) -> Log:
    """Return a uniformly logged sample in which each arm is best for some prompts and no arm for all of them.

    Outcomes are drawn, and predicted by the arms' means alone; where `exact_outcomes`, they are the expected ones and
    the predictions miss them by 0.1.
    """
    context = rng.standard_normal((n_rounds, N_FEATURES)) / np.sqrt(N_FEATURES)
    slopes = rng.standard_normal((n_arms, N_FEATURES))
    slopes *= 6 / np.linalg.norm(slopes, axis=1, keepdims=True)
    quality = 1 / (1 + np.exp(-context @ slopes.T))
    cost_usd = np.geomspace(1e-3, 1e-2, n_arms) * np.exp(0.2 * rng.standard_normal((n_rounds, 1)))
    eligible = np.ones((n_rounds, n_arms), dtype=bool)
    if with_masks:
        eligible = rng.random((n_rounds, n_arms)) < 0.7
        eligible[np.arange(n_rounds), rng.integers(0, n_arms, n_rounds)] = True
    probability = eligible.astype(float)
    if never_logged is not None:
        probability[:, never_logged] = 0
        probability[probability.sum(axis=1) == 0] = np.arange(n_arms) != never_logged
        eligible |= probability > 0
    probability /= probability.sum(axis=1, keepdims=True)
    draws = rng.random((n_rounds, 1))
    arm = (draws >= probability.cumsum(axis=1)).sum(axis=1).clip(0, n_arms - 1)
    row = np.arange(n_rounds)
    if exact_outcomes:
        outcome = quality[row, arm]
        predicted = quality + 0.1 * rng.standard_normal(quality.shape)
    else:
        outcome = (rng.random(n_rounds) < quality[row, arm]).astype(float)
        # What a policy learns of the prompts it then learns from the outcomes.
        predicted = np.tile(quality.mean(axis=0), (n_rounds, 1))
    scores = Scores(
        arm=arm,
        quality=outcome,
        cost_usd=cost_usd[row, arm] if with_cost else np.full(n_rounds, np.nan),
        propensity=probability[row, arm],
        eligible=eligible,
        predicted_quality=predicted,
        predicted_cost_usd=np.tile(cost_usd.mean(axis=0) if with_cost else np.full(n_arms, np.nan), (n_rounds, 1)),
        fold=rng.integers(0, 5, n_rounds),
    )
    return Log(context=context, scores=scores, quality=quality, cost_usd=cost_usd)


@pytest.fixture
def draw_log() -> Callable[..., Log]:
    """The function that draws a log from a generator."""
    return draw
