"""A closed-loop client: so many connections, each sending its next request once the last is answered.

`python -m benchmarks.gateway.load` reads what to do as JSON and prints what it measured as JSON: it is a process of its
own, so that no figure holds its caller's work.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, cast

import uvloop

from pointsman.demo import example_table


class Caller(asyncio.Protocol):
    """One connection.

    Attributes:
        latency_s: Of every answered request, in s.
        first_s: Until its first content, of every stream, in s.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._received = b""
        self.latency_s: list[float] = []
        self.first_s: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        request = self._calls.next_request()
        if request is None:
            self._transport.close()
            return
        self._received, self._is_first = b"", True
        self._begun = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer, and send the next request after the last part."""
        self._received += data
        if self._calls.is_stream and self._is_first and b'"content":' in self._received.replace(b'"content":""', b""):
            self._is_first = False
            self.first_s.append(time.perf_counter() - self._begun)
        if not self._is_whole():
            return
        self.latency_s.append(time.perf_counter() - self._begun)
        if not self._received.startswith(b"HTTP/1.1 200"):
            self._calls.errors.append(self._received[:500].decode("utf-8", "replace"))
            self._transport.close()
            return
        self._send()

    def _is_whole(self) -> bool:
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return False
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")

    def connection_lost(self, _: Exception | None) -> None:
        """Say that this connection is over."""
        self._calls.end()


class Calls:
    """All connections of a run."""

    def __init__(self, port: int, *, n_clients: int, seconds: float, n_requests: int, is_stream: bool) -> None:
        self.is_stream = is_stream
        self.errors: list[str] = []
        self._port, self._n_clients, self._seconds, self._n_requests = port, n_clients, seconds, n_requests
        self._n_sent, self._ended = 0, 0
        self._prompts = example_table().prompt
        self._run = time.time_ns() // 1_000_000 % 10_000
        self._over = asyncio.Event()

    def next_request(self) -> bytes | None:
        """Return the next request, whose prompt no other one has; None where there is none."""
        if time.perf_counter() > self._until or self._n_sent >= self._n_requests:
            return None
        self._n_sent += 1
        # New as a prompt, not as words: the gateway's encoder remembers words, up to 65,536 of them.
        place = f"{self._run} {self._n_sent // 1000} {self._n_sent % 1000}"
        prompt = f"{self._prompts[self._n_sent % len(self._prompts)]} {place}"
        asked = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        body = json.dumps({**asked, "stream": True} if self.is_stream else asked, separators=(",", ":")).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        return head + b"authorization: Bearer sk-none\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    def end(self) -> None:
        """Count a connection that is over."""
        self._ended += 1
        if self._ended == self._n_clients:
            self._over.set()

    async def run(self) -> dict[str, Any]:
        """Return requests a second, and the quantiles of their times in ms."""
        loop = asyncio.get_running_loop()
        begun = time.perf_counter()
        self._until = begun + self._seconds
        callers = [Caller(self) for _ in range(self._n_clients)]
        for caller in callers:
            await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", self._port)  # type: ignore[misc]
        await self._over.wait()
        took_s = time.perf_counter() - begun
        if self.errors:
            raise RuntimeError(self.errors[0])
        latency_s = sorted(each for caller in callers for each in caller.latency_s)
        first_s = sorted(each for caller in callers for each in caller.first_s)
        return {
            "n": len(latency_s),
            "per_s": len(latency_s) / took_s,
            "p50_ms": 1e3 * latency_s[len(latency_s) // 2],
            "p99_ms": 1e3 * latency_s[len(latency_s) * 99 // 100],
            "first_p50_ms": 1e3 * first_s[len(first_s) // 2] if first_s else None,
        }


async def _run(asked: dict[str, Any]) -> dict[str, Any]:
    return await Calls(
        asked["port"],
        n_clients=asked["n_clients"],
        seconds=asked["seconds"],
        n_requests=asked["n_requests"],
        is_stream=asked["is_stream"],
    ).run()


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_run(json.loads(sys.stdin.read())))))
