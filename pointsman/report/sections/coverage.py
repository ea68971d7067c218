"""Whether the log covers what the policies would choose: models, overlap, weights."""

from __future__ import annotations

import math

from pointsman.report.markup import Html, absent, bullets, folded, join, numbers, paragraph, table, tag, term, words
from pointsman.report.plots import Axis, Panel, Plot, Point, Rule, Series, dodge, spans_decades
from pointsman.report.quantities import POINTS, SHARE, UNKNOWN, USD, brief, count, percent
from pointsman.report.reading import Evaluated, distinct, floats, number, string, texts
from pointsman.report.sections.base import dial, plotted
from pointsman.types import State


def models(evaluated: Evaluated, plots: list[Plot]) -> Html:
    """Return which models answer, in the log and under the policies; its plot joins `plots`."""
    found = evaluated.rows("models")
    if not found:
        return absent("The models of the log are not described.")
    shares = {string(row, "model"): _shares(row) for row in found}
    policies = [
        policy
        for policy in distinct(name for share in shares.values() for name in share)
        # Of the others the share is known without looking: all, nothing, or that of the log.
        if evaluated.kind(policy) == "router"
    ]
    ticks = tuple(shares)
    n_series = 1 + len(policies)
    series = [
        Series(
            label="in the log",
            points=tuple(
                _share_point(model, k + dodge(0, n_series), "in the log", number(row, "share"))
                for k, (model, row) in enumerate(zip(ticks, found, strict=True))
            ),
            slot=None,
            hollow=True,
        )
    ]
    for j, policy in enumerate(policies):
        series.append(
            Series(
                label=policy,
                points=tuple(
                    _share_point(model, k + dodge(j + 1, n_series), policy, shares[model].get(policy))
                    for k, model in enumerate(ticks)
                ),
                slot=evaluated.slot(policy),
            )
        )
    plot = Plot(
        id="plot-models",
        title="Which models answer.",
        caption="Share of the requests each model serves in the log, and would serve under each policy. A policy that "
        "leans on a model the log hardly used rests on few rounds.",
        panels=(
            Panel(
                x=Axis(title="share of requests", unit="percent", low=0),
                y=Axis(title="", ticks=ticks),
                series=tuple(series),
            ),
        ),
    )
    plots.append(plot)
    listed = plotted(
        "Models",
        [
            words("model"),
            numbers("rounds"),
            numbers("share"),
            numbers("quality"),
            numbers("USD per 1,000"),
            numbers("smallest propensity"),
            *(numbers(f"share under {policy}") for policy in policies),
        ],
        [
            [
                model,
                count(number(row, "n_rounds")),
                percent(number(row, "share")),
                POINTS.show(number(row, "mean_quality")),
                USD.show(number(row, "mean_cost_usd")),
                brief(number(row, "smallest_propensity")),
                *(percent(shares[model].get(policy)) for policy in policies),
            ]
            for model, row in zip(ticks, found, strict=True)
        ],
    )
    return join(plot.figure(), listed)


def _shares(row: State) -> dict[str, float | None]:
    under = row.get("share_under_policy")
    return {str(policy): number(under, policy) for policy in under} if isinstance(under, dict) else {}


def _share_point(model: str, at: float, policy: str, share: float | None) -> Point:
    return Point(x=SHARE.scaled(share), y=at, name=model, notes=(f"{policy}: {percent(share)} of requests",))


def overlap(evaluated: Evaluated, plots: list[Plot]) -> Html:
    """Return how far the log covers the policies, and the spread of the weights; its plot joins `plots`."""
    found = evaluated.rows("overlap")
    if not found:
        return absent("Overlap was not measured.")
    explained = paragraph(
        "A round counts for a policy by its ",
        term(
            "importance weight",
            "how much likelier the policy is to choose the logged model than the log\u2019s own policy was, whose "
            "probability is the propensity",
        ),
        ". Where a few rounds carry most of the weight, the log says little: that is what the ",
        term("effective sample size", "as many rounds, all weighted alike, would say as much"),
        " measures. Where it is too small for a normal interval, one that holds for any sample size stands instead.",
    )
    here = [row for row in found if number(row, "quality_per_usd") in (evaluated.quality_per_usd, None)] or found
    doubts: dict[tuple[str, str], list[str]] = {}
    for row in found:
        for reason in texts(row, "reasons"):
            at = number(row, "quality_per_usd")
            doubts.setdefault((string(row, "policy"), reason), []).append("any" if at is None else brief(at))
    reasons = [
        join(tag("strong", policy), f" at trade-off {', '.join(places)}: {reason}")
        for (policy, reason), places in doubts.items()
    ]
    return join(
        explained,
        _overlap_table(here),
        paragraph(
            "The mean weight should be close to 1. \u201cTop 1% carry\u201d is the share of all weight on the heaviest "
            "rounds. \u201cPareto k\u201d above 0.7 means a tail so heavy that averages settle slowly. \u201cNever "
            "logged\u201d is the share of what the policy would choose that the log\u2019s could not have.",
            class_="quiet",
        ),
        folded(f"At every trade-off ({len(found)} rows)", _overlap_table(found), printed=False)
        if len(here) < len(found)
        else None,
        folded("Why some intervals are not normal", bullets(reasons)) if reasons else None,
        _weights(evaluated, found, plots),
    )


def _overlap_table(found: list[State]) -> Html:
    return table(
        "Overlap",
        [
            words("policy"),
            numbers("trade-off"),
            numbers("effective"),
            numbers("of rounds"),
            numbers("smallest propensity"),
            numbers("mean weight"),
            numbers("largest weight"),
            numbers("top 1% carry"),
            numbers("Pareto k"),
            numbers("never logged"),
            words("intervals"),
        ],
        [_overlap_line(row) for row in found],
    )


def _overlap_line(row: State) -> list[str]:
    gate = string(row, "gate")
    return [
        string(row, "policy"),
        "any" if number(row, "quality_per_usd") is None else brief(number(row, "quality_per_usd")),
        count(number(row, "effective_sample_size")),
        count(number(row, "n_rounds")),
        brief(number(row, "smallest_propensity")),
        brief(number(row, "mean_weight")),
        brief(number(row, "largest_weight")),
        percent(number(row, "top_weight_share")),
        brief(number(row, "pareto_k")),
        percent(number(row, "unsupported_share")),
        tag("span", gate or UNKNOWN, class_="good" if gate == "normal" else "careful"),
    ]


def _weights(evaluated: Evaluated, found: list[State], plots: list[Plot]) -> Html:
    panels = []
    for _, those in evaluated.groups(found, "policy", "quality_per_usd"):
        row = those[0]
        weights = row.get("weights")
        if not isinstance(weights, dict):
            continue
        edges, counts = floats(weights, "edges"), floats(weights, "counts")
        if len(edges) != len(counts) + 1 or not any(counts):
            continue
        log = spans_decades(edges)
        bars = tuple(
            Point(
                x=math.sqrt(left * right) if log else (left + right) / 2,
                x_low=left,
                x_high=right,
                y=n or None,
                name=f"weight {brief(left)} to {brief(right)}",
                notes=(f"{count(n)} rounds",),
            )
            for left, right, n in zip(edges, edges[1:], counts, strict=False)
        )
        panels.append(
            Panel(
                label=f"{string(row, 'policy')}, {dial(number(row, 'quality_per_usd'))}",
                x=Axis(title="importance weight", log=log),
                y=Axis(title="rounds", log=True, low=0.8),
                series=(Series(label="rounds", points=bars, slot=0, bars=True),),
                rules=(Rule(axis="x", at=1, label="as often as in the log"),),
            )
        )
    if not panels:
        return absent("The weights themselves were not kept, so they cannot be drawn.")
    plot = Plot(
        id="plot-weights",
        title="How the weight is spread.",
        caption="How many rounds have which weight; each step up is ten times as many. A long tail to the right means "
        "that a few rounds decide.",
        panels=tuple(panels),
        menu="Policy",
    )
    plots.append(plot)
    listed = plotted(
        "Weights",
        [words("policy"), words("weight"), numbers("rounds")],
        [
            [panel.label, point.name.removeprefix("weight "), count(point.y)]
            for panel in panels
            for point in panel.series[0].points
            if point.y is not None
        ],
    )
    return join(plot.figure(), listed)
