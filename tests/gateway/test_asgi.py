"""Tests of reading bodies and of watching clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pointsman.gateway.asgi import BodyReader, ClientGoneError, ClientWatch
from pointsman.gateway.errors import ApiError


def sending(*chunks: bytes, ends: bool = True, then: str = "waits") -> Callable[[], Awaitable[dict[str, Any]]]:
    """What a client sends; then it is silent, or gone."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        if left:
            chunk = left.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(left) or not ends}
        if then == "goes":
            return {"type": "http.disconnect"}
        await asyncio.sleep(60)
        raise AssertionError

    return receive


def test_all_bodies_together_are_held_within_a_memory():
    """Clients that never finish fill it, further slow ones are refused, whole requests pass, and leaving frees it."""

    async def run() -> None:
        bodies = BodyReader(max_held_bytes=100)
        bounds = {"max_bytes": 1000, "timeout_s": 0.2}
        slow = [asyncio.ensure_future(bodies.read([], sending(b"x" * 40, ends=False), **bounds)) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert bodies.held_bytes == 80
        with pytest.raises(ApiError) as refused:
            await bodies.read([], sending(b"x" * 40, ends=False), **bounds)
        assert refused.value.status == 503
        assert await bodies.read([], sending(b"x" * 40), **bounds) == b"x" * 40
        for body in slow:
            with pytest.raises(ApiError) as late:
                await body
            assert late.value.status == 408
        assert bodies.held_bytes == 0
        with pytest.raises(ClientGoneError):
            await bodies.read([], sending(b"x", ends=False, then="goes"), **bounds)
        assert bodies.held_bytes == 0

    asyncio.run(run())


def test_a_client_that_goes_ends_the_work_and_nothing_else():
    """The work is cancelled, the task lives on; a cancellation from elsewhere is passed on."""

    async def run() -> None:
        async with ClientWatch(sending(then="goes")) as watch:
            await asyncio.sleep(5)
            raise AssertionError
        assert watch.is_gone
        await asyncio.sleep(0)

        async def work() -> None:
            async with ClientWatch(sending()):
                await asyncio.sleep(5)

        task = asyncio.ensure_future(work())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_work_that_is_done_leaves_no_watcher():
    """Nothing is cancelled after the answer, and no task is left."""

    async def run() -> None:
        async with ClientWatch(sending()) as watch:
            pass
        await asyncio.sleep(0.01)
        assert not watch.is_gone
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
