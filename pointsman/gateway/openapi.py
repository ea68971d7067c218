"""The API as an OpenAPI document."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from pointsman._version import __version__

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number", "minimum": 0}
TEXT: Schema = {"type": "string", "minLength": 1}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}

ROUTED_HEADERS = {
    "x-pointsman-round-id": "The round, by which feedback refers to it",
    "x-pointsman-model": "The model that served",
    "x-pointsman-propensity": "The probability with which the chosen model was drawn over the eligible ones, exactly",
    "x-pointsman-router": "What decided: the router's version, `pinned` or `default`",
    "x-pointsman-cost-usd": "What the answer cost, in USD; `nan` where that is not known: for a stream, whose usage "
    "comes last (ask for it with `include_cost`), and where the upstream states no usage",
    "x-pointsman-overhead-ms": "What the gateway added before the first byte, in milliseconds",
}


def _nullable(properties: dict[str, Schema]) -> dict[str, Schema]:
    """Return fields in which null says the same as none."""
    return {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in properties.items()}


def _given(*names: str) -> Schema:
    """Return that all of these fields are given."""
    return {"required": list(names), "properties": {name: {"not": {"type": "null"}} for name in names}}


def _at_most_one(*names: str) -> Schema:
    """Return that at most one of these fields is given."""
    return {"not": {"anyOf": [_given(*pair) for pair in itertools.combinations(names, 2)]}}


POINTSMAN: Schema = {
    "type": ["object", "null"],
    "description": "How to route; the same as headers `x-pointsman-*`, with hyphens. At most one trade-off.",
    "properties": {
        **_nullable(
            {
                "quality_per_usd": {**NUMBER, "description": "Points of quality that one USD is worth"},
                "cost_weight": {**SHARE, "description": "0 looks at quality only, 1 at cost only"},
                "willingness_to_pay": {**NUMBER, "description": "USD that one full point of quality may cost"},
                "max_cost_usd": {**NUMBER, "description": "What the answer may cost at most, in USD"},
                "models": {"type": "array", "items": TEXT, "minItems": 1, "description": "The models that may answer"},
                "session": {**TEXT, "maxLength": 256, "description": "The conversation"},
            }
        ),
        "include_cost": {
            "type": ["boolean", "null"],
            "description": 'End a stream with the comment `: pointsman {"round_id", "model", "cost_usd"}`',
        },
    },
    "additionalProperties": False,
    **_at_most_one("quality_per_usd", "cost_weight", "willingness_to_pay"),
}

CHAT: Schema = {
    "type": "object",
    "description": "As OpenAI has it; fields that are not named here pass through.",
    "required": ["model", "messages"],
    "properties": {
        "model": {
            **TEXT,
            "description": "`auto`, `auto:0.3` (a cost weight), `auto:PRESET`, or a model's name, which pins it",
            "examples": ["auto", "auto:0.3"],
        },
        "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "stream": {"type": ["boolean", "null"]},
        "pointsman": POINTSMAN,
    },
    "examples": [
        {
            "model": "auto",
            "messages": [{"role": "user", "content": "What is the capital of Switzerland?"}],
            "pointsman": {"quality_per_usd": 50},
        }
    ],
}

FEEDBACK: Schema = {
    "type": "object",
    "description": "One of `quality`, `thumbs` and `preference`, or a comment alone. Later feedback of the same round "
    "and source corrects the earlier; the same `feedback_id` counts once.",
    "required": ["round_id"],
    "properties": {
        "round_id": {**TEXT, "maxLength": 200},
        **_nullable(
            {
                "quality": SHARE,
                "thumbs": {"enum": ["up", "down"]},
                "preference": {**SHARE, "description": "How far this round is preferred to the other; 0.5 a tie"},
                "other_round_id": {**TEXT, "maxLength": 200, "description": "Another round, with `preference`"},
                "source": {**TEXT, "maxLength": 100, "description": "`gold` where not given, or a judge's name"},
                "comment": {**TEXT, "maxLength": 10_000},
                "feedback_id": {**TEXT, "maxLength": 200},
            }
        ),
    },
    "anyOf": [_given(name) for name in ("quality", "thumbs", "preference", "comment")],
    **_at_most_one("quality", "thumbs", "preference"),
    "if": {"anyOf": [_given("preference"), _given("other_round_id")]},
    "then": _given("preference", "other_round_id"),
    "additionalProperties": False,
}

DECISION: Schema = {
    "type": "object",
    "required": ["model", "propensity", "probabilities", "eligible_models", "quality_per_usd", "router_version"],
    "properties": {
        "model": TEXT,
        "propensity": {**SHARE, "description": "The probability with which it was drawn, exactly"},
        "probabilities": {"type": "object", "additionalProperties": SHARE},
        "eligible_models": {"type": "array", "items": TEXT},
        "quality_per_usd": {
            "anyOf": [NUMBER, {"const": "inf"}, {"type": "null"}],
            "description": "The trade-off decided at; null where nothing was traded off",
        },
        "router_version": TEXT,
        "policy": {"type": "string", "description": "What chose"},
        "reasons": {"type": "array", "items": {"type": "string"}, "description": "Why, in plain words"},
    },
}

TAKEN: Schema = {
    "type": "object",
    "required": ["feedback_id", "round_id", "status"],
    "properties": {
        "feedback_id": TEXT,
        "round_id": TEXT,
        "status": {"enum": ["accepted", "duplicate", "unknown"], "description": "`unknown`: no such round"},
    },
}

MODEL: Schema = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {"id": TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": TEXT},
}

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

STATUSES = {
    400: "The request is at fault",
    401: "No valid key",
    403: "The key may not use this model",
    404: "Not known",
    408: "The request came too slowly",
    413: "The request is too large",
    415: "The request is compressed",
    422: "The upstream refuses the request",
    429: "A limit or a budget is used up; `retry-after` says when to come again",
    500: "The gateway failed",
    502: "The upstream failed",
    503: "No model, or no room, for this request now",
    504: "The upstream was too slow",
}


def _answer(text: str, schema: Schema, **more: Any) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}, **more}


def _errors(*statuses: int) -> Schema:
    error = {"$ref": "#/components/schemas/Error"}
    return {str(status): _answer(STATUSES[status], error) for status in statuses}


def _post(summary: str, name: str, body: Schema, answer: Schema, *statuses: int) -> Schema:
    return {
        "post": {
            "summary": summary,
            "operationId": name,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": answer, **_errors(400, 401, 408, 413, 415, 429, 500, 503, *statuses)},
        }
    }


def _get(summary: str, name: str, answer: Schema, *statuses: int, parameters: list[Schema] | None = None) -> Schema:
    return {
        "get": {
            "summary": summary,
            "operationId": name,
            **({"parameters": parameters} if parameters else {}),
            "responses": {"200": answer, **_errors(500, *statuses)},
        }
    }


@functools.cache
def document() -> Schema:
    """Return the document."""
    anything: Schema = {"type": "object"}
    chat = _answer(
        "The upstream's answer, byte for byte",
        anything,
        headers={name: {"description": text, "schema": {"type": "string"}} for name, text in ROUTED_HEADERS.items()},
    )
    chat["content"]["text/event-stream"] = {}  # a schema would be read as that of each event
    model_id = {"name": "model", "in": "path", "required": True, "schema": TEXT}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pointsman", "version": __version__, "description": "OpenAI's API, routed and logged."},
        "paths": {
            "/v1/chat/completions": _post("Answer a chat", "chat", CHAT, chat, 403, 404, 422, 502, 504),
            "/v1/embeddings": _post(
                "Embed, by the model named",
                "embeddings",
                {"type": "object", "required": ["model"], "properties": {"model": TEXT}},
                _answer("The upstream's answer", anything),
                403,
                404,
                422,
                502,
                504,
            ),
            "/v1/route": _post(
                "Decide, call nothing, say why", "route", CHAT, _answer("The decision", DECISION), 403, 404
            ),
            "/v1/feedback": _post(
                "Say how good answers were; 200 means that it is durable",
                "feedback",
                {
                    "oneOf": [
                        FEEDBACK,
                        {
                            "type": "object",
                            "required": ["feedback"],
                            "properties": {
                                "feedback": {"type": "array", "items": FEEDBACK, "minItems": 1, "maxItems": 1000}
                            },
                            "additionalProperties": False,
                        },
                    ]
                },
                _answer(
                    "What became of it, or of each",
                    {
                        "oneOf": [
                            TAKEN,
                            {
                                "type": "object",
                                "required": ["results"],
                                "properties": {"results": {"type": "array", "items": TAKEN}},
                            },
                        ]
                    },
                ),
                404,
            ),
            "/v1/models": _get(
                "List the models",
                "models",
                _answer(
                    "The models",
                    {
                        "type": "object",
                        "required": ["object", "data"],
                        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}},
                    },
                ),
                401,
            ),
            "/v1/models/{model}": _get(
                "Show a model", "model", _answer("The model", MODEL), 401, 404, parameters=[model_id]
            ),
            "/health/live": _get("Whether the process answers", "live", _answer("It does", anything)),
            "/health/ready": _get("Whether to send requests here", "ready", _answer("Yes", anything), 503),
            "/metrics": _get(
                "Metrics for Prometheus",
                "metrics",
                {"description": "Text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
            ),
        },
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
