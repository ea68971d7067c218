"""Retention: rounds beyond their age are deleted, with all that was said of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pointsman.gateway.live import log as logger
from pointsman.online.budget import DAY_S

if TYPE_CHECKING:
    from pointsman.logs.store import RoundStore

PORTION = 1000
"""Rounds deleted in one transaction: for so long all that write to SQLite wait."""
INTERVAL_S = 60.0
"""Time between two looks for rounds that are too old."""


class Retention:
    """Deletes what is older than the settings keep, a portion at a time.

    Args:
        store: Of the rounds.
        clock: Time in Unix seconds.
    """

    def __init__(self, store: RoundStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._look_at = 0.0
        self._n_deleted = 0

    def step(self, retention_days: float | None) -> bool:
        """Delete one portion of what is too old where it is time to look, and return whether there may be more.

        Args:
            retention_days: Age from which on a round is deleted; None keeps all.

        Raises:
            StoreError: The store cannot be written to.
        """
        now = self._clock()
        if retention_days is None or now < self._look_at:
            return False
        n = self._store.delete(before=now - retention_days * DAY_S, most=PORTION)
        self._n_deleted += n
        if n == PORTION:
            return True
        self._look_at = now + INTERVAL_S
        if self._n_deleted:
            logger.info("deleted %d rounds older than %g days", self._n_deleted, retention_days)
            self._n_deleted = 0
        return False
