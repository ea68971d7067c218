"""Plots as data: what the page's script draws, in units as shown, with every hover text written out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from pointsman.report.markup import Html, tag
from pointsman.types import State


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mark.

    Attributes:
        x: Where it stands, in the unit of the axis; not drawn where None.
        y: Likewise.
        x_low: Left end of its interval.
        x_high: Right end.
        y_low: Lower end.
        y_high: Upper end.
        name: First line of the hover text.
        notes: Its other lines.
        label: Written beside the mark where there is room.
    """

    x: float | None
    y: float | None
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    name: str = ""
    notes: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """Marks that share a legend entry.

    Attributes:
        label: The entry.
        points: The marks.
        slot: Colour and shape, by number; None is grey.
        line: Whether a line joins the marks.
        band: Whether the area between `y_low` and `y_high` is filled.
        bars: Whether a bar from nought to y fills `x_low` to `x_high`.
        hollow: Whether only the outline of the mark is drawn.
    """

    label: str
    points: tuple[Point, ...]
    slot: int | None = None
    line: bool = False
    band: bool = False
    bars: bool = False
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis.

    Attributes:
        title: What it shows, with its unit.
        unit: How its ticks are written: "points", "usd", "percent" or "plain".
        log: Whether equal steps are equal factors.
        ticks: Names of the places 0, 1, 2, ... where it shows names, not numbers.
        low: Where it starts at the latest.
        high: Where it ends at the earliest.
    """

    title: str
    unit: str = "plain"
    log: bool = False
    ticks: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line across a plot.

    Attributes:
        axis: The axis it crosses, "x" or "y".
        at: Where.
        label: What it marks.
        strong: Whether it is drawn in full, not in dashes.
    """

    axis: str
    at: float
    label: str = ""
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One state of a plot; a plot of several has a menu.

    Attributes:
        label: Its entry in the menu.
        x: Horizontal axis.
        y: Vertical axis; first name on top where it shows names.
        series: What is drawn.
        rules: Lines across.
        diagonal: Whether the line x = y is drawn.
    """

    label: str = ""
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    diagonal: bool = False


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with its caption.

    Attributes:
        id: Of the element.
        title: What it shows, in a few words.
        caption: How to read it, in one line.
        panels: Its states, the first one shown.
        menu: What the menu asks for.
    """

    id: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    menu: str = "Show"

    def figure(self) -> Html:
        """Return the place the script draws in."""
        return tag(
            "figure",
            tag("figcaption", tag("strong", self.title), " ", self.caption),
            tag(
                "div",
                tag("canvas", role="img", aria_label=f"{self.title} {self.caption} The numbers stand in a table."),
                class_="plot",
                id=self.id,
            ),
        )

    def state(self) -> State:
        """Return what the script reads, without what is not known."""
        return {"id": self.id, "menu": self.menu, "panels": [_bare(asdict(panel)) for panel in self.panels]}


def dodge(k: int, n: int) -> float:
    """Return by how much the k-th of n marks that share a place stands aside, so that none hides another."""
    return 0.0 if n == 1 else (k / (n - 1) - 0.5) * min(0.6, 0.18 * (n - 1))


def spans_decades(values: Iterable[float | None]) -> bool:
    """Return whether a logarithmic axis serves: all are positive and the largest is more than five times the least."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) > 5 * min(known)


def _bare(value: object) -> object:
    """Return plain JSON without empty entries: the script takes what is missing as false."""
    if isinstance(value, dict):
        empty = (None, False, "", ())
        return {key: _bare(each) for key, each in value.items() if not any(each is nothing for nothing in empty)}
    if isinstance(value, list | tuple):
        return [_bare(each) for each in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value
