"""Propensities where the log has none: estimated out of fold, calibrated, floored in one place, and checked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from pointsman.errors import CalibrationWarning, InvalidParameterError
from pointsman.nuisance.batches import affine, batches
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.types import ArmIndex, Context, Eligible, PerArm, PerRound

PRIOR_VARIANCES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Prior variances to choose from: from no slopes at all to slopes of one logit per standard deviation."""

INDIFFERENT_NATS = 1.0
"""Log-likelihood of all rounds together that is not worth a larger prior variance: slopes of noise gain as much."""

DECISIVE_NATS = 3.0
"""Log-likelihood of all rounds together by which a prior variance is worse beyond doubt: larger ones are not tried."""

NEGLIGIBLE_SHARE = 0.01
"""Principal components are left out of a logit where a prior leaves their slopes less than this share of themselves."""

FALSE_ALARM_RATE = 0.001
"""How often right propensities may draw a CalibrationWarning."""

LARGEST_INVERSE_TEMPERATURE = 16.0
"""Temperatures are looked for between its inverse and itself."""

INVERSE_TEMPERATURE_ERROR = 1e-6
"""How exactly the inverse of a temperature is found."""

BLOCK_ROUNDS = 2048
"""Rounds that a logit is fitted by at a time: their probabilities stay in the cache."""


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
        order = _by_rank_within(fold[rows], p)
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


class _Tried(NamedTuple):
    """A prior variance, its out-of-fold log loss in nats, all rounds together, and what was fitted under it."""

    prior_variance: float
    loss: float
    parameters: dict[int | None, NDArray[np.float64]]


class PropensityModel(BaseEstimator):  # type: ignore[misc]
    """Multinomial logit for the logging policy, over the arms eligible in each round, with a calibrated temperature.

    P(t | x) = exp((b_t + x . w_t) / T) / sum_{s eligible} exp((b_s + x . w_s) / T)

    The likelihood is conditional on the eligible arms of each round: a multinomial logit fitted without regard to them
    and masked afterwards is wrong wherever eligibility varies. On the j-th principal component of the standardised
    features, of variance s_j, slopes have a N(0, prior_variance * s_j^2) prior, its scale the smallest whose
    out-of-fold log loss is within one nat of the least: what moves a logging policy is mostly what moves prompts most.
    (On embeddings of real prompts, 1,890 rounds, 11 arms and a logger that follows the first component, estimates are
    off by 0.015 that way and by 0.024 with the same prior for every component.) Components of which the prior leaves
    nothing are left out (`PrincipalAxes.n_that_matter`). The temperature T then maximises the likelihood of the
    out-of-fold logits. An arm that never served has probability zero.

    Args:
        prior_variances: Prior variances to choose from.
        n_folds: Folds to choose by.
        max_fit_rounds: Rounds, drawn at random, that are fitted to at most: the statistical error of a logit with some
            thousands of parameters is small beside its misspecification long before.
        max_tuning_rounds: The same while choosing the prior variance; later fits start from these.
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
        self.prior_variance_, logits, fitter = self._out_of_fold(
            X, arm, supported=supported, fold=fold, floor=self.floor_
        )
        self.temperature_ = _temperature(logits, arm=arm, supported=supported)
        self.logit_ = fitter.fit(self.prior_variance_)
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
    ) -> tuple[float, NDArray[np.float64], LogitFitter]:
        """Return the prior variance chosen, every round's out-of-fold logits under it, and what fitted them."""
        variances = np.sort(np.asarray(self.prior_variances, dtype=np.float64))
        if variances.size == 0 or not (np.isfinite(variances) & (variances > 0)).all():
            raise InvalidParameterError(f"prior_variances must be finite numbers > 0; got {self.prior_variances}")
        rows = self._subsample(np.arange(arm.size), self.max_fit_rounds)
        fitter = _fitter(X, arm, supported=supported, fold=fold, rows=rows)
        best = float(variances[0])
        if variances.size > 1:
            rows = self._subsample(rows, self.max_tuning_rounds)
            tuner = _fitter(X, arm, supported=supported, fold=fold, rows=rows, axes=fitter.axes)
            best, fitter.parameters = self._least_log_loss(
                tuner, arm[rows], supported=supported[rows], fold=fold[rows], floor=floor, variances=variances
            )
        logits = np.empty(supported.shape)
        for k in np.unique(fold):
            held_out = fold == k
            logits[held_out] = fitter.fit(best, without=int(k))(X[held_out])
        return best, logits, fitter

    def _least_log_loss(
        self,
        tuner: LogitFitter,
        arm: ArmIndex,
        *,
        supported: Eligible,
        fold: ArmIndex,
        floor: float,
        variances: NDArray[np.float64],
    ) -> tuple[float, dict[int | None, NDArray[np.float64]]]:
        """Return the smallest prior variance whose out-of-fold log loss is the least or as good, and its fits.

        Candidates are tried from the smallest up, until the loss has risen.
        """
        tried: list[_Tried] = []
        least = math.inf
        for variance in variances:
            loss = 0.0
            for k in np.unique(fold):
                test = np.flatnonzero(fold == k)
                logits = tuner.fit(variance, without=int(k))(tuner.X[test])
                probabilities = floored(
                    _softmax(logits, supported=supported[test]), supported=supported[test], floor=floor
                )
                loss -= float(np.log(probabilities[np.arange(test.size), arm[test]]).sum())
            tried.append(_Tried(float(variance), loss, dict(tuner.parameters)))
            if loss > least + DECISIVE_NATS:
                break
            least = min(least, loss)
        best = next(each for each in tried if each.loss <= least + INDIFFERENT_NATS)
        return best.prior_variance, best.parameters


def estimate_propensities(
    *,
    context: Context,
    arm: ArmIndex,
    n_arms: int,
    eligible: Eligible | None = None,
    fold: ArmIndex,
    model: PropensityModel | None = None,
) -> PropensityEstimate:
    """Estimate the propensity of every arm in every round, each round by a logit that never saw its arm.

    The slopes that predict a round were fitted on the other folds, and the temperature that calibrates it on the other
    folds' out-of-fold logits. What all folds share is the context's principal axes, which know no arm, and one number:
    the prior variance, one of a handful of values, chosen by the out-of-fold log loss of all.

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
    prior_variance, logits, _ = model._out_of_fold(context, arm, supported=supported, fold=fold, floor=floor)
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


@dataclass(frozen=True, kw_only=True)
class PrincipalAxes:
    """Principal axes of the standardised features, from the largest variance down.

    Attributes:
        mean: (n_features,) mean of the features.
        axes: (n_features, n_axes); centred features times `axes` are the principal components.
        variance: (n_axes,) variances of the components.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def of(cls, X: Context) -> Self:
        """Return the axes of these rounds; products have the features' precision, sums over batches are in float64."""
        n_rounds, n_features = X.shape
        mean = X.sum(axis=0, dtype=np.float64) / max(n_rounds, 1)
        covariance = np.zeros((n_features, n_features))
        for batch in batches(np.arange(n_rounds), n_features=n_features):
            centred = _centred(X[batch[0] : batch[-1] + 1], mean)
            covariance += centred.T @ centred
        covariance /= max(n_rounds, 1)
        scale = np.sqrt(np.diag(covariance))
        rounding = (np.finfo(X.dtype).eps + n_rounds * np.finfo(np.float64).eps) * abs(mean)
        scale[scale <= rounding] = 1.0  # a constant, the mean of which is not exact
        variance, axes = np.linalg.eigh(covariance / np.outer(scale, scale))
        variance = np.maximum(variance, np.finfo(np.float64).eps * n_features)
        return cls(mean=mean, axes=axes[:, ::-1] / scale[:, None], variance=variance[::-1])

    def components(self, X: Context, *, first: int, last: int) -> NDArray[np.float32]:
        """Return components `first` to `last - 1` of every round, (last - first, n_rounds)."""
        centred = _centred(X, self.mean)
        return np.asarray(self.axes[:, first:last].T.astype(centred.dtype) @ centred.T, dtype=np.float32)

    def n_that_matter(self, *, prior_variance: float, n_rounds: int) -> int:
        """Return how many components n rounds can learn a slope of under a prior.

        The slopes of all further ones together add less than `NEGLIGIBLE_SHARE` / n to the prior variance of a logit,
        prior_variance sum_j s_j^3. A posterior mode has less than that share of the slopes that the rounds ask for,
        whatever they ask for: the curvature of the log-likelihood is at most n s_j / 2, that of the prior at least
        n s_j / share.
        """
        of_logit = prior_variance * self.variance**3
        return int(np.count_nonzero(of_logit[::-1].cumsum()[::-1] >= NEGLIGIBLE_SHARE / n_rounds))


@dataclass(kw_only=True)
class _Block:
    """Some rounds of one fold, with as many of their principal components as were asked for so far.

    Attributes:
        fold: The fold.
        rows: Which rounds.
        arm: Their logged arms.
        barred: (n_arms, n_rounds) arms that could not have been chosen; None where there are none.
        components: (n_components, n_rounds).
    """

    fold: int
    rows: NDArray[np.int64]
    arm: ArmIndex
    barred: NDArray[np.bool_] | None
    components: NDArray[np.float32]


class LogitFitter:
    """Fits multinomial logits to rounds, with or without those of a fold, under one prior after another.

    Each fit starts from the last one without the same fold. Principal components that a prior forbids are left out
    (`PrincipalAxes.n_that_matter`); the others are the same for all folds, being made without regard to arms.

    Args:
        X: Context.
        arm: Logged arm.
        supported: Arms that could have been chosen and ever were.
        fold: Fold of each round; needed only to leave one out.
        axes: Principal axes of the features; those of X where None.

    Attributes:
        parameters: By the fold that was left out, what was last fitted: (1 + n_components, n_arms), the intercepts
            above the slopes of the principal components. Those of a fitter with the same axes may be put here.
    """

    def __init__(
        self,
        X: Context,
        arm: ArmIndex,
        *,
        supported: Eligible,
        fold: ArmIndex | None = None,
        axes: PrincipalAxes | None = None,
    ) -> None:
        self.X, self.n_arms = X, supported.shape[1]
        self.axes = PrincipalAxes.of(X) if axes is None else axes
        self.parameters: dict[int | None, NDArray[np.float64]] = {}
        self.blocks = []
        fold = np.zeros(arm.size, dtype=np.int64) if fold is None else fold
        for k in np.unique(fold):
            members = np.flatnonzero(fold == k)
            for first in range(0, members.size, BLOCK_ROUNDS):
                rows = members[first : first + BLOCK_ROUNDS]
                barred = ~supported[rows].T
                self.blocks.append(
                    _Block(
                        fold=int(k),
                        rows=rows,
                        arm=arm[rows],
                        barred=np.ascontiguousarray(barred) if barred.any() else None,
                        components=np.empty((0, rows.size), dtype=np.float32),
                    )
                )

    def fit(self, prior_variance: float, *, without: int | None = None) -> Logit:
        """Return the posterior mode given all rounds, or all but those of one fold.

        Parameters are scaled to the curvature they have where slopes are zero, so that L-BFGS starts nearly as well
        conditioned as Newton's method. It stops when no gradient exceeds a tenth of its sampling error. Logits are in
        float32, sums over rounds in float64.
        """
        from scipy.optimize import minimize

        blocks = [block for block in self.blocks if block.fold != without]
        n_served = sum((np.bincount(block.arm, minlength=self.n_arms) for block in blocks), np.zeros(self.n_arms))
        served = np.flatnonzero(n_served)
        coef = np.zeros((self.X.shape[1], self.n_arms))
        intercept = np.full(self.n_arms, -np.inf)
        if served.size < 2:
            intercept[served] = 0.0
            return Logit(coef=coef, intercept=intercept)
        n_rounds = n_served.sum()
        share = n_served[served] / n_rounds
        n_components = self.axes.n_that_matter(prior_variance=prior_variance, n_rounds=n_rounds)
        self._show(n_components)
        theta = np.vstack([np.log(share), np.zeros((n_components, served.size))])
        before = self.parameters.get(without)
        if before is None and without is None:
            before = next(iter(self.parameters.values()), None)  # no arm has to be kept from this fit
        if before is not None:
            known = before[: 1 + n_components, served]
            theta[: len(known)] = np.where(np.isfinite(known), known, theta[: len(known)])
        variance = self.axes.variance[:n_components, None]
        penalty = 1 / (prior_variance * n_rounds * variance**2)
        curvature = share * (1 - share)
        unit = 1 / np.sqrt(np.vstack([curvature, variance * curvature + penalty]))
        likelihood = _Likelihood(blocks, served=served, n_arms=self.n_arms, n_components=n_components)

        def loss(scaled: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            theta = scaled.reshape(unit.shape) * unit
            value, gradient = likelihood(theta)
            value = value / n_rounds + (penalty / 2 * theta[1:] ** 2).sum()
            gradient /= n_rounds
            gradient[1:] += penalty * theta[1:]
            return float(value), (gradient * unit).ravel()

        solution = minimize(
            loss,
            (theta / unit).ravel(),
            jac=True,
            method="L-BFGS-B",
            # In these units a gradient has a sampling error of about 1 / sqrt(n), and of n rounded logits the mean an
            # error of eps / sqrt(n): a loss that falls by less cannot be told from one that does not.
            options={
                "gtol": 0.1 / math.sqrt(n_rounds),
                "ftol": np.finfo(np.float32).eps / math.sqrt(n_rounds),
                "maxiter": 200,
            },
        )
        theta = solution.x.reshape(unit.shape) * unit
        parameters = np.zeros((1 + n_components, self.n_arms))
        parameters[0] = -np.inf
        parameters[:, served] = theta
        self.parameters[without] = parameters
        coef[:, served] = self.axes.axes[:, :n_components] @ theta[1:]
        intercept[served] = theta[0] - self.axes.mean @ coef[:, served]
        return Logit(coef=coef, intercept=intercept)

    def _show(self, n_components: int) -> None:
        """See to it that every block has the first `n_components` components."""
        for block in self.blocks:
            present = len(block.components)
            if present < n_components:
                more = self.axes.components(self.X[block.rows], first=present, last=n_components)
                block.components = np.concatenate([block.components, more])


class _Likelihood:
    """Negative log-likelihood of a multinomial logit on blocks of rounds, and its gradient.

    Args:
        blocks: The rounds.
        served: Arms of which they have any.
        n_arms: Number of arms.
        n_components: Principal components to use.
    """

    def __init__(self, blocks: Sequence[_Block], *, served: NDArray[np.int64], n_arms: int, n_components: int) -> None:
        place = np.zeros(n_arms, dtype=np.int64)
        place[served] = np.arange(served.size)
        self.parts = [
            (
                block.components[:n_components],
                place[block.arm],
                np.arange(block.arm.size),
                None if block.barred is None else block.barred[served],
            )
            for block in blocks
        ]

    def __call__(self, theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return value and gradient at intercepts theta[0] and slopes theta[1:]."""
        intercepts, slopes = theta[0, :, None].astype(np.float32), theta[1:].T.astype(np.float32)
        value, gradient = 0.0, np.zeros_like(theta)
        for components, arm, column, barred in self.parts:
            logits = slopes @ components
            logits += intercepts
            if barred is not None:
                logits[barred] = -np.inf
            logits -= logits.max(axis=0)
            value -= float(logits[arm, column].sum(dtype=np.float64))
            probabilities = np.exp(logits, out=logits)
            total = probabilities.sum(axis=0)
            value += float(np.log(total).sum(dtype=np.float64))
            probabilities /= total
            probabilities[arm, column] -= 1
            gradient[0] += probabilities.sum(axis=1, dtype=np.float64)
            gradient[1:] += components @ probabilities.T
        return value, gradient


def _centred(X: Context, mean: NDArray[np.float64]) -> Context:
    """Return X - mean in the precision of X, which is float32 at least."""
    precision = np.result_type(X.dtype, np.float32)
    return np.asarray(X - mean.astype(precision), dtype=precision)


def _by_rank_within(fold: ArmIndex, probability: PerRound) -> NDArray[np.int64]:
    """Return the rounds in the order of their ranks by probability among the rounds of their fold, scaled to [0, 1)."""
    by_fold = np.argsort(fold + probability / 2, kind="stable")  # a half of it keeps folds apart
    size = np.bincount(fold)
    start = np.cumsum(size) - size
    member = fold[by_fold]
    rank = (np.arange(fold.size) - start[member]) / size[member]
    return np.asarray(by_fold[np.argsort(rank, kind="stable")])  # a stable sort makes use of ascending runs


def _fitter(
    X: Context,
    arm: ArmIndex,
    *,
    supported: Eligible,
    fold: ArmIndex,
    rows: NDArray[np.int64],
    axes: PrincipalAxes | None = None,
) -> LogitFitter:
    """Return a fitter for these rounds; without a copy of X where they are all."""
    if rows.size < arm.size:
        X, arm, supported, fold = X[rows], arm[rows], supported[rows], fold[rows]
    return LogitFitter(X, arm, supported=supported, fold=fold, axes=axes)


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
    own = logits[np.arange(arm.size), arm]
    known = np.isfinite(own)  # a fold without one round of some arm gives that arm no logit
    if not known.any():
        return 1.0
    # So low that the arm's probability is zero, yet finite: zero times it is zero.
    none = np.finfo(np.float64).min / (2 * LARGEST_INVERSE_TEMPERATURE)
    logits = np.where(supported[known] & np.isfinite(logits[known]), logits[known], none)
    logits = np.ascontiguousarray((logits - logits.max(axis=1, keepdims=True)).T)
    own = logits[arm[known], np.arange(logits.shape[1])]

    def slope(inverse: float) -> tuple[float, float]:
        """Return the slope of the mean log-likelihood, and minus its derivative."""
        share = np.exp(inverse * logits)
        share /= share.sum(axis=0)
        share *= logits
        mean = share.sum(axis=0)
        share *= logits
        return float((own - mean).mean()), float((share.sum(axis=0) - mean**2).mean())

    low, high = 1 / LARGEST_INVERSE_TEMPERATURE, LARGEST_INVERSE_TEMPERATURE
    inverse = 1.0
    while high - low > INVERSE_TEMPERATURE_ERROR:
        rise, curvature = slope(inverse)
        low, high = (inverse, high) if rise > 0 else (low, inverse)
        newton = inverse + rise / curvature if curvature > 0 else math.inf
        if abs(newton - inverse) <= INVERSE_TEMPERATURE_ERROR:
            return 1 / newton
        inverse = newton if low < newton < high else (low + high) / 2
    at_an_end = low == 1 / LARGEST_INVERSE_TEMPERATURE or high == LARGEST_INVERSE_TEMPERATURE
    return 1.0 if at_an_end else 1 / inverse
