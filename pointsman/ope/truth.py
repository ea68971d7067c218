"""The true value of a policy, where every arm's outcome is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pointsman.errors import InvalidLogError
from pointsman.trade_off import TradeOff
from pointsman.types import PerArm


@dataclass(frozen=True, kw_only=True)
class TrueValue:
    """A policy on full feedback, at one trade-off. Utilities are in quality points.

    Attributes:
        quality_per_usd: The trade-off's lambda.
        value: Mean utility of the policy's choices.
        quality: Their mean quality.
        cost_usd: Their mean cost, in USD; NaN where cost is not known.
        oracle_value: Mean utility of the best arm of every prompt.
        best_single: Column of the arm of highest mean utility, known in hindsight; the lower column where tied.
        best_single_value: Its mean utility.
        regret: oracle_value - value.
        share_of_gap_closed: (value - best_single_value) / (oracle_value - best_single_value); NaN where the best
            single arm is as good as the oracle.
    """

    quality_per_usd: float
    value: float
    quality: float
    cost_usd: float
    oracle_value: float
    best_single: int
    best_single_value: float
    regret: float
    share_of_gap_closed: float


def score_policy(*, quality: PerArm, cost_usd: PerArm, target_probs: PerArm, trade_off: TradeOff) -> TrueValue:
    """Score a policy on full feedback: value = mean_i sum_t pi(t | x_i) y_i(t).

    Args:
        quality: True quality of every arm.
        cost_usd: True cost of every arm, in USD; NaN where not known, which only a trade-off that ignores cost allows.
        target_probs: The policy's probability of every arm.
        trade_off: Quality points per USD.

    Raises:
        InvalidLogError: A utility is not known.
    """
    utility = trade_off.utility(quality=quality, cost_usd=cost_usd)
    unknown = np.isnan(utility)
    if unknown.any():
        raise InvalidLogError(
            f"the utility of every arm must be known; {np.count_nonzero(unknown)} of {utility.size} are not at "
            f"quality_per_usd = {trade_off.quality_per_usd}; leave out prompts with a missing quality or cost"
        )

    def under_policy(outcome: PerArm) -> float:
        return float(np.where(target_probs > 0, target_probs * outcome, 0.0).sum(axis=1).mean())

    value = under_policy(utility)
    single = utility.mean(axis=0)
    best_single = int(single.argmax())
    oracle_value = float(utility.max(axis=1).mean())
    gap = oracle_value - float(single[best_single])
    return TrueValue(
        quality_per_usd=trade_off.quality_per_usd,
        value=value,
        quality=under_policy(quality),
        cost_usd=under_policy(cost_usd),
        oracle_value=oracle_value,
        best_single=best_single,
        best_single_value=float(single[best_single]),
        regret=oracle_value - value,
        share_of_gap_closed=(value - float(single[best_single])) / gap if gap > 0 else math.nan,
    )
