"""Off-policy estimators of a policy's value: pure functions of the logged rounds.

Those that shrink large weights (`clipped_ips`, `switch_dr`, `dros`) trade variance for bias. With w_hat the weight used
in place of w and mu = 0 for `clipped_ips`, what they leave out is known round by round, and their bias bound is

    |E[(w - w_hat) (y - mu)]|  <=  |mean_i o_i| + 1.96 sd(o) / sqrt(n),    o_i = (w_i - w_hat_i) (y_i - mu_{t_i}(x_i))

which holds with 95% confidence as rounds accumulate (Su, Dimakopoulou, Krishnamurthy and Dudik (2020), ICML, section
5, with the normal's quantile for their Bernstein term, so that no range of the outcome is asked for). It does not cover
wrong propensities; decisions of the target that the log never shows; outcomes so rare and weights so large that the
rounds that matter are not in the log; nor a hyper-parameter chosen by looking at the same rounds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
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


def residuals(*, weight: PerRound, arm: ArmIndex, outcome: PerRound, predicted: PerArm) -> PerRound:
    """Return y_i - mu_{t_i}(x_i), and 0 where the weight is zero.

    A round the target would not have sent to its logged arm says nothing, whatever was predicted for it.
    """
    return np.asarray(np.where(weight > 0, outcome - predicted[np.arange(arm.size), arm], 0.0))


def clipped(weight: NDArray[np.float64], max_weight: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return min(w, max_weight); arrays broadcast."""
    return np.asarray(np.minimum(weight, max_weight))


def switched(weight: NDArray[np.float64], threshold: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return w where w <= threshold, else 0; arrays broadcast."""
    return np.asarray(np.where(weight <= threshold, weight, 0.0))


def shrunk(weight: NDArray[np.float64], shrinkage: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return lambda w / (w^2 + lambda), lambda = shrinkage: 0 at lambda = 0, w at infinity; arrays broadcast."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.where(weight > 0, weight / (1 + weight**2 / np.float64(shrinkage)), 0.0))


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


def clipped_ips(
    *, arm: ArmIndex, outcome: PerRound, propensity: PerRound, target_probs: PerArm, max_weight: float
) -> Estimate:
    """Return the inverse propensity estimate with clipped weights: mean_i min(w_i, max_weight) y_i.

    `ips` at infinity. Its bias bound is the module's. Arguments as for `ips`, and the largest weight used.

    Raises:
        InvalidParameterError: `max_weight` is negative or NaN.

    References:
        Ionides (2008), Journal of Computational and Graphical Statistics 17(2); Bottou et al. (2013), JMLR 14.
    """
    check_parameter("max_weight", max_weight)
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    return shrinking_estimate(
        "clipped_ips",
        parameter=max_weight,
        weight=weight,
        used=clipped(weight, max_weight),
        baseline=np.zeros(weight.size),
        residual=outcome,
    )


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
    residual = residuals(weight=weight, arm=arm, outcome=outcome, predicted=predicted)
    value = expected_prediction(predicted=predicted, target_probs=target_probs) + weight * residual
    return Estimate(name="dr", terms=(Ratio(value, np.ones(value.size)),))


def sndr(
    *, arm: ArmIndex, outcome: PerRound, propensity: PerRound, predicted: PerArm, target_probs: PerArm
) -> Estimate:
    """Return the self-normalised doubly robust estimate.

    mean_i sum_t pi(t | x_i) mu_t(x_i)  +  sum_i w_i (y_i - mu_{t_i}(x_i)) / sum_i w_i. Its bias is of order 1 / n, its
    influence the delta method's. NaN where all weights are zero. Arguments as for `dr`.

    References:
        Thomas and Brunskill (2016), ICML: the weighted doubly robust estimator, for one decision.
    """
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    residual = residuals(weight=weight, arm=arm, outcome=outcome, predicted=predicted)
    value = expected_prediction(predicted=predicted, target_probs=target_probs)
    return Estimate(name="sndr", terms=(Ratio(value, np.ones(value.size)), Ratio(weight * residual, weight)))


def switch_dr(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    predicted: PerArm,
    target_probs: PerArm,
    threshold: float,
) -> Estimate:
    """Return the doubly robust estimate without the rounds of large weight, which are left to the outcome model.

    mean_i [ sum_t pi(t | x_i) mu_t(x_i) + 1[w_i <= threshold] w_i (y_i - mu_{t_i}(x_i)) ]: `dm` at threshold 0, `dr` at
    infinity. Its bias bound is the module's. Arguments as for `dr`, and the largest weight used.

    Raises:
        InvalidParameterError: `threshold` is negative or NaN.

    References:
        Wang, Agarwal and Dudik (2017), ICML.
    """
    check_parameter("threshold", threshold)
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    return shrinking_estimate(
        "switch_dr",
        parameter=threshold,
        weight=weight,
        used=switched(weight, threshold),
        baseline=expected_prediction(predicted=predicted, target_probs=target_probs),
        residual=residuals(weight=weight, arm=arm, outcome=outcome, predicted=predicted),
    )


def dros(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    predicted: PerArm,
    target_probs: PerArm,
    shrinkage: float,
) -> Estimate:
    """Return the doubly robust estimate with optimistic shrinkage of its weights.

    mean_i [ sum_t pi(t | x_i) mu_t(x_i) + lambda w_i / (w_i^2 + lambda) (y_i - mu_{t_i}(x_i)) ], lambda = shrinkage:
    `dm` at 0, `dr` at infinity; the weight sqrt(lambda) is halved and none exceeds sqrt(lambda) / 2. Its bias bound is
    the module's. Arguments as for `dr`, and lambda.

    Raises:
        InvalidParameterError: `shrinkage` is negative or NaN.

    References:
        Su, Dimakopoulou, Krishnamurthy and Dudik (2020), ICML.
    """
    check_parameter("shrinkage", shrinkage)
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    return shrinking_estimate(
        "dros",
        parameter=shrinkage,
        weight=weight,
        used=shrunk(weight, shrinkage),
        baseline=expected_prediction(predicted=predicted, target_probs=target_probs),
        residual=residuals(weight=weight, arm=arm, outcome=outcome, predicted=predicted),
    )


def shrinking_estimate(
    name: str, *, parameter: float, weight: PerRound, used: PerRound, baseline: PerRound, residual: PerRound
) -> Estimate:
    """Return mean_i(baseline_i + used_i residual_i), which leaves out (weight_i - used_i) residual_i."""
    return Estimate(
        name=name,
        terms=(Ratio(baseline + used * residual, np.ones(weight.size)),),
        omitted=(weight - used) * residual,
        parameter=float(parameter),
    )


def check_parameter(name: str, value: float) -> None:
    """Raise InvalidParameterError unless a hyper-parameter is in [0, infinity]."""
    if not value >= 0:
        raise InvalidParameterError(f"{name} must be >= 0, infinity included; got {value}")
