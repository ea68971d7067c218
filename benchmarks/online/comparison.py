"""Online policies on the same streams, beside ParetoBandit: `python -m benchmarks.online.comparison --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.online.parts import Parts, source_hash
from benchmarks.online.report import Found, write_report
from benchmarks.online.streams import DIALS, POLICIES, REFERENCES, Unit, dials_of, run_unit
from benchmarks.studies.table import map_logs
from benchmarks.tables import RESULTS, SHARED_DATA, TABLES, TableSpec, encoded_table, missing, table_specs
from pointsman.errors import PointsmanError

TABLES_COMPARED = ("routerbench", "paretobandit", "llmrouter", "routerdc", "demo")
"""`demo` holds ParetoBandit's own two files: it learns from the one and is scored on the other, as they ship."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A unit that is not done, and all that a fresh process needs to do it."""

    unit: Unit
    spec: TableSpec
    folder: Path
    vectors: Path
    parts: Parts
    path: Path
    sources: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not done yet, write the report and the plot, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online.comparison", description=__doc__)
    add = parser.add_argument
    add("--tables", nargs="+", default=list(TABLES_COMPARED), choices=[spec.name for spec in TABLES], metavar="TABLE")
    add("--policies", nargs="+", default=list(POLICIES), choices=POLICIES, metavar="POLICY")
    add("--dials", nargs="+", default=list(DIALS), choices=DIALS, metavar="DIAL", help=f"of {', '.join(DIALS)}")
    add("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 [10]")
    add("--jobs", type=int, default=2, metavar="N", help="processes, one thread each [2]")
    add("--reuse", action="store_true", help="keep what other sources computed")
    add("--report-only", action="store_true", help="compute nothing")
    add("--data", type=Path, default=SHARED_DATA, metavar="FOLDER", help="folder of the tables")
    add("--out", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the results")
    args = parser.parse_args(argv)
    try:
        return run(args)
    except PointsmanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the units that are done are kept: the same command goes on from here", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Run the comparison; arguments as `--help` tells them."""
    parts = Parts(folder=args.out / "parts", reuse=args.reuse)
    vectors = args.out / "vectors.sqlite"
    args.out.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = []
    for spec in table_specs(args.tables):
        if (why := missing(spec, args.data)) is not None:
            print(why, file=sys.stderr)
            continue
        encoded = encoded_table(spec, folder=args.data, vectors=vectors, show_progress=True)
        table_hash = encoded.content_hash
        for dial in dials_of(encoded.table):
            if dial not in args.dials:
                continue
            for seed in range(args.seeds):
                for policy in (*args.policies, *REFERENCES):
                    unit = Unit(seed=seed, table=spec.name, dial=dial, policy=policy)
                    path = parts.path(unit, table_hash)
                    jobs.append(
                        Job(
                            unit=unit,
                            spec=spec,
                            folder=args.data,
                            vectors=vectors,
                            parts=parts,
                            path=path,
                            sources=source_hash(policy),
                        )
                    )
    jobs.sort(key=lambda job: job.unit)
    to_do = [job for job in jobs if parts.read(job.path, job.unit.policy) is None]
    print(f"{len(jobs)} units; {len(jobs) - len(to_do)} are done, {len(to_do)} to do", file=sys.stderr)
    failures: list[str] = []
    if to_do and not args.report_only:
        said = map_logs(finish, to_do, n_processes=args.jobs, label="online")
        failures = [failure for failure in said if failure is not None]
    found: list[Found] = []
    for job in jobs:
        measured = parts.read(job.path, job.unit.policy)
        if measured is not None:
            found.append(Found(unit=job.unit, measured=measured))
    if not found:
        print("nothing is done: there is nothing to report", file=sys.stderr)
        return 1
    written = write_report(found, folder=args.out)
    print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def finish(job: Job) -> str | None:
    """Do a unit and write its part; return what failed, in words: the other units are not to suffer from it."""
    try:
        encoded = encoded_table(job.spec, folder=job.folder, vectors=job.vectors)
        job.parts.write(job.path, run_unit(job.unit, encoded), sources=job.sources)
    except Exception as error:
        return f"{job.unit}: {type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
