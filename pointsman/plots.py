"""The cost-quality plot: what a router reaches at every trade-off, beside the models it chooses among."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointsman.errors import InvalidParameterError, MissingDependencyError
from pointsman.logs import FullFeedback, replacing
from pointsman.pipeline import score
from pointsman.router import Router
from pointsman.trade_off import TradeOff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Okabe and Ito's palette: told apart by all common kinds of colour vision, and by lightness in print.
_BLUE, _VERMILION, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#595959"

_GRID = (0.0, *(float(x) for x in np.logspace(-3, 2, 41)))
"""Trade-offs of a frontier, in units of 1 / mean cost of the dearest arm."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A policy on the plane.

    Attributes:
        label: Its name.
        cost_usd: Mean cost of a request, in USD, > 0.
        quality: Mean quality, in [0, 1].
    """

    label: str
    cost_usd: float
    quality: float


def frontier_trade_offs(table: FullFeedback) -> list[float]:
    """Return the trade-offs a frontier is drawn at, in quality points per USD: from quality only to all but cost only.

    Raises:
        InvalidParameterError: The table has no cost, or all of it is zero.
    """
    if table.cost_usd is None or not (dearest := float(table.cost_usd.mean(axis=0).max())) > 0:
        raise InvalidParameterError("table must have a cost for a cost-quality plot; got none")
    return [share / dearest for share in _GRID]


def router_frontier(router: Router, table: FullFeedback, *, label: str) -> list[Point]:
    """Return a router's true mean cost and quality over `frontier_trade_offs`, dearest first."""
    rows = score(router, table, quality_per_usd=frontier_trade_offs(table)).rows
    return [Point(label=label, cost_usd=row["cost_usd"], quality=row["quality"]) for row in rows]


def oracle_frontier(table: FullFeedback) -> list[Point]:
    """Return the mean cost and quality of the best arm of every prompt over `frontier_trade_offs`, dearest first."""
    points = []
    for trade_off in map(TradeOff, frontier_trade_offs(table)):
        assert table.cost_usd is not None  # noqa: S101 - or there were no trade-offs
        utility = trade_off.utility(quality=table.quality, cost_usd=table.cost_usd)
        best = utility == utility.max(axis=1, keepdims=True)
        # Where only quality counts many arms are best: an oracle takes the cheapest of them.
        chosen = np.where(best, table.cost_usd, np.inf).argmin(axis=1)
        row = np.arange(len(table))
        points.append(
            Point(
                label="oracle",
                cost_usd=float(table.cost_usd[row, chosen].mean()),
                quality=float(table.quality[row, chosen].mean()),
            )
        )
    return points


def single_models(table: FullFeedback) -> list[Point]:
    """Return every arm's mean cost and quality."""
    if table.cost_usd is None:
        raise InvalidParameterError("table must have a cost for a cost-quality plot; got none")
    means = zip(table.arms.names, table.cost_usd.mean(axis=0), table.quality.mean(axis=0), strict=True)
    return [Point(label=name, cost_usd=float(cost), quality=float(quality)) for name, cost, quality in means]


def cost_quality_plot(
    *,
    routers: Sequence[Sequence[Point]],
    singles: Sequence[Point],
    logging: Point | None = None,
    oracle: Sequence[Point] = (),
    title: str,
) -> Figure:
    """Return a figure of quality against cost per 1,000 requests, the latter on a log scale.

    Args:
        routers: A frontier each, one point a trade-off; at most two.
        singles: The models alone.
        logging: The policy that wrote the log.
        oracle: The best arm of every prompt, one point a trade-off.
        title: What data this is.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, NullFormatter
    except ImportError:
        raise MissingDependencyError("plots need matplotlib: pip install 'pointsman[plot]'") from None

    figure = Figure(figsize=(8, 5.2), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    if oracle:
        axes.plot(*_plane(oracle), color=_GREY, linestyle=":", linewidth=1.6, label="oracle: the best model per prompt")
    styles = ((_BLUE, "-", 2.4), (_VERMILION, "--", 1.8))
    for points, (colour, style, width) in zip(routers, styles, strict=False):
        axes.plot(*_plane(points), color=colour, linestyle=style, linewidth=width, label=points[0].label, zorder=3)
    axes.scatter(*_plane(singles), s=52, color="black", zorder=4, label="one model for every prompt")
    if logging is not None:
        axes.scatter(
            *_plane([logging]), s=90, marker="D", color=_GREEN, edgecolor="white", zorder=5, label=logging.label
        )
    axes.set_xlabel("cost of 1,000 requests, USD (log scale)")
    axes.set_ylabel("mean quality")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12, y=0.1)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    _label_points(axes, canvas, singles, curves=[*routers, oracle])
    return figure


def write_plot(figure: Figure, stem: str | os.PathLike[str]) -> list[Path]:
    """Write a figure as PNG and SVG beside each other, each whole or not at all; the same figure gives the same bytes.

    Args:
        figure: From `cost_quality_plot`.
        stem: Path without the suffix.

    Returns:
        The paths of the PNG and the SVG.
    """
    from matplotlib import rc_context

    written = []
    # Dates, versions and random ids would make every file another.
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        path = Path(f"{os.fspath(stem)}.{suffix}")
        with rc_context({"svg.hashsalt": "pointsman"}), replacing(path) as file:
            figure.savefig(file, format=suffix, metadata=metadata)
        written.append(path)
    return written


def _plane(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [1000 * point.cost_usd for point in points], [point.quality for point in points]


def _label_points(axes: Axes, canvas: Any, points: Sequence[Point], *, curves: Sequence[Sequence[Point]]) -> None:
    """Label points so that no label lies on another, on a point or on a curve, where there is room."""
    canvas.draw()
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    legend = axes.get_legend()
    taken: list[Bbox] = [] if legend is None else [legend.get_window_extent(renderer)]
    marks = [axes.transData.transform(xy) for xy in zip(*_plane(points), strict=True)]
    for curve in curves:
        pixels = axes.transData.transform(np.column_stack(_plane(curve))) if curve else np.empty((0, 2))
        for start, end in pairwise(pixels):
            steps = max(int(np.abs(end - start).max() // 8), 1)
            marks.extend(start + (end - start) * step / steps for step in range(steps + 1))
    placed = np.array(marks)
    for point in sorted(points, key=lambda each: (-each.quality, each.label)):
        best, fewest = None, None
        for distance in (9, 16, 26, 40):
            for angle in (0, 180, 270, 90, 315, 45, 225, 135):
                x, y = distance * np.cos(np.radians(angle)), distance * np.sin(np.radians(angle))
                text = axes.annotate(
                    point.label,
                    (1000 * point.cost_usd, point.quality),
                    xytext=(x, y),
                    textcoords="offset points",
                    ha="left" if x > 1 else "right" if x < -1 else "center",
                    va="bottom" if y > 1 else "top" if y < -1 else "center",
                    fontsize=9,
                    arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6} if distance > 16 else None,
                    zorder=6,
                )
                box = text.get_window_extent(renderer).padded(2)
                inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
                covered = (
                    (placed[:, 0] > box.x0)
                    & (placed[:, 0] < box.x1)
                    & (placed[:, 1] > box.y0)
                    & (placed[:, 1] < box.y1)
                ).sum()
                clashes = int(covered) + 100 * sum(box.overlaps(other) for other in taken) + (0 if inside else 1000)
                if fewest is None or clashes < fewest:
                    if best is not None:
                        best.remove()
                    best, fewest = text, clashes
                else:
                    text.remove()
            if fewest == 0:
                break
        if best is not None:
            taken.append(best.get_window_extent(renderer).padded(2))
