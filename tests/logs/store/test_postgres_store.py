"""PostgreSQL: several replicas, a server that restarts under load, and values that only a network shows."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from stored import a_round, eventually, said

from pointsman.errors import InvalidParameterError
from pointsman.logs.store import PostgresStore, StoreUnavailableError, Writer, open_store


@pytest.fixture
def url(server):
    """An empty place for a store."""
    return server.new_schema()


def test_commits_are_durable_whatever_the_server_is_set_to(url):
    """A server that acknowledges before it has written is asked to write first."""
    with PostgresStore.open(url) as store, store.snapshot() as snapshot:
        assert snapshot.fetch("SHOW synchronous_commit") == [("on",)]


def test_a_restart_under_load_loses_nothing(server, url):
    """Over a fast and an immediate restart, all rounds and all feedback acknowledged are there once; callers waited."""
    store = PostgresStore.open(url)
    writer = Writer(store, queue_size=50_000, timeout_s=60)
    restarted = threading.Event()
    acknowledged: list[str] = []

    def restart() -> None:
        for mode in ("fast", "immediate"):
            time.sleep(0.5)
            server.stop(mode)
            time.sleep(0.5)
            server.start()
        time.sleep(0.5)
        restarted.set()

    async def load() -> int:
        number = 0

        async def tell(name: str) -> None:
            result = (await writer.put_feedback([said(name, feedback_id=f"f{name}")]))[0]
            if result.status in ("accepted", "duplicate"):  # a commit whose answer was cut off is sent again
                acknowledged.append(name)

        tasks = []
        while not restarted.is_set():
            assert writer.put_round(a_round(str(number)))
            if number % 5 == 0:
                tasks.append(asyncio.create_task(tell(str(number))))
            number += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        await writer.flush()
        return number

    thread = threading.Thread(target=restart)
    thread.start()
    n_put = asyncio.run(load())
    thread.join()

    assert n_put > 500
    assert writer.n_retries > 0
    assert (store.n_rounds(), writer.n_lost) == (n_put, 0)
    judged = [each.feedback.round_id for each in store.feedback_after(limit=10**6)]
    assert sorted(judged) == sorted(acknowledged)
    assert len(judged) == len(set(judged)) == -(-n_put // 5)
    writer.close()
    store.close()


def test_replicas_share_one_log(url):
    """Two that write at once, some of it the same, make one log; a learner that follows misses no feedback."""
    stores = [PostgresStore.open(url), PostgresStore.open(url)]
    reader = PostgresStore.open(url)
    writers = [Writer(store) for store in stores]
    is_over = threading.Event()
    followed: list[str] = []

    def follow() -> None:
        # Goes on from the last place it saw: feedback that became visible after a later one would be missed.
        position = 0
        while True:
            last_round = is_over.is_set()
            while page := reader.feedback_after(position, limit=50):
                followed.extend(each.feedback.feedback_id for each in page)
                position = page[-1].seq
            if last_round:
                return

    async def replica(place: int) -> list[str]:
        told = []
        for number in range(400):
            writers[place].put_round(a_round(f"{place}-{number}"))
            writers[place].put_round(a_round(f"shared-{number}"))
            feedback = [said(f"shared-{number}", feedback_id=f"shared-{number}"), said(f"{place}-{number}")]
            told += [r.status for r in await writers[place].put_feedback(feedback)]
        return told

    results: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda place=place: results.update({place: asyncio.run(replica(place))}))
        for place in range(2)
    ]
    following = threading.Thread(target=follow)
    following.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    following.join()

    both = results[0] + results[1]
    assert both.count("accepted") == 400 + 2 * 400
    assert both.count("duplicate") == 400
    assert reader.n_rounds() == 3 * 400
    assert len(followed) == len(set(followed)) == 1200
    for each in (*writers, *stores, reader):
        each.close()


def test_feedback_becomes_visible_in_its_order(url):
    """While one replica's feedback is not committed, another's waits: its place in the order is not taken before."""
    with PostgresStore.open(url) as slow, PostgresStore.open(url) as quick:
        slow.add_rounds([a_round("a")])
        committed = threading.Event()

        async def hold() -> None:
            async with slow._connection() as connection:
                transaction = connection.transaction()
                await transaction.start()
                await slow._put(connection, [said("a", feedback_id="slow")])
                started.set()
                await asyncio.to_thread(committed.wait)
                await transaction.commit()

        started = threading.Event()
        holding = threading.Thread(target=slow._run, args=(hold,))
        holding.start()
        started.wait()
        adding = threading.Thread(target=quick.add_feedback, args=([said("a", feedback_id="quick")],))
        adding.start()
        time.sleep(0.3)
        seen_early = quick.feedback_after()
        committed.set()
        holding.join()
        adding.join()
        assert seen_early == []
        assert [each.feedback.feedback_id for each in quick.feedback_after()] == ["slow", "quick"]


def test_a_gateway_starts_without_its_database(server):
    """With the server down the store is made, the writer keeps the rounds, and all is written when it comes up."""
    url = server.new_schema()
    server.stop()
    try:
        with pytest.raises(StoreUnavailableError, match="server") as refused:
            PostgresStore.open(url, timeout_s=2)
        assert "planted-password" not in str(refused.value)
        store = open_store(url)
        writer = Writer(store)
        for number in range(10):
            assert writer.put_round(a_round(str(number)))
        eventually(lambda: writer.n_retries >= 2)
    finally:
        server.start()
    eventually(lambda: writer.n_queued == 0)
    writer.close()
    assert store.n_rounds() == 10
    store.close()


def test_a_server_that_goes_away_is_told_and_found_again(server, url):
    """A call that the restart cuts off says that it passes; the next one connects anew."""
    with PostgresStore.open(url, timeout_s=5) as store:
        store.add_rounds([a_round("a")])
        server.stop()
        try:
            with pytest.raises(StoreUnavailableError):
                store.add_rounds([a_round("b")])
        finally:
            server.start()
        store.add_rounds([a_round("b")])
        assert store.n_rounds() == 2


def test_a_statement_that_hangs_is_given_up(url):
    """A lock that someone holds does not hold the store for longer than its time."""
    with PostgresStore.open(url) as holder, PostgresStore.open(url, timeout_s=0.5) as store:
        with holder.snapshot():
            pass

        async def hold() -> None:
            async with holder._connection() as connection, connection.transaction():
                await connection.execute("LOCK TABLE rounds IN ACCESS EXCLUSIVE MODE")
                started = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    await asyncio.to_thread(store.add_rounds, [a_round()])
                assert time.monotonic() - started < 5

        holder._run(hold)
        store.add_rounds([a_round()])


def test_only_postgresql_is_postgresql():
    """A URL of another kind is refused without being repeated."""
    with pytest.raises(InvalidParameterError, match="postgresql://") as refused:
        PostgresStore("mysql://me:planted-password@host/db")
    assert "planted-password" not in str(refused.value)
