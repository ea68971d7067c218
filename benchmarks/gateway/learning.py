"""Does the gateway's utility rise with feedback on real outcomes? `python -m benchmarks.gateway.learning --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.gateway.install import ROOT
from benchmarks.markdown import grid
from benchmarks.tables import read_table, table_specs
from pointsman.gateway.demo import GatewayDemo, run_gateway_demo
from pointsman.logs import FullFeedback
from pointsman.pipeline import simulate

RESULTS = ROOT / "benchmarks" / "results" / "gateway-learning.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write the report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.learning", description=__doc__)
    add = parser.add_argument
    add("--table", default="routerbench", metavar="NAME", help="a table of benchmarks.tables [routerbench]")
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="FOLDER", help="where tables are")
    add("--logged", type=int, default=100, metavar="N", help="rounds of the log that the router is fitted on [100]")
    add("--requests", type=int, default=1400, metavar="N", help="requests through the gateway [1400]")
    add("--seeds", type=int, default=3, metavar="N", help="runs, each with other prompts [3]")
    add("--quality-per-usd", type=float, metavar="L", help="the trade-off; where choosing gains most if not given")
    add("--out", type=Path, default=RESULTS, metavar="FILE", help="the report")
    args = parser.parse_args(argv)
    table = _without_repeats(read_table(table_specs([args.table])[0], folder=args.data))
    lines = [
        "# Learning behind the gateway",
        "",
        f"{args.table}: {len(table):,} prompts, {len(table.arms)} models. A router fitted on {args.logged} logged "
        "rounds serves recorded outcomes over sockets to the official client, and learns from feedback on each answer. "
        "Utility x 100 on prompts that are never asked, less that of the best fixed model there. "
        "`python -m benchmarks.gateway.learning` repeats this.",
        "",
    ]
    asked = {"n_logged": args.logged, "n_requests": args.requests, "quality_per_usd": args.quality_per_usd}
    runs = [_run(table, **asked, seed=seed) for seed in range(args.seeds)]
    header = [
        "seed",
        *(f"{row.n_feedback:,} answers" for row in runs[0].rows),
        "oracle",
        "points per USD",
        "best fixed",
    ]
    rows = [
        [
            str(seed),
            *(f"{100 * row.gain:+.1f}" for row in run.rows),
            f"{100 * run.oracle_gain:+.1f}",
            f"{run.quality_per_usd:.0f}",
            run.best_fixed,
        ]
        for seed, run in enumerate(runs)
    ]
    lines += grid(header, rows)
    args.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


def _without_repeats(table: FullFeedback) -> FullFeedback:
    """Return the table with each prompt once: what is replayed is found by its prompt."""
    first = {prompt: row for row, prompt in reversed(list(enumerate(table.prompt)))}
    return table.take(np.sort(np.array(list(first.values()))))


def _run(
    table: FullFeedback, *, n_logged: int, n_requests: int, quality_per_usd: float | None, seed: int
) -> GatewayDemo:
    simulated = simulate(table, logger="confounded", share=0.3, seed=seed)
    some = np.random.default_rng(seed).permutation(simulated.log.n_rounds)[:n_logged]
    with tempfile.TemporaryDirectory() as folder:
        return run_gateway_demo(
            simulated.log.take(np.sort(some)),
            table.take(simulated.rest_index),
            folder=Path(folder),
            quality_per_usd=quality_per_usd,
            n_requests=n_requests,
            n_rows=5,
            seed=seed,
        )


if __name__ == "__main__":
    sys.exit(main())
