"""Reports of studies, in Markdown, and the command every study has."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parents[1] / "results" / "studies"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a study found.

    Attributes:
        name: The study's module.
        asked: The question, one sentence.
        found: The answer, with figures.
        holds: Whether what theory or the package promises was seen.
        body: Markdown lines after the first.
    """

    name: str
    asked: str
    found: str
    holds: bool
    body: Sequence[str]

    @property
    def text(self) -> str:
        """The whole report; its first line says what was asked, what was found and whether it holds."""
        verdict = "Holds" if self.holds else "Does not hold"
        return "\n".join([f"**{verdict}.** {self.asked} {self.found}", "", *self.body]).rstrip() + "\n"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a study runs.

    Attributes:
        quick: A tenth of the replications or less, and fewer cells: whether it runs, not what it finds.
        n_processes: Processes, one BLAS thread each.
    """

    quick: bool = False
    n_processes: int = 1


def command(study: Callable[[Options], Report], doc: str | None, argv: Sequence[str] | None = None) -> int:
    """Run a study, write its report, and return 1 where it does not hold; a quick run prints it instead."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help="a small slice, printed and not written")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes [1]")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="where reports are written")
    args = parser.parse_args(argv)
    return write(study, Options(quick=args.quick, n_processes=args.jobs), folder=args.out)


def write(study: Callable[[Options], Report], options: Options, *, folder: Path) -> int:
    """Run a study and write its report; see `command`."""
    began = time.monotonic()
    report = study(options)
    passed = time.monotonic() - began
    if options.quick:
        print(report.text)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{report.name}.md").write_text(report.text, encoding="utf-8")
    print(f"{report.name}: {report.text.splitlines()[0]} ({passed:.0f} s)", file=sys.stderr, flush=True)
    return 0 if report.holds else 1


def map_logs(work: Callable[[Any], T], jobs: Sequence[Any], *, n_processes: int, label: str) -> list[T]:
    """Return the work on every job, in order, in so many fresh processes of one BLAS thread each.

    Jobs should be small: they are handed out one at a time.
    """
    found: list[T] = []
    began = time.monotonic()
    if n_processes == 1:
        for done, job in enumerate(jobs, 1):
            found.append(work(job))
            _say(label, done, len(jobs), began)
        return found
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    try:
        with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
            for done, result in enumerate(pool.map(work, jobs), 1):
                found.append(result)
                _say(label, done, len(jobs), began)
    finally:
        for name, value in threads.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return found


@dataclass(frozen=True, kw_only=True)
class MonteCarlo:
    """A mean over replications and its Monte Carlo standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> MonteCarlo:
        """Return the mean of one number a replication."""
        return cls(value=float(values.mean()), error=float(values.std(ddof=1)) / math.sqrt(values.size))

    def z(self, expected: float = 0.0) -> float:
        """Return how many standard errors it is above what is expected."""
        return (self.value - expected) / self.error if self.error > 0 else 0.0


def bonferroni_z(n_cells: int, *, level: float = 0.99) -> float:
    """Return the |z| that none of so many cells exceeds with at least this probability, by Bonferroni."""
    return NormalDist().inv_cdf(1 - (1 - level) / (2 * n_cells))


def _say(label: str, done: int, n_jobs: int, began: float) -> None:
    if done == n_jobs or done % max(1, n_jobs // 20) == 0:
        print(f"{label}: {done}/{n_jobs} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
