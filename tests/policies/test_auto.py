"""The default method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pointsman.policies.auto import Auto
from pointsman.trade_off import TradeOff


def test_where_routing_cannot_help_it_sends_all_to_one_arm(draw_log: Callable[..., Any], seed: int) -> None:
    """Outcomes that do not depend on the prompt leave nothing to route by, so every prompt gets the best arm."""
    rng = np.random.default_rng(seed)
    log = draw_log(rng, n_rounds=800)
    chance = np.array([0.2, 0.4, 0.6, 0.9])
    quality = (rng.random(800) < chance[log.scores.arm]).astype(float)
    scores = replace(log.scores, quality=quality, predicted_quality=np.tile(chance, (800, 1)))
    policy = Auto(safety=2.0).fit(log.context, scores)
    # 200 rounds an arm: means have standard errors of at most .035, and the two best are .3 apart.
    if not policy.routes_:
        assert (policy.probabilities(log.context, TradeOff())[:, 3] == 1).all()
    assert policy.probabilities(log.context, TradeOff())[:, 3].mean() > 0.9


def test_the_safety_step_compares_the_improvement_with_its_error(
    draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """It routes just below the ratio of the two and not just above it."""
    log = draw_log(rng)
    fitted = Auto().fit(log.context, log.scores)
    ratio = fitted.improvement_ / fitted.improvement_error_
    assert Auto(safety=ratio * 0.999).fit(log.context, log.scores).routes_
    assert not Auto(safety=ratio * 1.001).fit(log.context, log.scores).routes_


def test_without_routing_the_dial_still_moves(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """The arm for everybody is the best one at each trade-off, the cheapest where only cost counts."""
    log = draw_log(rng)
    policy = Auto(safety=np.inf).fit(log.context, log.scores)
    for scaled in (0.0, 0.5, 5.0, np.inf):
        trade_off = TradeOff(scaled / float(policy.mean_cost_usd_.max()))
        best = trade_off.utility(quality=policy.mean_quality_, cost_usd=policy.mean_cost_usd_).argmax()
        assert (policy.probabilities(log.context, trade_off)[:, best] == 1).all()
    assert best == log.cost_usd.mean(axis=0).argmin()


def test_an_arm_never_seen_to_answer_is_not_chosen(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Unless nothing else is eligible."""
    log = draw_log(rng, never_logged=2)
    policy = Auto(safety=-np.inf).fit(log.context, log.scores)
    assert policy.probabilities(log.context, TradeOff())[:, 2].max() == 0
    only = np.zeros((len(log.context), 4), dtype=bool)
    only[:, 2] = True
    assert (policy.probabilities(log.context, TradeOff(), only)[:, 2] == 1).all()


def test_no_arm_is_predicted_cheaper_than_its_cheapest_call(
    draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """A linear prediction of cost would fall below zero somewhere, and draw all traffic there."""
    log = draw_log(rng)
    policy = Auto(safety=-np.inf).fit(log.context, log.scores)
    _, cost_usd = policy.predict(100 * log.context)
    for t in range(4):
        assert cost_usd[:, t].min() >= log.scores.cost_usd[log.scores.arm == t].min()


@pytest.mark.parametrize("n_rounds", [1, 2, 5])
def test_a_handful_of_rounds_is_no_error(draw_log: Callable[..., Any], rng: np.random.Generator, n_rounds: int) -> None:
    """What little there is gives a policy."""
    log = draw_log(rng, n_rounds=n_rounds)
    policy = Auto().fit(log.context, log.scores)
    np.testing.assert_allclose(policy.probabilities(log.context, TradeOff()).sum(axis=1), 1)


def test_rounds_without_quality_still_teach_cost(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """A round whose outcome is not known yet is not learned from, and its cost is."""
    log = draw_log(rng)
    quality = np.where(np.arange(600) % 3 == 0, np.nan, log.scores.quality)
    policy = Auto().fit(log.context, replace(log.scores, quality=quality))
    quality_, cost_usd = policy.predict(log.context)
    assert np.isfinite(quality_).all()
    assert np.isfinite(cost_usd).all()
