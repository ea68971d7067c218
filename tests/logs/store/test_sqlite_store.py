"""SQLite: another process that holds the file, full disks, foreign files, and what deleting leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stored import a_round, eventually, said

from pointsman.errors import InvalidParameterError
from pointsman.logs.store import SqliteStore, StoreError, StoreUnavailableError, Writer


def test_commits_are_synced_to_the_disk(sqlite):
    """The file is in write-ahead mode, and full synchronisation is what makes a commit durable."""
    connection = sqlite._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_locked_file_is_waited_for_then_given_up(tmp_path):
    """Another process that writes is waited for; where it takes too long the error says that it passes."""
    path = tmp_path / "rounds.db"
    with SqliteStore.open(path, timeout_s=0.2) as store, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.add_rounds([a_round()])
        assert store.n_rounds() == 0  # readers do not wait
        other.execute("ROLLBACK")
        store.add_rounds([a_round()])
        assert store.n_rounds() == 1
    other.close()


def test_a_writer_outlasts_a_lock(tmp_path):
    """Rounds and feedback put while another process holds the file are written once it is killed; none is lost."""
    with SqliteStore.open(tmp_path / "rounds.db", timeout_s=0.1) as store:
        holding = """if True:
            import sqlite3, sys, time
            sqlite3.connect(sys.argv[1], isolation_level=None).execute("BEGIN IMMEDIATE")
            print("held", flush=True)
            time.sleep(600)
        """
        holder = subprocess.Popen([sys.executable, "-c", holding, store.path], stdout=subprocess.PIPE)  # noqa: S603 - this interpreter
        assert holder.stdout is not None
        holder.stdout.readline()
        writer = Writer(store)

        async def put() -> str:
            for number in range(100):
                assert writer.put_round(a_round(str(number)))
            told = asyncio.create_task(writer.put_feedback([said("99")]))
            while writer.n_retries < 2:
                await asyncio.sleep(0.01)
            holder.kill()
            return (await told)[0].status

        assert asyncio.run(put()) == "accepted"
        holder.wait()
        holder.stdout.close()
        writer.close()
        assert (store.n_rounds(), writer.n_lost) == (100, 0)


# Fills what the process may write to a file, says what it was told, then may write more again.
FILLED = """
import asyncio, resource, sys
from pointsman.logs.store import Feedback, Round, SqliteStore, StoreUnavailableError, Writer

def rounds(name):
    made = dict(model="m", prompt="p" * 10_000, outcome="ok")
    return [Round(round_id=f"{name}{i}", decided_at=i, **made) for i in range(200)]

store = SqliteStore.open(sys.argv[1])
store.add_rounds(rounds("before"))
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size + 1_000_000, unlimited[1]))
written = 200
try:
    for number in range(100):
        store.add_rounds(rounds(f"sync{number}-"))
        written += 200
except StoreUnavailableError as error:
    print("told", error)
assert store.n_rounds() == written

async def run():
    writer = Writer(store)
    for each in rounds("queued"):
        assert writer.put_round(each)
    feedback = Feedback(feedback_id="f", round_id="queued0", received_at=0, quality=1)
    told = asyncio.create_task(writer.put_feedback([feedback]))
    while writer.n_retries < 2:
        await asyncio.sleep(0.01)
    assert not told.done()
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (await told)[0].status == "accepted"
    writer.close()
    assert writer.n_lost == 0

asyncio.run(run())
assert store.n_rounds() == written + 200
with store.snapshot() as snapshot:
    assert snapshot.fetch("PRAGMA integrity_check") == [("ok",)]
print("recovered")
"""


def test_a_file_that_may_not_grow_is_waited_for(tmp_path):
    """Past a limit on its size nothing is half written, nothing fails the caller, and all is written once it may."""
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", FILLED, tmp_path / "rounds.db"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("told"), done.stderr
    assert done.stdout.endswith("recovered\n"), done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount to make a small disk with")
    making = [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if subprocess.run(making, capture_output=True).returncode:  # noqa: S603 - found above
        pytest.skip("this user may not mount a small disk: run as root")
    try:
        yield folder
    finally:
        # Lazily: a test that failed may have left a thread that writes, and a mount that stays breaks later sessions.
        subprocess.run([umount, "-l", folder], check=True)  # noqa: S603 - found above


def test_a_full_disk_is_outlasted(small_disk):
    """With the disk full rounds wait, then are lost and counted; what was written before is whole; room mends it."""
    filler = small_disk / "filler"
    with SqliteStore.open(small_disk / "rounds.db") as store:
        store.add_rounds([a_round("before")])
        writer = Writer(store, queue_size=100)
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

        taken = [writer.put_round(a_round(str(number), prompt="p" * 20_000)) for number in range(150)]
        assert sum(taken) == 100
        eventually(lambda: writer.n_retries >= 2)
        with pytest.raises(StoreUnavailableError, match=r"full|I/O"):
            store.add_rounds([a_round("sync", prompt="p" * 2_000_000)])
        assert store.get_round("before") is not None

        filler.unlink()
        eventually(lambda: writer.n_queued == 0)
        writer.close()
        assert store.n_rounds() == 101
        assert store.n_lost() == writer.n_lost == 50


@pytest.mark.parametrize("content", [b"no database at all " * 100, None])
def test_a_foreign_file_is_refused(tmp_path, content):
    """Neither a file of something else nor another program's database is touched."""
    path = tmp_path / "other.db"
    if content is None:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE theirs (a TEXT)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()

    with pytest.raises(StoreError, match="store of pointsman"):
        SqliteStore.open(path)
    assert content is None or path.read_bytes() == before


def test_a_store_is_a_file(tmp_path):
    """A store in memory would forget, and a folder that is not there is no place for one."""
    with pytest.raises(InvalidParameterError, match="file"):
        SqliteStore.open(":memory:")
    with pytest.raises(StoreUnavailableError):
        SqliteStore.open(tmp_path / "nowhere" / "rounds.db")


def test_what_is_deleted_is_gone_from_the_disk(sqlite):
    """Neither the file nor its write-ahead log holds a prompt or comment that was deleted, or its session's name."""
    planted = "planted-secret-text"
    sqlite.add_rounds([a_round(str(i), prompt="kept " * 50) for i in range(50)])
    sqlite.add_rounds([a_round("x", prompt=f"{planted} " * 1000, session_id=planted)])
    sqlite.add_feedback([said("x", comment=planted)])

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in sqlite.path.parent.glob("rounds.db*") if path.is_file())

    assert planted.encode() in on_disk()
    assert sqlite.delete(session_id=planted) == 1
    assert planted.encode() not in on_disk()
    assert b"kept" in on_disk()


def test_deleting_waits_for_no_reader(sqlite):
    """A long export does not hold up who deletes, nor who writes after that."""
    sqlite.add_rounds([a_round(str(number)) for number in range(10)])
    with sqlite.snapshot() as snapshot:
        snapshot.fetch("SELECT COUNT(*) FROM rounds")
        started = time.monotonic()
        assert sqlite.delete(round_id="3") == 1
        sqlite.add_rounds([a_round("new")])
        assert time.monotonic() - started < 2.5  # half of what a writer would wait for a lock


def test_readers_see_whole_batches_only(sqlite):
    """While one thread writes batches of 50, another never sees a part of one."""
    stop = threading.Event()

    def write() -> None:
        for batch in range(40):
            sqlite.add_rounds([a_round(f"{batch}-{number}") for number in range(50)])
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    while not stop.is_set():
        counts.append(sqlite.n_rounds())
    thread.join()
    assert all(count % 50 == 0 for count in counts)
    assert len(set(counts)) > 1


def test_memory_stays_flat_while_a_large_log_is_exported(tmp_path):
    """Exporting four times as many rounds takes hardly more memory: they pass through a few thousand at a time."""
    exporting = """if True:
        import resource, sys
        import numpy as np
        from pointsman.logs.store import Round, SqliteStore
        n = int(sys.argv[2])
        with SqliteStore.open(sys.argv[1]) as store:
            for start in range(0, n, 2000):
                store.add_rounds([
                    Round(round_id=str(i), decided_at=i, model="m", prompt=f"{i} " * 500, outcome="ok")
                    for i in range(start, start + 2000)
                ])
            assert store.export_log(sys.argv[1] + ".parquet") == n
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    used_mb = []
    for n_rounds in (10_000, 40_000):
        done = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-c", exporting, str(tmp_path / f"{n_rounds}.db"), str(n_rounds)],
            capture_output=True,
            text=True,
            check=True,
        )
        used_mb.append(int(done.stdout) / 1024)
    # 30,000 more rounds are 90 MB of text alone, and would be there several times over were they held at once.
    assert used_mb[1] < used_mb[0] + 60
