"""Replays: a policy sees what it would have seen, and is measured by what the table knows."""

from __future__ import annotations

import math
import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.logs import read_log, write_log
from pointsman.online.base import ArmPrior
from pointsman.online.replay import (
    NEVER,
    Delay,
    NewArm,
    Outage,
    PriceCut,
    Retired,
    policy_value,
    replay,
    stream,
)
from pointsman.trade_off import TradeOff
from tests.online.replay.means import Means
from tests.synthetic import FALSE_FAILURE_Z
from tests.tables import small_table

TABLE = small_table()
CONTEXT = np.random.default_rng(1).normal(size=(len(TABLE), 4))
N = len(TABLE)
DEAR = TABLE.arms.index("dear")


def played(*scenarios, seed=0, pacer=None, floor=0.3, **options):
    """The diary-keeping policy, replayed on the small table; policy and replay."""
    requests = stream(TABLE, CONTEXT, scenarios=scenarios, rng=np.random.default_rng(seed), **options)
    policy = Means(n_arms=requests.n_arms_at_start, n_features=4, floor=floor)
    return policy, replay(policy, requests, seed=seed, pacer=pacer)


def test_outcomes_are_those_of_the_arms_chosen(seed):
    """Quality, cost and utility are the table's; regrets and spend are their sums."""
    _, found = played(seed=seed, trade_off=TradeOff(50.0))
    row = found.stream.row
    quality, cost_usd = TABLE.quality[row, found.arm], TABLE.cost_usd[row, found.arm]
    np.testing.assert_array_equal(found.quality, quality)
    np.testing.assert_array_equal(found.cost_usd, cost_usd)
    np.testing.assert_allclose(found.utility, quality - 50 * cost_usd)
    np.testing.assert_allclose(found.spend_usd[-1], cost_usd.sum())
    utility = TABLE.quality[row] - 50 * TABLE.cost_usd[row]
    np.testing.assert_allclose(found.regret[-1], (utility.max(axis=1) - found.utility).sum())
    np.testing.assert_allclose(found.regret_to_best_fixed[-1], utility.sum(axis=0).max() - found.utility.sum())
    np.testing.assert_allclose(found.shares, np.bincount(found.arm, minlength=3) / N)


def test_a_policy_learns_the_arm_it_chose_and_no_other():
    """One decision, then one update of its outcome, round by round: nothing of the other arms is shown."""
    policy, found = played()
    kinds = [entry[0] for entry in policy.diary]
    assert kinds == ["decide", "update"] * N
    for i, (context, rate, arm, quality, cost_usd) in enumerate(policy.told("update")):
        np.testing.assert_array_equal(context, CONTEXT[found.stream.row[i]])
        assert (rate, arm, quality, cost_usd) == (0.0, found.arm[i], found.quality[i], found.cost_usd[i])


def test_policies_see_the_same_uniforms(seed):
    """Two that choose evenly choose alike, however unlike they are inside; another seed draws others."""
    requests = stream(TABLE, CONTEXT, rng=np.random.default_rng(seed))
    first, second = (Means(n_arms=3, n_features=4, floor=1.0) for _ in range(2))
    second.update(CONTEXT[0], 2, quality=0.3, trade_off=TradeOff(0.0))
    arms = [replay(policy, requests, seed=seed).arm for policy in (first, second)]
    np.testing.assert_array_equal(*arms)
    expected = np.searchsorted([1 / 3, 2 / 3, 1.0], np.random.default_rng(seed).random(N), side="right")
    np.testing.assert_array_equal(arms[0], expected)
    assert (replay(first, requests, seed=seed + 1).arm != arms[0]).any()


def test_expected_utility_leaves_out_the_luck_of_the_draw(seed):
    """It differs from what was realised by the draws alone: within chance in the mean, and smoother."""
    _, found = played(seed=seed, floor=0.9)
    luck = found.utility - found.expected_utility
    assert abs(luck.mean()) < FALSE_FAILURE_Z * luck.std() / math.sqrt(N)
    assert found.expected_utility.std() < found.utility.std()


def test_late_quality_arrives_when_it_is_due():
    """Cost at once; quality before the first decision after its delay, with the decision's trade-off; or never."""
    rates = np.linspace(0, 50, N)
    policy, found = played(Delay(mean_rounds=15, lost=0.3), trade_off=rates)
    done, due = 0, {}
    for entry in policy.diary:
        if entry[0] == "decide":
            assert not due.get(done), "a quality was due before this decision"
            done += 1
            continue
        _, context, rate, arm, quality, cost_usd = entry
        if not math.isnan(cost_usd):
            i = done - 1
            assert cost_usd == found.cost_usd[i]
            delay = found.stream.delay[i]
            assert math.isnan(quality) == (delay != 0)
            if delay > 0:
                due.setdefault(i + delay, []).append(i)
        else:
            i = due[done].pop(0)
            np.testing.assert_array_equal(context, CONTEXT[found.stream.row[i]])
            assert (rate, arm, quality) == (rates[i], found.arm[i], found.quality[i])
    assert all(not rounds for arrival, rounds in due.items() if arrival < N)
    n_known = sum(not math.isnan(quality) for *_, quality, _ in policy.told("update"))
    arrives = found.stream.delay + np.arange(N)
    assert n_known == ((found.stream.delay != NEVER) & (arrives < N)).sum()


def test_who_is_out_is_not_chosen():
    """Not during an outage, not after it is retired; before and between it is."""
    _, found = played(Outage(at=40, until=90, arm="dear"), Retired(at=150, arm="dear"))
    chosen = found.arm == DEAR
    assert not chosen[40:90].any()
    assert not chosen[150:].any()
    assert chosen[:40].any()
    assert chosen[90:150].any()


def test_a_new_arm_comes_with_what_is_believed_of_it():
    """The policy starts without it; prior, resemblance and scored prompts are those of the scenario."""
    prior = ArmPrior(quality=0.9, cost_usd=0.003)
    policy, found = played(NewArm(at=100, arm="coder", prior=prior, like="dear", scored=6))
    assert found.stream.arms.names == ("cheap", "dear", "coder")
    assert policy.told("add_arm") == [(ArmPrior(quality=0.9, cost_usd=0.003, like=1),)]
    assert not (found.arm[:100] == 2).any()
    assert (found.arm[100:] == 2).any()
    place = [entry[0] for entry in policy.diary].index("add_arm")
    scored = policy.diary[place + 1 : place + 7]
    coder, rows = TABLE.arms.index("coder"), found.stream.row[94:100]
    assert [entry[3:] for entry in scored] == [(2, TABLE.quality[r, coder], TABLE.cost_usd[r, coder]) for r in rows]
    assert policy.diary[place + 7][0] == "decide"
    np.testing.assert_allclose(found.scored_cost_usd, TABLE.cost_usd[rows, coder].sum())


def test_prices_are_told_over_those_an_arm_came_with():
    """Told changes are the price now over the first one known; silent ones are in the costs alone."""
    policy, found = played(
        PriceCut(at=20, arm="dear", factor=0.5),
        PriceCut(at=30, arm="dear", factor=0.5, told=False),
        PriceCut(at=40, arm="dear", factor=2.0),
        PriceCut(at=50, arm="coder", factor=0.1),
        NewArm(at=60, arm="coder"),
        PriceCut(at=70, arm="coder", factor=3.0),
    )
    dear, coder = (found.stream.arms.index(name) for name in ("dear", "coder"))
    assert policy.told("set_price") == [(dear, 0.5), (dear, 0.5), (coder, pytest.approx(3.0))]


class Steep:
    """A pacer that takes cost ten times as seriously, and remembers."""

    def __init__(self):
        self.asked, self.costs = [], []

    def trade_off(self, base):
        """Return ten times the trade-off."""
        self.asked.append(base.quality_per_usd)
        return TradeOff(10 * base.quality_per_usd)

    def observe(self, cost_usd):
        """Remember the cost."""
        self.costs.append(cost_usd)


def test_a_pacer_moves_the_decisions_not_the_measure():
    """It is asked before each round and told after; utility stays that of what was asked for."""
    pacer = Steep()
    policy, found = played(pacer=pacer, trade_off=TradeOff(20.0))
    assert pacer.asked == [20.0] * N
    np.testing.assert_array_equal(pacer.costs, found.cost_usd)
    assert {rate for _, rate, *_ in policy.told("decide")} == {200.0}
    assert {rate for _, rate, *_ in policy.told("update")} == {200.0}
    assert set(found.quality_per_usd) == {200.0}
    np.testing.assert_allclose(found.utility, found.quality - 20 * found.cost_usd)


def test_its_log_is_what_it_saw(tmp_path):
    """Written and read: models, propensities, costs, known qualities, eligible models, times, the table's columns."""
    _, found = played(Delay(mean_rounds=15, lost=0.3), Outage(at=40, until=90, arm="dear"), trade_off=TradeOff(5.0))
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for name in ("log.parquet", "log.jsonl", "log.csv"):
        write_log(found.to_log(start=began, seconds_per_round=60), tmp_path / name)
        log = read_log(tmp_path / name)
        assert log.prompt == [TABLE.prompt[row] for row in found.stream.row]
        np.testing.assert_array_equal(log.arm, found.arm)
        np.testing.assert_array_equal(log.propensity, found.propensity)
        np.testing.assert_array_equal(log.cost_usd, found.cost_usd)
        arrives = found.stream.delay + np.arange(N)
        known = (found.stream.delay != NEVER) & (arrives < N)
        np.testing.assert_array_equal(log.quality, np.where(known, found.quality, np.nan))
        assert (log.eligible.all(axis=1) != ((np.arange(N) >= 40) & (np.arange(N) < 90))).all()
        assert log.table["task"].to_pylist() == [TABLE.extra["task"][int(row)].as_py() for row in found.stream.row]
        assert log.table["timestamp"][1].as_py() == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
        assert set(log.table["quality_per_usd"].to_pylist()) == {5.0}
    embedded = found.to_log(embeddings=True)
    assert embedded.prompt is None
    np.testing.assert_array_equal(embedded.embedding, CONTEXT[found.stream.row].astype(np.float32))


def test_what_a_free_table_costs_is_not_known():
    """Neither the policy nor the log is told a cost of zero where the table has none."""
    table = small_table(with_cost=False)
    requests = stream(table, CONTEXT, scenarios=[Delay(mean_rounds=3)], rng=np.random.default_rng(0))
    policy = Means(n_arms=3, n_features=4)
    found = replay(policy, requests, seed=0)
    assert all(math.isnan(cost_usd) for *_, cost_usd in policy.told("update"))
    assert all(not math.isnan(quality) for *_, quality, _ in policy.told("update"))
    assert np.isnan(found.to_log().cost_usd).all()


def test_its_own_log_evaluates_to_the_truth(seed):
    """IPS from a log of three passes, written while it learned, is within chance of each arm's mean quality."""
    _, found = played(seed=seed, n_rounds=3 * N)
    log = found.to_log()
    for arm in range(3):
        terms = np.where(log.arm == arm, log.quality / log.propensity, 0.0)
        expected = TABLE.quality[found.stream.row, arm]
        # Given the prompts, what is left is the noise of the draw: (1 - e) / e q^2 a round, e at least 0.1.
        error = (terms - expected).std() / math.sqrt(terms.size)
        assert abs(terms.mean() - expected.mean()) < FALSE_FAILURE_Z * error


def test_value_is_the_mean_under_the_probabilities():
    """By hand for a policy that prefers one arm; greedily it is that arm's; it learns nothing from being asked."""
    policy = Means(n_arms=3, n_features=4)
    for arm, quality in enumerate((0.1, 0.2, 0.9)):
        policy.update(CONTEXT[0], arm, quality=quality, cost_usd=0.0, trade_off=TradeOff(0.0))
    told = len(policy.diary)
    options = {"context": CONTEXT, "quality": TABLE.quality, "cost_usd": TABLE.cost_usd, "trade_off": TradeOff(10.0)}
    utility = (TABLE.quality - 10 * TABLE.cost_usd).mean(axis=0)
    assert policy_value(policy, **options).value == pytest.approx(utility @ [0.1, 0.1, 0.8])
    assert policy_value(policy, **options, greedy=True).value == pytest.approx(utility[2])
    assert policy_value(policy, **options | {"cost_usd": None, "trade_off": TradeOff(0.0)}).quality > 0
    mask = np.tile([True, True, False], (N, 1))
    assert policy_value(policy, **options, eligible=mask, greedy=True).value == pytest.approx(utility[1])
    assert len(policy.diary) == told


def test_progress_is_told_to_the_end():
    """Rounds done only grow, up to all of them, with the mean utility so far."""
    requests = stream(TABLE, CONTEXT, n_rounds=3_000, rng=np.random.default_rng(0))
    told = []
    found = replay(Means(n_arms=3, n_features=4), requests, seed=0, progress=lambda *each: told.append(each))
    rounds = [n for n, _ in told]
    assert rounds == sorted(set(rounds))
    assert told[-1] == (3_000, pytest.approx(found.utility.mean()))


def test_memory_is_a_few_numbers_a_round():
    """A round more costs under 200 bytes whatever the number of arms and features: a million fit in 200 MB."""

    class Even(Means):
        """Chooses evenly, and remembers nothing."""

        def probabilities(self, context, trade_off, eligible):
            del context, trade_off
            return eligible / eligible.sum()

        def decide(self, context, trade_off, eligible=None, *, rng):
            choice = super().decide(context, trade_off, eligible, rng=rng)
            self.diary.clear()
            return choice

        def update(self, *told, **outcome):
            del told, outcome

    peaks = []
    for n_rounds in (4_000, 24_000):
        tracemalloc.start()
        requests = stream(
            TABLE,
            np.repeat(CONTEXT, 100, axis=1),
            scenarios=[Delay(mean_rounds=20)],
            n_rounds=n_rounds,
            rng=np.random.default_rng(0),
        )
        found = replay(Even(n_arms=3, n_features=400), requests, seed=0)
        assert found.regret.size == n_rounds
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 20_000 < 200


def test_a_policy_of_another_shape_is_refused():
    """As many arms and features as the stream starts with."""
    requests = stream(TABLE, CONTEXT, scenarios=[NewArm(at=5, arm="dear")], rng=np.random.default_rng(0))
    for shape in ((3, 4), (2, 5)):
        with pytest.raises(InvalidParameterError, match="2 arms and 4 features"):
            replay(Means(n_arms=shape[0], n_features=shape[1]), requests, seed=0)
