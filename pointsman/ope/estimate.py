"""An estimated policy value as a sum of ratios of means over the logged rounds.

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
from pointsman.types import PerRound


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
        bias_bound: Bound on the size of the bias, in the unit of the outcome, where propensities are right: 0 for none
            but o(1 / sqrt(n)), infinity where it is not known.
    """

    name: str
    terms: tuple[Ratio, ...]
    bias_bound: float = 0.0

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
        """Return the normal interval, widened by the bias bound on both sides; (NaN, NaN) where that is infinite.

        Raises:
            InvalidParameterError: `level` lies outside (0, 1).
        """
        low, high = wald(self.value, standard_error=self.standard_error, level=level)
        return (
            (low - self.bias_bound, high + self.bias_bound) if math.isfinite(self.bias_bound) else (math.nan, math.nan)
        )

    def __add__(self, other: Estimate) -> Estimate:
        return self._joined(other, sign=1)

    def __sub__(self, other: Estimate) -> Estimate:
        return self._joined(other, sign=-1)

    def __mul__(self, factor: float) -> Estimate:
        return replace(
            self,
            terms=tuple(Ratio(factor * term.numerator, term.denominator) for term in self.terms),
            bias_bound=abs(factor) * self.bias_bound if factor != 0 else 0.0,
        )

    __rmul__ = __mul__

    def _joined(self, other: Estimate, *, sign: int) -> Estimate:
        if self.n_rounds != other.n_rounds:
            raise InvalidParameterError(
                f"estimates must rest on the same rounds; got {self.n_rounds} and {other.n_rounds} rounds"
            )
        name = self.name if self.name == other.name else f"{self.name} {'+' if sign > 0 else '-'} {other.name}"
        return Estimate(
            name=name, terms=self.terms + (sign * other).terms, bias_bound=self.bias_bound + other.bias_bound
        )


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
        # The bias over all rounds is the average of the shards', weighted by their rounds.
        bias_bound=float(
            np.average([shard.bias_bound for shard in shards], weights=[shard.n_rounds for shard in shards])
        ),
    )
