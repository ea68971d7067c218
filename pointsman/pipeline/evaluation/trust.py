"""How far to trust an evaluation: overlap, weights, propensities, balance, missing outcomes, hidden confounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TypedDict

import numpy as np

from pointsman.ope import (
    check_balance,
    check_inverse_propensities,
    check_missingness,
    diagnose,
    sharp_bounds,
    sharp_flip_gamma,
)
from pointsman.pipeline.evaluation.compare import weights
from pointsman.pipeline.evaluation.evidence import Evidence
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, PerArm, PerRound, State

GAMMAS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Strengths of hidden confounding that are shown: the odds of being chosen that something unseen could multiply."""

N_WEIGHT_BINS = 24


def trust(evidence: Evidence, *, policies: Sequence[str]) -> State:
    """Return the diagnostics of the log and of each policy's overlap with it; doubts are warned of."""
    log, scores = evidence.log, evidence.scores
    names = log.arms.names
    found: State = {
        "overlap": [
            overlap(evidence, policy=policy, trade_off=trade_off)
            for policy in policies
            if not evidence.policies[policy].is_logging
            for trade_off in (evidence.trade_offs if evidence.policies[policy].moves else evidence.trade_offs[:1])
        ]
    }
    inverse = check_inverse_propensities(
        arm=scores.arm, propensity=scores.propensity, n_arms=len(names), eligible=scores.eligible, arm_names=names
    )
    found["inverse_propensities"] = [
        {"model": name, "mean": float(inverse.mean[t]), "z": float(inverse.z[t])} for t, name in enumerate(names)
    ]
    found["calibration"] = calibration_curve(evidence)
    balance = check_balance(
        context=evidence.context,
        arm=scores.arm,
        propensity=scores.propensity,
        n_arms=len(names),
        eligible=scores.eligible,
        arm_names=names,
    )
    found["balance"] = [
        {
            "feature": feature,
            "model": name,
            "before": float(balance.before[t, j]),
            "after": float(balance.after[t, j]),
        }
        for t, name in enumerate(names)
        for j, feature in enumerate(balance.features)
    ]
    found["balance_p_value"] = balance.p_value
    missing = np.isnan(scores.quality)
    missingness = check_missingness(
        missing=missing, arm=scores.arm, context=evidence.context, n_arms=len(names), arm_names=names
    )
    found["missing"] = {
        "share": missingness.share,
        "p_value": missingness.p_value if missingness.share > 0 else math.nan,
        "sentence": _missing_sentence(missingness.share, missingness.p_value),
    }
    return found


def overlap(evidence: Evidence, *, policy: str, trade_off: TradeOff) -> State:
    """Return how well the log covers a policy at a trade-off, and whether its normal interval is to be trusted."""
    rows = evidence.known("utility", trade_off=trade_off)
    diagnostics = diagnose(
        arm=evidence.scores.arm[rows],
        propensity=evidence.propensity(policy)[rows],
        target_probs=evidence.target_probs(policy, trade_off)[rows],
        arm_names=evidence.log.arms.names,
    )
    estimate = evidence.estimate(policy, trade_off, "utility", rows=rows)
    weight = weights(evidence, policy, trade_off)[rows]
    verdict = evidence.gate(estimate, weight=weight, rows=rows, outcome="utility")
    positive = weight[weight > 0]
    edges = (
        np.geomspace(positive.min(), positive.max() * (1 + 1e-9), N_WEIGHT_BINS + 1) if positive.size else np.ones(2)
    )
    if edges[0] == edges[-1]:
        edges = np.array([edges[0] * 0.99, edges[0] * 1.01])
    return {
        "policy": policy,
        "quality_per_usd": trade_off.quality_per_usd,
        **asdict(diagnostics),
        "top_weight_share": diagnostics.heaviest_share,
        "gate": verdict.interval,
        "reasons": list(verdict.reasons),
        "weights": {
            "edges": [float(edge) for edge in edges],
            "counts": [int(count) for count in np.histogram(positive, edges)[0]],
        },
    }


def calibration_curve(evidence: Evidence) -> list[State]:
    """Return claimed beside observed frequencies of estimated propensities; empty where all were logged.

    A log holds the probability of the arm that served and of no other, so a curve of logged ones cannot be drawn: their
    inverse has to average one by arm, which `inverse_propensities` shows.
    """
    estimate = evidence.propensity_estimate
    if estimate is None:
        return []
    found = estimate.calibration
    error = np.sqrt(found.predicted * (1 - found.predicted) / found.n_rounds)
    return [
        {
            "model": evidence.log.arms.names[int(found.arm[b])],
            "claimed": float(found.predicted[b]),
            "observed": float(found.observed[b]),
            "low": float(max(0.0, found.predicted[b] - 1.96 * error[b])),
            "high": float(min(1.0, found.predicted[b] + 1.96 * error[b])),
            "n_rounds": int(found.n_rounds[b]),
        }
        for b in range(found.n_rounds.size)
    ]


def sensitivity(evidence: Evidence, *, policy: str, against: str, trade_off: TradeOff) -> State:
    """Return bounds of the difference in utility if something unseen moved the logging policy, too.

    Sharp bounds of the marginal sensitivity model at `GAMMAS`, and the gamma from which on they no longer tell the
    policies apart, with sampling noise at the evaluation's level. For a loss the roles are exchanged, so that it too
    has a gamma at which it would not be one.
    """
    rows = evidence.known("utility", trade_off=trade_off)
    outcome, predicted = evidence.outcome("utility", trade_off)
    logged = _Logged(
        arm=evidence.scores.arm[rows],
        outcome=outcome[rows],
        propensity=evidence.scores.propensity[rows],
        predicted=predicted[rows],
        fold=evidence.scores.fold[rows],
    )
    first, second = (evidence.target_probs(name, trade_off)[rows] for name in (policy, against))
    bounds = [sharp_bounds(**logged, target_probs=first, against_probs=second, gamma=gamma) for gamma in GAMMAS]
    gains = bounds[0][0].value > 0
    flip = sharp_flip_gamma(
        **logged,
        target_probs=first if gains else second,
        against_probs=second if gains else first,
        level=evidence.level,
    )
    return {
        "policy": policy,
        "against": against,
        "quality_per_usd": trade_off.quality_per_usd,
        "flip_gamma": flip,
        "rows": [
            {"gamma": gamma, "low": low.value, "high": high.value}
            for gamma, (low, high) in zip(GAMMAS, bounds, strict=True)
        ],
    }


class _Logged(TypedDict):
    arm: ArmIndex
    outcome: PerRound
    propensity: PerRound
    predicted: PerArm
    fold: ArmIndex


def _missing_sentence(share: float, p_value: float) -> str:
    if share == 0:
        return "Every round has its outcome."
    known = f"{share:.1%} of rounds have no outcome and were left out"
    if math.isnan(p_value) or p_value >= 0.05:
        return f"{known}; they look like the others (p = {p_value:.2f})."
    return f"{known}, and they are not like the others (p = {p_value:.2g}): estimates hold for rounds with an outcome."
