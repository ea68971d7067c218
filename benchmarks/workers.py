"""Work on units in several processes, say how it goes, and lose nothing that is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.parts import Parts
from benchmarks.tables import TableSpec, encoded_table
from benchmarks.units import Unit, run_unit

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A unit, the methods it lacks, and all that a fresh process needs to work on it."""

    unit: Unit
    methods: tuple[str, ...]
    spec: TableSpec
    folder: Path
    vectors: Path
    parts: Parts
    path: Path


def finish(job: Job) -> None:
    """Run a job and write its part."""
    encoded = encoded_table(job.spec, folder=job.folder, vectors=job.vectors)
    job.parts.add(job.path, run_unit(job.unit, encoded, job.methods))


def run_jobs(jobs: Sequence[Job], *, n_processes: int, title: str) -> list[str]:
    """Run jobs and return what failed, in words; the others are done.

    Args:
        jobs: The jobs.
        n_processes: Processes; with one, this one works.
        title: What the progress bar says.

    Raises:
        KeyboardInterrupt: It was interrupted; parts that are finished are kept.
    """
    failures: list[str] = []
    with _progress(len(jobs), title=title) as progress:
        if n_processes == 1:
            for job in jobs:
                _tell(job, _attempt(job), progress=progress, failures=failures)
            return failures
        with _pool(n_processes) as executor:
            futures: dict[Future[None], Job] = {executor.submit(finish, job): job for job in jobs}
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    failures.append("a worker was killed, or ran out of memory: units that are not done were not run")
                    break
                _tell(futures[future], error, progress=progress, failures=failures)
    return failures


@contextmanager
def _pool(n_processes: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes with one BLAS thread each: more would only wait for each other."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    executor = ProcessPoolExecutor(
        n_processes, mp_context=multiprocessing.get_context("spawn"), initializer=_die_of_interrupts
    )
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _attempt(job: Job) -> Exception | None:
    try:
        finish(job)
    except Exception as error:
        return error
    return None


class _Progress(Protocol):
    def done(self, label: str) -> None: ...

    def say(self, line: str) -> None: ...


def _tell(job: Job, error: BaseException | None, *, progress: _Progress, failures: list[str]) -> None:
    if error is not None:
        failures.append(f"{job.unit}: {type(error).__name__}: {error}")
        progress.say(f"failed: {failures[-1]}")
    progress.done(str(job.unit))


def _die_of_interrupts() -> None:
    # A terminal's Ctrl-C reaches every process; the default handler ends a worker without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Bar:
    """A bar for a terminal."""

    def __init__(self, n_jobs: int, *, title: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (BarColumn(), MofNCompleteColumn(), *times, TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=Console(stderr=True))
        self.title = title
        self.task = self.progress.add_task(title, total=n_jobs)

    def done(self, label: str) -> None:
        self.progress.update(self.task, advance=1, description=f"{self.title}: {label}")

    def say(self, line: str) -> None:
        self.progress.console.print(line, markup=False)


class _Lines:
    """A line a unit, for a file or a pipe."""

    def __init__(self, n_jobs: int, *, title: str) -> None:
        self.n_jobs, self.title, self.n_done = n_jobs, title, 0
        self.began = time.monotonic()

    def done(self, label: str) -> None:
        self.n_done += 1
        passed = time.monotonic() - self.began
        left = passed / self.n_done * (self.n_jobs - self.n_done)
        self.say(f"{self.title} {self.n_done}/{self.n_jobs} after {passed:.0f} s, about {left:.0f} s left: {label}")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _progress(n_jobs: int, *, title: str) -> Iterator[_Progress]:
    if not sys.stderr.isatty():
        yield _Lines(n_jobs, title=title)
        return
    bar = _Bar(n_jobs, title=title)
    with bar.progress:
        yield bar
