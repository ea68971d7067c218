"""The hub: doubly robust pseudo-outcomes of every arm in every round, for quality and for cost apart.

Learning (`policies`) and evaluation (`ope`) both read these and neither knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pointsman.errors import InvalidLogError
from pointsman.types import ArmIndex, Eligible, PerArm, PerRound


def pseudo_outcomes(*, arm: ArmIndex, outcome: PerRound, propensity: PerRound, predicted: PerArm) -> PerArm:
    """Return the doubly robust pseudo-outcome of every arm in every round.

    G_i(t) = mu_t(x_i) + 1[t_i = t] / e_i * (y_i - mu_t(x_i))

    Args:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; NaN where it is not known, which leaves that round with mu alone.
        propensity: Logging policy's probability of the logged arm, in (0, 1].
        predicted: mu_t(x_i), out-of-fold predicted outcome of every arm, in the unit of `outcome`.

    Returns:
        Pseudo-outcomes, in the unit of `outcome` and never clipped to its range; the mean of a column estimates
        that arm's value without bias if either the propensities or the predictions are right.

    Raises:
        InvalidLogError: A propensity lies outside (0, 1].

    References:
        Dudik, Langford and Li (2011), ICML; Zhou, Athey and Wager (2023), Operations Research 71(1);
        Tsiourvas, Sun and Perakis (2025), NeurIPS.
    """
    invalid = ~((propensity > 0) & (propensity <= 1))  # true for NaN as well
    if invalid.any():
        raise InvalidLogError(
            f"propensity must be in (0, 1]; got {propensity[invalid][0]}; estimate the unknown ones first"
        )
    row = np.arange(arm.size)
    scores = np.array(predicted, dtype=np.float64)
    residual = np.nan_to_num(outcome - predicted[row, arm], nan=0.0)
    scores[row, arm] += residual / propensity
    return scores


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One batch of logged rounds with its cross-fitted nuisances: all that a policy learns from.

    Attributes:
        arm: Logged arm.
        quality: Realised quality in [0, 1]; NaN where not known.
        cost_usd: Realised cost, in USD; NaN where not known.
        propensity: Probability of the logged arm, in (0, 1]: logged, or estimated where the log had none.
        eligible: Arms that could have been chosen; the logged arm always is.
        predicted_quality: Out-of-fold outcome model of quality for every arm.
        predicted_cost_usd: Out-of-fold outcome model of cost for every arm, in USD.
        fold: (n_rounds,) int, the fold each round was predicted in.
    """

    arm: ArmIndex
    quality: PerRound
    cost_usd: PerRound
    propensity: PerRound
    eligible: Eligible
    predicted_quality: PerArm
    predicted_cost_usd: PerArm
    fold: ArmIndex

    @property
    def n_rounds(self) -> int:
        """Number of rounds."""
        return int(self.arm.size)

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return int(self.predicted_quality.shape[1])

    @property
    def quality_scores(self) -> PerArm:
        """Doubly robust pseudo-outcomes of quality."""
        return pseudo_outcomes(
            arm=self.arm,
            outcome=self.quality,
            propensity=self.propensity,
            predicted=self.predicted_quality,
        )

    @property
    def cost_scores(self) -> PerArm:
        """Doubly robust pseudo-outcomes of cost, in USD."""
        return pseudo_outcomes(
            arm=self.arm,
            outcome=self.cost_usd,
            propensity=self.propensity,
            predicted=self.predicted_cost_usd,
        )
