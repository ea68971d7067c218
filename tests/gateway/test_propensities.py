"""The log of a live gateway is a true one: drawn with the probabilities it states, and good to evaluate others on.

20,000 requests where SEEDS=all, 3,000 otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import pytest
from scipy import stats

import pointsman as pm
from pointsman.demo import example_table
from pointsman.errors import CalibrationWarning, OverlapWarning, SmallSampleWarning
from pointsman.gateway.app import make_app
from pointsman.gateway.replayed import ReplayedModels, served
from pointsman.gateway.routing import RouterDecider, open_registry
from pointsman.gateway.serve import protocol
from pointsman.logs import FullFeedback, LoggedRounds
from pointsman.logs.store import Round, SqliteStore, Writer
from pointsman.pipeline import simulate
from pointsman.registry import save_router

N_REQUESTS = 20_000 if os.environ.get("SEEDS") == "all" else 3_000
N_CLIENTS = 16
CHANCE = 1e-6
"""Of a false alarm: draws, and the order of requests, differ from run to run."""
LEVEL = 0.9999


@dataclass
class Traffic:
    """What was served.

    Attributes:
        table: The truth.
        rounds: As the gateway logged them, in no order.
        log: The same as a log with feedback.
        outage_at: When the last model went down, for good.
    """

    table: FullFeedback
    rounds: list[Round]
    log: LoggedRounds
    outage_at: float


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """A gateway under masks, limits of cost, a budget, conversations and outages."""
    folder = tmp_path_factory.mktemp("live")
    whole = example_table()
    simulated = simulate(whole, logger="confounded", share=0.5, seed=0)
    table = whole.take(simulated.rest_index)
    log = simulated.log.take(np.sort(np.random.default_rng(0).permutation(simulated.log.n_rounds)[:100]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_router(pm.warm_start(pm.fit(log, seed=0), log), folder / "router")
    models = ReplayedModels(table)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(served(models))
        settings = models.settings(
            upstream,
            upstreams={
                "replayed": {
                    "base_url": f"{upstream}/v1",
                    "max_retries": 0,
                    "breaker": {"failures": 5, "cooldown_s": 0.1},
                }
            },
            router={"path": folder / "router", "trade_off": {"quality_per_usd": 3}, "deadline_ms": 5000},
            exploration={"floor": 0.2, "strength": 1.0},
            budget={"usd_per_request": 4e-3},
            session={"switching_cost_usd": 1e-3},
            fallback=[table.arms.names[1]],
        )
        store = stack.enter_context(SqliteStore.open(folder / "rounds.sqlite"))
        writer = stack.enter_context(contextlib.closing(Writer(store)))
        decider = RouterDecider(open_registry(settings), settings)
        app = make_app(settings, decider, writer)
        url = stack.enter_context(served(app, http=protocol(settings)))
        outage_at = asyncio.run(_send(url, models))
        with store.snapshot() as snapshot:
            names = [row[0] for row in snapshot.fetch("SELECT round_id FROM rounds")]
        rounds = [found for name in names if (found := store.get_round(name)) is not None]
        yield Traffic(table, rounds, store.log(), outage_at)


async def _send(url: str, models: ReplayedModels) -> float:
    """Send all requests, and feedback on each answer; the last model is down for the last fifth of them, from then."""
    rng = np.random.default_rng(1)
    names = models.table.arms.names
    places = iter(range(N_REQUESTS))
    outage_at: list[float] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for place in places:
            if place == 4 * N_REQUESTS // 5:
                models.down.add(names[2])
                outage_at.append(time.time())
            prompt = models.table.prompt[place % len(models.table)]
            asked: dict[str, Any] = {}
            if rng.random() < 0.3:
                asked["models"] = [names[t] for t in rng.permutation(3)[: rng.integers(1, 3)]]
            elif rng.random() < 0.3:
                asked["max_cost_usd"] = 0.002  # Less than the first model usually costs.
            if rng.random() < 0.2:
                asked["quality_per_usd"] = float(rng.choice([0.0, 3.0, 20.0]))
            if rng.random() < 0.2:
                asked["session"] = f"conversation {rng.integers(50)}"
            body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "pointsman": asked}
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                if answer.status != 200:  # The only model that may answer is down.
                    assert answer.status == 503, await answer.text()
                    continue
                model, name = answer.headers["x-pointsman-model"], answer.headers["x-pointsman-round-id"]
            quality, _ = models.outcome(prompt, model)
            async with session.post(f"{url}/v1/feedback", json={"round_id": name, "quality": quality}) as answer:
                assert answer.status == 200, await answer.text()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(N_CLIENTS)))
    return outage_at[0]


def test_models_are_drawn_as_often_as_their_propensities_say(traffic: Traffic):
    """In each set of eligible models, choices minus probabilities are no further from zero than chance takes them.

    Given all that came before it, a round's choice minus its probabilities has mean 0 and covariance
    diag(p) - p p'. So with D the sum over the rounds of a set and V that of the covariances, D' V^+ D is chi-square
    with one degree of freedom less than there are models.
    """
    found: dict[tuple[str, ...], list[Round]] = defaultdict(list)
    for round_ in traffic.rounds:
        probabilities = round_.probabilities or {}
        assert tuple(probabilities) == round_.eligible
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-9)
        assert round_.propensity == probabilities[round_.model] > 0
        if len(round_.eligible) > 1 and round_.policy == "router":
            found[tuple(sorted(round_.eligible))].append(round_)
    tried = 0
    for names, rounds in found.items():
        p = np.array([[(round_.probabilities or {})[name] for name in names] for round_ in rounds])
        chosen = np.array([[round_.model == name for name in names] for round_ in rounds])
        covariance = np.diag(p.sum(axis=0)) - p.T @ p
        if (np.diag(covariance) < 10).any():
            continue  # Too few for the normal approximation.
        difference = (chosen - p).sum(axis=0)
        statistic = difference @ np.linalg.pinv(covariance) @ difference
        assert stats.chi2.sf(statistic, len(names) - 1) > CHANCE
        tried += 1
    assert tried >= 4  # All three models, and each two of them.


def test_all_that_can_happen_to_a_round_happened(traffic: Traffic):
    """Masks, a moving trade-off, conversations that stay, models that stand in: the log has all, as what they are."""
    rounds = traffic.rounds
    assert len({round_.eligible for round_ in rounds}) >= 7
    assert len({round_.quality_per_usd for round_ in rounds}) > 100
    assert {"router", "sticky"} <= {round_.policy for round_ in rounds}
    for round_ in rounds:
        assert round_.fallback == (round_.served_model != round_.model)
        if round_.policy == "sticky":
            assert round_.propensity == 1.0
    fallbacks = [round_ for round_ in rounds if round_.fallback]
    assert fallbacks
    assert {round_.model for round_ in fallbacks} == {traffic.table.arms.names[2]}
    assert len({round_.round_id for round_ in rounds}) == len(rounds)


def test_the_log_tells_what_another_policy_is_worth(traffic: Traffic):
    """Importance weighting of the gateway's own log puts its interval around the truth of each fixed model."""
    log, table = traffic.log, traffic.table
    row = {prompt: place for place, prompt in enumerate(table.prompt)}
    names = log.arms.names
    # Whether any model could have been chosen was settled before the draw. What was under way when a model went down is
    # left out with all that came later: fallbacks are no random part of the rounds.
    by_name = {round_.round_id: round_ for round_ in traffic.rounds}
    rounds = [by_name[name] for name in log.round_id]
    kept = np.array(
        [
            len(each.eligible) == len(names) and each.policy == "router" and each.decided_at < traffic.outage_at - 0.5
            for each in rounds
        ]
    )
    log = log.filter(kept)
    assert log.n_rounds > N_REQUESTS / 5
    places = np.array([row[prompt] for prompt in log.prompt])
    for name in names:
        with warnings.catch_warnings():
            # What is doubtful is said, such as that a model was seldom chosen, and makes the intervals wide; they must
            # hold all the same.
            for doubt in (OverlapWarning, SmallSampleWarning, CalibrationWarning):
                warnings.simplefilter("ignore", doubt)
            evaluation = pm.evaluate(
                f"always {name}", log, against=(), quality_per_usd=[0.0, 10.0], estimators=("ips", "dr"), level=LEVEL
            )
        column = table.arms.index(name)
        for rate in (0.0, 10.0):
            truth = (table.quality[places, column] - rate * table.cost_usd[places, column]).mean()
            for estimator in ("ips", "dr"):
                told = evaluation.row(rate, estimator=estimator)
                assert told["ci_low"] <= truth <= told["ci_high"], (name, rate, estimator)
