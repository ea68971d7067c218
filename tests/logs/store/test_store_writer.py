"""Writing off the request path: nothing acknowledged is lost, what is lost is counted, and no caller waits."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stored import a_round, eventually, said

from pointsman.errors import InvalidParameterError
from pointsman.logs.store import PostgresStore, SqliteStore, StoreError, StoreUnavailableError, Writer
from pointsman.logs.store.tally import Tally, dead_tallies

# Puts numbered rounds, feedback on every tenth; says what it put, and which feedback was acknowledged.
LOADED = """
import asyncio, sys, time
from pathlib import Path
from pointsman.logs.store import Feedback, Round, StoreUnavailableError, Writer, open_store

async def main():
    writer = Writer(open_store(sys.argv[1]), queue_size=1000, writers_folder=Path(sys.argv[2]))
    await writer.flush()  # the store is open, and the dead are counted

    async def tell(round_id):
        feedback = Feedback(feedback_id="f" + round_id, round_id=round_id, received_at=time.time(), quality=1.0)
        try:
            result, = await writer.put_feedback([feedback])
        except StoreUnavailableError:  # the queue is full
            return
        print("acknowledged", round_id, result.status, flush=True)

    tasks = set()
    for number in range(10**9):
        round_id = f"{sys.argv[3]}-{number}"
        writer.put_round(Round(round_id=round_id, decided_at=time.time(), model="m", prompt="p" * 500, outcome="ok"))
        print("put", number + 1, flush=True)
        if number % 10 == 0:
            task = asyncio.create_task(tell(round_id))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0)
        while writer.n_queued > 900:  # or the queue would overflow, and hide what the kill lost
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


# Sets a tally over and over until it is killed; says what it stands at then, 100 times.
KILLED_WHILE_SETTING = """
import os, signal, sys, time
from pathlib import Path
from pointsman.logs.store.tally import Tally, dead_tallies

folder, count = Path(sys.argv[1]), 0x0102030405060708
for _ in range(100):
    child = os.fork()
    if child == 0:
        tally = Tally.make(folder, "one")
        tally.set(count)
        (folder / "set").touch()
        while True:
            tally.set(count)
    while not (folder / "set").exists():
        time.sleep(0.0005)
    time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (folder / "set").unlink()
    with dead_tallies(folder) as counts:
        print(counts["one"] == count)
"""


def killed_under_load(url: str, folder: Path, name: str, *, after: int) -> tuple[int, set[str]]:
    """Return how many rounds a process had put, and what it had acknowledged, when it was killed at full load."""
    process = subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-c", LOADED, url, str(folder), name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    n_put, acknowledged = 0, set()
    for line in process.stdout:
        word, *rest = line.split()
        if word == "put":
            n_put = int(rest[0])
        elif rest[1:] == ["accepted"]:
            acknowledged.add(rest[0])
        if n_put >= after and len(acknowledged) >= 20:
            process.send_signal(signal.SIGKILL)
            break
    for line in process.stdout.read().splitlines():  # what it had said before it died
        word, *rest = line.split()
        if word == "put" and rest:
            n_put = int(rest[0])
        elif rest[1:] == ["accepted"]:
            acknowledged.add(rest[0])
    process.stdout.close()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return n_put, acknowledged


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_killed_process_loses_nothing_acknowledged(kind, tmp_path, request):
    """After kill -9 all acknowledged feedback is there, no round twice, and those lost are counted one by one."""
    folder = tmp_path / "writers"
    folder.mkdir()
    url = f"sqlite:///{tmp_path / 'rounds.db'}" if kind == "sqlite" else request.getfixturevalue("server").new_schema()
    opened = SqliteStore.open(tmp_path / "rounds.db") if kind == "sqlite" else PostgresStore.open(url)
    with opened as store:
        n_put = n_kept = n_killed = 0
        for name, after in (("one", 300), ("two", 700)):
            put, acknowledged = killed_under_load(url, folder, name, after=after)

            n_put += put
            n_killed += 1
            time.sleep(0.2)  # a server may still commit what its client had sent
            n_kept = store.n_rounds()
            judged = {each.feedback.round_id for each in store.feedback_after(limit=10**6)}
            assert acknowledged <= judged
            assert len(acknowledged) >= 20
            with store.snapshot() as snapshot:
                ids = [row[0] for row in snapshot.fetch("SELECT round_id FROM rounds")]
            assert len(ids) == len(set(ids)) == n_kept

        writer = Writer(store, writers_folder=folder)
        asyncio.run(writer.flush())
        # A process may be killed between counting a round and saying so.
        assert 0 <= store.n_lost() - (n_put - n_kept) <= n_killed
        assert store.n_lost() <= n_killed * 1000
        writer.close()
        assert list(folder.iterdir()) == []


def test_a_tally_is_never_half_set(tmp_path):
    """Whenever its process is killed it stands at a number that was set; set byte by byte, a quarter did not."""
    command = [sys.executable, "-c", KILLED_WHILE_SETTING, str(tmp_path)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - this interpreter
    assert found.split() == ["True"] * 100


def test_feedback_is_durable_when_it_is_acknowledged(store):
    """Another connection sees it, and the round put just before, as soon as `put_feedback` returns."""
    writer = Writer(store)

    async def put() -> list[str]:
        seen = []
        for number in range(20):
            assert writer.put_round(a_round(str(number)))
            results = await writer.put_feedback([said(str(number)), said("nowhere")])
            seen.append(store.get_round(str(number)) is not None and store.last_seq() == results[0].seq)
            assert [result.status for result in results] == ["accepted", "unknown"]
        return seen

    assert all(asyncio.run(put()))
    writer.close()
    assert (writer.n_written, writer.n_lost, writer.n_queued, writer.lag_s) == (20, 0, 0, 0.0)


def test_rounds_of_one_moment_share_commits(sqlite):
    """Many rounds put at once take far fewer commits than there are rounds; the last is written without more coming."""
    writer = Writer(sqlite, batch_size=500)
    before = sqlite.n_rounds()
    for number in range(2000):
        writer.put_round(a_round(str(number)))
    eventually(lambda: sqlite.n_rounds() == before + 2000, within_s=10)
    writer.close()
    assert writer.n_written == 2000


def test_a_round_alone_is_written_soon(sqlite):
    """No company and no feedback has to come: a round waits no longer than it may linger."""
    writer = Writer(sqlite)
    writer.put_round(a_round())
    eventually(lambda: sqlite.n_rounds() == 1, within_s=1.5)
    writer.close()


class Gate:
    """A store that can be shut: then it is away, as one whose server restarts, and writes nothing."""

    def __init__(self, store: SqliteStore) -> None:
        self.name = store.name
        self.writers_folder = store.writers_folder
        self.open = True
        self._store = store

    def write(self, *args, **kwargs):
        """Write, where it is open."""
        if not self.open:
            raise StoreUnavailableError("away")
        return self._store.write(*args, **kwargs)

    def settle(self, *args, **kwargs):
        """Count the dead."""
        self._store.settle(*args, **kwargs)


def test_a_full_queue_loses_rounds_and_counts_them(sqlite):
    """While the store is away rounds wait; those beyond the queue are refused, counted, and noted once it is back."""
    gate = Gate(sqlite)
    gate.open = False
    writer = Writer(gate, queue_size=50)

    taken = [writer.put_round(a_round(str(number))) for number in range(80)]

    assert writer.put_round(a_round("open", outcome=None))  # it comes again when it is over
    assert taken == [True] * 50 + [False] * 30
    assert (writer.n_queued, writer.n_lost) == (50, 30)
    eventually(lambda: writer.n_retries >= 2)
    assert writer.lag_s > 0
    gate.open = True
    eventually(lambda: writer.n_queued == 0)
    writer.close()
    assert sqlite.n_rounds() == 50
    assert sqlite.n_lost() == 30


def test_feedback_that_cannot_be_written_says_so_in_time(sqlite):
    """The caller is told, may send it again, and it counts once; with the queue full it is told at once."""
    gate = Gate(sqlite)
    gate.open = False
    writer = Writer(gate, queue_size=3, timeout_s=0.2)
    feedback = said("a")

    async def put() -> str:
        writer.put_round(a_round("a"))
        with pytest.raises(StoreUnavailableError, match="not written within"):
            await writer.put_feedback([feedback])
        with pytest.raises(StoreUnavailableError, match="wait already"):
            await writer.put_feedback([said("a"), said("a")])
        gate.open = True
        eventually(lambda: writer.n_queued == 0)
        return (await writer.put_feedback([feedback]))[0].status

    assert asyncio.run(put()) in ("accepted", "duplicate")
    writer.close()
    assert len(sqlite.feedback_after()) == 1


def test_a_row_that_is_refused_is_lost_alone(store):
    """One round that no database can hold takes neither its batch nor anyone's feedback with it."""
    writer = Writer(store, linger_s=0.2)

    async def put() -> list[str]:
        for number in range(10):
            writer.put_round(a_round(str(number), tokens_in=2**70 if number == 4 else 1))
        return [result.status for result in await writer.put_feedback([said("3"), said("4"), said("5")])]

    assert asyncio.run(put()) == ["accepted", "unknown", "accepted"]
    writer.close()
    assert store.n_rounds() == 9
    assert writer.n_lost == store.n_lost() == 1


def test_closing_writes_what_waits_and_takes_no_more(sqlite):
    """A clean end loses nothing, and a round or feedback that comes after it is refused."""
    writer = Writer(sqlite, linger_s=5.0)
    for number in range(500):
        writer.put_round(a_round(str(number)))
    started = time.monotonic()
    writer.close()
    writer.close()

    assert time.monotonic() - started < 4
    assert sqlite.n_rounds() == 500
    assert not writer.put_round(a_round("late"))
    with pytest.raises(StoreUnavailableError, match="closed"):
        asyncio.run(writer.put_feedback([said("0")]))


def test_closing_while_the_store_is_away_ends_and_leaves_the_count(sqlite):
    """The process can end in time; what was lost is counted by the next writer."""
    gate = Gate(sqlite)
    gate.open = False
    writer = Writer(gate)
    for number in range(5):
        writer.put_round(a_round(str(number)))
    started = time.monotonic()
    writer.close(timeout_s=0.3)

    assert 0.2 < time.monotonic() - started < 3
    assert writer.n_lost == 5
    Writer(sqlite).close()
    assert sqlite.n_lost() == 5


def test_putting_a_round_takes_no_time(sqlite):
    """Even with the database locked by another process, 1,000 rounds are put in far less than one commit's wait."""
    writer = Writer(sqlite)
    with SqliteStore.open(sqlite.path) as other, other._transaction():
        started = time.perf_counter()
        rounds = [a_round(str(number)) for number in range(1000)]
        building_s = time.perf_counter() - started
        assert all(writer.put_round(each) for each in rounds)
        took_s = time.perf_counter() - started - building_s
    assert took_s < 0.5
    eventually(lambda: writer.n_queued == 0)
    writer.close()
    assert sqlite.n_rounds() == 1000


def test_many_threads_and_loops_may_put(sqlite):
    """Rounds and feedback from several threads all arrive, each told its own result."""
    writer = Writer(sqlite)
    told: list[tuple[str, str]] = []

    def put(name: str) -> None:
        async def run() -> None:
            for number in range(100):
                writer.put_round(a_round(f"{name}-{number}"))
            results = await asyncio.gather(*(writer.put_feedback([said(f"{name}-{number}")]) for number in range(100)))
            told.extend((result.round_id, result.status) for (result,) in results)

        asyncio.run(run())

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sorted(told) == sorted((f"{name}-{number}", "accepted") for name in "abcd" for number in range(100))
    assert (writer.n_written, sqlite.n_rounds(), sqlite.last_seq()) == (400, 400, 400)


def test_a_caller_who_went_away_breaks_nothing(sqlite):
    """A cancelled request's feedback is dropped or written, and those of others get their answers."""
    gate = Gate(sqlite)
    gate.open = False
    writer = Writer(gate, timeout_s=20)

    async def put() -> list[str]:
        writer.put_round(a_round("a"))
        gone = [asyncio.create_task(writer.put_feedback([said("a")])) for _ in range(10)]
        stays = asyncio.create_task(writer.put_feedback([said("a")]))
        await asyncio.sleep(0.1)
        for task in gone:
            task.cancel()
        gate.open = True
        return [result.status for result in await stays]

    assert asyncio.run(put()) == ["accepted"]
    writer.close()


def test_two_writers_of_one_folder_leave_each_other_alone(sqlite):
    """A writer that starts counts the dead only: those that live are locked."""
    first = Writer(sqlite)
    first.put_round(a_round("a"))
    second = Writer(sqlite)
    second.put_round(a_round("b"))
    first.close()
    second.close()
    assert (sqlite.n_rounds(), sqlite.n_lost()) == (2, 0)
    assert list(sqlite.writers_folder.iterdir()) == []


def test_tallies_are_told_apart_by_who_lives(tmp_path):
    """A tally is the dead's once its file is not locked any more; forgotten only where the block ends well."""
    alive, dead = Tally.make(tmp_path, "alive"), Tally.make(tmp_path, "dead")
    dead.set(2**40 + 7)
    dead.close(is_settled=False)
    (tmp_path / "cut.tally").write_bytes(b"\1")

    with pytest.raises(StoreError), dead_tallies(tmp_path) as counts:
        raise StoreError("away")
    with dead_tallies(tmp_path) as counts:
        assert counts == {"dead": 2**40 + 7}
    with dead_tallies(tmp_path) as counts:
        assert counts == {}
    alive.close(is_settled=True)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.tally"]


@pytest.mark.parametrize("option", ["queue_size", "batch_size"])
def test_a_writer_needs_room(sqlite, option):
    """A queue or batch of nothing would write nothing."""
    with pytest.raises(InvalidParameterError, match=option):
        Writer(sqlite, **{option: 0})
