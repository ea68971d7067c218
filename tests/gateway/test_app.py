"""Tests of all routes but chat completions."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest

from pointsman.gateway.keys import key_hash
from tests.gateway.conftest import Gateway

MESSAGES: Any = [{"role": "user", "content": "What is the capital of Switzerland?"}]


def asked(gateway: Gateway) -> str:
    """Ask something; the round's name."""
    raw = gateway.client().chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)
    return str(raw.headers["x-pointsman-round-id"])


def test_lists_what_may_be_asked_for(gateway: Gateway):
    """`auto`, its presets and every model, each with a card of its own; 404 for any other."""
    names = [model.id for model in gateway.client().models.list()]
    assert names[:2] == ["auto", "auto:cheap"]
    assert {"good", "other", "vectors"} < set(names)
    assert gateway.client().models.retrieve("auto:cheap").owned_by == "pointsman"
    assert gateway.client().models.retrieve("good").owned_by == "main"
    with pytest.raises(openai.NotFoundError):
        gateway.client().models.retrieve("nothing")


def test_decides_without_calling(gateway: Gateway):
    """`/v1/route` says the model, its probability and why; no upstream is called and nothing is logged."""
    body = {"model": "auto", "messages": MESSAGES, "pointsman": {"quality_per_usd": 40, "models": ["other"]}}
    told = httpx.post(f"{gateway.url}/v1/route", json=body).json()

    assert (told["model"], told["propensity"], told["probabilities"]) == ("other", 1.0, {"other": 1.0})
    assert (told["eligible_models"], told["quality_per_usd"], told["policy"]) == (["other"], 40, "router")
    assert told["reasons"]
    pinned = httpx.post(f"{gateway.url}/v1/route", json={"model": "good", "messages": MESSAGES}).json()
    assert (pinned["model"], pinned["policy"], pinned["quality_per_usd"]) == ("good", "pinned", None)
    assert not gateway.upstream.requests
    assert not gateway.store.rounds


def test_passes_embeddings_on(gateway: Gateway):
    """The named model's upstream answers; a chat model or `auto` makes none."""
    answer = gateway.client().embeddings.create(model="vectors", input="x", encoding_format="float")
    assert answer.data[0].embedding == [0.5, 1.0]
    assert gateway.upstream.requests == [{"model": "v", "input": "x", "encoding_format": "float"}]
    for model in ("good", "auto"):
        with pytest.raises(openai.NotFoundError):
            gateway.client().embeddings.create(model=model, input="x")


def test_takes_feedback_by_round(gateway: Gateway):
    """Quality, thumbs and preferences, one at a time or many; a round no one knows is said to be unknown."""
    first, second = asked(gateway), asked(gateway)
    url = f"{gateway.url}/v1/feedback"
    one = httpx.post(url, json={"round_id": first, "quality": 0.25, "source": "judge", "feedback_id": "f1"})
    assert (one.status_code, one.json()) == (200, {"feedback_id": "f1", "round_id": first, "status": "accepted"})
    batch = httpx.post(
        url,
        json={
            "feedback": [
                {"round_id": first, "thumbs": "down", "comment": "no"},
                {"round_id": first, "other_round_id": second, "preference": 0.5},
                {"round_id": "nothing", "quality": 1},
            ]
        },
    )
    assert [each["status"] for each in batch.json()["results"]] == ["accepted", "accepted", "unknown"]
    given = gateway.store.given
    assert [(each.kind, each.quality, each.source) for each in given] == [
        ("quality", 0.25, "judge"),
        ("thumbs", 0.0, "thumbs"),
        ("preference", None, "gold"),
    ]
    assert (given[2].other_round_id, given[2].preference) == (second, 0.5)
    unknown = httpx.post(url, json={"round_id": "nothing", "quality": 1})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "round_not_found")
    gateway.store.fails = True
    assert httpx.post(url, json={"round_id": first, "quality": 1}).status_code == 503


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "round_id"),
        ({"round_id": ""}, "round_id"),
        ({"round_id": "r"}, "quality"),
        ({"round_id": "r", "quality": 1.5}, "quality"),
        ({"round_id": "r", "quality": True}, "quality"),
        ({"round_id": "r", "quality": "1"}, "quality"),
        ({"round_id": "r", "thumbs": "left"}, "thumbs"),
        ({"round_id": "r", "thumbs": "up", "quality": 1}, "quality"),
        ({"round_id": "r", "preference": 1}, "preference"),
        ({"round_id": "r", "preference": 1, "other_round_id": "r"}, "other_round_id"),
        ({"round_id": "r", "quality": 1, "stars": 3}, None),
        ({"feedback": []}, "feedback"),
        ({"feedback": [{"round_id": "r", "quality": 1}, {"round_id": "r", "quality": 2}]}, "feedback[1].quality"),
        ({"feedback": ["x"]}, "feedback[0]"),
    ],
)
def test_refuses_wrong_feedback(gateway: Gateway, body: Any, param: str | None):
    """Each fault names its field, and nothing of a batch with one is taken."""
    answer = httpx.post(f"{gateway.url}/v1/feedback", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not gateway.store.given


def test_health_follows_the_models(make_gateway: Any):
    """Alive at all times; ready as long as one chat model may be called."""
    gateway = make_gateway()
    assert httpx.get(f"{gateway.url}/health/live").json() == {"status": "ok"}
    assert httpx.get(f"{gateway.url}/health/ready").status_code == 200
    for model in gateway.live.serving.models.values():
        model.breaker.rest(60)
    ready = httpx.get(f"{gateway.url}/health/ready")
    assert (ready.status_code, ready.json()["models"]) == (503, [])
    body = {"model": "auto", "messages": MESSAGES}
    assert httpx.post(f"{gateway.url}/v1/chat/completions", json=body).status_code == 503
    assert httpx.get(f"{gateway.url}/health/live").status_code == 200


def test_counts_what_happens(gateway: Gateway):
    """Requests, tokens, spending and choices are in the metrics, in Prometheus's format."""
    for _ in range(3):
        asked(gateway)
    httpx.post(f"{gateway.url}/v1/chat/completions", content=b"{")
    answer = httpx.get(f"{gateway.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples: dict[str, float] = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)

    def total(name: str) -> float:
        return sum(value for sample, value in samples.items() if sample.startswith(f"pointsman_{name}{{"))

    assert total("requests_total") == total("choices_total") == 3
    assert total("tokens_total") == 3 * 15
    assert samples['pointsman_refusals_total{status="400"}'] == 1
    assert samples["pointsman_overhead_seconds_count"] == 3
    assert samples["pointsman_propensity_min"] == 0.5
    assert samples["pointsman_inverse_propensity_total"] == 3 / 0.5
    assert samples["pointsman_inverse_propensity_squares_total"] == 3 / 0.5**2
    assert samples["pointsman_requests_in_flight"] == 0
    assert samples['pointsman_model_available{model="good"}'] == 1


def test_errors_of_the_address_are_shaped_like_the_others(gateway: Gateway):
    """An unknown path, a wrong method."""
    for answer, status in (
        (httpx.get(f"{gateway.url}/nothing"), 404),
        (httpx.get(f"{gateway.url}/v1/chat/completions"), 405),
        (httpx.post(f"{gateway.url}/v1/models"), 405),
    ):
        assert answer.status_code == status
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_describes_itself(gateway: Gateway):
    """The OpenAPI document names each route that is served, and every reference in it leads somewhere."""
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/route",
        "/v1/feedback",
        "/v1/models",
        "/v1/models/{model}",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    for place in [part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/')[1:]]:
        value: Any = document
        for name in place.split("/"):
            value = value[name]


def test_everything_of_a_client_needs_a_key(make_gateway: Any):
    """Where there are keys, all of /v1 asks for one; health and metrics are the operator's."""
    gateway = make_gateway(keys=[{"id": "team", "sha256": key_hash("pm-k")}])
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/models/good"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/route"),
        ("POST", "/v1/feedback"),
    ):
        assert httpx.request(method, f"{gateway.url}{path}").status_code == 401
        headers = {"authorization": "Bearer pm-k"}
        assert httpx.request(method, f"{gateway.url}{path}", headers=headers).status_code in (200, 400)
    assert httpx.get(f"{gateway.url}/metrics").status_code == 200
