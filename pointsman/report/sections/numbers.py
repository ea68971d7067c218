"""What the log cannot tell, and every number."""

from __future__ import annotations

from pointsman.report.markup import absent, bullets, folded, join, numbers, paragraph, table, words
from pointsman.report.quantities import POINTS, USD, brief, count
from pointsman.report.reading import Evaluated, number, string, texts
from pointsman.report.sections.base import Section
from pointsman.types import State


def limits(evaluated: Evaluated) -> Section:
    """Return what the log cannot tell."""
    found = texts(evaluated.state, "limits")
    title, short = "What the log cannot tell", "Limits"
    body = (
        join(paragraph("No estimator can make up for what was never logged."), bullets(found))
        if found
        else absent("No particular limit was found: every model the policies use was logged for every kind of prompt.")
    )
    return Section(id="limits", title=title, short=short, body=body)


def all_numbers(evaluated: Evaluated) -> Section:
    """Return every estimate."""
    found = evaluated.rows("rows")
    title, short = "All numbers", "All numbers"
    policies = evaluated.rows("policies")
    told = table(
        "Policies",
        [words("policy"), words("kind"), words("note")],
        [[string(row, "name"), string(row, "kind"), string(row, "note")] for row in policies],
    )
    if not found:
        why = absent("There are no estimates: see the warnings at the top for the reason.")
        return Section(id="numbers", title=title, short=short, body=join(told if policies else None, why))
    body = join(
        told if policies else None,
        paragraph(
            "Utility and quality in points of 100, cost per 1,000 requests; each interval is for its row alone. "
            "\u201cBias at most\u201d is by how much the estimator may be off however long the log, which its interval "
            "includes; a dash under the interval means that none can be trusted."
        ),
        folded(
            f"All {len(found):,} rows",
            table(
                "All numbers",
                [
                    words("policy"),
                    numbers("trade-off"),
                    words("estimator"),
                    numbers("utility"),
                    numbers("quality"),
                    numbers("USD per 1,000"),
                    words("interval"),
                    numbers("bias at most"),
                    numbers("effective"),
                    numbers("rounds"),
                ],
                [_line(row) for row in found],
            ),
        ),
    )
    return Section(id="numbers", title=title, short=short, body=body)


def _line(row: State) -> list[str]:
    bias = number(row, "bias_bound")
    return [
        string(row, "policy"),
        "any" if number(row, "quality_per_usd") is None else brief(number(row, "quality_per_usd")),
        string(row, "estimator"),
        POINTS.estimate(*(number(row, key) for key in ("value", "ci_low", "ci_high"))),
        POINTS.estimate(*(number(row, key) for key in ("quality", "quality_ci_low", "quality_ci_high"))),
        USD.estimate(*(number(row, key) for key in ("cost_usd", "cost_usd_ci_low", "cost_usd_ci_high"))),
        string(row, "interval"),
        "0" if bias == 0 else POINTS.show(bias),
        count(number(row, "ess")),
        count(number(row, "n_rounds")),
    ]
