"""The interval to print: normal where the gate is open, finite-sample where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.ope.diagnostics import gate
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import importance_weights
from pointsman.ope.intervals import gain_on_logging_bounds, off_policy_bounds
from pointsman.types import ArmIndex, PerArm, PerRound


@dataclass(frozen=True, kw_only=True)
class TrustedInterval:
    """An interval, and which.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        kind: `normal`; `finite-sample`, which holds at any number of rounds; `exact`, where two policies never differ;
            `none`, for an estimate whose bias has no bound.
        reasons: Why not normal, in words.
    """

    low: float
    high: float
    kind: Literal["normal", "finite-sample", "exact", "none"]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldLabels:
    """What gold labels stand behind outcomes that are judges' labels corrected by them.

    Attributes:
        weight: (n_rounds,) one over the probability of a gold label where there is one, else 0.
        outcome: (n_rounds,) the outcome by the gold label; NaN where there is none.
    """

    weight: PerRound
    outcome: PerRound

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> GoldLabels:
        """Return those of these rounds."""
        return GoldLabels(weight=self.weight[rows], outcome=self.outcome[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class TrustedIntervals:
    """The intervals of estimates of one policy's value, or of one difference, that cover as they say on this log.

    The normal interval where `gate` is open; else `off_policy_bounds`, by betting on w y alone, which asks nothing but
    right propensities and is the same for every estimator: it may be far wider, and the estimate need not lie in its
    middle. Where outcomes are corrected labels, Student's t takes the normal's place, with the degrees of freedom of
    the influence's spread (`degrees_of_freedom`), and finite-sample bounds rest on the gold labels alone.

    Attributes:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        baseline_probs: Those of the policy that is subtracted; None for a value.
        on_logging: Whether what is subtracted is the value of the policy that wrote the log.
        outcome_range: Lowest and highest outcome that can occur.
        level: Coverage.
        predicted: Predicted outcome of every arm, which finite-sample bounds use where `largest_weight` is finite.
        largest_weight: Bound on every policy's weight, known beforehand: one over the logging policy's floor.
        gold: The gold labels behind corrected outcomes; None where outcomes are what was seen.

    Raises:
        InvalidParameterError: Both `baseline_probs` and `on_logging` are given.
    """

    arm: ArmIndex
    outcome: PerRound
    propensity: PerRound
    target_probs: PerArm
    baseline_probs: PerArm | None = None
    on_logging: bool = False
    outcome_range: tuple[float, float]
    level: float = 0.95
    predicted: PerArm | None = None
    largest_weight: float = math.inf
    gold: GoldLabels | None = None

    def __post_init__(self) -> None:
        if self.on_logging and self.baseline_probs is not None:
            raise InvalidParameterError("on_logging and baseline_probs both name what is subtracted; give one of them")

    def of(self, estimate: Estimate) -> TrustedInterval:
        """Return the interval of an estimate over these rounds.

        Raises:
            InvalidParameterError: An outcome lies outside its range, or `level` outside (0, 1).
        """
        if math.isinf(estimate.bias_bound):
            return TrustedInterval(low=math.nan, high=math.nan, kind="none")
        if self.baseline_probs is not None and np.array_equal(self.target_probs, self.baseline_probs):
            return TrustedInterval(low=0.0, high=0.0, kind="exact")
        differs = self.baseline_probs is not None or self.on_logging
        gold_weight = None if self.gold is None else self.gold.weight
        verdict = gate(estimate, weight=self.weight, mean_weight=0.0 if differs else 1.0, gold_weight=gold_weight)
        if verdict.interval == "normal":
            freedom = math.inf if self.gold is None else degrees_of_freedom(estimate)
            low, high = estimate.interval(self.level, degrees_of_freedom=freedom)
            return TrustedInterval(low=low, high=high, kind="normal")
        low, high = self.finite_sample
        return TrustedInterval(low=low, high=high, kind="finite-sample", reasons=verdict.reasons)

    @cached_property
    def weight(self) -> PerRound:
        """(n_rounds,) importance weight, or the difference of two."""
        weight = self._weight(self.target_probs)
        if self.baseline_probs is not None:
            return weight - self._weight(self.baseline_probs)
        return weight - 1 if self.on_logging else weight

    @cached_property
    def finite_sample(self) -> tuple[float, float]:
        """Bounds that hold at any number of rounds."""
        if self.gold is not None:
            return self._by_gold_alone(self.gold)
        return self._bounds()

    def _bounds(self, *, share: PerRound | float = 1.0) -> tuple[float, float]:
        """Return bounds of the mean over rounds of `share` times each round's value, or difference; share in (0, 1]."""
        if self.on_logging:
            return gain_on_logging_bounds(
                weight=1 + share * (self._weight(self.target_probs) - 1),
                outcome=self.outcome,
                outcome_range=self.outcome_range,
                level=self.level,
            )
        stretch = np.reshape(share, (-1, 1))
        return off_policy_bounds(
            arm=self.arm,
            outcome=self.outcome,
            propensity=self.propensity,
            target_probs=stretch * self.target_probs,
            baseline_probs=None if self.baseline_probs is None else stretch * self.baseline_probs,
            predicted=self.predicted,
            outcome_range=self.outcome_range,
            largest_weight=self.largest_weight,
            level=self.level,
        )

    def _by_gold_alone(self, gold: GoldLabels) -> tuple[float, float]:
        """Return bounds from the rounds with a gold label, reweighted to stand for all."""
        rows = np.flatnonzero((gold.weight > 0) & ~np.isnan(gold.outcome))
        if rows.size == 0:
            raise InvalidParameterError("gold must hold a label among these rounds; got none")
        # Where gold labels are rarer, each stands for more rounds.
        relative = gold.weight[rows] / gold.weight[rows].mean()
        alone = replace(
            self,
            arm=self.arm[rows],
            outcome=gold.outcome[rows],
            propensity=self.propensity[rows],
            target_probs=self.target_probs[rows],
            baseline_probs=None if self.baseline_probs is None else self.baseline_probs[rows],
            predicted=None,
            largest_weight=math.inf,
            gold=None,
        )
        if self.baseline_probs is None and not self.on_logging:
            return alone._bounds(share=relative)  # as weights average one, both ends hold for shares above one as well
        # A difference is bounded below by minus one only where no round counts for more than one.
        largest = float(relative.max())
        low, high = alone._bounds(share=relative / largest)
        widest = self.outcome_range[1] - self.outcome_range[0]
        return max(largest * low, -widest), min(largest * high, widest)

    def _weight(self, probs: PerArm) -> PerRound:
        return importance_weights(arm=self.arm, propensity=self.propensity, target_probs=probs)


def trusted_interval(
    estimate: Estimate,
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    target_probs: PerArm,
    baseline_probs: PerArm | None = None,
    on_logging: bool = False,
    outcome_range: tuple[float, float],
    level: float = 0.95,
    predicted: PerArm | None = None,
    largest_weight: float = math.inf,
    gold: GoldLabels | None = None,
) -> TrustedInterval:
    """Return the interval of one estimate; arguments and errors as for `TrustedIntervals`."""
    return TrustedIntervals(
        arm=arm,
        outcome=outcome,
        propensity=propensity,
        target_probs=target_probs,
        baseline_probs=baseline_probs,
        on_logging=on_logging,
        outcome_range=outcome_range,
        level=level,
        predicted=predicted,
        largest_weight=largest_weight,
        gold=gold,
    ).of(estimate)


def degrees_of_freedom(estimate: Estimate) -> float:
    """Return 2 n / (k - 1), k the kurtosis of the influence: infinite where there is no spread.

    A chi-square on that many degrees of freedom has the relative variance of the estimated variance. A few heavy rounds
    make it small however many rounds there are.

    References:
        Satterthwaite (1946), Biometrics Bulletin 2(6).
    """
    squares = estimate.influence**2
    mean = float(squares.mean())
    if not mean > 0:
        return math.inf
    excess = float((squares**2).mean()) / mean**2 - 1
    return 2 * estimate.n_rounds / excess if excess > 0 else math.inf
