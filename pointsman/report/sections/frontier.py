"""What every policy costs and how good it is, and how that moves with the dial."""

from __future__ import annotations

from pointsman.report.markup import Html, absent, join, numbers, paragraph, term, words
from pointsman.report.plots import Axis, Panel, Plot, Point, Rule, Series, dodge, spans_decades
from pointsman.report.quantities import OUTCOMES, POINTS, USD, Span, Unit, brief, drawn_interval
from pointsman.report.reading import Evaluated, distinct, number, string
from pointsman.report.sections.base import Section, dial, plotted
from pointsman.types import State


def frontier(evaluated: Evaluated) -> Section:
    """Return the plane of cost and quality."""
    found = evaluated.rows("frontier")
    title, short = "Cost and quality", "Cost and quality"
    if not found:
        why = absent("No point on the plane of cost and quality could be estimated from this log.")
        return Section(id="frontier", title=title, short=short, body=why)
    moving = [name for name in distinct(string(row, "policy") for row in found) if evaluated.kind(name) == "router"]
    series = [
        Series(
            label=name,
            # The trade-offs are the same on every line: written once they are enough.
            points=tuple(_place(row, labelled=name == moving[0]) for row in sorted(_of(found, name), key=_trade_off)),
            slot=evaluated.slot(name),
            line=True,
            band=True,
        )
        for name in moving
    ]
    for label, kind, slot in (("always one model", "always", None), ("today\u2019s policy (logging)", "logging", 7)):
        fixed = tuple(_place(row) for row in found if evaluated.kind(string(row, "policy")) == kind)
        if fixed:
            series.append(Series(label=label, points=fixed, slot=slot, hollow=kind == "always"))
    plot = Plot(
        id="plot-frontier",
        title="What each choice costs, and how good it is.",
        caption="Up is better, left is cheaper. A line is one router at the trade-offs written beside it; a single "
        "mark is a choice that ignores the trade-off. Shading and crosses show how far the truth may lie from each.",
        panels=(
            Panel(
                x=Axis(
                    title="cost, USD per 1,000 requests",
                    unit="usd",
                    log=spans_decades(number(row, "cost_usd") for row in found),
                ),
                y=Axis(title="quality points", unit="points"),
                series=tuple(series),
            ),
        ),
    )
    body = join(
        paragraph(
            "Every choice stands where it would have ended up on the prompts of this log. The intervals form a ",
            term("joint band", f"all of them hold the truth together in {evaluated.level} of logs, not one by one"),
            ", so any two marks may be compared.",
        ),
        plot.figure(),
        _frontier_table(found),
    )
    return Section(id="frontier", title=title, short=short, body=body, plots=[plot])


def _trade_off(row: State) -> float:
    at = number(row, "quality_per_usd")
    return -1.0 if at is None else at


def _of(found: list[State], policy: str) -> list[State]:
    return [row for row in found if string(row, "policy") == policy]


def _place(row: State, *, labelled: bool = True) -> Point:
    quality, cost = number(row, "quality"), number(row, "cost_usd")
    quality_ends = (number(row, "quality_low"), number(row, "quality_high"))
    cost_ends = (number(row, "cost_usd_low"), number(row, "cost_usd_high"))
    policy, at = string(row, "policy"), number(row, "quality_per_usd")
    return Point(
        x=USD.scaled(cost),
        x_low=USD.scaled(cost_ends[0]),
        x_high=USD.scaled(cost_ends[1]),
        y=POINTS.scaled(quality),
        y_low=POINTS.scaled(quality_ends[0]),
        y_high=POINTS.scaled(quality_ends[1]),
        name=policy if at is None else f"{policy} at {dial(at)}",
        notes=(
            f"quality {POINTS.estimate(quality, *quality_ends)}",
            f"{USD.estimate(cost, *cost_ends)} per 1,000 requests",
        ),
        label=None if not labelled else policy.removeprefix("always ") if at is None else brief(at),
    )


def _frontier_table(found: list[State]) -> Html:
    return plotted(
        "Cost and quality of every policy",
        [
            words("policy"),
            numbers("trade-off"),
            numbers("quality"),
            words("joint interval"),
            numbers("USD per 1,000"),
            words("joint interval"),
        ],
        [
            [
                string(row, "policy"),
                "any" if number(row, "quality_per_usd") is None else brief(number(row, "quality_per_usd")),
                POINTS.show(number(row, "quality")),
                POINTS.interval(number(row, "quality_low"), number(row, "quality_high")),
                USD.show(number(row, "cost_usd")),
                USD.interval(number(row, "cost_usd_low"), number(row, "cost_usd_high")),
            ]
            for row in found
        ],
    )


_TITLES = {
    "utility": (
        "Gain after cost.",
        "utility, points",
        "Above zero the first earns more than the second, cost counted.",
    ),
    "quality": ("Gain in quality.", "quality, points", "Above zero the first answers better, whatever it costs."),
    "cost_usd": ("Change in cost.", "USD per 1,000", "Below zero the first is cheaper."),
}


def differences(evaluated: Evaluated) -> Section:
    """Return the paired differences along the dial."""
    found = evaluated.rows("comparisons")
    title, short = "Differences along the dial", "Differences"
    if not found:
        why = absent("No policy was compared with another: give a policy to compare with to see differences.")
        return Section(id="differences", title=title, short=short, body=why)
    plots = []
    for outcome, (heading, axis, reading) in _TITLES.items():
        those = [row for row in found if string(row, "outcome") == outcome]
        at = evaluated.trade_offs(those)
        if at:
            plots.append(
                _dial_plot(evaluated, those, at=at, outcome=outcome, title=heading, axis=axis, reading=reading)
            )
    body = join(
        paragraph(
            "Both policies of a pair are judged on the same rounds, so what luck they share cancels and the interval "
            "is far narrower than two separate ones. Turning the dial up makes a dollar worth more quality, so a good "
            "router moves to cheaper models."
        ),
        *(plot.figure() for plot in plots),
        _difference_table(evaluated, found),
    )
    return Section(id="differences", title=title, short=short, body=body, plots=plots)


def _dial_plot(
    evaluated: Evaluated, found: list[State], *, at: list[float], outcome: str, title: str, axis: str, reading: str
) -> Plot:
    unit = OUTCOMES[outcome]
    groups = list(evaluated.groups(found, "policy", "against"))
    # More than three lines in one plot are hard to follow: then each policy compared with has a plot of its own.
    crowded = len(groups) > 3
    panels = []
    for shown in distinct(against for (_, against), _ in groups) if crowded else [""]:
        those = [group for group in groups if not crowded or group[0][1] == shown]
        series = tuple(
            Series(
                label=f"{policy} minus {against}",
                points=tuple(_step(row, at, aside=dodge(k, len(those)), unit=unit) for row in rows),
                slot=evaluated.slot(policy) if crowded else k,
                line=True,
            )
            for k, ((policy, against), rows) in enumerate(those)
        )
        panels.append(
            Panel(
                label=shown,
                x=Axis(title="trade-off (quality per USD)", ticks=tuple(brief(each) for each in at)),
                y=Axis(title=axis, unit=unit.axis),
                series=series,
                rules=(Rule(axis="y", at=0, strong=True),),
            )
        )
    return Plot(
        id=f"plot-difference-{outcome.replace('_', '-')}",
        title=title,
        caption=f"{reading} Bars are {evaluated.level} intervals; one that crosses zero is undecided.",
        panels=tuple(panels),
        menu="Against",
    )


def _step(row: State, at: list[float], *, aside: float, unit: Unit) -> Point:
    here = number(row, "quality_per_usd")
    value, low, high = (number(row, key) for key in ("value", "ci_low", "ci_high"))
    return Point(
        x=None if here is None else at.index(here) + aside,
        y=unit.scaled(value),
        y_low=unit.scaled(low),
        y_high=unit.scaled(high),
        name=f"{string(row, 'policy')} minus {string(row, 'against')}",
        notes=(unit.estimate(value, low, high, signed=True), dial(here)),
    )


def _difference_table(evaluated: Evaluated, found: list[State]) -> Html:
    spans = {
        outcome: Span.over(
            *(number(row, key) for row in found if row.get("outcome") == outcome for key in ("ci_low", "ci_high"))
        )
        for outcome in OUTCOMES
    }
    lines = []
    for (policy, against, outcome), those in evaluated.groups(found, "policy", "against", "outcome"):
        unit = OUTCOMES.get(outcome, POINTS)
        for row in those:
            value, low, high = (number(row, key) for key in ("value", "ci_low", "ci_high"))
            lines.append(
                [
                    f"{policy} minus {against}",
                    {"cost_usd": "cost per 1,000"}.get(outcome, outcome),
                    brief(number(row, "quality_per_usd")),
                    unit.estimate(value, low, high, signed=True),
                    drawn_interval(value, low, high, span=spans.get(outcome, spans["utility"])),
                    string(row, "interval"),
                    brief(number(row, "flip_gamma")),
                ]
            )
    return plotted(
        "Differences along the dial",
        [
            words("pair"),
            words("outcome"),
            numbers("trade-off"),
            numbers("difference"),
            words("drawn"),
            words("interval"),
            numbers("holds up to Gamma"),
        ],
        lines,
    )
