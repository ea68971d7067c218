"""Where policies differ: by slice of the log, and prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pointsman.ope import effective_sample_size, overlap_cells
from pointsman.pipeline.evaluation.compare import difference, weights
from pointsman.pipeline.evaluation.evidence import Evidence
from pointsman.pipeline.rounds import slice_labels
from pointsman.router import Router
from pointsman.trade_off import TradeOff
from pointsman.types import State


def difference_by_slice(
    evidence: Evidence, *, columns: Sequence[str], policy: str, against: Sequence[str], trade_off: TradeOff
) -> list[State]:
    """Return policy minus opponent in utility, slice by slice, with an interval each (not simultaneous).

    Raises:
        InvalidParameterError: A column is part of the log format, or has too many labels.
    """
    known = evidence.known("utility", trade_off=trade_off)
    weight = weights(evidence, policy, trade_off)
    found: list[State] = []
    for column in columns:
        labels = slice_labels(evidence.log, column)
        if labels is None:
            continue
        for label in np.unique(labels):
            rows = known & (labels == label)
            if not rows.any():
                continue
            for opponent in against:
                if opponent == policy:
                    continue
                change, interval = difference(evidence, policy, opponent, trade_off, "utility", within=rows)
                found.append(
                    {
                        "column": column,
                        "slice": str(label),
                        "policy": policy,
                        "against": opponent,
                        "quality_per_usd": trade_off.quality_per_usd,
                        "n_rounds": change.n_rounds,
                        "ess": effective_sample_size(weight[rows]),
                        "value": change.value,
                        **interval,
                    }
                )
    return found


def overlap_by_slice(evidence: Evidence, *, columns: Sequence[str], policy: str, trade_off: TradeOff) -> list[State]:
    """Return the rounds each model served in each slice beside the share the policy would give it there.

    Cells in which the policy takes a decision and the log has no round are marked, and warned of where that is more
    than chance.
    """
    if evidence.policies[policy].is_logging:
        return []
    names = evidence.log.arms.names
    found: list[State] = []
    for column in columns:
        labels = slice_labels(evidence.log, column)
        if labels is None:
            continue
        cells = overlap_cells(
            arm=evidence.scores.arm,
            propensity=evidence.scores.propensity,
            target_probs=evidence.target_probs(policy, trade_off),
            labels=labels,
            arm_names=names,
        )
        found += [
            {
                "column": column,
                "slice": label,
                "model": name,
                "policy": policy,
                "quality_per_usd": trade_off.quality_per_usd,
                "n_rounds": int(cells.n_rounds[s, t]),
                "target_share": float(cells.target_share[s, t]),
                "ess": float(cells.effective_sample_size[s, t]),
                "smallest_propensity": float(cells.smallest_propensity[s, t]),
                "unsupported": bool(cells.unsupported[s, t]),
            }
            for s, label in enumerate(cells.slices)
            for t, name in enumerate(names)
        ]
    return found


def examples(
    evidence: Evidence,
    *,
    routers: Mapping[str, Router],
    policy: str,
    against: str,
    trade_off: TradeOff,
    n_examples: int = 8,
) -> list[State]:
    """Return the prompts on which a router is expected to gain most on an opponent, at most two of a pair of models.

    The gain is that of the cross-fitted outcome models of this log, not the router's own prediction; what was logged
    stands beside it. Empty for a log without prompts, and for a policy that is no router.
    """
    if policy not in routers or evidence.log.prompt is None:
        return []
    ours = evidence.target_probs(policy, trade_off).argmax(axis=1)
    theirs = evidence.target_probs(against, trade_off).argmax(axis=1)
    scores, names = evidence.scores, evidence.log.arms.names
    rows = np.arange(evidence.log.n_rounds)
    quality = scores.predicted_quality[rows, ours] - scores.predicted_quality[rows, theirs]
    cost_usd = scores.predicted_cost_usd[rows, ours] - scores.predicted_cost_usd[rows, theirs]
    gain = trade_off.utility(quality=quality, cost_usd=cost_usd)
    found: list[State] = []
    taken: dict[tuple[int, int], int] = {}
    seen: set[str] = set()
    for i in np.argsort(-np.nan_to_num(gain, nan=-np.inf), kind="stable"):
        pair = (int(ours[i]), int(theirs[i]))
        prompt = evidence.log.prompt[i]
        if pair[0] == pair[1] or taken.get(pair, 0) >= 2 or prompt in seen:
            continue
        taken[pair] = taken.get(pair, 0) + 1
        seen.add(prompt)
        found.append(
            {
                "prompt": prompt,
                "policy": policy,
                "against": against,
                "model": names[pair[0]],
                "against_model": names[pair[1]],
                "quality_per_usd": trade_off.quality_per_usd,
                "gain": float(gain[i]),
                "quality_gain": float(quality[i]),
                "cost_usd_change": float(cost_usd[i]),
                "logged_model": names[int(scores.arm[i])],
                "logged_quality": float(scores.quality[i]),
            }
        )
        if len(found) == n_examples:
            break
    return found
