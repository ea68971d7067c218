"""An estimated policy value as a sum of ratios of means over the logged rounds.

Every estimator here is  sum_j mean_i(a_ij) / mean_i(b_ij)  for some per-round numerators a and denominators b, so one
class holds them all: its influence function is the delta method's, sums and differences of estimates on the same rounds
join their terms, and shards of a log join their rounds, either whole (`merge`) or as first and second moments of fixed
size (`EstimateSums`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.ope.intervals import wald
from pointsman.types import PerRound

BIAS_Z = 1.96
"""Standard errors by which a bias estimated from the rounds is enlarged: the 97.5% quantile of the normal."""


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
            but o(1 / sqrt(n)), infinity where it is not known; computed from `omitted` where that is given.
        omitted: (n_rounds,) what each round would add to make the estimate unbiased, so that the bias is minus its
            expectation; None where there is none, or it is not known.
        parameter: The estimator's hyper-parameter; None where it has none, or where several meet in one estimate.
    """

    name: str
    terms: tuple[Ratio, ...]
    bias_bound: float = 0.0
    omitted: PerRound | None = None
    parameter: float | None = None

    def __post_init__(self) -> None:
        if self.omitted is not None:
            spread = float(self.omitted.std(ddof=1)) if self.omitted.size > 1 else math.inf
            bound = _bias_bound(mean=float(self.omitted.mean()), spread=spread, n_rounds=self.omitted.size)
            object.__setattr__(self, "bias_bound", bound)

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

    def interval(self, level: float = 0.95, *, degrees_of_freedom: float = math.inf) -> tuple[float, float]:
        """Return the normal interval, widened by the bias bound on both sides; (NaN, NaN) where that is infinite.

        Args:
            level: Coverage.
            degrees_of_freedom: Of Student's t, in the normal's place, where they are finite.

        Raises:
            InvalidParameterError: `level` lies outside (0, 1).
        """
        return _widened(
            self.value,
            standard_error=self.standard_error,
            bias_bound=self.bias_bound,
            level=level,
            degrees_of_freedom=degrees_of_freedom,
        )

    def sums(self) -> EstimateSums:
        """Return the first and second moments it can be computed from, which add over shards."""
        reference = np.nan_to_num([term.value for term in self.terms], nan=0.0)
        columns = [
            *(term.numerator - ratio * term.denominator for term, ratio in zip(self.terms, reference, strict=True)),
            *(term.denominator for term in self.terms),
        ]
        moments = np.stack(columns if self.omitted is None else [*columns, self.omitted]).astype(np.float64, copy=False)
        mean = moments.mean(axis=1)
        moments -= mean[:, None]
        return EstimateSums(
            name=self.name,
            parameter=self.parameter,
            n_rounds=self.n_rounds,
            reference=reference,
            mean=mean,
            comoment=moments @ moments.T,
            stated_bias_bound=self.bias_bound,
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
            omitted=None if self.omitted is None else factor * self.omitted,
        )

    __rmul__ = __mul__

    def _joined(self, other: Estimate, *, sign: int) -> Estimate:
        if self.n_rounds != other.n_rounds:
            raise InvalidParameterError(
                f"estimates must rest on the same rounds; got {self.n_rounds} and {other.n_rounds} rounds"
            )
        name = self.name if self.name == other.name else f"{self.name} {'+' if sign > 0 else '-'} {other.name}"
        parts = (self, sign * other)
        omitted = [part.omitted for part in parts if part.omitted is not None]
        # A bound that was stated, not estimated, can only be added to the other.
        stated = any(part.omitted is None and part.bias_bound > 0 for part in parts)
        return Estimate(
            name=name,
            terms=parts[0].terms + parts[1].terms,
            bias_bound=self.bias_bound + other.bias_bound,
            omitted=np.asarray(np.sum(omitted, axis=0)) if omitted and not stated else None,
            parameter=self.parameter if self.name == other.name and self.parameter == other.parameter else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimateSums:
    """First and second moments of an estimate's terms: of fixed size whatever the number of rounds.

    With J terms, a round is the vector (a_1 - R_1 b_1, ..., a_J - R_J b_J, b_1, ..., b_J, omitted), the last where the
    estimate has it. R is the estimate's own ratio, and moves as rounds are added: centred so, neither a large constant
    in the outcome nor a long log costs digits.

    Attributes:
        name: The estimator's.
        parameter: The estimator's hyper-parameter.
        n_rounds: Rounds it rests on.
        reference: (J,) the ratios R; 0 where the denominator is zero.
        mean: (2J,) or (2J + 1,) mean of the vectors.
        comoment: Sum of the outer products of the vectors about their mean.
        stated_bias_bound: The estimate's bias bound; averaged over rounds where the estimate does not know what it
            omits, else of no effect.

    References:
        Chan, Golub and LeVeque (1983), The American Statistician 37(3): adding moments about means.
    """

    name: str
    parameter: float | None
    n_rounds: int
    reference: NDArray[np.float64]
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]
    stated_bias_bound: float

    @property
    def value(self) -> float:
        """The estimate, in the unit of the outcome; NaN where a denominator is zero."""
        if not self._denominator.all():
            return math.nan
        return math.fsum([*self.reference, *self._residual_ratio])

    @property
    def standard_error(self) -> float:
        """As that of the estimate; NaN for fewer than two rounds."""
        if self.n_rounds < 2 or not self._denominator.all():
            return math.nan
        n_terms = self.reference.size
        gradient = np.zeros(self.mean.size)
        gradient[:n_terms] = 1 / self._denominator
        gradient[n_terms : 2 * n_terms] = -self._residual_ratio / self._denominator
        # A variance of zero may come out as minus a rounding error.
        variance = max(float(gradient @ self.comoment @ gradient), 0.0) / (self.n_rounds - 1)
        return math.sqrt(variance / self.n_rounds)

    @property
    def bias_bound(self) -> float:
        """As that of the estimate."""
        if self.mean.size == 2 * self.reference.size:
            return self.stated_bias_bound
        spread = math.sqrt(float(self.comoment[-1, -1]) / (self.n_rounds - 1)) if self.n_rounds > 1 else math.inf
        return _bias_bound(mean=float(self.mean[-1]), spread=spread, n_rounds=self.n_rounds)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the normal interval, widened by the bias bound on both sides; (NaN, NaN) where that is infinite.

        Raises:
            InvalidParameterError: `level` lies outside (0, 1).
        """
        return _widened(self.value, standard_error=self.standard_error, bias_bound=self.bias_bound, level=level)

    def __add__(self, other: EstimateSums) -> EstimateSums:
        """Return the moments over the rounds of both.

        Raises:
            InvalidParameterError: They are of different estimators.
        """
        if (self.name, self.parameter, self.mean.size) != (other.name, other.parameter, other.mean.size):
            raise InvalidParameterError(_foreign_shards({self.name, other.name}, {self.parameter, other.parameter}))
        n_rounds = self.n_rounds + other.n_rounds
        n_terms = self.reference.size
        share = other.n_rounds / n_rounds
        denominator = (1 - share) * self._denominator + share * other._denominator
        numerator = (1 - share) * (self.reference * self._denominator + self.mean[:n_terms])
        numerator += share * (other.reference * other._denominator + other.mean[:n_terms])
        reference = np.divide(numerator, denominator, out=np.zeros(n_terms), where=denominator != 0)
        mean, comoment = self._about(reference)
        other_mean, other_comoment = other._about(reference)
        gap = other_mean - mean
        return replace(
            self,
            n_rounds=n_rounds,
            reference=reference,
            mean=mean + share * gap,
            comoment=comoment + other_comoment + self.n_rounds * share * np.outer(gap, gap),
            # The bias over all rounds is the average of the shards'.
            stated_bias_bound=(self.n_rounds * self.stated_bias_bound + other.n_rounds * other.stated_bias_bound)
            / n_rounds,
        )

    @property
    def _denominator(self) -> NDArray[np.float64]:
        return self.mean[self.reference.size : 2 * self.reference.size]

    @property
    def _residual_ratio(self) -> NDArray[np.float64]:
        """What rounding left of each ratio about its reference."""
        return self.mean[: self.reference.size] / self._denominator

    def _about(self, reference: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and comoment with numerators taken about other ratios."""
        n_terms = self.reference.size
        change = np.eye(self.mean.size)
        change[np.arange(n_terms), n_terms + np.arange(n_terms)] = self.reference - reference
        return change @ self.mean, change @ self.comoment @ change.T


def merge(shards: Sequence[Estimate]) -> Estimate:
    """Return the estimate over the rounds of all shards, the same as if made in one pass.

    Only a bias bound that was stated, not computed from what was omitted, is the average of the shards' instead.

    Raises:
        InvalidParameterError: There is no shard, or the shards are of different estimators or hyper-parameters.
    """
    shapes = {(shard.name, shard.parameter, len(shard.terms), shard.omitted is None) for shard in shards}
    if len(shapes) != 1:
        raise InvalidParameterError(
            _foreign_shards({shard.name for shard in shards}, {shard.parameter for shard in shards})
        )
    omitted = [shard.omitted for shard in shards if shard.omitted is not None]
    return replace(
        shards[0],
        terms=tuple(
            Ratio(
                np.concatenate([term.numerator for term in terms]), np.concatenate([term.denominator for term in terms])
            )
            for terms in zip(*(shard.terms for shard in shards), strict=True)
        ),
        bias_bound=float(
            np.average([shard.bias_bound for shard in shards], weights=[shard.n_rounds for shard in shards])
        ),
        omitted=np.concatenate(omitted) if omitted else None,
    )


def _foreign_shards(names: set[str], parameters: set[float | None]) -> str:
    return (
        f"shards must come from one estimator of one hyper-parameter; got {sorted(names)} with "
        f"{sorted(parameters, key=str)}; choose the hyper-parameter once, for all shards"
    )


def _bias_bound(*, mean: float, spread: float, n_rounds: int) -> float:
    """Return |mean| + z spread / sqrt(n), from what rounds omit on average and its standard deviation."""
    return abs(mean) + BIAS_Z * spread / math.sqrt(n_rounds)


def _widened(
    value: float, *, standard_error: float, bias_bound: float, level: float, degrees_of_freedom: float = math.inf
) -> tuple[float, float]:
    low, high = wald(value, standard_error=standard_error, level=level, degrees_of_freedom=degrees_of_freedom)
    return (low - bias_bound, high + bias_bound) if math.isfinite(bias_bound) else (math.nan, math.nan)
