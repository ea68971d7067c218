"""What a learner reads of a store."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pointsman.errors import InvalidLogError
from pointsman.logs import LoggedRounds
from pointsman.logs.store import JudgedRound, RoundStore, export

DRAWN = ("router", "canary")
"""What chose the models of rounds in which another could have been drawn."""


class Heard:
    """The feedback of a store that a router may learn: for `learn_feedback`, in place of the store.

    Feedback on other rounds is read past, so that what a router has learned through goes on.

    Args:
        store: Where it is.
        n_features: Of the router's context; rounds of another encoder's are not learned.
        start: Rounds decided from then on, in Unix seconds.
        end: Rounds decided before then.
        through: The last feedback, by its place in the order; all where None.
        most: About how much feedback is read before it seems to end, however much there is.
    """

    def __init__(
        self,
        store: RoundStore,
        *,
        n_features: int,
        start: float = -math.inf,
        end: float = math.inf,
        through: int | None = None,
        most: float = math.inf,
    ) -> None:
        self._store, self._n_features = store, n_features
        self._start, self._end, self._through = start, end, through
        self._left = most

    def feedback_after(self, seq: int = 0, *, limit: int = 1000) -> list[JudgedRound]:
        """Return feedback as the store does; a round that is not to be learned has no context."""
        if self._left <= 0:
            return []
        found = self._store.feedback_after(seq, limit=limit)
        self._left -= len(found)
        return [
            judged if self._is_meant(judged) else _without_context(judged)
            for judged in found
            if self._through is None or judged.seq <= self._through
        ]

    def _is_meant(self, judged: JudgedRound) -> bool:
        context = judged.round.context
        return (
            context is not None
            and context.size == self._n_features
            and bool(np.isfinite(context).all())
            and self._start <= judged.round.decided_at < self._end
        )


def _without_context(judged: JudgedRound) -> JudgedRound:
    return dataclasses.replace(judged, round=dataclasses.replace(judged.round, context=None))


def read_log(store: RoundStore) -> tuple[LoggedRounds, int]:
    """Return all rounds as a log in order of time, and the place of the last feedback that is in it.

    Raises:
        InvalidLogError: There is no round with a prompt or a context.
    """
    # One snapshot: feedback that comes between the two would be learned twice, or never.
    with store.snapshot() as snapshot:
        seq = int(snapshot.fetch("SELECT COALESCE(MAX(seq), 0) FROM feedback")[0][0])
        return export.log(snapshot, -math.inf, math.inf, store=store.name), seq


def drawn(log: LoggedRounds) -> LoggedRounds:
    """Return the rounds in which other models could have been drawn as well.

    Left out are models that a client named, the default where a router failed, and conversations that stayed with
    their model: no other policy could be evaluated on those.

    Raises:
        InvalidLogError: There is none.
    """
    kept = np.isin(log.table["policy"].to_pylist(), DRAWN)
    if not kept.any():
        raise InvalidLogError(f"{log.source}: at least one round must have been drawn by a router; got none")
    return log.filter(kept)
