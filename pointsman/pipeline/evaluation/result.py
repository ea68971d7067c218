"""The outcome of an evaluation: numbers, and what to think of them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path

from pointsman._version import __version__
from pointsman.errors import InvalidParameterError, StatisticalWarning
from pointsman.pipeline.rounds import json_ready
from pointsman.types import State

MORE = re.compile(r" \(and (\d+) more like it\)$")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Off-policy estimates, and what to think of them. Every list holds JSON-ready rows.

    Attributes:
        rows: One a policy, trade-off and estimator: `policy, quality_per_usd, estimator, value, ci_low, ci_high, ess`,
            and what `ope.EvaluationRow` holds besides.
        diagnostics: Rounds read and left out, whose propensities were used, overlap, calibration, balance, missing
            outcomes, and every warning in words.
        headline: The verdict on the first policy against the first opponent: `verdict` (better, worse or undecided),
            `sentence, value, ci_low, ci_high`; None where there is nothing to compare with.
        comparisons: Paired differences: `policy, against, quality_per_usd, outcome, value, ci_low, ci_high, interval`.
        frontier: Quality and cost of each policy along the dial, with a band that covers all of it at once.
        savings: Cost at equal quality, and quality at equal cost.
        slices: Differences by column and label.
        examples: Prompts on which the first policy is expected to gain most.
        sensitivity: Bounds under hidden confounding.
        policies: What was evaluated: `name, kind, note`.
        models: Each model's rounds, outcomes and share of each policy's decisions.
        limits: What the log cannot tell, in sentences.
        level: Coverage of the intervals.
        estimator: What comparisons rest on.
        source: The log, as errors name it.
    """

    rows: list[State]
    diagnostics: State
    headline: State | None = None
    comparisons: list[State] = field(default_factory=list)
    frontier: list[State] = field(default_factory=list)
    savings: list[State] = field(default_factory=list)
    slices: list[State] = field(default_factory=list)
    examples: list[State] = field(default_factory=list)
    sensitivity: list[State] = field(default_factory=list)
    policies: list[State] = field(default_factory=list)
    models: list[State] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    level: float = 0.95
    estimator: str = "dr"
    source: str = "log"

    def row(self, quality_per_usd: float, *, estimator: str = "dr", policy: str | None = None) -> State:
        """Return the row of a trade-off, an estimator and, where several were evaluated, a policy.

        Raises:
            InvalidParameterError: There is none.
        """
        for row in self.rows:
            if (row["quality_per_usd"], row["estimator"]) == (quality_per_usd, estimator) and policy in (
                None,
                row["policy"],
            ):
                return row
        raise InvalidParameterError(
            f"rows must hold quality_per_usd {quality_per_usd}, estimator {estimator!r}, policy {policy!r}; they do not"
        )

    def comparison(
        self, quality_per_usd: float, *, against: str, outcome: str = "utility", policy: str | None = None
    ) -> State:
        """Return the paired difference of a policy and an opponent at a trade-off.

        Raises:
            InvalidParameterError: There is none.
        """
        for row in self.comparisons:
            if (row["quality_per_usd"], row["against"], row["outcome"]) == (
                quality_per_usd,
                against,
                outcome,
            ) and policy in (None, row["policy"]):
                return row
        raise InvalidParameterError(
            f"comparisons must hold quality_per_usd {quality_per_usd}, against {against!r}, outcome {outcome!r}, "
            f"policy {policy!r}; they do not"
        )

    def to_dict(self) -> State:
        """Return JSON-ready values: null for NaN, "inf" for infinity."""
        return {each.name: json_ready(getattr(self, each.name)) for each in fields(self)}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_html(self, path: Path | str | None = None) -> str:
        """Return the evaluation as one self-contained page, and write it where a path is given."""
        from pointsman.report import render, write

        page = self._page()
        if path is not None:
            write(page, Path(path))
        return render(page)

    def _page(self) -> State:
        """Return what the report reads: `to_dict`, with the diagnostics it draws at the top level."""
        values = self.to_dict()
        diagnostics = values["diagnostics"]
        for name in ("overlap", "calibration", "balance", "missing", "inverse_propensities", "warnings"):
            values[name] = diagnostics.get(name)
        names = [each["name"] for each in self.policies]
        headline = self.headline
        return values | {
            "title": f"{headline['policy']} against {headline['against']}" if headline else ", ".join(names),
            "created": date.today().isoformat(),
            "pointsman_version": __version__,
            "log": self.source,
        }


def collapse_warnings(messages: Sequence[str]) -> list[str]:
    """Return messages without repeats: of those that differ in numbers only the first stands, with a count."""
    kinds: dict[str, tuple[str, int]] = {}
    for message in dict.fromkeys(messages):
        said = MORE.search(message)
        bare = message if said is None else message[: said.start()]
        kind = re.sub(r"\d+(\.\d+)?", "#", bare)
        first, count = kinds.get(kind, (bare, 0))
        kinds[kind] = (first, count + 1 + (0 if said is None else int(said[1])))
    return [first if count == 1 else f"{first} (and {count - 1} more like it)" for first, count in kinds.values()]


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect statistical warnings as words; at the end give each kind once, with its own class."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    statistical = [each for each in caught if issubclass(each.category, StatisticalWarning)]
    first = {str(each.message): each.category for each in reversed(statistical)}
    found.extend(collapse_warnings([str(each.message) for each in statistical]))
    for each in caught:
        if not issubclass(each.category, StatisticalWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    for message in found:
        warnings.warn(message, first[MORE.sub("", message)], stacklevel=4)
