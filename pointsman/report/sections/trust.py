"""Whether the numbers can be trusted: overlap, weights, calibration, balance, missing outcomes, hidden confounding."""

from __future__ import annotations

import math

from pointsman.report.markup import Html, absent, bullets, folded, join, numbers, paragraph, table, tag, term, words
from pointsman.report.plots import Axis, Panel, Plot, Point, Rule, Series, dodge, spans_decades
from pointsman.report.quantities import PLAIN, POINTS, SHARE, UNKNOWN, USD, brief, count, percent
from pointsman.report.reading import Evaluated, distinct, floats, number, rows, string, texts
from pointsman.report.sections.base import Section, dial, plotted
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
        _models(evaluated, plots),
        _overlap(evaluated, plots),
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


def _models(evaluated: Evaluated, plots: list[Plot]) -> Html:
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


def _overlap(evaluated: Evaluated, plots: list[Plot]) -> Html:
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
