"""A router that learns while it serves: nothing acknowledged is lost, and nothing is learned twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import pointsman as pm
from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.live import LiveRouter, learn_feedback, online
from pointsman.logs.store import Feedback, Round, SqliteStore
from pointsman.online.base import ArmPrior
from pointsman.registry import load_router
from tests.tables import small_logs

WRITER = """
import json, sys
from pointsman.live import LiveRouter
live = LiveRouter.open(sys.argv[1])
for i in range(10_000):
    round_id, decision = live.choose("onion soup %d" % i)
    live.feedback(round_id, quality=(i % 7) / 6, feedback_id="said-%s-%d" % (sys.argv[2], i))
    print(json.dumps([round_id, (i % 7) / 6]), flush=True)
    if i % 5 == 4:
        live.save()
"""


@pytest.fixture(scope="module")
def started():
    """A warm-started router of the small table, its log and truth."""
    log, second, truth = small_logs()
    return pm.warm_start(pm.fit(log, method="direct"), log), second, truth


def test_feedback_moves_the_next_choice(started, tmp_path, rng):
    """The model that answers are said to be bad of is chosen no more, and another process finds that so."""
    router, _, _ = started
    live = LiveRouter.create(tmp_path / "live", router)
    for _ in range(150):
        round_id, decision = live.choose("python function bug", rng=rng)
        live.served(round_id, cost_usd=0.001)
        live.feedback(round_id, quality=0.0 if decision.model == "dear" else 0.9)
    assert live.router.choose("python function bug").probabilities["dear"] < 0.2
    mean = online(live.router).learner.quality.mean.copy()
    live.store.close()  # no save: as if killed
    again = LiveRouter.open(tmp_path / "live")
    np.testing.assert_allclose(online(again.router).learner.quality.mean, mean, atol=1e-9)
    again.close()


def test_its_log_is_evaluated(started, tmp_path):
    """The rounds it served are a log with exact propensities, which `evaluate` reads."""
    log, _, _ = small_logs()
    router = pm.warm_start(pm.fit(log, method="direct"), log, floor=0.5)
    live = LiveRouter.create(tmp_path / "live", router)
    rng = np.random.default_rng(0)
    for i in range(120):
        round_id, decision = live.choose(f"garlic oven {i}", rng=rng)
        live.served(round_id, cost_usd=0.001)
        live.feedback(round_id, quality=0.9 if decision.model == "dear" else 0.2)
    log = live.log()
    assert log.n_rounds == 120
    assert np.isfinite(log.propensity).all()
    evaluation = pm.evaluate(pm.fit(small_logs()[0], method="best-single"), log, quality_per_usd=[0.0])
    row = evaluation.row(0, estimator="dr")
    assert row["ci_low"] <= 0.9 <= row["ci_high"] + 1e-9
    live.close()


def test_kill_9_loses_nothing_acknowledged(started, tmp_path):
    """Killed at any moment, three times: all that was acknowledged is there once, learned, and the router loads."""
    router, _, _ = started
    folder = tmp_path / "live"
    LiveRouter.create(folder, router).close()
    said = {}
    for life in range(3):
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-c", WRITER, str(folder), str(life)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        lines = []
        while len(lines) < 12 + 7 * life:
            lines.append(process.stdout.readline())
        time.sleep(0.003 * (life + 1))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                round_id, quality = json.loads(line)
                said[round_id] = quality
    live = LiveRouter.open(folder)
    log = live.log()
    stored = dict(zip(log.round_id, log.quality, strict=True))
    assert all(stored[round_id] == pytest.approx(quality) for round_id, quality in said.items())
    assert len(said) <= np.isfinite(log.quality).sum() <= len(said) + 3
    assert online(live.router).learned_through == live.store.last_seq()
    # From the first save on, one after the other, everything was learned exactly once.
    fresh = load_router(folder / "router")
    learn_feedback(fresh, live.store)
    from_scratch = pm.warm_start(pm.fit(small_logs()[0], method="direct"), small_logs()[0])
    learn_feedback(from_scratch, live.store)
    for each in (fresh, from_scratch):
        np.testing.assert_allclose(
            online(each).learner.quality.mean, online(live.router).learner.quality.mean, atol=1e-8
        )
    live.close()


def test_a_corrected_word_counts_once(started, tmp_path):
    """What the same source says later replaces what it said: the router is where the last word alone would have it."""
    router, _, _ = started
    context = router.context(["soup"])[0]
    states = {}
    for name, words in (("both", [0.0, 1.0]), ("last", [1.0])):
        with SqliteStore.open(tmp_path / f"{name}.sqlite") as store:
            store.add_rounds([Round(round_id="r", decided_at=0.0, model="dear", propensity=0.5, context=context)])
            for i, quality in enumerate(words):
                store.add_feedback([Feedback(feedback_id=f"f{i}", round_id="r", received_at=float(i), quality=quality)])
            copied = pm.warm_start(pm.fit(small_logs()[0], method="direct"), small_logs()[0])
            learn_feedback(copied, store)
            states[name] = online(copied).learner.quality
    np.testing.assert_allclose(states["both"].mean, states["last"].mean, atol=1e-9)
    np.testing.assert_allclose(states["both"].covariance, states["last"].covariance, atol=1e-9)


def test_what_stood_in_for_another_is_not_learned(started, tmp_path):
    """A fallback's answer, an unknown model and a round without context move nothing, and are read past."""
    router, _, _ = started
    router = pm.warm_start(pm.fit(small_logs()[0], method="direct"), small_logs()[0])
    before = online(router).learner.quality.mean.copy()
    context = router.context(["soup"])[0]
    rounds = [
        Round(round_id="stood in", decided_at=0.0, model="dear", served_model="cheap", fallback=True, context=context),
        Round(round_id="unknown", decided_at=0.0, model="new", context=context),
        Round(round_id="blind", decided_at=0.0, model="dear"),
    ]
    with SqliteStore.open(tmp_path / "rounds.sqlite") as store:
        store.add_rounds(rounds)
        store.add_feedback(
            [Feedback(feedback_id=r.round_id, round_id=r.round_id, received_at=1.0, quality=1.0) for r in rounds]
        )
        assert learn_feedback(router, store) == 3
    np.testing.assert_array_equal(online(router).learner.quality.mean, before)
    assert online(router).learned_through == 3


def test_models_come_and_go(started, tmp_path):
    """A new one is chosen at once if it is believed to be good, a retired one never again; both survive the disk."""
    router, _, _ = started
    live = LiveRouter.create(tmp_path / "live", router)
    live.add_model("newcomer", ArmPrior(quality=1.0, n_rounds=200, cost_usd=1e-5))
    assert live.router.choose("contract clause", cost_weight=0.5).probabilities["newcomer"] > 0.5
    live.retire_model("newcomer")
    live.retire_model("cheap")
    live.close()
    again = LiveRouter.open(tmp_path / "live")
    _, decision = again.choose("contract clause")
    assert set(decision.probabilities) == {"coder", "dear"}
    with pytest.raises(InvalidParameterError, match="retired"):
        again.choose("contract", eligible_models=["cheap"])
    with pytest.raises(InvalidParameterError, match="knows"):
        again.add_model("dear")
    again.retire_model("coder")
    with pytest.raises(InvalidParameterError, match="at least one arm"):
        again.retire_model("dear")
    again.close()


def test_a_price_cut_is_one_number(started, tmp_path):
    """From the next request on the dear model is as good as free, and nothing was learned."""
    router, _, _ = started
    live = LiveRouter.create(tmp_path / "live", router)
    before = live.router.choose("contract clause", quality_per_usd=500).probabilities["dear"]
    live.reprice("dear", 0.01)
    assert live.router.choose("contract clause", quality_per_usd=500).probabilities["dear"] > max(before, 0.9)
    live.close()
    assert LiveRouter.open(tmp_path / "live").router.arms.arms[2].cost_factor == pytest.approx(0.01)


def test_wrong_folders_and_rounds_are_named(started, tmp_path):
    """A router that does not learn, a folder that is taken, feedback on no round."""
    router, _, _ = started
    with pytest.raises(InvalidRouterError, match="warm_start"):
        LiveRouter.create(tmp_path / "a", pm.fit(small_logs()[0], method="direct"))
    live = LiveRouter.create(tmp_path / "live", router)
    with pytest.raises(InvalidRouterError, match="already"):
        LiveRouter.create(tmp_path / "live", router)
    with pytest.raises(InvalidParameterError, match="round_id"):
        live.feedback("nothing", quality=1.0)
    with pytest.raises(InvalidParameterError, match="quality"):
        live.feedback(live.choose("soup")[0], quality=1.5)
    live.close()
