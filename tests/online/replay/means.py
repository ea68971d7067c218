"""A small online policy that keeps a diary."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from pointsman.online.base import ArmPrior, OnlinePolicy
from pointsman.online.draw import explored


class Means(OnlinePolicy):
    """Epsilon-greedy on each arm's mean quality and cost, whatever the prompt; `diary` holds all it was told."""

    name = "means"

    def __init__(self, *, n_arms: int, n_features: int, floor: float = 0.3) -> None:
        self.n_arms, self.n_features, self.floor = n_arms, n_features, floor
        self.outcomes: list[tuple[list[float], list[float]]] = [([], []) for _ in range(n_arms)]
        self.diary: list[tuple[Any, ...]] = []

    def probabilities(self, context, trade_off, eligible):
        """All but the floor on the arm of the highest mean utility."""
        del context
        quality, cost_usd = (
            np.array([np.mean(each[i]) if each[i] else empty for each in self.outcomes])
            for i, empty in ((0, 0.5), (1, 0.0))
        )
        utility = np.where(eligible, trade_off.utility(quality=quality, cost_usd=cost_usd), -np.inf)
        return explored(np.eye(self.n_arms)[utility.argmax()], eligible=eligible, floor=self.floor)

    def decide(self, context, trade_off, eligible=None, *, rng):
        """Choose, and note what was asked."""
        choice = super().decide(context, trade_off, eligible, rng=rng)
        self.diary.append(("decide", context, trade_off.quality_per_usd, eligible.tolist(), choice.arm))
        return choice

    def update(self, context, arm, *, quality=math.nan, cost_usd=math.nan, trade_off=None, weight=1.0):
        """Keep what is known."""
        del weight
        self.diary.append(("update", context, trade_off.quality_per_usd, arm, quality, cost_usd))
        for kept, value in zip(self.outcomes[arm], (quality, cost_usd), strict=True):
            if not math.isnan(value):
                kept.append(value)

    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Take in an arm."""
        self.diary.append(("add_arm", prior))
        self.outcomes.append(([], []))
        self.n_arms += 1
        return self.n_arms - 1

    def set_price(self, arm: int, factor: float) -> None:
        """Note the price."""
        self.diary.append(("set_price", arm, factor))

    def state(self):
        """Return the means' terms."""
        return {"n_features": self.n_features, "floor": self.floor, "outcomes": self.outcomes}, {}

    @classmethod
    def from_state(cls, values, arrays) -> Self:
        """Return the policy that `state` described."""
        del arrays
        policy = cls(n_arms=len(values["outcomes"]), n_features=values["n_features"], floor=values["floor"])
        policy.outcomes = [(list(quality), list(cost)) for quality, cost in values["outcomes"]]
        return policy

    def told(self, what: str) -> list[tuple[Any, ...]]:
        """Return the diary's entries of a kind, without the kind."""
        return [entry[1:] for entry in self.diary if entry[0] == what]
