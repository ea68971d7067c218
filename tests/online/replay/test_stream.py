"""Streams: which prompts come, in which world, at what trade-off, and what the best arm is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online.replay import (
    NEVER,
    Delay,
    NewArm,
    Outage,
    PriceCut,
    QualityRegression,
    Retired,
    TrafficShift,
    stream,
)
from pointsman.trade_off import TradeOff
from tests.synthetic import FALSE_FAILURE_Z
from tests.tables import small_table

TABLE = small_table()
CONTEXT = np.random.default_rng(1).normal(size=(len(TABLE), 4))
N = len(TABLE)


def small_stream(*scenarios, seed=0, **options):
    """The small table as a stream."""
    return stream(TABLE, CONTEXT, scenarios=scenarios, rng=np.random.default_rng(seed), **options)


def all_outcomes(requests):
    """Quality and cost of every arm in every round, and who was eligible."""
    chunks = list(requests.chunks())
    eligible = [np.tile(chunk.world.eligible, (len(chunk.quality), 1)) for chunk in chunks]
    return (
        np.concatenate([chunk.quality for chunk in chunks]),
        np.concatenate([chunk.cost_usd for chunk in chunks]),
        np.concatenate(eligible),
    )


def test_one_pass_meets_every_prompt_once(seed):
    """In an order that the seed alone decides; further passes are orders of their own."""
    requests = small_stream(seed=seed)
    assert sorted(requests.row) == list(range(N))
    assert (requests.row == small_stream(seed=seed).row).all()
    assert (requests.row != small_stream(seed=seed + 1).row).any()
    longer = small_stream(seed=seed, n_rounds=2 * N + 10)
    assert (longer.row[:N] == requests.row).all()
    assert sorted(longer.row[N : 2 * N]) == list(range(N))
    assert (longer.row[N : 2 * N] != requests.row).any()
    np.testing.assert_array_equal(longer.contexts(slice(3, 5)), CONTEXT[longer.row[3:5]])


def test_without_scenarios_outcomes_are_the_tables():
    """Row by row; a whole stream is as long as its rounds."""
    requests = small_stream(n_rounds=3 * N)
    quality, cost_usd, eligible = all_outcomes(requests)
    np.testing.assert_array_equal(quality, TABLE.quality[requests.row])
    np.testing.assert_array_equal(cost_usd, TABLE.cost_usd[requests.row])
    assert eligible.all()


def test_events_change_what_they_say_from_their_round_on():
    """Prices multiply, qualities fall or change places, arms leave and return; nothing else moves, nor the order."""
    plain = small_stream()
    requests = small_stream(
        PriceCut(at=100, arm="dear", factor=0.1),
        PriceCut(at=150, arm="dear", factor=5.0, told=False),
        QualityRegression(at=60, arm="coder", factor=0.5),
        QualityRegression(at=120, arm="cheap", swap_with="dear"),
        Outage(at=10, until=20, arm="cheap"),
        Retired(at=200, arm="coder"),
    )
    np.testing.assert_array_equal(requests.row, plain.row)
    quality, cost_usd, eligible = all_outcomes(requests)
    was_quality, was_cost, _ = all_outcomes(plain)
    cheap, coder, dear = (TABLE.arms.index(name) for name in ("cheap", "coder", "dear"))
    factor = np.ones((N, 3))
    factor[100:, dear] = 0.1
    factor[150:, dear] = 0.5
    np.testing.assert_allclose(cost_usd, was_cost * factor, rtol=1e-12)
    expected = was_quality.copy()
    expected[60:, coder] *= 0.5
    expected[120:, [cheap, dear]] = was_quality[120:, [dear, cheap]]
    np.testing.assert_allclose(quality, expected, rtol=1e-12)
    present = np.ones((N, 3), dtype=bool)
    present[10:20, cheap] = present[200:, coder] = False
    np.testing.assert_array_equal(eligible, present)
    assert requests.turns == (10, 20, 60, 100, 120, 150, 200)


def test_events_happen_in_the_order_of_time():
    """However they are listed: an arm that changes places twice has what the arm it met last had then."""
    requests = small_stream(
        QualityRegression(at=80, arm="dear", swap_with="coder"),
        QualityRegression(at=40, arm="dear", swap_with="cheap"),
    )
    quality, _, _ = all_outcomes(requests)
    cheap, coder, dear = (TABLE.arms.index(name) for name in ("cheap", "coder", "dear"))
    was = TABLE.quality[requests.row]
    np.testing.assert_array_equal(quality[80:, coder], was[80:, cheap])
    np.testing.assert_array_equal(quality[80:, dear], was[80:, coder])
    np.testing.assert_array_equal(quality[80:, cheap], was[80:, dear])


def test_new_arms_stand_last():
    """In the order they come, so that a policy's arms are the stream's first; before, they are not eligible."""
    requests = small_stream(NewArm(at=90, arm="cheap"), NewArm(at=40, arm="coder"))
    assert requests.arms.names == ("dear", "coder", "cheap")
    assert requests.n_arms_at_start == 1
    quality, _, eligible = all_outcomes(requests)
    np.testing.assert_array_equal(quality[:, 2], TABLE.quality[requests.row, TABLE.arms.index("cheap")])
    assert (eligible.sum(axis=1) == 1 + (np.arange(N) >= 40) + (np.arange(N) >= 90)).all()


@pytest.mark.parametrize("by", ["task", "cluster"])
def test_a_traffic_shift_changes_the_prompts(by, seed):
    """No group is on both sides of it; by cluster no prompt is."""
    requests = small_stream(TrafficShift(at=100, by=by), seed=seed)
    before, after = requests.row[:100], requests.row[100:]
    assert not set(before) & set(after)
    if by == "task":
        tasks = np.array(TABLE.extra["task"].to_pylist())
        assert not set(tasks[before]) & set(tasks[after])
    assert requests.turns == (100,)
    # The best single arm is that of the prompts of each side.
    utility = TABLE.quality[requests.row]
    for side in (slice(0, 100), slice(100, None)):
        assert (requests.best_fixed.arm[side] == utility[side].mean(axis=0).argmax()).all()


def test_a_delay_is_geometric_and_loses_its_share(seed):
    """Mean and share are within chance of what was asked for, and the order stays that without it."""
    n = 20_000
    requests = small_stream(Delay(mean_rounds=30, lost=0.2), n_rounds=n, seed=seed)
    lost = requests.delay == NEVER
    assert abs(lost.mean() - 0.2) < FALSE_FAILURE_Z * math.sqrt(0.2 * 0.8 / n)
    arrived = requests.delay[~lost]
    assert abs(arrived.mean() - 30) < FALSE_FAILURE_Z * math.sqrt(30 * 31 / arrived.size)
    assert arrived.min() == 0
    np.testing.assert_array_equal(requests.row, small_stream(n_rounds=n, seed=seed).row)
    assert not small_stream().delay.any()


def test_random_trade_offs_are_even_cost_weights(seed):
    """A round's utility is (1 - w) quality - w cost / tau with w uniform."""
    requests = small_stream(random_trade_off=True, n_rounds=5_000, seed=seed)
    tau = np.quantile(TABLE.cost_usd, 0.95)
    weight = np.array([TradeOff(rate).cost_weight(cost_scale_usd=tau) for rate in requests.quality_per_usd])
    assert abs(weight.mean() - 0.5) < FALSE_FAILURE_Z * math.sqrt(1 / 12 / weight.size)
    utility = np.concatenate([chunk.utility for chunk in requests.chunks()])
    expected = (1 - weight)[:, None] * TABLE.quality[requests.row]
    expected -= weight[:, None] * TABLE.cost_usd[requests.row] / tau
    np.testing.assert_allclose(utility, expected, atol=1e-9)
    # Drawn apart from the order, which is that of a stream with one trade-off.
    np.testing.assert_array_equal(requests.row, small_stream(n_rounds=5_000, seed=seed).row)


@pytest.mark.parametrize("rate", [0.0, 100.0, math.inf])
def test_oracle_and_best_fixed_arm_are_those_of_the_table(rate):
    """At one trade-off and in one world they are its row maxima and the best column; infinity looks at cost only."""
    requests = small_stream(trade_off=TradeOff(rate))
    utility = TradeOff(rate).utility(quality=TABLE.quality, cost_usd=TABLE.cost_usd)[requests.row]
    np.testing.assert_allclose(requests.oracle.utility, utility.max(axis=1))
    best = utility.mean(axis=0).argmax()
    assert (requests.best_fixed.arm == best).all()
    np.testing.assert_allclose(requests.best_fixed.utility, utility[:, best])
    np.testing.assert_allclose(requests.fixed_arms.utility[0], utility.mean(axis=0))


def test_each_round_may_have_a_trade_off_of_its_own():
    """The best fixed arm then is one at each trade-off."""
    rates = np.where(np.arange(N) % 2, 0.0, 1_000.0)
    best = small_stream(trade_off=rates).best_fixed.arm
    assert {int(arm) for arm in best[1::2]} == {TABLE.arms.index("dear")}
    assert len(set(best[::2])) == 1
    assert best[0] != best[1]


def test_the_best_fixed_arm_changes_with_the_world():
    """It is eligible, and the best of each stretch; the oracle is never beaten."""
    requests = small_stream(Outage(at=50, until=100, arm="dear"), PriceCut(at=150, arm="dear", factor=0.01))
    dear = requests.arms.index("dear")
    best = requests.best_fixed
    assert (best.arm[:50] == dear).all()
    assert (best.arm[50:100] != dear).all()
    assert (best.arm[100:] == dear).all()
    assert (requests.oracle.utility >= best.utility).all()
    assert (requests.oracle.arm[50:100] != dear).all()
    assert np.isnan(requests.fixed_arms.utility[1, dear])


def test_of_equals_the_oracle_takes_the_cheapest():
    """Where only quality counts, its spending is no accident of the columns' order."""
    table = small_table()
    table.quality[:] = 1.0
    table.cost_usd[:] = [3.0, 1.0, 2.0]
    requests = stream(table, CONTEXT, rng=np.random.default_rng(0))
    assert (requests.oracle.arm == 1).all()


@pytest.mark.parametrize(
    ("scenarios", "options", "message"),
    [
        ([PriceCut(at=N, arm="dear", factor=0.5)], {}, "at of a scenario must be <"),
        ([PriceCut(at=1, arm="nobody", factor=0.5)], {}, "model must be one of"),
        ([NewArm(at=1, arm="dear"), NewArm(at=2, arm="dear")], {}, "new once"),
        ([Retired(at=5, arm=name) for name in TABLE.arms.names], {}, "leave an arm eligible"),
        ([Delay(), Delay(lost=0.5)], {}, "at most one"),
        ([TrafficShift(at=5, by="colour")], {}, "must be by one of"),
        ([], {"n_rounds": 0}, "n_rounds"),
        ([], {"trade_off": np.zeros(3)}, "trade_off must be one"),
        ([], {"trade_off": -np.ones(N)}, "trade_off must be one"),
    ],
)
def test_what_does_not_fit_is_named(scenarios, options, message):
    """Each rule has its error."""
    with pytest.raises(InvalidParameterError, match=message):
        small_stream(*scenarios, **options)


def test_a_table_without_cost_has_no_trade_off():
    """Quality only is fine; a price for what is not known is not."""
    table = small_table(with_cost=False)
    requests = stream(table, CONTEXT, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(requests.oracle.cost_usd, 0)
    for options in ({"trade_off": TradeOff(1.0)}, {"random_trade_off": True}):
        with pytest.raises(InvalidParameterError, match="cost"):
            stream(table, CONTEXT, rng=np.random.default_rng(0), **options)
    with pytest.raises(InvalidParameterError, match="context"):
        stream(table, CONTEXT[:-1], rng=np.random.default_rng(0))
