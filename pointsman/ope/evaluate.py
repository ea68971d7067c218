"""A policy's value on a log of another policy's decisions, by every estimator at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError, InvalidParameterError, MissingOutcomeWarning
from pointsman.ope.diagnostics import check_sample_size, diagnose
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import dm, dr, ips, sndr, snips
from pointsman.ope.selection import tuned
from pointsman.ope.trusted import GoldLabels, TrustedInterval, TrustedIntervals
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, Eligible, PerArm, PerRound

ESTIMATORS = ("dm", "ips", "clipped_ips", "snips", "dr", "sndr", "switch_dr", "dros")
"""Every estimator by name; the clip, the switch and the shrinkage are chosen from the rounds (`selection.tuned`)."""


Outcome: TypeAlias = Literal["utility", "quality", "cost_usd"]

UNKNOWN = TrustedInterval(low=math.nan, high=math.nan, kind="none")
"""The interval of an outcome that no round knows."""


class EvaluationRow(TypedDict):
    """One estimator's view of a policy at one trade-off.

    `value` is the utility, in quality points, with its interval `ci_low` to `ci_high` (NaN for an estimator whose bias
    has no bound). `interval` says which: `normal`, widened by `bias_bound` where that is not zero, `finite-sample`
    where the gate is closed, or `none`.
    `parameter` is the clip, switch or shrinkage chosen, NaN where there is none. `quality` and `cost_usd` are the same
    estimator's for the parts, NaN where no round knows them.
    """

    quality_per_usd: float
    estimator: str
    value: float
    ci_low: float
    ci_high: float
    interval: str
    standard_error: float
    bias_bound: float
    parameter: float
    quality: float
    quality_ci_low: float
    quality_ci_high: float
    cost_usd: float
    cost_usd_ci_low: float
    cost_usd_ci_high: float
    ess: float
    n_rounds: int
    missing_share: float


class _Logged(TypedDict):
    arm: ArmIndex
    outcome: PerRound
    propensity: PerRound
    target_probs: PerArm


def estimate_value(
    estimator: str,
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    predicted: PerArm,
    target_probs: PerArm,
) -> Estimate:
    """Return one of `ESTIMATORS` by its name, over rounds whose outcome is known.

    Args:
        estimator: Its name.
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        predicted: Out-of-fold predicted outcome of every arm.
        target_probs: Target policy's probability of every arm.

    Raises:
        InvalidParameterError: There is no such estimator.
    """
    logged = _Logged(arm=arm, outcome=outcome, propensity=propensity, target_probs=target_probs)
    match estimator:
        case "dm":
            return dm(predicted=predicted, target_probs=target_probs)
        case "ips":
            return ips(**logged)
        case "snips":
            return snips(**logged)
        case "dr":
            return dr(**logged, predicted=predicted)
        case "sndr":
            return sndr(**logged, predicted=predicted)
        case "clipped_ips" | "switch_dr" | "dros":
            return tuned(estimator, **logged, predicted=predicted)
    raise InvalidParameterError(f"estimator must be among {list(ESTIMATORS)}; got {estimator!r}")


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
    estimators: Sequence[str] = ESTIMATORS,
    largest_weight: float = math.inf,
    arm_names: Sequence[str] | None = None,
    gold: Mapping[Outcome, GoldLabels] | None = None,
) -> list[EvaluationRow]:
    """Estimate a policy's utility, quality and cost from logged rounds, by several estimators at once.

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
        estimators: Among `ESTIMATORS`.
        largest_weight: Bound on the policy's weights, known beforehand, which makes finite-sample intervals narrower.
        arm_names: Names for messages; column numbers where None.
        gold: The gold labels behind quality and utility, where these are judges' labels corrected by them.

    Returns:
        One row for each of `estimators`, in that order.

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
        _estimates(
            estimators,
            arm=arm,
            outcome=outcome,
            propensity=propensity,
            predicted=predicted,
            target_probs=target_probs,
        )
        for outcome, predicted in (
            (utility, predicted_utility),
            (quality, predicted_quality),
            (cost_usd, predicted_cost_usd),
        )
    )
    parts: tuple[tuple[Outcome, PerRound, PerArm], ...] = (
        ("utility", utility, predicted_utility),
        ("quality", quality, predicted_quality),
        ("cost_usd", cost_usd, predicted_cost_usd),
    )
    # What a closed gate falls back on is the same for every estimator.
    intervals = {
        kind: TrustedIntervals(
            arm=arm[rounds],
            outcome=outcome[rounds],
            propensity=propensity[rounds],
            target_probs=target_probs[rounds],
            outcome_range=outcome_range(kind, trade_off=trade_off, cost_usd=cost_usd),
            level=level,
            predicted=None if math.isinf(largest_weight) else predicted[rounds],
            largest_weight=largest_weight,
            gold=None if gold is None or kind not in gold else gold[kind].take(rounds),
        )
        for kind, outcome, predicted in parts
        for rounds in (~np.isnan(outcome),)
    }
    rows: list[EvaluationRow] = []
    for name in estimators:
        estimate = of_utility[name]
        if math.isfinite(estimate.bias_bound):
            check_sample_size(estimate)
        interval = intervals["utility"].of(estimate)
        of_quality_interval = intervals["quality"].of(of_quality[name]) if name in of_quality else UNKNOWN
        of_cost_interval = intervals["cost_usd"].of(of_cost[name]) if name in of_cost else UNKNOWN
        rows.append(
            EvaluationRow(
                quality_per_usd=trade_off.quality_per_usd,
                estimator=name,
                value=estimate.value,
                ci_low=interval.low,
                ci_high=interval.high,
                interval=interval.kind,
                standard_error=estimate.standard_error if math.isfinite(estimate.bias_bound) else math.nan,
                bias_bound=estimate.bias_bound,
                parameter=math.nan if estimate.parameter is None else estimate.parameter,
                quality=of_quality[name].value if name in of_quality else math.nan,
                quality_ci_low=of_quality_interval.low,
                quality_ci_high=of_quality_interval.high,
                cost_usd=of_cost[name].value if name in of_cost else math.nan,
                cost_usd_ci_low=of_cost_interval.low,
                cost_usd_ci_high=of_cost_interval.high,
                ess=diagnostics.effective_sample_size,
                n_rounds=diagnostics.n_rounds,
                missing_share=missing_share,
            )
        )
    return rows


def outcome_range(kind: Outcome, *, trade_off: TradeOff, cost_usd: PerRound) -> tuple[float, float]:
    """Return what an outcome can be: quality in [0, 1], a cost from 0 to the largest of this log, utility by both.

    That no call could have cost more than the dearest one logged is an assumption.
    """
    known = cost_usd[~np.isnan(cost_usd)]
    dearest = float(known.max()) if known.size else 0.0
    if kind == "quality":
        return 0.0, 1.0
    if kind == "cost_usd":
        return 0.0, dearest if dearest > 0 else 1.0
    if math.isinf(trade_off.quality_per_usd):
        return -dearest if dearest > 0 else -1.0, 0.0
    return (-trade_off.quality_per_usd * dearest if dearest > 0 else 0.0), 1.0


def _estimates(
    estimators: Sequence[str],
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    predicted: PerArm,
    target_probs: PerArm,
) -> dict[str, Estimate]:
    """Return every estimate over the rounds whose outcome is known; none where no round's is."""
    known: NDArray[np.bool_] = ~np.isnan(outcome)
    if not known.any():
        return {}
    return {
        name: estimate_value(
            name,
            arm=arm[known],
            outcome=outcome[known],
            propensity=propensity[known],
            predicted=predicted[known],
            target_probs=target_probs[known],
        )
        for name in estimators
    }


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
