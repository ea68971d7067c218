"""The hub: doubly robust pseudo-outcomes of every arm in every round, for quality and for cost apart.

Learning (`policies`) and evaluation (`ope`) both read these and neither knows the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError, InvalidParameterError, OverlapWarning
from pointsman.nuisance.base import OutcomeModel
from pointsman.types import ArmIndex, Context, Eligible, PerArm, PerRound

if TYPE_CHECKING:
    from pointsman.nuisance.propensity import PropensityEstimate, PropensityModel


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
        estimated: (n_rounds,) bool, whether the propensity is an estimate; None where that is not known.
        quality_weight: (n_rounds,) what each quality is worth in a regression, in (0, 1]: less where it is a corrected
            judge's label whose correction is in doubt; None where all are worth the same.
    """

    arm: ArmIndex
    quality: PerRound
    cost_usd: PerRound
    propensity: PerRound
    eligible: Eligible
    predicted_quality: PerArm
    predicted_cost_usd: PerArm
    fold: ArmIndex
    estimated: NDArray[np.bool_] | None = None
    quality_weight: PerRound | None = None

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


def make_scores(
    *,
    context: Context,
    arm: ArmIndex,
    quality: PerRound,
    cost_usd: PerRound,
    logged_propensity: PerRound,
    eligible: Eligible,
    outcome_model: OutcomeModel,
    cost_model: OutcomeModel | None = None,
    propensity_model: PropensityModel | None = None,
    propensity: Literal["auto", "logged", "estimated"] = "auto",
    n_folds: int = 5,
    seed: int,
    groups: NDArray[np.generic] | None = None,
    arm_names: Sequence[str] | None = None,
    quality_weight: PerRound | None = None,
) -> tuple[Scores, PropensityEstimate | None]:
    """Cross-fit all nuisances of a log and return its scores, with the propensity estimate where one was needed.

    Args:
        context: Features of each round's prompt.
        arm: Logged arm.
        quality: Realised quality in [0, 1]; NaN where not known.
        cost_usd: Realised cost, in USD; NaN where not known. Predictions of cost are NaN where none is known.
        logged_propensity: Probability of the logged arm, in (0, 1]; NaN where the log has none.
        eligible: Arms that could have been chosen; the logged arm always is.
        outcome_model: Regression of quality, and of cost where `cost_model` is None.
        cost_model: Regression of cost.
        propensity_model: Settings for the estimate; `PropensityModel()` where None.
        propensity: `logged` refuses a log with unknown propensities; `estimated` ignores the logged ones; `auto` takes
            the logged one where there is one and estimates the others, from the rounds that lack one (those that have
            one may have been logged by another policy).
        n_folds: Folds of the cross-fitting.
        seed: Draws the folds.
        groups: (n_rounds,) label of each round; rounds of one label, such as repeats of one prompt, share a fold.
        arm_names: Names for warnings; column numbers where None.
        quality_weight: (n_rounds,) what each quality is worth in a regression, in (0, 1]; one where None.

    Returns:
        The scores; and the propensity estimate, whose rows are the rounds with `Scores.estimated`, or None.

    Raises:
        InvalidLogError: An unknown propensity with `propensity="logged"`, or a logged arm that was not eligible.
        InvalidParameterError: `propensity` is none of the three.

    Warns:
        OverlapWarning: An eligible arm has no round with known quality.
        CalibrationWarning: Estimated propensities disagree with the frequencies they claim.
    """
    from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
    from pointsman.nuisance.propensity import estimate_propensities

    n_rounds, n_arms = eligible.shape
    if propensity not in ("auto", "logged", "estimated"):
        raise InvalidParameterError(f"propensity must be 'auto', 'logged' or 'estimated'; got {propensity!r}")
    ineligible = ~eligible[np.arange(n_rounds), arm]
    if ineligible.any():
        raise InvalidLogError(f"the logged arm must be eligible; in round {int(ineligible.argmax())} it is not")
    unknown = np.isnan(logged_propensity)
    if propensity == "logged" and unknown.any():
        raise InvalidLogError(
            f"propensity='logged' needs every propensity; {np.count_nonzero(unknown)} of {n_rounds} are not known; "
            "use 'auto' to estimate those"
        )
    names = [str(t) for t in range(n_arms)] if arm_names is None else arm_names
    silent = eligible.any(axis=0) & (np.bincount(arm[~np.isnan(quality)], minlength=n_arms) == 0)
    if silent.any():
        listed = ", ".join(name for name, mute in zip(names, silent, strict=True) if mute)
        warnings.warn(
            f"no round with known quality for {listed}: what is said of them is borrowed from the other arms; "
            "log some rounds of each",
            OverlapWarning,
            stacklevel=2,
        )

    fold = assign_folds(n_rounds, n_folds=n_folds, seed=seed, groups=groups)
    estimated = np.ones(n_rounds, dtype=bool) if propensity == "estimated" else unknown
    of_logged_arm = np.array(logged_propensity, dtype=np.float64)
    estimate: PropensityEstimate | None = None
    if estimated.any():
        estimate = estimate_propensities(
            context=context[estimated],
            arm=arm[estimated],
            n_arms=n_arms,
            eligible=eligible[estimated],
            fold=fold[estimated],
            model=propensity_model,
        )
        of_logged_arm[estimated] = estimate.of_logged_arm
    predicted_quality, predicted_cost_usd = (
        cross_fit_outcomes(
            model, context=context, outcome=outcome, arm=arm, n_arms=n_arms, fold=fold, sample_weight=weight
        )
        for model, outcome, weight in (
            (outcome_model, quality, quality_weight),
            (cost_model or outcome_model, cost_usd, None),
        )
    )
    scores = Scores(
        arm=arm,
        quality=quality,
        cost_usd=cost_usd,
        propensity=of_logged_arm,
        eligible=eligible,
        predicted_quality=predicted_quality,
        predicted_cost_usd=predicted_cost_usd,
        fold=fold,
        estimated=estimated,
        quality_weight=quality_weight,
    )
    return scores, estimate
