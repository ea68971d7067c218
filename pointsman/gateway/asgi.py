"""Reading requests and answering them at the level of ASGI, where the busy routes stay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from types import TracebackType
from typing import Any, Self

from pointsman.gateway.errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


class BodyReader:
    """Reads bodies, each within a size and a time, and all of them at once within a memory.

    Args:
        max_held_bytes: What bodies that are not whole yet may take, of all clients together.

    Attributes:
        held_bytes: What they take now.
    """

    def __init__(self, *, max_held_bytes: int = 256 * 2**20) -> None:
        self.max_held_bytes = max_held_bytes
        self.held_bytes = 0

    async def read(self, headers: Headers, receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
        """Return the body of a request.

        Raises:
            ApiError: It is too large or too slow or compressed, or all bodies together take too much memory.
            ClientGoneError: The client is gone.
        """
        for name, value in headers:
            if name == b"content-length" and int(value) > max_bytes:
                raise too_large(max_bytes)
            if name == b"content-encoding" and value.lower() != b"identity":
                raise ApiError(415, "the body must not be compressed")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ClientGoneError
                    chunk: bytes = message["body"]
                    size += len(chunk)
                    self.held_bytes += len(chunk)
                    chunks.append(chunk)
                    if size > max_bytes:
                        raise too_large(max_bytes)
                    if not message["more_body"]:
                        return chunk if len(chunks) == 1 else b"".join(chunks)
                    if self.held_bytes > self.max_held_bytes:
                        raise ApiError(503, "too many requests are being received", headers={"retry-after": "1"})
        except TimeoutError:
            headers_408 = {"connection": "close"}
            raise ApiError(408, f"the request must arrive within {timeout_s:g} s", headers=headers_408) from None
        finally:
            self.held_bytes -= size


class ClientWatch:
    """Cancels the task that answers a client once that client is gone; leaving the block swallows that cancellation.

    Attributes:
        is_gone: Whether the client is.
    """

    def __init__(self, receive: Receive) -> None:
        self.is_gone = False
        self._receive = receive

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs is in a task
        self._task = task
        # The body has been read, so that all there is to receive is that the client is gone.
        self._watcher = asyncio.ensure_future(self._receive())
        self._watcher.add_done_callback(self._on_message)
        return self

    def _on_message(self, watcher: asyncio.Future[Message]) -> None:
        if not watcher.cancelled():
            self.is_gone = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._watcher.remove_done_callback(self._on_message)
        self._watcher.cancel()
        return self.is_gone and isinstance(error, asyncio.CancelledError) and self._task.uncancel() == 0


def too_large(max_bytes: int) -> ApiError:
    """Return that a body is too large."""
    return ApiError(413, f"the body must be at most {max_bytes} bytes", code="request_too_large")


def started(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Message:
    """Return the message that begins an answer."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


async def send_whole(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    """Send an answer whose body is whole."""
    await send(started(status, [*headers, (b"content-length", b"%d" % len(body))]))
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an error, OpenAI-shaped."""
    own = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send_whole(send, error.status, [(b"content-type", JSON), *own, *headers], error.body())


def authorization(headers: Headers) -> bytes | None:
    """Return the `Authorization` header; None where there is none."""
    for name, value in headers:
        if name == b"authorization":
            return value
    return None
