"""The whole comparison, written to `results/peers.md`: `python -m benchmarks.peers --help`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import accuracy, agreement, speed, streaming
from benchmarks.peers.install import REQUIREMENTS, ROOT

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("agreement", "accuracy", "speed", "streaming")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts asked for, write the report from all that were ever run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run; the others keep their figures")
    add("--replications", type=int, default=accuracy.N_REPLICATIONS, metavar="N", help="logs a world [200]")
    add("--runs", type=int, default=speed.N_RUNS, metavar="N", help="runs of which the median counts [3]")
    add("--rounds", nargs="+", type=int, default=list(speed.N_ROUNDS), metavar="N", help="sizes of the logs timed")
    add("--jobs", type=int, default=1, metavar="N", help="processes for accuracy [1]")
    add("--out", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the results")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("obp") is None:
        print("error: the peers are not installed here; `make peers` runs this in their environment", file=sys.stderr)
        return 2
    runs: dict[str, Callable[[], list[str]]] = {
        "agreement": lambda: agreement.section(agreement.compare()),
        "accuracy": lambda: accuracy.section(accuracy.measure(n_replications=args.replications, n_processes=args.jobs)),
        "speed": lambda: speed.section(speed.measure(sizes=args.rounds, n_runs=args.runs)),
        "streaming": lambda: streaming.section(streaming.measure(n_runs=args.runs)),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "parts" / "peers.json"
    sections: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    for name in args.parts:
        sections[name] = runs[name]()
        # Written at once: a part takes long, and the next may be interrupted.
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(sections), encoding="utf-8")
        report = "\n".join([*_head(), *(line for part in PARTS for line in sections.get(part, []))])
        (args.out / "peers.md").write_text(report.rstrip() + "\n", encoding="utf-8")
    print(f"written: {args.out / 'peers.md'}", file=sys.stderr)
    return 0


def _head() -> list[str]:
    pins = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    named = [pin for pin in pins if pin.split("==")[0] in ("vw-estimators", "doubleml", "econml", "duckdb")]
    return [
        "# Against peers",
        "",
        f"obp 0.5.7, {', '.join(named).replace('==', ' ')}; Python {sys.version.split()[0]}, numpy {np.__version__}.",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
