"""Which interval of an estimate is to be trusted."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pointsman.errors import SmallSampleWarning
from pointsman.ope.diagnostics.significance import FALSE_ALARM_Z
from pointsman.ope.diagnostics.weights import effective_sample_size, largest_to_expect
from pointsman.ope.estimate import Estimate
from pointsman.types import PerRound

LEAST_EFFECTIVE = 100
"""Effective rounds a normal interval needs: what comes once in 33 of fewer may well never have been seen."""

LEAST_EFFECTIVE_GOLD = 20
"""Effective gold labels a corrected estimate's interval needs: most of what it rests on is seen in every judged round,
the gold labels only settle the judges' bias, and Student's t allows for how few and how skewed they are."""

LARGEST_SHARE = 0.5
"""Of the sum of squared influences: how much one round that might have been logged, but was not, may add."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Whether an estimate may be read with its normal interval.

    Attributes:
        interval: "normal", or "finite-sample" where the normal one would cover too rarely.
        reasons: Why not normal, in words; empty where it is.
        n_rounds: Logged rounds.
        effective_sample_size: Of the weights.
        n_needed: Rounds a normal interval needs at the influence's skewness.
        largest_share: What the worst round to expect would add to the sum of squared influences, as a share of it.
    """

    interval: Literal["normal", "finite-sample"]
    reasons: tuple[str, ...]
    n_rounds: int
    effective_sample_size: float
    n_needed: float
    largest_share: float


def gate(
    estimate: Estimate, *, weight: PerRound, mean_weight: float = 1.0, gold_weight: PerRound | None = None
) -> Gate:
    """Return which interval of an estimate is to be trusted, from its influence and the weights alone.

    The normal interval is, if all of these hold:

    - n > 25 G^2, G the skewness of the influence (`rounds_needed`);
    - the effective sample size of the weights is at least 100: an outcome seen in 3% of rounds is then in the log but
      for one time in twenty;
    - W^2 R^2 <= sum_i psi_i^2 / 2, psi the influence, R = max_i |psi_i| / max(w_i, mean(w)) the largest residual of a
      round and W the largest weight to expect in a log ten times as long (`largest_to_expect`). A sample's own skewness
      says little on rounds that are rare and heavy: where they decide, most logs hold none and look harmless. So the
      heaviest round that might as well have been logged is added with the worst residual seen, and may raise the
      variance by half at most.

    - the weights average what they should, to 3.29 standard errors: where the rounds that matter are rare, a log that
      lacks them shows no tail at all, but its weights average less than one.

    The last two rules and their constants are ours, chosen by simulation so that intervals cover as they claim wherever
    the gate is open.

    Where judges' labels were corrected by gold ones, the weights are those of the gold labels, which decide how well
    the correction is known. Of the rules the last holds, and an effective sample size of 20 is enough: the interval is
    then Student's, whose degrees of freedom answer for skewness and heavy rounds (`trusted.degrees_of_freedom`). In
    simulation it covered 94% to 99% down to that size, and 94% at 18.

    Args:
        estimate: An estimate of a policy value, or a difference of two.
        weight: Importance weight of each round; for a difference, that of the weights.
        mean_weight: What they average if propensities are right: 1 for a value, 0 for a difference.
        gold_weight: (n_rounds,) one over the probability of a gold label where there is one, else 0, for an estimate
            from corrected labels; None for any other.

    References:
        Cochran (1977), Sampling Techniques, 3rd edition, section 2.15; Hanley and Lippman-Hand (1983), JAMA 249(13).
    """
    least = LEAST_EFFECTIVE if gold_weight is None else LEAST_EFFECTIVE_GOLD
    if gold_weight is not None:
        weight = weight * gold_weight
    average, astray = float(weight.mean()), _astray(weight, expected=mean_weight)
    weight = abs(weight)
    effective, needed = effective_sample_size(weight), rounds_needed(estimate)
    squares = float((estimate.influence**2).sum())
    reasons: list[str] = []
    if not _varies(estimate):
        share = math.inf
        reasons.append(
            "the outcome never varied in the rounds that count, so their spread says nothing on other rounds"
        )
    else:
        residual = float((abs(estimate.influence) / np.maximum(weight, weight.mean())).max()) if effective > 0 else 0.0
        share = (largest_to_expect(weight) * residual) ** 2 / squares
    if effective < least:
        what = "rounds" if gold_weight is None else "gold labels"
        reasons.append(f"the effective sample size is {effective:.0f} {what}, {least} are needed")
    if gold_weight is None and estimate.n_rounds <= needed:
        reasons.append(f"{estimate.n_rounds} rounds are too few at this skewness, {math.ceil(needed)} are needed")
    if gold_weight is None and LARGEST_SHARE < share < math.inf:
        reasons.append(
            f"one more heavy round, such as this log might have held, would raise the variance by {share:.0%}"
        )
    if astray:
        reasons.append(
            f"the importance weights average {average:.3f}, not {mean_weight:g}, which is further off than chance "
            "explains: the rounds that matter are not in this log, or the propensities are wrong"
        )
    return Gate(
        interval="finite-sample" if reasons else "normal",
        reasons=tuple(reasons),
        n_rounds=estimate.n_rounds,
        effective_sample_size=effective,
        n_needed=needed,
        largest_share=share,
    )


def rounds_needed(estimate: Estimate) -> float:
    """Return 25 G^2, G the skewness of one round's influence; 0 where there is no spread.

    Cochran's rule: with more rounds than that, a 95% normal interval misses at most 6% of the time. A sample's skewness
    never exceeds sqrt(n), so a few dominant rounds always ask for more than there are.

    References:
        Cochran (1977), Sampling Techniques, 3rd edition, section 2.15.
    """
    if not _varies(estimate):
        return 0.0
    scaled = estimate.influence / np.sqrt((estimate.influence**2).mean())
    # numpy raises to the third power by logarithms, thirty times as slowly as it multiplies.
    return 25 * float((scaled * scaled * scaled).mean()) ** 2


def check_sample_size(estimate: Estimate) -> None:
    """Warn where the influence is too skewed for the number of rounds.

    Warns:
        SmallSampleWarning: n <= `rounds_needed`.
    """
    needed = rounds_needed(estimate)
    if 0 < estimate.n_rounds <= needed:
        warnings.warn(
            f"{estimate.name}: {estimate.n_rounds} rounds are too few for a normal interval, {math.ceil(needed)} "
            f"are needed at this skewness ({math.sqrt(needed / 25):.1f}); a few rounds dominate: log more exploration",
            SmallSampleWarning,
            stacklevel=2,
        )


def _astray(weight: PerRound, *, expected: float) -> bool:
    """Return whether the mean of the weights is further from its expectation than chance, and rounding, explain."""
    standard_error = float(weight.std(ddof=1)) / math.sqrt(weight.size) if weight.size > 1 else math.inf
    rounding = weight.size * np.finfo(np.float64).eps * max(1.0, float(abs(weight).max()))
    return bool(abs(float(weight.mean()) - expected) > FALSE_ALARM_Z * standard_error + rounding)


def _varies(estimate: Estimate) -> bool:
    """Return whether the influence has a shape; one of rounding errors has none."""
    spread = float(np.sqrt((estimate.influence**2).mean()))
    return bool(spread > np.finfo(np.float64).eps * max(1.0, abs(estimate.value)))
