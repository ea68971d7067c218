"""Rounds beyond their age are deleted by the learner, in SQLite and PostgreSQL, while gateways write."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pointsman.gateway.learn.retention import INTERVAL_S, PORTION, Retention
from pointsman.gateway.learn.worker import run
from pointsman.gateway.settings import SettingsFile
from pointsman.gateway.settings.plan import plan
from pointsman.logs.store import Feedback, Round, RoundStore, open_store
from tests.gateway.routers import price

DAY_S = 86_400.0


def write_settings(folder: Path, store_url: str, **more: Any) -> Path:
    """Settings of one model."""
    settings = {
        "upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1"}},
        "models": [{"name": "only", "upstream": "main", "price": price(1.0)}],
        "router": {"registry": "registry"},
        "store": {"url": store_url, "retention_days": 30},
        "learn": {"interval_s": 0.02},
        **more,
    }
    path = folder / "pointsman.yaml"
    path.write_text(json.dumps(settings))
    return path


def fill(store: RoundStore, *, n_old: int, n_new: int) -> None:
    """Write rounds that are a month and a day old, and new ones, with feedback on each."""
    then = {"old": time.time() - 31 * DAY_S, "new": time.time()}
    names = [("old", i) for i in range(n_old)] + [("new", i) for i in range(n_new)]
    store.write(
        [Round(round_id=f"{age}{i}", decided_at=then[age] + i * 1e-3, model="only") for age, i in names],
        [
            Feedback(feedback_id=f"f-{age}{i}", round_id=f"{age}{i}", received_at=then[age], quality=1.0)
            for age, i in names
        ],
    )


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of either kind."""
    return (
        f"sqlite:///{tmp_path}/log.db" if request.param == "sqlite" else request.getfixturevalue("server").new_schema()
    )


@pytest.mark.parametrize("is_learning", [True, False])
def test_the_learner_deletes_what_is_too_old(
    tmp_path: Path, store_url: str, is_learning: bool, caplog: pytest.LogCaptureFixture
):
    """All of it, in several portions, with its feedback and nothing else, also where nothing is to be learned."""
    learn = {"interval_s": 0.02, "enabled": is_learning}
    file = SettingsFile(write_settings(tmp_path, store_url, learn=learn))
    caplog.set_level("INFO", "pointsman.gateway")
    with open_store(store_url) as store:
        fill(store, n_old=2 * PORTION + 5, n_new=7)
        stop = threading.Event()
        learner = threading.Thread(target=run, args=(file, stop))
        learner.start()
        until = time.monotonic() + 30
        while store.n_rounds() > 7:
            assert time.monotonic() < until
            assert learner.is_alive()
            time.sleep(0.02)
        while f"deleted {2 * PORTION + 5} rounds older than 30 days" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.02)
        stop.set()
        learner.join()
        assert {each.round.round_id for each in store.feedback_after()} == {f"new{i}" for i in range(7)}


def test_with_once_it_deletes_and_returns(tmp_path: Path, store_url: str):
    """Who runs the learner from time to time keeps to the age as well."""
    with open_store(store_url) as store:
        fill(store, n_old=PORTION + 1, n_new=1)
        run(SettingsFile(write_settings(tmp_path, store_url)), once=True)
        assert store.n_rounds() == 1


def test_looks_at_a_portion_at_a_time(tmp_path: Path, store_url: str):
    """There may be more while portions are full; then it rests, and without an age nothing is ever deleted."""
    now = time.time()
    with open_store(store_url) as store:
        fill(store, n_old=PORTION + 1, n_new=1)
        retention = Retention(store, clock=lambda: now)
        assert not retention.step(None)
        assert store.n_rounds() == PORTION + 2
        assert retention.step(30.0)
        assert store.n_rounds() == 2
        assert not retention.step(30.0)
        assert store.n_rounds() == 1
        fill(store, n_old=1, n_new=0)
        assert not retention.step(30.0)
        assert store.n_rounds() == 2
        now += INTERVAL_S
        assert not retention.step(30.0)
        assert store.n_rounds() == 1


def test_the_plan_says_what_is_deleted_and_what_that_forgets(tmp_path: Path):
    """An age is told; a budget that looks further back than rounds are kept is noted."""
    keys = [
        {"id": period, "sha256": f"{i}" * 64, "budget": {"usd": 1, "period": period}}
        for i, period in enumerate(("day", "week", "month", "total"))
    ]
    told = plan(SettingsFile(write_settings(tmp_path, "sqlite:///log.db", keys=keys)).settings)
    assert told["retention_days"] == 30
    assert [note for note in told["notes"] if "retention" in note] == [
        "store.retention_days is 30: after a restart the budgets of month, total forget what was spent before that"
    ]
    told = plan(SettingsFile(write_settings(tmp_path, "sqlite:///log.db", store={})).settings)
    assert told["retention_days"] is None
