"""Plots: what a router reaches at every trade-off, beside its models; what online policies lose and spend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError, MissingDependencyError
from pointsman.logs import FullFeedback, replacing
from pointsman.online.replay import Comparison
from pointsman.pipeline import score
from pointsman.router import Router
from pointsman.trade_off import TradeOff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe and Ito's palette: told apart by all common kinds of colour vision, and by lightness in print.
_BLUE, _VERMILION, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#595959"
_PURPLE, _ORANGE, _SKY = "#CC79A7", "#E69F00", "#56B4E9"

_COLOURS = (_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY)

_MARKER_AREA = 52
"""Of a model's dot, in square points."""

_ANGLES = (0, 180, 270, 90, 315, 45, 225, 135, 345, 15, 195, 165, 300, 60, 240, 120)
"""Where a label may stand about its point, in degrees, the most readable first."""

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
    figure, canvas = _new_figure(width=8, height=5.4)
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes = figure.add_subplot()
    axes.set_xscale("log")
    if oracle:
        axes.plot(*_plane(oracle), color=_GREY, linestyle=":", linewidth=1.6, label="oracle: the best model per prompt")
    styles = ((_BLUE, "-", 2.4), (_VERMILION, "--", 1.8))
    for points, (colour, style, width) in zip(routers, styles, strict=False):
        axes.plot(*_plane(points), color=colour, linestyle=style, linewidth=width, label=points[0].label, zorder=3)
    axes.scatter(*_plane(singles), s=_MARKER_AREA, color="black", zorder=4, label="one model for every prompt")
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
    # Beside the axes: inside, there is no corner that some table does not put a model in.
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _label_points(axes, canvas, singles, curves=[*routers, oracle])
    return figure


def replay_plot(comparison: Comparison, *, title: str) -> Figure:
    """Return a figure of what online policies lost and spent, round by round.

    Left, cumulative regret to the best model in hindsight, below zero where a policy is ahead of it; right, cumulative
    spend, unless nothing costs anything. Lines are means over seeds, bands reach from the lowest to the highest seed,
    and where prices, arms or prompts change there is a line across.

    Args:
        comparison: The policies.
        title: What data this is.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure, _ = _new_figure(width=10, height=4.8)
    *policies, best, _ = comparison.curves
    has_cost = any(curve.spend_usd.any() for curve in comparison.curves)
    panels = [("regret", "regret to the best model, utility")] + [("spend_usd", "spend, USD")] * has_cost
    for place, (name, said) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for turn in comparison.turns:
            axes.axvline(turn, color=_GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        mean = getattr(best, name).mean(axis=0)
        axes.plot(best.rounds, mean, color="black", linestyle=":", linewidth=1.6, label=best.label)
        for curve, (style, colour) in zip(policies, cycle(product(("-", "--", "-."), _COLOURS))):
            values = getattr(curve, name)
            label = curve.label if place == 0 else None
            axes.plot(curve.rounds, values.mean(axis=0), color=colour, linestyle=style, linewidth=1.8, label=label)
            axes.fill_between(
                curve.rounds, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0
            )
        axes.set_xlabel("rounds")
        axes.set_ylabel(said)
        axes.grid(visible=True, color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    figure.axes[0].set_title(title, loc="left", fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def write_plot(figure: Figure, stem: str | os.PathLike[str]) -> list[Path]:
    """Write a figure as PNG and SVG beside each other, each whole or not at all; the same figure gives the same bytes.

    Args:
        figure: From `cost_quality_plot` or `replay_plot`.
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


def _new_figure(*, width: float, height: float) -> tuple[Figure, Any]:
    """Return an empty figure, its sides in inches, and its canvas."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("plots need matplotlib: pip install 'pointsman[plot]'") from None

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, FigureCanvasAgg(figure)


def _plane(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [1000 * point.cost_usd for point in points], [point.quality for point in points]


def _label_points(axes: Axes, canvas: Any, points: Sequence[Point], *, curves: Sequence[Sequence[Point]]) -> None:
    """Label points so that no label lies on another, on a point or on a curve, and each stands nearest its own point.

    Places around a point are tried from near to far; the first without a clash is taken, else the one with fewest.
    """
    canvas.draw()
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken: list[Bbox] = []
    own = axes.transData.transform(np.column_stack(_plane(points)))
    radius = np.sqrt(_MARKER_AREA) / 2 * renderer.points_to_pixels(1.0)
    dots = np.concatenate([own + radius * np.array(step) for step in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))])
    lines = [_along(axes.transData.transform(np.column_stack(_plane(curve)))) for curve in curves if curve]
    on_lines = np.concatenate([np.empty((0, 2)), *lines])
    for place in sorted(range(len(points)), key=lambda i: (-points[i].cost_usd, points[i].label)):
        best: Annotation | None = None
        fewest = np.inf
        for distance, angle in product((9, 16, 26, 40, 58, 80), _ANGLES):
            text = _annotate(axes, points[place], distance=distance, angle=float(np.radians(angle)))
            box = _text_box(text, renderer)
            gaps = np.hypot(
                np.maximum(np.maximum(box.x0 - own[:, 0], own[:, 0] - box.x1), 0),
                np.maximum(np.maximum(box.y0 - own[:, 1], own[:, 1] - box.y1), 0),
            )
            # A label across a line can be read, one on a dot hides what it is beside.
            clashes = _n_inside(box, on_lines) + 50 * _n_inside(box, dots) + 40 * int((gaps < gaps[place]).sum())
            clashes += 1000 * sum(box.overlaps(other) for other in taken)
            clashes += 10_000 * (not (frame.x0 <= box.x0 and box.x1 <= frame.x1))
            clashes += 10_000 * (not (frame.y0 <= box.y0 and box.y1 <= frame.y1))
            if clashes < fewest:
                if best is not None:
                    best.remove()
                best, fewest = text, clashes
            else:
                text.remove()
            if fewest == 0:
                break
        if best is not None:
            taken.append(_text_box(best, renderer))


def _text_box(annotation: Annotation, renderer: Any) -> Bbox:
    from matplotlib.text import Text

    annotation.update_positions(renderer)
    # An annotation's own extent spans its leader too, and so the point it belongs to.
    return Text.get_window_extent(annotation, renderer).padded(2)


def _n_inside(box: Bbox, pixels: NDArray[np.float64]) -> int:
    x, y = pixels[:, 0], pixels[:, 1]
    return int(((x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)).sum())


def _along(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points no more than a few pixels apart along a line."""
    dense = [pixels]
    for start, end in pairwise(pixels):
        steps = max(int(np.abs(end - start).max() // 6), 1)
        dense.append(start + (end - start) * (np.arange(steps) / steps)[:, None])
    return np.concatenate(dense)


def _annotate(axes: Axes, point: Point, *, distance: float, angle: float) -> Annotation:
    x, y = distance * np.cos(angle), distance * np.sin(angle)
    text = axes.annotate(
        point.label,
        (1000 * point.cost_usd, point.quality),
        xytext=(x, y),
        textcoords="offset points",
        ha="left" if x > 1 else "right" if x < -1 else "center",
        va="bottom" if y > 1 else "top" if y < -1 else "center",
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6} if distance > 9 else None,
        zorder=6,
    )
    # Or the layout would shrink the axes for a label, and move what the label was placed by.
    text.set_in_layout(False)
    return text
