"""Feedback belongs to the key of its round: over sockets, into a store on disk."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import httpx2 as httpx

from pointsman.gateway.app import make_app
from pointsman.gateway.decide import FixedDecider
from pointsman.gateway.keys import key_hash
from pointsman.gateway.replayed import served
from pointsman.gateway.serve import protocol
from pointsman.logs.store import Round, SqliteStore, Writer
from tests.gateway.conftest import gateway_settings
from tests.gateway.upstreams import Upstream

MESSAGES: Any = [{"role": "user", "content": "What is the capital of Switzerland?"}]


def test_a_round_of_another_key_is_answered_as_one_that_is_not_there(
    tmp_path: Path, upstream_server: tuple[Upstream, str]
):
    """To the byte, alone or in a batch or in a pair; one's own and those without a key can be judged."""
    keys = [{"id": name, "sha256": key_hash(f"pm-{name}")} for name in ("us", "them")]
    settings = gateway_settings(upstream_server[1], keys=keys)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(SqliteStore.open(tmp_path / "log.db"))
        writer = stack.enter_context(contextlib.closing(Writer(store)))
        app = make_app(settings, FixedDecider({"good": 1.0}), writer)
        url = stack.enter_context(served(app, http=protocol(settings)))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=10))
        store.add_rounds([Round(round_id="free", decided_at=1.0, model="good")])

        def post(path: str, body: Any, *, key: str) -> httpx.Response:
            return client.post(path, json=body, headers={"authorization": f"Bearer pm-{key}"})

        asked = {"model": "auto", "messages": MESSAGES}
        names = {
            key: post("/v1/chat/completions", asked, key=key).headers["x-pointsman-round-id"] for key in ("us", "them")
        }

        def judge(round_id: str, **more: Any) -> tuple[int, bytes]:
            said = {"round_id": round_id, "feedback_id": "f", **(more or {"quality": 1.0})}
            answer = post("/v1/feedback", said, key="us")
            return answer.status_code, answer.content

        unknown = judge("nowhere")
        assert unknown[0] == 404
        assert judge(names["them"]) == unknown
        assert judge(names["us"], other_round_id=names["them"], preference=1.0) == unknown
        assert judge(names["them"], other_round_id=names["us"], preference=1.0) == unknown
        batch = {"feedback": [{"round_id": name, "quality": 0.5} for name in (names["them"], names["us"], "free")]}
        results = post("/v1/feedback", batch, key="us").json()["results"]
        assert [each["status"] for each in results] == ["unknown", "accepted", "accepted"]
        assert judge(names["us"], other_round_id="free", preference=1.0)[0] == 200
        assert [each.round.key_id for each in store.feedback_after()] == ["us", None, "us"]
