"""The trade-off between quality and cost: one value, three spellings.

lambda, `quality_per_usd`, is canonical: utility = quality - lambda * cost_usd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.types import PerArm


@dataclass(frozen=True, order=True)
class TradeOff:
    """How many points of quality one US dollar is worth.

    Attributes:
        quality_per_usd: lambda >= 0, in quality points per USD; 0 looks at quality only, `math.inf` at cost only.
    """

    quality_per_usd: float = 0.0

    def __post_init__(self) -> None:
        if not self.quality_per_usd >= 0:  # true for NaN as well
            raise InvalidParameterError(f"quality_per_usd must be >= 0; got {self.quality_per_usd}")

    @classmethod
    def from_cost_weight(cls, cost_weight: float, *, cost_scale_usd: float) -> TradeOff:
        """Return lambda = w / ((1 - w) tau), the trade-off of BaRP's cost weight.

        Args:
            cost_weight: w in [0, 1]: 0 looks at quality only, 1 at cost only.
            cost_scale_usd: tau > 0, the router's fitted cost scale, in USD.

        Raises:
            InvalidParameterError: w lies outside [0, 1], or tau is not positive.

        References:
            Wei et al. (2025), Learning to Route LLMs from Bandit Feedback, arXiv 2510.07429.
        """
        if not 0 <= cost_weight <= 1:
            raise InvalidParameterError(f"cost_weight must be in [0, 1]; got {cost_weight}")
        if not cost_scale_usd > 0:
            raise InvalidParameterError(f"cost_scale_usd must be > 0; got {cost_scale_usd}")
        if cost_weight == 1:
            return cls(math.inf)
        return cls(cost_weight / ((1 - cost_weight) * cost_scale_usd))

    @classmethod
    def from_willingness_to_pay(cls, usd: float) -> TradeOff:
        """Return lambda = 1 / usd, where `usd` is what one full point of quality may cost."""
        if not usd >= 0:
            raise InvalidParameterError(f"willingness_to_pay must be >= 0; got {usd}")
        return cls(math.inf if usd == 0 else 1 / usd)

    def cost_weight(self, *, cost_scale_usd: float) -> float:
        """Return w = lambda tau / (1 + lambda tau), in [0, 1]."""
        if math.isinf(self.quality_per_usd):
            return 1.0
        scaled = self.quality_per_usd * cost_scale_usd
        return scaled / (1 + scaled)

    @property
    def willingness_to_pay(self) -> float:
        """USD that one full point of quality may cost: 1 / lambda."""
        return math.inf if self.quality_per_usd == 0 else 1 / self.quality_per_usd

    def utility(self, *, quality: PerArm, cost_usd: PerArm) -> PerArm:
        """Return quality - lambda * cost_usd, elementwise; -cost_usd where only cost counts.

        A cost of NaN (unknown) does not spoil a trade-off that ignores cost.
        """
        if self.quality_per_usd == 0:
            return np.array(quality, dtype=np.float64)
        if math.isinf(self.quality_per_usd):
            return -np.asarray(cost_usd, dtype=np.float64)
        return np.asarray(quality - self.quality_per_usd * cost_usd, dtype=np.float64)
