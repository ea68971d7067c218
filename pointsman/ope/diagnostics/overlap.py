"""What a log can say about a policy: whether it holds rounds on what the policy would do, and how many."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OverlapError, OverlapWarning
from pointsman.ope.diagnostics.significance import FALSE_ALARM_RATE, FALSE_ALARM_Z
from pointsman.ope.diagnostics.weights import (
    clipped_share,
    default_clip,
    effective_sample_size,
    heaviest_share,
    pareto_k,
    pareto_k_limit,
)
from pointsman.ope.estimators import importance_weights
from pointsman.types import ArmIndex, PerArm, PerRound

_LEAST_FOR_PARETO = 300
"""Positive weights from which on exponential tails exceed the limit for k in under one of a thousand logs."""


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """How well the log covers the target policy.

    Attributes:
        n_rounds: Logged rounds.
        effective_sample_size: (sum w)^2 / sum w^2: rounds the target's own log would need for like precision.
        smallest_propensity: Of the logged arms.
        largest_weight: Largest importance weight.
        mean_weight: Mean importance weight; one, but for noise, if propensities are right and overlap holds.
        heaviest_share: Share of all weight on the 1% of rounds that weigh most.
        clip: Ten times the median positive weight, or the clip that was given.
        clipped_share: Share of all weight that clipping there would take away.
        pareto_k: Tail index of the weights; NaN where there is no tail to fit.
        pareto_k_limit: What it should stay below.
        unsupported_share: Share of the target's decisions of which the log holds nothing: calls of arms that never
            served, and calls of another arm where the logging policy was sure of its choice.
    """

    n_rounds: int
    effective_sample_size: float
    smallest_propensity: float
    largest_weight: float
    mean_weight: float
    heaviest_share: float
    clip: float
    clipped_share: float
    pareto_k: float
    pareto_k_limit: float
    unsupported_share: float


def diagnose(
    *,
    arm: ArmIndex,
    propensity: PerRound,
    target_probs: PerArm,
    arm_names: Sequence[str] | None = None,
    clip: float | None = None,
) -> Diagnostics:
    """Return the overlap of a log with a target policy.

    A share of the target's decisions counts once it exceeds 1 / n, that is, once the target would have taken at least
    one such decision in these rounds.

    Args:
        arm: Logged arm.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        arm_names: Names for messages; column numbers where None.
        clip: Weight beyond which weight counts as clipped; ten times the median positive weight where None.

    Raises:
        OverlapError: The target uses an arm that never served, or every propensity is one and the target would have
            chosen otherwise.

    Warns:
        OverlapWarning: Some of the target's decisions have no support; the log looks deterministic; the mean weight is
            not one; or the weights' tail is so heavy that k exceeds its limit. Where nothing is wrong, each of the
            second and third once in a thousand logs at most, and the last too if weights have exponential tails.
    """
    n_rounds, n_arms = target_probs.shape
    share = target_probs.mean(axis=0)
    absent = (np.bincount(arm, minlength=n_arms) == 0) & (share > 1 / n_rounds)
    if absent.any():
        names = [str(t) for t in range(n_arms)] if arm_names is None else arm_names
        missing = [f"{name} ({part:.1%})" for name, part, gone in zip(names, share, absent, strict=True) if gone]
        raise OverlapError(
            f"the target policy uses arms that never served in this log: {', '.join(missing)} of its decisions; "
            "evaluate it without them, or log with exploration so that every arm is tried"
        )
    own = target_probs[np.arange(n_rounds), arm]
    sure = propensity >= 1
    never_served = np.bincount(arm, minlength=n_arms) == 0
    unsupported = float(np.where(sure, 1 - own, target_probs[:, never_served].sum(axis=1)).mean())
    if sure.all() and unsupported > 1 / n_rounds:
        raise OverlapError(
            f"the logging policy was deterministic (every propensity is 1) and the target policy differs in "
            f"{unsupported:.1%} of its decisions: this log cannot tell how they would have turned out; log with "
            "exploration, for instance 5% of traffic spread over all arms"
        )
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    mean_weight, n_used = float(weight.mean()), int(np.count_nonzero(weight))
    clip = default_clip(weight) if clip is None else clip
    found = Diagnostics(
        n_rounds=n_rounds,
        effective_sample_size=effective_sample_size(weight),
        smallest_propensity=float(propensity.min()),
        largest_weight=float(weight.max()),
        mean_weight=mean_weight,
        heaviest_share=heaviest_share(weight),
        clip=clip,
        clipped_share=clipped_share(weight, clip=clip),
        pareto_k=pareto_k(weight),
        pareto_k_limit=pareto_k_limit(n_used),
        unsupported_share=unsupported,
    )
    if unsupported > 1 / n_rounds:
        warnings.warn(
            f"in {unsupported:.1%} of the target's decisions the logging policy was sure of another arm: the log holds "
            "nothing on them and every weighted estimate leaves them out",
            OverlapWarning,
            stacklevel=2,
        )
        return found
    likeliest = propensity > 0.5
    n_expected = float((1 - propensity[likeliest]).sum())
    n_others = n_rounds - int(np.count_nonzero(likeliest))
    differs = float((1 - own[likeliest]).sum())
    if differs > 1 and _chance_of_at_most(n_others, expected=n_expected) < FALSE_ALARM_RATE:
        warnings.warn(
            f"the log looks deterministic: {n_others} rounds served another arm than the likeliest, where propensities "
            f"promise {n_expected:.0f} or more; estimates of other decisions ({differs / n_rounds:.1%} of all) "
            "rest on the smallest propensity an estimate may claim, not on rounds: log with exploration",
            OverlapWarning,
            stacklevel=2,
        )
        return found
    standard_error = float(weight.std(ddof=1)) / math.sqrt(n_rounds) if n_rounds > 1 else math.inf
    # Weights leave out what has no support, and sums of n of them carry rounding errors.
    off = abs(mean_weight - 1) - unsupported - n_rounds * np.finfo(np.float64).eps
    if off > FALSE_ALARM_Z * standard_error:
        warnings.warn(
            f"importance weights average {mean_weight:.3f}, which should be 1 and is further off than chance explains: "
            "the propensities are wrong, or so small that the rounds that matter are not in this log",
            OverlapWarning,
            stacklevel=2,
        )
    if n_used >= _LEAST_FOR_PARETO and found.pareto_k > found.pareto_k_limit:
        warnings.warn(
            f"the importance weights have a heavy tail (Pareto k = {found.pareto_k:.2f}, above the limit of "
            f"{found.pareto_k_limit:.2f}): rounds that this log happens not to hold would move the estimate; log more "
            "exploration",
            OverlapWarning,
            stacklevel=2,
        )
    return found


def _chance_of_at_most(count: int, *, expected: float) -> float:
    """Return P(Poisson(expected) <= count), which bounds that of independent yes-or-no events of unlike chance.

    The expected count leaves out rounds that did not serve their likeliest arm and those in which no arm had more than
    half; the count includes both. Each makes a false alarm less likely.

    References:
        Hoeffding (1956), Annals of Mathematical Statistics 27(3).
    """
    from scipy.special import pdtr

    return float(pdtr(count, expected)) if expected > 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class OverlapCells:
    """Overlap of a log with a target policy by slice and arm.

    Attributes:
        slices: Labels of the slices, one a row.
        n_rounds: (n_slices, n_arms) rounds in which the arm served.
        target_share: (n_slices, n_arms) share of the slice's decisions that the target gives to the arm.
        effective_sample_size: (n_slices, n_arms) of the importance weights of those rounds.
        smallest_propensity: (n_slices, n_arms) over those rounds; NaN where there is none.
        unsupported: (n_slices, n_arms) whether the target takes a decision or more there and the log has no round.
    """

    slices: tuple[str, ...]
    n_rounds: NDArray[np.int64]
    target_share: NDArray[np.float64]
    effective_sample_size: NDArray[np.float64]
    smallest_propensity: NDArray[np.float64]
    unsupported: NDArray[np.bool_]


def overlap_cells(
    *,
    arm: ArmIndex,
    propensity: PerRound,
    target_probs: PerArm,
    labels: NDArray[np.generic] | None = None,
    arm_names: Sequence[str] | None = None,
) -> OverlapCells:
    """Return the overlap in every slice with every arm.

    Args:
        arm: Logged arm.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        labels: (n_rounds,) slice of each round, by any column; one slice, "all", where None.
        arm_names: Names for messages; column numbers where None.

    Warns:
        OverlapWarning: An unsupported cell lacks the arm by more than chance. Had the rounds of the arm been dealt out
            to slices at random, the chance of none in this one is hypergeometric; it must be below a thousandth over
            the number of cells. Smaller unsupported cells are marked but not warned of.
    """
    n_rounds, n_arms = target_probs.shape
    slices, place = (
        (np.array(["all"]), np.zeros(n_rounds, dtype=np.int64))
        if labels is None
        else np.unique(labels.astype(np.str_), return_inverse=True)
    )
    shape = (slices.size, n_arms)
    cell = place * n_arms + arm
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)

    def total(value: PerRound) -> NDArray[np.float64]:
        sums = np.bincount(cell, weights=value, minlength=slices.size * n_arms)
        return sums.reshape(shape).astype(np.float64)

    counts, squares = total(np.ones(n_rounds)).astype(np.int64), total(weight**2)
    smallest = np.full(slices.size * n_arms, np.inf)
    np.minimum.at(smallest, cell, propensity)
    size = np.bincount(place, minlength=slices.size)
    decisions = np.stack(
        [np.bincount(place, weights=target_probs[:, t], minlength=slices.size) for t in range(n_arms)], axis=1
    )
    unsupported = (counts == 0) & (decisions > 1)
    chance = _chance_of_none(n_rounds, n_drawn=size[:, None], n_marked=counts.sum(axis=0)[None])
    missed = unsupported & (chance < FALSE_ALARM_RATE / unsupported.size)
    if missed.any():
        names = [str(t) for t in range(n_arms)] if arm_names is None else list(arm_names)
        cells = [f"{names[t]} in {slices[s]} ({decisions[s, t] / size[s]:.1%})" for s, t in np.argwhere(missed)]
        listed = ", ".join(cells[:10]) + (f" and {len(cells) - 10} more" if len(cells) > 10 else "")
        warnings.warn(
            f"the log has no round of {listed} of the target's decisions there, though it has elsewhere: estimates for "
            "these slices rest on the outcome model alone; log with exploration there",
            OverlapWarning,
            stacklevel=2,
        )
    return OverlapCells(
        slices=tuple(str(label) for label in slices),
        n_rounds=counts,
        target_share=decisions / size[:, None],
        effective_sample_size=np.divide(total(weight) ** 2, squares, out=np.zeros(shape), where=squares > 0),
        smallest_propensity=np.where(np.isinf(smallest), np.nan, smallest).reshape(shape),
        unsupported=unsupported,
    )


def _chance_of_none(n_rounds: int, *, n_drawn: NDArray[np.int64], n_marked: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the chance that none of `n_drawn` rounds drawn without replacement is one of the marked."""
    from scipy.special import gammaln

    def log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), dtype=np.float64)

    unmarked = n_rounds - n_marked
    possible = unmarked >= n_drawn
    every = np.broadcast_to(n_rounds, unmarked.shape)
    log_chance = log_choose(np.where(possible, unmarked, n_drawn), n_drawn) - log_choose(every, n_drawn)
    return np.asarray(np.where(possible, np.exp(np.minimum(log_chance, 0.0)), 0.0))
