"""Online policies by name: each is made, decides as the interface says, and replays the same every time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online import ONLINE_POLICIES, policy
from pointsman.online.replay import Delay, NewArm, Outage, PriceCut, replay, stream
from pointsman.trade_off import TradeOff
from tests.tables import small_table

TABLE = small_table(n_prompts=90)
CONTEXT = np.random.default_rng(1).normal(size=(len(TABLE), 6))


@pytest.mark.parametrize("name", ONLINE_POLICIES)
def test_every_policy_goes_by_its_name(name):
    """And is of the shape it was asked for."""
    made = policy(name, n_arms=3, n_features=6)
    assert type(made) is ONLINE_POLICIES[name]
    assert (made.name, made.n_arms, made.n_features) == (name, 3, 6)


@pytest.mark.parametrize("name", ONLINE_POLICIES)
def test_every_policy_draws_one_uniform_from_its_probabilities(name):
    """So that policies replayed with one seed meet the same luck, and propensities are those of the draw."""
    made, rng, same = policy(name, n_arms=3, n_features=6), np.random.default_rng(0), np.random.default_rng(0)
    eligible = np.array([True, False, True])
    for context in CONTEXT[:40]:
        probabilities = made.probabilities(context, TradeOff(10.0), eligible)
        choice = made.decide(context, TradeOff(10.0), eligible, rng=rng)
        same.random()
        assert rng.bit_generator.state == same.bit_generator.state
        np.testing.assert_array_equal(choice.probabilities, probabilities)
        assert choice.propensity == probabilities[choice.arm]
        assert probabilities.sum() == pytest.approx(1)
        assert probabilities[1] == 0
        made.update(context, choice.arm, quality=0.5, cost_usd=1e-3, trade_off=TradeOff(10.0))


@pytest.mark.parametrize("name", ONLINE_POLICIES)
def test_every_policy_replays_the_same_through_everything(name):
    """A price cut, a new arm, an outage, late and lost feedback, random trade-offs: the same arms both times."""
    scenarios = [
        PriceCut(at=20, arm="dear", factor=0.1),
        Outage(at=30, until=50, arm="cheap"),
        NewArm(at=60, arm="coder", like="dear", scored=5),
        Delay(mean_rounds=4, lost=0.1),
    ]
    requests = stream(
        TABLE, CONTEXT, scenarios=scenarios, random_trade_off=True, n_rounds=150, rng=np.random.default_rng(0)
    )
    first, again = (replay(policy(name, n_arms=2, n_features=6), requests, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.arm, again.arm)
    np.testing.assert_array_equal(first.propensity, again.propensity)
    assert ((first.propensity > 0) & (first.propensity <= 1)).all()
    assert math.isfinite(first.regret[-1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nobody", {}, "policy must be one of"),
        ("epsilon-greedy", {"colour": 1}, "options of 'epsilon-greedy' must be among"),
        ("epsilon-greedy", {"floor": "much"}, "of their type"),
    ],
)
def test_what_is_not_known_is_named(name, options, message):
    """Each rule has its error."""
    with pytest.raises(InvalidParameterError, match=message):
        policy(name, n_arms=3, n_features=6, **options)
