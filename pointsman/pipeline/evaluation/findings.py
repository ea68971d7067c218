"""Everything an evaluation says, from its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pointsman.ope import GoldLabels, evaluate_policy
from pointsman.ope.evaluate import Outcome
from pointsman.pipeline.evaluation.compare import comparisons, difference, frontier, savings
from pointsman.pipeline.evaluation.evidence import Evidence
from pointsman.pipeline.evaluation.slices import difference_by_slice, examples, overlap_by_slice
from pointsman.pipeline.evaluation.targets import BEST_SINGLE, LOGGING
from pointsman.pipeline.evaluation.trust import sensitivity, trust
from pointsman.router import Router, describe_trade_off, usd
from pointsman.trade_off import TradeOff
from pointsman.types import State


def find(
    evidence: Evidence,
    *,
    policies: Sequence[str],
    against: Sequence[str],
    estimators: Sequence[str],
    slices: Sequence[str],
    routers: Mapping[str, Router],
    seed: int,
) -> dict[str, Any]:
    """Return the fields of an `Evaluation`, and its diagnostics as `trust`."""
    everyone = list(dict.fromkeys([*policies, *against]))
    at = headline_trade_off(evidence, routers=routers)
    found: dict[str, Any] = {
        "rows": _rows(evidence, policies=policies, estimators=estimators),
        "trust": trust(evidence, policies=everyone),
        "comparisons": comparisons(evidence, policies=policies, against=against),
        "frontier": frontier(evidence, policies=everyone, seed=seed),
        "savings": savings(evidence, policies=policies, against=against, at=at),
        "slices": [],
        "examples": [],
        "sensitivity": [],
        "headline": None,
        "policies": [_policy(name, routers=routers) for name in everyone],
        "models": _models(evidence, policies=everyone, trade_off=at),
    }
    found["trust"]["overlap_by_slice"] = overlap_by_slice(evidence, columns=slices, policy=policies[0], trade_off=at)
    opponents = [name for name in against if name != policies[0]]
    if opponents:
        first = policies[0]
        found["headline"] = headline(evidence, policy=first, against=opponents[0], trade_off=at)
        found["slices"] = difference_by_slice(
            evidence, columns=slices, policy=first, against=opponents[:1], trade_off=at
        )
        found["examples"] = examples(evidence, routers=routers, policy=first, against=opponents[0], trade_off=at)
        found["sensitivity"] = [
            sensitivity(evidence, policy=first, against=opponent, trade_off=at)
            for opponent in opponents
            if not evidence.policies[opponent].is_logging and not evidence.policies[first].is_logging
        ]
    found["limits"] = limits(evidence, found)
    return found


def headline_trade_off(evidence: Evidence, *, routers: Mapping[str, Router]) -> TradeOff:
    """Return where the verdict is given: a router's default if it weighs cost and is on the dial, else the middle."""
    dial = evidence.trade_offs
    for router in routers.values():
        if router.default_trade_off.quality_per_usd > 0 and router.default_trade_off in dial:
            return router.default_trade_off
    return dial[len(dial) // 2]


def headline(evidence: Evidence, *, policy: str, against: str, trade_off: TradeOff) -> State:
    """Return the verdict in one sentence, with the paired difference it rests on."""
    change, interval = difference(evidence, policy, against, trade_off, "utility")
    low, high = interval["ci_low"], interval["ci_high"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    opponent = opponent_name(evidence, against, trade_off)
    at = _at(trade_off)
    margin = f"{evidence.level:.0%} interval {100 * low:.1f} to {100 * high:.1f}"
    points = f"{100 * abs(change.value):.1f} points"
    sentence = {
        "better": f"{policy} beats {opponent} by {points} of utility {at} ({margin})",
        "worse": f"{policy} loses {points} of utility to {opponent} {at} ({margin})",
        "undecided": (
            f"this log cannot tell {policy} from {opponent} {at}: the difference is {100 * change.value:+.1f} points "
            f"of utility ({margin})"
        ),
    }[verdict]
    parts = _parts(evidence, policy, against, trade_off)
    return {
        "policy": policy,
        "against": against,
        "quality_per_usd": trade_off.quality_per_usd,
        "verdict": verdict,
        "sentence": sentence[0].upper() + sentence[1:] + (f", with {parts}." if parts else "."),
        "value": change.value,
        **interval,
    }


def opponent_name(evidence: Evidence, name: str, trade_off: TradeOff) -> str:
    """Return an opponent as a sentence names it."""
    if name == LOGGING:
        return "the policy that wrote the log"
    if name != BEST_SINGLE:
        return name
    share = evidence.target_probs(name, trade_off).mean(axis=0)
    return f"the best single model ({evidence.log.arms.names[int(share.argmax())]})"


def limits(evidence: Evidence, found: Mapping[str, Any]) -> list[str]:
    """Return what the log cannot tell, in sentences."""
    log, scores = evidence.log, evidence.scores
    sentences: list[str] = []
    n_served = np.bincount(scores.arm, minlength=len(log.arms))
    thin = [f"{name} ({n})" for name, n in zip(log.arms.names, n_served, strict=True) if n < 30]
    if thin:
        sentences.append(f"Little is known of models with fewer than 30 rounds: {', '.join(thin)}.")
    unseen = [cell for cell in found["trust"]["overlap_by_slice"] if cell["unsupported"]]
    if unseen:
        listed = ", ".join(f"{cell['model']} on {cell['slice']}" for cell in unseen[:10])
        more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
        sentences.append(f"The log never tried {listed}{more}, where {unseen[0]['policy']} would.")
    closed = sorted({row["policy"] for row in found["trust"]["overlap"] if row["gate"] != "normal"})
    if closed:
        sentences.append(
            f"Too few rounds carry the estimates of {', '.join(closed)} for a normal interval: where it says "
            "finite-sample, the interval holds at any number of rounds and is wider for it."
        )
    if evidence.propensity_estimate is not None:
        sentences.append(
            "Propensities were estimated from what the prompts show. If whoever chose the models looked at something "
            "that is not in this log, the estimates are off by an amount no interval shows; see hidden confounding."
        )
    sentences += [
        f"If something unseen had multiplied the odds of a model being chosen by {each['flip_gamma']:.2f}, the sign of "
        f"{each['policy']} minus {each['against']} would be open."
        for each in found["sensitivity"]
        if 1 < each["flip_gamma"] < math.inf
    ]
    sentences.append(
        "Prompts to come are taken to be like those of this log; a model that is changed behind its name, a new kind "
        "of prompt, or a new price is not in it."
    )
    return sentences


def _at(trade_off: TradeOff) -> str:
    """Return a trade-off as a price: what a point of quality, of 100, on a thousand requests is worth."""
    if trade_off.quality_per_usd == 0 or math.isinf(trade_off.quality_per_usd):
        return describe_trade_off(trade_off)
    return f"where a point of quality on 1,000 requests is worth {usd(10 / trade_off.quality_per_usd)} USD"


def _rows(evidence: Evidence, *, policies: Sequence[str], estimators: Sequence[str]) -> list[State]:
    scores = evidence.scores
    return [
        {"policy": policy, **row}
        for policy in policies
        for trade_off in evidence.trade_offs
        for row in evaluate_policy(
            arm=scores.arm,
            quality=scores.quality,
            cost_usd=scores.cost_usd,
            propensity=evidence.propensity(policy),
            eligible=scores.eligible,
            predicted_quality=scores.predicted_quality,
            predicted_cost_usd=scores.predicted_cost_usd,
            target_probs=evidence.target_probs(policy, trade_off),
            trade_off=trade_off,
            level=evidence.level,
            estimators=estimators,
            largest_weight=evidence.largest_weight,
            arm_names=evidence.log.arms.names,
            gold=_gold(evidence, trade_off),
        )
    ]


def _gold(evidence: Evidence, trade_off: TradeOff) -> dict[Outcome, GoldLabels]:
    kinds: tuple[Outcome, ...] = ("quality", "utility")
    return {kind: gold for kind in kinds if (gold := evidence.gold(kind, trade_off)) is not None}


def _policy(name: str, *, routers: Mapping[str, Router]) -> State:
    if name in routers:
        facts = routers[name].facts
        return {"name": name, "kind": "router", "note": f"method {facts.method}, fitted on {facts.n_rounds:,} rounds"}
    if name == LOGGING:
        return {"name": name, "kind": "logging", "note": "the policy that wrote the log"}
    note = (
        "the best single model of the training log, at each trade-off" if name == BEST_SINGLE else "one model for all"
    )
    return {"name": name, "kind": "always", "note": note}


def _models(evidence: Evidence, *, policies: Sequence[str], trade_off: TradeOff) -> list[State]:
    scores = evidence.scores
    shares = {policy: evidence.target_probs(policy, trade_off).mean(axis=0) for policy in policies}
    found: list[State] = []
    for t, name in enumerate(evidence.log.arms.names):
        own = scores.arm == t
        found.append(
            {
                "model": name,
                "n_rounds": int(own.sum()),
                "share": float(own.mean()),
                "mean_quality": _known_mean(scores.quality[own]),
                "mean_cost_usd": _known_mean(scores.cost_usd[own]),
                "smallest_propensity": float(scores.propensity[own].min()) if own.any() else math.nan,
                "share_under_policy": {policy: float(share[t]) for policy, share in shares.items()},
            }
        )
    return found


def _known_mean(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _parts(evidence: Evidence, policy: str, against: str, trade_off: TradeOff) -> str:
    """Return the change of quality and cost in words; empty where cost is not known."""
    if not evidence.known("cost_usd", trade_off=trade_off).any():
        return ""
    quality, _ = difference(evidence, policy, against, trade_off, "quality")
    cost_usd, _ = difference(evidence, policy, against, trade_off, "cost_usd")
    rows = evidence.known("cost_usd", trade_off=trade_off)
    base = evidence.estimate(against, trade_off, "cost_usd", rows=rows).value
    if base > 0:
        share = cost_usd.value / base
        change = f"cost {share:+.0%}" if abs(share) >= 0.005 else "about the same cost"
    else:
        change = f"cost {1000 * cost_usd.value:+.3g} USD per 1,000 requests"
    return f"quality {100 * quality.value:+.1f} points and {change}"
