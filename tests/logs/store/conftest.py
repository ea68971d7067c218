"""Real stores to test: SQLite files, and schemas of a PostgreSQL server of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pointsman.logs.store import PostgresStore, RoundStore, SqliteStore


@pytest.fixture(params=["sqlite", "postgres"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., RoundStore]]:
    """Open one and the same store, once more at each call; with what options `open` takes."""
    opened: list[RoundStore] = []
    where = tmp_path / "rounds.db" if request.param == "sqlite" else request.getfixturevalue("server").new_schema()

    def reopen(**options: Any) -> RoundStore:
        store = SqliteStore.open(where, **options) if isinstance(where, Path) else PostgresStore.open(where, **options)
        opened.append(store)
        return store

    yield reopen
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[..., RoundStore]) -> RoundStore:
    """An empty store, of either kind."""
    return reopen()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store in a file."""
    with SqliteStore.open(tmp_path / "rounds.db") as store:
        yield store
