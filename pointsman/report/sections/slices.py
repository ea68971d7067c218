"""The difference by task, or by any other column of the log."""

from __future__ import annotations

from pointsman.report.markup import Html, absent, join, numbers, paragraph, words
from pointsman.report.plots import Axis, Panel, Plot, Point, Rule, Series
from pointsman.report.quantities import POINTS, Span, brief, count, drawn_interval
from pointsman.report.reading import Evaluated, number, string
from pointsman.report.sections.base import Section, dial, plotted
from pointsman.types import State


def slices(evaluated: Evaluated) -> Section:
    """Return the difference in every slice."""
    found = evaluated.rows("slices")
    title, short = "By slice", "By slice"
    if not found:
        why = absent("The log was not cut into slices: it has no column to cut by, or none was named.")
        return Section(id="slices", title=title, short=short, body=why)
    groups = list(evaluated.groups(found, "column", "policy", "against", "quality_per_usd"))
    largest = max(len(those) for _, those in groups)
    plot = Plot(
        id="plot-slices",
        title="Where the gain comes from.",
        caption=f"Right of zero the router earns more in that slice, cost counted. Bars are {evaluated.level} "
        "intervals; hollow marks are undecided.",
        panels=tuple(_panel(column, policy, against, those) for (column, policy, against, _), those in groups),
    )
    body = join(
        paragraph(
            f"Each interval stands for itself: of {largest} slices without any true difference, about "
            f"{brief(largest * (1 - evaluated.confidence))} would show one by chance. "
            "Take a surprising slice as a question to ask, not as a finding."
        ),
        plot.figure(),
        _table(found),
    )
    return Section(id="slices", title=title, short=short, body=body, plots=[plot])


def _panel(column: str, policy: str, against: str, those: list[State]) -> Panel:
    ordered = sorted(those, key=_value, reverse=True)
    decided: list[Point] = []
    undecided: list[Point] = []
    for k, row in enumerate(ordered):
        value, low, high = (number(row, key) for key in ("value", "ci_low", "ci_high"))
        clear = low is not None and high is not None and (low > 0 or high < 0)
        (decided if clear else undecided).append(
            Point(
                x=POINTS.scaled(value),
                x_low=POINTS.scaled(low),
                x_high=POINTS.scaled(high),
                y=k,
                name=string(row, "slice"),
                notes=(
                    POINTS.estimate(value, low, high, signed=True),
                    f"{count(number(row, 'n_rounds'))} rounds, effective {count(number(row, 'ess'))}",
                ),
            )
        )
    at = number(those[0], "quality_per_usd")
    return Panel(
        label=f"by {column}: {policy} minus {against}, {dial(at)}",
        x=Axis(title=f"{policy} minus {against}, points", unit="points"),
        y=Axis(title="", ticks=tuple(string(row, "slice") for row in ordered)),
        series=tuple(
            series
            for series in (
                Series(label="decided", points=tuple(decided), slot=0),
                Series(label="undecided", points=tuple(undecided), slot=None, hollow=True),
            )
            if series.points
        ),
        rules=(Rule(axis="x", at=0, strong=True),),
    )


def _value(row: State) -> float:
    value = number(row, "value")
    return float("-inf") if value is None else value


def _table(found: list[State]) -> Html:
    span = Span.over(*(number(row, key) for row in found for key in ("ci_low", "ci_high")))
    return plotted(
        "Differences by slice",
        [
            words("slice"),
            words("column"),
            words("pair"),
            numbers("trade-off"),
            numbers("rounds"),
            numbers("effective"),
            numbers("difference"),
            words("drawn"),
        ],
        [
            [
                string(row, "slice"),
                string(row, "column"),
                f"{string(row, 'policy')} minus {string(row, 'against')}",
                brief(number(row, "quality_per_usd")),
                count(number(row, "n_rounds")),
                count(number(row, "ess")),
                POINTS.estimate(*(number(row, key) for key in ("value", "ci_low", "ci_high")), signed=True),
                drawn_interval(*(number(row, key) for key in ("value", "ci_low", "ci_high")), span=span),
            ]
            for row in found
        ],
    )
