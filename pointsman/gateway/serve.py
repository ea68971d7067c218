"""Running the gateway: uvicorn, with bounds on what a client can take before its request has begun."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.gateway.app import make_app
from pointsman.gateway.decide import Decider, FixedDecider
from pointsman.gateway.errors import error_body
from pointsman.gateway.live import Live, log
from pointsman.logs.store import RoundStore, StoreError, Writer, open_store
from pointsman.online.budget import DAY_S, PacedRequest, Pacer

if TYPE_CHECKING:
    from pointsman.gateway.settings import Settings, SettingsFile

RESUMED_ROUNDS = 20_000
"""Rounds that a pacer goes on from at most."""
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


def first_log(settings: Settings) -> Decider:
    """Return what decides before there is a router: an even draw, of whose log any router can be learned."""
    return FixedDecider(dict.fromkeys((model.name for model in settings.chat_models), 1.0))


def serve(
    settings: Settings, *, file: SettingsFile | None = None, make_decider: Callable[[Settings], Decider] = first_log
) -> None:
    """Serve until the process is told to stop; requests in flight then end, and what waits is written.

    Args:
        settings: Checked ones.
        file: Where they come from, and where changes of them will; they never change where None.
        make_decider: Makes what decides, of the settings, at the start and whenever they change.

    Raises:
        StoreError: The store cannot be opened.
    """
    with open_store(settings.store.url.get_secret_value()) as store:
        writer = Writer(store, queue_size=settings.store.queue_size)
        make_decider = resuming(make_decider, store)
        try:
            app = make_app(settings, make_decider(settings), writer, spend_log=StoredSpending(store))
            live: Live = app.state.live
            live.metrics.gauge("store_queued", "Rows that wait to be written", lambda: writer.n_queued)
            live.metrics.gauge("store_lag_seconds", "How long the oldest of them has waited", lambda: writer.lag_s)
            live.metrics.gauge("store_lost", "Rounds lost since the start", lambda: writer.n_lost)
            config = uvicorn.Config(
                app,
                host=settings.server.host,
                port=settings.server.port,
                http=protocol(settings),
                ws="none",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=4096,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=round(settings.server.drain_s),
            )
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                beside: list[Coroutine[Any, Any, None]] = [end_left_open(live, store)]
                if file is not None:
                    beside.append(follow(live, file, make_decider))
                runner.run(_serve(uvicorn.Server(config), beside))
        finally:
            writer.close()


async def _serve(server: uvicorn.Server, beside: list[Coroutine[Any, Any, None]]) -> None:
    tasks = [asyncio.ensure_future(each) for each in beside]
    await server.serve()
    for task in tasks:
        task.cancel()


async def end_left_open(live: Live, store: RoundStore, *, interval_s: float = 60.0) -> None:
    """End the rounds of gateways that were killed: those that are not over after twice the longest time a call has."""
    while True:
        total_s = max(upstream.timeouts.total_s for upstream in live.serving.settings.upstreams.values())
        try:
            n = await asyncio.to_thread(store.end_left_open, before=time.time() - 2 * total_s)
            if n:
                log.warning("%d rounds were left open by a gateway that is no more; they are truncated", n)
        except StoreError as error:
            log.warning("rounds that were left open are looked for later: %s", error)
        await asyncio.sleep(interval_s)


async def follow(
    live: Live, file: SettingsFile, make_decider: Callable[[Settings], Decider], *, interval_s: float = 2.0
) -> None:
    """Take over what changes in the settings' file; the old settings stay where the new ones, or their router, fail."""
    async for changed in file.watch(interval_s=interval_s):
        if changed.error is not None:
            log.error("the settings have changed and are wrong; the old ones stay:\n%s", changed.error)
            continue
        try:
            decider = await asyncio.to_thread(make_decider, changed.settings)
        except Exception as error:
            log.error("the settings have changed and no router comes of them; the old ones stay: %s", error)
            continue
        live.replace(settings=changed.settings, decider=decider)
        log.info("the settings have changed, and are in force")
        for name in changed.need_restart:
            log.warning("a change of %s needs a restart", name)


def resuming(make_decider: Callable[[Settings], Decider], store: RoundStore) -> Callable[[Settings], Decider]:
    """Return what makes deciders whose pacer, where it is a new one, goes on from what the log says was spent.

    Without the log it begins anew.
    """
    last: Pacer | None = None

    def make(settings: Settings) -> Decider:
        nonlocal last
        decider = make_decider(settings)
        pacer = getattr(decider, "pacer", None)
        if isinstance(pacer, Pacer) and pacer is not last:
            try:
                resume(pacer, store)
            except StoreError as error:
                log.warning("the budget begins anew; what was spent cannot be read: %s", error)
            last = pacer
        return decider

    return make


def resume(pacer: Pacer, store: RoundStore) -> None:
    """Have a pacer go on from the routed rounds of the last day, the latest `RESUMED_ROUNDS` of them at most.

    Raises:
        StoreError: The store cannot be read.
    """
    now = time.time()
    sql = """
        SELECT decided_at, cost_usd, quality_per_usd FROM rounds
        WHERE decided_at >= ? AND policy <> 'pinned' AND outcome <> 'error' ORDER BY decided_at DESC LIMIT ?
    """
    with store.snapshot() as snapshot:
        rows = snapshot.fetch(sql, now - DAY_S, RESUMED_ROUNDS)
    pacer.resume([PacedRequest(*(math.nan if x is None else x for x in row)) for row in reversed(rows)], now=now)
    log.info("the budget goes on from %d rounds: %.6f USD are owed", len(rows), pacer.report().debt_usd)


class StoredSpending:
    """What keys have spent, by the rounds of a store."""

    def __init__(self, store: RoundStore) -> None:
        self._store = store

    async def spent_usd(self, key_id: str, *, since: float) -> float:
        """Return the summed cost of a key's rounds decided since then (Unix seconds), in USD."""
        return await asyncio.to_thread(self._sum, key_id, since)

    def _sum(self, key_id: str, since: float) -> float:
        sql = "SELECT COALESCE(SUM(cost_usd), 0.0) FROM rounds WHERE key_id = ? AND decided_at >= ?"
        with self._store.snapshot() as snapshot:
            return float(snapshot.fetch(sql, key_id, since)[0][0])
