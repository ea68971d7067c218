"""Rounds without an outcome: how many, and whether they are like the others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import MissingOutcomeWarning
from pointsman.ope.diagnostics.features import principal_features
from pointsman.ope.diagnostics.significance import FALSE_ALARM_RATE
from pointsman.types import ArmIndex, Context

_ROUNDS_PER_DEGREE = 10


@dataclass(frozen=True, kw_only=True)
class Missingness:
    """Share of rounds without an outcome, and whether it depends on what is known.

    Attributes:
        share: Of all rounds.
        share_by_arm: (n_arms,) of each arm's rounds; NaN for an arm without rounds.
        features: Names of the features compared; none where too few rounds lack, or have, an outcome.
        difference: (n_features,) mean of rounds without less that of rounds with an outcome, within arms, in standard
            deviations.
        arm_p_value: Chance of shares this unlike if missingness does not depend on the arm.
        context_p_value: Chance of differences this large if, given the arm, it does not depend on the context.
        p_value: Of both together.
    """

    share: float
    share_by_arm: NDArray[np.float64]
    features: tuple[str, ...]
    difference: NDArray[np.float64]
    arm_p_value: float
    context_p_value: float
    p_value: float


def check_missingness(
    *,
    missing: NDArray[np.bool_],
    arm: ArmIndex,
    context: Context,
    n_arms: int,
    n_features: int = 10,
    feature_names: Sequence[str] | None = None,
    arm_names: Sequence[str] | None = None,
) -> Missingness:
    """Test whether outcomes go missing at random: chi-square over arms, and a score test on the context within arms.

    The first is Pearson's over arms, those in which under five missing or five known outcomes are to be expected taken
    together. For the second, with m_i the missingness and f_i the features less their mean over the arm's rounds, a
    permutation of the missing rounds within each arm t gives U = sum_i m_i f_i mean zero and covariance

        V = sum_t n_t / (n_t - 1) p_t (1 - p_t) sum_{i in t} f_i f_i',   p_t the arm's missing share,

    and U' V^-1 U is chi-square on as many degrees of freedom as features, of which one is used per ten rounds of the
    rarer kind at most. It is the score test of a logit with an intercept an arm. `p_value` is twice the smaller.

    Args:
        missing: (n_rounds,) whether the outcome is not known.
        arm: Logged arm.
        context: Features of each round.
        n_arms: Number of arms.
        n_features: Features to compare at most; principal components where the context has more.
        feature_names: Names of the context's columns.
        arm_names: Names for messages; column numbers where None.

    Warns:
        MissingOutcomeWarning: Dependence this strong comes once in a thousand logs where outcomes go missing at random.

    References:
        Mantel (1963), JASA 58(303): the stratified score test; Little (1988), JASA 83(404).
    """
    n_served, n_missing = np.bincount(arm, minlength=n_arms), np.bincount(arm[missing], minlength=n_arms)
    share_by_arm = np.divide(n_missing, n_served, out=np.full(n_arms, np.nan), where=n_served > 0)
    share = float(missing.mean())
    arm_p_value = _homogeneity_p_value(n_served, n_missing)
    within = share_by_arm[arm] * (1 - share_by_arm[arm])
    mixed = within > 0  # an arm that lacks all outcomes, or none, says nothing on the context
    rarer = min(int(np.count_nonzero(missing & mixed)), int(np.count_nonzero(~missing & mixed)))
    names: tuple[str, ...] = ()
    difference, context_p_value = np.zeros(0), 1.0
    if rarer >= _ROUNDS_PER_DEGREE:
        features, names = principal_features(
            context, at_most=min(n_features, rarer // _ROUNDS_PER_DEGREE), names=feature_names
        )
        difference, context_p_value = _score_test(
            features[mixed], missing=missing[mixed], arm=arm[mixed], share_by_arm=share_by_arm, n_served=n_served
        )
    found = Missingness(
        share=share,
        share_by_arm=share_by_arm,
        features=names,
        difference=difference,
        arm_p_value=arm_p_value,
        context_p_value=context_p_value,
        p_value=min(1.0, 2 * min(arm_p_value, context_p_value)),
    )
    if found.p_value < FALSE_ALARM_RATE:
        if arm_p_value < context_p_value:
            worst = int(np.nanargmax(abs(share_by_arm - share)))
            name = str(worst) if arm_names is None else arm_names[worst]
            reason = f"the arm: {share_by_arm[worst]:.1%} of the rounds of {name} lack it, {share:.1%} of all"
        else:
            worst = int(abs(difference).argmax())
            reason = (
                f"the prompt: {names[worst]} is {difference[worst]:+.2f} standard deviations off where it is lacking"
            )
        warnings.warn(
            f"whether the outcome is known depends on {reason} (p = {found.p_value:.1e}): estimates hold for rounds "
            "whose outcome is known, not for all",
            MissingOutcomeWarning,
            stacklevel=2,
        )
    return found


def _homogeneity_p_value(n_served: NDArray[np.int64], n_missing: NDArray[np.int64]) -> float:
    from scipy.special import chdtrc

    total = int(n_served.sum())
    share = n_missing.sum() / total
    rare = n_served * min(share, 1 - share) < 5
    n, m = (np.append(count[~rare], count[rare].sum()) for count in (n_served, n_missing))
    if n[-1] * min(share, 1 - share) < 5:  # the few left over are too few even together
        n, m = n[:-1], m[:-1]
    if n.size < 2:
        return 1.0
    share = m.sum() / n.sum()
    statistic = float(((m - n * share) ** 2 / (n * share * (1 - share))).sum()) if 0 < share < 1 else 0.0
    return float(chdtrc(n.size - 1, statistic))


def _score_test(
    features: NDArray[np.float64],
    *,
    missing: NDArray[np.bool_],
    arm: ArmIndex,
    share_by_arm: NDArray[np.float64],
    n_served: NDArray[np.int64],
) -> tuple[NDArray[np.float64], float]:
    """Return the difference of means within arms, in standard deviations, and the p-value of all being zero."""
    from scipy.special import chdtrc

    centred = features.copy()
    for t in np.unique(arm):
        centred[arm == t] -= features[arm == t].mean(axis=0)
    share = share_by_arm[arm]
    spread = share * (1 - share)
    score = missing.astype(np.float64) @ centred
    inflation = n_served[arm] / (n_served[arm] - 1)
    covariance = (centred * (inflation * spread)[:, None]).T @ centred
    inverse = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True)
    degrees = int(np.linalg.matrix_rank(covariance, tol=1e-10 * np.trace(covariance), hermitian=True))
    difference = score / spread.sum()
    return difference, float(chdtrc(degrees, float(score @ inverse @ score))) if degrees else 1.0
