"""Whether the numbers can be trusted: overlap, weights, calibration, balance, missing outcomes, hidden confounding."""

from __future__ import annotations

import math

from pointsman.report.markup import Html, absent, join, numbers, paragraph, tag, term, words
from pointsman.report.plots import Axis, Panel, Plot, Point, Rule, Series
from pointsman.report.quantities import PLAIN, POINTS, SHARE, UNKNOWN, brief, count, percent
from pointsman.report.reading import Evaluated, number, rows, string
from pointsman.report.sections.base import Section, dial, plotted
from pointsman.report.sections.coverage import models, overlap
from pointsman.types import State


def trust(evaluated: Evaluated) -> Section:
    """Return every diagnostic."""
    plots: list[Plot] = []
    body = join(
        paragraph(
            "An estimate from a log is as good as the log\u2019s coverage of what the new policy would do. "
            "These checks say how good that is here."
        ),
        tag("h3", "Does the log cover what the policies would choose?"),
        models(evaluated, plots),
        overlap(evaluated, plots),
        tag("h3", "Are the propensities right?"),
        _calibration(evaluated, plots),
        tag("h3", "Are the groups alike after weighting?"),
        _balance(evaluated, plots),
        tag("h3", "Are outcomes missing?"),
        _missing(evaluated),
        tag("h3", "What if the log hides a reason?"),
        _sensitivity(evaluated, plots),
    )
    return Section(id="trust", title="Can these numbers be trusted?", short="Trust", body=body, plots=plots)


def _calibration(evaluated: Evaluated, plots: list[Plot]) -> Html:
    found = evaluated.rows("calibration")
    if not found:
        return absent("There is no calibration curve: too few rounds, or no propensities to check.")
    agree: list[Point] = []
    differ: list[Point] = []
    for row in found:
        claimed, observed, low, high = (number(row, key) for key in ("claimed", "observed", "low", "high"))
        off = claimed is not None and low is not None and high is not None and not low <= claimed <= high
        (differ if off else agree).append(
            Point(
                x=SHARE.scaled(claimed),
                y=SHARE.scaled(observed),
                y_low=SHARE.scaled(low),
                y_high=SHARE.scaled(high),
                name=string(row, "model"),
                notes=(
                    f"claimed {percent(claimed)}, observed {SHARE.estimate(observed, low, high)}",
                    f"{count(number(row, 'n_rounds'))} rounds",
                ),
            )
        )
    plot = Plot(
        id="plot-calibration",
        title="Claimed and observed propensities.",
        caption="Rounds for which a model was said to be chosen with some probability, against how often it was. "
        "On the diagonal the log keeps its word.",
        panels=(
            Panel(
                x=Axis(title="claimed propensity", unit="percent", low=0),
                y=Axis(title="observed share", unit="percent", low=0),
                series=tuple(
                    series
                    for series in (
                        Series(label="agrees with the diagonal", points=tuple(agree), slot=0, hollow=True),
                        Series(label="off the diagonal", points=tuple(differ), slot=1),
                    )
                    if series.points
                ),
                diagonal=True,
            ),
        ),
    )
    plots.append(plot)
    chance = len(found) * (1 - evaluated.confidence)
    told = (
        f"{len(differ)} of {len(found)} points have an interval that misses the diagonal; about {brief(chance)} "
        "would by chance."
    )
    listed = plotted(
        "Calibration",
        [words("model"), numbers("claimed"), numbers("observed"), numbers("rounds")],
        [
            [
                string(row, "model"),
                percent(number(row, "claimed")),
                SHARE.estimate(*(number(row, key) for key in ("observed", "low", "high"))),
                count(number(row, "n_rounds")),
            ]
            for row in found
        ],
    )
    return join(paragraph(told), plot.figure(), listed)


_MOST_FEATURES = 16


def _balance(evaluated: Evaluated, plots: list[Plot]) -> Html:
    found = evaluated.rows("balance")
    if not found:
        return absent("Balance was not measured.")
    worst = sorted(found, key=lambda row: max(_size(row, "before"), _size(row, "after")), reverse=True)[:_MOST_FEATURES]
    names = tuple(_compared(row) for row in worst)

    def series(key: str, label: str) -> Series:
        points = tuple(
            Point(
                x=PLAIN.scaled(number(row, key)), y=k, name=names[k], notes=(f"{label}: {_signed(number(row, key))}",)
            )
            for k, row in enumerate(worst)
        )
        return Series(label=label, points=points, slot=0 if key == "after" else None, hollow=key == "before")

    plot = Plot(
        id="plot-balance",
        title="Prompts of one model against all prompts.",
        caption="How far the prompts a model served differ from all prompts, in standard deviations, before and after "
        "weighting. Between the dashed lines is close enough; the filled marks should be there.",
        panels=(
            Panel(
                x=Axis(title="standardised mean difference"),
                y=Axis(title="", ticks=names),
                series=(series("before", "before weighting"), series("after", "after weighting")),
                rules=(
                    Rule(axis="x", at=-0.1),
                    Rule(axis="x", at=0, strong=True),
                    Rule(axis="x", at=0.1),
                ),
            ),
        ),
    )
    plots.append(plot)
    off = sum(_size(row, "after") > 0.1 for row in found)
    shown = f" The {len(worst)} largest are drawn." if len(worst) < len(found) else ""
    listed = plotted(
        "Balance",
        [words("feature"), words("model"), numbers("before"), numbers("after")],
        [
            [
                string(row, "feature"),
                string(row, "model"),
                _signed(number(row, "before")),
                _signed(number(row, "after")),
            ]
            for row in found
        ],
    )
    return join(
        paragraph(f"{off} of {len(found)} differences are still above 0.1 after weighting.{shown}"),
        plot.figure(),
        listed,
    )


def _size(row: State, key: str) -> float:
    return abs(number(row, key) or 0.0)


def _compared(row: State) -> str:
    return " \N{MIDDLE DOT} ".join(each for each in (string(row, "feature"), string(row, "model")) if each)


def _signed(value: float | None) -> str:
    return PLAIN.show(value, decimals=2, signed=True)


def _missing(evaluated: Evaluated) -> Html:
    found = evaluated.state.get("missing")
    if not isinstance(found, dict) or not found:
        return absent("Missing outcomes were not looked at.")
    share, p_value = number(found, "share"), number(found, "p_value")
    sentence = string(found, "sentence") or f"{percent(share)} of the rounds have no outcome."
    tested = (
        paragraph(
            "Were outcomes missing whatever the prompt, a dependence as strong as the one seen here would come up "
            f"with probability {brief(p_value)}.",
            class_="quiet",
        )
        if p_value is not None
        else None
    )
    return join(paragraph(sentence), tested)


def _sensitivity(evaluated: Evaluated, plots: list[Plot]) -> Html:
    found = [row for row in evaluated.rows("sensitivity") if rows(row, "rows")]
    explained = paragraph(
        "Whoever chose the models in the log may have known something the log does not say. ",
        term(
            "Gamma",
            "by what factor such a hidden reason may have changed the odds of choosing a model; 1 is no hidden reason, "
            "2 is twice or half the odds",
        ),
        " measures how strong it is. The question is how large it must be to overturn the conclusion.",
    )
    if not found:
        return join(explained, absent("Sensitivity to hidden reasons was not worked out."))
    panels = []
    for (policy, against, _), those in evaluated.groups(found, "policy", "against", "quality_per_usd"):
        row = those[0]
        bounds = rows(row, "rows")
        ends = [(PLAIN.scaled(number(each, "gamma")), number(each, "low"), number(each, "high")) for each in bounds]
        flip = number(row, "flip_gamma")
        points = tuple(
            Point(
                x=gamma,
                y=None if low is None or high is None else POINTS.scaled((low + high) / 2),
                y_low=POINTS.scaled(low),
                y_high=POINTS.scaled(high),
                name=f"Gamma {brief(gamma)}",
                notes=(f"difference between {POINTS.interval(low, high, signed=True)} points",),
            )
            for gamma, low, high in ends
        )
        rules = [Rule(axis="y", at=0, strong=True)]
        if flip is not None and math.isfinite(flip):
            rules.append(Rule(axis="x", at=flip, label=f"overturned from {brief(flip)}"))
        panels.append(
            Panel(
                label=f"{policy} minus {against}, {dial(number(row, 'quality_per_usd'))}",
                x=Axis(
                    title="Gamma: strength of a hidden reason",
                    low=1,
                    high=max((gamma for gamma, _, _ in ends if gamma is not None), default=None),
                ),
                y=Axis(title="difference, points", unit="points"),
                series=(Series(label="where the difference may lie", points=points, slot=0, band=True),),
                rules=tuple(rules),
            )
        )
    plot = Plot(
        id="plot-sensitivity",
        title="How strong a hidden reason would have to be.",
        caption="The band holds every difference that a hidden reason of that strength could explain. "
        "Once it touches zero, the conclusion no longer holds.",
        panels=tuple(panels),
        menu="Pair",
    )
    plots.append(plot)
    gammas = sorted(
        {gamma for row in found for each in rows(row, "rows") if (gamma := number(each, "gamma")) is not None}
    )
    listed = plotted(
        "Sensitivity",
        [
            words("pair"),
            numbers("trade-off"),
            numbers("overturned from Gamma"),
            *(numbers(f"at {brief(gamma)}") for gamma in gammas),
        ],
        [
            [
                f"{string(row, 'policy')} minus {string(row, 'against')}",
                brief(number(row, "quality_per_usd")),
                brief(number(row, "flip_gamma")),
                *_bounds(row, gammas),
            ]
            for row in found
        ],
    )
    return join(explained, plot.figure(), listed)


def _bounds(row: State, gammas: list[float]) -> list[str]:
    by_gamma = {number(each, "gamma"): each for each in rows(row, "rows")}
    return [
        POINTS.interval(number(by_gamma[gamma], "low"), number(by_gamma[gamma], "high"), signed=True)
        if gamma in by_gamma
        else UNKNOWN
        for gamma in gammas
    ]
