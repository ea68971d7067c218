"""Propensities where the log has none: estimated out of fold, calibrated, floored in one place, and checked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from pointsman.errors import CalibrationWarning, InvalidParameterError
from pointsman.nuisance.batches import affine, batches
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.types import ArmIndex, Context, Eligible, PerArm, PerRound

PRIOR_VARIANCES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Prior variances to choose from: from no slopes at all to slopes of one logit per standard deviation."""

FALSE_ALARM_RATE = 0.001
"""How often right propensities may draw a CalibrationWarning."""


def propensity_floor(n_rounds: int, *, n_arms: int) -> float:
    """Return the smallest propensity an estimate may claim: min(5 / (sqrt(n) ln n), 1 / K).

    It vanishes as the log grows, so flooring leaves no bias in the limit; on a handful of rounds it reaches 1 / K,
    which is to say that nothing about the logging policy can be known from them.

    References:
        Gruber, Phillips, Lee and van der Laan (2022), American Journal of Epidemiology 191(9).
    """
    if n_rounds < 2:
        return 1 / n_arms
    return min(5 / (math.sqrt(n_rounds) * math.log(n_rounds)), 1 / n_arms)


def floored(probabilities: PerArm, *, supported: Eligible, floor: float) -> PerArm:
    """Return probabilities of at least `floor` on every supported arm, zero elsewhere, rows summing to one.

    What the raised arms gain is taken from the others in proportion to their excess over the floor; a row with no arm
    below the floor stays as it is.

    Args:
        probabilities: Rows sum to one over the supported arms.
        supported: Arms with a positive propensity; at least one a row.
        floor: At most 1 / n_arms.
    """
    excess = np.where(supported, np.maximum(probabilities - floor, 0.0), 0.0)
    total = excess.sum(axis=1, keepdims=True)
    n_supported = supported.sum(axis=1, keepdims=True)
    # Where no arm exceeds the floor, floor = 1 / n_supported and every arm gets exactly that.
    share = np.divide(excess, total, out=np.where(supported, 1 / n_supported, 0.0), where=total > 0)
    return np.asarray(np.where(supported, floor, 0.0) + share * (1 - n_supported * floor))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Predicted beside observed frequencies: one entry per bin, each bin one arm's rounds of similar propensity.

    Attributes:
        arm: Arm of each bin.
        n_rounds: Rounds in each bin.
        predicted: Mean predicted propensity of the arm in the bin.
        observed: Share of the bin's rounds in which the arm served.
        expected_calibration_error: Mean of |predicted - observed| over bins, weighted by rounds.
        noise: What `expected_calibration_error` would be, on average, if the propensities were right.
        p_value: Chance of deviations this large under right propensities.
    """

    arm: ArmIndex
    n_rounds: NDArray[np.int64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    expected_calibration_error: float
    noise: float
    p_value: float


def calibration(
    probabilities: PerArm, *, arm: ArmIndex, eligible: Eligible, fold: ArmIndex, n_bins: int = 10
) -> Calibration:
    """Compare predicted propensities with the frequencies they claim.

    For each arm, the eligible rounds of each fold are ranked by predicted propensity, and rounds of like rank form a
    bin (ranks over all folds would put a fold whose own rounds happen to lack the arm, and which the others therefore
    predict too often, into one bin). Bins are as large as each other, and fewer where a bin would expect under five
    servings or five refusals (Cochran's rule for the chi-square). With O the observed
    servings of a bin, E = sum p and V = sum p (1 - p), sum over bins of (O - E)^2 / V is chi-square with as many
    degrees of freedom as bins if the p are right and were not fitted to these rounds (out of fold). `p_value` is the
    smallest over arms times their number (Bonferroni).

    Args:
        probabilities: Predicted propensity of every arm, out of fold.
        arm: Logged arm.
        eligible: Arms that could have been chosen.
        fold: Fold of each round.
        n_bins: Bins an arm at most.

    References:
        Hosmer and Lemeshow (1980); Fagerland, Hosmer and Bofin (2008), Statistics in Medicine 27(21).
    """
    from scipy.special import chdtrc

    columns: list[tuple[int, int, float, float, float]] = []
    p_values: list[float] = []
    for t in range(probabilities.shape[1]):
        rows = np.flatnonzero(eligible[:, t])
        p = probabilities[rows, t]
        expected, refused = p.sum(), (1 - p).sum()
        if min(expected, refused) < 5:
            continue  # an arm almost never, or almost always, chosen has too few events to judge by
        order = np.argsort(_rank_within(fold[rows], p), kind="stable")
        statistic = 0.0
        bins = np.array_split(order, min(n_bins, int(min(expected, refused) // 5)))
        for members in bins:
            served = float(np.count_nonzero(arm[rows[members]] == t))
            p_bin = p[members]
            variance = float((p_bin * (1 - p_bin)).sum())
            statistic += (served - p_bin.sum()) ** 2 / variance if variance > 0 else 0.0
            columns.append((t, members.size, float(p_bin.mean()), served / members.size, math.sqrt(variance)))
        p_values.append(float(chdtrc(len(bins), statistic)))
    table = np.array(columns).reshape(-1, 5)
    total = max(table[:, 1].sum(), 1.0)
    return Calibration(
        arm=table[:, 0].astype(np.int64),
        n_rounds=table[:, 1].astype(np.int64),
        predicted=table[:, 2],
        observed=table[:, 3],
        expected_calibration_error=float(table[:, 1] @ abs(table[:, 2] - table[:, 3]) / total),
        noise=float(math.sqrt(2 / math.pi) * table[:, 4].sum() / total),
        p_value=min(1.0, len(p_values) * min(p_values)) if p_values else 1.0,
    )


@dataclass(frozen=True, kw_only=True)
class PropensityEstimate:
    """Estimated propensities, and what to think of them.

    Attributes:
        probabilities: Estimated propensity of every arm; zero for arms not eligible and for arms that never served.
        of_logged_arm: Its entry for the logged arm, in (0, 1].
        floor: The smallest propensity an arm that ever served may have where it is eligible.
        floored_share: Share of rounds whose logged arm was estimated below the floor.
        prior_variance: The prior variance of a slope, chosen by out-of-fold log loss.
        temperature: (n_folds,) what the logits of each fold were divided by.
        calibration: Predicted beside observed frequencies, before the floor.
    """

    probabilities: PerArm
    of_logged_arm: PerRound
    floor: float
    floored_share: float
    prior_variance: float
    temperature: NDArray[np.float64]
    calibration: Calibration


class PropensityModel(BaseEstimator):  # type: ignore[misc]
    """Multinomial logit for the logging policy, over the arms eligible in each round, with a calibrated temperature.

    P(t | x) = exp((b_t + x . w_t) / T) / sum_{s eligible} exp((b_s + x . w_s) / T)

    The likelihood is conditional on the eligible arms of each round: a multinomial logit fitted without regard to them
    and masked afterwards is wrong wherever eligibility varies. On the j-th principal component of the standardised
    features, of variance s_j, slopes have a N(0, prior_variance * s_j^2) prior, its scale chosen by out-of-fold log
    loss: what moves a logging policy is mostly what moves prompts most. (On embeddings of real prompts, 1,890 rounds,
    11 arms and a logger that follows the first component, estimates are off by 0.015 that way and by 0.024 with the
    same prior for every component.) The temperature T then maximises the likelihood of the out-of-fold logits. An arm
    that never served has probability zero.

    Args:
        prior_variances: Prior variances to choose from.
        n_folds: Folds to choose by.
        max_fit_rounds: Rounds, drawn at random, that one fit uses at most: the statistical error of a logit with
            some thousands of parameters is small beside its misspecification long before.
        max_tuning_rounds: The same while choosing the prior variance.
        floor: The smallest propensity; `propensity_floor` of the number of rounds where None.
        seed: Draws folds and subsamples.

    Attributes:
        logit_: The fitted `Logit`.
        prior_variance_: The prior variance chosen.
        temperature_: T.
        floor_: The floor.
    """

    def __init__(
        self,
        *,
        prior_variances: Sequence[float] = PRIOR_VARIANCES,
        n_folds: int = 5,
        max_fit_rounds: int = 100_000,
        max_tuning_rounds: int = 10_000,
        floor: float | None = None,
        seed: int = 0,
    ) -> None:
        self.prior_variances = prior_variances
        self.n_folds = n_folds
        self.max_fit_rounds = max_fit_rounds
        self.max_tuning_rounds = max_tuning_rounds
        self.floor = floor
        self.seed = seed

    def fit(
        self,
        X: Context,
        arm: ArmIndex,
        *,
        n_arms: int,
        eligible: Eligible | None = None,
        fold: ArmIndex | None = None,
    ) -> Self:
        """Learn the logging policy from the arms it chose.

        Args:
            X: Context.
            arm: Logged arm.
            n_arms: Number of arms.
            eligible: Arms that could have been chosen; all where None.
            fold: Fold of each round, where rounds must be kept together; drawn where None.
        """
        supported = _supported(arm, n_arms=n_arms, eligible=eligible)
        if fold is None and arm.size >= 2:
            fold = assign_folds(arm.size, n_folds=min(self.n_folds, arm.size), seed=self.seed)
        elif fold is None:
            fold = np.zeros(arm.size, dtype=np.int64)
        self.floor_ = propensity_floor(arm.size, n_arms=n_arms) if self.floor is None else self.floor
        self.supported_arms_ = supported.any(axis=0)
        self.prior_variance_, logits = self._out_of_fold(X, arm, supported=supported, fold=fold, floor=self.floor_)
        self.temperature_ = _temperature(logits, arm=arm, supported=supported)
        rows = self._subsample(np.arange(arm.size), self.max_fit_rounds)
        self.logit_ = LogitFitter(X[rows], arm[rows], supported=supported[rows]).fit(self.prior_variance_)
        return self

    def predict_proba(self, X: Context, eligible: Eligible | None = None) -> PerArm:
        """Return the calibrated, floored propensity of every arm; rows sum to one over the eligible arms.

        Where no arm that ever served is eligible, all eligible arms get the same.
        """
        eligible = np.ones((len(X), self.supported_arms_.size), dtype=bool) if eligible is None else eligible
        supported = eligible & self.supported_arms_
        supported = np.where(supported.any(axis=1, keepdims=True), supported, eligible)
        probabilities = _softmax(self.logit_(X) / self.temperature_, supported=supported)
        return floored(probabilities, supported=supported, floor=self.floor_)

    def _subsample(self, rows: NDArray[np.int64], n_rounds: int) -> NDArray[np.int64]:
        if rows.size <= n_rounds:
            return rows
        return np.sort(np.random.default_rng(self.seed).choice(rows, n_rounds, replace=False))

    def _out_of_fold(
        self, X: Context, arm: ArmIndex, *, supported: Eligible, fold: ArmIndex, floor: float
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the prior variance of least out-of-fold log loss, and every round's out-of-fold logits under it."""
        variances = np.sort(np.asarray(self.prior_variances, dtype=np.float64))
        if variances.size == 0 or not (np.isfinite(variances) & (variances > 0)).all():
            raise InvalidParameterError(f"prior_variances must be finite numbers > 0; got {self.prior_variances}")
        best = float(variances[0])
        folds = np.unique(fold)
        if variances.size > 1:
            best = self._least_log_loss(X, arm, supported=supported, fold=fold, floor=floor, variances=variances)
        logits = np.empty(supported.shape)
        for k in folds:
            train, held_out = self._subsample(np.flatnonzero(fold != k), self.max_fit_rounds), fold == k
            logits[held_out] = LogitFitter(X[train], arm[train], supported=supported[train]).fit(best)(X[held_out])
        return best, logits

    def _least_log_loss(
        self,
        X: Context,
        arm: ArmIndex,
        *,
        supported: Eligible,
        fold: ArmIndex,
        floor: float,
        variances: NDArray[np.float64],
    ) -> float:
        """Return the first prior variance, from the smallest up, after which the out-of-fold log loss rises."""
        tuning = self._subsample(np.arange(arm.size), self.max_tuning_rounds)
        splits = [(tuning[fold[tuning] != k], tuning[fold[tuning] == k]) for k in np.unique(fold)]
        fitters = [LogitFitter(X[train], arm[train], supported=supported[train]) for train, _ in splits]
        best, least = float(variances[0]), math.inf
        for variance in variances:
            loss = 0.0
            for fitter, (_, test) in zip(fitters, splits, strict=True):
                probabilities = _softmax(fitter.fit(variance)(X[test]), supported=supported[test])
                probabilities = floored(probabilities, supported=supported[test], floor=floor)
                loss -= float(np.log(probabilities[np.arange(test.size), arm[test]]).sum())
            if loss > least:
                break
            best, least = float(variance), loss
        return best


def estimate_propensities(
    *,
    context: Context,
    arm: ArmIndex,
    n_arms: int,
    eligible: Eligible | None = None,
    fold: ArmIndex,
    model: PropensityModel | None = None,
) -> PropensityEstimate:
    """Estimate the propensity of every arm in every round, each round by a logit that never saw it.

    The slopes that predict a round were fitted on the other folds, and the temperature that calibrates it on the other
    folds' out-of-fold logits. One number is shared by all folds: the prior variance, one of a handful of values,
    chosen by the out-of-fold log loss of all.

    Args:
        context: Features of each round.
        arm: Logged arm.
        n_arms: Number of arms.
        eligible: Arms that could have been chosen; all where None.
        fold: Fold of each round, from `assign_folds`.
        model: Settings; `PropensityModel()` where None.

    Warns:
        CalibrationWarning: Observed frequencies deviate from the estimates by more than sampling noise.
    """
    model = PropensityModel() if model is None else model
    floor = propensity_floor(arm.size, n_arms=n_arms) if model.floor is None else model.floor
    supported = _supported(arm, n_arms=n_arms, eligible=eligible)
    prior_variance, logits = model._out_of_fold(context, arm, supported=supported, fold=fold, floor=floor)
    folds = np.unique(fold)
    temperature = np.empty(folds.size)
    probabilities = np.empty(supported.shape)
    for j, k in enumerate(folds):
        others, held_out = fold != k, fold == k
        temperature[j] = _temperature(logits[others], arm=arm[others], supported=supported[others])
        probabilities[held_out] = _softmax(logits[held_out] / temperature[j], supported=supported[held_out])
    checked = calibration(probabilities, arm=arm, eligible=supported, fold=fold)
    if checked.p_value < FALSE_ALARM_RATE:
        warnings.warn(
            f"estimated propensities are off by {checked.expected_calibration_error:.3f} on average where noise would "
            f"explain {checked.noise:.3f} (p = {checked.p_value:.1e}): the logging policy is not a logit of these "
            "features; log propensities, or do not trust estimates that lean on weights",
            CalibrationWarning,
            stacklevel=2,
        )
    row = np.arange(arm.size)
    below = probabilities[row, arm] < floor
    probabilities = floored(probabilities, supported=supported, floor=floor)
    return PropensityEstimate(
        probabilities=probabilities,
        of_logged_arm=np.minimum(probabilities[row, arm], 1.0),  # a row of one arm may sum to 1 + 1e-16
        floor=floor,
        floored_share=float(below.mean()),
        prior_variance=prior_variance,
        temperature=temperature,
        calibration=checked,
    )


@dataclass(frozen=True, kw_only=True)
class Logit:
    """A fitted multinomial logit: `logit(X)` is the unnormalised log-probability of every arm.

    Attributes:
        coef: (n_features, n_arms) slopes, in the features' own units.
        intercept: (n_arms,); minus infinity for an arm that never served.
    """

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def __call__(self, X: Context) -> NDArray[np.float64]:
        """Return the logits, (n_rounds, n_arms)."""
        return affine(X, coef=self.coef, intercept=self.intercept)


class LogitFitter:
    """Fits a multinomial logit to one set of rounds under one prior after another, each starting from the last.

    Args:
        X: Context.
        arm: Logged arm.
        supported: Arms that could have been chosen and ever were.
    """

    def __init__(self, X: Context, arm: ArmIndex, *, supported: Eligible) -> None:
        n_arms = supported.shape[1]
        share = np.bincount(arm, minlength=n_arms) / max(arm.size, 1)
        self.served = np.flatnonzero(share)
        self.n_arms, self.n_features = n_arms, X.shape[1]
        if self.served.size < 2:
            return
        column = np.zeros(n_arms, dtype=np.int64)
        column[self.served] = np.arange(self.served.size)
        self.target, self.mask, share = column[arm], supported[:, self.served], share[self.served]
        self.mean, scale, correlation = _standardisation(X)
        eigenvalues, axes = np.linalg.eigh(correlation)
        self.eigenvalues = np.maximum(eigenvalues, np.finfo(np.float64).eps * self.n_features)
        self.axes = axes / scale[:, None]
        self.components = affine(X, coef=self.axes, intercept=-self.mean @ self.axes)
        self.curvature = share * (1 - share)
        self.theta = np.vstack([np.zeros((self.n_features, self.served.size)), np.log(share)])

    def fit(self, prior_variance: float) -> Logit:
        """Return the posterior mode.

        Parameters are scaled to the curvature they have where slopes are zero, so that L-BFGS starts nearly as well
        conditioned as Newton's method. It stops when no gradient exceeds a tenth of its sampling error.
        """
        from scipy.optimize import minimize

        coef = np.zeros((self.n_features, self.n_arms))
        intercept = np.full(self.n_arms, -np.inf)
        if self.served.size < 2:
            intercept[self.served] = 0.0
            return Logit(coef=coef, intercept=intercept)
        n_rounds = self.target.size
        penalty = 1 / (prior_variance * n_rounds * self.eigenvalues[:, None] ** 2)
        unit = np.vstack(
            [1 / np.sqrt(np.outer(self.eigenvalues, self.curvature) + penalty), 1 / np.sqrt(self.curvature)[None]]
        )
        row = np.arange(n_rounds)

        def loss(scaled: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            theta = scaled.reshape(unit.shape) * unit
            slopes = theta[:-1]
            logits = self.components @ slopes
            logits += theta[-1]
            logits[~self.mask] = -np.inf
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[row, self.target]
            probabilities = np.exp(logits, out=logits)
            total = probabilities.sum(axis=1, keepdims=True)
            value = (np.log(total).sum() - chosen.sum()) / n_rounds + (penalty / 2 * slopes**2).sum()
            probabilities /= total
            probabilities[row, self.target] -= 1
            gradient = np.vstack([self.components.T @ probabilities, probabilities.sum(axis=0)[None]]) / n_rounds
            gradient[:-1] += penalty * slopes
            return float(value), (gradient * unit).ravel()

        solution = minimize(
            loss,
            (self.theta / unit).ravel(),
            jac=True,
            method="L-BFGS-B",
            # In these units a gradient has a sampling error of about 1 / sqrt(n).
            options={"gtol": 0.1 / math.sqrt(n_rounds), "ftol": 0.0, "maxiter": 200},
        )
        self.theta = solution.x.reshape(unit.shape) * unit
        coef[:, self.served] = self.axes @ self.theta[:-1]
        intercept[self.served] = self.theta[-1] - self.mean @ coef[:, self.served]
        return Logit(coef=coef, intercept=intercept)


def _standardisation(X: Context) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, standard deviation (one where it is zero) and correlation matrix of the features."""
    n_rounds, n_features = X.shape
    mean = X.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((n_features, n_features))
    for rows in batches(np.arange(n_rounds), n_features=n_features):
        centred = X[rows] - mean
        covariance += centred.T @ centred / n_rounds
    scale = np.sqrt(np.diag(covariance))
    scale[scale == 0] = 1.0
    return mean, scale, covariance / np.outer(scale, scale)


def _rank_within(fold: ArmIndex, value: PerRound) -> PerRound:
    """Return each round's rank by value among the rounds of its fold, scaled to [0, 1)."""
    order = np.lexsort((value, fold))
    size = np.bincount(fold)
    start = np.cumsum(size) - size
    rank = np.empty(value.size)
    rank[order] = (np.arange(value.size) - start[fold[order]]) / size[fold[order]]
    return rank


def _supported(arm: ArmIndex, *, n_arms: int, eligible: Eligible | None) -> Eligible:
    """Return the eligible arms among those that served at least once."""
    served = np.bincount(arm, minlength=n_arms) > 0
    return np.tile(served, (arm.size, 1)) if eligible is None else eligible & served


def _softmax(logits: NDArray[np.float64], *, supported: Eligible) -> PerArm:
    """Return softmax over the supported arms; all alike where the model knows none of them."""
    logits = np.where(supported, logits, -np.inf)
    top = logits.max(axis=1, keepdims=True)
    logits = np.where(np.isneginf(top) & supported, 0.0, logits - np.where(np.isneginf(top), 0.0, top))
    probabilities = np.exp(logits)
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def _temperature(logits: NDArray[np.float64], *, arm: ArmIndex, supported: Eligible) -> float:
    """Return the T > 0 under which softmax(logits / T) makes the logged arms likeliest.

    The log-likelihood is concave in 1 / T; its slope there is the mean of the logged arm's logit minus its expectation.
    Where no finite T is best, because the logits separate the arms or say nothing, T stays at one.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), ICML.
    """
    from scipy.optimize import brentq

    own = logits[np.arange(arm.size), arm]
    known = np.isfinite(own)  # a fold without one round of some arm gives that arm no logit
    if not known.any():
        return 1.0
    logits, own, supported = logits[known], own[known], supported[known]
    finite = np.where(np.isfinite(logits), logits, 0.0)

    def slope(inverse: float) -> float:
        with np.errstate(invalid="ignore"):
            scaled = np.where(np.isfinite(logits), logits * inverse, -np.inf)
        return float((own - (_softmax(scaled, supported=supported) * finite).sum(axis=1)).mean())

    low, high = 1 / 16, 16.0
    if not (slope(low) > 0 > slope(high)):
        return 1.0
    return float(1 / brentq(slope, low, high, xtol=1e-6))
