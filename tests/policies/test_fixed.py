"""The policies that do not look at the prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.policies.fixed import Always, BestSingle, arm_means
from pointsman.trade_off import TradeOff


def test_doubly_robust_means_are_within_their_standard_errors(
    draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """The mean of a score column is within 5 standard errors of the arm's true mean, predictions right or not."""
    log = draw_log(rng, n_rounds=2000)
    quality, cost_usd = arm_means(log.scores, estimate="dr")
    for mean, scores, truth in (
        (quality, log.scores.quality_scores, log.quality),
        (cost_usd, log.scores.cost_scores, log.cost_usd),
    ):
        error = scores.std(axis=0) / np.sqrt(2000)
        assert (np.abs(mean - truth.mean(axis=0)) <= 5 * error).all()


def test_best_single_is_the_arm_of_highest_mean_utility(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """At every trade-off the choice maximises mean quality - lambda mean cost among the eligible arms."""
    log = draw_log(rng)
    for estimate in ("dr", "model"):
        policy = BestSingle(estimate=estimate).fit(log.context, log.scores)
        for quality_per_usd in (0.0, 20.0, 100.0, 1e4):
            utility = policy.quality_ - quality_per_usd * policy.cost_usd_
            chosen = policy.probabilities(log.context, TradeOff(quality_per_usd)).argmax(axis=1)
            assert (chosen == utility.argmax()).all()


def test_an_unknown_estimate_is_refused(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Only the two estimates of an arm's mean exist."""
    log = draw_log(rng, n_rounds=50)
    with pytest.raises(InvalidParameterError, match="estimate must be"):
        BestSingle(estimate="ips").fit(log.context, log.scores)  # type: ignore[arg-type]


def test_always_calls_its_arm_and_else_the_best_other(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """The named arm wherever it may be chosen; where it may not, the best single of the others."""
    log = draw_log(rng, n_rounds=100)
    policy = Always(arm=2).fit(log.context, log.scores)
    assert (policy.probabilities(log.context, TradeOff(np.inf))[:, 2] == 1).all()
    others = np.tile([True, True, False, True], (100, 1))
    best = BestSingle(estimate="model").fit(log.context, log.scores)
    np.testing.assert_array_equal(
        policy.probabilities(log.context, TradeOff(20), others), best.probabilities(log.context, TradeOff(20), others)
    )
    with pytest.raises(InvalidParameterError, match="arm must be a column"):
        Always(arm=4).fit(log.context, log.scores)
