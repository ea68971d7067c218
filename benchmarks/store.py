"""How fast rounds and feedback become durable, beside one commit a row: `python -m benchmarks.store --help`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.markdown import grid
from pointsman.logs.store import Feedback, PostgresStore, Round, RoundStore, SqliteStore, Writer

N_FEATURES = 256
PROMPT = "Which of these two answers is right, and why? " * 10
MODELS = tuple(f"model-{place}" for place in range(11))
CLIENTS = (1, 16, 64, 256)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    add = parser.add_argument
    add("--postgres", metavar="URL", help="an empty database: postgresql://USER:PASSWORD@HOST/DATABASE")
    add("--folder", type=Path, help="where SQLite's file goes: a folder on the disk to be measured")
    add("--seconds", type=float, default=3.0, help="how long each figure is measured [3]")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print("\n".join(_report("SQLite", lambda: SqliteStore.open(Path(folder) / "rounds.db"), args.seconds)))
    if args.postgres:
        print("\n".join(_report("PostgreSQL", lambda: PostgresStore.open(args.postgres), args.seconds)))
    return 0


def _report(name: str, open_: Callable[[], RoundStore], seconds: float) -> list[str]:
    with open_() as store:
        alone = _one_by_one(store, seconds)
        rows = [["a round a commit", f"{alone:,.0f}", "1.0"]]
        through, put_us = asyncio.run(_through_the_queue(store, seconds, is_busy=False))
        rows.append(["rounds through the writer", f"{through:,.0f}", f"{through / alone:.1f}"])
        beside, _ = asyncio.run(_through_the_queue(store, seconds, is_busy=True))
        rows.append(["the same, beside a busy event loop", f"{beside:,.0f}", f"{beside / alone:.1f}"])
        for n_clients in CLIENTS:
            acknowledged = asyncio.run(_acknowledged(store, seconds, n_clients=n_clients))
            what = f"feedback acknowledged, {n_clients} clients"
            rows.append([what, f"{acknowledged:,.0f}", f"{acknowledged / alone:.1f}"])
        lines = [f"{name}, {N_FEATURES} features, prompts of {len(PROMPT)} characters:", ""]
        lines += grid(["durable rows", "a second", "ratio"], rows)
        lines += [f"Putting a round into the queue takes {put_us:.1f} us of the caller's time.", ""]
        return lines


def _round() -> Round:
    return Round(
        round_id=uuid.uuid4().hex,
        decided_at=time.time(),
        model=MODELS[3],
        propensity=0.25,
        eligible=MODELS,
        probabilities=dict.fromkeys(MODELS, 1 / len(MODELS)),
        quality_per_usd=50.0,
        router_version="v1",
        context=np.ones(N_FEATURES, dtype=np.float32),
        prompt=PROMPT,
        outcome="ok",
        status=200,
        cost_usd=1e-4,
        tokens_in=120,
        tokens_out=340,
        latency_s=0.7,
    )


def _one_by_one(store: RoundStore, seconds: float) -> float:
    start, n_rows = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        store.add_rounds([_round()])
        n_rows += 1
    return n_rows / (time.perf_counter() - start)


async def _through_the_queue(store: RoundStore, seconds: float, *, is_busy: bool) -> tuple[float, float]:
    """Return rounds a second from the first put until the last is durable, and the time of a put in us."""
    writer = Writer(store, timeout_s=60)
    put_s, start, n_rows = 0.0, time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        if writer.n_queued > writer.queue_size - 100:
            # A gateway's loop is busy with requests, and lets others run where it waits for its sockets.
            await (_work() if is_busy else asyncio.sleep(0.001))
            continue
        some = [_round() for _ in range(100)]
        began = time.perf_counter()
        for each in some:
            writer.put_round(each)
        put_s += time.perf_counter() - began
        n_rows += 100
        if is_busy:
            await _work()
    await writer.flush()
    rate = n_rows / (time.perf_counter() - start)
    writer.close()
    if writer.n_lost:
        raise RuntimeError(f"no round may be lost here; got {writer.n_lost}")
    return rate, 1e6 * put_s / n_rows


async def _work() -> None:
    """Compute for about 0.1 ms, then let the loop look at its sockets: as a request does."""
    sum(range(5000))
    await asyncio.sleep(0)


async def _acknowledged(store: RoundStore, seconds: float, *, n_clients: int) -> float:
    """Return feedback a second, each client sending its next once the last is durable."""
    writer = Writer(store)
    await asyncio.to_thread(store.add_rounds, [rounds := _round()])
    end, n_rows = time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal n_rows
        while time.perf_counter() < end:
            said = Feedback(
                feedback_id=uuid.uuid4().hex, round_id=rounds.round_id, received_at=time.time(), quality=1.0
            )
            await writer.put_feedback([said])
            n_rows += 1

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(n_clients)))
    rate = n_rows / (time.perf_counter() - start)
    writer.close()
    return rate


if __name__ == "__main__":
    sys.exit(main())
