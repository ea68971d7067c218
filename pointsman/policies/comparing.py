"""Policies that predict the quality and the cost of every arm and compare: exact at every trade-off."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.policies.base import Policy, check_context, check_trade_off, greedy
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, Eligible, PerArm, State


class ComparingPolicy(Policy):
    """Chooses argmax_t a_x(t) - lambda c_x(t) for its predicted quality a and cost c.

    For a fixed prompt the predicted utilities are lines in lambda, so the choice is their upper envelope: piecewise
    constant in lambda, at most n_arms - 1 switches, and its predicted cost never rises with lambda.
    """

    exact = True
    can_reprice = True

    def predict(self, context: Context) -> tuple[PerArm, PerArm]:
        """Return predicted quality and cost_usd of every arm; cost is NaN where the log had none."""
        raise NotImplementedError

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return probability one for the eligible arm of highest predicted utility; ties go to the cheaper arm.

        Raises:
            InvalidParameterError: The context has the wrong shape, a row has no eligible arm, or lambda > 0 and the
                log had no cost.
        """
        return self.decide(context, trade_off, eligible)[0]

    def decide(
        self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None
    ) -> tuple[PerArm, tuple[PerArm, PerArm]]:
        """Return `probabilities` with the predictions they compare, at today's prices."""
        quality, cost_usd = self.priced(context)
        check_trade_off(trade_off, cost_usd=cost_usd)
        probabilities = greedy(
            trade_off.utility(quality=quality, cost_usd=cost_usd), eligible=eligible, cost_usd=cost_usd
        )
        return probabilities, (quality, cost_usd)


class LinearPolicy(ComparingPolicy):
    """Predicts each arm's quality and cost by a function linear in the context.

    Attributes:
        quality_coef_: (n_arms, n_features) slopes of quality.
        quality_intercept_: (n_arms,) intercepts of quality.
        cost_coef_: (n_arms, n_features) slopes of cost, in USD; zero where the log had no cost.
        cost_intercept_: (n_arms,) intercepts of cost, in USD; NaN where the log had no cost.
    """

    quality_coef_: NDArray[np.float64]
    quality_intercept_: NDArray[np.float64]
    cost_coef_: NDArray[np.float64]
    cost_intercept_: NDArray[np.float64]

    def options(self) -> State:
        """Return the constructor's arguments, JSON-ready."""
        return {}

    def predict(self, context: Context) -> tuple[PerArm, PerArm]:
        """Return predicted quality and cost_usd of every arm; cost is NaN where the log had none."""
        check_context(context, n_features=self.quality_coef_.shape[1])
        return (
            context @ self.quality_coef_.T + self.quality_intercept_,
            context @ self.cost_coef_.T + self.cost_intercept_,
        )

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments and the coefficients."""
        arrays: dict[str, NDArray[Any]] = {
            "quality_coef": self.quality_coef_,
            "quality_intercept": self.quality_intercept_,
            "cost_coef": self.cost_coef_,
            "cost_intercept": self.cost_intercept_,
        }
        return {"options": self.options()}, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = cls(**values["options"])
        policy.quality_coef_ = arrays["quality_coef"]
        policy.quality_intercept_ = arrays["quality_intercept"]
        policy.cost_coef_ = arrays["cost_coef"]
        policy.cost_intercept_ = arrays["cost_intercept"]
        return policy
