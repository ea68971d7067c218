"""Tests of chat completions, through the official client and byte by byte."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest

from pointsman.gateway.decide import Decided, FixedDecider, RouteRequest
from pointsman.gateway.keys import key_hash
from tests.gateway.conftest import COST_USD, Gateway
from tests.gateway.upstreams import GARBLED, TOOL_CALL, WORDS, completion, stream_events

MESSAGES = [{"role": "user", "content": "What is the capital of Switzerland?"}]
ANSWER = "".join(WORDS)


def stream_of(gateway: Gateway, model: str, **more: Any) -> Any:
    """Ask for a stream; the raw answer."""
    create = gateway.client().chat.completions.with_raw_response.create
    return create(model=model, messages=MESSAGES, stream=True, **more)


def test_answers_byte_for_byte_with_the_round_in_its_headers(gateway: Gateway):
    """An answer is the upstream's to the byte, and its headers say which round, model, propensity and cost."""
    raw = gateway.client().chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)

    round_ = gateway.round()
    assert raw.content == completion(round_.model)
    assert raw.headers["x-pointsman-round-id"] == round_.round_id
    assert raw.headers["x-pointsman-model"] == round_.model
    assert float(raw.headers["x-pointsman-propensity"]) == round_.propensity == 0.5
    assert raw.headers["x-pointsman-router"] == round_.router_version == "fixed"
    assert float(raw.headers["x-pointsman-cost-usd"]) == round_.cost_usd == pytest.approx(COST_USD, rel=1e-12)
    assert 0 < float(raw.headers["x-pointsman-overhead-ms"]) < 1000
    assert round_.outcome == "ok"
    assert (round_.tokens_in, round_.tokens_out) == (10, 5)
    assert not round_.fallback
    assert round_.prompt == MESSAGES[0]["content"]
    assert raw.headers["x-request-id"] == "up-1"
    assert raw.headers["x-ratelimit-remaining-tokens"] == "9"
    assert "set-cookie" not in raw.headers


@pytest.mark.parametrize("model", ["good", "bytewise", "windows", "no-last-line"])
def test_streams_byte_for_byte(gateway: Gateway, model: str):
    """A stream is the upstream's to the byte, however it is cut up, but for the chunk of usage only we asked for."""
    raw = stream_of(gateway, model)

    expected = b"".join(stream_events(with_usage=False))
    if model == "windows":
        expected = expected.replace(b"\n", b"\r\n")
    elif model == "no-last-line":
        expected = expected[:-2]
    assert raw.http_response.read() == expected
    assert gateway.round().cost_usd == pytest.approx(COST_USD, rel=1e-12)
    assert 0 < gateway.round().ttft_s <= gateway.round().latency_s
    assert math.isnan(float(raw.headers["x-pointsman-cost-usd"]))


def test_passes_on_the_usage_that_the_client_asked_for(gateway: Gateway):
    """With `include_usage` the stream keeps its chunk of usage, and other stream options reach the upstream."""
    options = {"include_usage": True, "include_obfuscation": False}
    raw = stream_of(gateway, "good", stream_options=options)

    assert raw.http_response.read() == b"".join(stream_events(with_usage=True))
    assert gateway.upstream.asked("good")[0]["stream_options"] == options
    assert gateway.round().cost_usd == pytest.approx(COST_USD, rel=1e-12)


def test_says_the_cost_of_a_stream_in_a_comment_for_who_asks(gateway: Gateway):
    """With `include_cost` a comment before `[DONE]` holds the cost, and clients read past it."""
    raw = stream_of(gateway, "good", extra_body={"pointsman": {"include_cost": True}})
    text = raw.http_response.read()

    comment = next(line for line in text.splitlines() if line.startswith(b": pointsman "))
    told = json.loads(comment.removeprefix(b": pointsman "))
    assert told == {
        "round_id": raw.headers["x-pointsman-round-id"],
        "model": "good",
        "cost_usd": pytest.approx(COST_USD),
    }
    assert text.replace(comment + b"\n\n", b"") == b"".join(stream_events(with_usage=False))
    stream = gateway.client().chat.completions.create(
        model="good", messages=MESSAGES, stream=True, extra_headers={"x-pointsman-include-cost": "true"}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER


def test_passes_requests_through_but_for_the_model_and_our_own_object(gateway: Gateway):
    """Tools, images, log probabilities and fields no one knows reach the upstream as they are; our object does not."""
    body = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                ],
            }
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        "logprobs": True,
        "top_logprobs": 3,
        "seed": 2**63,
        "temperature": 0.1,
        "x_unknown": {"ü": [None, 1.5, ""]},
    }
    sent = {**body, "model": "good", "pointsman": {"quality_per_usd": 3}}
    headers = {
        "authorization": "Bearer sk-client-secret",
        "traceparent": "00-1-2-01",
        "x-request-id": "mine",
        "cookie": "a=b",
        "openai-organization": "org-client",
    }
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=sent, headers=headers)

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["tool_calls"] == [TOOL_CALL]
    assert gateway.upstream.asked("good") == [{**body, "model": "good"}]
    seen = gateway.upstream.headers
    assert seen["authorization"] == "Bearer sk-upstream-secret"
    assert (seen["traceparent"], seen["x-request-id"]) == ("00-1-2-01", "mine")
    assert "cookie" not in seen
    assert "openai-organization" not in seen
    assert gateway.round().prompt == "What is this?"


def test_serves_the_asynchronous_client_and_tools(gateway: Gateway):
    """The asynchronous client gets answers, streams and tool calls."""

    async def ask() -> tuple[Any, str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0) as client:
            tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
            answer = await client.chat.completions.create(model="auto", messages=MESSAGES, tools=tools)  # type: ignore[arg-type]
            stream = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
            words = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return answer, "".join(words)

    answer, words = asyncio.run(ask())
    assert answer.choices[0].message.tool_calls[0].function.arguments == TOOL_CALL["function"]["arguments"]
    assert words == ANSWER


@pytest.mark.parametrize(
    ("model", "extra_body", "headers", "quality_per_usd"),
    [
        ("auto", {}, {}, 0.0),
        ("auto:0.5", {}, {}, 1 / 1e-3),
        ("auto:cheap", {}, {}, 9 / 1e-3),
        ("auto:0.5", {"quality_per_usd": 7}, {}, 7.0),
        ("auto", {"willingness_to_pay": 0.1}, {}, 10.0),
        ("auto", {"cost_weight": 1}, {}, math.inf),
        ("auto", {}, {"x-pointsman-quality-per-usd": "5"}, 5.0),
        ("auto:0.5", {}, {"x-pointsman-quality-per-usd": "5"}, 1 / 1e-3),
    ],
)
def test_takes_the_trade_off_however_it_is_spelled(
    gateway: Gateway, model: str, extra_body: dict[str, Any], headers: dict[str, str], quality_per_usd: float
):
    """The object in the body goes before the model's name, and that before headers."""
    gateway.client().chat.completions.create(
        model=model,
        messages=MESSAGES,  # type: ignore[arg-type]
        extra_body={"pointsman": extra_body},
        extra_headers=headers,
    )
    assert gateway.round().quality_per_usd == pytest.approx(quality_per_usd, rel=1e-9)


def test_logs_exact_propensities_over_the_models_that_were_eligible(make_gateway: Any):
    """Frequencies agree with the logged propensities in each eligible set: within four standard errors of each."""
    gateway = make_gateway({"good": 3.0, "other": 1.0, "small": 4.0, "blind": 2.0})
    long = [{"role": "user", "content": "word " * 100}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    asks: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"messages": MESSAGES}, ("good", "other", "small", "blind")),
        ({"messages": long}, ("good", "other", "blind")),
        ({"messages": MESSAGES, "tools": tools}, ("good", "other", "small")),
        ({"messages": MESSAGES, "pointsman": {"models": ["small", "other"]}}, ("other", "small")),
    ]
    n = 250
    with httpx.Client() as client:
        for i in range(n * len(asks)):
            body = {"model": "auto", **asks[i % len(asks)][0]}
            assert client.post(f"{gateway.url}/v1/chat/completions", json=body).status_code == 200
    gateway.round(n * len(asks))

    weights = {"good": 3.0, "other": 1.0, "small": 4.0, "blind": 2.0}
    for _, eligible in asks:
        rounds = [each for each in gateway.store.rounds if each.eligible == eligible]
        assert len(rounds) == n
        total = sum(weights[name] for name in eligible)
        for name in eligible:
            probability = weights[name] / total
            assert all(each.probabilities[name] == pytest.approx(probability) for each in rounds)  # type: ignore[index]
            share = np.mean([each.model == name for each in rounds])
            assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / n)
        assert all(each.propensity == each.probabilities[each.model] for each in rounds)  # type: ignore[index]


def test_sends_a_model_that_is_named_where_it_is_named(gateway: Gateway):
    """A named model answers without a draw, is logged as pinned, and has no fallback."""
    gateway.client().chat.completions.create(model="small", messages=MESSAGES)  # type: ignore[arg-type]

    round_ = gateway.round()
    assert (round_.policy, round_.model, round_.propensity, round_.eligible) == ("pinned", "small", 1.0, ("small",))
    assert gateway.upstream.requests[-1]["model"] == "good"
    with pytest.raises(openai.InternalServerError):
        gateway.client().chat.completions.create(
            model="broken",
            messages=MESSAGES,  # type: ignore[arg-type]
            extra_body={"pointsman": {"models": ["broken", "other"]}},
        )
    assert not gateway.upstream.asked("other")


STREAM_FAULTS = [
    "refuse",
    "hang",
    "broken",
    "unauthorized",
    "limited",
    "malformed-stream",
    "malformed",
    "hang-before-content",
    "error-before-content",
    "cut-before-content",
]


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_a_stream_that_fails_before_its_first_content_falls_back(make_gateway: Any, fault: str):
    """The client sees a whole stream of the fallback and nothing of the failure; the log says who was chosen."""
    gateway = make_gateway({fault: 1.0})
    raw = stream_of(gateway, "auto")

    assert raw.http_response.read() == b"".join(stream_events(with_usage=False))
    round_ = gateway.round()
    assert (round_.model, round_.served_model, round_.fallback, round_.outcome) == (fault, "other", True, "ok")
    assert raw.headers["x-pointsman-model"] == "other"


@pytest.mark.parametrize("fault", ["refuse", "broken", "unauthorized", "limited", "malformed", "cut"])
def test_an_answer_that_fails_falls_back(make_gateway: Any, fault: str):
    """The client gets the fallback's answer, whole."""
    gateway = make_gateway({fault: 1.0})
    raw = gateway.client().chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)

    assert raw.content == completion("other")
    assert (gateway.round().model, gateway.round().served_model, gateway.round().fallback) == (fault, "other", True)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("refuse", 502, "upstream_connect"),
        ("broken", 502, "upstream_status"),
        ("unauthorized", 502, "upstream_status"),
        ("limited", 429, "upstream_status"),
        ("malformed", 502, "upstream_malformed"),
        ("cut", 502, "upstream_cut"),
        ("hang-before-content", 504, "upstream_first_token"),
    ],
)
def test_says_what_failed_where_nothing_is_left_to_fall_back_on(make_gateway: Any, fault: str, status: int, code: str):
    """The status is true, the error OpenAI-shaped and without the upstream's words, and the round logged as such."""
    gateway = make_gateway({fault: 1.0}, fallback=[])
    is_stream = fault.startswith("hang")
    body = {"model": "auto", "messages": MESSAGES, "stream": is_stream}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body)

    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert "secret" not in answer.text
    assert answer.headers.get("retry-after") == ("30" if fault == "limited" else None)
    round_ = gateway.round()
    assert (round_.outcome, round_.status, round_.served_model) == ("error", status, fault)
    assert math.isnan(round_.cost_usd)
    assert answer.headers["x-pointsman-round-id"] == round_.round_id


@pytest.mark.parametrize("fault", ["cut", "hang-midway", "ends-early"])
def test_a_stream_that_fails_midway_ends_with_one_error(gateway: Gateway, fault: str):
    """What came whole is passed on, then one error event and no `[DONE]`; half an event never is."""
    text = stream_of(gateway, fault).http_response.read()

    expected = b"".join(stream_events(with_usage=False)[: 3 if fault == "cut" else 4])
    assert text.startswith(expected)
    rest = text.removeprefix(expected)
    assert rest.count(b"data: ") == 1
    assert rest.endswith(b"\n\n")
    assert json.loads(rest.removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert gateway.round().outcome == "truncated"
    assert math.isnan(gateway.round().cost_usd)
    with pytest.raises(openai.APIError):
        list(gateway.client().chat.completions.create(model=fault, messages=MESSAGES, stream=True))  # type: ignore[call-overload]


def test_passes_on_an_error_that_the_upstream_sends_midway(gateway: Gateway):
    """The upstream's own error event is the only one, and the round is truncated."""
    text = stream_of(gateway, "error-midway").http_response.read()

    assert text == b"".join(stream_events(with_usage=False)[:4]) + b'data: {"error": {"message": "overloaded"}}\n\n'
    assert gateway.round().outcome == "truncated"


@pytest.mark.parametrize("fault", list(GARBLED))
def test_passes_on_what_is_no_chunk_and_believes_no_such_stream(gateway: Gateway, fault: str):
    """Amidst a stream, data that is no JSON object reaches the client; the round is truncated, the model has failed."""
    events = stream_events(with_usage=False)
    expected = b"".join([*events[:4], GARBLED[fault], *events[4:]])
    for n in range(1, 6):
        assert stream_of(gateway, fault).http_response.read() == expected
        assert gateway.round(n).outcome == "truncated"
    assert gateway.round(5).cost_usd == pytest.approx(COST_USD)
    told = gateway.live.metrics.exposition().decode()
    assert f'pointsman_upstream_failures_total{{model="{fault}",phase="malformed"}} 5.0' in told
    assert gateway.live.serving.models[fault].breaker.is_failing


def test_a_stream_without_done_is_whole_if_it_has_a_finish_reason(gateway: Gateway):
    """Some servers leave `[DONE]` out; nothing is added."""
    assert stream_of(gateway, "no-done").http_response.read() == b"".join(stream_events(with_usage=False)[:-1])
    assert gateway.round().outcome == "ok"


def test_an_answer_instead_of_a_stream_is_passed_on(gateway: Gateway):
    """An upstream that cannot stream still answers."""
    assert stream_of(gateway, "no-events").http_response.read() == completion("no-events")
    assert gateway.round().cost_usd == pytest.approx(COST_USD)


def test_remembers_who_refuses_stream_options(gateway: Gateway):
    """The request goes again without what the client never asked for, and the next one does so at once."""
    for _ in range(2):
        assert stream_of(gateway, "no-options").http_response.read() == b"".join(stream_events(with_usage=False))
    gateway.round(2)
    assert ["stream_options" in body for body in gateway.upstream.asked("no-options")] == [True, False, False]
    assert all(math.isnan(each.cost_usd) for each in gateway.store.rounds)


def test_an_unknown_usage_is_an_unknown_cost(gateway: Gateway):
    """Neither the header nor the log says 0."""
    raw = gateway.client().chat.completions.with_raw_response.create(model="no-usage", messages=MESSAGES)

    assert raw.headers["x-pointsman-cost-usd"] == "nan"
    assert math.isnan(gateway.round().cost_usd)
    assert gateway.round().tokens_in is None


def test_passes_on_that_the_request_is_at_fault(gateway: Gateway):
    """An upstream's 400 is the client's to see, byte for byte, and no reason to try another model."""
    body = {"model": "strict", "messages": MESSAGES}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body)

    assert (answer.status_code, answer.content) == (400, b'{"error":  {"message": "bad temperature", "type": "x"}}')
    assert (gateway.round().outcome, gateway.round().status) == ("error", 400)


def test_waits_as_long_as_a_limit_asks_for_if_that_is_short(gateway: Gateway):
    """A 429 that asks for 0.05 s is tried again after that; nothing of it is seen."""
    begun = time.monotonic()
    gateway.client().chat.completions.create(model="limited-once", messages=MESSAGES)  # type: ignore[arg-type]
    assert time.monotonic() - begun > 0.05
    assert len(gateway.upstream.asked("limited-once")) == 2
    assert gateway.round().outcome == "ok"


def test_a_client_that_leaves_cancels_the_call(gateway: Gateway):
    """The upstream sees the client go, and the round is cancelled, whether a stream runs or an answer is awaited."""
    with gateway.client().chat.completions.create(model="endless", messages=MESSAGES, stream=True) as stream:  # type: ignore[call-overload]
        next(iter(stream))
    assert gateway.round(1).outcome == "cancelled"
    with pytest.raises(openai.APITimeoutError):
        gateway.client(timeout=0.2).chat.completions.create(model="hang", messages=MESSAGES)  # type: ignore[arg-type]
    assert gateway.round(2).outcome == "cancelled"
    until = time.monotonic() + 2
    while gateway.upstream.n_cancelled < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert gateway.live.metrics.in_flight == 0


def test_a_model_that_keeps_failing_is_no_longer_eligible(make_gateway: Any):
    """After so many failures in a row the model is neither drawn nor called, and propensities are over the others."""
    gateway = make_gateway({"broken": 9.0, "good": 1.0}, fallback=["good"])
    for _ in range(60):
        gateway.client().chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]

    assert len(gateway.upstream.asked("broken")) == 5
    last = gateway.round(60)
    assert (last.model, last.propensity, last.eligible, last.fallback) == ("good", 1.0, ("good",), False)
    with pytest.raises(openai.InternalServerError, match="keeps failing"):
        gateway.client().chat.completions.create(model="broken", messages=MESSAGES)  # type: ignore[arg-type]


class Broken:
    """A decider that fails, or is late."""

    def __init__(self, late_s: float | None = None) -> None:
        self.n_calls = 0
        self.late_s = late_s

    def decide(self, request: RouteRequest) -> Decided:
        """Fail."""
        self.n_calls += 1
        if self.late_s is None:
            raise RuntimeError(f"cannot decide {request.prompt}")
        time.sleep(self.late_s)
        return FixedDecider({"other": 1.0}).decide(request)

    def observe(self, request: RouteRequest, *, model: str, cost_usd: float, n_tokens: int = 0) -> None:
        """Fail to learn, too."""
        raise RuntimeError(f"cannot learn {request.prompt}, {model}, {cost_usd}, {n_tokens}")


def test_a_router_that_fails_gives_way_to_the_default_model(make_gateway: Any):
    """Requests are answered and logged as the default's; a router that keeps failing is left alone for a while."""
    decider = Broken()
    gateway = make_gateway(decider=decider, router={"default_model": "small"})
    for _ in range(8):
        gateway.client().chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]

    last = gateway.round(8)
    assert (last.policy, last.model, last.propensity, last.eligible) == ("default", "small", 1.0, ("small",))
    assert decider.n_calls == 5
    assert b'pointsman_router_failures_total{reason="error"} 5.0' in gateway.live.metrics.exposition()


def test_a_router_that_is_late_is_used_and_then_rested(make_gateway: Any):
    """Late decisions count as failures, though the draw they made is the one logged."""
    decider = Broken(late_s=0.01)
    gateway = make_gateway(decider=decider, router={"deadline_ms": 5})
    for _ in range(6):
        gateway.client().chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]

    gateway.round(6)
    assert [each.policy for each in gateway.store.rounds] == ["router"] * 5 + ["default"]


@pytest.mark.parametrize("how", ["fails", "full"])
def test_a_store_that_takes_nothing_fails_no_request(gateway: Gateway, how: str):
    """Requests are answered, and the loss is counted."""
    gateway.store.fails, gateway.store.takes = how == "fails", False
    gateway.client().chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]
    stream_of(gateway, "auto").http_response.read()
    assert b"pointsman_rounds_not_logged_total 2.0" in gateway.live.metrics.exposition()


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b"[1]", 400, None),
        (b'{"model": "\xff"}', 400, None),
        (b"[" * 3000 + b"]" * 3000, 400, None),
        (b'{"model": "auto", "messages": [{}], "x": ' + b"[" * 300 + b"]" * 300 + b"}", 400, None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', 400, "model"),
        (b'{"model": "auto"}', 400, "messages"),
        (b'{"model": "auto", "messages": []}', 400, "messages"),
        (b'{"model": "auto", "messages": ["x"]}', 400, "messages"),
        (b'{"model": "auto", "messages": [{"role": "user"}], "stream": "yes"}', 400, "stream"),
        (b'{"model": "nothing", "messages": [{"role": "user"}]}', 404, "model"),
        (b'{"model": "auto:nothing\\r\\nx: y", "messages": [{"role": "user"}]}', 404, "model"),
        (b'{"model": "auto:1.5", "messages": [{"role": "user"}]}', 400, "model"),
        (b'{"model": "vectors", "messages": [{"role": "user"}]}', 404, "model"),
        (b'{"model": "auto", "messages": [{}], "pointsman": 1}', 400, "pointsman"),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"x": 1}}', 400, "pointsman"),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"models": ["x"]}}', 400, "pointsman.models"),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"models": []}}', 400, "pointsman.models"),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"cost_weight": 2}}', 400, "pointsman.cost_weight"),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"cost_weight": true}}', 400, "pointsman.cost_weight"),
        (
            b'{"model": "auto", "messages": [{}], "pointsman": {"cost_weight": 0.1, "quality_per_usd": 1}}',
            400,
            "pointsman.cost_weight",
        ),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"max_cost_usd": -1}}', 400, "pointsman.max_cost_usd"),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"max_cost_usd": 1e-9}}', 400, None),
        (b'{"model": "auto", "messages": [{}], "pointsman": {"session": ""}}', 400, "pointsman.session"),
    ],
)
def test_refuses_what_is_wrong_with_the_right_status(gateway: Gateway, body: bytes, status: int, param: str | None):
    """Each fault is OpenAI-shaped, names the field, and reaches neither an upstream nor the log."""
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", content=body)

    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["param"] == param
    assert not gateway.upstream.requests
    assert not gateway.store.rounds


def raw_exchange(gateway: Gateway, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Write to the gateway's socket; all that comes back until it closes."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
        except OSError:  # Closed while we were writing.
            pass
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except OSError:
            pass
    return answer


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"


def test_bounds_what_one_client_can_take(make_gateway: Any):
    """Bodies too large or too slow, headers too large or never ending: each ends with its status or is closed."""
    gateway = make_gateway(limits={"max_body_bytes": 2048, "read_timeout_s": 0.4})
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", content=b"x" * 2049)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    chunked = raw_exchange(
        gateway, HEAD + b"transfer-encoding: chunked\r\n\r\n", b"800\r\n" + b"x" * 2048 + b"\r\n1\r\nx\r\n"
    )
    assert chunked.startswith(b"HTTP/1.1 413 ")
    assert raw_exchange(gateway, HEAD + b"content-length: 10\r\n\r\n", b"{").startswith(b"HTTP/1.1 408 ")
    assert raw_exchange(gateway, HEAD + b"x-long: " + b"x" * 200_000).startswith(b"HTTP/1.1 431 ")
    begun = time.monotonic()
    assert raw_exchange(gateway, HEAD[:30]) == b""
    assert 0.39 < time.monotonic() - begun < 3  # a timer counts from when its loop last looked at the clock
    assert raw_exchange(gateway, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw_exchange(gateway, HEAD + b"content-encoding: gzip\r\ncontent-length: 0\r\n\r\n").startswith(
        b"HTTP/1.1 415 "
    )
    assert gateway.live.bodies.held_bytes == 0
    assert gateway.live.metrics.in_flight == 0
    assert gateway.client().chat.completions.create(model="auto", messages=MESSAGES).choices  # type: ignore[arg-type]


def test_admits_only_so_many_requests_at_once(make_gateway: Any):
    """One more is refused with 503 and told to come again."""
    gateway = make_gateway({"slow": 1.0}, limits={"max_concurrent_requests": 1})
    with gateway.client().chat.completions.create(model="auto", messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


KEY = "pm-test-key-of-a-client"


def test_admits_by_key(make_gateway: Any):
    """Without its key a client gets 401; with it the models it may use, until the budget is spent."""
    key = {
        "id": "team",
        "sha256": key_hash(KEY),
        "models": ["good", "small"],
        "budget": {"usd": 0.005, "period": "total"},
    }
    gateway = make_gateway({"good": 1.0, "other": 1.0}, keys=[key])
    with pytest.raises(openai.AuthenticationError):
        gateway.client().chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]
    client = gateway.client(api_key=KEY)
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="other", messages=MESSAGES)  # type: ignore[arg-type]
    for n in range(20):
        client.chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]
        assert (gateway.round(n + 1).eligible, gateway.round(n + 1).key_id) == (("good",), "team")
    spent = next(iter(gateway.live.keys)).spent_usd
    assert spent == pytest.approx(20 * COST_USD)
    with pytest.raises(openai.RateLimitError, match="budget"):
        client.chat.completions.create(model="auto", messages=MESSAGES, max_tokens=5000)  # type: ignore[arg-type]
    assert next(iter(gateway.live.keys)).reserved_usd == 0
    assert {model.id for model in client.models.list()} == {"auto", "auto:cheap", "good", "small"}


@pytest.mark.parametrize("prompts", ["text", "hash", "none"])
def test_keeps_of_prompts_what_the_settings_say(make_gateway: Any, prompts: str):
    """The text, its hash, or nothing."""
    gateway = make_gateway(store={"prompts": prompts})
    gateway.client().chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]
    round_ = gateway.round()
    assert (round_.prompt is not None, round_.prompt_hash is not None) == (prompts == "text", prompts != "none")


def test_shows_no_secret(gateway: Gateway, caplog: pytest.LogCaptureFixture):
    """Neither the client's key nor the upstream's is in an answer, an error, a log line, a round or a metric."""
    seen = []
    for model in ("auto", "broken", "unauthorized", "refuse", "cut", "nothing"):
        body = {"model": model, "messages": MESSAGES}
        headers = {"authorization": "Bearer sk-client-secret"}
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
        seen += [answer.text, str(answer.headers)]
    seen += [caplog.text, repr(gateway.store.rounds), gateway.live.metrics.exposition().decode()]
    seen += [repr(gateway.live.serving)]
    assert not any("secret" in text for text in seen)
    assert any("secret" in value for value in gateway.upstream.headers.values())
