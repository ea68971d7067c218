"""What a store is: rounds and feedback, durable once written, whichever database keeps them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from pointsman.errors import InvalidParameterError
from pointsman.logs.files import FilePath
from pointsman.logs.labels import Labels
from pointsman.logs.rounds import LoggedRounds
from pointsman.logs.store import export
from pointsman.logs.store.records import (
    FEEDBACK_COLUMNS,
    ROUND_COLUMNS,
    Feedback,
    FeedbackResult,
    JudgedRound,
    Round,
    Row,
    feedback_from,
    round_from,
    storable,
)

_DELETED_AT_A_TIME = 1000

_DECISION = frozenset(ROUND_COLUMNS[: ROUND_COLUMNS.index("served_model")]) | {
    "policy",
    "shadow_model",
    "shadow_version",
}
CLOSE_ROUND = f"""
    ON CONFLICT (round_id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in ROUND_COLUMNS if name not in _DECISION)}
    WHERE rounds.outcome IS NULL AND excluded.outcome IS NOT NULL
"""
"""What a round written again does: nothing but to end one that had not ended."""

ARE_KNOWN = """
    EXISTS (SELECT 1 FROM rounds r WHERE r.round_id = f.round_id AND COALESCE(r.key_id = f.key_id, TRUE))
    AND (f.other_round_id IS NULL OR EXISTS (
        SELECT 1 FROM rounds r WHERE r.round_id = f.other_round_id AND COALESCE(r.key_id = f.key_id, TRUE)
    ))
"""
"""Whether the rounds of feedback f are there, and are either the own of who gives it or no key's."""

_ROUND = ", ".join(f"r.{name}" for name in ROUND_COLUMNS)
_FEEDBACK = ", ".join(f"f.{name}" for name in FEEDBACK_COLUMNS)
_GET_ROUND = f"SELECT {_ROUND} FROM rounds r WHERE r.round_id = ?"  # noqa: S608 - names of columns
_FEEDBACK_AFTER = f"""
    SELECT f.seq, {_FEEDBACK}, {_ROUND}, (
        SELECT p.quality FROM feedback p
        WHERE p.round_id = f.round_id AND p.source = f.source AND p.seq < f.seq AND p.quality IS NOT NULL
        ORDER BY p.seq DESC LIMIT 1
    )
    FROM feedback f JOIN rounds r ON r.round_id = f.round_id
    WHERE f.seq > ? ORDER BY f.seq LIMIT ?
"""  # noqa: S608 - names of columns
_SET_POSITION = """
    INSERT INTO positions (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq
"""
_END_LEFT_OPEN = "UPDATE rounds SET outcome = 'truncated' WHERE outcome IS NULL AND decided_at < ?"
WRITER_ROW = """
    INSERT INTO writers (writer_id, n_written, n_lost) VALUES (?, ?, ?)
    ON CONFLICT (writer_id) DO UPDATE SET n_written = excluded.n_written, n_lost = excluded.n_lost
"""
_SETTLE = """
    INSERT INTO writers (writer_id, n_written, n_lost) VALUES (?, 0, ?)
    ON CONFLICT (writer_id) DO UPDATE SET n_lost = excluded.n_lost - writers.n_written
"""


class Snapshot(Protocol):
    """The store as it is at one moment, whatever is written meanwhile. Parameters stand as `?` in the SQL."""

    def fetch(self, sql: str, *parameters: Any) -> list[Row]:
        """Return all rows."""

    def stream(self, sql: str, *parameters: Any) -> Iterator[list[Row]]:
        """Return the rows, some at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterTotals:
    """What became of the rounds given to one writer, from its beginning on.

    Attributes:
        writer_id: Its name.
        n_written: Rounds written.
        n_lost: Rounds that were not, and never will be.
    """

    writer_id: str
    n_written: int
    n_lost: int


class RoundStore(ABC):
    """Rounds and feedback in a database. Every method may be called from any thread, and waits for the database.

    What was written is durable once the call returns, and what is written twice is there once. All methods raise
    StoreUnavailableError where the store cannot serve now, and StoreError where it never will.
    """

    name: str
    """What errors and logs call the store; holds no password."""

    writers_folder: Path | None = None
    """Where a `Writer` keeps count of the rounds it was given, by default; nowhere where None."""

    @abstractmethod
    def write(
        self, rounds: Sequence[Round], feedback: Sequence[Feedback] = (), *, totals: WriterTotals | None = None
    ) -> list[FeedbackResult]:
        """Write rounds, then feedback, all or nothing, and return once they are durable.

        Args:
            rounds: New ones, and such as are over by now.
            feedback: On these or earlier rounds.
            totals: What to note of the writer, with this batch.

        Returns:
            What became of each feedback, in its order.
        """

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a view of the store in which nothing changes."""

    @abstractmethod
    def execute(self, sql: str, *parameters: Any) -> int:
        """Change the store by one statement, durably; return the number of rows it changed."""

    @abstractmethod
    def close(self) -> None:
        """Let the database go. Closing twice is closing once."""

    def add_rounds(self, rounds: Sequence[Round]) -> None:
        """Write rounds; one that is there already changes only where it had not ended."""
        self.write(rounds)

    def add_feedback(self, feedback: Sequence[Feedback]) -> list[FeedbackResult]:
        """Write feedback, and return what became of each, in its order."""
        return self.write((), feedback)

    def get_round(self, round_id: str) -> Round | None:
        """Return a round; None where there is none of that name."""
        rows = self._fetch(_GET_ROUND, storable(round_id))
        return round_from(rows[0]) if rows else None

    def feedback_after(self, seq: int = 0, *, limit: int = 1000) -> list[JudgedRound]:
        """Return feedback accepted later than a place in its order, with its rounds, in that order.

        Who goes on from the last `seq` seen misses nothing, however many replicas write.
        """
        n_said = 1 + len(FEEDBACK_COLUMNS)
        return [
            JudgedRound(
                seq=row[0],
                feedback=feedback_from(row[1:n_said]),
                round=round_from(row[n_said:-1]),
                previous_quality=row[-1],
            )
            for row in self._fetch(_FEEDBACK_AFTER, seq, limit)
        ]

    def last_seq(self) -> int:
        """Return the last feedback's place; 0 where there is none."""
        return int(self._fetch("SELECT COALESCE(MAX(seq), 0) FROM feedback")[0][0])

    def n_rounds(self) -> int:
        """Return the number of rounds."""
        return int(self._fetch("SELECT COUNT(*) FROM rounds")[0][0])

    def n_lost(self) -> int:
        """Return how many rounds writers were given, and lost: their queue was full, or their process died."""
        return int(self._fetch("SELECT COALESCE(SUM(n_lost), 0) FROM writers")[0][0])

    def position(self, name: str) -> int:
        """Return how far a learner has come: the `seq` of the last feedback it has applied; 0 where it is new."""
        rows = self._fetch("SELECT seq FROM positions WHERE name = ?", name)
        return int(rows[0][0]) if rows else 0

    def set_position(self, name: str, seq: int) -> None:
        """Note how far a learner has come; back as well, where it has to learn again."""
        self.execute(_SET_POSITION, name, seq)

    def settle(self, writer_id: str, *, n_put: int) -> None:
        """Count as lost what a writer that is no more was given and had not written."""
        self.execute(_SETTLE, writer_id, n_put)

    def end_left_open(self, *, before: float) -> int:
        """End rounds decided before a Unix time that are not over: `truncated`, since what served them is no more.

        Returns:
            Number of them.
        """
        return self.execute(_END_LEFT_OPEN, before)

    def log(self, start: float = -math.inf, end: float = math.inf) -> LoggedRounds:
        """Return the rounds decided in [start, end), in Unix seconds, in the log format and in order of time.

        `quality` is gold's latest label where there is one, else the latest of any source. `model` is the one that
        served; where it stood in for the chosen one, `fallback` says so and the propensity is null. Rounds have
        prompts, or embeddings (their context) where more of them have one; those without are left out, with a warning.
        Besides the format's columns there are `chosen_model`, `policy`, `outcome`, `quality_per_usd` and `key_id`.

        Raises:
            InvalidLogError: There is no such round, or contexts differ in size.
        """
        with self.snapshot() as snapshot:
            return export.log(snapshot, start, end, store=self.name)

    def export_log(self, path: FilePath, start: float = -math.inf, end: float = math.inf) -> int:
        """Write what `log` returns to a Parquet file, a few thousand rounds in memory at a time; return their number.

        The file is there whole or not at all.

        Raises:
            InvalidLogError: As `log`; or the path is no .parquet file that can be written.
        """
        with self.snapshot() as snapshot:
            return export.write_parquet(snapshot, path, start, end, store=self.name)

    def labels(self, start: float = -math.inf, end: float = math.inf) -> Labels:
        """Return every source's latest label of the rounds decided in [start, end), as `--labels` takes them.

        Raises:
            InvalidLogError: There is none.
        """
        with self.snapshot() as snapshot:
            return export.labels(snapshot, start, end, store=self.name)

    def delete(
        self,
        *,
        round_id: str | None = None,
        session_id: str | None = None,
        key_id: str | None = None,
        before: float | None = None,
        most: int | None = None,
    ) -> int:
        """Delete rounds with all feedback on them: one, a session's, a key's, or those decided before a Unix time.

        A thousand at a time, so that others can write meanwhile; what was stopped half way can be called again.

        Args:
            round_id: The one.
            session_id: Whose conversation.
            key_id: Whose key.
            before: In Unix seconds.
            most: How many at most; all where None.

        Returns:
            Number of rounds deleted.

        Raises:
            InvalidParameterError: None or several of the four are given, or `most` is below 1.
        """
        given = {"round_id": round_id, "session_id": session_id, "key_id": key_id, "decided_at": before}
        chosen = [(column, value) for column, value in given.items() if value is not None]
        if len(chosen) != 1:
            raise InvalidParameterError(
                f"exactly one of round_id, session_id, key_id and before must be given; got {len(chosen)}"
            )
        if most is not None and most < 1:
            raise InvalidParameterError(f"most must be at least 1; got {most}; leave it out to delete all")
        column, value = chosen[0]
        compared = "<" if column == "decided_at" else "="
        sql = f"""
            DELETE FROM rounds WHERE round_id IN
            (SELECT round_id FROM rounds WHERE {column} {compared} ? LIMIT ?)
        """  # noqa: S608 - one of four names of columns
        n_deleted = 0
        left = math.inf if most is None else most
        while left > 0 and (n := self.execute(sql, value, int(min(left, _DELETED_AT_A_TIME)))):
            n_deleted += n
            left -= n
        self._wipe()
        return n_deleted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _wipe(self) -> None:  # noqa: B027 - not every database keeps traces that it can be asked to remove
        """Remove what the disk still holds of what was deleted."""

    def _fetch(self, sql: str, *parameters: Any) -> list[Row]:
        with self.snapshot() as snapshot:
            return snapshot.fetch(sql, *parameters)
