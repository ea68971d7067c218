"""Calling a model: a whole answer, or a stream from its first content on."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from yarl import URL

from pointsman.gateway.upstream import sse
from pointsman.gateway.upstream.endpoint import Endpoint
from pointsman.gateway.upstream.failure import UpstreamError
from pointsman.gateway.upstream.usage import Usage

Headers = list[tuple[bytes, bytes]]

CLIENT_FAULTS = frozenset({400, 409, 413, 415, 422})
"""Statuses that say that the request is at fault: passed on, as another model or another attempt would not help."""

PASSED_ON = frozenset({b"content-type", b"x-request-id", b"retry-after"})
PASSED_ON_PREFIXES = (b"openai-", b"x-ratelimit-")
"""Headers of an answer that are passed on. What is not here belongs to the connection or to the provider's site."""

MAX_EVENT_BYTES = 8 * 2**20
"""What one event of a stream may take at most in memory."""

FIRST_BACKOFF_S = 0.1


class Answer:
    """A whole answer, or the upstream's word that the request is at fault.

    Attributes:
        status: HTTP status.
        headers: Those to pass on.
        body: As it came.
        usage: What it says of tokens.
    """

    __slots__ = ("body", "headers", "status", "usage")

    def __init__(self, *, status: int, headers: Headers, body: bytes, usage: Usage | None) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.usage = usage


class Stream:
    """A stream of events whose first content has come; `read` gives that first, and all that was held back before it.

    Attributes:
        status: HTTP status.
        headers: Those to pass on.
        usage: What the events so far say of tokens.
        is_whole: Whether the answer has come to its end, by a finish reason or `[DONE]`.
        is_done: Whether `[DONE]` has come, after which nothing more does.
        has_failed: Whether the upstream itself has sent an error, which was passed on.
        is_malformed: Whether it has sent data that is no JSON object, which was passed on, too.
        first_content_at: When the first content came, on `time.perf_counter`.
        deadline: When the whole call must be over, on the event loop's clock.
    """

    def __init__(self, response: ClientResponse, *, endpoint: Endpoint, strips_usage: bool, deadline: float) -> None:
        self.status = response.status
        self.headers = passed_on(response)
        self.usage: Usage | None = None
        self.is_whole = False
        self.is_done = False
        self.has_failed = False
        self.is_malformed = False
        self.first_content_at = 0.0
        self.deadline = deadline
        self._response = response
        self._timeouts = endpoint.timeouts
        self._strips_usage = strips_usage
        self._splitter = sse.EventSplitter()
        self._head = b""

    @property
    def is_sound(self) -> bool:
        """Whether all that came so far is as the API says."""
        return not (self.has_failed or self.is_malformed)

    async def begin(self) -> None:
        """Wait for the first content.

        Raises:
            UpstreamError: The stream ended, failed or was no stream of events before it.
        """
        while True:
            chunk = await self._chunk()
            block = self._splitter.feed(chunk)
            if not chunk:  # An upstream may leave out the last empty line.
                block, self._splitter.rest = bytes(self._splitter.rest), bytearray()
            self._head += block
            if any(_begins_answer(event) for event in sse.events(block)):
                break
            if not chunk:
                raise UpstreamError("the stream ended before any content", phase="cut")
            self._check_size(len(self._head))
        self.first_content_at = time.perf_counter()
        self._head = self._note(self._head)

    async def read(self) -> bytes:
        """Return the next whole events, as they came; empty at the end.

        Raises:
            UpstreamError: The stream stood still or broke off; what there was of its last event is dropped.
        """
        if self._head:
            head, self._head = self._head, b""
            return head
        while True:
            try:
                async with asyncio.timeout(self._timeouts.between_tokens_s):
                    chunk = await self._chunk()
            except TimeoutError:
                if self.is_done:
                    return b""
                raise UpstreamError(
                    f"nothing more came within {self._timeouts.between_tokens_s:g} s", phase="between_tokens"
                ) from None
            if not chunk:
                rest, self._splitter.rest = bytes(self._splitter.rest), bytearray()
                block = self._note(rest)
                if not (self.is_whole or self.has_failed):
                    raise UpstreamError("the stream broke off", phase="cut")
                return block
            block = self._note(self._splitter.feed(chunk))
            self._check_size(0)
            if block:
                return block

    def close(self) -> None:
        """Give the connection back, or drop it where the stream has not come to its end."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def _chunk(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (ClientError, OSError):
            if self.is_whole:
                return b""
            raise UpstreamError("the connection broke off", phase="cut") from None

    def _check_size(self, n_held: int) -> None:
        if n_held + len(self._splitter.rest) > MAX_EVENT_BYTES:
            raise UpstreamError("an event of the stream is too large", phase="malformed")

    def _note(self, block: bytes) -> bytes:
        """Return the block, without a chunk of usage that the client did not ask for, once its facts are noted."""
        events = sse.events(block)
        kept = [event for event in events if self._keeps(event)]
        if len(kept) < len(events):
            block = b"".join(kept)
        if not self.is_whole and sse.FINISH.search(block):
            self.is_whole = True
        return block

    def _keeps(self, event: bytes) -> bool:
        data = sse.payload(event)
        if not data or self.is_done:
            return True
        if data.startswith(sse.DONE_DATA):
            self.is_whole = self.is_done = True
            return True
        chunk = sse.object_of(data)
        if chunk is None:
            self.is_malformed = True
            return True
        if chunk.get("error") and not chunk.get("choices"):
            self.has_failed = True
        if not chunk.get("usage"):
            return True
        self.usage = Usage.of(chunk) or self.usage
        return not (self._strips_usage and chunk.get("choices") == [])


class UpstreamClient:
    """Calls upstreams, each over a pool of connections.

    Args:
        rng: Of the jitter between attempts.
    """

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._sessions: dict[tuple[str, int], ClientSession] = {}

    async def answer(self, endpoint: Endpoint, url: URL, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Return the whole answer to a request.

        Raises:
            UpstreamError: There was none, or it is not one of an OpenAI-compatible API.
        """
        total_s = endpoint.timeouts.total_s
        try:
            async with asyncio.timeout(total_s):
                return await _whole(await self._send(endpoint, url, body, headers), endpoint)
        except TimeoutError:
            raise UpstreamError(f"no whole answer came within {total_s:g} s", phase="total") from None

    async def stream(
        self, endpoint: Endpoint, url: URL, body: bytes, headers: Mapping[str, str], *, strips_usage: bool
    ) -> Stream | Answer:
        """Return a stream whose first content has come; an answer where the upstream gave one instead.

        Args:
            endpoint: Whom to call.
            url: Where.
            body: The request.
            headers: Sent beside the endpoint's own.
            strips_usage: Leave out the chunk that holds nothing but the usage.

        Raises:
            UpstreamError: It failed before its first content.
        """
        timeouts = endpoint.timeouts
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(timeouts.first_token_s, timeouts.total_s)):
                response = await self._send(endpoint, url, body, headers)
                if response.status != 200 or response.content_type == "application/json":
                    return await _whole(response, endpoint)
                stream = Stream(response, endpoint=endpoint, strips_usage=strips_usage, deadline=now + timeouts.total_s)
                try:
                    await stream.begin()
                except BaseException:
                    response.close()
                    raise
                return stream
        except TimeoutError:
            raise UpstreamError(
                f"no first token came within {timeouts.first_token_s:g} s", phase="first_token"
            ) from None

    async def close(self) -> None:
        """Close the pools."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def _send(self, endpoint: Endpoint, url: URL, body: bytes, headers: Mapping[str, str]) -> ClientResponse:
        n_failures = 0
        while True:
            try:
                return await self._attempt(endpoint, url, body, headers)
            except UpstreamError as failure:
                # All failures here come before anything was sent to the client; only a refusal costs nothing to repeat.
                asked_s = failure.retry_after_s or 0.0
                if not failure.is_refusal or n_failures == endpoint.max_retries or asked_s > endpoint.max_retry_after_s:
                    raise
                n_failures += 1
                jitter_s = self._rng.random() * FIRST_BACKOFF_S * 2.0**n_failures
            await asyncio.sleep(asked_s + jitter_s)

    async def _attempt(self, endpoint: Endpoint, url: URL, body: bytes, headers: Mapping[str, str]) -> ClientResponse:
        pool = endpoint.name, endpoint.max_connections
        session = self._sessions.get(pool)
        if session is None:
            connector = TCPConnector(limit=endpoint.max_connections, keepalive_timeout=30)
            session = self._sessions[pool] = ClientSession(connector=connector, cookie_jar=DummyCookieJar())
        try:
            response = await session.post(
                url, data=body, headers=headers, timeout=endpoint.client_timeout, allow_redirects=False
            )
        except (ClientConnectorError, ConnectionTimeoutError):
            raise UpstreamError("it could not be connected to", phase="connect") from None
        except (ClientError, OSError):
            raise UpstreamError("it closed the connection before answering", phase="cut") from None
        if response.status == 200 or response.status in CLIENT_FAULTS:
            return response
        retry_after_s = _seconds(response.headers.get("Retry-After"))
        response.close()
        raise UpstreamError(
            f"it answered {response.status}", phase="status", status=response.status, retry_after_s=retry_after_s
        )


def passed_on(response: ClientResponse) -> Headers:
    """Return the headers of an answer that the client gets to see."""
    lowered = [(name.lower(), value) for name, value in response.raw_headers]
    return [(name, value) for name, value in lowered if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)]


async def _whole(response: ClientResponse, endpoint: Endpoint) -> Answer:
    try:
        chunks = [await response.content.readany()]
        size = len(chunks[0])
        while not response.content.at_eof():
            chunks.append(await response.content.readany())
            size += len(chunks[-1])
            if size > endpoint.max_answer_bytes:
                raise UpstreamError("its answer is too large", phase="malformed")
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except (ClientError, OSError):
        response.close()
        raise UpstreamError("the connection broke off in its answer", phase="cut") from None
    except BaseException:
        response.close()
        raise
    response.release()
    headers = passed_on(response)
    if response.status != 200:
        return Answer(status=response.status, headers=headers, body=body, usage=None)
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamError("its answer is no JSON", phase="malformed") from None
    if not isinstance(answer, dict) or (answer.get("error") and "choices" not in answer and "data" not in answer):
        raise UpstreamError("its answer is an error", phase="malformed")
    return Answer(status=200, headers=headers, body=body, usage=Usage.of(answer))


def _begins_answer(event: bytes) -> bool:
    data = sse.payload(event)
    if not data or data.startswith(sse.DONE_DATA):
        return bool(data)
    chunk = sse.object_of(data)
    if chunk is None:
        raise UpstreamError("its stream is no JSON", phase="malformed")
    if chunk.get("error") and not chunk.get("choices"):
        raise UpstreamError("its stream began with an error", phase="cut")
    return sse.is_content(chunk)


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = float(retry_after or "")
    except ValueError:  # A date: rare, and as good as no word of how long.
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
