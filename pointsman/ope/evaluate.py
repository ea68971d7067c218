"""A policy's value on a log of another policy's decisions, by every estimator at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError, InvalidParameterError, MissingOutcomeWarning
from pointsman.ope.diagnostics import check_sample_size, diagnose
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import dm, dr, ips, snips
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, Eligible, PerArm, PerRound

ESTIMATORS = ("dm", "ips", "snips", "dr")


class EvaluationRow(TypedDict):
    """One estimator's view of a policy at one trade-off.

    `value` is the utility, in quality points, with its interval `ci_low` to `ci_high` (NaN for an estimator whose bias
    has no bound); `quality` and `cost_usd` are the same estimator's for the parts, NaN where no round knows them.
    """

    quality_per_usd: float
    estimator: str
    value: float
    ci_low: float
    ci_high: float
    standard_error: float
    quality: float
    quality_ci_low: float
    quality_ci_high: float
    cost_usd: float
    cost_usd_ci_low: float
    cost_usd_ci_high: float
    ess: float
    n_rounds: int
    missing_share: float


def evaluate_policy(
    *,
    arm: ArmIndex,
    quality: PerRound,
    cost_usd: PerRound,
    propensity: PerRound,
    eligible: Eligible,
    predicted_quality: PerArm,
    predicted_cost_usd: PerArm,
    target_probs: PerArm,
    trade_off: TradeOff,
    level: float = 0.95,
    arm_names: Sequence[str] | None = None,
) -> list[EvaluationRow]:
    """Estimate a policy's utility, quality and cost from logged rounds, by DM, IPS, SNIPS and DR.

    A round whose outcome is not known is left out of that outcome's estimate, which is right if outcomes go missing at
    random; utility needs both quality and cost unless the trade-off ignores one.

    Args:
        arm: Logged arm.
        quality: Realised quality; NaN where not known.
        cost_usd: Realised cost, in USD; NaN where not known.
        propensity: Probability of the logged arm, in (0, 1]: logged, or estimated out of fold.
        eligible: Arms that could have been chosen.
        predicted_quality: Predicted quality of every arm, by a model that never saw the round.
        predicted_cost_usd: The same for cost, in USD.
        target_probs: The policy's probability of every arm at this trade-off, of a policy that never saw the rounds.
        trade_off: Quality points per USD.
        level: Coverage of the intervals.
        arm_names: Names for messages; column numbers where None.

    Returns:
        One row for each of `ESTIMATORS`, in that order.

    Raises:
        InvalidParameterError: Target probabilities do not sum to one, or lie on an arm that was not eligible.
        InvalidLogError: No round's utility is known, or a propensity lies outside (0, 1].
        OverlapError: The log holds nothing on what the target would do.

    Warns:
        MissingOutcomeWarning: Some rounds were left out.
        OverlapWarning: Parts of the target's decisions have no support, or the weights do not average one.
        SmallSampleWarning: Too few rounds for the normal interval of an estimator.
    """
    _check(arm=arm, propensity=propensity, eligible=eligible, target_probs=target_probs)
    utility = trade_off.utility(quality=quality, cost_usd=cost_usd)
    known = ~np.isnan(utility)
    missing_share = 1 - float(known.mean())
    if not known.any():
        raise InvalidLogError(
            f"no round's utility is known at quality_per_usd = {trade_off.quality_per_usd}; "
            "log quality, and cost_usd where the trade-off counts it"
        )
    if missing_share > 0:
        warnings.warn(
            f"{missing_share:.1%} of rounds were left out, their outcome is not known: estimates are right for all "
            "rounds only if outcomes go missing at random",
            MissingOutcomeWarning,
            stacklevel=2,
        )
    diagnostics = diagnose(
        arm=arm[known], propensity=propensity[known], target_probs=target_probs[known], arm_names=arm_names
    )
    predicted_utility = trade_off.utility(quality=predicted_quality, cost_usd=predicted_cost_usd)
    of_utility, of_quality, of_cost = (
        _estimates(arm=arm, outcome=outcome, propensity=propensity, predicted=predicted, target_probs=target_probs)
        for outcome, predicted in (
            (utility, predicted_utility),
            (quality, predicted_quality),
            (cost_usd, predicted_cost_usd),
        )
    )
    rows: list[EvaluationRow] = []
    for name in ESTIMATORS:
        estimate = of_utility[name]
        if math.isfinite(estimate.bias_bound):
            check_sample_size(estimate)
        low, high = estimate.interval(level)
        quality_value, quality_low, quality_high = _summary(of_quality.get(name), level=level)
        cost_value, cost_low, cost_high = _summary(of_cost.get(name), level=level)
        rows.append(
            EvaluationRow(
                quality_per_usd=trade_off.quality_per_usd,
                estimator=name,
                value=estimate.value,
                ci_low=low,
                ci_high=high,
                standard_error=estimate.standard_error if math.isfinite(estimate.bias_bound) else math.nan,
                quality=quality_value,
                quality_ci_low=quality_low,
                quality_ci_high=quality_high,
                cost_usd=cost_value,
                cost_usd_ci_low=cost_low,
                cost_usd_ci_high=cost_high,
                ess=diagnostics.effective_sample_size,
                n_rounds=diagnostics.n_rounds,
                missing_share=missing_share,
            )
        )
    return rows


def _estimates(
    *, arm: ArmIndex, outcome: PerRound, propensity: PerRound, predicted: PerArm, target_probs: PerArm
) -> dict[str, Estimate]:
    """Return every estimate over the rounds whose outcome is known; none where no round's is."""
    known: NDArray[np.bool_] = ~np.isnan(outcome)
    if not known.any():
        return {}
    arm, outcome, propensity = arm[known], outcome[known], propensity[known]
    predicted, target_probs = predicted[known], target_probs[known]
    return {
        "dm": dm(predicted=predicted, target_probs=target_probs),
        "ips": ips(arm=arm, outcome=outcome, propensity=propensity, target_probs=target_probs),
        "snips": snips(arm=arm, outcome=outcome, propensity=propensity, target_probs=target_probs),
        "dr": dr(arm=arm, outcome=outcome, propensity=propensity, predicted=predicted, target_probs=target_probs),
    }


def _summary(estimate: Estimate | None, *, level: float) -> tuple[float, float, float]:
    if estimate is None:
        return math.nan, math.nan, math.nan
    return estimate.value, *estimate.interval(level)


def _check(*, arm: ArmIndex, propensity: PerRound, eligible: Eligible, target_probs: PerArm) -> None:
    invalid = ~((propensity > 0) & (propensity <= 1))  # true for NaN as well
    if invalid.any():
        raise InvalidLogError(
            f"propensity must be in (0, 1]; got {propensity[invalid][0]}; estimate the unknown ones first"
        )
    if target_probs.shape != eligible.shape or len(target_probs) != arm.size:
        raise InvalidParameterError(
            f"target_probs must have one row for each of {arm.size} rounds and one column for each of "
            f"{eligible.shape[1]} arms; got {target_probs.shape}"
        )
    off = abs(target_probs.sum(axis=1) - 1)
    if not (off < 1e-6).all() or (target_probs < 0).any():  # single precision softmax sums to one within 1e-6
        raise InvalidParameterError(
            f"target_probs must be >= 0 and sum to one in every row; row {int(np.nanargmax(off))} sums to "
            f"{target_probs[int(np.nanargmax(off))].sum()}"
        )
    misplaced = ((target_probs > 0) & ~eligible).any(axis=1)
    if misplaced.any():
        raise InvalidParameterError(
            f"target_probs must be zero for arms that were not eligible; row {int(misplaced.argmax())} has some; "
            "give the policy the rounds' eligible arms"
        )
