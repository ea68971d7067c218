"""Methods x tables x loggers x trade-offs x seeds on one-arm logs: `python -m benchmarks.experiment --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.parts import SCHEMA, Parts
from benchmarks.report import write_report
from benchmarks.tables import RESULTS, SHARED_DATA, TABLES, TableSpec, encoded_table, missing, table_specs
from benchmarks.units import REFERENCES, Unit
from benchmarks.workers import Job, run_jobs
from pointsman.errors import PointsmanError
from pointsman.logs import replacing
from pointsman.policies import METHODS

METHODS_COMPARED = (
    "auto",
    "best-single",
    "direct",
    "knn",
    "clone",
    "rm-softmax",
    "rm-classification",
    "rm-interval",
    "dr",
)
_SIGNALS = ("pc", "length", "task")
_PROPENSITIES = ("logged", "estimated")
_SLICE = {
    "tables": ("routerbench", "llmrouter"),
    "methods": ("auto", "best-single", "direct", "knn", "rm-softmax"),
    "signals": ("pc",),
    "strengths": (1.0,),
    "seeds": 3,
}
_FULL = {
    "tables": tuple(spec.name for spec in TABLES if spec.file is not None),
    "methods": METHODS_COMPARED,
    "signals": _SIGNALS,
    "strengths": (1.0, 1.5, 2.0),
    "seeds": 10,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not done yet, write the report, and return the exit code: 0, 1 where a unit failed, 2, 130."""
    args = _parsed(argv)
    try:
        return run(args)
    except PointsmanError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; the units that are done are kept: the same command goes on from here")
        return 130


def run(args: argparse.Namespace) -> int:
    """Run the experiment; arguments as `--help` tells them."""
    specs = _readable(args)
    methods = [*_known(args.methods), *REFERENCES]
    parts = Parts(folder=args.out / "parts", reuse=args.reuse or bool(args.redo), redo=frozenset(args.redo))
    vectors = args.out / "vectors.sqlite"
    args.out.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = []
    for spec in specs:
        encoded = encoded_table(spec, folder=args.data, vectors=vectors, show_progress=True)
        table_hash = encoded.content_hash
        signals = list(args.signals)
        if "task" in signals and "task" not in encoded.table.extra.column_names:
            _say(f"table {spec.name} has no tasks: signal task is skipped")
            signals.remove("task")
        for unit in units(
            spec.name,
            signals=signals,
            strengths=args.strengths,
            propensities=args.propensities,
            n_seeds=args.seeds,
        ):
            path = parts.path(unit, table_hash)
            lacking = () if args.report_only else tuple(parts.unfinished(path, methods))
            jobs.append(
                Job(
                    unit=unit,
                    methods=lacking,
                    spec=spec,
                    folder=args.data,
                    vectors=vectors,
                    parts=parts,
                    path=path,
                )
            )
    jobs.sort(key=lambda job: job.unit)
    to_do = [job for job in jobs if job.methods]
    _say(f"{len(jobs)} units of {len(methods)} methods; {len(jobs) - len(to_do)} are done, {len(to_do)} to do")
    failures = run_jobs(to_do, n_processes=args.jobs, title="experiment") if to_do else []
    return _conclude(jobs, methods=methods, parts=parts, out=args.out, failures=failures)


def units(
    table: str,
    *,
    signals: Sequence[str],
    strengths: Sequence[float],
    propensities: Sequence[str],
    n_seeds: int,
    n_rounds: int = 0,
) -> list[Unit]:
    """Return the units of a table: the uniform logger and each confounded one, by propensities and seed."""
    loggers = [("uniform", "none", 0.0)]
    loggers += [("confounded", signal, strength) for strength in strengths for signal in signals]
    return [
        Unit(
            seed=seed,
            table=table,
            logger=logger,  # type: ignore[arg-type]
            signal=signal,  # type: ignore[arg-type]
            strength=strength,
            propensity=propensity,  # type: ignore[arg-type]
            n_rounds=n_rounds,
        )
        for seed in range(n_seeds)
        for logger, signal, strength in loggers
        for propensity in propensities
    ]


def write_rows(rows: list[dict[str, object]], path: Path) -> None:
    """Write rows of parts as one Parquet file, whole or not at all."""
    with replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)


def _conclude(jobs: Sequence[Job], *, methods: Sequence[str], parts: Parts, out: Path, failures: Sequence[str]) -> int:
    by_unit = [[row for row in parts.rows(job.path) if row["method"] in methods] for job in jobs]
    rows = [row for found in by_unit for row in found]
    if rows:
        write_rows(rows, out / "experiment.parquet")
        done = sum(bool(found) for found in by_unit)
        written = write_report(rows, folder=out, wanted=len(jobs), done=done)
        _say(f"written: {', '.join(str(path) for path in [out / 'experiment.parquet', *written])}")
    for failure in failures:
        _say(f"failed: {failure}")
    return 1 if failures or not rows else 0


def _readable(args: argparse.Namespace) -> list[TableSpec]:
    specs = table_specs(args.tables)
    absent = {spec.name: why for spec in specs if (why := missing(spec, args.data)) is not None}
    for why in absent.values():
        _say(why)
    readable = [spec for spec in specs if spec.name not in absent]
    if not readable:
        _say("none of the tables is here: the one inside the package paretobandit takes their place")
        return table_specs(["demo"])
    return readable


def _known(methods: Sequence[str]) -> list[str]:
    unknown = [name for name in methods if name not in METHODS]
    for name in unknown:
        _say(f"method {name} is skipped: this version of pointsman has {', '.join(METHODS)}")
    return [name for name in methods if name not in unknown]


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pointsman bench", description=__doc__)
    add = parser.add_argument
    add("--full", action="store_true", help="every table, method and logger, 10 seeds: hours; else a slice: minutes")
    add("--tables", nargs="+", choices=[spec.name for spec in TABLES])
    add("--methods", nargs="+", metavar="METHOD", help="learned methods; the references are always there")
    add("--signals", nargs="*", choices=_SIGNALS, help="what drives the confounded loggers")
    add("--strengths", nargs="+", type=float, metavar="S", help="how much they lean")
    add("--propensities", nargs="+", choices=_PROPENSITIES, default=list(_PROPENSITIES))
    add("--seeds", type=_positive, metavar="N", help="seeds 0 to N - 1")
    add("--jobs", type=_positive, default=2, metavar="N", help="processes, one thread each [2]")
    add("--reuse", action="store_true", help="keep what other sources of the package computed")
    add("--redo", nargs="+", default=[], metavar="METHOD", help="keep it but for these methods; implies --reuse")
    add("--report-only", action="store_true", help="compute nothing; report what is there")
    add("--data", type=Path, default=SHARED_DATA, metavar="FOLDER", help="folder of the tables")
    add("--out", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the results")
    args = parser.parse_args(argv)
    for name, value in (_FULL if args.full else _SLICE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
