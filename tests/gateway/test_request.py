"""Tests of what is read of a request, and of what becomes of its body."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pointsman.gateway.errors import ApiError, error_body
from pointsman.gateway.request import BYTES_PER_TOKEN, TOKENS_PER_IMAGE, ChatRequest, parse_chat, read_messages
from pointsman.gateway.serving import Serving
from tests.gateway.conftest import gateway_settings

SERVING = Serving.of(gateway_settings("http://127.0.0.1:1"))


def parsed(document: dict[str, Any], *headers: tuple[bytes, bytes]) -> ChatRequest:
    """Parse a document that asks for `auto` where it does not say."""
    return parse_chat(orjson.dumps({"model": "auto", **document}), list(headers), SERVING)


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}], "hi"),
        (
            [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "last"},
            ],
            "last",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ([{"role": "user", "content": "ask"}, {"role": "tool", "content": "42", "tool_call_id": "1"}], "ask"),
        (
            [
                {"role": "user", "content": "ask"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            ],
            "ask",
        ),
        ([{"role": "system", "content": "be kind"}], ""),
        ([{"role": "user", "content": None}], ""),
        ([{"role": "user", "content": [{"type": "text", "text": 3}, "odd"]}], ""),
    ],
)
def test_the_prompt_is_the_last_user_message_with_text(messages: list[Any], prompt: str):
    """Whatever else there is, and whatever is odd about it."""
    assert read_messages(messages)[0] == prompt


def test_sizes_are_estimated_from_bytes_but_for_images():
    """A megabyte of image is a thousand tokens, not a quarter of a million."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    text = {"type": "text", "text": "word " * 400}
    with_image = parsed({"messages": [{"role": "user", "content": [text, image]}]}).route
    without = parsed({"messages": [{"role": "user", "content": [text]}]}).route
    assert without.n_tokens_estimate == pytest.approx(2000 / BYTES_PER_TOKEN, rel=0.1)
    assert with_image.n_tokens_estimate - without.n_tokens_estimate == pytest.approx(TOKENS_PER_IMAGE, abs=50)
    assert (with_image.needs, without.needs) == ({"vision"}, frozenset())


def test_reads_what_the_model_must_support():
    """Tools, a JSON answer; what is empty needs nothing."""
    messages = [{"role": "user", "content": "x"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert parsed({"messages": messages, "tools": tools}).route.needs == {"tools"}
    assert parsed({"messages": messages, "tools": []}).route.needs == frozenset()
    for kind in ("json_object", "json_schema"):
        assert parsed({"messages": messages, "response_format": {"type": kind}}).route.needs == {"json"}
    assert parsed({"messages": messages, "response_format": {"type": "text"}}).route.needs == frozenset()


def test_the_body_object_goes_before_headers():
    """Each option on its own."""
    document = {"messages": [{"role": "user", "content": "x"}], "pointsman": {"session": "body"}}
    route = parsed(
        document,
        (b"x-pointsman-session", b"header"),
        (b"x-pointsman-models", b"good, other"),
        (b"x-pointsman-max-cost-usd", b"0.5"),
    ).route
    assert (route.session_id, route.eligible, route.max_cost_usd) == ("body", ("good", "other"), 0.5)


def test_null_in_the_body_is_not_given():
    """The header stands then, and without one the default."""
    messages = [{"role": "user", "content": "x"}]
    nulls = dict.fromkeys(["session", "models", "max_cost_usd", "include_cost", "quality_per_usd"])
    asked = parsed({"messages": messages, "pointsman": nulls}, (b"x-pointsman-include-cost", b"true"))
    assert asked.includes_cost
    route = asked.route
    assert (route.session_id, route.eligible, route.max_cost_usd, route.trade_off) == (None, None, None, None)
    assert (
        parsed({"messages": messages, "pointsman": nulls}, (b"x-pointsman-max-cost-usd", b"0.5")).route.max_cost_usd
        == 0.5
    )


@pytest.mark.parametrize("options", [None, {"include_usage": False, "x": 1}, {}])
@pytest.mark.parametrize("asks_usage", [True, False])
def test_the_body_is_the_client_s_but_for_the_model(options: Any, asks_usage: bool):
    """Nothing is lost, nothing is there twice, and the usage is asked for only where it is wanted."""
    document = {"messages": [{"role": "user", "content": "ü"}], "temperature": 1.0, "x": [1e-7, 2**63, "\u2028"]}
    given = document if options is None else {**document, "stream_options": options}
    body = parsed({**given, "pointsman": {"session": "s"}}).body("theirs", asks_usage=asks_usage)
    expected: dict[str, Any] = {"model": "theirs", **given}
    if asks_usage:
        expected["stream_options"] = {**(options or {}), "include_usage": True}
    assert orjson.loads(body) == expected
    assert body.count(b'"model"') == 1


def test_errors_hold_any_text():
    """Even what has no UTF-8."""
    assert orjson.loads(error_body(400, "half \ud800"))["error"]["message"] == "half ?"
    error = ApiError(404, 'say "no"\n', param="model", code="c")
    assert orjson.loads(error.body())["error"] == {
        "message": 'say "no"\n',
        "type": "invalid_request_error",
        "param": "model",
        "code": "c",
    }
    assert error.event() == b"data: " + error.body() + b"\n\n"
