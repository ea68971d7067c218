"""RM-Classification and RM-Softmax at and between their nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.policies.regret import RMClassification, RMSoftmax
from pointsman.trade_off import TradeOff


@pytest.mark.parametrize("method", [RMClassification, RMSoftmax])
def test_a_node_alone_is_the_node_among_others(
    method: type[RMSoftmax], draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """What is served at a node is the literal policy of that one trade-off, untouched by the other nodes."""
    log = draw_log(rng)
    nodes = (0.0, 0.1, 1.0)
    together = method(nodes=nodes, penalties=(1e-3,)).fit(log.context, log.scores)
    for node in nodes:
        alone = method(nodes=(node,), penalties=(1e-3,)).fit(log.context, log.scores)
        trade_off = TradeOff(node / together.cost_scale_usd_)
        np.testing.assert_array_equal(
            alone.probabilities(log.context, trade_off), together.probabilities(log.context, trade_off)
        )


def test_a_trade_off_takes_its_nearest_node(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Between cost weights .2 and .5 the border is .35; past half way to 1 only cost counts."""
    log = draw_log(rng)
    policy = RMClassification(nodes=(0.25, 1.0)).fit(log.context, log.scores)
    scale = policy.cost_scale_usd_

    def at(cost_weight: float) -> np.ndarray:
        return policy.probabilities(log.context, TradeOff.from_cost_weight(cost_weight, cost_scale_usd=scale))

    np.testing.assert_array_equal(at(0.0), at(0.34))
    np.testing.assert_array_equal(at(0.36), at(0.74))
    assert (at(0.34) != at(0.36)).any()
    assert (at(0.76).argmax(axis=1) == policy.cost_usd_.argmin()).all()
    np.testing.assert_array_equal(at(0.76), at(1.0))


def test_the_cost_scale_is_the_mean_cost_of_the_dearest_arm(
    draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """And the currency makes no difference: at 128 to the dollar, which rounds nothing, choices are the same."""
    log = draw_log(rng)
    policy = RMSoftmax().fit(log.context, log.scores)
    assert policy.cost_scale_usd_ == pytest.approx(log.cost_usd.mean(axis=0).max())
    exchanged = replace(
        log.scores, cost_usd=128 * log.scores.cost_usd, predicted_cost_usd=128 * log.scores.predicted_cost_usd
    )
    other = RMSoftmax().fit(log.context, exchanged)
    np.testing.assert_array_equal(
        policy.probabilities(log.context, TradeOff(64)), other.probabilities(log.context, TradeOff(0.5))
    )


@pytest.mark.parametrize("nodes", [(), (1.0, 0.5), (-1.0, 0.0), (0.0, np.inf)])
def test_nodes_must_increase(nodes: tuple[float, ...]) -> None:
    """Nodes that are missing, unordered, negative or infinite are refused."""
    with pytest.raises(InvalidParameterError, match="nodes must be finite"):
        RMSoftmax(nodes=nodes)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_temperature_must_be_positive(temperature: float) -> None:
    """A softmax needs a finite positive temperature."""
    with pytest.raises(InvalidParameterError, match="temperature must be"):
        RMSoftmax(temperature=temperature)
