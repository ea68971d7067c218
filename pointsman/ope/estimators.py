"""Off-policy estimators of a policy's value, as sums of ratios of means over the logged rounds.

Every estimator here is  sum_j mean_i(a_ij) / mean_i(b_ij)  for some per-round numerators a and denominators b, so one
class holds them all: its influence function is the delta method's, sums and differences of estimates on the same rounds
join their terms, and shards of a log join their rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.ope.intervals import wald
from pointsman.types import ArmIndex, PerArm, PerRound


class Ratio(NamedTuple):
    """mean(numerator) / mean(denominator) over rounds; the denominator of a plain mean is all ones."""

    numerator: PerRound
    denominator: PerRound

    @property
    def value(self) -> float:
        """The ratio; NaN where the denominator is zero."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total != 0 else math.nan

    @property
    def influence(self) -> PerRound:
        """Per-round influence (a_i - R b_i) / mean(b): exact for a mean, the delta method's for a ratio."""
        mean = self.denominator.mean()
        if mean == 0:
            return np.full(self.denominator.size, np.nan)
        return np.asarray((self.numerator - self.value * self.denominator) / mean)


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """An estimated value, with what each round contributes to it.

    Attributes:
        name: The estimator's.
        terms: The ratios whose sum the estimate is.
        biased: Whether it may be off by more than chance even where propensities are right; then there is no interval.
    """

    name: str
    terms: tuple[Ratio, ...]
    biased: bool = False

    @property
    def n_rounds(self) -> int:
        """Rounds it rests on."""
        return int(self.terms[0].numerator.size)

    @cached_property
    def value(self) -> float:
        """The estimate, in the unit of the outcome."""
        return math.fsum(term.value for term in self.terms)

    @cached_property
    def influence(self) -> PerRound:
        """(n_rounds,) influence of each round, of mean zero; its variance over n is that of the estimate."""
        return np.asarray(np.sum([term.influence for term in self.terms], axis=0))

    @property
    def standard_error(self) -> float:
        """Standard deviation of the influence over sqrt(n); NaN for fewer than two rounds."""
        if self.n_rounds < 2:
            return math.nan
        return float(np.std(self.influence, ddof=1) / math.sqrt(self.n_rounds))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the normal interval; (NaN, NaN) for a biased estimate, whose interval would cover nothing.

        Raises:
            InvalidParameterError: `level` lies outside (0, 1).
        """
        low, high = wald(self.value, standard_error=self.standard_error, level=level)
        return (math.nan, math.nan) if self.biased else (low, high)

    def __add__(self, other: Estimate) -> Estimate:
        return self._joined(other, sign=1)

    def __sub__(self, other: Estimate) -> Estimate:
        return self._joined(other, sign=-1)

    def __mul__(self, factor: float) -> Estimate:
        return replace(self, terms=tuple(Ratio(factor * term.numerator, term.denominator) for term in self.terms))

    __rmul__ = __mul__

    def _joined(self, other: Estimate, *, sign: int) -> Estimate:
        if self.n_rounds != other.n_rounds:
            raise InvalidParameterError(
                f"estimates must rest on the same rounds; got {self.n_rounds} and {other.n_rounds} rounds"
            )
        name = self.name if self.name == other.name else f"{self.name} {'+' if sign > 0 else '-'} {other.name}"
        return Estimate(name=name, terms=self.terms + (sign * other).terms, biased=self.biased or other.biased)


def merge(shards: Sequence[Estimate]) -> Estimate:
    """Return the estimate over the rounds of all shards, the same as if made in one pass.

    Raises:
        InvalidParameterError: There is no shard, or the shards are of different estimators.
    """
    shapes = {(shard.name, len(shard.terms)) for shard in shards}
    if len(shapes) != 1:
        raise InvalidParameterError(f"shards must come from one estimator; got {sorted(name for name, _ in shapes)}")
    return replace(
        shards[0],
        terms=tuple(
            Ratio(
                np.concatenate([term.numerator for term in terms]), np.concatenate([term.denominator for term in terms])
            )
            for terms in zip(*(shard.terms for shard in shards), strict=True)
        ),
    )


def importance_weights(*, arm: ArmIndex, propensity: PerRound, target_probs: PerArm) -> PerRound:
    """Return w_i = pi(t_i | x_i) / e_i, the target's probability of the logged arm over the logging policy's."""
    return np.asarray(target_probs[np.arange(arm.size), arm] / propensity)


def expected_prediction(*, predicted: PerArm, target_probs: PerArm) -> PerRound:
    """Return sum_t pi(t | x_i) mu_t(x_i), the predicted outcome under the target.

    An arm the target never uses does not count, even where its prediction is NaN.
    """
    return np.asarray(np.where(target_probs > 0, target_probs * predicted, 0.0).sum(axis=1))


def dm(*, predicted: PerArm, target_probs: PerArm) -> Estimate:
    """Return the direct method's estimate: mean_i sum_t pi(t | x_i) mu_t(x_i).

    As right as the outcome model and no more: its bias is unknown, so it has no interval.

    Args:
        predicted: Out-of-fold predicted outcome of every arm.
        target_probs: Target policy's probability of every arm.
    """
    value = expected_prediction(predicted=predicted, target_probs=target_probs)
    return Estimate(name="dm", terms=(Ratio(value, np.ones(value.size)),), biased=True)


def ips(*, arm: ArmIndex, outcome: PerRound, propensity: PerRound, target_probs: PerArm) -> Estimate:
    """Return the inverse propensity estimate: mean_i w_i y_i.

    Unbiased where propensities are right and positive for every arm the target uses.

    Args:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.

    References:
        Horvitz and Thompson (1952), JASA 47(260).
    """
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    return Estimate(name="ips", terms=(Ratio(weight * outcome, np.ones(weight.size)),))


def snips(*, arm: ArmIndex, outcome: PerRound, propensity: PerRound, target_probs: PerArm) -> Estimate:
    """Return the self-normalised estimate: sum_i w_i y_i / sum_i w_i.

    Its bias is of order 1 / n, its influence w_i (y_i - value) / mean(w) by the delta method; adding a constant to the
    outcomes adds it to the value. NaN where all weights are zero. Arguments as for `ips`.

    References:
        Swaminathan and Joachims (2015), NeurIPS.
    """
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    return Estimate(name="snips", terms=(Ratio(weight * outcome, weight),))


def dr(*, arm: ArmIndex, outcome: PerRound, propensity: PerRound, predicted: PerArm, target_probs: PerArm) -> Estimate:
    """Return the doubly robust estimate: mean_i [ sum_t pi(t | x_i) mu_t(x_i) + w_i (y_i - mu_{t_i}(x_i)) ].

    Unbiased where the propensities are right or the predictions are; where both are estimated, the errors multiply.

    Args:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        predicted: Out-of-fold predicted outcome of every arm.
        target_probs: Target policy's probability of every arm.

    References:
        Dudik, Langford and Li (2011), ICML; Robins, Rotnitzky and Zhao (1994), JASA 89(427).
    """
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    # A round the target would not have sent to its logged arm says nothing, whatever was predicted for it.
    residual = np.where(weight > 0, outcome - predicted[np.arange(arm.size), arm], 0.0)
    value = expected_prediction(predicted=predicted, target_probs=target_probs) + weight * residual
    return Estimate(name="dr", terms=(Ratio(value, np.ones(value.size)),))
