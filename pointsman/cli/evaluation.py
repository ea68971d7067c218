"""Commands that judge policies: on a log, or against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli.app import app
from pointsman.cli.options import (
    CorrectionName,
    CostColumn,
    Gold,
    Json,
    LabelsFile,
    Lambdas,
    Models,
    Propensity,
    QualityColumn,
    Seed,
    Where,
    read_labels_file,
    read_table_file,
)
from pointsman.cli.show import grid, interval, make_console, number, per_thousand, print_json
from pointsman.errors import InvalidParameterError

if TYPE_CHECKING:
    from rich.console import Console

    from pointsman.pipeline import Evaluation, Target
    from pointsman.types import State


@app.command(epilog="Example: pointsman evaluate router held_out.parquet --report report.html")
def evaluate(
    routers_and_log: Annotated[
        list[str],
        typer.Argument(
            metavar="ROUTER... LOG",
            help="Router folders, 'always MODEL', 'best-single' or 'logging'; last, a log no router was fitted on.",
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="OLD",
            help="What to compare with, spelled as the routers are; repeat it for several. By default the best single "
            "model of the training log, and the policy that wrote the log.",
        ),
    ] = None,
    quality_per_usd: Lambdas = None,
    level: Annotated[float, typer.Option("--level", help="Coverage of the intervals, in (0, 1).")] = 0.95,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write everything to one self-contained HTML page.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="RULE",
            help="Exit with 1 unless the difference new minus old is shown to meet it, such as 'utility>=0' or "
            "'cost_usd<=-0.001'; repeat it for several. All must hold at every trade-off.",
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Confidence in each requirement, one-sided, in (0.5, 1).")
    ] = 0.95,
    estimator: Annotated[
        list[str] | None,
        typer.Option("--estimator", help="Shown in the table; repeat it for several, or 'all'. By default dr."),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="COLUMN", help="Column to slice by; repeat it. By default task, if there."),
    ] = None,
    propensity: Propensity = "auto",
    propensity_floor: Annotated[
        float | None,
        typer.Option(
            "--propensity-floor",
            metavar="P",
            help="Least probability the logging policy gave any eligible model, if you know it: narrower intervals.",
        ),
    ] = None,
    labels: LabelsFile = None,
    gold: Gold = "gold",
    correction: CorrectionName = "hierarchical",
    cross_fit: Annotated[
        bool, typer.Option("--cross-fit", help="Refit the router's method by fold and evaluate it out of fold.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Estimate from a log what routers would have achieved, with intervals and diagnostics.

    Rounds a router was fitted on are never read; with --cross-fit its method is refitted without them.
    """
    from pointsman.logs import read_log
    from pointsman.ope import ESTIMATORS
    from pointsman.pipeline import Requirement, check, evaluate_cross_fitted, one_sided_level
    from pointsman.pipeline import evaluate as estimate
    from pointsman.router import Router

    *names, path = routers_and_log
    if not names:
        raise InvalidParameterError(f"evaluate needs a router and a log; got only {path!r}")
    requirements = [Requirement.parse(text) for text in require or []]
    if requirements:
        if len(names) != 1 or against is None or len(against) != 1:
            raise InvalidParameterError(
                "--require compares one router with one --against; "
                f"got {len(names)} routers and {len(against or [])} to compare with"
            )
        level = one_sided_level(confidence)
    loaded = {name: _target(name) for name in [*names, *(against or [])]}
    # One router goes by its method; of several, each by its folder.
    several = sum(isinstance(each, Router) for each in loaded.values()) > 1
    targets = {name: loaded[name] for name in names} if several else [loaded[name] for name in names]
    opponents: Any = None
    if against is not None:
        opponents = {name: loaded[name] for name in against} if several else [loaded[name] for name in against]
    rounds = read_log(path)
    shown = estimator or ["dr"]
    unknown = set(shown) - {*ESTIMATORS, "all"}
    if unknown:
        raise InvalidParameterError(f"estimator must be among {list(ESTIMATORS)} or 'all'; got {sorted(unknown)}")
    everything = as_json or report is not None or "all" in shown
    options: dict[str, Any] = {
        "estimators": ESTIMATORS if everything else shown,
        "against": opponents,
        "quality_per_usd": quality_per_usd or None,
        "level": level,
        "slices": ("task",) if slices is None else slices,
        "propensity": propensity,
        "propensity_floor": propensity_floor,
        "labels": read_labels_file(labels),
        "gold": gold,
        "correction": correction,
        "seed": seed,
        "show_progress": not as_json,
    }
    if cross_fit:
        router = loaded[names[0]]
        if len(names) > 1 or not isinstance(router, Router):
            raise InvalidParameterError(f"--cross-fit needs exactly one router; got {names}")
        found = evaluate_cross_fitted(router, rounds, **options)
    else:
        found = estimate(targets, rounds, **options)
    if report is not None:
        found.to_html(report)
    verdicts: list[State] = []
    if requirements:
        verdicts = check(found, requirements, policy=found.policies[0]["name"], against=found.policies[1]["name"])
    if as_json:
        print_json(found.to_dict() | ({"requirements": _json_rows(verdicts)} if requirements else {}))
    else:
        _show(found, estimators=shown, report=report)
        _show_verdicts(verdicts, confidence=confidence)
    if not all(verdict["met"] for verdict in verdicts):
        raise typer.Exit(1)


@app.command(epilog="Example: pointsman power held_out.parquet router --effect 0.01")
def power(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A log that the router was not fitted on.")],
    router: Annotated[str, typer.Argument(metavar="ROUTER", help="Router folder, 'always MODEL' or 'best-single'.")],
    against: Annotated[
        str, typer.Option("--against", metavar="OLD", help="What to tell it from, spelled likewise.")
    ] = "best-single",
    effect: Annotated[
        list[float] | None,
        typer.Option("--effect", help="Difference in utility to tell, in quality points (0.01 is 1 of 100); repeat."),
    ] = None,
    chance: Annotated[float, typer.Option("--power", help="Probability of telling it, in (0, 1).")] = 0.8,
    quality_per_usd: Lambdas = None,
    level: Annotated[float, typer.Option("--level", help="One minus the size of the test, in (0, 1).")] = 0.95,
    labels: LabelsFile = None,
    gold: Gold = "gold",
    correction: CorrectionName = "hierarchical",
    propensity: Propensity = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Say how many more rounds, or how much exploration, it takes to tell two routers apart."""
    from pointsman.logs import read_log
    from pointsman.pipeline import power as needed

    effects = effect or [0.01]
    found = needed(
        _target(router),
        read_log(log),
        against=_target(against),
        effect=effects,
        power=chance,
        quality_per_usd=quality_per_usd or None,
        level=level,
        labels=read_labels_file(labels),
        gold=gold,
        correction=correction,
        propensity=propensity,  # type: ignore[arg-type]  # checked there
        seed=seed,
        show_progress=not as_json,
    )
    if as_json:
        typer.echo(found.to_json())
        return
    console = make_console()
    console.print(
        grid(
            "quality per USD",
            "more exploration",
            *(f"rounds for {100 * each:g} points" for each in effects),
            "this log tells",
            rows=[
                [
                    f"{first['quality_per_usd']:.4g}",
                    f"{first['exploration']:.0%}",
                    *(f"{row['n_needed']:,}" for row in rows),
                    f"{100 * first['detectable']:.1f} points",
                ]
                for rows in _chunks(found.rows, len(effects))
                for first in rows[:1]
            ],
        )
    )
    n_rounds = found.rows[0]["n_rounds"]
    console.print(
        f"to tell {found.policy} from {found.against} with probability {chance:.0%} at level {level:.0%}; this log has "
        f"{n_rounds:,} rounds"
    )
    console.print(
        "more exploration: that share of requests goes to a model drawn evenly, the others as this log's policy sends "
        "them",
        style="dim",
    )


@app.command(epilog="Example: pointsman score router log.truth.parquet --quality-per-usd 0")
def score(
    router: Annotated[Path, typer.Argument(metavar="ROUTER", help="Router folder.")],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Full feedback: .parquet, .jsonl or .csv.")],
    quality_per_usd: Lambdas = None,
    quality_column: QualityColumn = "quality",
    cost_column: CostColumn = "cost_usd",
    models: Models = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Measure a router's true value, its regret and the share of the gap it closes, where every outcome is known."""
    from pointsman.pipeline import score as measure
    from pointsman.registry import load_router

    loaded = load_router(router)
    full = read_table_file(table, quality_column=quality_column, cost_column=cost_column, models=models, where=where)
    found = measure(loaded, full, quality_per_usd=quality_per_usd or None, show_progress=not as_json)
    if as_json:
        typer.echo(found.to_json())
        return
    console = make_console()
    console.print(
        grid(
            "quality per USD",
            "utility",
            "quality",
            "USD per 1,000",
            "best single model",
            "its utility",
            "oracle",
            "regret",
            "gap closed",
            rows=[
                [
                    f"{row['quality_per_usd']:.4g}",
                    f"{row['value']:.4f}",
                    number(row["quality"]),
                    per_thousand(row["cost_usd"]),
                    row["best_single_model"],
                    f"{row['best_single_value']:.4f}",
                    f"{row['oracle_value']:.4f}",
                    f"{row['regret']:.4f}",
                    f"{row['share_of_gap_closed']:.1%}",
                ]
                for row in found.rows
            ],
        )
    )
    notes = found.diagnostics
    console.print(f"{notes['n_prompts']:,} prompts")
    for key, said in (("models_not_in_table", "the table"), ("models_not_in_router", "the router")):
        if notes[key]:
            console.print(f"left out, {said} does not have them: {', '.join(notes[key])}")


def _target(name: str) -> Target:
    from pointsman.pipeline import SPELLED
    from pointsman.registry import load_router

    return name if name in SPELLED or name.startswith("always ") else load_router(name)


def _json_rows(rows: list[State]) -> Any:
    from pointsman.pipeline import json_ready

    return json_ready(rows)


def _chunks(rows: list[State], size: int) -> list[list[State]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _show(found: Evaluation, *, estimators: list[str], report: Path | None) -> None:
    console = make_console()
    if found.headline is not None:
        console.print(found.headline["sentence"], style="bold")
    several = len({row["policy"] for row in found.rows}) > 1
    shown = [row for row in found.rows if "all" in estimators or row["estimator"] in estimators]
    console.print(
        grid(
            *(["policy"] if several else []),
            "quality per USD",
            "estimator",
            "utility",
            f"{found.level:.0%} interval",
            "quality",
            "USD per 1,000",
            "effective rounds",
            rows=[
                [
                    *([row["policy"]] if several else []),
                    f"{row['quality_per_usd']:.4g}",
                    row["estimator"],
                    f"{row['value']:.4f}",
                    interval(row["ci_low"], row["ci_high"]) + ("*" if row["interval"] == "finite-sample" else ""),
                    number(row["quality"]),
                    per_thousand(row["cost_usd"]),
                    f"{row['ess']:,.0f}",
                ]
                for row in shown
            ],
        )
    )
    _show_comparisons(found, console)
    for row in found.savings:
        _show_saving(row, console, level=found.level)
    notes = found.diagnostics
    console.print(f"{notes['n_rounds']:,} rounds read; propensities {notes['propensities']}")
    if notes["n_left_out_training"]:
        console.print(f"{notes['n_left_out_training']:,} rounds left out: a router was fitted on them")
    if notes["n_left_out_fallback"]:
        console.print(f"{notes['n_left_out_fallback']:,} rounds left out: fallbacks, which nobody chose")
    if notes["cross_fitted"]:
        console.print(f"cross-fitted: {notes['n_folds']} routers, each on the rounds it never saw")
    if any(row["interval"] == "finite-sample" for row in [*shown, *found.comparisons]):
        console.print(
            "* too few rounds carry the estimate for a normal interval: this one holds at any number of rounds",
            style="dim",
        )
    if any(row["interval"] == "none" for row in shown):
        console.print("dm has no interval: its bias is that of the outcome model, and unknown", style="dim")
    if report is not None:
        console.print(f"report in {report}", style="bold")


def _show_comparisons(found: Evaluation, console: Console) -> None:
    rows = [row for row in found.comparisons if row["outcome"] == "utility"]
    if not rows:
        return
    beside = any(row["interval"] == "finite-sample" for row in rows)
    console.print(
        grid(
            "policy",
            "model",
            "quality per USD",
            "difference",
            f"{found.level:.0%} interval",
            *(["normal interval"] if beside else []),
            rows=[
                [
                    row["policy"],
                    f"minus {row['against']}",
                    f"{row['quality_per_usd']:.4g}",
                    f"{row['value']:+.4f}",
                    interval(row["ci_low"], row["ci_high"]) + ("*" if row["interval"] == "finite-sample" else ""),
                    *([interval(row["normal_low"], row["normal_high"])] if beside else []),
                ]
                for row in rows
            ],
        )
    )


def _show_saving(row: State, console: Console, *, level: float) -> None:
    who = f"{row['policy']} against {row['against']}, {row['kind']}:"
    if row["value"] != row["value"]:
        console.print(f"{who} {row['reason']}")
        return
    unit = 1000.0 if row["kind"].startswith("cost") else 100.0
    said = f"{unit * row['value']:+.3g} {'USD saved per 1,000 requests' if unit == 1000 else 'points gained'}"
    share = "" if row["share"] != row["share"] else f" ({row['share']:+.0%})"
    known = row["ci_low"] == row["ci_low"]
    margin = (
        f"{level:.0%} interval {unit * row['ci_low']:+.3g} to {unit * row['ci_high']:+.3g}" if known else row["reason"]
    )
    console.print(f"{who} {said}{share}; {margin}")


def _show_verdicts(verdicts: list[State], *, confidence: float) -> None:
    if not verdicts:
        return
    console = make_console()
    console.print(
        grid(
            "what",
            "quality per USD",
            "difference",
            f"bound at {confidence:.0%}",
            "found",
            rows=[
                [
                    verdict["requirement"],
                    f"{verdict['quality_per_usd']:.4g}",
                    f"{verdict['value']:+.4g}",
                    f"{verdict['bound']:+.4g}",
                    "met" if verdict["met"] else "not met",
                ]
                for verdict in verdicts
            ],
        )
    )
    n_missed = sum(not verdict["met"] for verdict in verdicts)
    if n_missed:
        console.print(f"{n_missed} of {len(verdicts)} requirements not met", style="bold red")
    else:
        console.print("every requirement met", style="bold green")
