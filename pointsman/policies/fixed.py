"""Policies that do not look at the prompt: the best single arm, a named arm, and chance."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.policies.base import Policy, check_context, check_eligible, check_rounds, check_trade_off, greedy
from pointsman.policies.comparing import ComparingPolicy
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, Eligible, PerArm, State

Estimate = Literal["dr", "model"]
"""How an arm's mean is estimated: by doubly robust scores, or by the outcome model alone."""


def arm_means(scores: Scores, *, estimate: Estimate) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each arm's mean quality and mean cost_usd over the prompts of all rounds, (n_arms,) each.

    Args:
        scores: The logged rounds.
        estimate: `dr`, column means of the doubly robust scores: without bias if either the propensities or the
            outcome model are right, and as noisy as the largest weights. `model`, column means of the out-of-fold
            predictions: biased where the outcome model is, and steadier.

    Returns:
        Quality and cost in USD; cost is NaN where the log had none. Arms are compared over the same prompts, also
        those in which one was not eligible; there its outcome is the model's prediction.

    Raises:
        InvalidParameterError: `estimate` is neither.
    """
    if estimate == "dr":
        return scores.quality_scores.mean(axis=0), scores.cost_scores.mean(axis=0)
    if estimate == "model":
        return scores.predicted_quality.mean(axis=0), scores.predicted_cost_usd.mean(axis=0)
    raise InvalidParameterError(f"estimate must be 'dr' or 'model'; got {estimate!r}")


class BestSingle(ComparingPolicy):
    """Calls the arm of highest mean utility at the trade-off, whatever the prompt.

    Args:
        estimate: How the means are estimated, as in `arm_means`. Under confounded logging the raw doubly robust means
            have been seen to pick arms 2-3 utility points (of 100) below those that `model` picks.

    Attributes:
        quality_: (n_arms,) mean quality.
        cost_usd_: (n_arms,) mean cost, in USD; NaN where the log had none.
    """

    name = "best-single"

    quality_: NDArray[np.float64]
    cost_usd_: NDArray[np.float64]
    n_features_: int

    def __init__(self, *, estimate: Estimate = "dr") -> None:
        self.estimate: Estimate = estimate

    def fit(self, context: Context, scores: Scores) -> Self:
        """Estimate every arm's means and return self."""
        check_rounds(context, scores)
        self.quality_, self.cost_usd_ = arm_means(scores, estimate=self.estimate)
        self.n_features_ = context.shape[1]
        return self

    def predict(self, context: Context) -> tuple[PerArm, PerArm]:
        """Return the mean quality and cost_usd of every arm, the same for every prompt."""
        check_context(context, n_features=self.n_features_)
        return np.tile(self.quality_, (len(context), 1)), np.tile(self.cost_usd_, (len(context), 1))

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments and the means."""
        values = {"options": {"estimate": self.estimate}, "n_features": self.n_features_}
        return values, {"quality": self.quality_, "cost_usd": self.cost_usd_}

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = cls(**values["options"])
        policy.n_features_ = values["n_features"]
        policy.quality_, policy.cost_usd_ = arrays["quality"], arrays["cost_usd"]
        return policy


class Always(BestSingle):
    """Calls one arm wherever it is eligible, and the best single of the others elsewhere.

    Args:
        arm: Column of the arm.
        estimate: How the means of the others are estimated, as in `arm_means`.
    """

    name = "always"
    exact = False

    def __init__(self, *, arm: int, estimate: Estimate = "model") -> None:
        super().__init__(estimate=estimate)
        self.arm = arm

    def fit(self, context: Context, scores: Scores) -> Self:
        """Estimate every arm's means and return self.

        Raises:
            InvalidParameterError: `arm` is not a column.
        """
        if not 0 <= self.arm < scores.n_arms:
            raise InvalidParameterError(f"arm must be a column in 0..{scores.n_arms - 1}; got {self.arm}")
        return super().fit(context, scores)

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return probability one for the named arm where it is eligible."""
        quality, cost_usd = self.priced(context)
        check_trade_off(trade_off, cost_usd=cost_usd)
        utility = trade_off.utility(quality=quality, cost_usd=cost_usd)
        utility[:, self.arm] = np.inf
        return greedy(utility, eligible=eligible, cost_usd=cost_usd)

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments and the means."""
        values, arrays = super().state()
        values["options"]["arm"] = self.arm
        return values, arrays


class Uniform(Policy):
    """Chooses every eligible arm with the same probability.

    Attributes:
        cost_usd_: (n_arms,) mean cost, in USD; NaN where the log had none.
    """

    name = "uniform"

    cost_usd_: NDArray[np.float64]
    n_features_: int

    def fit(self, context: Context, scores: Scores) -> Self:
        """Note the shapes and return self."""
        check_rounds(context, scores)
        _, self.cost_usd_ = arm_means(scores, estimate="model")
        self.n_features_ = context.shape[1]
        return self

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return one over the number of eligible arms for each of them."""
        check_context(context, n_features=self.n_features_)
        check_trade_off(trade_off, cost_usd=self.cost_usd_)
        shape = (len(context), len(self.cost_usd_))
        if eligible is None:
            return np.full(shape, 1 / shape[1])
        check_eligible(eligible, shape=shape)
        return np.asarray(eligible / eligible.sum(axis=1, keepdims=True))

    def state(self) -> tuple[State, Arrays]:
        """Return the shapes and the mean costs."""
        return {"options": {}, "n_features": self.n_features_}, {"cost_usd": self.cost_usd_}

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = cls(**values["options"])
        policy.n_features_ = values["n_features"]
        policy.cost_usd_ = arrays["cost_usd"]
        return policy
