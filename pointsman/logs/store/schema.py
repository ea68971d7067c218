"""The tables of a store, as the migrations that make them: a store of any earlier version is brought to the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from pointsman.logs.store.errors import StoreError

Migrations: TypeAlias = Sequence[Sequence[str]]

# What was released is never edited: a change of the tables is one more entry. {sequence} and {bytes} are spelled by
# each database. What is long stands last, so that SQLite reads the rest without it.
MIGRATIONS: Migrations = (
    (
        """
        CREATE TABLE rounds (
            round_id TEXT PRIMARY KEY,
            decided_at DOUBLE PRECISION NOT NULL,
            model TEXT NOT NULL,
            propensity DOUBLE PRECISION,
            eligible TEXT NOT NULL,
            quality_per_usd DOUBLE PRECISION,
            router_version TEXT,
            prompt_hash TEXT,
            session_id TEXT,
            key_id TEXT,
            served_model TEXT,
            fallback BOOLEAN NOT NULL,
            outcome TEXT,
            status INTEGER,
            cost_usd DOUBLE PRECISION,
            tokens_in BIGINT,
            tokens_out BIGINT,
            latency_s DOUBLE PRECISION,
            ttft_s DOUBLE PRECISION,
            policy TEXT NOT NULL,
            shadow_model TEXT,
            shadow_version TEXT,
            probabilities TEXT,
            context {bytes},
            prompt TEXT
        )
        """,
        "CREATE INDEX rounds_by_time ON rounds (decided_at)",
        "CREATE INDEX rounds_by_session ON rounds (session_id) WHERE session_id IS NOT NULL",
        "CREATE INDEX rounds_by_key ON rounds (key_id) WHERE key_id IS NOT NULL",
        """
        CREATE TABLE feedback (
            seq {sequence},
            feedback_id TEXT NOT NULL UNIQUE,
            round_id TEXT NOT NULL REFERENCES rounds ON DELETE CASCADE,
            received_at DOUBLE PRECISION NOT NULL,
            quality DOUBLE PRECISION,
            source TEXT NOT NULL,
            comment TEXT,
            kind TEXT NOT NULL,
            other_round_id TEXT REFERENCES rounds ON DELETE CASCADE,
            preference DOUBLE PRECISION
        )
        """,
        "CREATE INDEX feedback_by_round ON feedback (round_id, source, seq)",
        "CREATE INDEX feedback_by_other_round ON feedback (other_round_id) WHERE other_round_id IS NOT NULL",
        "CREATE TABLE positions (name TEXT PRIMARY KEY, seq BIGINT NOT NULL)",
        "CREATE TABLE writers (writer_id TEXT PRIMARY KEY, n_written BIGINT NOT NULL, n_lost BIGINT NOT NULL)",
    ),
    (
        "ALTER TABLE feedback ADD COLUMN key_id TEXT",
        "CREATE INDEX rounds_not_over ON rounds (decided_at) WHERE outcome IS NULL",
    ),
)


def pending(version: int, migrations: Migrations, *, store: str, **words: str) -> list[str]:
    """Return the statements that bring a store from a version, the number of migrations it has, to the last.

    Args:
        version: The store's.
        migrations: All there are.
        store: What errors call it.
        words: How its database spells what stands in braces.

    Raises:
        StoreError: The store is of a later version than this one knows.
    """
    if version > len(migrations):
        raise StoreError(
            f"{store}: must be of version {len(migrations)} or older; got {version}; a newer pointsman wrote it: "
            "upgrade this one"
        )
    return [statement.format(**words) for migration in migrations[version:] for statement in migration]
