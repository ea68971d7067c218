"""Ten million rounds in bounded memory, read from Parquet: `python -m benchmarks.peers.streaming --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.peers.processes import cpu_seconds, medians, peak_mib
from pointsman.ope.estimate import Estimate, EstimateSums
from pointsman.ope.estimators import dr, ips, snips
from pointsman.types import PerArm, PerRound

N_ROUNDS = 10_000_000
N_ARMS = 5
BATCH_ROUNDS = 131_072
"""Rounds read at once: small beside what the libraries take, large enough that the arithmetic is numpy's."""
N_RUNS = 3

EXPECTED = np.linspace(0.3, 0.7, N_ARMS)
LEANING = np.linspace(-1.0, 1.0, N_ARMS)
ESTIMATORS = ("ips", "snips", "dr")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the section of the report and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.streaming", description=__doc__)
    parser.add_argument("--rounds", type=int, default=N_ROUNDS, metavar="N", help="rounds of the log [10,000,000]")
    parser.add_argument("--runs", type=int, default=N_RUNS, metavar="N", help="runs of which the median counts [3]")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        json.dump(_measure(args.measure[0], Path(args.measure[1])), sys.stdout)
        return 0
    print("\n".join(section(measure(n_rounds=args.rounds, n_runs=args.runs))))
    return 0


def measure(*, n_rounds: int = N_ROUNDS, n_runs: int = N_RUNS) -> list[dict[str, Any]]:
    """Write a log, evaluate it in fresh processes, and return the median of each."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (n_rounds // 10, n_rounds):
            path = Path(folder) / f"{size}.parquet"
            write_log(path, n_rounds=size)
            for name in _RUNS:
                print(f"streaming: {name}, {size:,} rounds", file=sys.stderr, flush=True)
                median = medians("benchmarks.peers.streaming", ["--measure", name, str(path)], n_runs=n_runs)
                found.append({"name": name, "n_rounds": size, **median})
    return found


def section(found: list[dict[str, Any]]) -> list[str]:
    """Return the section of the report."""
    rows = [
        [
            each["name"],
            f"{each['n_rounds']:,}",
            f"{each['value']:.6f}",
            f"{each['standard_error']:.1e}",
            f"{each['seconds']:.2f}",
            f"{each['cpu_seconds']:.2f}",
            f"{each['peak_mib']:,.0f}",
            f"{each['before_mib']:,.0f}",
        ]
        for each in found
    ]
    return [
        "## Streaming",
        "",
        f"A Parquet log of {N_ARMS} arms with a feature, read in batches of {BATCH_ROUNDS:,} rounds, each summed into "
        "`EstimateSums`; DuckDB runs the same IPS and its standard error as one query, with two threads and 256 MB. "
        "The target leans to late arms where the feature is large; DR's outcome model is fixed. Memory is the "
        "process's peak; what it took before reading is the libraries'.",
        "",
        *grid(
            ["estimator", "rounds", "value", "standard error", "seconds", "CPU seconds", "peak MiB", "MiB before"],
            rows,
        ),
    ]


def write_log(path: Path, *, n_rounds: int, seed: int = 0) -> None:
    """Write a log of a feature, an arm, its propensity and its outcome, in row groups of a million rounds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    schema = pa.schema({"x": pa.float32(), "arm": pa.int8(), "propensity": pa.float32(), "outcome": pa.float32()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n_rounds, 1_000_000):
            size = min(1_000_000, n_rounds - start)
            x = rng.standard_normal(size, dtype=np.float32)
            probabilities = 0.9 * _softmax(-0.5 * x[:, None] * LEANING) + 0.1 / N_ARMS
            drawn = (rng.random((size, 1)) >= probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)
            expected = EXPECTED[drawn] + 0.2 * np.tanh(x) * LEANING[drawn]
            columns = {
                "x": x,
                "arm": drawn.astype(np.int8),
                "propensity": probabilities[np.arange(size), drawn].astype(np.float32),
                "outcome": (rng.random(size) < expected).astype(np.float32),
            }
            writer.write_table(pa.table(columns, schema=schema))


def stream(path: Path, estimator: str, *, batch_rounds: int = BATCH_ROUNDS) -> EstimateSums:
    """Return the sums of an estimate over a log that `write_log` wrote, without holding more than a batch of it."""
    import pyarrow.parquet as pq

    columns = ["x", "arm", "propensity", "outcome"]

    def sums_of(batch: Any) -> EstimateSums:
        x, arm, propensity, outcome = (batch.column(name).to_numpy(zero_copy_only=False) for name in columns)
        x = x.astype(np.float64)
        inputs: dict[str, Any] = {
            "arm": arm.astype(np.int64),
            "outcome": outcome.astype(np.float64),
            "propensity": propensity.astype(np.float64),
            "target_probs": target(x),
        }
        return _estimate(estimator, inputs, x).sums()

    with pq.ParquetFile(path) as log:
        # Group by group: one iteration over all of them keeps what it has read, 9 MB a million rounds.
        batches = (
            batch
            for group in range(log.num_row_groups)
            for batch in log.iter_batches(batch_size=batch_rounds, row_groups=[group], columns=columns)
        )
        return reduce(add, map(sums_of, batches))


def target(x: PerRound) -> PerArm:
    """Return the target policy: softmax of x times the arms' leanings."""
    return _softmax(x[:, None] * LEANING)


def _estimate(estimator: str, inputs: dict[str, Any], x: PerRound) -> Estimate:
    if estimator == "dr":
        return dr(**inputs, predicted=EXPECTED + 0.15 * np.tanh(x)[:, None] * LEANING)
    return {"ips": ips, "snips": snips}[estimator](**inputs)


def _softmax(logits: NDArray[Any]) -> PerArm:
    weight = np.exp(logits)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), dtype=np.float64)


def _with_duckdb(path: Path) -> tuple[float, float]:
    import duckdb

    exponentials = [f"exp(x * {leaning})" for leaning in LEANING]
    chosen = " ".join(f"WHEN {t} THEN {term}" for t, term in enumerate(exponentials))
    query = f"""
        SELECT avg(v), stddev_samp(v) / sqrt(count(*)) FROM (
            SELECT outcome::DOUBLE * (CASE arm {chosen} END) / ({" + ".join(exponentials)}) / propensity AS v
            FROM read_parquet(?)
        )
    """  # noqa: S608 - of our own constants
    with duckdb.connect(config={"threads": 2, "memory_limit": "256MB"}) as connection:
        row = connection.execute(query, [str(path)]).fetchone()
    assert row is not None
    return float(row[0]), float(row[1])


def _pointsman(estimator: str) -> Callable[[Path], tuple[float, float]]:
    def run(path: Path) -> tuple[float, float]:
        sums = stream(path, estimator)
        return sums.value, sums.standard_error

    return run


_RUNS: dict[str, Callable[[Path], tuple[float, float]]] = {
    **{f"pointsman {estimator}": _pointsman(estimator) for estimator in ESTIMATORS},
    "duckdb ips": _with_duckdb,
}


def _measure(name: str, path: Path) -> dict[str, float]:
    if name == "duckdb ips":
        import duckdb  # noqa: F401 - loaded before it is timed
    else:
        import pyarrow.parquet  # noqa: F401
    before = peak_mib()
    began, began_cpu = time.perf_counter(), cpu_seconds()
    value, standard_error = _RUNS[name](path)
    return {
        "value": value,
        "standard_error": standard_error,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": cpu_seconds() - began_cpu,
        "before_mib": before,
        "peak_mib": peak_mib(),
    }


if __name__ == "__main__":
    sys.exit(main())
