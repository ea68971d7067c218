"""What every finding of an evaluation rests on: the rounds, their nuisances, and each policy's decisions on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pointsman.logs import LoggedRounds
from pointsman.ope import Estimate, Gate, GoldLabels, estimate_value, gate
from pointsman.ope.evaluate import Outcome
from pointsman.pipeline.evaluation.targets import Decisions
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerArm, PerRound

if TYPE_CHECKING:
    from pointsman.nuisance.propensity import PropensityEstimate


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The rounds that were evaluated on, and what is known of them.

    Attributes:
        log: The rounds.
        context: Their features.
        scores: Their cross-fitted nuisances, in the log's columns.
        propensity_estimate: How unknown propensities were estimated; None where all were logged.
        policies: Each policy's decisions, by name.
        trade_offs: Where they are compared.
        level: Coverage of the intervals.
        estimator: The one that comparisons rest on.
        largest_weight: Bound on every weight, known beforehand; infinite where none is.
        gold_labels: The gold labels behind each quality, where qualities are judges' labels corrected by them.
    """

    log: LoggedRounds
    context: Context
    scores: Scores
    propensity_estimate: PropensityEstimate | None
    policies: Mapping[str, Decisions]
    trade_offs: list[TradeOff]
    level: float
    estimator: str = "dr"
    largest_weight: float = math.inf
    gold_labels: GoldLabels | None = None
    _probs: dict[tuple[str, float], PerArm] = field(default_factory=dict, repr=False)

    def target_probs(self, policy: str, trade_off: TradeOff) -> PerArm:
        """Return the policy's probability of every arm in every round."""
        decisions = self.policies[policy]
        key = (policy, trade_off.quality_per_usd if decisions.moves else 0.0)
        if key not in self._probs:
            self._probs[key] = decisions(trade_off)
        return self._probs[key]

    def propensity(self, policy: str) -> PerRound:
        """Return the propensity its weights divide by: one for the log's own policy, whose value is a plain mean."""
        return np.ones(self.log.n_rounds) if self.policies[policy].is_logging else self.scores.propensity

    def outcome(self, outcome: Outcome, trade_off: TradeOff) -> tuple[PerRound, PerArm]:
        """Return the realised outcome, NaN where not known, and the predicted one of every arm."""
        scores = self.scores
        if outcome == "quality":
            return scores.quality, scores.predicted_quality
        if outcome == "cost_usd":
            return scores.cost_usd, scores.predicted_cost_usd
        return (
            trade_off.utility(quality=scores.quality, cost_usd=scores.cost_usd),
            trade_off.utility(quality=scores.predicted_quality, cost_usd=scores.predicted_cost_usd),
        )

    def gold(self, outcome: Outcome, trade_off: TradeOff) -> GoldLabels | None:
        """Return the gold labels behind an outcome that is judges' labels corrected by them; None for any other."""
        if self.gold_labels is None or outcome == "cost_usd":
            return None
        if outcome == "quality":
            return self.gold_labels
        utility = trade_off.utility(quality=self.gold_labels.outcome, cost_usd=self.scores.cost_usd)
        return GoldLabels(weight=self.gold_labels.weight, outcome=utility)

    def gate(
        self,
        estimate: Estimate,
        *,
        weight: PerRound,
        rows: NDArray[np.bool_] | NDArray[np.int64],
        outcome: Outcome,
        mean_weight: float = 1.0,
    ) -> Gate:
        """Return whether an estimate over these rounds may be read by its normal interval, given their weights."""
        corrected = self.gold_labels is not None and outcome != "cost_usd"
        return gate(
            estimate,
            weight=weight,
            mean_weight=mean_weight,
            gold_weight=self.gold_labels.weight[rows] if corrected and self.gold_labels is not None else None,
        )

    def known(self, *outcomes: Outcome, trade_off: TradeOff) -> NDArray[np.bool_]:
        """Return the rounds in which all of these outcomes are known."""
        known = np.ones(self.log.n_rounds, dtype=np.bool_)
        for outcome in outcomes:
            known &= ~np.isnan(self.outcome(outcome, trade_off)[0])
        return known

    def estimate(
        self,
        policy: str,
        trade_off: TradeOff,
        outcome: Outcome,
        *,
        rows: NDArray[np.bool_] | NDArray[np.int64],
        estimator: str | None = None,
    ) -> Estimate:
        """Return the estimate of a policy's mean outcome over these rounds, in which it must be known."""
        realised, predicted = self.outcome(outcome, trade_off)
        return estimate_value(
            estimator or self.estimator,
            arm=self.scores.arm[rows],
            outcome=realised[rows],
            propensity=self.propensity(policy)[rows],
            predicted=predicted[rows],
            target_probs=self.target_probs(policy, trade_off)[rows],
        )
