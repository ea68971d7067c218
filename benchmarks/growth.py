"""Regret against the number of logged rounds, at the same prompts: `python -m benchmarks.growth --help`."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiment import units, write_rows
from benchmarks.intervals import Mean
from benchmarks.parts import Parts
from benchmarks.report import grid
from benchmarks.tables import RESULTS, SHARED_DATA, TABLES, encoded_table, missing, table_specs
from benchmarks.units import CEILING, ORACLE, SHARE_LOGGED
from benchmarks.workers import Job, run_jobs
from pointsman.errors import PointsmanError
from pointsman.policies import METHODS

N_ROUNDS = (500, 1_000, 2_000, 5_000, 12_000)
METHODS_COMPARED = ("auto", "direct", "knn", "rm-softmax", "rm-classification", "best-single")

_COLOURS = {
    "auto": "#0072B2",
    "direct": "#009E73",
    "knn": "#CC79A7",
    "rm-softmax": "#D55E00",
    "rm-classification": "#E69F00",
    "best-single": "#595959",
    CEILING: "#000000",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not done yet, write the table and the plot, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    add = parser.add_argument
    add("--table", default="routerdc", choices=[spec.name for spec in TABLES])
    add("--rounds", nargs="+", type=int, default=list(N_ROUNDS), metavar="N", help="logged rounds learned from")
    add("--methods", nargs="+", default=list(METHODS_COMPARED), metavar="METHOD")
    add("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 [10]")
    add("--jobs", type=int, default=2, metavar="N", help="processes, one thread each [2]")
    add("--reuse", action="store_true", help="keep what other sources of the package computed")
    add("--redo", nargs="+", default=[], metavar="METHOD", help="keep it but for these methods; implies --reuse")
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
    """Run the study; arguments as `--help` tells them."""
    spec = table_specs([args.table])[0]
    why = missing(spec, args.data)
    if why is not None:
        print(why, file=sys.stderr)
        return 2
    for name in (name for name in args.methods if name not in METHODS):
        print(f"method {name} is skipped: this version of pointsman has {', '.join(METHODS)}", file=sys.stderr)
    methods = [*(name for name in args.methods if name in METHODS), CEILING, ORACLE]
    args.out.mkdir(parents=True, exist_ok=True)
    vectors = args.out / "vectors.sqlite"
    parts = Parts(folder=args.out / "parts", reuse=args.reuse or bool(args.redo), redo=frozenset(args.redo))
    encoded = encoded_table(spec, folder=args.data, vectors=vectors, show_progress=True)
    most = round(SHARE_LOGGED * len(encoded.table))
    wanted = [n_rounds for n_rounds in args.rounds if n_rounds <= most]
    for n_rounds in sorted(set(args.rounds) - set(wanted)):
        print(f"{n_rounds} rounds are skipped: a log of {args.table} has {most}", file=sys.stderr)
    table_hash = encoded.content_hash
    jobs = []
    for n_rounds in wanted:
        for unit in units(
            spec.name, signals=["pc"], strengths=[1.0], propensities=["logged"], n_seeds=args.seeds, n_rounds=n_rounds
        ):
            path = parts.path(unit, table_hash)
            jobs.append(
                Job(
                    unit=unit,
                    methods=tuple(parts.unfinished(path, methods)),
                    spec=spec,
                    folder=args.data,
                    vectors=vectors,
                    parts=parts,
                    path=path,
                )
            )
    # Seed by seed, so that a run cut short has every size.
    to_do = sorted((job for job in jobs if job.methods), key=lambda job: (job.unit.seed, job.unit.n_rounds, job.unit))
    failures = run_jobs(to_do, n_processes=args.jobs, title="growth") if to_do else []
    rows = [row for job in jobs for row in parts.rows(job.path) if row["method"] in methods]
    if rows:
        write_rows(rows, args.out / "growth.parquet")
        for path in write_report(rows, table=args.table, folder=args.out):
            print(f"written: {path}", file=sys.stderr)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures or not rows else 0


Curves = dict[str, dict[str, dict[int, Mean]]]
"""Logger -> method -> rounds -> mean over seeds."""


def regrets(rows: Sequence[dict[str, Any]]) -> tuple[Curves, Curves]:
    """Return regret, and its excess over that of the ceiling of the largest log, both x 100 at lambda = 0.

    The oracle knows what no feature shows, so regret has a floor; the excess is what more rounds could take away.
    """
    found: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["lambda_scaled"] == 0:
            found[row["logger"], row["method"], row["n_rounds"]][row["seed"]] = 100 * row["value"]
    most = max(n_rounds for _, _, n_rounds in found)
    regret: Curves = defaultdict(lambda: defaultdict(dict))
    excess: Curves = defaultdict(lambda: defaultdict(dict))
    for (logger, method, n_rounds), values in found.items():
        if method == ORACLE:
            continue
        for curves, other in ((regret, (logger, ORACLE, n_rounds)), (excess, (logger, CEILING, most))):
            best = found[other]
            seeds = sorted(values.keys() & best.keys())
            curves[logger][method][n_rounds] = Mean.of([best[seed] - values[seed] for seed in seeds])
    return regret, excess


def write_report(rows: Sequence[dict[str, Any]], *, table: str, folder: Path) -> list[Path]:
    """Write `growth.md` and `growth.png` and return their paths."""
    means, excess = regrets(rows)
    seeds = len({row["seed"] for row in rows})
    sizes = sorted({row["n_rounds"] for row in rows})
    lines = [
        "# Regret against the number of logged rounds",
        "",
        f"Table {table}, lambda = 0, {seeds} seeds, true propensities. Every method learns from the same rounds, a "
        "smaller log being a part of the larger ones, and is scored on the same prompts, those of no log. Regret is "
        "the oracle's utility minus the method's, x 100, with half the width of its 95% interval over seeds. "
        f"`{CEILING}` saw every model's outcome of the same prompts. The last column is the slope in "
        "logarithms: -0.5 halves with four times the rounds.",
        "",
        "![Regret against rounds](growth.png)",
        "",
    ]
    for logger in sorted(means, reverse=True):
        lines += [f"## {_title(logger)}", ""]
        lines += _table("regret", means[logger], sizes=sizes)
        lines += [f"Excess over the regret of `{CEILING}` on {sizes[-1]:,} prompts, paired by seed:", ""]
        lines += _table("excess regret", excess[logger], sizes=sizes)
    report, figure = folder / "growth.md", folder / "growth.png"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    write_plot(means, sizes=sizes, table=table, path=figure)
    return [report, figure]


def _table(title: str, curves: dict[str, dict[int, Mean]], *, sizes: Sequence[int]) -> list[str]:
    rows = [
        [method, *(_cell(by_size.get(size)) for size in sizes), _slope(by_size)] for method, by_size in curves.items()
    ]
    return grid([title, *(f"{size:,}" for size in sizes), "slope"], rows)


def _title(logger: str) -> str:
    return "Uniform logging" if logger == "uniform" else "Confounded logging (first principal component, S = 1)"


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return "-"
    return f"{mean.value:.2f}" + ("" if np.isnan(mean.half_width) else f" ± {mean.half_width:.2f}")


def _slope(by_size: dict[int, Mean]) -> str:
    sizes = [size for size in by_size if by_size[size].value > 0]
    if len(sizes) < 2:
        return "-"
    return f"{np.polyfit(np.log(sizes), np.log([by_size[size].value for size in sizes]), 1)[0]:+.2f}"


def write_plot(means: Curves, *, sizes: Sequence[int], table: str, path: Path) -> None:
    """Write regret against rounds as a PNG, both axes logarithmic; bars are 95% intervals over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(5.2 * len(means) + 0.4, 4.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(means), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    shown = [mean.value for curves in means.values() for by_size in curves.values() for mean in by_size.values()]
    for axes, logger in zip(panels, sorted(means, reverse=True), strict=True):
        for place, (method, by_size) in enumerate(means[logger].items()):
            mine = sorted(by_size)
            half = np.nan_to_num([by_size[size].half_width for size in mine])
            # Side by side, or the bars of one size would hide each other.
            shift = 1.025 ** (place - (len(means[logger]) - 1) / 2)
            handles[method] = axes.errorbar(
                np.array(mine) * shift,
                [by_size[size].value for size in mine],
                yerr=half,
                color=_COLOURS.get(method, "#56B4E9"),
                linestyle="--" if method in (CEILING, "best-single") else "-",
                linewidth=2.4 if method == "auto" else 1.4,
                elinewidth=0.9,
                marker="o",
                markersize=4,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        # By the lines: the intervals of a few seeds would leave no room for them.
        axes.set_ylim(0.94 * min(shown), 1.06 * max(shown))
        axes.set_xticks(list(sizes), [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(_title(logger), loc="left", fontsize=10)
        axes.set_xlabel("logged rounds (log scale)")
        axes.grid(visible=True, color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"regret x 100 on {table} (log scale)")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
