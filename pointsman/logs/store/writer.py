"""Writing off the request path: a bounded queue, and one thread that commits what waits in it as a group."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from pointsman.errors import InvalidParameterError
from pointsman.logs.store.base import RoundStore, WriterTotals
from pointsman.logs.store.errors import StoreUnavailableError
from pointsman.logs.store.records import Feedback, FeedbackResult, Round
from pointsman.logs.store.tally import Tally, dead_tallies, new_writer_id

log = logging.getLogger("pointsman.store")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


@dataclass(slots=True, eq=False)
class _Said:
    """Feedback that someone waits for; without any, someone who waits for all before it."""

    feedback: tuple[Feedback, ...]
    done: Future[list[FeedbackResult]] = field(default_factory=Future)


class Writer:
    """Takes rounds and feedback without waiting for the store, and writes them in the order in which they came.

    One thread commits all that waits as one transaction. Rounds wait up to `linger_s` for company, feedback does not.
    While the store is away the thread tries again; the queue fills, and rounds beyond it are lost, and counted. A row
    that the store refuses for good is lost alone, not with its batch.

    What is lost is noted in the store itself. A process that is killed loses what was in its queue; the next writer
    counts that, from a number that outlived it in `writers_folder`.

    Args:
        store: Where to write; it stays open when the writer closes.
        queue_size: Rounds and feedback that may wait.
        batch_size: Most that is committed at once.
        linger_s: How long a round may wait for others to be committed with it, in s.
        timeout_s: How long `put_feedback` and `flush` wait, in s.
        writers_folder: Folder on this machine that is kept over restarts; the store's own where None.

    Raises:
        InvalidParameterError: A number breaks its rule.
    """

    def __init__(
        self,
        store: RoundStore,
        *,
        queue_size: int = 10_000,
        batch_size: int = 1_000,
        linger_s: float = 0.01,
        timeout_s: float = 10.0,
        writers_folder: Path | None = None,
    ) -> None:
        for name, value in (("queue_size", queue_size), ("batch_size", batch_size)):
            if value < 1:
                raise InvalidParameterError(f"{name} must be at least 1; got {value}")
        self.store = store
        self.queue_size = queue_size
        self.batch_size = batch_size
        self.linger_s = linger_s
        self.timeout_s = timeout_s
        self.writer_id = new_writer_id()
        self._folder = writers_folder or store.writers_folder
        self._tally = self._make_tally()
        self._changed = threading.Condition()
        self._queue: deque[tuple[float, Round | _Said]] = deque()
        self._n_queued = 0
        self._n_urgent = 0
        self._n_put = 0
        self._n_written = 0
        self._n_lost = 0
        self._n_retries = 0
        self._oldest: float | None = None
        self._give_up_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="pointsman-store", daemon=True)
        self._thread.start()

    @property
    def n_queued(self) -> int:
        """Rounds and feedback that wait, those being written among them."""
        return self._n_queued

    @property
    def n_written(self) -> int:
        """Rounds written; those written before and after their end count twice."""
        return self._n_written

    @property
    def n_lost(self) -> int:
        """Rounds lost: the queue was full, or the store refused them for good."""
        return self._n_lost

    @property
    def n_retries(self) -> int:
        """Times the store could not be written to, and was tried again."""
        return self._n_retries

    @property
    def lag_s(self) -> float:
        """How long the oldest that waits has waited, in s."""
        with self._changed:
            oldest = self._oldest if self._oldest is not None else self._queue[0][0] if self._queue else None
        return 0.0 if oldest is None else time.monotonic() - oldest

    def put_round(self, round_: Round, /) -> bool:
        """Queue a round to be written; False where it is lost, and counted: the queue is full, or the writer closed.

        A round that is not over comes again, and is passed over where the queue is full: nothing is lost yet.
        """
        with self._changed:
            if self._give_up_at is not None:
                self._n_lost += 1
                return False
            if round_.outcome is None and self._n_queued >= self.queue_size:
                return True
            self._n_put += 1
            if self._tally is not None:
                self._tally.set(self._n_put)
            if self._n_queued >= self.queue_size:
                self._n_lost += 1
                return False
            self._append(round_, 1)
            return True

    async def put_feedback(self, feedback: Sequence[Feedback], /) -> list[FeedbackResult]:
        """Write feedback, and return what became of each once that is durable.

        Rounds put before are known by then. Feedback whose writing failed may be sent again: it counts once.

        Raises:
            StoreUnavailableError: The queue is full, or the store could not be written to in time.
        """
        return await self._wait(_Said(tuple(feedback)))

    async def flush(self) -> None:
        """Wait until all that was put before is written, or lost and counted.

        Raises:
            StoreUnavailableError: It was not in time.
        """
        await self._wait(_Said(()))

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Write what waits, for so long at most, and take no more; what is left then is lost, and counted."""
        with self._changed:
            if self._give_up_at is None:
                self._give_up_at = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join()

    async def _wait(self, said: _Said) -> list[FeedbackResult]:
        n_rows = len(said.feedback)
        with self._changed:
            if self._give_up_at is not None:
                raise StoreUnavailableError(
                    f"{self.store.name}: the writer is closed; send feedback to another replica"
                )
            if n_rows and self._n_queued + n_rows > self.queue_size:
                raise StoreUnavailableError(
                    f"{self.store.name}: {self._n_queued} rows wait already; send it again later"
                )
            self._n_urgent += 1
            self._append(said, n_rows)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(said.done), self.timeout_s)
        except TimeoutError:
            raise StoreUnavailableError(
                f"{self.store.name}: not written within {self.timeout_s:g} s; send it again: it counts once"
            ) from None

    def _append(self, item: Round | _Said, n_rows: int) -> None:
        self._queue.append((time.monotonic(), item))
        self._n_queued += n_rows
        # A round that joins others in the queue wakes nobody: the thread is awake, or lingers.
        if len(self._queue) == 1 or isinstance(item, _Said) or self._n_queued == self.batch_size:
            self._changed.notify_all()

    def _run(self) -> None:
        self._count_the_dead()
        while batch := self._next():
            self._settle(batch)
            with self._changed:
                self._n_queued -= sum(_n_rows(item) for item in batch)
                self._oldest = None
        self._end()

    def _next(self) -> list[Round | _Said]:
        """Wait for something to write, and return it; nothing once the writer is closed and all is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._give_up_at is not None)
            self._changed.wait_for(
                lambda: self._n_urgent or self._give_up_at is not None or self._n_queued >= self.batch_size,
                timeout=self.linger_s,
            )
            batch: list[Round | _Said] = []
            n_rows = 0
            self._oldest = self._queue[0][0] if self._queue else None
            while self._queue and (not batch or n_rows + _n_rows(self._queue[0][1]) <= self.batch_size):
                item = self._queue.popleft()[1]
                n_rows += _n_rows(item)
                self._n_urgent -= isinstance(item, _Said)
                batch.append(item)
            return batch

    def _settle(self, batch: list[Round | _Said]) -> None:
        """Write a batch, or lose it; either way no one waits for it any more."""
        # Who has stopped waiting was not told that it is written, and will send it again.
        kept = [item for item in batch if isinstance(item, Round) or item.done.set_running_or_notify_cancel()]
        try:
            self._write(kept)
        except StoreUnavailableError as error:
            self._lose(kept, error)
        except Exception as error:
            if len(kept) == 1:
                self._lose(kept, error)
            else:
                for item in kept:
                    try:
                        self._write([item])
                    except Exception as refused:
                        self._lose([item], refused)

    def _write(self, items: list[Round | _Said]) -> None:
        """Write as one transaction, as often as it takes for the store to come back or the writer to be closed."""
        rounds = [item for item in items if isinstance(item, Round)]
        said = [item for item in items if isinstance(item, _Said)]
        feedback = [each for item in said for each in item.feedback]
        pause_s = _FIRST_PAUSE_S
        while rounds or feedback:
            totals = WriterTotals(
                writer_id=self.writer_id, n_written=self._n_written + len(rounds), n_lost=self._n_lost
            )
            try:
                results = self.store.write(rounds, feedback, totals=totals)
                break
            except StoreUnavailableError as error:
                if pause_s == _FIRST_PAUSE_S:  # once an outage
                    log.warning("the store is away, and is tried again: %s", error)
                self._n_retries += 1
                if not self._pause(pause_s):
                    raise
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            results = []
        self._n_written += len(rounds)
        start = 0
        for item in said:
            item.done.set_result(results[start : start + len(item.feedback)])
            start += len(item.feedback)

    def _pause(self, pause_s: float) -> bool:
        """Wait before another attempt; False where there is none, since the writer's time to close is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._give_up_at is not None, timeout=pause_s)
        if self._give_up_at is None:
            return True
        left_s = self._give_up_at - time.monotonic()
        time.sleep(max(0.0, min(pause_s, left_s)))
        return left_s > 0

    def _lose(self, items: list[Round | _Said], error: Exception) -> None:
        n_rounds = sum(isinstance(item, Round) for item in items)
        if n_rounds:
            log.error("%d rounds are lost: %s", n_rounds, type(error).__name__)
        with self._changed:
            self._n_lost += n_rounds
        for item in items:
            if isinstance(item, _Said):
                item.done.set_exception(error)

    def _make_tally(self) -> Tally | None:
        if self._folder is None:
            return None
        try:
            return Tally.make(self._folder, self.writer_id)
        except (OSError, ImportError) as error:  # a full disk, or a system without such locks
            log.warning("should this process be killed, what it loses will not be counted: %s", error)
            return None

    def _count_the_dead(self) -> None:
        if self._folder is None or self._tally is None:
            return
        try:
            with dead_tallies(self._folder) as counts:
                for writer_id, n_put in counts.items():
                    self.store.settle(writer_id, n_put=n_put)
        except OSError as error:
            log.warning("rounds that earlier processes lost are counted at the next start: %s", error)

    def _end(self) -> None:
        is_settled = True
        try:
            totals = WriterTotals(writer_id=self.writer_id, n_written=self._n_written, n_lost=self._n_lost)
            self.store.write((), totals=totals)
        except Exception as error:
            log.warning("%d rounds lost are counted at the next start: %s", self._n_lost, error)
            is_settled = False
        if self._tally is not None:
            self._tally.close(is_settled=is_settled)


def _n_rows(item: Round | _Said) -> int:
    return 1 if isinstance(item, Round) else len(item.feedback)
