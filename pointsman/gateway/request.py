"""What a client asks for: its body, read once, and the `pointsman` object or `x-pointsman-*` headers beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import orjson

from pointsman.errors import InvalidParameterError
from pointsman.gateway.decide import RouteRequest, TradeOffAsked
from pointsman.gateway.errors import ApiError
from pointsman.gateway.serving import Serving

AUTO = "auto"
BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1000
"""By which the size of a request is estimated where only its bytes are known: of English text, and of a large image."""

SPELLINGS = ("quality_per_usd", "cost_weight", "willingness_to_pay")
FIELDS = frozenset({*SPELLINGS, "max_cost_usd", "models", "session", "include_cost"})
HEADER_PREFIX = b"x-pointsman-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request for a chat completion.

    Attributes:
        rest: The body as JSON, without its first brace, its model, its stream options and what is ours. What is in it
            that is not named here is never looked at.
        stream_options: As given; None where they are not.
        model: The model that is pinned; None where one is to be chosen.
        is_stream: Whether the answer is to be streamed.
        includes_usage: Whether the client asks for a chunk of usage.
        includes_cost: Whether the client asks for the cost at the end of a stream.
        route: What decides.
    """

    rest: bytes
    stream_options: Any
    model: str | None
    is_stream: bool
    includes_usage: bool
    includes_cost: bool
    route: RouteRequest

    def body(self, model: str, *, asks_usage: bool = False) -> bytes:
        """Return the body for an upstream.

        Args:
            model: What the upstream calls the model.
            asks_usage: Ask for a chunk of usage at the end of the stream.
        """
        options = self.stream_options
        if asks_usage:
            options = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        first = {"model": model} if options is None else {"model": model, "stream_options": options}
        return orjson.dumps(first)[:-1] + b"," + self.rest


def parse_object(body: bytes) -> dict[str, Any]:
    """Return a body that must be a JSON object.

    Raises:
        ApiError: It is no JSON in UTF-8, too deep, or something else than an object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body must be JSON in UTF-8, not nested too deeply: {error}") from None
    if not isinstance(document, dict):
        raise ApiError(400, f"the body must be a JSON object; got {type(document).__name__}")
    return document


def dumped(document: Any) -> bytes:
    """Return a body, or a part of one, as JSON.

    Raises:
        ApiError: It is nested more deeply than can be written, though it could be read.
    """
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        raise ApiError(400, "the body must not be nested more than 254 levels deep") from None


def parse_chat(body: bytes, headers: list[tuple[bytes, bytes]], serving: Serving) -> ChatRequest:
    """Return what is asked for.

    A trade-off of the `pointsman` object goes before one in the model's name, and that before one of the headers.

    Raises:
        ApiError: A field is missing or breaks its rule, or the model is not known.
    """
    document = parse_object(body)
    model = model_asked(document)
    del document["model"]
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a list of at least one message", param="messages")
    stream = document.get("stream")
    if not (stream is None or isinstance(stream, bool)):
        raise ApiError(400, "stream must be true or false", param="stream")
    given = document.pop("pointsman", None)
    if given is None:
        given = {}
    elif not isinstance(given, dict) or not given.keys() <= FIELDS:
        raise ApiError(400, f"pointsman must be an object of {sorted(FIELDS)}", param="pointsman")
    beside = {
        name[len(HEADER_PREFIX) :].decode("latin-1").replace("-", "_"): value.decode("latin-1")
        for name, value in headers
        if name.startswith(HEADER_PREFIX)
    }
    pinned = None if model == AUTO or model.startswith(f"{AUTO}:") else model
    if pinned is not None and pinned not in serving.chat_models:
        raise unknown_model(pinned)
    options = document.pop("stream_options", None)
    dumped(options)
    prompt, needs_vision, image_bytes, n_images = read_messages(messages)
    needs = [
        name
        for name, is_needed in (
            ("tools", bool(document.get("tools") or document.get("functions"))),
            ("vision", needs_vision),
            ("json", wants_json(document.get("response_format"))),
        )
        if is_needed
    ]
    route = RouteRequest(
        prompt=prompt,
        n_tokens_estimate=max(len(body) - image_bytes, 0) // BYTES_PER_TOKEN + TOKENS_PER_IMAGE * n_images,
        needs=frozenset(needs),
        trade_off=_spelled(given) or _named(model, serving) or _spelled(beside),
        max_cost_usd=_number(given, beside, "max_cost_usd"),
        eligible=_models(given, beside, serving),
        session_id=_session(given, beside),
        max_tokens=_limit(document),
    )
    return ChatRequest(
        rest=dumped(document)[1:],
        stream_options=options,
        model=pinned,
        is_stream=bool(stream),
        includes_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        includes_cost=_truth(given, beside, "include_cost"),
        route=route,
    )


def model_asked(document: dict[str, Any]) -> str:
    """Return the `model` of a body.

    Raises:
        ApiError: There is none.
    """
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, 'model must be a name, or "auto"', param="model")
    return model


def unknown_model(name: str) -> ApiError:
    """Return that a model does not exist, as OpenAI says it."""
    return ApiError(404, f"The model `{name[:200]}` does not exist", param="model", code="model_not_found")


def read_messages(messages: list[Any]) -> tuple[str, bool, int, int]:
    """Return the text of the last user message that has any, and whether there are images, of how many bytes, how many.

    The last user message is what routers are fitted on: earlier ones, and those of the system, are much the same in all
    requests of an application.
    """
    prompt, image_bytes, n_images, has_media = "", 0, 0, False
    for message in reversed(messages):
        if not isinstance(message, dict):
            raise ApiError(400, "messages must hold objects", param="messages")
        content = message.get("content")
        if isinstance(content, str):
            text = content
        elif isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict)]
            text = "\n".join([part["text"] for part in parts if isinstance(part.get("text"), str)])
            for part in parts:
                if part.get("type") == "image_url":
                    has_media = True
                    n_images += 1
                    image = part.get("image_url")
                    url = image.get("url") if isinstance(image, dict) else image
                    image_bytes += len(url) if isinstance(url, str) else 0
        else:
            continue
        if not prompt and message.get("role") == "user":
            prompt = text
    return prompt, has_media, image_bytes, n_images


def wants_json(response_format: Any) -> bool:
    """Return whether the answer is to be JSON."""
    return isinstance(response_format, dict) and response_format.get("type") in ("json_object", "json_schema")


def _named(model: str, serving: Serving) -> TradeOffAsked | None:
    dial = model[len(AUTO) + 1 :]
    if not model.startswith(f"{AUTO}:"):
        return None
    if dial in serving.presets:
        return serving.presets[dial]
    try:
        return _valid("cost_weight", float(dial), param="model")
    except ValueError:
        names = ", ".join([f"auto:{name}" for name in serving.presets]) or "there are none"
        raise ApiError(
            404,
            f"The model `{model[:200]}` does not exist: auto: takes a cost weight in [0, 1] or a preset ({names})",
            param="model",
            code="model_not_found",
        ) from None


def _spelled(given: dict[str, Any]) -> TradeOffAsked | None:
    names = [name for name in SPELLINGS if given.get(name) is not None]
    if len(names) > 1:
        raise ApiError(400, f"pointsman must hold one trade-off; got {', '.join(names)}", param=f"pointsman.{names[1]}")
    if not names:
        return None
    return _valid(names[0], _float(given[names[0]], names[0]), param=f"pointsman.{names[0]}")


def _valid(spelling: Any, value: float, *, param: str) -> TradeOffAsked:
    asked = TradeOffAsked(spelling, value)
    try:
        asked.at(1.0)
    except InvalidParameterError as error:
        raise ApiError(400, str(error), param=param) from None
    return asked


def _float(value: Any, name: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ApiError(400, f"{name} must be a number", param=f"pointsman.{name}") from None


def _number(given: dict[str, Any], beside: dict[str, str], name: str) -> float | None:
    value = beside.get(name) if given.get(name) is None else given[name]
    if value is None:
        return None
    number = _float(value, name)
    if not (number >= 0 and not math.isinf(number)):
        raise ApiError(400, f"{name} must be finite and >= 0", param=f"pointsman.{name}")
    return number


def _models(given: dict[str, Any], beside: dict[str, str], serving: Serving) -> tuple[str, ...] | None:
    models = given.get("models")
    if models is None and "models" in beside:
        models = [name.strip() for name in beside["models"].split(",")]
    if models is None:
        return None
    if not isinstance(models, list) or not models or not all(isinstance(name, str) for name in models):
        raise ApiError(400, "models must be a list of at least one name", param="pointsman.models")
    for name in models:
        if name not in serving.chat_models:
            raise ApiError(
                400,
                f"models must be of {', '.join(serving.chat_models)}; got `{name[:200]}`",
                param="pointsman.models",
                code="model_not_found",
            )
    return tuple(dict.fromkeys(models))


def _session(given: dict[str, Any], beside: dict[str, str]) -> str | None:
    session = given.get("session", beside.get("session"))
    if session is None:
        return None
    if not isinstance(session, str) or not 0 < len(session) <= 256:
        raise ApiError(400, "session must be a string of 1 to 256 characters", param="pointsman.session")
    return session


def _truth(given: dict[str, Any], beside: dict[str, str], name: str) -> bool:
    value = given.get(name)  # null is as good as not given, as everywhere in the API
    if value is None:
        value = {"true": True, "false": False}.get(beside.get(name, "false").lower())
    if not isinstance(value, bool):
        raise ApiError(400, f"{name} must be true or false", param=f"pointsman.{name}")
    return value


def _limit(document: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = document.get(name)
        if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
            return limit
    return None
