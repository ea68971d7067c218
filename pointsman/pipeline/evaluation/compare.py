"""Policies against each other: paired differences, frontiers with a simultaneous band, savings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pointsman.ope import (
    Estimate,
    FrontierPoint,
    Saving,
    cost_at_equal_quality,
    joint_intervals,
    outcome_range,
    quality_at_equal_cost,
    trusted_interval,
)
from pointsman.ope.estimators import importance_weights
from pointsman.ope.evaluate import Outcome
from pointsman.ope.trusted import degrees_of_freedom
from pointsman.pipeline.evaluation.evidence import Evidence
from pointsman.trade_off import TradeOff
from pointsman.types import PerRound, State

OUTCOMES: tuple[Outcome, ...] = ("utility", "quality", "cost_usd")


def difference(
    evidence: Evidence,
    policy: str,
    against: str,
    trade_off: TradeOff,
    outcome: Outcome,
    *,
    within: NDArray[np.bool_] | None = None,
) -> tuple[Estimate, State]:
    """Return the paired difference of two policies on the rounds whose outcome is known, and its interval.

    The interval is the normal one where the gate is open, else the finite-sample one: `ope.trusted_interval`. The
    normal one stands beside it as `normal_low, normal_high`, with the reasons not to trust it.

    Args:
        evidence: The rounds.
        policy: What is compared.
        against: With what.
        trade_off: Where.
        outcome: In what.
        within: Rounds to look at; all where None.
    """
    if evidence.policies[policy].is_logging and not evidence.policies[against].is_logging:
        change, found = difference(evidence, against, policy, trade_off, outcome, within=within)
        return -1 * change, found | {
            "ci_low": -found["ci_high"],
            "ci_high": -found["ci_low"],
            "normal_low": -found["normal_high"],
            "normal_high": -found["normal_low"],
        }
    rows = evidence.known(outcome, trade_off=trade_off)
    if within is not None:
        rows &= within
    change = evidence.estimate(policy, trade_off, outcome, rows=rows) - evidence.estimate(
        against, trade_off, outcome, rows=rows
    )
    realised, predicted = evidence.outcome(outcome, trade_off)
    on_logging = evidence.policies[against].is_logging
    gold = evidence.gold(outcome, trade_off)
    interval = trusted_interval(
        change,
        arm=evidence.scores.arm[rows],
        outcome=realised[rows],
        propensity=evidence.propensity(policy)[rows],
        target_probs=evidence.target_probs(policy, trade_off)[rows],
        baseline_probs=None if on_logging else evidence.target_probs(against, trade_off)[rows],
        on_logging=on_logging,
        outcome_range=outcome_range(outcome, trade_off=trade_off, cost_usd=evidence.scores.cost_usd),
        level=evidence.level,
        predicted=None if math.isinf(evidence.largest_weight) else predicted[rows],
        largest_weight=evidence.largest_weight,
        gold=None if gold is None else gold.take(rows),
    )
    normal_low, normal_high = change.interval(evidence.level)
    return change, {
        "ci_low": interval.low,
        "ci_high": interval.high,
        "interval": interval.kind,
        "normal_low": normal_low,
        "normal_high": normal_high,
        "reasons": list(interval.reasons),
    }


def weights(evidence: Evidence, policy: str, trade_off: TradeOff) -> PerRound:
    """Return the policy's importance weights: one throughout for the log's own."""
    return importance_weights(
        arm=evidence.scores.arm,
        propensity=evidence.propensity(policy),
        target_probs=evidence.target_probs(policy, trade_off),
    )


def comparisons(evidence: Evidence, *, policies: Sequence[str], against: Sequence[str]) -> list[State]:
    """Return policy minus opponent at every trade-off, in utility, quality and cost."""
    found: list[State] = []
    for policy in policies:
        for opponent in against:
            if opponent == policy:
                continue
            for trade_off in evidence.trade_offs:
                for outcome in OUTCOMES:
                    if not evidence.known(outcome, trade_off=trade_off).any():
                        continue
                    change, interval = difference(evidence, policy, opponent, trade_off, outcome)
                    found.append(
                        {
                            "policy": policy,
                            "against": opponent,
                            "quality_per_usd": trade_off.quality_per_usd,
                            "outcome": outcome,
                            "value": change.value,
                            **interval,
                            "standard_error": change.standard_error,
                            "n_rounds": change.n_rounds,
                        }
                    )
    return found


def frontier(evidence: Evidence, *, policies: Sequence[str], seed: int) -> list[State]:
    """Return quality and cost of every policy along the dial, with one band that covers all of it at once.

    A policy that no trade-off moves has one point. Empty where no round knows both quality and cost.
    """
    rows = evidence.known("quality", "cost_usd", trade_off=evidence.trade_offs[0])
    if not rows.any():
        return []
    places = [
        (policy, trade_off)
        for policy in policies
        for trade_off in (evidence.trade_offs if evidence.policies[policy].moves else evidence.trade_offs[:1])
    ]
    estimates = [
        evidence.estimate(policy, trade_off, outcome, rows=rows)
        for policy, trade_off in places
        for outcome in ("quality", "cost_usd")
    ]
    low, high, _ = joint_intervals(
        np.array([estimate.value for estimate in estimates]),
        np.stack([estimate.influence for estimate in estimates]),
        level=evidence.level,
        seed=seed,
    )
    return [
        {
            "policy": policy,
            "quality_per_usd": trade_off.quality_per_usd if evidence.policies[policy].moves else None,
            "quality": estimates[2 * j].value,
            "quality_low": float(low[2 * j]),
            "quality_high": float(high[2 * j]),
            "cost_usd": estimates[2 * j + 1].value,
            "cost_usd_low": float(low[2 * j + 1]),
            "cost_usd_high": float(high[2 * j + 1]),
            "gate": evidence.gate(
                estimates[2 * j],
                weight=np.ones(estimates[2 * j].n_rounds)
                if evidence.policies[policy].is_logging
                else weights(evidence, policy, trade_off)[rows],
                rows=rows,
                outcome="quality",
            ).interval,
        }
        for j, (policy, trade_off) in enumerate(places)
    ]


def savings(evidence: Evidence, *, policies: Sequence[str], against: Sequence[str], at: TradeOff) -> list[State]:
    """Return what each dial saves at equal quality, and gains at equal cost, on each opponent; positive is a gain.

    An opponent that moves with the trade-off, such as the best single model, is taken where it stands at `at`.
    """
    rows = evidence.known("quality", "cost_usd", trade_off=at)
    if not rows.any():
        return []

    def point(policy: str, trade_off: TradeOff) -> FrontierPoint:
        return FrontierPoint(
            quality=evidence.estimate(policy, trade_off, "quality", rows=rows),
            cost_usd=evidence.estimate(policy, trade_off, "cost_usd", rows=rows),
        )

    found: list[State] = []
    for policy in policies:
        if not evidence.policies[policy].moves:
            continue
        dial = [point(policy, trade_off) for trade_off in evidence.trade_offs]
        for opponent in against:
            if opponent == policy:
                continue
            single = point(opponent, at)
            weight = weights(evidence, policy, at)[rows] - weights(evidence, opponent, at)[rows]
            found += [
                {
                    "policy": policy,
                    "against": opponent,
                    **_saving(saving, evidence=evidence, weight=weight, rows=rows),
                }
                for saving in (cost_at_equal_quality(dial, single), quality_at_equal_cost(dial, single))
            ]
    return found


def _saving(saving: Saving, *, evidence: Evidence, weight: PerRound, rows: NDArray[np.bool_]) -> State:
    nothing = (math.nan, math.nan)
    reason = saving.reason
    if saving.kind == "cost at equal quality" and saving.change is not None:
        # A cost that falls is a gain: what is saved is given, not the change.
        share = None if saving.share is None else -1 * saving.share
        saving = replace(saving, change=-1 * saving.change, share=share)
    low, high, share_low, share_high = *nothing, *nothing
    if saving.change is not None:
        # Both a cost at equal quality and a quality at equal cost rest on quality.
        verdict = evidence.gate(saving.change, weight=weight, rows=rows, outcome="quality", mean_weight=0.0)
        if verdict.interval == "normal":
            # Few gold labels carry a corrected estimate.
            freedom = math.inf if evidence.gold_labels is None else degrees_of_freedom(saving.change)
            low, high = saving.change.interval(evidence.level, degrees_of_freedom=freedom)
            if saving.share is not None:
                share_low, share_high = saving.share.interval(evidence.level, degrees_of_freedom=freedom)
        else:
            reason = "too few rounds carry this estimate for an interval"
    return {
        "kind": saving.kind,
        "value": math.nan if saving.change is None else saving.change.value,
        "ci_low": low,
        "ci_high": high,
        "share": math.nan if saving.share is None else saving.share.value,
        "share_low": share_low,
        "share_high": share_high,
        "reason": reason or None,
    }
