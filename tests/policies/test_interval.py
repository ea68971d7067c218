"""RM-Interval: one router for every trade-off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.policies.interval import RMInterval
from pointsman.trade_off import TradeOff


def test_logits_are_linear_in_the_trade_off_inside_an_interval(
    draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """At lambda = (1-s) l + s u the logits are (1-s) those at l + s those just under u."""
    log = draw_log(rng)
    policy = RMInterval(edges=(0.0, 0.1, 1.0)).fit(log.context, log.scores)
    scale = policy.cost_scale_usd_
    for lower, upper in ((0.0, 0.1), (0.1, 1.0)):
        under = np.nextafter(upper / scale, 0)
        ends = [policy.logits(log.context, TradeOff(x)) for x in (lower / scale, under)]
        for s in (0.25, 0.9):
            inside = policy.logits(log.context, TradeOff(((1 - s) * lower + s * upper) / scale))
            # Logits are of order one and the place of a trade-off is known to a few units of rounding.
            np.testing.assert_allclose(inside, (1 - s) * ends[0] + s * ends[1], atol=1e-9)


def test_every_trade_off_has_a_place(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Edges start their interval; the last one runs to infinity in the cost weight, halfway of which is its middle."""
    log = draw_log(rng, n_rounds=200)
    policy = RMInterval(edges=(0.0, 0.25, 1.0)).fit(log.context, log.scores)
    scale = policy.cost_scale_usd_
    for scaled, interval, place in (
        (0.0, 0, 0.0),
        (0.125, 0, 0.5),
        (0.625, 1, 0.5),
        (3.0, 2, 0.5),
        (np.inf, 2, 1.0),
    ):
        found = policy.place(TradeOff(scaled / scale))
        assert found[0] == interval
        assert found[1] == pytest.approx(place, abs=1e-12)


def test_the_draws_lie_where_the_choice_will(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """The cost weight trained at a place of an interval is that of the trade-off served there."""
    log = draw_log(rng, n_rounds=200)
    policy = RMInterval(edges=(0.0, 0.25, 1.0)).fit(log.context, log.scores)
    for interval in range(3):
        for s in (0.1, 0.6):
            weight = float(policy._cost_weight(interval, np.array([s]))[0])
            trade_off = TradeOff.from_cost_weight(weight, cost_scale_usd=policy.cost_scale_usd_)
            assert policy.place(trade_off) == (interval, pytest.approx(s, abs=1e-9))


def test_only_cost_counts_at_infinity(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Where quality is worth nothing the cheapest arm is learned, on nearly every prompt."""
    log = draw_log(rng, n_rounds=1000)
    policy = RMInterval().fit(log.context, log.scores)
    chosen = policy.probabilities(log.context, TradeOff(np.inf)).argmax(axis=1)
    assert (chosen == log.cost_usd.argmin(axis=1)).mean() > 0.9


@pytest.mark.parametrize("edges", [(), (0.1, 1.0), (0.0, 0.0)])
def test_edges_increase_from_zero(edges: tuple[float, ...]) -> None:
    """Edges that are missing, leave out lambda = 0, or repeat are refused."""
    with pytest.raises(InvalidParameterError, match="edges must"):
        RMInterval(edges=edges)
