"""An online policy as a method like any other: inside a router, on disk, and evaluated."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online import ONLINE_POLICIES
from pointsman.online.bandit import PooledThompson
from pointsman.online.base import OnlinePolicy
from pointsman.policies.base import Policy, check_context, check_eligible, check_rounds
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, Eligible, PerArm, State, prefixed, under


class Online(Policy):
    """What an online policy knows now, asked for many prompts; `learner` goes on learning.

    So a router that learns while it serves is the same folder on disk as one that was fitted, and `evaluate`, `score`
    and `route` read it as it stands.

    Args:
        learner: The online policy.
        learned_through: Number of the last feedback that it has learned from: what a restart goes on from.
    """

    name = "online"
    can_reprice = True

    def __init__(self, learner: OnlinePolicy, *, learned_through: int = 0) -> None:
        self.learner = learner
        self.learned_through = learned_through
        self._cost_factors: NDArray[np.float64] | None = None

    def fit(self, context: Context, scores: Scores) -> Self:
        """Learn from logged rounds, as a prior to what comes."""
        check_rounds(context, scores)
        if not isinstance(self.learner, PooledThompson):
            raise InvalidParameterError(
                f"learner must be {PooledThompson.name!r} to learn a log at once; got {self.learner.name!r}: replay it"
            )
        self.learner.learn_rounds(
            context.astype(np.float64),
            scores.arm,
            quality=scores.quality,
            cost_usd=scores.cost_usd,
            weight=np.ones(scores.n_rounds) if scores.quality_weight is None else scores.quality_weight,
        )
        return self

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return the probability of each arm for each context, as it would be drawn now."""
        check_context(context, n_features=self.learner.n_features)
        shape = (len(context), self.learner.n_arms)
        allowed = np.ones(shape, dtype=np.bool_) if eligible is None else eligible
        check_eligible(allowed, shape=shape)
        rows = context.astype(np.float64)
        return np.array(
            [self.learner.probabilities(x, trade_off, mask) for x, mask in zip(rows, allowed, strict=True)]
        ).reshape(shape)

    def predict(self, context: Context) -> tuple[PerArm, PerArm] | None:
        """Return expected quality and cost_usd of every arm; None for a learner that keeps one reward."""
        if not isinstance(self.learner, PooledThompson):
            return None
        check_context(context, n_features=self.learner.n_features)
        both = np.array([self.learner.expected(x) for x in context.astype(np.float64)])
        both = both.reshape(len(context), 2, self.learner.n_arms)
        return both[:, 0], both[:, 1]

    def _at_todays_prices(self, predicted: tuple[PerArm, PerArm]) -> tuple[PerArm, PerArm]:
        return predicted  # the learner's costs already are

    @property
    def cost_factors(self) -> NDArray[np.float64] | None:
        """(n_arms,) price today over the price learned from; one where None."""
        return self._cost_factors

    @cost_factors.setter
    def cost_factors(self, factors: NDArray[np.float64] | None) -> None:
        self._cost_factors = factors
        for t in range(self.learner.n_arms):
            self.learner.set_price(t, 1.0 if factors is None else float(factors[t]))

    def __copy__(self) -> Self:
        # A router of other prices is a copy of this one; what it learns from then on is its own.
        other = type(self)(copy.deepcopy(self.learner), learned_through=self.learned_through)
        other._cost_factors = self._cost_factors
        return other

    def state(self) -> tuple[State, Arrays]:
        """Return the learner's name and state."""
        values, arrays = self.learner.state()
        return (
            {"learner": self.learner.name, "learned_through": self.learned_through, "values": values},
            prefixed("learner.", arrays),
        )

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        learner = ONLINE_POLICIES[values["learner"]].from_state(values["values"], under("learner.", arrays))
        return cls(learner, learned_through=int(values["learned_through"]))
