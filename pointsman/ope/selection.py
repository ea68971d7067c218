"""The hyper-parameter of an estimator, chosen from the log: how much variance to give up for how much bias.

A clip, switch or shrinkage trades the two, and no choice suits every log. Candidates run from no shrinking at all to
none of the weights left, in steps set by the log's own weights; a rule picks one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import (
    clipped,
    expected_prediction,
    importance_weights,
    residuals,
    shrinking_estimate,
    shrunk,
    switched,
)
from pointsman.types import ArmIndex, PerArm, PerRound

Tunable: TypeAlias = Literal["clipped_ips", "switch_dr", "dros"]
Rule: TypeAlias = Literal["least_mse_bound", "slope"]

SLOPE_LEVEL = 0.6827
"""Level of SLOPE's confidence widths: one standard error, so that its intervals reach two to either side."""

BLOCK = 65_536
"""Rounds whose weights are shrunk to every candidate at once: 12 MB for twenty candidates."""


class _Moments(NamedTuple):
    """What the rules look at: (n_candidates,) each, from the least biased candidate to the most."""

    value: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    bias: NDArray[np.float64]


def slope(estimates: Sequence[Estimate], *, level: float = SLOPE_LEVEL) -> Estimate:
    """Return the last of the estimates that agrees with all before it.

    With CNF(j) the half-width of the normal interval of estimate j, it is the one with the largest index i for which
    the intervals value(j) -+ 2 CNF(j), j = 1..i, have a point in common. CNF is made to fall with the index, as the
    method requires, by the largest of it and those after it. Where every CNF bounds its deviation, the error is at
    most 6 (1 + k) times the least of bias plus CNF over the estimates, k the largest ratio of neighbouring CNFs.

    It dares more than `least_mse_bound`, the more so the higher the level: its squared error was between 0.01 and 8
    times that of no shrinking over simulated logs, the second with good overlap or a poor outcome model.

    Args:
        estimates: On the same rounds, by increasing bias and decreasing variance.
        level: Of the widths.

    Raises:
        InvalidParameterError: There is no estimate, or `level` lies outside (0, 1).

    References:
        Su, Srinath and Krishnamurthy (2020), ICML.
    """
    return estimates[_slope(_moments_of(estimates), level=level)]


def least_mse_bound(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate of the least bound on its mean squared error: standard_error^2 + mean(omitted)^2.

    The square of the estimated bias exceeds, on average, the square of the bias, by the variance of the estimate of
    it: so this bounds the mean squared error on average, and favours the candidates whose bias can be told. Where an
    estimate does not know what it omits, its bias bound takes the place of mean(omitted). The first of equals.

    With the estimate that shrinks nothing among them, the choice is within one of its standard errors: estimated bias
    is the distance of the two. Over simulated logs its mean squared error was between 0.3 and 1.35 times that of no
    shrinking, the first with bad overlap and the second with good.

    Args:
        estimates: On the same rounds.

    Raises:
        InvalidParameterError: There is no estimate.

    References:
        Su, Dimakopoulou, Krishnamurthy and Dudik (2020), ICML, the direct estimate of the bias; Wang, Agarwal and
        Dudik (2017), ICML, for the rule.
    """
    return estimates[_least_mse_bound(_moments_of(estimates))]


def tuned(
    estimator: Tunable,
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    target_probs: PerArm,
    predicted: PerArm | None = None,
    rule: Rule = "least_mse_bound",
    n_candidates: int = 20,
) -> Estimate:
    """Return an estimate whose hyper-parameter, in its `parameter`, is chosen from these rounds.

    Candidates are those of `candidate_parameters`. The bias bound is that of the chosen one, as if it had been chosen
    beforehand. Shards of one log need one choice: tune on one of them, and pass the parameter to the estimator.

    Args:
        estimator: "clipped_ips", "switch_dr" or "dros".
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        predicted: Out-of-fold predicted outcome of every arm; not used by "clipped_ips".
        rule: "least_mse_bound" or "slope".
        n_candidates: Hyper-parameters to choose from, at most, besides the two limits.

    Raises:
        InvalidParameterError: `estimator` or `rule` is not one of these, `predicted` is missing, or `n_candidates` is
            not positive.
    """
    if estimator not in _SHRINK:
        raise InvalidParameterError(f"estimator must be one of {sorted(_SHRINK)}; got {estimator!r}")
    if rule not in _RULES:
        raise InvalidParameterError(f"rule must be one of {sorted(_RULES)}; got {rule!r}")
    weight = importance_weights(arm=arm, propensity=propensity, target_probs=target_probs)
    if estimator == "clipped_ips":
        baseline, residual = np.zeros(weight.size), outcome
    elif predicted is None:
        raise InvalidParameterError(f"{estimator} needs predicted, the outcome model's prediction for every arm")
    else:
        baseline = expected_prediction(predicted=predicted, target_probs=target_probs)
        residual = residuals(weight=weight, arm=arm, outcome=outcome, predicted=predicted)
    parameters = candidate_parameters(estimator, weight=weight, n_candidates=n_candidates)
    shrink = _SHRINK[estimator]
    moments = _grid_moments(parameters, shrink=shrink, weight=weight, baseline=baseline, residual=residual)
    chosen = float(parameters[_RULES[rule](moments)])
    return shrinking_estimate(
        estimator,
        parameter=chosen,
        weight=weight,
        used=shrink(weight, chosen),
        baseline=baseline,
        residual=residual,
    )


def candidate_parameters(estimator: Tunable, *, weight: PerRound, n_candidates: int = 20) -> NDArray[np.float64]:
    """Return the hyper-parameters to choose from, falling: infinity (no shrinking), then steps, then 0 (no weight).

    The steps of a clip or switch are the positive weights of rank 1 to the last, ranks rising geometrically, so that
    most candidates are where few rounds carry the most weight. Those of a shrinkage are the squares of these, at which
    the weight is halved, and ten and a hundred times the first square.

    Raises:
        InvalidParameterError: `n_candidates` is not positive.
    """
    if n_candidates < 1:
        raise InvalidParameterError(f"n_candidates must be positive; got {n_candidates}")
    positive = weight[weight > 0]
    if positive.size == 0:
        return np.array([math.inf, 0.0])
    rank = np.unique(np.geomspace(1, positive.size, n_candidates).round().astype(np.int64)) - 1
    steps = np.sort(positive)[::-1][rank]
    if estimator == "dros":
        steps = np.concatenate([[100 * steps[0] ** 2, 10 * steps[0] ** 2], steps**2])
    return np.concatenate([[math.inf], np.unique(steps)[::-1], [0.0]])


def _grid_moments(
    parameters: NDArray[np.float64],
    *,
    shrink: Callable[[PerRound, NDArray[np.float64]], NDArray[np.float64]],
    weight: PerRound,
    baseline: PerRound,
    residual: PerRound,
) -> _Moments:
    """Return the moments of mean_i(b_i + u_i r_i) for the weights u of every parameter, in one pass over the rounds."""
    n_rounds = weight.size
    level = float((baseline + weight * residual).mean())
    # Moments about a common level: squares of large values would leave no digits for their spread.
    centred = baseline - level
    alive = (weight > 0) & (residual != 0)
    w, b, r = weight[alive], centred[alive], residual[alive]
    linear = np.zeros((parameters.size, 2))
    square = np.zeros(parameters.size)
    for start in range(0, w.size, BLOCK):
        rows = slice(start, start + BLOCK)
        used = shrink(w[rows], parameters[:, None])
        linear += used @ np.stack([r[rows], b[rows] * r[rows]], axis=1)
        square += (used**2) @ r[rows] ** 2
    mean = (centred.sum() + linear[:, 0]) / n_rounds
    squares = (centred**2).sum() + 2 * linear[:, 1] + square
    variance = np.maximum(squares - n_rounds * mean**2, 0.0) / max(n_rounds - 1, 1)
    return _Moments(
        value=level + mean,
        standard_error=np.sqrt(variance / n_rounds),
        bias=((w * r).sum() - linear[:, 0]) / n_rounds,
    )


def _moments_of(estimates: Sequence[Estimate]) -> _Moments:
    if not estimates:
        raise InvalidParameterError("there must be an estimate to choose; got none")
    return _Moments(
        value=np.array([estimate.value for estimate in estimates]),
        standard_error=np.array([estimate.standard_error for estimate in estimates]),
        bias=np.array(
            [estimate.bias_bound if estimate.omitted is None else estimate.omitted.mean() for estimate in estimates]
        ),
    )


def _slope(moments: _Moments, *, level: float = SLOPE_LEVEL) -> int:
    if not 0 < level < 1:
        raise InvalidParameterError(f"level must be in (0, 1); got {level}")
    width = 2 * NormalDist().inv_cdf((1 + level) / 2) * moments.standard_error
    width = np.maximum.accumulate(width[::-1])[::-1]
    low = np.maximum.accumulate(moments.value - width)
    high = np.minimum.accumulate(moments.value + width)
    return int(np.flatnonzero(low <= high)[-1])


def _least_mse_bound(moments: _Moments) -> int:
    return int(np.argmin(moments.standard_error**2 + moments.bias**2))


_SHRINK: dict[str, Callable[[PerRound, float | NDArray[np.float64]], NDArray[np.float64]]] = {
    "clipped_ips": clipped,
    "switch_dr": switched,
    "dros": shrunk,
}
_RULES: dict[str, Callable[[_Moments], int]] = {"least_mse_bound": _least_mse_bound, "slope": _slope}
