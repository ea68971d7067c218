"""Replicas on one PostgreSQL and one registry: real processes, real outcomes, and a database that restarts."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx

from pointsman.gateway.replayed import ReplayedModels, served
from pointsman.logs.store import PostgresStore
from pointsman.versions import Registry
from tests.gateway.upstreams import closed_port
from tests.postgres import Server
from tests.tables import small_table

N_CLIENTS = 4
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@contextlib.contextmanager
def pointsman(command: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the command line; what it said last is shown where it stops by itself."""
    with (config.with_suffix(f".{command}.log")).open("w+b") as said:
        running = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-m", "pointsman.cli", command, "--config", str(config)],
            stdout=said,
            stderr=said,
            env={**os.environ, **ONE_THREAD},
        )
        try:
            yield running
            assert running.poll() is None, config.with_suffix(f".{command}.log").read_text()[-3000:]
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(30)


class Client(threading.Thread):
    """Asks one gateway, gives feedback to another, and repeats feedback until it is taken, as clients are told to.

    Attributes:
        statuses: Of its requests.
        acknowledged: Rounds whose feedback was.
    """

    def __init__(self, models: ReplayedModels, urls: tuple[str, str], *, first: int, stop: threading.Event) -> None:
        super().__init__()
        self.models, self.urls, self.first, self.stop = models, urls, first, stop
        self.statuses: collections.Counter[int] = collections.Counter()
        self.acknowledged: list[str] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Use the gateways until told to stop."""
        try:
            with httpx.Client(timeout=30) as client:
                n_asked = 0
                while not self.stop.is_set():
                    self._use(client, self.first + n_asked)
                    n_asked += 1
        except Exception as error:  # the test fails with it
            self.error = error

    def _use(self, client: httpx.Client, number: int) -> None:
        prompts = self.models.table.prompt
        prompt = prompts[number % len(prompts)]
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "stream": number % 3 == 0}
        answer = client.post(f"{self.urls[0]}/v1/chat/completions", json=body)
        self.statuses[answer.status_code] += 1
        name, model = answer.headers["x-pointsman-round-id"], answer.headers["x-pointsman-model"]
        said = {"round_id": name, "feedback_id": name, "quality": self.models.outcome(prompt, model)[0]}
        until = time.monotonic() + 60
        # 503 while the database is away; 404 while the round still waits in the other replica's queue.
        while client.post(f"{self.urls[number % 2]}/v1/feedback", json=said).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        self.acknowledged.append(name)


def test_two_gateways_and_a_learner_share_one_database_that_restarts(tmp_path: Path, server: Server):
    """No request fails, no round and no acknowledged feedback is lost, and both come to serve what was learned of all.

    The database goes down as after a power cut, and comes back, under traffic to both; feedback goes to either.
    """
    models, store_url = ReplayedModels(small_table()), server.new_schema()
    ports = closed_port(), closed_port()
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(served(models))
        configs = []
        for port in ports:
            settings: dict[str, Any] = models.settings(upstream).model_dump(
                mode="json", include={"upstreams", "models"}
            )
            more = {
                "server": {"port": port, "drain_s": 5},
                "router": {"registry": "routers"},
                "store": {"url": store_url},
                "learn": {"interval_s": 0.2},
            }
            configs.append(tmp_path / f"{port}.yaml")
            configs[-1].write_text(json.dumps({**settings, **more}))
        # All at once: both gateways make the tables and the first version, and only one of each is there.
        for command, config in (("serve", configs[0]), ("serve", configs[1]), ("learn", configs[0])):
            stack.enter_context(pointsman(command, config))
        for url in urls:
            wait_for(url)
        stop = threading.Event()
        clients = [Client(models, (urls[i % 2], urls[(i + 1) % 2]), first=60 * i, stop=stop) for i in range(N_CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(2)
        server.stop("immediate")
        time.sleep(1.5)
        asked_meanwhile = sum(client.statuses.total() for client in clients)
        server.start()
        time.sleep(3)
        stop.set()
        for client in clients:
            client.join()
        assert [client.error for client in clients if client.error is not None] == []
        assert {status for client in clients for status in client.statuses} == {200}
        asked = sum(client.statuses.total() for client in clients)
        acknowledged = [name for client in clients for name in client.acknowledged]
        assert asked > asked_meanwhile + N_CLIENTS
        assert len(acknowledged) == asked

        store = stack.enter_context(PostgresStore.open(store_url))
        judged = store.feedback_after(limit=10**6)
        assert sorted(each.round.round_id for each in judged) == sorted(acknowledged)
        assert store.n_rounds() == asked
        assert store.n_lost() == 0
        assert all(0 < each.round.propensity <= 1 for each in judged)

        registry = Registry(tmp_path / "routers")
        label = f"{registry.roles().current}+{store.last_seq()}"
        until = time.monotonic() + 30
        while (serving := [label_of(url) for url in urls]) != [label, label]:
            assert time.monotonic() < until, f"{serving} are served, not {label}"
            time.sleep(0.1)
        assert len(registry.roles().versions) == 1


def label_of(url: str) -> str:
    """What decides at a gateway."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "soup"}]}
    return str(httpx.post(f"{url}/v1/route", json=body).json()["router_version"])


def wait_for(url: str) -> None:
    """Wait until a gateway answers."""
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        assert time.monotonic() < until, f"{url} does not answer"
        time.sleep(0.1)
