"""An OpenAI-compatible server that answers as its model is called: well, or with one of the faults of real ones."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": {"cached_tokens": 4}}
WORDS = ["Hel", "lo", " wörld", " 🙂"]


def completion(model: str, **message: Any) -> bytes:
    """An answer whose bytes no serialiser of ours would write."""
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(WORDS), **message},
                "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
                "logprobs": None,
            }
        ],
        "usage": USAGE,
        "unknown_field": [1.50, {"nested": None}],
    }
    return json.dumps(answer, indent=3).encode()


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps({**event, **more}).encode() + b"\n\n"


def stream_events(*, with_usage: bool) -> list[bytes]:
    """The events of a whole stream."""
    events = [b": hello\n\n", chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": word}) for word in WORDS]
    events.append(chunk({}, "stop"))
    if with_usage:
        events.append(chunk(None, usage=USAGE))
    return [*events, b"data: [DONE]\n\n"]


TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


GARBLED = {
    "garbled": b'data: {"choices": [{"index"\n\n',
    "garbled-list": b"data: [1]\n\n",
    "garbled-windows": b"event: message\r\ndata: <html>\r\n\r\n",
}
"""What stands amidst an otherwise whole stream, by the model that does so."""


class Upstream:
    """The server: a raw ASGI application, so that each byte and each fault is its own.

    Attributes:
        requests: Bodies received, by the model they asked for.
        headers: Headers of the last request.
        n_cancelled: Requests whose client went away before the answer's end.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.n_cancelled = 0
        self.limited_for = 0

    def asked(self, model: str) -> list[dict[str, Any]]:
        """The requests for a model."""
        return [body for body in self.requests if body["model"] == model]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = json.loads(body)
        self.requests.append(asked)
        if scope["path"].endswith("/embeddings"):
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            vectors = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}]}
            await self._whole(send, 200, json.dumps({**vectors, "model": asked["model"], "usage": usage}).encode())
            return
        working = asyncio.ensure_future(self._behave(asked, send))
        gone = asyncio.ensure_future(receive())
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            self.n_cancelled += 1
            working.cancel()
            return
        gone.cancel()
        working.result()

    async def _behave(self, asked: dict[str, Any], send: Any) -> None:
        model = asked["model"]
        is_stream, options = asked.get("stream"), asked.get("stream_options") or {}
        if model == "hang":
            await asyncio.sleep(60)
        if model == "broken":
            return await self._whole(send, 500, b'{"error": {"message": "sk-upstream-secret is overloaded"}}')
        if model == "unauthorized":
            return await self._whole(send, 401, b'{"error": {"message": "Incorrect API key: sk-upstream-secret"}}')
        if model == "limited":
            return await self._whole(send, 429, b'{"error": {"message": "slow down"}}', (b"retry-after", b"30"))
        if model == "limited-once":
            self.limited_for += 1
            if self.limited_for % 2 == 1:
                return await self._whole(send, 429, b'{"error": {"message": "slow down"}}', (b"retry-after", b"0.05"))
        if model == "strict":
            return await self._whole(send, 400, b'{"error":  {"message": "bad temperature", "type": "x"}}')
        if model == "malformed":
            return await self._whole(send, 200, b"<html>not json</html>")
        if model == "no-options" and "stream_options" in asked:
            return await self._whole(send, 400, b'{"error": {"message": "unknown field stream_options"}}')
        if not is_stream:
            if model == "cut":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"900")]})
                await send({"type": "http.response.body", "body": b'{"choices": [', "more_body": True})
                raise ConnectionAbortedError
            more = {"tool_calls": [TOOL_CALL], "content": None} if asked.get("tools") else {}
            body = completion(model, **more)
            if model == "no-usage":
                body = body.replace(b'"usage"', b'"wasted"')
            return await self._whole(send, 200, body)
        if model == "no-events":
            return await self._whole(send, 200, completion(model))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})

        async def write(*events: bytes, pause_s: float = 0.0) -> None:
            for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                await asyncio.sleep(pause_s)

        events = stream_events(with_usage=bool(options.get("include_usage")) and model != "no-usage")
        if model == "hang-before-content":
            await write(*events[:2])
            await asyncio.sleep(60)
        elif model == "error-before-content":
            await write(*events[:2], b'data: {"error": {"message": "overloaded"}}\n\n')
        elif model == "error-midway":
            await write(*events[:4], b'data: {"error": {"message": "overloaded"}}\n\n')
        elif model == "cut-before-content":
            await write(*events[:2], pause_s=0.05)
            raise ConnectionAbortedError
        elif model == "cut":
            await write(*events[:3], events[3][:-20], pause_s=0.05)
            raise ConnectionAbortedError
        elif model == "hang-midway":
            await write(*events[:4])
            await asyncio.sleep(60)
        elif model == "malformed-stream":
            await write(b"data: {nothing\n\n")
        elif model in GARBLED:
            await write(*events[:4], GARBLED[model], *events[4:])
        elif model == "no-done":
            await write(*events[:-1])
        elif model == "ends-early":
            await write(*events[:4])
        elif model == "no-last-line":
            await write(b"".join(events)[:-2])
        elif model == "bytewise":
            await write(*[bytes([byte]) for byte in b"".join(events)])
        elif model == "windows":
            await write(b"".join(events).replace(b"\n", b"\r\n"))
        elif model == "endless":
            await write(*events[:2])
            for i in range(10_000):
                await write(chunk({"content": str(i)}), pause_s=0.01)
        elif model == "slow":
            await write(*events, pause_s=0.05)
        else:
            await write(*events)
        await send({"type": "http.response.body", "body": b""})
        return None

    async def _whole(self, send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        seen = [(b"x-request-id", b"up-1"), (b"set-cookie", b"a=b"), (b"x-ratelimit-remaining-tokens", b"9")]
        await send({"type": "http.response.start", "status": status, "headers": [*own, *seen, *headers]})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(app: Any, **config: Any) -> Iterator[str]:
    """Serve an application from a thread, on a port of the machine's choice; its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    config = {"log_level": "critical", "access_log": False, "loop": "uvloop", "ws": "none", **config}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **config))
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
        listener.close()


def closed_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
