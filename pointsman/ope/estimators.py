"""Off-policy estimators of a policy's value: pure functions of the logged rounds."""

from __future__ import annotations

import math

import numpy as np

from pointsman.ope.estimate import Estimate, Ratio
from pointsman.types import ArmIndex, PerArm, PerRound


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
    return Estimate(name="dm", terms=(Ratio(value, np.ones(value.size)),), bias_bound=math.inf)


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
