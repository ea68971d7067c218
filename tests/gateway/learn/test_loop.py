"""The loop over real sockets: a gateway, an upstream, a learner that is killed, and feedback that changes routing."""

# ruff: noqa: S603 - the processes started here are our own code
from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx

from pointsman.logs.store import SqliteStore
from pointsman.versions import Registry
from tests.gateway.test_serve import write_settings
from tests.gateway.upstreams import Upstream, closed_port

SERVE = """
import sys
from pointsman.gateway.routing import Routing
from pointsman.gateway.serve import serve
from pointsman.gateway.settings import SettingsFile
file = SettingsFile(sys.argv[1])
serve(file.settings, file=file, make_decider=Routing(interval_s=0.05))
"""
MESSAGES: Any = [{"role": "user", "content": "What is the capital of Switzerland?"}]


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of our own, gone in the end."""
    running = subprocess.Popen([sys.executable, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def wait_for(url: str, gateway: subprocess.Popen[str]) -> None:
    """Wait until the gateway answers."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert gateway.poll() is None, gateway.stderr.read()  # type: ignore[union-attr]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/live").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the gateway does not answer")


def test_feedback_changes_routing_though_the_learner_is_killed(tmp_path: Path, upstream_server: tuple[Upstream, str]):
    """Of two models at one price, the one that answers are said to be good of has nearly all of the probability.

    The learner is killed half way, and no request waits for it or fails; every round's propensity was that of a draw.
    """
    port = closed_port()
    learn = {"interval_s": 0.05}
    path = write_settings(tmp_path, upstream_server[1], port=port, models=("good", "other"), learn=learn)
    url = f"http://127.0.0.1:{port}"
    with process("-c", SERVE, path) as gateway, httpx.Client(timeout=10) as client:
        wait_for(url, gateway)
        versions: list[str] = []

        def use(n_rounds: int) -> dict[str, float]:
            for _ in range(n_rounds):
                answer = client.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES})
                assert answer.status_code == 200
                versions.append(answer.headers["x-pointsman-router"])
                quality = float(answer.headers["x-pointsman-model"] == "good")
                said = {"round_id": answer.headers["x-pointsman-round-id"], "quality": quality}
                assert client.post(f"{url}/v1/feedback", json=said).status_code == 200
            probabilities: dict[str, float] = client.post(
                f"{url}/v1/route", json={"model": "auto", "messages": MESSAGES}
            ).json()["probabilities"]
            return probabilities

        def use_until_learned(learner: subprocess.Popen[str]) -> float:
            until, version = time.monotonic() + 60, versions[-1]
            while versions[-1] == version:
                assert learner.poll() is None
                assert time.monotonic() < until
                of_good = use(5)["good"]
            return of_good

        before = use(20)
        assert max(before.values()) < 0.6
        with process("-m", "pointsman.gateway.learn", "--config", path) as learner:
            assert use_until_learned(learner) > before["good"]
            learner.send_signal(signal.SIGKILL)
            learner.wait()
        use(10)  # without a learner
        with process("-m", "pointsman.gateway.learn", "--config", path) as learner:
            assert use_until_learned(learner) > 0.9
        assert len({version.partition("+")[0] for version in versions}) == 1
    registry = Registry(tmp_path / "log.db.routers")
    with SqliteStore.open(tmp_path / "log.db") as store:
        log = store.log()
        assert len(log) == len(versions) == store.last_seq()
        assert log.table["router_version"].to_pylist() == versions
        assert ((log.propensity > 0) & (log.propensity < 1)).all()
        current = registry.roles().current
        assert current is not None
        assert registry.load(current).policy.learned_through <= store.last_seq()  # type: ignore[attr-defined]
