"""Whether anything is learned, as Prometheus sees it: lag of feedback, expected regret, budget, and the learner."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from pointsman.errors import StatisticalWarning
from pointsman.gateway.app import make_app
from pointsman.gateway.decide import Decided, FixedDecider, RouteRequest
from pointsman.gateway.learn.status import FILE, LearnerStatus
from pointsman.gateway.learn.worker import Learner, run
from pointsman.gateway.routing import RouterDecider, open_registry
from pointsman.gateway.settings import SettingsFile
from pointsman.logs.store import Feedback, Round, SqliteStore, Writer
from tests.gateway.conftest import COST_USD, Gateway, gateway_settings
from tests.gateway.routers import router_settings, traffic
from tests.gateway.test_serve import write_settings
from tests.gateway.upstreams import serving
from tests.tables import small_table

MESSAGES: Any = [{"role": "user", "content": "What is the capital of Switzerland?"}]


def scraped(url: str) -> dict[str, float]:
    """The metrics without the prefix, by name and labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("pointsman_"): float(value) for name, value in pairs}


def ask(url: str, model: str = "auto", **more: Any) -> None:
    """Ask for a completion."""
    body = {"model": model, "messages": MESSAGES, **more}
    assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    with SqliteStore.open(tmp_path / "log.db") as store:
        yield store


def test_feedback_lags_behind_its_decision(store: SqliteStore):
    """By the store's own time of the round; what is sent again, or is of no round, does not count again."""
    now = time.time()
    store.add_rounds([Round(round_id=name, decided_at=now - ago, model="good") for name, ago in (("a", 1e3), ("b", 7))])
    writer = Writer(store, queue_size=10)
    app = make_app(gateway_settings("http://127.0.0.1:9"), FixedDecider({"good": 1.0}), writer)
    with serving(app) as url:
        said = [{"round_id": "a", "quality": 1, "feedback_id": "f"}, {"round_id": "b", "thumbs": "up"}]
        for feedback in (*said, said[0], {"round_id": "nothing", "quality": 1}):
            httpx.post(f"{url}/v1/feedback", json=feedback)
        seen = scraped(url)
    writer.close()
    assert seen["feedback_lag_seconds_count"] == 2
    assert seen["feedback_lag_seconds_sum"] == pytest.approx(1007, abs=5)
    assert seen['feedback_lag_seconds_bucket{le="15.0"}'] == 1
    assert seen['feedback_total{status="duplicate"}'] == seen['feedback_total{status="unknown"}'] == 1


class Regretting(FixedDecider):
    """Says of each draw that it is expected to give up the next of these."""

    def __init__(self, *regrets: float) -> None:
        super().__init__({"good": 1.0})
        self.regrets = list(regrets)

    def decide(self, request: RouteRequest) -> Decided:
        """Draw, and say so."""
        return dataclasses.replace(super().decide(request), expected_regret=self.regrets.pop(0))


def test_expected_regret_is_a_quotient_of_two_counters(make_gateway: Any):
    """Over the choices of a router that predicts; where it predicts nothing, or chose nothing, neither counts."""
    gateway: Gateway = make_gateway(decider=Regretting(0.25, math.nan, 0.0, math.inf))
    for model in ("auto", "good", "auto", "auto", "auto"):
        ask(gateway.url, model)
    seen = scraped(gateway.url)
    assert (seen["expected_regret_total"], seen["expected_regret_rounds_total"]) == (0.25, 2)
    assert seen['choices_total{model="good"}'] == 4


def test_a_budget_shows_what_it_allows_and_owes(
    make_gateway: Any, upstream_server: Any, tmp_path: Path, gateway: Gateway
):
    """Debt is what was spent above it; without a budget, or a router that holds one, there is nothing to show."""
    more = {"budget": {"usd_per_request": COST_USD / 4}, "router": {"registry": tmp_path / "registry"}}
    settings = gateway_settings(upstream_server[1], **more)
    decider = RouterDecider(open_registry(settings), settings, seed=0)
    held: Gateway = make_gateway(decider=decider, **more)
    for _ in range(2):
        ask(held.url, pointsman={"models": ["good", "other"]})
    seen = scraped(held.url)
    assert seen["budget_usd_per_request"] == pytest.approx(COST_USD / 4)
    assert seen["budget_debt_usd"] == pytest.approx(2 * (COST_USD - COST_USD / 4))
    assert seen["lambda_quality_per_usd"] == decider.pacer.quality_per_usd > 0  # type: ignore[union-attr]
    free = gateway_settings(upstream_server[1], router=more["router"])
    held.live.replace(settings=free, decider=RouterDecider(open_registry(free), free))
    for url in (held.url, gateway.url):
        ask(url, pointsman={"models": ["good", "other"]})
        assert not {"budget_usd_per_request", "budget_debt_usd", "lambda_quality_per_usd"} & scraped(url).keys()


def judged(store: SqliteStore, *names: str) -> None:
    """Rounds of a router that saw nothing of their prompts, with feedback."""
    store.write(
        [Round(round_id=name, decided_at=time.time(), model="good") for name in names],
        [Feedback(feedback_id=name, round_id=name, received_at=time.time(), quality=1.0) for name in names],
    )


def test_a_gateway_tells_of_the_learner(
    make_gateway: Any, store: SqliteStore, tmp_path: Path, upstream_server: tuple[Any, str]
):
    """Once it has made a turn: how long ago that was, and what waits; nothing before, nor of a file that is broken."""
    path = write_settings(tmp_path, upstream_server[1], port=8080, models=("good", "other"))
    settings = SettingsFile(path)
    gateway: Gateway = make_gateway(store={"url": f"sqlite:///{tmp_path}/log.db"})
    assert not [name for name in scraped(gateway.url) if name.startswith(("learner", "refit"))]
    judged(store, "a", "b")
    run(settings, once=True)
    judged(store, "c")
    seen = scraped(gateway.url)
    assert 0 <= seen["learner_seconds_since_turn"] < 30
    assert (seen["learner_feedback_waiting"], seen["refit_promoted_total"], seen["refit_kept_in_shadow_total"]) == (
        0,
    ) * 3
    folder = open_registry(settings.settings).folder
    status = LearnerStatus.read(folder)
    assert status is not None
    assert (status.learned_through, status.n_learned, status.last_error) == (2, 2, None)
    (folder / FILE).write_text("{")
    assert "learner_feedback_waiting" not in scraped(gateway.url)


def test_a_learner_that_fails_says_how_and_counts_what_waits(store: SqliteStore, tmp_path: Path):
    """The error's name, and no more of it; counts go on where the last learner left them."""
    settings = router_settings(tmp_path)
    registry = open_registry(settings)
    judged(store, "a", "b", "c")
    learner = Learner(registry, store, settings)
    learner.note(n_read=learner.step())
    judged(store, "d", "e")
    learner.note(n_read=0, error=OSError("sk-secret"))
    status = LearnerStatus.read(registry.folder)
    assert status is not None
    assert (status.learned_through, status.waiting, status.n_learned, status.last_error) == (3, 2, 3, "OSError")
    assert "sk-secret" not in (registry.folder / FILE).read_text()
    again = Learner(registry, store, settings)
    again.note(n_read=again.step())
    store.close()
    (tmp_path / "log.db").write_text("no database")
    again.note(n_read=0)
    status = LearnerStatus.read(registry.folder)
    assert status is not None
    assert (status.waiting, status.n_learned, status.last_error) == (None, 5, None)


def test_refits_are_counted_by_what_became_of_them(store: SqliteStore, tmp_path: Path):
    """One that has nothing to fit counts nowhere; one that is compared is in shadow, or decides."""
    settings = router_settings(tmp_path, learn={"gate": {"min_rounds": 100}}, exploration={"floor": 0.6})
    registry = open_registry(settings)
    learner = Learner(registry, store, settings)

    def refitted() -> LearnerStatus:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticalWarning)
            learner.refit_aside()
            assert learner._refitting is not None
            learner._refitting.join()
            learner.note(n_read=0)
        status = LearnerStatus.read(registry.folder)
        assert status is not None
        return status

    nothing = refitted()
    assert (nothing.n_promoted, nothing.n_kept_in_shadow, nothing.last_refit) == (0, 0, None)
    traffic(RouterDecider(registry, settings, seed=0), store, small_table(n_prompts=300, seed=5), n_rounds=300)
    compared = refitted()
    roles = registry.roles()
    assert compared.last_refit is not None
    assert compared.last_refit == (roles.current if compared.n_promoted else roles.shadow)
    assert compared.n_promoted + compared.n_kept_in_shadow == 1
    assert compared.last_refit_why == roles.history[-1].why
