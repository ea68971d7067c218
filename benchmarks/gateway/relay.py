"""What any gateway of this kind costs at least: Starlette, uvicorn and aiohttp that pass bytes on.

`python -m benchmarks.gateway.relay PORT UPSTREAM_URL`
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


def make_relay(upstream_url: str) -> Starlette:
    """Return an application that passes chat completions on to an upstream, and its answers back."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000)) as session:
            app.state.session = session
            yield

    async def relay(request: Request) -> Response:
        body = await request.body()
        session: aiohttp.ClientSession = request.app.state.session
        url, headers = f"{upstream_url}/chat/completions", {"content-type": "application/json"}
        if b'"stream":true' not in body:
            async with session.post(url, data=body, headers=headers) as answer:
                return Response(await answer.read(), answer.status, media_type="application/json")
        streamed = await session.post(url, data=body, headers=headers)

        async def blocks() -> AsyncIterator[bytes]:
            async with streamed:
                async for block in streamed.content.iter_any():
                    yield block

        return StreamingResponse(blocks(), streamed.status, media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", relay, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(
        make_relay(sys.argv[2]), port=int(sys.argv[1]), log_level="critical", access_log=False, ws="none", loop="uvloop"
    )
