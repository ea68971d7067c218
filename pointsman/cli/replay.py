"""The command that lets online policies play through a table as if it were traffic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli.app import app
from pointsman.cli.options import CostColumn, Json, Models, QualityColumn, Seed, Where, read_table_file
from pointsman.cli.show import grid, interval, make_console, number, per_thousand, print_json
from pointsman.errors import InvalidParameterError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.logs import FullFeedback
    from pointsman.online.base import OnlinePolicy
    from pointsman.online.replay import Comparison, Replayed, Stream
    from pointsman.types import State

_DEFAULT_SHARE = 0.1
"""The default trade-off, in units of 1 / mean cost of the dearest model."""


@app.command(epilog="Example: pointsman replay table.parquet --scenario price-cut:at=1000,model=gpt-4,factor=0.1")
def replay(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Full feedback: .parquet, .jsonl or .csv.")],
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME[:KEY=VALUE,...]",
            help="Online policy and its options, such as epsilon-greedy:floor=0.05; repeat it. The first is what the "
            "others are compared with.",
        ),
    ] = None,
    quality_per_usd: Annotated[
        float | None,
        typer.Option(
            "--quality-per-usd",
            metavar="L",
            help="Trade-off of every request: points of quality that one USD is worth. By default .1 over the mean "
            "cost of the dearest model.",
        ),
    ] = None,
    random_trade_off: Annotated[
        bool,
        typer.Option(
            "--random-trade-off",
            help="Draw a cost weight w evenly for each request; utility is then (1 - w) quality - w cost / tau.",
        ),
    ] = False,
    scenarios: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            metavar="NAME:KEY=VALUE,...",
            help="What changes on the way: price-cut:at=,model=,factor=[,told=no]; quality-regression:at=,model=,"
            "factor= or swap-with=; new-arm:at=,model=[,quality=,cost-usd=,like=,n-rounds=,scored=]; "
            "outage:at=,until=,model=; retired:at=,model=; traffic-shift:at=[,by=]; delay:mean-rounds=[,lost=]. "
            "Rounds count from 0; repeat it for several.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="USD", help="What a request may cost on average; a pacer holds it."),
    ] = None,
    n_rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Requests to play; by default each prompt once.")
    ] = None,
    n_seeds: Annotated[int, typer.Option("--seeds", min=1, help="Streams to play, one a seed.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for results, curves, and the log each policy left on the first stream."),
    ] = None,
    quality_column: QualityColumn = "quality",
    cost_column: CostColumn = "cost_usd",
    models: Models = None,
    where: Where = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Let online policies decide prompt after prompt of a table, each learning from its own choices alone.

    All policies meet the same prompts in the same order with the same random numbers. Beside them stand what needs no
    learning: always one model, a uniform choice, the best model in hindsight, and the best model of every prompt.
    """
    from numpy.random import default_rng

    from pointsman.encode import default_encoder, encode_with_progress
    from pointsman.online.budget import Pacer
    from pointsman.online.replay import compare, parse_scenario, stream
    from pointsman.trade_off import TradeOff

    if random_trade_off and quality_per_usd is not None:
        raise InvalidParameterError("give --quality-per-usd or --random-trade-off; got both")
    makers = {text: _maker(text) for text in policies or ["pooled-thompson"]}
    changes = [parse_scenario(text) for text in scenarios or []]
    full = read_table_file(table, quality_column=quality_column, cost_column=cost_column, models=models, where=where)
    if budget is not None and full.cost_usd is None:
        raise InvalidParameterError(f"--budget needs a table with costs; {table} has none")
    pacer = None if budget is None else partial(Pacer, budget_usd_per_request=budget)
    rate = _default_rate(full) if quality_per_usd is None else quality_per_usd
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    context = encode_with_progress(default_encoder(), full.prompt, show=not as_json)

    def streams(each: int) -> Stream:
        return stream(
            full,
            context,
            trade_off=TradeOff(rate),
            random_trade_off=random_trade_off,
            scenarios=changes,
            n_rounds=n_rounds,
            rng=default_rng(each),
        )

    seeds = range(seed, seed + n_seeds)
    keep = None if out is None else partial(_keep_log, out, first=seed)
    total = n_seeds * (len(full) if n_rounds is None else n_rounds)
    with _bars(list(makers), total=total, show=not as_json) as progress:
        found = compare(streams, makers, seeds=seeds, pacer=pacer, progress=progress, done=keep)
    asked = {
        "quality_per_usd": None if random_trade_off else rate,
        "random_trade_off": random_trade_off,
        "scenarios": list(scenarios or []),
        "budget_usd": budget,
        "quality_source": full.quality_source,
    }
    told = _to_json(found, asked)
    if out is not None:
        _write(out, found, told, title=f"{table.stem}, {found.n_rounds:,} rounds, {n_seeds} streams")
    if as_json:
        print_json(told)
        return
    _show(found, full, said=_said(asked))
    if out is not None:
        make_console().print(f"results, curves and logs in {out}", style="bold", markup=False)


def _maker(text: str) -> Callable[[Stream, int], OnlinePolicy]:
    from pointsman.online import ONLINE_POLICIES, policy

    name, _, listed = text.partition(":")
    if name not in ONLINE_POLICIES:
        raise InvalidParameterError(f"policy must be one of {list(ONLINE_POLICIES)}; got {name!r}")
    options: dict[str, Any] = {}
    for option in listed.split(",") if listed else []:
        key, equals, value = option.partition("=")
        if not (key and equals):
            raise InvalidParameterError(f"options of a policy must be KEY=VALUE; got {option!r} in {text!r}")
        options[key.replace("-", "_")] = _value(value)

    def make(requests: Stream, seed: int) -> OnlinePolicy:
        return policy(name, n_arms=requests.n_arms_at_start, n_features=requests.n_features, seed=seed, **options)

    return make


def _value(text: str) -> Any:
    if text in ("yes", "no"):
        return text == "yes"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _default_rate(table: FullFeedback) -> float:
    if table.cost_usd is None or not (dearest := float(table.cost_usd.mean(axis=0).max())) > 0:
        return 0.0
    return _DEFAULT_SHARE / dearest


@contextmanager
def _bars(labels: Sequence[str], *, total: int, show: bool) -> Iterator[Callable[[str, int, float], None]]:
    """Show a bar a policy, with its mean utility so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = make_console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("utility {task.fields[utility]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as progress:
        tasks = {label: progress.add_task(label, total=total, utility="-") for label in labels}
        yield lambda label, n_done, utility: progress.update(tasks[label], completed=n_done, utility=f"{utility:.4f}")


def _keep_log(out: Path, label: str, seed: int, found: Replayed, *, first: int) -> None:
    from pointsman.logs import write_log

    if seed == first:
        write_log(found.to_log(), out / f"{_file_name(label)}.log.parquet")


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.-]+", "-", label)


def _to_json(found: Comparison, asked: dict[str, Any]) -> dict[str, Any]:
    from pointsman.pipeline import json_ready

    ready: dict[str, Any] = json_ready(
        {"n_rounds": found.n_rounds, "seeds": list(found.seeds), "turns": list(found.turns), **asked}
        | {"rows": found.rows}
    )
    return ready


def _write(out: Path, found: Comparison, told: dict[str, Any], *, title: str) -> None:
    import json

    from pointsman.logs import replacing
    from pointsman.plots import replay_plot, write_plot

    with replacing(out / "replay.json") as file:
        file.write(json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False).encode())
    try:
        write_plot(replay_plot(found, title=title), out / "replay")
    except MissingDependencyError as missing:
        typer.echo(f"note: no curves: {missing}", err=True)


def _said(asked: dict[str, Any]) -> str:
    if asked["random_trade_off"]:
        return "utility is (1 - w) quality - w cost / tau, a cost weight w drawn evenly for each request"
    return f"utility is quality - {asked['quality_per_usd']:.4g} cost_usd"


def _show(found: Comparison, table: FullFeedback, *, said: str) -> None:
    console = make_console()
    learned = [row for row in found.rows if not row["reference"]]
    references = sorted((row for row in found.rows if row["reference"]), key=lambda row: -row["utility"])
    opponent = f"minus {learned[0]['policy']}"
    console.print(
        grid(
            "policy",
            "utility",
            "95% interval",
            *([opponent] if len(learned) > 1 else []),
            "quality",
            "USD per 1,000",
            "regret",
            "over the best model",
            rows=[
                *(_cells(row, table, difference=_difference(row) if len(learned) > 1 else None) for row in learned),
                [],
                *(_cells(row, table, difference="" if len(learned) > 1 else None) for row in references),
            ],
        )
    )
    shown = [*learned, *(row for row in references if row["policy"] == "oracle")]
    console.print(
        grid(
            "model",
            *(row["policy"] for row in shown),
            rows=[[name, *(f"{row['shares'][name]:.1%}" for row in shown)] for name in table.arms.names],
        )
    )
    console.print(
        f"{found.n_rounds:,} rounds on each of {len(found.seeds)} streams; means a round; {said}", markup=False
    )
    if found.turns:
        console.print(f"something changes at rounds {', '.join(f'{turn:,}' for turn in found.turns)}")
    if table.quality_source != "gold":
        console.print(f"quality is as judged by {table.quality_source}", markup=False)


def _cells(row: State, table: FullFeedback, *, difference: str | None) -> list[str]:
    return [
        row["policy"],
        f"{row['utility']:.4f}",
        interval(row["ci_low"], row["ci_high"]),
        *([] if difference is None else [difference]),
        number(row["quality"]),
        per_thousand(row["cost_usd"] if table.cost_usd is not None else None),
        f"{row['regret']:.4f}",
        f"{0.0 - round(row['regret_to_best'], 4):+.4f}",
    ]


def _difference(row: State) -> str:
    if row["difference"] == row["difference_high"] == 0:
        return ""
    between = interval(row["difference_low"], row["difference_high"])
    return f"{row['difference']:+.4f}" + (f" {between}" if between != "-" else "")
