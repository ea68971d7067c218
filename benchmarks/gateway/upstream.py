"""An upstream that costs next to nothing: fixed bytes, whole or as a stream.

`python -m benchmarks.gateway.upstream PORT`

It knows no HTTP beyond what its clients here send: requests with a content length, one at a time on a connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, cast

import uvloop

WORDS = ["The ", "points ", "are ", "set, ", "and ", "the ", "train ", "goes."]
USAGE = {"prompt_tokens": 100, "completion_tokens": len(WORDS), "total_tokens": 100 + len(WORDS)}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": choices}
    event = b"data: " + json.dumps({**chunk, **more}).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _streamed() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in WORDS)]
    events = [_event([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    last = _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    done = b"data: [DONE]\n\n"
    return [
        head + events[0],
        *events[1:],
        last + _event([], usage=USAGE) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done),
    ]


class Answering(asyncio.Protocol):
    """Answers whatever comes."""

    whole, streamed = _whole(), _streamed()

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer once a request is whole."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length or 0):
            return
        self._received = b""
        if b'"stream":true' in body or b'"stream": true' in body:
            self._write(0)
        else:
            self._transport.write(self.whole)

    def _write(self, place: int) -> None:
        self._transport.write(self.streamed[place])
        if place + 1 < len(self.streamed):
            # One event a turn of the loop, so that they arrive one by one.
            asyncio.get_running_loop().call_soon(self._write, place + 1)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
