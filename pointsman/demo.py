"""The whole loop on real data, offline: simulate logs, learn, estimate, and hold the estimates to the truth."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pointsman.arms import ArmSet
from pointsman.errors import InvalidLogError, LabelWarning, MissingDependencyError, StatisticalWarning
from pointsman.logs import FullFeedback, LoggedRounds, write_full_feedback, write_log
from pointsman.pipeline import (
    Evaluation,
    TrueScore,
    collapse_warnings,
    default_trade_offs,
    evaluate,
    fit,
    score,
    simulate,
)
from pointsman.plots import (
    Point,
    cost_quality_plot,
    oracle_frontier,
    router_frontier,
    single_models,
    write_plot,
)
from pointsman.registry import save_router
from pointsman.router import Router, json_number
from pointsman.types import State

SHARE_LOGGED = 0.75
"""Share of the prompts that the simulated gateway served; the others are kept to measure the truth on."""

SHARE_LEARNED = 2 / 3
"""Share of the logged rounds that is learned from; the others are the held-out log."""

WORTH_SAYING = 0.005
"""A gain in utility, of 1, under which the demo says that there is nothing to be gained."""

WORTH_SAVING = 0.05
"""A share of the best single model's cost from which the demo speaks of a saving."""

_FILES = ("val.jsonl", "test_holdout.jsonl")
_JUDGE = "DeepSeek-R1"


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One policy at one trade-off, on prompts no router has seen.

    Attributes:
        quality_per_usd: The trade-off.
        policy: Its name.
        quality: True mean quality.
        cost_usd: True mean cost of a request, in USD; NaN where the table has none.
        value: True utility.
        estimate: What the held-out log says of the utility, doubly robust; NaN for the oracle, which no log can tell.
        ci_low: Lower end of its 95% interval.
        ci_high: Upper end.
    """

    quality_per_usd: float
    policy: str
    quality: float
    cost_usd: float
    value: float
    estimate: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What the demo found.

    Attributes:
        rows: The table.
        findings: What was learned and what it would save, in plain words.
        files: What was written.
        warnings: What makes an estimate doubtful.
    """

    rows: list[DemoRow]
    findings: list[str]
    files: list[Path]
    warnings: list[str]

    def to_dict(self) -> State:
        """Return JSON-ready values."""
        return {
            "rows": [
                {key: json_number(value) if isinstance(value, float) else value for key, value in vars(row).items()}
                for row in self.rows
            ],
            "findings": self.findings,
            "files": [str(path) for path in self.files],
            "warnings": self.warnings,
        }


def example_table() -> FullFeedback:
    """Return the prompts and outcomes that ship inside the PyPI package paretobandit 0.1.1: 3 models, judged, in USD.

    The package is not imported: only its two files are read.

    Raises:
        MissingDependencyError: It is not installed.
        InvalidLogError: Its files are not those of that version.

    References:
        ParetoBandit (Apache-2.0), https://pypi.org/project/paretobandit/0.1.1/.
    """
    spec = importlib.util.find_spec("pareto_bandit")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "the demo's data ship inside paretobandit: pip install 'pointsman[demo]', or name a file with --table"
        )
    folder = Path(spec.origin).parent / "data" / "examples"
    names: list[str] = []
    rows: list[dict[str, Any]] = []
    try:
        for file in _FILES:
            found = [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").split("\n") if line]
            rows += found
            names += [f"{file.removesuffix('.jsonl')}-{place}" for place in range(len(found))]
        arms = ArmSet.named(rows[0]["arms"])
        return FullFeedback(
            query_id=tuple(names),
            prompt=tuple(row["prompt"] for row in rows),
            arms=arms,
            quality=np.array([[row["arms"][name]["reward"] for name in arms.names] for row in rows], dtype=np.float64),
            cost_usd=np.array([[row["arms"][name]["cost"] for name in arms.names] for row in rows], dtype=np.float64),
            extra=pa.table({"task": [row["source"] for row in rows]}),
            quality_source=_JUDGE,
            source="paretobandit 0.1.1",
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as broken:
        if isinstance(broken, InvalidLogError):
            raise
        raise InvalidLogError(
            f"{folder}: these are not the files of paretobandit 0.1.1 ({broken!r}); pip install paretobandit==0.1.1"
        ) from broken


def run_demo(
    table: FullFeedback,
    *,
    out: Path,
    method: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> DemoReport:
    """Run the loop on a table and write log, held-out log, truth, routers, report and plot into a folder.

    Args:
        table: The outcome of every arm for every prompt.
        out: Folder to write into; made where it does not exist.
        method: The method to learn with.
        seed: Seed of everything.
        progress: Told each step before it starts, where given.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = _run(table, out=out, method=method, seed=seed, progress=progress or (lambda _: None))
    # The judge is named in the findings, once.
    doubts = [
        str(each.message)
        for each in caught
        if issubclass(each.category, StatisticalWarning) and not issubclass(each.category, LabelWarning)
    ]
    return replace(report, warnings=collapse_warnings(doubts))


def _run(table: FullFeedback, *, out: Path, method: str, seed: int, progress: Callable[[str], None]) -> DemoReport:
    progress("simulating a confounded log")
    out.mkdir(parents=True, exist_ok=True)
    simulated = simulate(table, logger="confounded", share=SHARE_LOGGED, seed=seed)
    n_rounds = simulated.log.n_rounds
    order = np.random.default_rng(seed).permutation(n_rounds)
    n_learned = round(SHARE_LEARNED * n_rounds)
    learned, held_out = np.sort(order[:n_learned]), np.sort(order[n_learned:])
    log, held_out_log = simulated.log.take(learned), simulated.log.take(held_out)
    unseen_index = np.sort(np.concatenate([simulated.train_index[held_out], simulated.rest_index]))
    unseen = table.take(unseen_index)

    progress("learning from it, with its propensities and without")
    unlabelled = log.with_columns(propensity=pa.nulls(log.n_rounds, pa.float64()))
    routers = {
        method: fit(log, method=method, seed=seed),
        f"{method}, propensities estimated": fit(unlabelled, method=method, seed=seed),
    }

    progress("evaluating on the held-out log")
    lambdas = _shown(default_trade_offs([] if unseen.cost_usd is None else unseen.cost_usd.mean(axis=0)))
    evaluations = {
        name: evaluate(
            router,
            held_out_log,
            against=None if name == method else (),  # one report is enough
            quality_per_usd=lambdas,
            estimators=("dr",),
            seed=seed,
        )
        for name, router in routers.items()
    }
    others = evaluate(
        ["logging", *(f"always {name}" for name in table.arms.names)],
        held_out_log,
        against=(),
        quality_per_usd=lambdas,
        estimators=("dr",),
        seed=seed,
    )

    progress("scoring against the truth")
    scores = {name: score(router, unseen, quality_per_usd=lambdas) for name, router in routers.items()}
    rows: list[DemoRow] = []
    probabilities = np.zeros((n_rounds, len(table.arms))) if held_out.size == 0 else simulated.probabilities[held_out]
    truth = simulated.truth.take(held_out)
    for value in lambdas:
        rows += _rows_at(
            value,
            scores=scores,
            evaluations=evaluations,
            others=others,
            unseen=unseen,
            logging=_logging_point(truth, probabilities),
        )

    progress("writing files")
    files = _write(out, log=log, held_out=held_out_log, unseen=unseen, routers=routers)
    evaluations[method].to_html(out / "report.html")
    files.append(out / "report.html")
    if unseen.cost_usd is not None:
        figure = cost_quality_plot(
            routers=[router_frontier(router, unseen, label=name) for name, router in routers.items()],
            singles=single_models(unseen),
            logging=_logging_point(truth, probabilities),
            oracle=oracle_frontier(unseen),
            title=f"{Path(table.source).name}: {len(unseen):,} prompts no router has seen",
        )
        files += write_plot(figure, out / "cost_quality")
    findings = _findings(rows, table=table, method=method, n_learned=n_learned, n_unseen=len(unseen))
    return DemoReport(rows=rows, findings=findings, files=files, warnings=[])


def _shown(lambdas: list[float]) -> list[float]:
    """Return the trade-offs the table shows: all five would fill more than a screen."""
    return [lambdas[i] for i in (0, 1, 3, 4)] if len(lambdas) == 5 else lambdas


def _logging_point(truth: FullFeedback, probabilities: np.ndarray) -> Point:
    """Return the logging policy's true mean over the prompts it served, by its own probabilities."""
    cost_usd = np.full_like(truth.quality, np.nan) if truth.cost_usd is None else truth.cost_usd
    return Point(
        label="the policy that wrote the log",
        cost_usd=float((probabilities * cost_usd).sum(axis=1).mean()),
        quality=float((probabilities * truth.quality).sum(axis=1).mean()),
    )


def _rows_at(
    value: float,
    *,
    scores: dict[str, TrueScore],
    evaluations: dict[str, Evaluation],
    others: Evaluation,
    unseen: FullFeedback,
    logging: Point,
) -> list[DemoRow]:
    def utility(quality: float, cost_usd: float) -> float:
        return quality if value == 0 else quality - value * cost_usd

    def row(policy: str, quality: float, cost_usd: float, estimate: State | None) -> DemoRow:
        nan = float("nan")
        return DemoRow(
            quality_per_usd=value,
            policy=policy,
            quality=quality,
            cost_usd=cost_usd,
            value=utility(quality, cost_usd),
            estimate=nan if estimate is None else estimate["value"],
            ci_low=nan if estimate is None else estimate["ci_low"],
            ci_high=nan if estimate is None else estimate["ci_high"],
        )

    first = next(iter(scores.values())).row(value)
    single = first["best_single_model"]
    column = unseen.arms.index(single)
    cost_usd = np.full_like(unseen.quality, np.nan) if unseen.cost_usd is None else unseen.cost_usd
    utilities = unseen.quality if value == 0 else unseen.quality - value * cost_usd
    best = utilities == utilities.max(axis=1, keepdims=True)
    oracle = np.where(best, np.nan_to_num(cost_usd), np.inf).argmin(axis=1)
    each = np.arange(len(unseen))
    rows = [
        row("logging", logging.quality, logging.cost_usd, others.row(value, policy="logging")),
        row(
            f"always {single}",
            float(unseen.quality[:, column].mean()),
            float(cost_usd[:, column].mean()),
            others.row(value, policy=f"always {single}"),
        ),
    ]
    for name, true in scores.items():
        at = true.row(value)
        rows.append(row(name, at["quality"], at["cost_usd"], evaluations[name].row(value)))
    rows.append(row("oracle", float(unseen.quality[each, oracle].mean()), float(cost_usd[each, oracle].mean()), None))
    return rows


def _write(
    out: Path, *, log: LoggedRounds, held_out: LoggedRounds, unseen: FullFeedback, routers: dict[str, Router]
) -> list[Path]:
    write_log(log, out / "log.parquet")
    write_log(held_out, out / "held_out.parquet")
    write_full_feedback(unseen, out / "truth.parquet")
    files = [out / "log.parquet", out / "held_out.parquet", out / "truth.parquet"]
    for router, name in zip(routers.values(), ("router", "router_estimated_propensities"), strict=True):
        save_router(router, out / name)
        files.append(out / name)
    return files


def _findings(rows: list[DemoRow], *, table: FullFeedback, method: str, n_learned: int, n_unseen: int) -> list[str]:
    findings = [
        f"Learned from {n_learned:,} one-arm rounds of {len(table.arms)} models; the truth is measured on {n_unseen:,} "
        "prompts no router has seen."
    ]
    if table.quality_source != "gold":
        findings.append(f"Quality was judged by {table.quality_source}: every figure is in that judge's units.")
    lambdas = list(dict.fromkeys(row.quality_per_usd for row in rows))
    for value in lambdas:
        here = {row.policy: row for row in rows if row.quality_per_usd == value}
        single = next(row for name, row in here.items() if name.startswith("always "))
        router = here[method]
        findings.append(_verdict(value, single=single, router=router, logging=here["logging"]))
    estimated = [row for row in rows if np.isfinite(row.ci_low)]
    inside = sum(row.ci_low <= row.value <= row.ci_high for row in estimated)
    findings.append(
        f"Before anything was served, the held-out log put its 95% intervals around the truth in {inside} of "
        f"{len(estimated)} rows of the table (rows of one trade-off share their rounds, so they miss together)."
    )
    return findings


def _verdict(value: float, *, single: DemoRow, router: DemoRow, logging: DemoRow) -> str:
    name = single.policy.removeprefix("always ")
    at = "Where only quality counts" if value == 0 else f"Where a full point of quality is worth {1 / value:.2g} USD"
    gain = router.value - single.value
    cheaper = 1 - router.cost_usd / single.cost_usd if single.cost_usd > 0 else 0.0
    spared = 1000 * (single.cost_usd - router.cost_usd)
    points = f"{100 * gain:+.1f} utility points of 100"
    if gain >= WORTH_SAYING:
        said = f"{at}, routing beats always calling {name} by {100 * gain:.1f} utility points of 100"
    elif gain <= -WORTH_SAYING:
        said = f"{at}, routing loses to always calling {name} ({points})"
    elif cheaper >= WORTH_SAVING:
        said = f"{at}, routing does as well as always calling {name} ({points})"
    else:
        return (
            f"{at}, there is nothing to be gained over always calling {name} ({points}). "
            f"{_against_logging(router, logging)}"
        )
    if abs(cheaper) >= WORTH_SAVING:
        said += f" and {'saves' if spared > 0 else 'costs'} {abs(spared):.2f} USD"
        said += f"{'' if spared > 0 else ' more'} per 1,000 requests ({abs(cheaper):.0%})"
    return f"{said}. {_against_logging(router, logging)}"


def _against_logging(router: DemoRow, logging: DemoRow) -> str:
    said = f"Against the policy that wrote the log: {100 * (router.quality - logging.quality):+.1f} points of quality"
    if not np.isfinite(logging.cost_usd):
        return f"{said}."
    return f"{said} and {1000 * (router.cost_usd - logging.cost_usd):+.2f} USD per 1,000 requests."
