"""Prompts on which the policies differ most."""

from __future__ import annotations

from pointsman.report.markup import Html, absent, folded, join, paragraph, tag
from pointsman.report.quantities import POINTS, USD
from pointsman.report.reading import Evaluated, number, string
from pointsman.report.sections.base import Section, dial
from pointsman.types import State

_SHORT = 300
"""Characters of a prompt that are shown."""

_LONG = 10_000
"""Characters that can be unfolded: a log may hold whole books, the page shall not."""

_OPEN = 6
"""Examples shown without a click."""


def examples(evaluated: Evaluated) -> Section:
    """Return where the policies differ most."""
    found = evaluated.rows("examples")
    title, short = "Where it differs most", "Examples"
    if not found:
        why = absent("No example is shown: the policies choose the same models, or the log holds no text.")
        return Section(id="examples", title=title, short=short, body=why)
    cards = [_card(row) for row in found]
    body = join(
        paragraph(
            "Prompts of the log on which the predicted gain is largest. These are predictions of what each model "
            "would have earned, good for judging whether the router\u2019s taste makes sense; one by one they prove "
            "nothing."
        ),
        tag("div", *cards[:_OPEN], class_="cards"),
        folded(f"{len(cards) - _OPEN} more examples", tag("div", *cards[_OPEN:], class_="cards"), printed=False)
        if len(cards) > _OPEN
        else None,
    )
    return Section(id="examples", title=title, short=short, body=body)


def _card(row: State) -> Html:
    gain, quality, cost = (number(row, key) for key in ("gain", "quality_gain", "cost_usd_change"))
    logged, logged_quality = string(row, "logged_model"), number(row, "logged_quality")
    return tag(
        "article",
        tag("blockquote", *_prompt(string(row, "prompt")), dir="auto"),
        paragraph(
            tag("span", string(row, "policy"), " \N{RIGHTWARDS ARROW} ", tag("strong", string(row, "model"))),
            tag("span", string(row, "against"), " \N{RIGHTWARDS ARROW} ", tag("strong", string(row, "against_model"))),
            class_="choice",
        ),
        paragraph(
            f"Predicted gain {POINTS.show(gain, signed=True)} points at {dial(number(row, 'quality_per_usd'))}: "
            f"quality {POINTS.show(quality, signed=True)}, cost {USD.show(cost, signed=True)} per 1,000 such requests.",
            f" In the log {logged} answered, quality {POINTS.show(logged_quality)}." if logged else None,
            class_="quiet",
        ),
    )


def _prompt(prompt: str) -> list[Html]:
    if len(prompt) <= _SHORT + 40:
        return [paragraph(prompt, class_="prompt")]
    # Cut between words where one is near.
    cut = prompt.rfind(" ", _SHORT - 40, _SHORT) + 1 or _SHORT
    rest = prompt[cut:_LONG]
    over = f" [{len(prompt) - _LONG:,} more characters are not in this file]" if len(prompt) > _LONG else None
    return [
        paragraph(prompt[:cut], "\N{HORIZONTAL ELLIPSIS}", class_="prompt"),
        folded(
            f"The other {len(prompt) - cut:,} characters",
            paragraph("\N{HORIZONTAL ELLIPSIS}", rest, over, class_="prompt"),
            printed=False,
        ),
    ]
