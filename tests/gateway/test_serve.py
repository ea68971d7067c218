"""Tests of the gateway as a process: its store, its settings' file, and how it stops."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from pointsman.gateway.decide import RouteRequest
from pointsman.gateway.keys import key_hash
from pointsman.gateway.serve import first_log
from pointsman.gateway.settings import load_settings
from pointsman.logs.store import SqliteStore
from tests.gateway.conftest import COST_USD, PRICE
from tests.gateway.upstreams import Upstream, closed_port, stream_events

MESSAGES: Any = [{"role": "user", "content": "What is the capital of Switzerland?"}]
START = """
import sys
from pointsman.gateway.serve import serve
from pointsman.gateway.settings import SettingsFile
file = SettingsFile(sys.argv[1])
serve(file.settings, file=file)
"""


def write_settings(folder: Path, upstream_url: str, *, port: int, models: tuple[str, ...], **more: Any) -> Path:
    """Write the settings' file, as JSON, which YAML is as well."""
    settings = {
        "server": {"port": port, "drain_s": 5},
        "upstreams": {"main": {"base_url": f"{upstream_url}/v1"}},
        "models": [{"name": name, "upstream": "main", "price": PRICE} for name in models],
        "store": {"url": "sqlite:///log.db"},
        **more,
    }
    path = folder / "pointsman.yaml"
    path.write_text(json.dumps(settings))
    return path


@contextlib.contextmanager
def process(path: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A gateway of its own, once it answers."""
    running = subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", START, str(path)], stderr=subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 30
        while True:
            assert running.poll() is None, running.stderr.read().decode()  # type: ignore[union-attr]
            assert time.monotonic() < until
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/live").status_code == 200:
                    break
            time.sleep(0.05)
        yield running, url
    finally:
        running.kill()
        running.communicate()


def test_stops_when_told_once_what_it_began_has_ended(tmp_path: Path, upstream_server: tuple[Upstream, str]):
    """A stream in flight comes whole, the process ends well, and the store holds the rounds and their feedback."""
    port = closed_port()
    path = write_settings(tmp_path, upstream_server[1], port=port, models=("slow",))
    with process(path, port) as (running, url), httpx.Client(timeout=10) as client:
        answer = client.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES})
        name = answer.headers["x-pointsman-round-id"]
        assert client.post(f"{url}/v1/feedback", json={"round_id": name, "quality": 0.5}).status_code == 200
        body = {"model": "auto", "messages": MESSAGES, "stream": True}
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as stream:
            running.send_signal(signal.SIGTERM)
            assert stream.read() == b"".join(stream_events(with_usage=False))
        assert running.wait(10) in (0, -signal.SIGTERM)
    with SqliteStore.open(tmp_path / "log.db") as store:
        log = store.log()
        assert len(log) == 2
        assert log.cost_usd == pytest.approx([COST_USD] * 2)
        assert [each.feedback.quality for each in store.feedback_after(0)] == [0.5]


def test_a_kill_loses_no_feedback_that_was_acknowledged(tmp_path: Path, upstream_server: tuple[Upstream, str]):
    """After kill -9 under load each acknowledged feedback is there, no round is twice, and the gateway starts again."""
    port = closed_port()
    path = write_settings(tmp_path, upstream_server[1], port=port, models=("good", "other"))
    acknowledged: list[str] = []

    def use(url: str) -> None:
        with httpx.Client(timeout=5) as client, contextlib.suppress(httpx.TransportError):
            while True:
                answer = client.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES})
                name = answer.headers["x-pointsman-round-id"]
                if client.post(f"{url}/v1/feedback", json={"round_id": name, "quality": 1}).status_code == 200:
                    acknowledged.append(name)

    with process(path, port) as (running, url):
        users = [threading.Thread(target=use, args=(url,)) for _ in range(8)]
        for user in users:
            user.start()
        time.sleep(1.0)
        running.kill()
        for user in users:
            user.join()
    assert len(acknowledged) > 20
    with process(path, port) as (running, url):
        assert httpx.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES}).status_code == 200
        running.send_signal(signal.SIGTERM)
        running.wait(10)
    with SqliteStore.open(tmp_path / "log.db") as store:
        judged = [each.round.round_id for each in store.feedback_after(0, limit=100_000)]
        assert set(acknowledged) <= set(judged)
        log = store.log()
        assert len(set(log.round_id)) == len(log)


def test_follows_its_settings_without_dropping_a_request(tmp_path: Path, upstream_server: tuple[Upstream, str]):
    """A new model is there soon, requests never fail meanwhile, and a wrong file changes nothing."""
    port = closed_port()
    path = write_settings(tmp_path, upstream_server[1], port=port, models=("good",))
    with process(path, port) as (_, url), httpx.Client(timeout=10) as client:
        write_settings(tmp_path, upstream_server[1], port=port, models=("good", "other"))
        chosen = set()
        until = time.monotonic() + 10
        while "other" not in chosen:
            assert time.monotonic() < until
            answer = client.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES})
            assert answer.status_code == 200
            chosen.add(answer.headers["x-pointsman-model"])
        path.write_text("models: []")
        time.sleep(2.5)
        names = {model["id"] for model in client.get(f"{url}/v1/models").json()["data"]}
        assert names == {"auto", "good", "other"}


def test_a_restart_forgets_no_spending(tmp_path: Path, upstream_server: tuple[Upstream, str]):
    """What a key has spent is read from the store at the start, so that a restart is no new budget."""
    port = closed_port()
    key = {"id": "team", "sha256": key_hash("pm-k"), "budget": {"usd": 40e-6, "period": "total"}}
    path = write_settings(tmp_path, upstream_server[1], port=port, models=("good",), keys=[key])
    headers = {"authorization": "Bearer pm-k"}
    body = {"model": "auto", "messages": MESSAGES, "max_tokens": 1}
    statuses = []
    for _ in range(2):
        with process(path, port) as (running, url):
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            statuses.append(answer.status_code)
            running.send_signal(signal.SIGTERM)
            running.wait(10)
    assert statuses == [200, 429]


def test_before_there_is_a_router_models_are_drawn_evenly(tmp_path: Path):
    """A log of even draws is one that any router can be learned from."""
    path = write_settings(tmp_path, "http://127.0.0.1:1", port=8080, models=("a", "b"))
    decider = first_log(load_settings(path))
    assert decider.decide(RouteRequest(prompt="x")).probabilities == {"a": 0.5, "b": 0.5}
