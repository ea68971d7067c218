"""Requirements a new router must meet before it serves: the gate of a build."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pointsman.errors import InvalidParameterError
from pointsman.pipeline.evaluation.result import Evaluation
from pointsman.types import State

_FORM = re.compile(r"^\s*(utility|quality|cost_usd)\s*(>=|<=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*$")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """That a paired difference is at least, or at most, so much.

    Attributes:
        outcome: utility, quality or cost_usd.
        sense: `>=` or `<=`.
        threshold: In the unit of the outcome: quality points in [0, 1], or USD per request.
    """

    outcome: Literal["utility", "quality", "cost_usd"]
    sense: Literal[">=", "<="]
    threshold: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Return the requirement that a text such as `utility>=0` or `cost_usd<=-0.001` states.

        Raises:
            InvalidParameterError: The text has another form.
        """
        found = _FORM.match(text)
        if found is None:
            raise InvalidParameterError(
                "a requirement must be 'OUTCOME>=NUMBER' or 'OUTCOME<=NUMBER' with OUTCOME utility, quality or "
                f"cost_usd, of the difference new minus old; got {text!r}"
            )
        outcome, sense, threshold = found.groups()
        return cls(outcome=outcome, sense=sense, threshold=float(threshold))  # type: ignore[arg-type]  # the pattern's

    def __str__(self) -> str:
        return f"{self.outcome}{self.sense}{self.threshold:g}"


def one_sided_level(confidence: float) -> float:
    """Return the level of the two-sided interval whose ends each hold with this confidence."""
    if not 0.5 < confidence < 1:
        raise InvalidParameterError(f"confidence must be in (0.5, 1); got {confidence}")
    return 2 * confidence - 1


def check(evaluation: Evaluation, requirements: Sequence[Requirement], *, policy: str, against: str) -> list[State]:
    """Return every requirement at every trade-off, with the bound it was held against and whether it is met.

    `utility>=c` is met where the lower end of the interval of the difference is at least c, `<=` where the upper end is
    at most c. To ship is to reject that any of them is broken, and each is tested at the full level, so the chance to
    ship a router that breaks one is no larger than that of one test: an intersection-union test (Berger, 1982).

    Args:
        evaluation: Of the policy against the opponent; of `level` `one_sided_level(confidence)`.
        requirements: All must be met, at every trade-off.
        policy: The new one.
        against: The old one.

    Raises:
        InvalidParameterError: The evaluation holds no such difference.
    """
    found: list[State] = []
    for requirement in requirements:
        rows = [
            row
            for row in evaluation.comparisons
            if (row["policy"], row["against"], row["outcome"]) == (policy, against, requirement.outcome)
        ]
        if not rows:
            raise InvalidParameterError(
                f"requirement {requirement} needs the difference of {policy} and {against} in {requirement.outcome}; "
                "the log does not hold that outcome"
            )
        for row in rows:
            bound = row["ci_low"] if requirement.sense == ">=" else row["ci_high"]
            # A bound that is not known meets nothing.
            met = bound >= requirement.threshold if requirement.sense == ">=" else bound <= requirement.threshold
            found.append(
                {
                    "requirement": str(requirement),
                    "quality_per_usd": row["quality_per_usd"],
                    "value": row["value"],
                    "bound": bound,
                    "interval": row["interval"],
                    "met": bool(met),
                }
            )
    return found
