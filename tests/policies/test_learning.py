"""Each learning method finds a clear signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pointsman.policies import make
from pointsman.trade_off import TradeOff


def value(policy: Any, log: Any, trade_off: TradeOff) -> float:
    """Return the true mean utility of the policy's choices."""
    utility = trade_off.utility(quality=log.quality, cost_usd=log.cost_usd)
    return float((policy.probabilities(log.context, trade_off) * utility).sum(axis=1).mean())


@pytest.mark.parametrize("method", ["auto", "direct", "dr", "knn", "rm-classification", "rm-interval", "rm-softmax"])
def test_it_beats_the_best_single_arm(
    method: str, draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """Where each arm is best for a share of the prompts, learning closes over a third of the gap to the oracle."""
    # A label is the arg max of noisy scores: classification learns only where that is mostly the right arm.
    log = draw_log(rng, n_rounds=2000, exact_outcomes=method == "rm-classification")
    policy = make(method).fit(log.context, log.scores)
    for scaled in (0.0, 0.1, 0.3):
        trade_off = TradeOff(scaled / log.cost_usd.mean(axis=0).max())
        utility = trade_off.utility(quality=log.quality, cost_usd=log.cost_usd)
        best_single, oracle = utility.mean(axis=0).max(), utility.max(axis=1).mean()
        assert value(policy, log, trade_off) - best_single > (oracle - best_single) / 3


def test_cloning_learns_the_logger_and_not_the_outcomes(
    draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """The clone of a logger that always asks the worst arm asks the worst arm."""
    log = draw_log(rng)
    worst = log.quality.argmin(axis=1)
    policy = make("clone").fit(log.context, replace(log.scores, arm=worst))
    # The worst of four linear scores is itself linear; what is left are prompts near a boundary.
    assert (policy.probabilities(log.context, TradeOff(0)).argmax(axis=1) == worst).mean() > 0.85
