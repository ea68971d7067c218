"""Does the gateway's utility rise with feedback on real outcomes? `python -m benchmarks.gateway.learning --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.gateway.install import ROOT
from benchmarks.intervals import Mean
from benchmarks.markdown import grid
from benchmarks.tables import read_table, table_specs
from pointsman.gateway.demo import GatewayDemo, run_gateway_demo
from pointsman.logs import FullFeedback
from pointsman.pipeline import simulate

RESULTS = ROOT / "benchmarks" / "results" / "gateway-learning.md"
N_ROWS = 5
MOST_LOGGED = 2
"""Prompts that the log is drawn from, over those in it; all others are asked or held out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write the report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.learning", description=__doc__)
    add = parser.add_argument
    add("--table", default="routerbench", metavar="NAME", help="a table of benchmarks.tables [routerbench]")
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="FOLDER", help="where tables are")
    add("--logged", type=int, default=100, metavar="N", help="rounds of the log that the router is fitted on [100]")
    add("--requests", type=int, default=1900, metavar="N", help="requests through the gateway [1900]")
    add("--seeds", type=int, default=10, metavar="N", help="runs, each with other prompts [10]")
    add(
        "--dials",
        type=float,
        nargs="+",
        default=[0.1, 0.2, 0.5],
        metavar="D",
        help="trade-offs, in units of 1 / mean cost of the dearest model [0.1 0.2 0.5]",
    )
    add("--out", type=Path, default=RESULTS, metavar="FILE", help="the report")
    args = parser.parse_args(argv)
    table = _without_repeats(read_table(table_specs([args.table])[0], folder=args.data))
    assert table.cost_usd is not None
    dearest_usd = float(table.cost_usd.mean(axis=0).max())
    rows = []
    for dial in args.dials:
        asked = {"n_logged": args.logged, "n_requests": args.requests, "quality_per_usd": dial / dearest_usd}
        runs = [_run(table, **asked, seed=seed) for seed in range(args.seeds)]
        gains = np.array([[row.gain for row in run.rows] for run in runs])
        rows.append(
            [
                f"{dial:g}",
                *(_interval(Mean.of(100 * gain)) for gain in gains.T),
                f"{(gains[:, -1] > 0).sum()} of {len(runs)}",
                f"{100 * np.mean([run.oracle_gain for run in runs]):+.1f}",
                ", ".join(sorted({run.best_fixed for run in runs})),
            ]
        )
    counts = [row.n_feedback for row in runs[0].rows]
    header = ["dial", *(f"{count:,} answers" for count in counts), "ahead at the end", "oracle", "best fixed"]
    lines = [
        "# Learning behind the gateway",
        "",
        f"{args.table}: {len(table):,} prompts, {len(table.arms)} models. A router fitted on {args.logged} logged "
        "rounds serves recorded outcomes over sockets to the official client, and learns from feedback on each answer. "
        "Utility x 100 on prompts that are never asked, less that of the best fixed model there: means over "
        f"{args.seeds} seeds, each with other prompts, with their 95% t-intervals, and the runs that end above it. "
        "Dials are lambda in units of 1 / mean cost of the dearest model. "
        "`python -m benchmarks.gateway.learning` repeats this.",
        "",
        *grid(header, rows),
    ]
    args.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


def _interval(each: Mean) -> str:
    return f"{each.value:+.1f} ± {each.half_width:.1f}"


def _without_repeats(table: FullFeedback) -> FullFeedback:
    """Return the table with each prompt once: what is replayed is found by its prompt."""
    first = {prompt: row for row, prompt in reversed(list(enumerate(table.prompt)))}
    return table.take(np.sort(np.array(list(first.values()))))


def _run(table: FullFeedback, *, n_logged: int, n_requests: int, quality_per_usd: float, seed: int) -> GatewayDemo:
    simulated = simulate(table, logger="confounded", share=MOST_LOGGED * n_logged / len(table), seed=seed)
    some = np.random.default_rng(seed).permutation(simulated.log.n_rounds)[:n_logged]
    with tempfile.TemporaryDirectory() as folder:
        return run_gateway_demo(
            simulated.log.take(np.sort(some)),
            table.take(simulated.rest_index),
            folder=Path(folder),
            quality_per_usd=quality_per_usd,
            n_requests=n_requests,
            n_rows=N_ROWS,
            seed=seed,
        )


if __name__ == "__main__":
    sys.exit(main())
