"""The interval to print: normal where the gate is open, finite-sample where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.ope.diagnostics import gate
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import importance_weights
from pointsman.ope.intervals import gain_on_logging_bounds, off_policy_bounds
from pointsman.types import ArmIndex, PerArm, PerRound


@dataclass(frozen=True, kw_only=True)
class TrustedInterval:
    """An interval, and which.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        kind: `normal`; `finite-sample`, which holds at any number of rounds; `exact`, where two policies never differ;
            `none`, for an estimate whose bias has no bound.
        reasons: Why not normal, in words.
    """

    low: float
    high: float
    kind: Literal["normal", "finite-sample", "exact", "none"]
    reasons: tuple[str, ...] = ()


def trusted_interval(
    estimate: Estimate,
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    target_probs: PerArm,
    baseline_probs: PerArm | None = None,
    on_logging: bool = False,
    outcome_range: tuple[float, float],
    level: float = 0.95,
) -> TrustedInterval:
    """Return the interval of a policy's value, or of a difference, that covers as it says on this log.

    The normal interval where `gate` is open; else `off_policy_bounds`, by betting on w y alone, which asks nothing but
    right propensities and does not use the estimate: it may be far wider, and the estimate need not lie in its middle.

    Args:
        estimate: The estimate, over the rounds that follow.
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        baseline_probs: Those of the policy that is subtracted; None for a value.
        on_logging: Whether what is subtracted is the value of the policy that wrote the log.
        outcome_range: Lowest and highest outcome that can occur.
        level: Coverage.

    Raises:
        InvalidParameterError: An outcome lies outside its range, `level` outside (0, 1), or both `baseline_probs` and
            `on_logging` are given.
    """
    if on_logging and baseline_probs is not None:
        raise InvalidParameterError("on_logging and baseline_probs both name what is subtracted; give one of them")
    if math.isinf(estimate.bias_bound):
        return TrustedInterval(low=math.nan, high=math.nan, kind="none")
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    if baseline_probs is not None:
        weight = weight - importance_weights(arm=arm, propensity=propensity, target_probs=baseline_probs)
        if not weight.any() and np.array_equal(target_probs, baseline_probs):
            return TrustedInterval(low=0.0, high=0.0, kind="exact")
    elif on_logging:
        weight = weight - 1
    verdict = gate(estimate, weight=weight)
    if verdict.interval == "normal":
        low, high = estimate.interval(level)
        return TrustedInterval(low=low, high=high, kind="normal")
    if on_logging:
        low, high = gain_on_logging_bounds(weight=weight + 1, outcome=outcome, outcome_range=outcome_range, level=level)
    else:
        low, high = off_policy_bounds(
            arm=arm,
            outcome=outcome,
            propensity=propensity,
            target_probs=target_probs,
            baseline_probs=baseline_probs,
            outcome_range=outcome_range,
            level=level,
        )
    return TrustedInterval(low=low, high=high, kind="finite-sample", reasons=verdict.reasons)
