"""Regret minimisation over intervals of the trade-off: `rm-interval`, one router for every lambda."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.policies.base import check_trade_off, greedy
from pointsman.policies.head import PENALTIES, HeadPolicy
from pointsman.policies.objectives import Interpolated, Objective, SoftmaxRegret, interpolate, normalised_utility
from pointsman.policies.regret import check_increasing, check_temperature, cost_scale_of
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, Eligible, PerArm, State

EDGES: tuple[float, ...] = (0.0, *(float(x) for x in np.logspace(-2, 1, 7)))
"""Where the intervals meet, in units of 1 / cost scale: two a decade from where the dearest arm's cost weighs a
hundredth of a quality point to where it weighs ten, then one interval to infinity."""


class RMInterval(HeadPolicy):
    """RM-Interval: in each interval [l, u] of lambda two functions f_l and f_u, with logits (1 - s) f_l(x) + s f_u(x).

    s = (lambda - l) / (u - l) is lambda's place in its interval; in the last, unbounded one it is the place of the cost
    weight w = lambda tau / (1 + lambda tau), in which the utility over 1 + lambda tau is linear as well. Both functions
    are trained jointly, on the softmax regret at trade-offs drawn inside the interval: two a round, at s and 1 - s,
    from the seed.

    Args:
        edges: Where the intervals meet, in units of 1 / cost scale, increasing from 0.
        temperature: Of the softmax, > 0.
        penalties: As in `HeadPolicy`.
        hidden: As in `HeadPolicy`; the intervals then share the hidden layers.
        seed: Seed of the drawn trade-offs, and of a network's start.

    Attributes:
        edges_: Lower ends of the intervals learned; (0,) where the log had no cost.

    Raises:
        InvalidParameterError: The edges do not increase from 0.

    References:
        Tsiourvas, Sun and Perakis (2025), NeurIPS: Causal LLM Routing.
    """

    name = "rm-interval"

    edges_: tuple[float, ...]

    def __init__(
        self,
        *,
        edges: Sequence[float] = EDGES,
        temperature: float = 1.0,
        penalties: Sequence[float] = PENALTIES,
        hidden: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(penalties=penalties, hidden=hidden, seed=seed)
        check_increasing("edges", edges)
        if edges[0] != 0:
            raise InvalidParameterError(f"edges must start at 0, so that every trade-off has a place; got {edges[0]}")
        check_temperature(temperature)
        self.edges = tuple(edges)
        self.temperature = temperature

    @property
    def cost_scale_usd_(self) -> float:
        """Cost scale tau, in USD: the mean cost of the dearest arm."""
        return cost_scale_of(self.cost_usd_)

    def objectives(self, scores: Scores) -> Sequence[Objective]:
        """Return the objective of every interval."""
        cost_scores = scores.cost_scores / self.cost_scale_usd_
        has_cost = bool(np.isfinite(cost_scores).all())
        self.edges_ = self.edges if has_cost else (0.0,)
        cost = cost_scores if has_cost else np.zeros_like(cost_scores)
        quality = scores.quality_scores
        rng = np.random.default_rng(self.seed)
        objectives = []
        for interval in range(len(self.edges_)):
            place = rng.random(scores.n_rounds)
            draws = []
            for s in (place, 1 - place):
                weight = self._cost_weight(interval, s) if has_cost else np.zeros_like(s)
                gain = normalised_utility(quality=quality, cost=cost, cost_weight=weight)
                draws.append((s, SoftmaxRegret(gain=gain, eligible=scores.eligible, temperature=self.temperature)))
            objectives.append(Interpolated(draws=tuple(draws)))
        return objectives

    def _cost_weight(self, interval: int, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cost weight of the trade-off at this place of an interval."""
        lower = self.edges_[interval]
        if interval + 1 < len(self.edges_):
            scaled = (1 - place) * lower + place * self.edges_[interval + 1]
            return np.asarray(scaled / (1 + scaled))
        return np.asarray((1 - place) * lower / (1 + lower) + place)

    def place(self, trade_off: TradeOff) -> tuple[int, float]:
        """Return the interval a trade-off lies in, and its place s in [0, 1] there."""
        weight = trade_off.cost_weight(cost_scale_usd=self.cost_scale_usd_)
        scaled = trade_off.quality_per_usd * self.cost_scale_usd_
        interval = int(np.searchsorted(self.edges_, scaled, side="right")) - 1
        lower = self.edges_[interval]
        if interval + 1 < len(self.edges_):
            return interval, (scaled - lower) / (self.edges_[interval + 1] - lower)
        lower_weight = lower / (1 + lower)
        return interval, (weight - lower_weight) / (1 - lower_weight)

    def logits(self, context: Context, trade_off: TradeOff) -> PerArm:
        """Return (1 - s) f_l(x) + s f_u(x) for every arm, (n_rounds, n_arms)."""
        interval, place = self.place(trade_off)
        width = 2 * len(self.cost_usd_)
        outputs = self.head_.outputs(context, slice(interval * width, (interval + 1) * width))
        return interpolate(outputs, place=place)

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return probability one for the eligible arm of highest logit."""
        check_trade_off(trade_off, cost_usd=self.cost_usd_)
        logits = self.logits(context, trade_off)
        return greedy(logits, eligible=eligible, cost_usd=np.broadcast_to(self.cost_usd_, logits.shape))

    def options(self) -> State:
        """Return the constructor's arguments, JSON-ready."""
        return {"edges": list(self.edges), "temperature": self.temperature, **super().options()}

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments, the intervals and the layers."""
        values, arrays = super().state()
        return {**values, "edges": list(self.edges_)}, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = super().from_state(values, arrays)
        policy.edges_ = tuple(values["edges"])
        return policy
