"""An online policy inside a router: on disk, evaluated, repriced."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online import policy as make_policy
from pointsman.online.bandit import PooledThompson
from pointsman.online.method import Online
from pointsman.pipeline import evaluate, fit
from pointsman.registry import load_router, save_router
from pointsman.router import Router
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from tests.tables import small_logs


def online_router(learner=None) -> Router:
    """A router of the small table whose policy goes on learning."""
    router = fit(small_logs()[0], method="direct")
    n_features = router.facts.n_features
    policy = Online(learner or PooledThompson(n_arms=3, n_features=n_features), learned_through=17)
    facts = dataclasses.replace(router.facts, method=Online.name)
    return dataclasses.replace(router, policy=policy, facts=facts)


def taught(router: Router, n_rounds: int = 80, seed: int = 0) -> Router:
    """The router after some answers: the last arm is good, the others are not."""
    rng = np.random.default_rng(seed)
    for _ in range(n_rounds):
        arm = int(rng.integers(3))
        quality = 0.9 if arm == 2 else 0.2
        router.policy.learner.update(rng.normal(size=router.facts.n_features), arm, quality=quality, cost_usd=0.01)
    return router


@pytest.mark.parametrize("name", ["pooled-thompson", "epsilon-greedy", "beta-thompson"])
def test_a_learning_router_is_a_router_on_disk(name, tmp_path):
    """Saved in the middle of learning, it comes back, decides alike and goes on from the same feedback."""
    n_features = fit(small_logs()[0], method="direct").facts.n_features
    router = taught(online_router(make_policy(name, n_arms=3, n_features=n_features)))
    save_router(router, tmp_path / "router")
    loaded = load_router(tmp_path / "router")
    assert loaded.policy.learned_through == 17
    context = router.context(["python loop", "soup"])
    for value in (0.0, 20.0):
        ours, theirs = (each.probabilities(context, TradeOff(value)) for each in (router, loaded))
        np.testing.assert_allclose(theirs, ours, atol=1e-9)


def test_a_learning_router_is_evaluated_like_any_other():
    """Its probabilities now are a target policy: on a held-out log the value of what it learned is estimated."""
    _, second, _ = small_logs()
    evaluation = evaluate(taught(online_router()), second, quality_per_usd=[0.0])
    assert evaluation.row(0, estimator="dr")["value"] > 0.7


def test_a_price_change_is_of_one_router_only():
    """Repriced, a router is another one: the first keeps its price, and neither learns what the other sees."""
    router = taught(online_router())
    dear = router.reprice("dear", 100.0)
    context = router.context(["soup"])
    assert dear.probabilities(context, TradeOff(1.0))[0, 2] < 0.2 < router.probabilities(context, TradeOff(1.0))[0, 2]
    before = router.policy.learner.quality.mean.copy()
    taught(dear, seed=1)
    np.testing.assert_array_equal(router.policy.learner.quality.mean, before)


def test_the_choice_says_why():
    """Where the learner predicts outcomes, a decision compares them; drawn, it says with what probability."""
    decision = taught(online_router()).choose("soup", seed=0)
    assert decision.probabilities[decision.model] == decision.propensity
    assert set(decision.predicted_quality) == {"cheap", "coder", "dear"}
    assert any("drawn" in reason for reason in decision.reasons)


def test_only_the_default_learns_a_log_at_once():
    """A baseline is replayed instead."""
    log = small_logs()[0]
    n, zeros = log.n_rounds, np.zeros((log.n_rounds, 3))
    scores = Scores(
        arm=log.arm,
        quality=log.quality,
        cost_usd=log.cost_usd,
        propensity=log.propensity,
        eligible=log.eligible,
        predicted_quality=zeros,
        predicted_cost_usd=zeros,
        fold=np.zeros(n, dtype=np.int64),
    )
    policy = Online(make_policy("lin-ucb", n_arms=3, n_features=4))
    with pytest.raises(InvalidParameterError, match="replay"):
        policy.fit(np.zeros((n, 4)), scores)
