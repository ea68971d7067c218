"""A store in PostgreSQL: one log for several replicas of a gateway."""

from __future__ import annotations

import asyncio
import importlib
import re
import threading
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, Self, TypeVar

from pointsman.errors import InvalidParameterError, MissingDependencyError
from pointsman.logs.store.base import ARE_KNOWN, CLOSE_ROUND, WRITER_ROW, RoundStore, Snapshot, WriterTotals
from pointsman.logs.store.errors import StoreError, StoreUnavailableError
from pointsman.logs.store.records import (
    FEEDBACK_COLUMNS,
    ROUND_COLUMNS,
    Feedback,
    FeedbackResult,
    Round,
    Row,
    Status,
    feedback_row,
    round_row,
    storable,
)
from pointsman.logs.store.schema import MIGRATIONS, Migrations, pending

Result = TypeVar("Result")

_ROWS_AT_A_TIME = 4096
_N_CONNECTIONS = 4
_MIGRATING, _ACCEPTING = 0x706F696E, 0x74736D61  # keys of advisory locks, of no meaning

# Classes of errors that are a row's or a statement's own: trying again would not help.
_LASTING = ("22", "23", "42", "54")

_FLOATS = {"decided_at", "propensity", "quality_per_usd", "cost_usd", "latency_s", "ttft_s", "received_at", "quality"}
_TYPES = dict.fromkeys((*ROUND_COLUMNS, *FEEDBACK_COLUMNS), "text") | {
    **dict.fromkeys((*_FLOATS, "preference"), "float8"),
    "context": "bytea",
    "fallback": "bool",
    "status": "int4",
    "tokens_in": "int8",
    "tokens_out": "int8",
}


def _arrays(columns: Sequence[str]) -> str:
    return ", ".join(f"${place}::{_TYPES[name]}[]" for place, name in enumerate(columns, start=1))


_PUT_ROUNDS = f"""
    INSERT INTO rounds ({", ".join(ROUND_COLUMNS)}) SELECT * FROM unnest({_arrays(ROUND_COLUMNS)}) {CLOSE_ROUND}
"""  # noqa: S608 - names of columns
_PUT_FEEDBACK = f"""
    INSERT INTO feedback ({", ".join(FEEDBACK_COLUMNS)})
    SELECT {", ".join(f"f.{name}" for name in FEEDBACK_COLUMNS)}
    FROM unnest({_arrays(FEEDBACK_COLUMNS)}) WITH ORDINALITY AS f ({", ".join(FEEDBACK_COLUMNS)}, place)
    WHERE {ARE_KNOWN}
    ORDER BY f.place
    ON CONFLICT (feedback_id) DO NOTHING
    RETURNING feedback_id, seq, {
    ", ".join(
        f"(SELECT r.{name} FROM rounds r WHERE r.round_id = feedback.round_id)" for name in ("decided_at", "key_id")
    )
}
"""  # noqa: S608 - names of columns
_GET_FEEDBACK = """
    SELECT f.feedback_id, f.seq, r.decided_at, r.key_id
    FROM feedback f JOIN rounds r ON r.round_id = f.round_id WHERE f.feedback_id = ANY($1)
"""


class PostgresStore(RoundStore):
    """Rounds and feedback in PostgreSQL, that several replicas write at once.

    It connects when first used, and again after the server was away: the constructor waits for nothing, so a gateway
    starts, and serves, without its database.

    Args:
        url: postgresql://USER:PASSWORD@HOST/DATABASE, with any options of asyncpg's.
        timeout_s: How long any statement, or connecting, may take, in s; migrations and exports may take longer.
        migrations: What makes the tables.

    Raises:
        InvalidParameterError: The URL is no PostgreSQL's.
        MissingDependencyError: asyncpg is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0, migrations: Migrations = MIGRATIONS) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("postgresql", "postgres"):
            raise InvalidParameterError(
                f"url must be postgresql://USER:PASSWORD@HOST/DATABASE; got one that starts with {parts.scheme!r}"
            )
        try:
            self._asyncpg: Any = importlib.import_module("asyncpg")
        except ImportError:
            raise MissingDependencyError("PostgreSQL needs asyncpg: pip install 'pointsman[postgres]'") from None
        host = parts.netloc.rpartition("@")[2]
        self.name = urllib.parse.urlunsplit(("postgresql", host, parts.path, "", ""))
        self._url = url
        self._timeout_s = timeout_s
        self._migrations = migrations
        self._pool: Any = None
        self._connecting = asyncio.Lock()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @classmethod
    def open(cls, url: str, *, timeout_s: float = 10.0, migrations: Migrations = MIGRATIONS) -> Self:
        """Connect to a store, its tables made where they are not there, or brought to this version.

        Args:
            url: As of the constructor.
            timeout_s: As of the constructor.
            migrations: As of the constructor.

        Raises:
            StoreError: The store is a newer version's.
            StoreUnavailableError: The server cannot be reached now, or refuses the user.
        """
        store = cls(url, timeout_s=timeout_s, migrations=migrations)
        try:
            store._fetch("SELECT 1")
        except BaseException:
            store.close()
            raise
        return store

    def write(  # noqa: D102 - as the base
        self, rounds: Sequence[Round], feedback: Sequence[Feedback] = (), *, totals: WriterTotals | None = None
    ) -> list[FeedbackResult]:
        # One statement may touch a row once only.
        rows = [round_row(each) for each in _once(rounds)]
        return self._run(lambda: self._write(rows, list(feedback), totals))

    def execute(self, sql: str, *parameters: Any) -> int:  # noqa: D102 - as the base
        async def run() -> int:
            async with self._connection() as connection:
                told: str = await connection.execute(_numbered(sql), *parameters, timeout=self._timeout_s)
                return int(told.rpartition(" ")[2])

        return self._run(run)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:  # noqa: D102 - as the base
        held = self._held()
        connection = self._run(held.__aenter__)
        try:
            yield _View(connection, self._run, timeout_s=self._timeout_s)
        finally:
            self._run(lambda: held.__aexit__(None, None, None))

    def close(self) -> None:  # noqa: D102 - as the base
        with self._lock:
            loop, self._is_closed = self._loop, True
            self._loop = None
        if loop is None:
            return

        async def end() -> None:
            if self._pool is not None:
                self._pool.terminate()

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)

    def _run(self, begin: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Wait for what runs on the loop of this store, which no caller's loop waits for."""
        with self._lock:
            if self._is_closed:
                raise StoreError(f"{self.name}: the store is closed; open it again")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(self._loop,), name="pointsman-postgres", daemon=True).start()
        try:
            return asyncio.run_coroutine_threadsafe(begin(), self._loop).result()
        except (self._asyncpg.PostgresError, self._asyncpg.InterfaceError, OSError, TimeoutError) as error:
            if isinstance(error, StoreError):
                raise
            raise self._told(error) from error

    def _told(self, error: Exception) -> StoreError:
        said = str(error) or type(error).__name__
        state = getattr(error, "sqlstate", None) or ""
        if state.startswith(_LASTING):
            return StoreError(f"{self.name}: {said}; see that the URL is that of a store of pointsman")
        return StoreUnavailableError(f"{self.name}: {said}; see that the server runs, and lets this user in")

    @asynccontextmanager
    async def _connection(self) -> Any:
        async with self._connecting:
            if self._pool is None:
                self._pool = await self._connected()
        async with self._pool.acquire(timeout=self._timeout_s) as connection:
            yield connection

    @asynccontextmanager
    async def _held(self) -> Any:
        async with self._connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection

    async def _connected(self) -> Any:
        pool = self._asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=_N_CONNECTIONS,
            timeout=self._timeout_s,
            # What was acknowledged must be on the disk, whatever the server's own setting.
            server_settings={"application_name": "pointsman", "synchronous_commit": "on"},
        )
        await pool
        try:
            async with pool.acquire(timeout=self._timeout_s) as connection:
                await self._migrate(connection)
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def _migrate(self, connection: Any) -> None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATING)
            await connection.execute("CREATE TABLE IF NOT EXISTS pointsman_store (version INTEGER NOT NULL)")
            version = await connection.fetchval("SELECT version FROM pointsman_store")
            words = {"sequence": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "bytes": "BYTEA"}
            for statement in pending(version or 0, self._migrations, store=self.name, **words):
                await connection.execute(statement)
            if version is None:
                await connection.execute("INSERT INTO pointsman_store VALUES ($1)", len(self._migrations))
            else:
                await connection.execute("UPDATE pointsman_store SET version = $1", len(self._migrations))

    async def _write(
        self, rows: Sequence[Row], feedback: list[Feedback], totals: WriterTotals | None
    ) -> list[FeedbackResult]:
        results: list[FeedbackResult] = []
        async with self._connection() as connection, connection.transaction():
            if rows:
                await connection.execute(_PUT_ROUNDS, *map(list, zip(*rows, strict=True)), timeout=self._timeout_s)
            if totals is not None:
                noted = (totals.writer_id, totals.n_written, totals.n_lost)
                await connection.execute(_numbered(WRITER_ROW), *noted, timeout=self._timeout_s)
            if feedback:
                results = await self._put(connection, feedback)
        return results

    async def _put(self, connection: Any, feedback: list[Feedback]) -> list[FeedbackResult]:
        # Held to the commit: feedback becomes visible in the order of `seq`, and a reader who goes on from the last
        # one it saw misses none.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _ACCEPTING, timeout=self._timeout_s)
        columns = map(list, zip(*map(feedback_row, feedback), strict=True))
        fetched = await connection.fetch(_PUT_FEEDBACK, *columns, timeout=self._timeout_s)
        added = {row[0] for row in fetched}
        names = [storable(each.feedback_id) for each in feedback]
        others = [name for name in names if name not in added]
        if others:
            fetched += await connection.fetch(_GET_FEEDBACK, others, timeout=self._timeout_s)
        known = {name: (seq, decided_at, key_id) for name, seq, decided_at, key_id in fetched}
        results = []
        for name, each in zip(names, feedback, strict=True):
            seq, decided_at, key_id = known.get(name, (None, None, None))
            status: Status = "unknown"
            if seq is None or (None not in (key_id, each.key_id) and key_id != each.key_id):
                seq = decided_at = None
            elif name in added:
                added.remove(name)
                status = "accepted"
            else:
                status = "duplicate"
            results.append(FeedbackResult(each.feedback_id, each.round_id, status, seq, decided_at))
        return results


class _View:
    """A transaction that reads."""

    def __init__(self, connection: Any, run: Callable[[Callable[[], Any]], Any], *, timeout_s: float) -> None:
        self._connection = connection
        self._run = run
        self._timeout_s = timeout_s

    def fetch(self, sql: str, *parameters: Any) -> list[Row]:
        rows = self._run(lambda: self._connection.fetch(_numbered(sql), *parameters, timeout=self._timeout_s))
        return [tuple(row) for row in rows]

    def stream(self, sql: str, *parameters: Any) -> Iterator[list[Row]]:
        async def begin() -> Any:
            return await self._connection.cursor(_numbered(sql), *parameters)

        cursor = self._run(begin)
        while rows := self._run(lambda: cursor.fetch(_ROWS_AT_A_TIME)):
            yield [tuple(row) for row in rows]


def _once(rounds: Sequence[Round]) -> list[Round]:
    """Return the rounds without repeats: the first of a name, or the first that has ended where that had not."""
    kept: dict[str, Round] = {}
    for each in rounds:
        name = storable(each.round_id)
        if name not in kept or (kept[name].outcome is None and each.outcome is not None):
            kept[name] = each
    return list(kept.values())


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


@lru_cache(maxsize=256)
def _numbered(sql: str) -> str:
    """Return SQL with its parameters as PostgreSQL has them: $1, $2, ... for each ?."""
    places = iter(range(1, sql.count("?") + 1))
    return re.sub(r"\?", lambda _: f"${next(places)}", sql)
