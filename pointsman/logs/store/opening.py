"""A store by its URL."""

from __future__ import annotations

from pointsman.errors import InvalidParameterError
from pointsman.logs.store.base import RoundStore
from pointsman.logs.store.postgres import PostgresStore
from pointsman.logs.store.sqlite import SqliteStore

_SQLITE = "sqlite:///"


def open_store(url: str) -> RoundStore:
    """Return the store of a URL: sqlite:///FILE, opened, or postgresql://..., which connects when first used.

    Raises:
        InvalidParameterError: The URL is neither.
        StoreError: The file is no store, or a newer version's.
        StoreUnavailableError: The file cannot be opened now.
        MissingDependencyError: asyncpg, which PostgreSQL needs, is not installed.
    """
    if url.startswith(_SQLITE):
        return SqliteStore.open(url.removeprefix(_SQLITE))
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresStore(url)
    scheme = url.partition(":")[0]
    raise InvalidParameterError(f"url of a store must be sqlite:///FILE or postgresql://...; got one of {scheme!r}")
