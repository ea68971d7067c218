"""A cost-quality frontier: one policy at many trade-offs, and what it saves against another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.types import PerRound

Kind = Literal["cost at equal quality", "quality at equal cost"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrontierPoint:
    """A policy at one trade-off, on the same rounds as every point it is compared with.

    Attributes:
        quality: Its estimated quality, in quality points.
        cost_usd: Its estimated cost, in USD per request.
    """

    quality: Estimate
    cost_usd: Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class Saving:
    """What a frontier gains on a single point, the other axis held equal.

    Attributes:
        kind: `cost at equal quality` or `quality at equal cost`.
        change: The frontier's cost (or quality) minus the point's; None where the frontier does not meet the point.
        share: The change as a share of the point's own; None where there is no change or the point's own is zero.
        reason: Why there is no change; empty where there is one.
    """

    kind: Kind
    change: Estimate | None
    share: Estimate | None
    reason: str = ""


def cost_at_equal_quality(frontier: Sequence[FrontierPoint], point: FrontierPoint) -> Saving:
    """Return how much more the frontier costs than a point of the same quality; negative is a saving.

    Between neighbouring settings a and b of the dial requests are split at random, so that quality is
    (1 - s) q_a + s q_b. With s such that this equals the point's quality q_0,

        change = (1 - s) c_a + s c_b - c_0,     s = (q_0 - q_a) / (q_b - q_a),

    at the cheapest such pair. Its influence is the delta method's,

        (1 - s) c_a' + s c_b' - c_0' + (c_b - c_a) / (q_b - q_a) (q_0' - (1 - s) q_a' - s q_b'),

    where ' marks influences; the choice of the pair is taken as given. Where already the cheapest setting is as good as
    the point, the change is that setting's: a saving at no loss of quality.

    Args:
        frontier: One policy at several trade-offs, in any order.
        point: What it is compared with.

    Raises:
        InvalidParameterError: The frontier is empty.
    """
    return _saving("cost at equal quality", frontier, point)


def quality_at_equal_cost(frontier: Sequence[FrontierPoint], point: FrontierPoint) -> Saving:
    """Return how much better the frontier is than a point of the same cost; positive is a gain.

    As `cost_at_equal_quality` with the axes exchanged. Where the best setting costs less than the point, the change is
    that setting's: a gain at no more cost.
    """
    return _saving("quality at equal cost", frontier, point)


def _saving(kind: Kind, frontier: Sequence[FrontierPoint], point: FrontierPoint) -> Saving:
    if not frontier:
        raise InvalidParameterError("frontier must hold at least one point; got none")
    if kind == "cost at equal quality":
        held, moved = [each.quality for each in frontier], [each.cost_usd for each in frontier]
        held_point, moved_point = point.quality, point.cost_usd
    else:
        held, moved = [each.cost_usd for each in frontier], [each.quality for each in frontier]
        held_point, moved_point = point.cost_usd, point.quality
    if not all(math.isfinite(each.value) for each in (*held, *moved, held_point, moved_point)):
        return Saving(kind=kind, change=None, share=None, reason="quality or cost is not known in this log")
    # From the cheapest setting up: quality and cost rise together along the dial.
    order = sorted(range(len(frontier)), key=lambda j: (frontier[j].cost_usd.value, frontier[j].quality.value))
    held, moved = [held[j] for j in order], [moved[j] for j in order]
    level = held_point.value
    if kind == "cost at equal quality":
        if held[0].value >= level:
            return _settled(kind, moved[0] - moved_point, moved_point)
        pair = next((j for j in range(1, len(held)) if held[j].value >= level), None)
        if pair is None:
            best = max(each.value for each in held)
            return Saving(
                kind=kind,
                change=None,
                share=None,
                reason=f"no setting is as good: the best is {best:.4f} against {level:.4f}",
            )
    else:
        if held[-1].value <= level:
            best_moved = max(moved, key=lambda each: each.value)
            return _settled(kind, best_moved - moved_point, moved_point)
        pair = next((j for j in range(1, len(held)) if held[j].value > level), None)
        if held[0].value > level or pair is None:
            return Saving(
                kind=kind,
                change=None,
                share=None,
                reason=f"no setting is as cheap: the cheapest costs {held[0].value:.3g} USD against {level:.3g}",
            )
    low, high = pair - 1, pair
    run = held[high].value - held[low].value
    split = (level - held[low].value) / run
    slope = (moved[high].value - moved[low].value) / run
    value = (1 - split) * moved[low].value + split * moved[high].value - moved_point.value
    influence = (
        (1 - split) * moved[low].influence
        + split * moved[high].influence
        - moved_point.influence
        + slope * (held_point.influence - (1 - split) * held[low].influence - split * held[high].influence)
    )
    return _settled(kind, linearised(moved[low].name, value=value, influence=influence), moved_point)


def _settled(kind: Kind, change: Estimate, point: Estimate) -> Saving:
    if point.value == 0:
        return Saving(kind=kind, change=change, share=None)
    share = change.value / point.value
    influence = (change.influence - share * point.influence) / point.value
    return Saving(kind=kind, change=change, share=linearised(change.name, value=share, influence=influence))


def linearised(name: str, *, value: float, influence: PerRound) -> Estimate:
    """Return a smooth function of estimates as an estimate: its value, and its influence by the delta method."""
    centred = influence - influence.mean()
    return Estimate(name=name, terms=(Ratio(value + centred, np.ones(influence.size)),))
