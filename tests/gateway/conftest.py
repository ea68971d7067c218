"""A gateway and the upstream behind it, both over real sockets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from pointsman.gateway.app import make_app
from pointsman.gateway.decide import FixedDecider
from pointsman.gateway.live import Live
from pointsman.gateway.serve import protocol
from pointsman.gateway.settings import Settings
from pointsman.logs.store.records import Feedback, FeedbackResult, Round
from tests.gateway.upstreams import Upstream, closed_port, serving

FAULTS = """
hang broken unauthorized limited limited-once strict malformed no-options cut no-usage no-events hang-before-content
error-before-content error-midway cut-before-content hang-midway malformed-stream no-done bytewise windows endless slow
no-last-line ends-early garbled garbled-list garbled-windows
"""
TIMEOUTS = {"connect_s": 1.0, "first_token_s": 0.6, "between_tokens_s": 0.4, "total_s": 3.0}
PRICE = {"input_usd_per_mtok": 1.0, "cached_input_usd_per_mtok": 0.5, "output_usd_per_mtok": 2.0}
COST_USD = (6 * 1.0 + 4 * 0.5 + 5 * 2.0) / 1e6
"""Of 10 tokens in, 4 of them cached, and 5 out."""


class KeptRounds:
    """A store that keeps all in memory."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.given: list[Feedback] = []
        self.takes = True
        self.fails = False

    def put_round(self, round_: Round) -> bool:
        """Keep a round."""
        if self.fails:
            raise OSError("disk full")
        if self.takes:
            self.rounds.append(round_)
        return self.takes

    async def put_feedback(self, feedback: Any) -> list[FeedbackResult]:
        """Keep feedback on rounds that are known."""
        if self.fails:
            raise OSError("disk full")
        known = {each.round_id for each in self.rounds}
        self.given += [each for each in feedback if each.round_id in known]
        return [
            FeedbackResult(
                feedback_id=each.feedback_id,
                round_id=each.round_id,
                status="accepted" if each.round_id in known else "unknown",
                seq=None,
            )
            for each in feedback
        ]

    async def spent_usd(self, key_id: str, *, since: float) -> float:
        """Sum what a key's rounds cost."""
        costs = [each.cost_usd for each in self.rounds if each.key_id == key_id and each.decided_at >= since]
        return sum(cost for cost in costs if cost == cost)


@dataclass
class Gateway:
    """A gateway that serves, and what is behind it."""

    url: str
    live: Live
    upstream: Upstream
    store: KeptRounds
    stack: contextlib.ExitStack

    def client(self, **more: Any) -> openai.OpenAI:
        """The official client, pointed here; it repeats nothing, so that each request is one."""
        facts = {"base_url": f"{self.url}/v1", "api_key": "sk-client-secret", "max_retries": 0, **more}
        return self.stack.enter_context(openai.OpenAI(**facts))

    def round(self, n: int = 1) -> Round:
        """The last round, once there are so many."""
        until = time.monotonic() + 5
        while len(self.store.rounds) < n:
            assert time.monotonic() < until, f"{len(self.store.rounds)} rounds were logged, not {n}"
            time.sleep(0.01)
        assert len(self.store.rounds) == n
        return self.store.rounds[-1]


def gateway_settings(upstream_url: str, **more: Any) -> Settings:
    """Settings with a model for each behaviour of the upstream, and one whose upstream refuses connections."""
    upstream = {"timeouts": TIMEOUTS, "max_retries": 1}
    names = ["good", "other", *FAULTS.split()]
    models = [{"name": name, "upstream": "main", "price": PRICE} for name in names]
    models += [
        {"name": "refuse", "upstream": "closed", "price": PRICE},
        {"name": "small", "upstream": "main", "upstream_model": "good", "price": PRICE, "context_window": 100},
        {"name": "blind", "upstream": "main", "upstream_model": "good", "price": PRICE, "supports": []},
        {"name": "vectors", "upstream": "main", "upstream_model": "v", "kind": "embedding", "price": PRICE},
    ]
    return Settings(
        upstreams={
            "main": {**upstream, "base_url": f"{upstream_url}/v1", "api_key": "sk-upstream-secret"},
            "closed": {**upstream, "base_url": f"http://127.0.0.1:{closed_port()}/v1"},
        },
        models=models,
        **{"fallback": ["other"], "router": {"presets": {"cheap": {"cost_weight": 0.9}}}, **more},
    )


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[tuple[Upstream, str]]:
    """The upstream, served once for all tests."""
    upstream = Upstream()
    with serving(upstream) as url:
        yield upstream, url


@pytest.fixture
def make_gateway(upstream_server: tuple[Upstream, str]) -> Iterator[Any]:
    """Makes gateways whose decider draws from the weights given, and stops them when the test ends."""
    upstream, upstream_url = upstream_server
    upstream.requests.clear()
    upstream.n_cancelled = upstream.limited_for = 0
    with contextlib.ExitStack() as stack:

        def make(weights: dict[str, float] | None = None, *, decider: Any = None, **more: Any) -> Gateway:
            settings = gateway_settings(upstream_url, **more)
            store = KeptRounds()
            app = make_app(
                settings, decider or FixedDecider(weights or {"good": 1.0, "other": 1.0}), store, spend_log=store
            )
            url = stack.enter_context(serving(app, http=protocol(settings)))
            return Gateway(url, app.state.live, upstream, store, stack)

        yield make


@pytest.fixture
def gateway(make_gateway: Any) -> Gateway:
    """A gateway whose router draws `good` and `other` evenly."""
    return make_gateway()
