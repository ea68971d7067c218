"""What is saved at equal quality, and gained at equal cost."""

from __future__ import annotations

from pointsman.report.markup import Html, absent, join, numbers, paragraph, table, tag, words
from pointsman.report.quantities import POINTS, SHARE, USD, Span, Unit, drawn_interval
from pointsman.report.reading import Evaluated, number, string
from pointsman.report.sections.base import Section
from pointsman.types import State

_KINDS = {
    "cost at equal quality": (USD, "Cost saved at equal quality", "saved per 1,000 requests"),
    "quality at equal cost": (POINTS, "Quality gained at equal cost", "quality points gained"),
}


def savings(evaluated: Evaluated) -> Section:
    """Return the two readings of the frontier that a budget holder asks for."""
    found = evaluated.rows("savings")
    title, short = "Savings at equal quality, quality at equal cost", "Savings"
    if not found:
        why = absent("No savings could be worked out: they need a router and a policy to compare it with.")
        return Section(id="savings", title=title, short=short, body=why)
    known = [each for kind in _KINDS for each in _table(kind, found)]
    body = join(
        paragraph(
            "The dial is set where the router is exactly as good as the other policy, and the costs are compared; then "
            "where it costs exactly as much, and the qualities are compared. Right of the thin line is in the "
            "router\u2019s favour."
        ),
        *known,
    )
    return Section(id="savings", title=title, short=short, body=body)


def _table(kind: str, found: list[State]) -> list[Html]:
    unit, heading, what = _KINDS[kind]
    those = [row for row in found if string(row, "kind") == kind]
    if not those:
        return []
    span = Span.over(*(number(row, key) for row in those for key in ("value", "ci_low", "ci_high")))
    return [
        tag("h3", heading),
        table(
            heading,
            [words("router"), words("against"), numbers(what), words("drawn"), numbers("share")],
            [_line(row, unit, span) for row in those],
        ),
    ]


def _line(row: State, unit: Unit, span: Span) -> list[str]:
    value, low, high = (number(row, key) for key in ("value", "ci_low", "ci_high"))
    pair = [string(row, "policy"), string(row, "against")]
    reason = string(row, "reason")
    if value is None:
        return [*pair, tag("span", reason or "not known", class_="reason"), "", ""]
    share = number(row, "share")
    ends = (number(row, "share_low"), number(row, "share_high"))
    return [
        *pair,
        unit.estimate(value, low, high, signed=True),
        drawn_interval(value, low, high, span=span),
        SHARE.estimate(share, *ends, signed=True) if share is not None else "",
    ]
