"""Running the gateway: uvicorn, with bounds on what a client can take before its request has begun."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.gateway.errors import error_body

if TYPE_CHECKING:
    from pointsman.gateway.settings import Settings

MAX_HEADER_BYTES = 64 * 2**10
KEEP_ALIVE_S = 75


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests must send their headers in time and in size, and whose own errors are OpenAI-shaped.

    Attributes:
        header_timeout_s: From the connection, or the first byte of a later request, to the end of its headers.
        max_connections: More are answered with 503 and closed.
    """

    header_timeout_s = 30.0
    max_connections = 10_000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Start waiting for headers."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self.refuse(503, "too many connections")
            return
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Take what comes, while it is within bounds."""
        super().data_received(data)
        if self._header_timer is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.refuse(431, f"the headers must be at most {MAX_HEADER_BYTES} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Start waiting for the headers of a further request."""
        super().on_message_begin()
        if self._header_timer is None:
            self._wait_for_headers()

    def on_headers_complete(self) -> None:
        """Stop waiting: what comes now is timed by who reads it."""
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self.refuse(400, msg)

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error and close."""
        body = error_body(status, message)
        head = f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _wait_for_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
            self._header_bytes = 0

    def _give_up(self) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.close()


def protocol(settings: Settings) -> type[BoundedProtocol]:
    """Return the protocol within the limits of the settings."""
    limits = settings.limits
    bounds = {"header_timeout_s": limits.read_timeout_s, "max_connections": limits.max_connections}
    return type("Protocol", (BoundedProtocol,), bounds)
