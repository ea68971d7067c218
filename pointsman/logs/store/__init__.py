"""Stores: what a gateway decided and what was said of it, durable, in SQLite or PostgreSQL."""

from pointsman.logs.store.base import RoundStore
from pointsman.logs.store.errors import StoreError, StoreUnavailableError
from pointsman.logs.store.opening import open_store
from pointsman.logs.store.postgres import PostgresStore
from pointsman.logs.store.records import Feedback, FeedbackResult, JudgedRound, Round
from pointsman.logs.store.sqlite import SqliteStore
from pointsman.logs.store.writer import Writer

__all__ = [
    "Feedback",
    "FeedbackResult",
    "JudgedRound",
    "PostgresStore",
    "Round",
    "RoundStore",
    "SqliteStore",
    "StoreError",
    "StoreUnavailableError",
    "Writer",
    "open_store",
]
