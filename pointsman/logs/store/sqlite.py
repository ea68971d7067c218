"""A store in one SQLite file: the default, for one machine."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Self

from pointsman.errors import InvalidParameterError
from pointsman.logs.files import FilePath
from pointsman.logs.store.base import ARE_KNOWN, CLOSE_ROUND, WRITER_ROW, RoundStore, Snapshot, WriterTotals
from pointsman.logs.store.errors import StoreError, StoreUnavailableError
from pointsman.logs.store.records import (
    FEEDBACK_COLUMNS,
    ROUND_COLUMNS,
    Feedback,
    FeedbackResult,
    Round,
    Row,
    feedback_row,
    round_row,
)
from pointsman.logs.store.schema import MIGRATIONS, Migrations, pending

# Of what may go away by itself or be mended while the process runs: locks, a full disk, permissions, memory.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
    }
)
_ROWS_AT_A_TIME = 4096
# A statement of many rows lets other threads run once, not once a row, and each time it may wait 5 ms for its turn.
_ROWS_A_STATEMENT = (256, 32, 4, 1)
_PLACES = f"({', '.join('?' * len(ROUND_COLUMNS))})"
_PUT_FEEDBACK = f"""
    INSERT INTO feedback ({", ".join(FEEDBACK_COLUMNS)})
    SELECT * FROM (SELECT {", ".join(f"? AS {name}" for name in FEEDBACK_COLUMNS)}) f WHERE {ARE_KNOWN}
    ON CONFLICT (feedback_id) DO NOTHING
    RETURNING seq, (SELECT decided_at FROM rounds WHERE rounds.round_id = feedback.round_id)
"""  # noqa: S608 - names of columns
_GET_FEEDBACK = """
    SELECT f.seq, r.decided_at FROM feedback f JOIN rounds r ON r.round_id = f.round_id
    WHERE f.feedback_id = ? AND COALESCE(r.key_id = ?, TRUE)
"""


class SqliteStore(RoundStore):
    """Rounds and feedback in one SQLite file: a write-ahead log, synced to the disk at every commit.

    Many processes may read and one after the other write. Deleted content is overwritten with zeros.

    Args:
        path: The file.
        connection: To it, with its tables made.
        timeout_s: How long to wait for another process that writes.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, timeout_s: float) -> None:
        self.path = path
        self.name = str(path)
        self.writers_folder = path.with_name(f"{path.name}-writers")
        self._connection = connection
        self._timeout_s = timeout_s
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: FilePath, *, timeout_s: float = 5.0, migrations: Migrations = MIGRATIONS) -> Self:
        """Open a store, made where it is not there, and brought to this version where it is of an older one.

        Args:
            path: The file. Its folder must exist, on a local disk.
            timeout_s: How long any call waits for another process that writes, in s.
            migrations: What makes the tables.

        Raises:
            InvalidParameterError: The path names no file.
            StoreError: The file is no store, or a newer version's.
            StoreUnavailableError: The file cannot be opened now.
        """
        if os.fspath(path) in ("", ":memory:"):
            raise InvalidParameterError(f"path must name a file; got {os.fspath(path)!r}; name one that is kept")
        file = Path(path).absolute()
        with _told(str(file)):
            connection = _connected(file, timeout_s=timeout_s)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
                _migrate(connection, migrations, store=str(file))
            except BaseException:
                connection.close()
                raise
        return cls(file, connection, timeout_s=timeout_s)

    def write(  # noqa: D102 - as the base
        self, rounds: Sequence[Round], feedback: Sequence[Feedback] = (), *, totals: WriterTotals | None = None
    ) -> list[FeedbackResult]:
        rows: list[Row] = [round_row(each) for each in rounds]
        with self._transaction() as connection:
            for some in _parts(rows):
                connection.execute(_put_rounds(len(some)), tuple(chain.from_iterable(some)))
            results = [_put(connection, each) for each in feedback]
            if totals is not None:
                connection.execute(WRITER_ROW, (totals.writer_id, totals.n_written, totals.n_lost))
        return results

    def execute(self, sql: str, *parameters: Any) -> int:  # noqa: D102 - as the base
        with self._transaction() as connection:
            return connection.execute(sql, parameters).rowcount

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:  # noqa: D102 - as the base
        with _told(self.name), closing(_connected(self.path, timeout_s=self._timeout_s)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield _View(connection)

    def close(self) -> None:  # noqa: D102 - as the base
        with self._lock, _told(self.name):
            self._connection.close()

    def _wipe(self) -> None:
        # What was deleted stands in the write-ahead log until that is emptied. Where a reader still needs the log, that
        # is left to a later time: no writer is to wait for it.
        with self._lock, _told(self.name):
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * self._timeout_s)}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told(self.name):
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


class _View:
    """A transaction that reads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fetch(self, sql: str, *parameters: Any) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def stream(self, sql: str, *parameters: Any) -> Iterator[list[Row]]:
        cursor = self._connection.execute(sql, parameters)
        while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
            yield rows


def _connected(path: Path, *, timeout_s: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)


def _migrate(connection: sqlite3.Connection, migrations: Migrations, *, store: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        if version == 0 and tables:
            raise StoreError(
                f"{store}: must be a store of pointsman; got a database of another program; name another file"
            )
        words = {"sequence": "INTEGER PRIMARY KEY AUTOINCREMENT", "bytes": "BLOB"}
        for statement in pending(version, migrations, store=store, **words):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@lru_cache
def _put_rounds(n_rounds: int) -> str:
    places = ", ".join([_PLACES] * n_rounds)
    return f"INSERT INTO rounds ({', '.join(ROUND_COLUMNS)}) VALUES {places} {CLOSE_ROUND}"  # noqa: S608 - columns


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    """Return the rows in parts of few sizes, so that a connection keeps the statements it has prepared."""
    start = 0
    for size in _ROWS_A_STATEMENT:
        while start + size <= len(rows):
            yield rows[start : start + size]
            start += size


def _put(connection: sqlite3.Connection, feedback: Feedback) -> FeedbackResult:
    row = feedback_row(feedback)
    added = connection.execute(_PUT_FEEDBACK, row).fetchall()
    if added:
        return FeedbackResult(feedback.feedback_id, feedback.round_id, "accepted", *added[0])
    known = connection.execute(_GET_FEEDBACK, (row[0], feedback.key_id)).fetchone()
    if known:
        return FeedbackResult(feedback.feedback_id, feedback.round_id, "duplicate", *known)
    return FeedbackResult(feedback.feedback_id, feedback.round_id, "unknown", None)


@contextmanager
def _told(store: str) -> Iterator[None]:
    """Raise what SQLite raises as an error of ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _PASSING:
            raise StoreUnavailableError(f"{store}: {error}; free what holds it, or its disk") from error
        raise StoreError(f"{store}: {error}; check that the file is a store of pointsman, still open") from error
