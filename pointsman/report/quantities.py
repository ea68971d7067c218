"""Numbers as people read them: quality x 100, cost per 1,000 requests, as many digits as the interval supports."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pointsman.report.markup import Html, tag

UNKNOWN = "\N{EN DASH}"
"""What stands where a number is not known."""

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How a quantity is shown.

    Attributes:
        scale: What it is multiplied by.
        prefix: Before the digits, after the sign.
        suffix: After the digits.
        axis: What the axis of a plot calls it: "points", "usd", "percent" or "plain".
        least_decimals: Digits after the point, at least.
    """

    scale: float
    prefix: str = ""
    suffix: str = ""
    axis: str
    least_decimals: int = 1

    def scaled(self, value: float | None) -> float | None:
        """Return a number in the unit shown; None where it is not known or not finite."""
        return None if value is None or not math.isfinite(value) else value * self.scale

    def decimals(self, *values: float | None) -> int:
        """Return the digits after the point that numbers which stand together, unscaled, need to be told apart."""
        known = [v for v in map(self.scaled, values) if v is not None]
        largest = max(map(abs, known), default=0.0)
        width = max(known, default=0.0) - min(known, default=0.0)
        needed = [self.least_decimals]
        if largest > 0:
            needed.append(1 - math.floor(math.log10(largest)))
        if width > 0:
            needed.append(-math.floor(math.log10(width)))
        return min(max(needed), 8)

    def show(self, value: float | None, *, decimals: int | None = None, signed: bool = False) -> str:
        """Return a number in words."""
        if value is None:
            return UNKNOWN
        if math.isinf(value):
            return f"{_MINUS if value < 0 else ''}unbounded"
        digits = f"{abs(value * self.scale):,.{self.decimals(value) if decimals is None else decimals}f}"
        # A difference that rounds to nought has no sign to show.
        nought = not digits.strip("0.,")
        sign = "" if nought else _MINUS if value < 0 else "+" if signed else ""
        return f"{sign}{self.prefix}{digits}{self.suffix}"

    def interval(self, low: float | None, high: float | None, *, signed: bool = False) -> str:
        """Return both ends in words."""
        if low is None or high is None:
            return "no interval"
        decimals = self.decimals(low, high)
        return " to ".join(self.show(end, decimals=decimals, signed=signed) for end in (low, high))

    def estimate(self, value: float | None, low: float | None, high: float | None, *, signed: bool = False) -> str:
        """Return a number and its interval in words."""
        if value is None:
            return UNKNOWN
        decimals = self.decimals(value, low, high)
        if low is None or high is None:
            return f"{self.show(value, decimals=decimals, signed=signed)} (no interval)"
        ends = " to ".join(self.show(end, decimals=decimals, signed=signed) for end in (low, high))
        return f"{self.show(value, decimals=decimals, signed=signed)} ({ends})"


POINTS = Unit(scale=100, axis="points")
"""Utility and quality, in quality points of 100."""

USD = Unit(scale=1000, prefix="$", axis="usd", least_decimals=2)
"""Cost, in USD per 1,000 requests."""

SHARE = Unit(scale=100, suffix="%", axis="percent", least_decimals=0)
"""A part of a whole."""

PLAIN = Unit(scale=1, axis="plain", least_decimals=2)
"""A number without a unit."""

OUTCOMES = {"utility": POINTS, "quality": POINTS, "cost_usd": USD}


def count(value: float | None) -> str:
    """Return how many, in words."""
    return UNKNOWN if value is None else "unbounded" if math.isinf(value) else f"{value:,.0f}"


def brief(value: float | None) -> str:
    """Return a number in three digits, such as a trade-off or a weight."""
    if value is None:
        return UNKNOWN
    if math.isinf(value):
        return "unbounded"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", _MINUS)
    digits = 0 if abs(value) >= 100 else 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    shown = f"{value:,.{digits}f}".replace("-", _MINUS)
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def percent(value: float | None) -> str:
    """Return a share in words, small ones in two digits."""
    return SHARE.show(value)


@dataclass(frozen=True, kw_only=True)
class Span:
    """The scale that intervals drawn below each other share.

    Attributes:
        low: Its left end.
        high: Its right end, above `low`.
    """

    low: float
    high: float

    @staticmethod
    def over(*values: float | None, margin: float = 0.06) -> Span:
        """Return a scale that holds all values and zero, and on both sides a margin, as a share of that."""
        known = [0.0, *(v for v in values if v is not None and math.isfinite(v))]
        low, high = min(known), max(known)
        aside = margin * (high - low) or 1.0
        return Span(low=low - aside, high=high + aside)

    def place(self, value: float) -> str:
        """Return where a value stands, as a percentage of the width."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def drawn_interval(value: float | None, low: float | None, high: float | None, *, span: Span) -> Html:
    """Return a small drawing of an estimate, its interval and zero."""
    middle = 9
    marks = [tag("line", x1=span.place(0), x2=span.place(0), y1=1, y2=17, class_="nought")]
    if low is not None and high is not None:
        marks.append(tag("line", x1=span.place(low), x2=span.place(high), y1=middle, y2=middle, class_="whisker"))
    if value is not None and math.isfinite(value):
        marks.append(tag("circle", cx=span.place(value), cy=middle, r=3.5, class_="estimate"))
    return tag("svg", *marks, class_="interval", width="100%", height=18, aria_hidden="true")
