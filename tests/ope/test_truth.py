"""The true value of a policy on full feedback."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pointsman.errors import InvalidLogError
from pointsman.ope.truth import score_policy
from pointsman.trade_off import TradeOff

QUALITY = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
COST_USD = np.tile([0.01, 0.04], (4, 1))


def test_a_policy_by_hand():
    """Value, regret and share of the gap at lambda = 10."""
    target = np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])

    found = score_policy(quality=QUALITY, cost_usd=COST_USD, target_probs=target, trade_off=TradeOff(10.0))

    # Utilities: (.9, -.4), (-.1, .6), (.9, .6), (-.1, .6).
    assert found.value == pytest.approx((0.9 + 0.25 + 0.9 + 0.6) / 4)
    assert found.quality == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert found.cost_usd == pytest.approx((0.01 + 0.025 + 0.01 + 0.04) / 4)
    assert found.oracle_value == pytest.approx((0.9 + 0.6 + 0.9 + 0.6) / 4)
    assert (found.best_single, found.best_single_value) == (0, pytest.approx(0.4))
    assert found.regret == pytest.approx(found.oracle_value - found.value)
    assert found.share_of_gap_closed == pytest.approx((found.value - 0.4) / (0.75 - 0.4))


def test_the_oracle_closes_the_gap_and_the_best_single_arm_none_of_it():
    """The ends of the scale."""
    oracle, single = (
        score_policy(quality=QUALITY, cost_usd=COST_USD, target_probs=target, trade_off=TradeOff(10.0))
        for target in (np.eye(2)[[0, 1, 0, 1]], np.eye(2)[[0, 0, 0, 0]])
    )

    assert (oracle.regret, oracle.share_of_gap_closed) == (pytest.approx(0), pytest.approx(1))
    assert single.share_of_gap_closed == 0


def test_unknown_costs_matter_only_where_cost_counts():
    """Lambda = 0 needs no cost; any other does, and says so."""
    unknown = np.full((4, 2), np.nan)
    target = np.full((4, 2), 0.5)

    found = score_policy(quality=QUALITY, cost_usd=unknown, target_probs=target, trade_off=TradeOff(0.0))

    assert found.value == found.quality == pytest.approx(0.625)
    assert math.isnan(found.cost_usd)
    with pytest.raises(InvalidLogError, match="8 of 8 are not"):
        score_policy(quality=QUALITY, cost_usd=unknown, target_probs=target, trade_off=TradeOff(1.0))


def test_there_is_no_gap_where_one_arm_is_best_everywhere():
    """Its share is not a number."""
    found = score_policy(
        quality=np.array([[1.0, 0.0]]), cost_usd=np.zeros((1, 2)), target_probs=np.eye(2)[:1], trade_off=TradeOff(0.0)
    )

    assert math.isnan(found.share_of_gap_closed)
