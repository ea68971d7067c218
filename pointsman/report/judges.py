"""A fusion as one page: how far each judge is off and where, what its labels are worth, and what to label next."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

from pointsman.report.markup import EMPTY, Html, absent, bullets, folded, join, numbers, paragraph, table, tag, words
from pointsman.report.page import assemble, write_page
from pointsman.report.plots import Axis, Panel, Plot, Point, Rule, Series
from pointsman.report.quantities import PLAIN, POINTS, UNKNOWN, brief, count, percent
from pointsman.report.reading import Evaluated, distinct, number, rows, string, texts
from pointsman.report.sections.base import Section, plotted
from pointsman.types import State

_CUES = {
    "gamed": ("\N{BLACK DOWN-POINTING TRIANGLE}", "A model games a judge", "worse"),
    "biased": ("\N{BLACK DIAMOND}", "Biased, and corrected", "undecided"),
    "agrees": ("\N{BLACK UP-POINTING TRIANGLE}", "No bias seen", "better"),
    "gold-only": ("\N{BLACK UP-POINTING TRIANGLE}", "All gold", "better"),
    "no-gold": ("\N{BLACK SQUARE}", "Not corrected", "refused"),
}
"""Shape, word and colour: the cue must not hang on its colour."""

_FEW = 10
"""Gold labels under which a slice stands in the table only: its interval would squeeze all others."""

_PROMPT = 160
"""Characters of a prompt that are shown."""


def render_fusion(fusion: State) -> str:
    """Return what the judges of a log are worth as one HTML file that needs nothing else: no network, no other file.

    The same fusion gives the same file. Every text of it is shown as text, whatever it holds.

    Args:
        fusion: JSON-ready, as `pipeline.Fusion.to_dict` gives it, with `title`, `created`, `pointsman_version` and
            `log`; null is not known. Any list may be empty: the section then says why.

    Raises:
        InvalidParameterError: A value is of the wrong kind.
    """
    read = Evaluated(state=fusion)
    sections = [section for build in _SECTIONS if (section := build(read)) is not None]
    return assemble(
        title=string(fusion, "title") or "Judges",
        first=("finding", "Finding"),
        header=_header(read),
        sections=sections,
        facts=(
            ("Log", string(fusion, "log")),
            ("Made", string(fusion, "created")),
            ("By", f"Pointsman {string(fusion, 'pointsman_version')}".strip()),
            ("Intervals", read.level),
            ("Gold source", string(fusion, "gold")),
            ("Correction", string(fusion, "correction")),
        ),
    )


def write_fusion(fusion: State, path: str | os.PathLike[str]) -> None:
    """Write what `render_fusion` returns to a file, whole or not at all; a file that stands there is replaced.

    Raises:
        InvalidParameterError: As `render_fusion`, or there is no folder to write to.
        OSError: The disk is full, or access is denied.
    """
    write_page(render_fusion(fusion), path)


def _header(read: Evaluated) -> Html:
    shape, word, look = _CUES.get(string(read.headline, "kind"), _CUES["no-gold"])
    told = (string(read.state, "title") or "Judges", *(string(read.state, key) for key in ("log", "created")))
    return tag(
        "header",
        paragraph(" \N{MIDDLE DOT} ".join(each for each in told if each), class_="kicker"),
        paragraph(tag("span", shape, aria_hidden="true"), " ", word, class_="cue"),
        tag("h1", string(read.headline, "sentence") or "This page holds what is known of the judges of a log."),
        paragraph(
            "A judge says of every answer how good it was, quickly and cheaply; a gold label says it and is right. "
            "Where both looked at the same answers, the judge\N{RIGHT SINGLE QUOTATION MARK}s error can be measured, "
            "and taken out of its other labels."
        ),
        _tiles(read),
        _doubts(read),
        _meanings(),
        id="finding",
        class_=look,
    )


def _tiles(read: Evaluated) -> Html:
    coverage = _object(read.state, "coverage")
    n_judged = _object(coverage, "n_judged")
    n_rounds = count(number(coverage, "n_rounds"))
    tiles = [
        _tile("Gold labels", count(number(coverage, "n_gold")), f"on {n_rounds} rounds"),
        _tile(
            "Judges\N{RIGHT SINGLE QUOTATION MARK} labels",
            count(sum(number(n_judged, name) or 0 for name in n_judged)),
            "; ".join(f"{name}: {count(number(n_judged, name))}" for name in n_judged) or "no judge",
        ),
    ]
    for row in rows(_object(read.state, "more"), "rows"):
        if string(row, "by") == "overall":
            value, half = number(row, "value"), number(row, "half_width")
            low, high = _around(value, half)
            tiles.append(
                _tile(
                    "Mean quality, in gold units",
                    POINTS.show(value),
                    f"{read.level} interval {POINTS.interval(low, high)}, corrections accounted for",
                )
            )
    return tag("dl", *tiles, class_="tiles")


def _tile(title: str, value: str, note: str) -> Html:
    return tag("div", tag("dt", title), tag("dd", value), tag("dd", note, class_="quiet"))


def _doubts(read: Evaluated) -> Html | None:
    found = texts(read.state, "warnings")
    if not found:
        return None
    title = "Before you rely on this" if len(found) > 1 else "Before you rely on this, one warning"
    return tag("aside", tag("h2", title), bullets(found), class_="doubts")


def _meanings() -> Html:
    return folded(
        "What the words mean",
        tag(
            "dl",
            *(
                tag("div", tag("dt", word), tag("dd", meaning))
                for word, meaning in (
                    ("Round", "one request in the log: a prompt, the model that answered it, and what came of that."),
                    ("Points", "quality from 0 to 100; a bias of +5 means five points too kind on average."),
                    (
                        "Gold",
                        "the labels taken to be true: an expert, a benchmark\N{RIGHT SINGLE QUOTATION MARK}s key.",
                    ),
                    ("Judge", "any other source of labels: a model asked to grade, thumbs, votes."),
                    ("Bias", "mean of judge minus gold. Above zero the judge is too kind, below it too harsh."),
                    (
                        "Differs",
                        "of a model or slice: the judge is off there by another amount than elsewhere, beyond what "
                        "chance explains even with so many looked at.",
                    ),
                    (
                        "Games the judge",
                        "a model whose answers the judge scores far above gold, nearly all alike, whatever they say.",
                    ),
                    (
                        "Regret",
                        "quality points a request that routing loses by not sending each prompt to the best model.",
                    ),
                )
            ),
            class_="words",
        ),
    )


def _bias_by_model(read: Evaluated) -> Section:
    title, short = "How far is each judge off, and for whom?", "Bias"
    found = [row for row in read.rows("bias") if string(row, "by") in ("overall", "arm")]
    if not found:
        why = absent("No bias can be told: it takes at least ten gold labels, and judges that scored the same models.")
        return Section(id="bias", title=title, short=short, body=why)
    plot = Plot(
        id="plot-bias",
        title="Judge minus gold, by model.",
        caption=f"Right of zero the judge is too kind. Bars are {read.level} intervals; the dashed line is the "
        "judge\N{RIGHT SINGLE QUOTATION MARK}s bias over all models. Hollow marks cannot be told from that line.",
        panels=_bias_panels(found),
        menu="Judge",
    )
    gamed = [row for row in found if row.get("gamed")]
    note = (
        None
        if not gamed
        else paragraph(
            "Gamed: ",
            tag("strong", ", ".join(distinct(f"{string(row, 'cell')} (by {string(row, 'judge')})" for row in gamed))),
            ". The judge gives its answers nearly the same high score whatever they are worth. A router that learned "
            "from this judge alone would send it most of the traffic; the fused labels do not inherit that.",
        )
    )
    body = join(
        paragraph(
            "A judge that is equally off for every model misleads nobody who compares models. One that favours a model "
            "does: look for marks away from the dashed line."
        ),
        note,
        plot.figure(),
        _bias_table(found, "Bias by model", "model"),
    )
    return Section(id="bias", title=title, short=short, body=body, plots=[plot])


def _bias_by_slice(read: Evaluated) -> Section | None:
    found = [row for row in read.rows("bias") if string(row, "by") not in ("overall", "arm")]
    if not found:
        return None
    overall = [row for row in read.rows("bias") if string(row, "by") == "overall"]
    drawn = [row for row in found if (number(row, "n_gold") or 0) >= _FEW]
    plot = Plot(
        id="plot-bias-slices",
        title="Judge minus gold, by slice.",
        caption=f"As above: right of zero the judge is too kind. Bars are {read.level} intervals; hollow marks cannot "
        "be told from the dashed line.",
        panels=_bias_panels([*overall, *drawn]),
        menu="Judge and column",
    )
    few = len(found) - len(drawn)
    body = join(
        plot.figure() if drawn else None,
        paragraph(f"{few} more, of fewer than {_FEW} gold labels each, stand in the table only.", class_="quiet")
        if few
        else None,
        _bias_table(found, "Bias by slice", "slice"),
    )
    return Section(
        id="slices", title="Is a judge off for some kinds of prompts?", short="By slice", body=body, plots=[plot]
    )


def _bias_panels(found: list[State]) -> tuple[Panel, ...]:
    panels = []
    overall = {string(row, "judge"): row for row in found if string(row, "by") == "overall"}
    cuts = distinct(string(row, "by") for row in found if string(row, "by") != "overall") or ["overall"]
    for judge in distinct(string(row, "judge") for row in found):
        for cut in cuts:
            cells = [row for row in found if string(row, "judge") == judge and string(row, "by") == cut]
            cells.sort(key=lambda row: -(number(row, "value") if number(row, "value") is not None else -math.inf))  # type: ignore[operator]
            whole = [overall[judge]] if judge in overall and cut != "overall" else []
            ordered = [*whole, *cells]
            kinds: dict[str, list[Point]] = {"gamed": [], "differs": [], "as overall": []}
            for k, row in enumerate(ordered):
                value, low, high = (number(row, key) for key in ("value", "ci_low", "ci_high"))
                kind = (
                    "gamed" if row.get("gamed") else "differs" if row.get("differs") or row in whole else "as overall"
                )
                kinds[kind].append(
                    Point(
                        x=POINTS.scaled(value),
                        x_low=POINTS.scaled(low),
                        x_high=POINTS.scaled(high),
                        y=k,
                        name=_cell(row),
                        notes=(
                            f"{judge} minus gold: {POINTS.estimate(value, low, high, signed=True)} points",
                            f"from {count(number(row, 'n_gold'))} gold labels",
                        ),
                    )
                )
            at = number(overall[judge], "value") if judge in overall else None
            panels.append(
                Panel(
                    label=judge if cut in ("arm", "overall") else f"{judge}, by {cut}",
                    x=Axis(title=f"{judge} minus gold, points", unit="points"),
                    y=Axis(title="", ticks=tuple(_cell(row) for row in ordered)),
                    series=tuple(
                        series
                        for series in (
                            Series(label="games the judge", points=tuple(kinds["gamed"]), slot=1),
                            Series(label="all rounds, or differs from them", points=tuple(kinds["differs"]), slot=0),
                            Series(
                                label="no difference seen", points=tuple(kinds["as overall"]), slot=None, hollow=True
                            ),
                        )
                        if series.points
                    ),
                    rules=(
                        Rule(axis="x", at=0, strong=True),
                        *((Rule(axis="x", at=POINTS.scaled(at) or 0.0),) if at is not None and whole else ()),
                    ),
                )
            )
    return tuple(panels)


def _cell(row: State) -> str:
    return string(row, "cell") or "all rounds"


def _bias_table(found: list[State], label: str, what: str) -> Html:
    return plotted(
        label,
        [
            words(what),
            words("judge"),
            numbers("judge minus gold, points"),
            numbers("gold labels"),
            numbers("judge\N{RIGHT SINGLE QUOTATION MARK}s labels"),
            words("differs"),
            words("compared"),
        ],
        [
            [
                _cell(row),
                string(row, "judge"),
                POINTS.estimate(*(number(row, key) for key in ("value", "ci_low", "ci_high")), signed=True),
                count(number(row, "n_gold")),
                count(number(row, "n_judged")),
                tag("strong", "games the judge", class_="careful")
                if row.get("gamed")
                else "yes"
                if row.get("differs")
                else "",
                "on rounds with both" if row.get("basis") == "paired" else "by what it is expected to say",
            ]
            for row in found
        ],
    )


def _agreement(read: Evaluated) -> Section | None:
    found = [row for row in read.rows("agreement") if (number(row, "n_pairs") or 0) >= 2]
    if not found:
        return None
    binary = any(number(row, "auc") is not None for row in found)
    bins = read.rows("calibration")
    plots = []
    if bins:
        judges = distinct(string(row, "judge") for row in bins)
        plots.append(
            Plot(
                id="plot-calibration",
                title="What gold says of what a judge scored alike.",
                caption="Each mark is a tenth of the rounds with both labels. On the diagonal the score means what it "
                f"says; a flat curve means it says nothing. Bars are {read.level} intervals.",
                panels=tuple(
                    _calibration([row for row in bins if string(row, "judge") == judge], judge) for judge in judges
                ),
                menu="Judge",
            )
        )
    body = join(
        paragraph(
            "A bias can be taken out, noise cannot: what a judge is worth hangs on whether its score goes up and down "
            "with gold. Beside each figure stands what the best constant score, the same for all answers, would reach."
        ),
        table(
            "Agreement with gold",
            [
                words("judge"),
                numbers("rounds with both"),
                numbers("correlation (constant 0)"),
                numbers("rank correlation"),
                numbers("mean distance, points"),
                numbers("of a constant"),
                numbers("root mean square"),
                numbers("of a constant"),
                *([numbers("good above bad (constant 50%)")] if binary else []),
            ],
            [
                [
                    string(row, "judge"),
                    count(number(row, "n_pairs")),
                    PLAIN.show(number(row, "correlation")),
                    PLAIN.show(number(row, "rank_correlation")),
                    POINTS.show(number(row, "absolute_difference")),
                    POINTS.show(number(row, "constant_absolute_difference")),
                    POINTS.show(number(row, "rmse")),
                    POINTS.show(number(row, "constant_rmse")),
                    *([percent(number(row, "auc"))] if binary else []),
                ]
                for row in found
            ],
        ),
        *(plot.figure() for plot in plots),
        _calibration_table(bins) if bins else None,
    )
    return Section(id="agreement", title="Does its score go with gold?", short="Agreement", body=body, plots=plots)


def _calibration(found: list[State], judge: str) -> Panel:
    points = []
    for row in found:
        judged, value, low, high = (number(row, key) for key in ("judged", "gold", "ci_low", "ci_high"))
        points.append(
            Point(
                x=POINTS.scaled(judged),
                y=POINTS.scaled(value),
                y_low=POINTS.scaled(low),
                y_high=POINTS.scaled(high),
                name=f"{judge} said {POINTS.show(judged)}",
                notes=(f"gold {POINTS.estimate(value, low, high)}", f"{count(number(row, 'n_pairs'))} rounds"),
            )
        )
    return Panel(
        label=judge,
        x=Axis(title=f"what {judge} said, points", unit="points", low=0, high=100),
        y=Axis(title="mean gold label, points", unit="points", low=0, high=100),
        series=(Series(label=judge, points=tuple(points), slot=0, line=True),),
        diagonal=True,
    )


def _calibration_table(found: list[State]) -> Html:
    return plotted(
        "Gold by score",
        [words("judge"), numbers("its score, from"), numbers("to"), numbers("mean gold label"), numbers("rounds")],
        [
            [
                string(row, "judge"),
                POINTS.show(number(row, "low")),
                POINTS.show(number(row, "high")),
                POINTS.estimate(*(number(row, key) for key in ("gold", "ci_low", "ci_high"))),
                count(number(row, "n_pairs")),
            ]
            for row in found
        ],
    )


def _worth(read: Evaluated) -> Section | None:
    found = read.rows("worth")
    if not found:
        return None
    priced = any(row.get("worth_its_price") is not None for row in found)
    body = join(
        paragraph(
            "More labels narrow the interval of a mean. A judge\N{RIGHT SINGLE QUOTATION MARK}s labels narrow it too, "
            "as much as some number of gold labels would: so many gold labels they replace. ",
            "It is worth its price where that costs less than the gold labels it replaces."
            if priced
            else "With the price of a label of each source, this table also says who is worth its price.",
        ),
        table(
            "What each judge is worth",
            [
                words("judge"),
                numbers("its labels"),
                numbers("gold labels they replace"),
                numbers("per 1,000 of them"),
                *([numbers("USD per gold label replaced"), words("worth its price")] if priced else []),
            ],
            [
                [
                    string(row, "judge"),
                    count(number(row, "n_judged")),
                    f"{count(number(row, 'replaced'))} "
                    f"({count(number(row, 'ci_low'))} to {count(number(row, 'ci_high'))})",
                    brief(number(row, "per_thousand")),
                    *([_usd(number(row, "usd_per_gold_label")), _answer(row.get("worth_its_price"))] if priced else []),
                ]
                for row in found
            ],
        ),
    )
    return Section(id="worth", title="Is a judge worth its price?", short="Worth", body=body)


def _usd(value: float | None) -> str:
    return UNKNOWN if value is None else "replaces none" if math.isinf(value) else f"${brief(value)}"


def _answer(worth: object) -> str:
    return UNKNOWN if worth is None else "yes" if worth else "no"


def _coverage(read: Evaluated) -> Section:
    coverage = _object(read.state, "coverage")
    labelling = _object(coverage, "labelling")
    found = rows(coverage, "by_model")
    title, short = "Where are the gold labels?", "Coverage"
    told = None
    if labelling:
        known = {"known": "was known", "estimated": "was estimated from prompt, model and what the judges said"}
        trimmed = number(labelling, "trimmed_share") or 0.0
        how = known.get(string(labelling, "kind"), "was known for some and estimated for the others")
        told = paragraph(
            f"{percent(number(labelling, 'share'))} of the labelled rounds have a gold label. The chance of each to "
            f"get one {how}. A gold label that had a chance of one in ten stands for ten rounds. ",
            f"For {percent(trimmed)} of the rounds that chance was next to nothing: what is said there is extrapolated."
            if trimmed > 0.0005
            else "No round was left without a fair chance.",
        )
    body = join(
        told,
        table(
            "Labels by model",
            [
                words("model"),
                numbers("rounds"),
                numbers("gold labels"),
                numbers("mean gold label, points"),
                numbers("mean in gold units, points"),
            ],
            [
                [
                    string(row, "model"),
                    count(number(row, "n_rounds")),
                    count(number(row, "n_gold")),
                    POINTS.show(number(row, "mean_gold")),
                    POINTS.show(number(row, "mean_in_gold_units")),
                ]
                for row in found
            ],
        )
        if found
        else absent("No model is known."),
        paragraph(
            "Gold asked for unevenly has a plain mean that is off. The mean in gold units weighs each gold label by "
            "its chance, and adds what the judges say of the other rounds.",
            class_="quiet",
        )
        if labelling
        else None,
    )
    return Section(id="coverage", title=title, short=short, body=body)


def _next(read: Evaluated) -> Section:
    found = read.rows("next_rounds")
    title, short = "What to have gold-labelled next", "Next labels"
    more = _object(read.state, "more")
    bought = _bought(read, more)
    if not found:
        why = absent("No round is named: there is one model only, every round has gold, or none was asked for.")
        return Section(id="next", title=title, short=short, body=join(why, bought))
    body = join(
        paragraph(
            "These rounds are chosen, one after the other, for what their gold labels are expected to change: the "
            "choice between the best two models, on prompts where it is close and the correction of the judges is in "
            "doubt."
        ),
        table(
            "Rounds to label next",
            [numbers(""), words("prompt"), words("model"), words("helps to decide between"), words("round")],
            [
                [
                    count(number(row, "rank")),
                    tag("span", _short(string(row, "prompt")) or UNKNOWN, class_="reason", dir="auto"),
                    string(row, "model"),
                    tag("span", " and ".join(texts(row, "between")), class_="reason"),
                    string(row, "round_id"),
                ]
                for row in found
            ],
        ),
        bought,
    )
    return Section(id="next", title=title, short=short, body=body)


def _bought(read: Evaluated, more: State) -> Html:
    found = rows(more, "rows")
    if not found:
        return EMPTY
    n_more = count(number(more, "n_more"))
    chosen, drawn = number(more, "regret_reduction"), number(more, "random_regret_reduction")
    told = None
    if chosen is not None and drawn is not None:
        told = paragraph(
            f"{count(number(more, 'n_chosen'))} gold labels chosen so are expected to lower the regret of routing by "
            f"{brief(100 * chosen)} points a request; as many drawn at random, by {brief(100 * drawn)}."
        )
    return join(
        tag("h3", f"What {n_more} more would buy"),
        told,
        paragraph(
            f"Drawn as those before, {n_more} more would narrow the {read.level} intervals of the mean gold label to:"
        ),
        table(
            f"Intervals with {n_more} gold labels more",
            [
                words("model"),
                numbers("mean, points"),
                numbers("now \N{PLUS-MINUS SIGN}"),
                numbers("then \N{PLUS-MINUS SIGN}"),
            ],
            [
                [
                    _cell(row),
                    POINTS.show(number(row, "value")),
                    POINTS.show(number(row, "half_width")),
                    POINTS.show(number(row, "later_half_width")),
                ]
                for row in found
            ],
        ),
    )


def _gain(read: Evaluated) -> Section | None:
    gain = _object(read.state, "gain")
    found = rows(gain, "rows")
    if not found:
        return None
    weak, strong = string(gain, "weak"), string(gain, "strong")
    points = []
    for row in found:
        share, value, low, high = (number(row, key) for key in ("share", "gain", "ci_low", "ci_high"))
        points.append(
            Point(
                x=None if share is None else 100 * share,
                y=POINTS.scaled(value),
                y_low=POINTS.scaled(low),
                y_high=POINTS.scaled(high),
                name=f"{percent(share)} to {strong}",
                notes=(f"{POINTS.estimate(value, low, high, signed=True)} points over random",),
            )
        )
    plot = Plot(
        id="plot-gain",
        title=f"What choosing wins over chance, {strong} against {weak}.",
        caption=f"At each share of traffic to {strong}: quality won by sending it the prompts of largest predicted "
        f"gain, instead of as many drawn at random. The band is a {read.level} interval at each share by itself.",
        panels=(
            Panel(
                x=Axis(title=f"share of traffic to {strong}", unit="percent", low=0, high=100),
                y=Axis(title="gain over random routing, points", unit="points"),
                series=(Series(label="fused labels", points=tuple(points), slot=0, line=True, band=True),),
                rules=(Rule(axis="y", at=0, strong=True),),
            ),
        ),
    )
    body = join(
        paragraph(
            f"Largest gain {POINTS.show(number(gain, 'largest'))} points; area between 20% and 80% "
            f"{POINTS.estimate(*(number(gain, key) for key in ('area', 'area_ci_low', 'area_ci_high')))} points, over "
            f"{count(number(gain, 'n_prompts'))} rounds."
        ),
        plot.figure(),
        plotted(
            "Gain over random routing",
            [numbers(f"share to {strong}"), numbers("gain, points")],
            [
                [
                    percent(number(row, "share")),
                    POINTS.estimate(*(number(row, key) for key in ("gain", "ci_low", "ci_high")), signed=True),
                ]
                for row in found[:: max(len(found) // 10, 1)]
            ],
        ),
    )
    return Section(
        id="gain", title="What would a router of these two models gain?", short="Gain", body=body, plots=[plot]
    )


_SECTIONS: Sequence[Callable[[Evaluated], Section | None]] = (
    _bias_by_model,
    _bias_by_slice,
    _agreement,
    _worth,
    _coverage,
    _next,
    _gain,
)


def _object(row: State, key: str) -> State:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _around(value: float | None, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if value is None or half is None else (value - half, value + half)


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= _PROMPT else prompt[:_PROMPT].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
