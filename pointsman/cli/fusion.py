"""The command that says what judges are worth, and brings their labels to gold units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.app import app
from pointsman.cli.options import CorrectionName, Gold, Json, LabelsFile, Seed, read_labels_file, split_names
from pointsman.cli.show import grid, make_console, print_json
from pointsman.errors import InvalidParameterError

if TYPE_CHECKING:
    from rich.console import Console

    from pointsman.pipeline import Fusion
    from pointsman.types import State

_FEW = 10
"""Gold labels under which a slice is left to --json and --report."""

_PROMPT = 60
"""Characters of a prompt in a table."""


@app.command(epilog="Example: pointsman fuse log.parquet --labels labels.parquet --gold expert --report judges.html")
def fuse(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Logged rounds: .parquet, .jsonl or .csv.")],
    labels: LabelsFile = None,
    gold: Gold = "gold",
    preferences: Annotated[
        Path | None,
        typer.Option(
            "--preferences",
            metavar="FILE",
            help="Pairwise votes on models of the log: prompt, model_a, model_b, preference, source. Each source "
            "becomes one more judge.",
        ),
    ] = None,
    correction: CorrectionName = "hierarchical",
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice", metavar="COLUMN", help="Column to tell biases by; repeat it. By default task, if there."
        ),
    ] = None,
    n_next: Annotated[
        int, typer.Option("--next", min=0, metavar="N", help="Rounds to name for the next gold labels.")
    ] = 20,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="SOURCE=USD", help="Price of one label of a source, in USD; repeat it."),
    ] = None,
    two_models: Annotated[
        str | None,
        typer.Option(
            "--two-models",
            metavar="WEAK,STRONG",
            help="Show what a router of these two would gain. By default those of a log of two models.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the labels in gold units: .parquet, .jsonl or .csv."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write everything to one self-contained HTML page.")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Coverage of the intervals, in (0, 1).")] = 0.95,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Say how biased each judge is, correct its labels by the gold ones, and name what to label next."""
    from pointsman.logs import read_log, read_preferences
    from pointsman.pipeline import fuse_labels

    pair = split_names(two_models)
    if pair is not None and len(pair) != 2:
        raise InvalidParameterError(f"two-models must be WEAK,STRONG; got {two_models!r}")
    prices = _prices(price or [])
    found = fuse_labels(
        read_log(log),
        read_labels_file(labels),
        gold=gold,
        correction=correction,
        slices=("task",) if slices is None else slices,
        preferences=None if preferences is None else read_preferences(preferences),
        n_next=n_next,
        price_usd=prices or None,
        two_models=None if pair is None else (pair[0], pair[1]),
        level=level,
        seed=seed,
        show_progress=not as_json,
    )
    if out is not None:
        found.labels.write(out)
    if report is not None:
        found.to_html(report)
    if as_json:
        print_json(found.to_dict())
        return
    _show(found, prices=bool(prices))
    console = make_console()
    if out is not None:
        console.print(f"{len(found.labels):,} labels in {out}", style="bold")
    if report is not None:
        console.print(f"report in {report}", style="bold")


def _prices(listed: Sequence[str]) -> dict[str, float]:
    prices: dict[str, float] = {}
    for each in listed:
        source, equals, price = each.rpartition("=")
        try:
            prices[source] = float(price)
        except ValueError:
            equals = ""
        if not (source and equals):
            raise InvalidParameterError(f"price must be SOURCE=USD, such as judge=0.002; got {each!r}")
    return prices


def _show(found: Fusion, *, prices: bool) -> None:
    console = make_console()
    console.print(found.headline["sentence"], style="bold", markup=False)
    if found.bias:
        _show_bias(found, console)
        _show_agreement(found, console, prices=prices)
    coverage = found.coverage
    judged = ", ".join(f"{n:,} of {name}" for name, n in coverage["n_judged"].items()) or "none"
    console.print(
        f"{coverage['n_rounds']:,} rounds; {coverage['n_gold']:,} gold labels; judges\u2019 labels: {judged}",
        markup=False,
    )
    if found.correction is not None:
        console.print(f"judges\u2019 labels corrected by the gold ones: {found.correction}")
    _show_next(found, console)


def _show_bias(found: Fusion, console: Console) -> None:
    shown = [row for row in found.bias if row["by"] in ("overall", "arm") or row["n_gold"] >= _FEW]
    console.print(
        grid(
            "judge",
            "what",
            "judge minus gold",
            f"{found.level:.0%} interval",
            "gold labels",
            "found",
            rows=[
                [
                    row["judge"],
                    "all rounds" if row["by"] == "overall" else row["cell"] if row["by"] == "arm" else _slice(row),
                    _points(row["value"]),
                    "-" if row["ci_low"] != row["ci_low"] else f"{_points(row['ci_low'])} to {_points(row['ci_high'])}",
                    f"{row['n_gold']:,}",
                    "games the judge" if row["gamed"] else "differs" if row["differs"] else "",
                ]
                for row in shown
            ],
        )
    )
    console.print(
        "points of 100; above zero the judge is too kind; differs: from the judge\u2019s bias over all rounds",
        style="dim",
    )


def _show_agreement(found: Fusion, console: Console, *, prices: bool) -> None:
    worth = {row["judge"]: row for row in found.worth}
    console.print(
        grid(
            "judge",
            "rounds with gold",
            "correlation",
            "distance",
            "a constant\u2019s",
            "good above bad",
            "gold labels replaced",
            "per 1,000",
            *(["USD per gold label", "worth its price"] if prices else []),
            rows=[
                [
                    row["judge"],
                    f"{row['n_pairs']:,}",
                    _number(row["correlation"], "{:.2f}"),
                    _number(row["absolute_difference"], "{:.1f}", scale=100),
                    _number(row["constant_absolute_difference"], "{:.1f}", scale=100),
                    _number(row["auc"], "{:.0%}"),
                    f"{worth[row['judge']]['replaced']:,.0f}",
                    f"{worth[row['judge']]['per_thousand']:,.1f}",
                    *(
                        [
                            _number(worth[row["judge"]]["usd_per_gold_label"], "{:.4g}"),
                            {None: "-", True: "yes", False: "no"}[worth[row["judge"]]["worth_its_price"]],
                        ]
                        if prices
                        else []
                    ),
                ]
                for row in found.agreement
            ],
        )
    )


def _show_next(found: Fusion, console: Console) -> None:
    if found.next_rounds:
        console.print("to have gold-labelled next:", style="bold")
        console.print(
            grid(
                "",
                "round",
                "model",
                "prompt",
                "helps to decide between",
                rows=[
                    [
                        str(row["rank"]),
                        row["round_id"],
                        row["model"],
                        " ".join((row["prompt"] or "-").split())[:_PROMPT],
                        " and ".join(row["between"]),
                    ]
                    for row in found.next_rounds
                ],
            )
        )
    more = found.more
    if more is None:
        return
    if more["regret_reduction"] is not None:
        console.print(
            f"{more['n_chosen']:,} gold labels chosen so are expected to lower regret by "
            f"{100 * more['regret_reduction']:.2g} points, as many drawn at random by "
            f"{100 * more['random_regret_reduction']:.2g}"
        )
    for row in more["rows"]:
        if row["by"] == "overall":
            console.print(
                f"mean quality in gold units {100 * row['value']:.1f} \N{PLUS-MINUS SIGN} "
                f"{100 * row['half_width']:.1f}; "
                f"with {more['n_more']} gold labels more, drawn as before, \N{PLUS-MINUS SIGN} "
                f"{100 * row['later_half_width']:.1f}"
            )


def _slice(row: State) -> str:
    return f"{row['by']} {row['cell']}"


def _points(value: float) -> str:
    return "-" if value != value else f"{100 * value:+.1f}"


def _number(value: float, shown: str, *, scale: float = 1) -> str:
    return "-" if value != value else shown.format(scale * value)
