"""Commands over logs, tables and routers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.app import app
from pointsman.cli.options import (
    CorrectionName,
    CostColumn,
    Gold,
    Json,
    LabelsFile,
    Models,
    Propensity,
    QualityColumn,
    Seed,
    Where,
    read_labels_file,
    read_table_file,
    split_names,
)
from pointsman.cli.show import grid, make_console, number, per_thousand, print_json
from pointsman.errors import InvalidParameterError, PointsmanError

if TYPE_CHECKING:
    from pointsman.encode import Encoder


@app.command(epilog="Example: pointsman simulate table.parquet --logger confounded --out log.parquet --seed 0")
def simulate(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Full feedback: .parquet, .jsonl or .csv.")],
    logger: Annotated[
        str, typer.Option("--logger", help="uniform, cheap, confounded, hidden or deterministic: who chose the models.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The log to write: .parquet, .jsonl or .csv.")],
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="Where the truth of the other prompts goes; <out>.truth.<suffix> by default."),
    ] = None,
    floor: Annotated[float, typer.Option("--floor", help="Probability spread evenly over all models.")] = 0.05,
    share: Annotated[float, typer.Option("--share", help="Share of the prompts that is logged, in (0, 1).")] = 0.6,
    strength: Annotated[float, typer.Option("--strength", help="How much the logging policy leans, >= 0.")] = 1.0,
    signal: Annotated[
        str, typer.Option("--signal", help="pc, length or task: what of the prompt the policy looks at.")
    ] = "pc",
    quality_column: QualityColumn = "quality",
    cost_column: CostColumn = "cost_usd",
    models: Models = None,
    where: Where = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw a one-arm log with its true propensities from a table of full feedback.

    The prompts that were not logged go, with the outcomes of all models, to a second file for `pointsman score`.
    """
    from pointsman.logs import write_full_feedback, write_log
    from pointsman.pipeline import simulate as draw

    truth = out.with_name(f"{out.stem}.truth{out.suffix}") if truth is None else truth
    if truth.absolute() == out.absolute():
        raise InvalidParameterError(f"truth must be another file than out; got {truth} for both")
    full = read_table_file(table, quality_column=quality_column, cost_column=cost_column, models=models, where=where)
    simulated = draw(
        full,
        logger=logger,  # type: ignore[arg-type]  # checked there
        floor=floor,
        share=share,
        strength=strength,
        signal=signal,  # type: ignore[arg-type]  # checked there
        seed=seed,
        show_progress=not as_json,
    )
    was_there = truth.exists()
    write_full_feedback(simulated.rest, truth)
    try:
        write_log(simulated.log, out)
    except PointsmanError:
        if not was_there:
            truth.unlink(missing_ok=True)
        raise
    log = simulated.log
    counts = {name: int((log.arm == t).sum()) for t, name in enumerate(log.arms.names)}
    if as_json:
        print_json(
            {
                "log": str(out),
                "truth": str(truth),
                "logger": logger,
                "n_rounds": log.n_rounds,
                "n_rest": len(simulated.rest),
                "n_dropped": full.n_dropped,
                "smallest_propensity": float(log.propensity.min()),
                "n_rounds_by_model": counts,
            }
        )
        return
    console = make_console()
    console.print(grid("model", "rounds", rows=[[name, f"{n:,}"] for name, n in counts.items()]))
    console.print(f"{log.n_rounds:,} rounds in {out}, smallest propensity {log.propensity.min():.4f}", style="bold")
    console.print(f"the truth of the {len(simulated.rest):,} other prompts in {truth}")
    if full.n_dropped:
        console.print(f"{full.n_dropped:,} prompts were left out: a model had no outcome for them")


@app.command(epilog="Example: pointsman fit log.parquet --out router --seed 0")
def fit(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Logged rounds: .parquet, .jsonl or .csv.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the router to.")],
    method: Annotated[
        str, typer.Option("--method", help="How to learn: a name of `pointsman doctor`'s list.")
    ] = "auto",
    labels: LabelsFile = None,
    gold: Gold = "gold",
    correction: CorrectionName = "hierarchical",
    propensity: Propensity = "auto",
    encoder: Annotated[
        str, typer.Option("--encoder", help="static (fast, the default) or onnx (MiniLM, extra [onnx]).")
    ] = "static",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of the cross-fitting.")] = 5,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Learn a router from a log; the same log and seed give the same router, byte for byte."""
    from pointsman.logs import read_log
    from pointsman.pipeline import fit as learn
    from pointsman.registry import save_router

    rounds = read_log(log)
    router = learn(
        rounds,
        method=method,
        seed=seed,
        labels=read_labels_file(labels),
        gold=gold,
        correction=correction,
        encoder=_encoder(encoder) if rounds.prompt is not None else None,
        n_folds=folds,
        propensity=propensity,  # type: ignore[arg-type]  # checked there
        show_progress=not as_json,
    )
    content_hash = save_router(router, out)
    facts = router.facts
    if as_json:
        print_json(
            {
                "router": str(out),
                "content_hash": content_hash,
                "method": facts.method,
                "seed": facts.seed,
                "models": list(router.arms.names),
                "n_rounds": facts.n_rounds,
                "n_fallback": facts.n_fallback,
                "n_unlearnable": facts.n_unlearnable,
                "unlearnable_models": list(facts.unlearnable_models),
                "propensities": facts.propensities,
                "quality_sources": list(facts.quality_sources),
                "n_gold": facts.n_gold,
                "correction": facts.correction,
                "cost_scale_usd": router.cost_scale_usd,
            }
        )
        return
    console = make_console()
    console.print(
        grid(
            "model",
            "rounds",
            "logged USD per 1,000",
            "mean predicted quality",
            rows=[
                [
                    name,
                    f"{facts.n_rounds_by_model[name]:,}",
                    per_thousand(facts.logged_cost_usd[name]),
                    f"{facts.mean_quality[name]:.3f}",
                ]
                for name in router.arms.names
            ],
        )
    )
    for line in _left_out(facts.n_fallback, facts.n_unlearnable, facts.unlearnable_models):
        console.print(line)
    said = {"logged": "logged", "estimated": "estimated", "both": "logged where known, else estimated"}
    console.print(f"propensities: {said[facts.propensities]}")
    if facts.correction is not None:
        console.print(f"judges' labels corrected by {facts.n_gold:,} gold ones: {facts.correction}")
    console.print(f"{facts.method} learned from {facts.n_rounds:,} rounds; router in {out}", style="bold")


@app.command(epilog='Example: pointsman route router "What is 17 * 23?" --quality-per-usd 50')
def route(
    router: Annotated[Path, typer.Argument(metavar="ROUTER", help="Router folder.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt.")],
    quality_per_usd: Annotated[
        float | None, typer.Option("--quality-per-usd", metavar="L", help="Points of quality that one USD is worth.")
    ] = None,
    cost_weight: Annotated[
        float | None, typer.Option("--cost-weight", metavar="W", help="In [0, 1]: 0 is quality only, 1 cost only.")
    ] = None,
    models: Models = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the draw.")] = None,
    as_json: Json = False,
) -> None:
    """Choose a model for a prompt; print the choice, its probabilities, and why."""
    from pointsman.registry import load_router
    from pointsman.router import describe_trade_off, usd

    decision = load_router(router).choose(
        prompt, quality_per_usd=quality_per_usd, cost_weight=cost_weight, eligible_models=split_names(models), seed=seed
    )
    if as_json:
        typer.echo(decision.to_json())
        return
    console = make_console()
    console.print(f"{decision.model}  [dim]{describe_trade_off(decision.trade_off)}[/dim]", style="bold")
    ranked = sorted(
        decision.probabilities,
        key=lambda name: (-decision.probabilities[name], -decision.predicted_quality.get(name, 0)),
    )
    console.print(
        grid(
            "model",
            "probability",
            "expected quality",
            "expected USD",
            rows=[
                [
                    name,
                    f"{decision.probabilities[name]:.3f}",
                    number(decision.predicted_quality.get(name)),
                    usd(decision.predicted_cost_usd[name]) if name in decision.predicted_cost_usd else "-",
                ]
                for name in ranked
            ],
        )
    )
    for reason in decision.reasons:
        console.print(reason, markup=False)


def _encoder(name: str) -> Encoder:
    if name == "static":
        from pointsman.encode.static import StaticEncoder

        return StaticEncoder()
    if name == "onnx":
        from pointsman.encode.onnx import OnnxEncoder

        return OnnxEncoder()
    raise InvalidParameterError(f"encoder must be 'static' or 'onnx'; got {name!r}")


def _left_out(n_fallback: int, n_unlearnable: int, models: Sequence[str]) -> Iterator[str]:
    if n_fallback:
        yield f"{n_fallback:,} rounds left out: fallbacks, which nobody chose"
    if models:
        yield f"not learned, no quality is known of them: {', '.join(models)} ({n_unlearnable:,} rounds left out)"
