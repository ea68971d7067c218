"""The verdict in one sentence, its interval drawn, and what else to know before relying on it."""

from __future__ import annotations

import math

from pointsman.report.markup import Html, bullets, folded, join, paragraph, tag, term
from pointsman.report.quantities import POINTS, USD, Span, count
from pointsman.report.reading import Evaluated, number, string, texts
from pointsman.report.sections.base import dial_meaning
from pointsman.types import State

_CUES = {
    "better": ("\N{BLACK UP-POINTING TRIANGLE}", "Better"),
    "worse": ("\N{BLACK DOWN-POINTING TRIANGLE}", "Worse"),
    "undecided": ("\N{BLACK DIAMOND}", "Undecided"),
    "refused": ("\N{BLACK SQUARE}", "No verdict"),
}
"""Shape and word: the cue must not hang on its colour."""


def verdict(evaluated: Evaluated) -> Html:
    """Return the head of the page."""
    headline = evaluated.headline
    kind = string(headline, "verdict")
    kind = kind if kind in _CUES else "refused"
    shape, word = _CUES[kind]
    told = (
        string(evaluated.state, "title") or "Evaluation",
        *(string(evaluated.state, key) for key in ("log", "created")),
    )
    sentence = string(headline, "sentence") or "This evaluation has no headline comparison; its parts follow."
    return tag(
        "header",
        paragraph(" \N{MIDDLE DOT} ".join(each for each in told if each), class_="kicker"),
        paragraph(tag("span", shape, aria_hidden="true"), " ", word, class_="cue"),
        tag("h1", sentence),
        _interval(evaluated, kind),
        _tiles(evaluated),
        _doubts(evaluated),
        _meanings(evaluated),
        id="verdict",
        class_=kind,
    )


def _interval(evaluated: Evaluated, kind: str) -> Html | None:
    headline = evaluated.headline
    value, low, high = (number(headline, key) for key in ("value", "ci_low", "ci_high"))
    if value is None or low is None or high is None or not math.isfinite(high - low):
        return paragraph("There is no interval to draw: see the warnings below.", class_="absent")
    span = Span.over(value, low, high, margin=0.18)
    decimals = POINTS.decimals(value, low, high)
    # Side by side, the numbers under a narrow interval would run into each other.
    narrow = high - low < 0.3 * (span.high - span.low)
    line = 42
    drawing = tag(
        "svg",
        tag("line", x1="0%", x2="100%", y1=line, y2=line, class_="rail"),
        tag("line", x1=span.place(0), x2=span.place(0), y1=line - 14, y2=line + 42, class_="nought"),
        tag("text", "no difference", x=span.place(0), y=line + 58, text_anchor=_anchor(0, span), class_="quiet"),
        tag("line", x1=span.place(low), x2=span.place(high), y1=line, y2=line, class_="whisker"),
        *(
            join(
                tag("line", x1=span.place(end), x2=span.place(end), y1=line - 8, y2=line + 8, class_="cap"),
                tag(
                    "text",
                    POINTS.show(end, decimals=decimals, signed=True),
                    x=span.place(end),
                    y=line + 28,
                    text_anchor=anchor if narrow else "middle",
                    class_="end",
                ),
            )
            for end, anchor in ((low, "end"), (high, "start"))
        ),
        tag("circle", cx=span.place(value), cy=line, r=8, class_="estimate"),
        tag(
            "text",
            POINTS.show(value, decimals=decimals, signed=True),
            x=span.place(value),
            y=line - 18,
            text_anchor="middle",
        ),
        class_="verdict-interval",
        width="100%",
        height=line + 66,
        role="img",
        aria_label=f"Difference in quality points: {POINTS.estimate(value, low, high, signed=True)}.",
    )
    reading = {
        "better": "All of it lies right of \u201cno difference\u201d: chance alone does not explain the gain.",
        "worse": "All of it lies left of \u201cno difference\u201d: chance alone does not explain the loss.",
        "undecided": "It holds \u201cno difference\u201d, so the log cannot tell which of the two is better.",
        "refused": "The log does not support a verdict, so do not act on this number.",
    }[kind]
    return tag(
        "figure",
        drawing,
        tag(
            "figcaption",
            f"{evaluated.policy} minus {evaluated.against}, in quality points after cost. The bar is the ",
            term(
                f"{evaluated.level} interval",
                f"worked out on many logs like this one, it holds the true difference {evaluated.level} of the time",
            ),
            f". {reading}",
        ),
        class_="drawn",
    )


def _anchor(value: float, span: Span) -> str:
    """Return which end of a long word stands at a place, so that the word stays on the page."""
    share = (value - span.low) / (span.high - span.low)
    return "start" if share < 0.25 else "end" if share > 0.75 else "middle"


def _tiles(evaluated: Evaluated) -> Html | None:
    new, old = _row(evaluated, evaluated.policy), _row(evaluated, evaluated.against)
    if new is None:
        return None
    tiles = [
        _tile(f"Quality with {evaluated.policy}", "quality", new, old),
        _tile("Cost per 1,000 requests", "cost_usd", new, old),
    ]
    ess, n_rounds = number(new, "ess"), number(new, "n_rounds")
    if ess is not None:
        tiles.append(
            tag(
                "div",
                tag("dt", "Effective sample size"),
                tag("dd", count(ess)),
                tag(
                    "dd",
                    f"of {count(n_rounds)} rounds: the log is worth as much as {count(ess)} rounds that "
                    f"{evaluated.policy} had served itself",
                    class_="quiet",
                ),
            )
        )
    return tag("dl", *tiles, class_="tiles")


def _tile(title: str, outcome: str, new: State, old: State | None) -> Html:
    unit = USD if outcome == "cost_usd" else POINTS
    value = number(new, outcome)
    low, high = number(new, f"{outcome}_ci_low"), number(new, f"{outcome}_ci_high")
    before = None if old is None else number(old, outcome)
    decimals = unit.decimals(value, low, high)
    found = "" if low is None or high is None else f"interval {unit.interval(low, high)}"
    beside = (
        "" if old is None or before is None else (f"{string(old, 'policy')}: {unit.show(before, decimals=decimals)}")
    )
    return tag(
        "div",
        tag("dt", title),
        tag("dd", unit.show(value, decimals=decimals)),
        tag("dd", "; ".join(each for each in (found, beside) if each), class_="quiet"),
    )


def _row(evaluated: Evaluated, policy: str) -> State | None:
    for row in evaluated.rows("rows"):
        if (
            row.get("policy") == policy
            and number(row, "quality_per_usd") == evaluated.quality_per_usd
            and row.get("estimator") in (evaluated.state.get("estimator"), None)
        ):
            return row
    return None


def _meanings(evaluated: Evaluated) -> Html:
    return folded(
        "What the words mean",
        tag(
            "dl",
            *(
                tag("div", tag("dt", word), tag("dd", meaning))
                for word, meaning in (
                    ("Round", "one request in the log: a prompt, the model that answered it, and what came of that."),
                    ("Quality", "how good an answer was, from 0 to 100 points."),
                    (
                        "Trade-off",
                        join("how much quality a dollar is worth. ", dial_meaning(evaluated.quality_per_usd)),
                    ),
                    (
                        "Utility",
                        "quality minus what it cost, in quality points, at the trade-off. It can be negative.",
                    ),
                    (
                        "Policy",
                        "a way to choose the model for each prompt: a router, \u201calways\u201d one model, or "
                        "\u201clogging\u201d, whatever chose the models in this log.",
                    ),
                    (
                        "Off-policy",
                        "nothing was sent to any model for this page. It asks what the policies would have earned "
                        "on the prompts of the log, and corrects for what the log\u2019s own policy preferred to send "
                        "where.",
                    ),
                )
            ),
            class_="words",
        ),
    )


def _doubts(evaluated: Evaluated) -> Html | None:
    found = texts(evaluated.state, "warnings")
    if not found:
        return None
    title = "Before you rely on this" if len(found) > 1 else "Before you rely on this, one warning"
    shown = bullets(found[:5])
    rest = folded(f"{len(found) - 5} more warnings", bullets(found[5:])) if len(found) > 5 else None
    return tag("aside", tag("h2", title), shown, rest, class_="doubts")
