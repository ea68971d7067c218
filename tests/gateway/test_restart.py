"""What outlives a gateway that is killed or started again: a trace of its streams, and what of its budget was spent."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from pointsman.gateway import chat
from pointsman.gateway.routing import Routing
from pointsman.gateway.serve import resuming
from pointsman.logs.store import Round, SqliteStore, open_store
from pointsman.trade_off import TradeOff
from tests.gateway.conftest import TIMEOUTS, Gateway
from tests.gateway.routers import router_settings
from tests.gateway.test_serve import MESSAGES, process, write_settings
from tests.gateway.upstreams import Upstream, closed_port


def the_round(store: SqliteStore) -> Round | None:
    """The only one there is."""
    with store.snapshot() as snapshot:
        names = [row[0] for row in snapshot.fetch("SELECT round_id FROM rounds")]
    assert len(names) <= 1
    return store.get_round(names[0]) if names else None


def test_a_gateway_killed_in_mid_stream_leaves_a_trace(tmp_path: Path, upstream_server: tuple[Upstream, str]):
    """The round is there, not over; a gateway that starts once no call can last so long any more truncates it."""
    port = closed_port()
    timeouts = {**TIMEOUTS, "total_s": 2.5}
    upstreams = {"main": {"base_url": f"{upstream_server[1]}/v1", "timeouts": timeouts}}
    path = write_settings(tmp_path, upstream_server[1], port=port, models=("endless",), upstreams=upstreams)
    body = {"model": "auto", "messages": MESSAGES, "stream": True}
    with SqliteStore.open(tmp_path / "log.db") as store:
        with (
            process(path, port) as (running, url),
            httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as got,
        ):
            chunks = got.iter_bytes()  # kept, as the stream is closed with it
            next(chunks)
            until = time.monotonic() + 2
            while (left := the_round(store)) is None:
                assert time.monotonic() < until
                time.sleep(0.02)
            running.kill()
        assert (left.outcome, left.served_model, left.policy) == (None, "endless", "router")
        assert (left.propensity, left.ttft_s > 0) == (1.0, True)
        with process(path, port):
            time.sleep(0.5)
            assert the_round(store).outcome is None  # type: ignore[union-attr]  # another gateway may be serving it
        time.sleep(max(0.0, left.decided_at + 2 * timeouts["total_s"] - time.time()))
        with process(path, port) as (running, _):
            until = time.monotonic() + 10
            while the_round(store).outcome != "truncated":  # type: ignore[union-attr]
                assert time.monotonic() < until
                time.sleep(0.02)
            running.send_signal(signal.SIGTERM)
            running.wait(10)


def test_only_long_streams_are_logged_before_they_are_over(make_gateway: Any, monkeypatch: pytest.MonkeyPatch):
    """Then once more, whole, when they are; a short one is logged once, also when its client goes away."""
    monkeypatch.setattr(chat, "OPEN_AFTER_S", 0.15)
    gateway: Gateway = make_gateway()

    def ask(model: str) -> None:
        body = {"model": model, "messages": MESSAGES, "stream": True}
        assert httpx.post(f"{gateway.url}/v1/chat/completions", json=body).status_code == 200

    ask("good")
    ask("slow")
    time.sleep(0.3)
    assert [(each.served_model, each.outcome) for each in gateway.store.rounds] == [
        ("good", "ok"),
        ("slow", None),
        ("slow", "ok"),
    ]
    first, last = gateway.store.rounds[1:]
    assert (first.round_id, first.propensity, first.ttft_s) == (last.round_id, last.propensity, last.ttft_s)
    assert first.latency_s != first.latency_s
    assert last.latency_s > 0.15
    told = gateway.live.metrics.exposition().decode()
    assert 'pointsman_requests_total{model="slow",outcome="ok",policy="pinned"} 1.0' in told
    with httpx.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json={"model": "endless", "messages": MESSAGES, "stream": True}
    ) as got:
        next(got.iter_bytes())
    time.sleep(0.4)
    assert [each.outcome for each in gateway.store.rounds[3:]] == ["cancelled"]


@pytest.mark.parametrize("budget", [{"usd_per_day": 1.0}, {"usd_per_request": 1e-4}])
def test_a_budget_goes_on_over_a_restart(tmp_path: Path, budget: dict[str, float]):
    """Debt and rate are those of before, by the log; what clients named or upstreams failed is not counted."""
    settings = router_settings(tmp_path, budget=budget)
    with open_store(settings.store.url.get_secret_value()) as store:
        before = resuming(Routing(), store)(settings).pacer  # type: ignore[attr-defined]
        assert before.report().debt_usd == 0
        begun, rounds = time.time() - 600, []
        for i in range(100):
            at = begun + 6 * i
            rate = before.trade_off(TradeOff(), now=at).quality_per_usd
            cost_usd = 1.2e-4 if i % 2 else 0.9e-4
            before.observe(cost_usd, now=at)
            facts: Any = {"decided_at": at, "model": "dear", "quality_per_usd": rate, "cost_usd": cost_usd}
            rounds.append(Round(round_id=str(i), outcome="ok", **facts))
            rounds.append(Round(round_id=f"{i} named", outcome="ok", policy="pinned", **{**facts, "cost_usd": 9.0}))
            rounds.append(Round(round_id=f"{i} failed", outcome="error", **{**facts, "cost_usd": 9.0}))
        store.add_rounds(rounds)

        make = resuming(Routing(), store)
        decider = make(settings)
        after = decider.pacer  # type: ignore[attr-defined]
        assert after.target_usd == pytest.approx(before.target_usd, rel=0.05)
        assert after.report().debt_usd == pytest.approx(before.report().debt_usd, abs=1e-4)  # some seconds' worth
        assert after.report().debt_usd > 3e-4
        assert 0.3 < after.quality_per_usd / before.quality_per_usd < 3
        debt_usd = after.report().debt_usd
        assert make(settings).pacer is after  # type: ignore[attr-defined]
        assert after.report().debt_usd == debt_usd  # it is not told of the same rounds twice


def test_without_its_log_a_budget_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The gateway starts and serves all the same, and says so."""
    settings = router_settings(tmp_path, budget={"usd_per_day": 1.0})
    store = open_store(settings.store.url.get_secret_value())
    store.close()
    for file in tmp_path.glob("log.db*"):
        if file.is_file():
            file.write_bytes(b"no database any more")
    with caplog.at_level("WARNING", "pointsman.gateway"):
        assert resuming(Routing(), store)(settings).pacer.report().debt_usd == 0  # type: ignore[attr-defined]
    assert "the budget begins anew" in caplog.text
