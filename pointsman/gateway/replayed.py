"""A table of full feedback as OpenAI-compatible upstreams: each model answers at its recorded cost.

So a gateway can be tried, tested and shown with real outcomes of real models, without a key and without a network.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pointsman.errors import InvalidLogError
from pointsman.gateway.errors import error_body
from pointsman.gateway.serving import ANSWER_TOKENS
from pointsman.gateway.settings import Settings
from pointsman.logs import FullFeedback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

FINE = 1000
"""Tokens of input that cost as much as one of output: usage then states a cost to a millionth of its model's mean."""


class ReplayedModels:
    """An ASGI application that answers a prompt of the table as each of its models, and knows how good each answer was.

    The price of a model's output is such that `ANSWER_TOKENS` tokens cost its mean, and the usage of an answer is such
    that this price gives the recorded cost, to a millionth of that mean. Of a prompt that is there several times the
    first row counts.

    Args:
        table: The outcome of every model for every prompt.

    Attributes:
        table: The same.
        down: Names of models that answer 503, for as long as they are in here.

    Raises:
        InvalidLogError: The table has no cost.
    """

    def __init__(self, table: FullFeedback) -> None:
        if table.cost_usd is None:
            raise InvalidLogError(f"{table.source}: the table must have cost_usd to be replayed; got none")
        self.table = table
        self.down: set[str] = set()
        self._cost_usd = table.cost_usd
        self._row: dict[str, int] = {}
        for row, prompt in enumerate(table.prompt):
            self._row.setdefault(prompt, row)
        self._output_usd = table.cost_usd.mean(axis=0) / ANSWER_TOKENS
        self._app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    def outcome(self, prompt: str, model: str) -> tuple[float, float]:
        """Return the recorded quality and cost_usd of a model's answer.

        Raises:
            InvalidParameterError: The table has no such model.
            KeyError: It has no such prompt.
        """
        row, column = self._row[prompt], self.table.arms.index(model)
        return float(self.table.quality[row, column]), float(self._cost_usd[row, column])

    def settings(self, url: str, **more: Any) -> Settings:
        """Return a gateway's settings with these models and their prices.

        Args:
            url: Where this application is served, without `/v1`.
            more: Further settings.
        """
        models = [
            {
                "name": name,
                "upstream": "replayed",
                "price": {"input_usd_per_mtok": 1e6 * usd / FINE, "output_usd_per_mtok": 1e6 * usd},
            }
            for name, usd in zip(self.table.arms.names, self._output_usd.tolist(), strict=True)
        ]
        upstreams = {"replayed": {"base_url": f"{url}/v1"}}
        return Settings.model_validate({"upstreams": upstreams, "models": models, **more})

    def usage(self, prompt: str, model: str) -> dict[str, int]:
        """Return the usage that states the recorded cost of an answer, as OpenAI's API has it."""
        column = self.table.arms.index(model)
        of_input = self._output_usd[column] / FINE
        tokens = round(self._cost_usd[self._row[prompt], column] / of_input) if of_input > 0 else 0
        tokens_out, tokens_in = divmod(tokens, FINE)
        return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}

    async def _models(self, _: Request) -> Response:
        cards = [{"id": name, "object": "model", "created": 0, "owned_by": "table"} for name in self.table.arms.names]
        return _json({"object": "list", "data": cards})

    async def _complete(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        model, prompt = asked["model"], _last_user_text(asked["messages"])
        if model in self.down:
            return Response(error_body(503, f"{model} is down"), 503, media_type="application/json")
        if model not in self.table.arms or prompt not in self._row:
            wrong = f"model {model!r}" if model not in self.table.arms else "such prompt"
            return Response(error_body(404, f"the table has no {wrong}"), 404, media_type="application/json")
        row = self._row[prompt]
        answer = {"id": f"chatcmpl-{self.table.query_id[row]}", "created": 0, "model": model}
        words = ["The ", "answer ", "that ", f"{model} ", "gave ", f"to {self.table.query_id[row]}."]
        usage = self.usage(prompt, model)
        if asked.get("stream"):
            with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            events = _events(answer, words, usage if with_usage else None)
            return StreamingResponse(_each(events), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return _json({**answer, "object": "chat.completion", "choices": [choice], "usage": usage})


@contextlib.contextmanager
def served(app: ASGIApp, **config: Any) -> Iterator[str]:
    """Serve an application from a thread, on a port of the machine's choice, while the block runs.

    Args:
        app: The application.
        config: Of uvicorn.

    Yields:
        Its base URL.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        quiet = {"log_level": "critical", "access_log": False, "ws": "none", "timeout_graceful_shutdown": 1}
        server = uvicorn.Server(uvicorn.Config(app, **{**quiet, **config}))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _events(answer: dict[str, Any], words: list[str], usage: dict[str, int] | None) -> Iterator[bytes]:
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words), {}]
    for place, delta in enumerate(deltas):
        finish = "stop" if place == len(deltas) - 1 else None
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        yield _event({**answer, "object": "chat.completion.chunk", "choices": [choice]})
    if usage is not None:
        yield _event({**answer, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


async def _each(events: Iterator[bytes]) -> Any:
    for event in events:
        yield event


def _event(content: Any) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    content = next((each["content"] for each in reversed(messages) if each["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")
