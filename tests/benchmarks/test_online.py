"""The comparison of online policies: the peer set up as it says, streams the same for all, parts that count."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks.online import comparison, parts, speed, streams
from benchmarks.online.paretobandit import BEST, COLD_START, ParetoBandit
from benchmarks.online.streams import DIALS, RANDOM, Unit, make_policy, run_unit, split
from benchmarks.tables import EncodedTable
from pointsman.arms import ArmSet
from pointsman.errors import InvalidParameterError
from pointsman.logs import FullFeedback
from pointsman.online.base import ArmPrior
from pointsman.trade_off import TradeOff

pytest.importorskip("pareto_bandit")

COSTS = np.array([0.001, 0.02, 0.1, 0.004])


def peer(**options) -> ParetoBandit:
    """ParetoBandit on eight features, told of four arms' costs."""
    context = np.random.default_rng(1).normal(size=(200, 8))
    return ParetoBandit(cost_usd=COSTS, context=context, **options)


@pytest.fixture
def encoded() -> EncodedTable:
    """A small table: 300 prompts, three arms, the dearest best where the first feature is positive."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(300, 6))
    expected = np.column_stack([np.full(300, 0.5), np.where(features[:, 0] > 0, 0.9, 0.3), np.full(300, 0.4)])
    table = FullFeedback(
        query_id=tuple(f"prompt-{i}" for i in range(300)),
        prompt=tuple(f"prompt {i}" for i in range(300)),
        arms=ArmSet.named(["a", "b", "c"]),
        quality=(rng.random(expected.shape) < expected).astype(float),
        cost_usd=np.array([0.002, 0.01, 0.001]) * rng.uniform(0.5, 1.5, size=expected.shape),
    )
    return EncodedTable(table=table, features=features)


@pytest.mark.parametrize("rate", [0.0, 0.5, 3.0, 8.0, 60.0, 400.0, math.inf])
def test_the_peer_chooses_by_quality_minus_lambda_cost(rate):
    """Taught each arm's constant quality, it takes the arm of the highest utility, whatever lambda.

    300 answers of each arm move its mean within 1% of the quality, and no two utilities are as close as that.
    """
    policy, rng = peer(), np.random.default_rng(0)
    quality = np.array([0.3, 0.6, 0.9, 0.45])
    for _ in range(300):
        for arm in range(4):
            policy.router.update(str(arm), policy.features(rng.normal(size=8)), quality[arm])
    utility = TradeOff(rate).utility(quality=quality[None], cost_usd=COSTS[None])[0]
    chosen = policy.probabilities(np.zeros(8), TradeOff(rate), np.ones(4, dtype=bool))
    assert chosen.argmax() == utility.argmax()
    assert chosen.sum() == 1


def test_the_peer_is_told_of_prices_masks_and_new_arms(rng):
    """A price works at once, an arm that is not eligible is not chosen, a new arm needs a price and can be chosen."""
    policy = peer()
    x = np.zeros(8)
    everyone = np.ones(4, dtype=bool)
    assert policy.decide(x, TradeOff(math.inf), everyone, rng=rng).arm == 0
    assert policy.decide(x, TradeOff(math.inf), np.array([False, True, True, True]), rng=rng).arm == 3
    policy.set_price(0, 1_000.0)
    assert policy.decide(x, TradeOff(math.inf), everyone, rng=rng).arm == 3
    with pytest.raises(InvalidParameterError, match="cost_usd"):
        policy.add_arm()
    assert policy.add_arm(ArmPrior(cost_usd=1e-5)) == 4
    assert policy.decide(x, TradeOff(math.inf), np.ones(5, dtype=bool), rng=rng).arm == 4


def test_late_answers_reach_the_decision_they_are_to(rng):
    """Answers handed in backwards teach the peer what they teach it in order."""
    in_order, backwards = peer(), peer()
    contexts = rng.normal(size=(6, 8))
    asked = [in_order.decide(x, TradeOff(0.0), rng=rng).arm for x in contexts]
    assert asked == [backwards.decide(x, TradeOff(0.0), rng=rng).arm for x in contexts]
    quality = rng.random(6)
    for i in range(6):
        in_order.update(contexts[i], asked[i], quality=quality[i], cost_usd=0.1)
    for i in reversed(range(6)):
        backwards.update(contexts[i].copy(), asked[i], cost_usd=0.1)
        backwards.update(contexts[i].copy(), asked[i], quality=quality[i])
    for arm in set(asked):
        learned = [policy.router.bandit.theta[str(arm)] for policy in (in_order, backwards)]
        np.testing.assert_allclose(*learned, atol=1e-12)
    assert not in_order._asked


def test_the_published_setting_is_the_packages_own():
    """alpha, forgetting and components are those of its constants."""
    from pareto_bandit.config import BEST_K3_TABULA_RASA_HPARAMS as PUBLISHED

    assert COLD_START.alpha == PUBLISHED["alpha"]
    assert COLD_START.forgetting_factor == PUBLISHED["forgetting_factor"]
    assert COLD_START.n_components == PUBLISHED["pca_components"]
    assert peer(setting=COLD_START).router.bandit.gamma == 0.997
    assert peer(setting=BEST).features(np.zeros(8)).size == BEST.n_components + 1


def test_streams_are_the_same_for_every_policy_and_dial(encoded):
    """A seed's prompts, held out or not, are those of every dial, once each; another seed has others."""
    rows = {}
    for dial in DIALS:
        learned, held_out = split(encoded, dial, seed=4)
        assert sorted([*learned.row, *held_out.row]) == list(range(300))
        assert held_out.n_rounds == 60
        rows[dial] = learned.row.tolist()
    assert len({tuple(row) for row in rows.values()}) == 1
    assert split(encoded, RANDOM, seed=5)[0].row.tolist() != rows[RANDOM]


def test_references_are_what_they_say(encoded):
    """The best single arm is the largest mean by hand, the oracle the mean of the largest; the ridge lies between."""
    learned, held_out = split(encoded, "0.05", seed=0)
    found = {name: run_unit(Unit(seed=0, table="t", dial="0.05", policy=name), encoded) for name in streams.REFERENCES}
    best, ridge, oracle = (found[name] for name in streams.REFERENCES)
    for part, measure in ((learned, "earned"), (held_out, "held_out")):
        rows, rate = part.row, part.quality_per_usd[:, None]
        utility = encoded.table.quality[rows] - rate * encoded.table.cost_usd[rows]
        assert best[measure] == pytest.approx(utility.mean(axis=0).max())
        assert oracle[measure] == pytest.approx(utility.max(axis=1).mean())
        assert ridge[measure] < oracle[measure]
    assert ridge["earned"] > best["earned"]
    assert best["curve"][-1] == pytest.approx(best["earned"] * learned.n_rounds)


@pytest.mark.parametrize("name", streams.POLICIES)
def test_every_policy_runs_on_every_kind_of_dial(encoded, name):
    """What it earns lies between the worst and the best arm of each prompt, and so does what is held out."""
    for dial in ("0.1", RANDOM):
        found = run_unit(Unit(seed=1, table="t", dial=dial, policy=name), encoded)
        for part, measure in zip(split(encoded, dial, seed=1), ("earned", "held_out"), strict=True):
            utility = np.concatenate([chunk.utility for chunk in part.chunks()])
            assert utility.min(axis=1).mean() <= found[measure] <= utility.max(axis=1).mean()
        assert len(found["curve"]) == len(found["checkpoints"])


def test_a_part_counts_if_todays_sources_made_it(tmp_path):
    """It is found again; with other sources only where they may be reused; another policy has another file."""
    unit = Unit(seed=0, table="t", dial="0.0", policy="lin-ucb")
    kept = parts.Parts(folder=tmp_path)
    path = kept.path(unit, "hash")
    assert kept.read(path, "lin-ucb") is None
    kept.write(path, {"earned": 1.0}, sources=parts.source_hash("lin-ucb"))
    found = kept.read(path, "lin-ucb")
    assert found is not None
    assert found["earned"] == 1.0
    kept.write(path, {"earned": 2.0}, sources="others")
    assert kept.read(path, "lin-ucb") is None
    assert parts.Parts(folder=tmp_path, reuse=True).read(path, "lin-ucb") is not None
    assert len({parts.source_hash(name) for name in (streams.DEFAULT, "lin-ucb", streams.PEER)}) == 3
    assert kept.path(Unit(seed=0, table="t", dial="0.0", policy="lin-thompson"), "hash") != path


def test_the_comparison_runs_resumes_and_reports(tmp_path, capsys):
    """Two policies, one dial, two seeds of what ships with the peer: a report with paired differences, then no work."""
    options = ["--tables", "demo", "--dials", "0.1", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path)]
    options += ["--data", str(tmp_path), "--policies", streams.DEFAULT, "paretobandit"]
    assert comparison.main(options) == 0
    text = (tmp_path / "online.md").read_text(encoding="utf-8")
    assert "| paretobandit |" in text
    assert "±" in text
    assert (tmp_path / "online.png").stat().st_size > 0
    capsys.readouterr()
    assert comparison.main(options) == 0
    assert "0 to do" in capsys.readouterr().err
    part = json.loads(next((tmp_path / "parts").glob("*paretobandit*")).read_text(encoding="utf-8"))
    assert part["checkpoints"][-1] == 1785  # as many as its validation part holds
    assert comparison.main(["--tables", "routerbench", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1


def test_plain_lin_ucb_is_ridge_regression(rng):
    """Its coefficients are those of ridge with penalty one on what each arm was given."""
    plain = speed.ShermanMorrisonLinUCB(n_arms=2, n_columns=5)
    x, arm, reward = rng.normal(size=(60, 5)), rng.integers(2, size=60), rng.random(60)
    for i in range(60):
        plain.update(x[i], int(arm[i]), float(reward[i]))
    for t in range(2):
        mine = x[arm == t]
        ridge = np.linalg.solve(np.eye(5) + mine.T @ mine, mine.T @ reward[arm == t])
        np.testing.assert_allclose(plain.coefficients[t], ridge, atol=1e-10)
    assert plain.decide(x[0]) in (0, 1)


def test_all_contestants_are_timed_every_round(rng):
    """Each has as many times as there are rounds, all positive."""
    table, context = speed.synthetic_table(60, rng=rng)
    racing = speed.contestants(table.cost_usd.mean(axis=0), context)
    spent = speed.timed(racing, table, context, n_rounds=12, n_turn=5)
    assert len(spent) == 4
    for parts_of_it in spent.values():
        assert all(each.shape == (12,) and (each > 0).all() for each in parts_of_it.values())


def test_the_peer_is_given_no_outcome_of_prompts_held_out(encoded):
    """Its components are those of the contexts held out; its costs are the table's means."""
    learned, held_out = split(encoded, "0.1", seed=2)
    policy = make_policy(streams.PEER, learned, held_out, seed=2)
    np.testing.assert_allclose(policy.components.center, encoded.features[held_out.row].mean(axis=0))
    np.testing.assert_allclose(policy.cost_usd, encoded.table.cost_usd.mean(axis=0))
