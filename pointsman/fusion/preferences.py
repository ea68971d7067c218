"""Win rates from pairwise votes: how often each arm's answer would be preferred, prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from pointsman.errors import InvalidParameterError, NotFittedError
from pointsman.nuisance.batches import affine
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.nuisance.propensity import PrincipalAxes
from pointsman.types import ArmIndex, Context, PerArm, PerRound

INTERCEPT_VARIANCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Prior variances of an arm's mean log-strength to choose from, in squared logits."""

SLOPE_VARIANCES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Prior variances over prompts of an arm's log-strength to choose from, in squared logits; 0 is no slopes."""

DECISIVE_NATS = 3.0
"""Log-likelihood of all votes together by which a prior variance is worse beyond doubt: larger ones are not tried."""

SMALLEST_COMPONENT = 1e-9
"""Variance, of standardised features, under which a principal component is rounding."""

MAX_PARAMETERS = 2048
"""Slopes and intercepts together: with many arms there are fewer components, or a Newton step would take seconds."""

NEWTON_NATS = 1e-8
"""A fit stops after a step that promised less: parameters are then far within 1e-4 standard errors of the mode."""

TUNING_NATS = 0.01
"""The same while choosing a prior, where a nat of all votes together decides."""

MAX_STEPS = 50
MAX_HALVINGS = 30


class WinRates(BaseEstimator):  # type: ignore[misc]
    """Contextual Bradley-Terry model of pairwise votes, with the prior that predicts held-out votes best.

        P(a beats b | x) = 1 / (1 + exp(u_b(x) - u_a(x))),    u_t(x) = b_t + z(x) . w_t

    u_t is arm t's log-strength. What all arms have in common cancels, so there is no shared part. z are the leading
    principal components of the standardised context, scaled together so that their variances add up to one;
    b_t ~ N(0, intercept variance) and w_t ~ N(0, slope variance I), so the slope variance is the variance over prompts
    of an arm's log-strength. Both are chosen by out-of-fold log loss: the first without slopes, then the second.
    The mode is found by Newton's method.

    A vote may be any number in [0, 1]; a tie is 0.5. The log loss of such a vote is least, in expectation, at the
    expected vote, so this is a quasi-likelihood for E[vote | a, b, x], in which a tie is half a win: the win rate asked
    for. The models of Rao and Kupper and of Davidson have a parameter more, for how often ties happen, which would be
    of no use here, and none for votes that are averages.

    An arm without votes is as strong as the mean of all arms. Every vote is looked at from the arm of the lower index,
    so swapping a and b, with the vote mirrored, changes nothing.

    Args:
        intercept_variances: Prior variances of the intercepts to choose from, each > 0.
        slope_variances: Prior variances of the slopes to choose from, each >= 0.
        n_components: Principal components at most; fewer where arms are so many that there would be more than
            `MAX_PARAMETERS` parameters.
        n_folds: Folds to choose by.
        max_tuning_votes: Votes, drawn at random, to choose by at most. Prior variances are properties of arms and
            prompts, so what is best for these votes is for all.
        seed: Draws folds and subsample.

    Attributes:
        coef_: (n_arms, n_features) slopes, in the features' own units.
        intercept_: (n_arms,).
        intercept_variance_: The prior variance of intercepts chosen.
        slope_variance_: That of slopes.
        n_votes_: (n_arms,) votes each arm took part in.

    References:
        Bradley and Terry (1952), Biometrika 39(3/4). Ties: Rao and Kupper (1967), JASA 62(317); Davidson (1970), JASA
        65(329). Fractional outcomes: Papke and Wooldridge (1996), Journal of Applied Econometrics 11(6).
    """

    def __init__(
        self,
        *,
        intercept_variances: Sequence[float] = INTERCEPT_VARIANCES,
        slope_variances: Sequence[float] = SLOPE_VARIANCES,
        n_components: int = 32,
        n_folds: int = 5,
        max_tuning_votes: int = 20_000,
        seed: int = 0,
    ) -> None:
        self.intercept_variances = intercept_variances
        self.slope_variances = slope_variances
        self.n_components = n_components
        self.n_folds = n_folds
        self.max_tuning_votes = max_tuning_votes
        self.seed = seed

    if not TYPE_CHECKING:  # or a type checker would take every misspelt attribute for a fitted one

        def __getattr__(self, attribute: str) -> NoReturn:
            if attribute.endswith("_") and not attribute.startswith("_"):
                raise NotFittedError(f"WinRates.{attribute} is there only after fit: call fit first")
            raise AttributeError(f"'WinRates' object has no attribute {attribute!r}")

    def fit(
        self,
        context: Context,
        preference: PerRound,
        *,
        arm_a: ArmIndex,
        arm_b: ArmIndex,
        n_arms: int,
        sample_weight: PerRound | None = None,
        group: NDArray[np.int64] | None = None,
    ) -> Self:
        """Learn the arms' strengths from votes.

        Args:
            context: (n_votes, n_features) features of each vote's prompt.
            preference: (n_votes,) how far arm a was preferred, in [0, 1]; 0.5 is a tie.
            arm_a: (n_votes,) one arm.
            arm_b: (n_votes,) the other; a vote on an arm against itself teaches nothing.
            n_arms: Number of arms, at least 2.
            sample_weight: (n_votes,) weight of each vote, >= 0; one where None.
            group: (n_votes,) label of the prompt: votes on one prompt share a fold; each has its own where None.

        Raises:
            InvalidParameterError: A vote, weight or arm is outside its range, lengths differ, an option breaks its
                rule, or no vote is on two different arms.
        """
        weight = np.ones(len(preference)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        preference = np.asarray(preference, dtype=np.float64)
        self._check(context, preference, weight, arm_a=arm_a, arm_b=arm_b, n_arms=n_arms)
        telling = (arm_a != arm_b) & (weight > 0)
        if not telling.any():
            raise InvalidParameterError(
                f"votes must be on two different arms, at least one of them, with a weight > 0; got none among "
                f"{preference.size}; give votes that compare arms"
            )
        if not telling.all():
            context, preference, weight = context[telling], preference[telling], weight[telling]
            arm_a, arm_b = arm_a[telling], arm_b[telling]
            group = None if group is None else group[telling]
        self.n_votes_ = np.bincount(arm_a, minlength=n_arms) + np.bincount(arm_b, minlength=n_arms)

        axes = PrincipalAxes.of(context)
        at_most = min(self.n_components, MAX_PARAMETERS // n_arms - 1)
        n_components = max(0, min(at_most, int(np.count_nonzero(axes.variance > SMALLEST_COMPONENT))))
        scale = 1 / math.sqrt(axes.variance[:n_components].sum()) if n_components else 1.0
        features = np.ones((preference.size, 1 + n_components))
        features[:, 1:] = axes.components(context, first=0, last=n_components).T
        features[:, 1:] *= scale
        votes = _Votes(
            features=features,
            low=np.minimum(arm_a, arm_b),
            high=np.maximum(arm_a, arm_b),
            outcome=np.where(arm_a > arm_b, 1 - preference, preference),
            weight=weight,
        )
        prior = self._chosen(votes, group, n_arms=n_arms)
        self.intercept_variance_, self.slope_variance_ = prior
        strengths = _Fitter(votes, n_arms=n_arms).mode(prior)
        slopes = axes.axes[:, : strengths.shape[1] - 1] * scale @ strengths[:, 1:].T
        self.coef_ = np.ascontiguousarray(slopes.T)
        self.intercept_ = strengths[:, 0] - self.coef_ @ axes.mean
        return self

    def predict(self, context: Context) -> PerArm:
        """Return each arm's win rate against the others, (n_rounds, n_arms), in [0, 1].

        It is the mean over the other arms of the probability to beat them, ties half a win; over all arms win rates
        average 0.5.
        """
        from scipy.special import expit

        strength = self.log_strength(context)
        n_arms = strength.shape[1]
        wins = np.zeros_like(strength)
        for t in range(n_arms):
            wins += expit(strength - strength[:, t, None])
        wins -= 0.5  # against itself
        return np.asarray(np.clip(wins / (n_arms - 1), 0.0, 1.0))

    def predict_pair(self, context: Context, *, arm_a: ArmIndex, arm_b: ArmIndex) -> PerRound:
        """Return the expected vote for arm a over arm b, (n_rounds,), in [0, 1]: a tie is half a win."""
        from scipy.special import expit

        strength, row = self.log_strength(context), np.arange(len(context))
        return np.asarray(expit(strength[row, arm_a] - strength[row, arm_b]))

    def log_strength(self, context: Context) -> PerArm:
        """Return u_t(x) for every arm, (n_rounds, n_arms), in logits; only differences of arms mean something."""
        return affine(context, coef=self.coef_.T, intercept=self.intercept_)

    def _check(
        self,
        context: Context,
        preference: PerRound,
        weight: PerRound,
        *,
        arm_a: ArmIndex,
        arm_b: ArmIndex,
        n_arms: int,
    ) -> None:
        lengths = {"context": len(context), "arm_a": len(arm_a), "arm_b": len(arm_b), "sample_weight": len(weight)}
        for name, length in lengths.items():
            if length != preference.size:
                raise InvalidParameterError(f"{name} must have one row a vote, {preference.size}; got {length}")
        if n_arms < 2:
            raise InvalidParameterError(f"n_arms must be at least 2; got {n_arms}")
        for name, arm in (("arm_a", arm_a), ("arm_b", arm_b)):
            outside = (arm < 0) | (arm >= n_arms)
            if outside.any():
                raise InvalidParameterError(f"{name} must be in [0, {n_arms}); got {arm[outside][0]}")
        for name, values, top in (("preference", preference, 1.0), ("sample_weight", weight, np.finfo(np.float64).max)):
            outside = ~((values >= 0) & (values <= top))  # true for NaN as well
            if outside.any():
                rule = "in [0, 1]" if top == 1.0 else "finite and not negative"
                raise InvalidParameterError(f"{name} must be {rule}; got {values[outside][0]}; leave that vote out")
        for name, variances in (
            ("intercept_variances", self.intercept_variances),
            ("slope_variances", self.slope_variances),
        ):
            least = "> 0" if name == "intercept_variances" else ">= 0"
            valid = [math.isfinite(each) and (each > 0 or (each == 0 and least == ">= 0")) for each in variances]
            if not valid or not all(valid):
                raise InvalidParameterError(f"{name} must be one or more finite numbers {least}; got {variances}")

    def _chosen(self, votes: _Votes, group: NDArray[np.int64] | None, *, n_arms: int) -> _Prior:
        """Return the prior of the least out-of-fold log loss; the narrowest where there are no two folds."""
        intercepts, slopes = sorted(self.intercept_variances), sorted(self.slope_variances)
        rows = np.arange(votes.outcome.size)
        if rows.size > self.max_tuning_votes:
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, self.max_tuning_votes, replace=False))
        member = rows if group is None else group[rows]
        n_folds = min(self.n_folds, np.unique(member).size)
        if n_folds < 2:
            return _Prior(intercepts[0], slopes[0])
        fold = assign_folds(rows.size, n_folds=n_folds, seed=self.seed, groups=member)
        splits = [
            (_Fitter(votes.take(rows[fold != k]), n_arms=n_arms), votes.take(rows[fold == k])) for k in range(n_folds)
        ]

        def loss(prior: _Prior) -> float:
            return sum(held_out.loss(fitter.mode(prior, within_nats=TUNING_NATS)) for fitter, held_out in splits)

        intercept = _least(intercepts, lambda variance: loss(_Prior(variance, 0.0)))
        return _Prior(intercept, _least(slopes, lambda variance: loss(_Prior(intercept, variance))))


class _Prior(NamedTuple):
    """Prior variances, in squared logits."""

    intercept: float
    slope: float


def _least(candidates: Sequence[float], loss_of: Callable[[float], float]) -> float:
    """Return the candidate of least loss, the first of equals; tried in order until the loss has clearly risen."""
    best, least = candidates[0], math.inf
    for candidate in candidates:
        loss = loss_of(candidate)
        if loss < least:
            best, least = candidate, loss
        elif loss > least + DECISIVE_NATS:
            break
    return best


@dataclass(frozen=True, kw_only=True, eq=False)
class _Votes:
    """Votes on two different arms, each looked at from the arm of the lower index.

    Attributes:
        features: (n_votes, 1 + n_components) a one, then the components.
        low: (n_votes,) the arm of the lower index.
        high: (n_votes,) the other.
        outcome: (n_votes,) how far the former was preferred.
        weight: (n_votes,).
    """

    features: NDArray[np.float64]
    low: ArmIndex
    high: ArmIndex
    outcome: PerRound
    weight: PerRound

    def take(self, rows: NDArray[np.int64]) -> _Votes:
        """Return these votes, in this order."""
        return _Votes(
            features=self.features[rows],
            low=self.low[rows],
            high=self.high[rows],
            outcome=self.outcome[rows],
            weight=self.weight[rows],
        )

    def loss(self, strengths: NDArray[np.float64]) -> float:
        """Return the log loss in nats, all votes together, of strengths (n_arms, n_features)."""
        strength = self.features[:, : strengths.shape[1]] @ strengths.T
        row = np.arange(self.outcome.size)
        return _log_loss(strength[row, self.low] - strength[row, self.high], self.outcome, self.weight)


def _log_loss(logit: PerRound, outcome: PerRound, weight: PerRound) -> float:
    return float(weight @ (np.logaddexp(0, logit) - outcome * logit))


class _Posterior(NamedTuple):
    """Minus the log posterior at some strengths, and its first two derivatives."""

    value: float
    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]


class _Fitter:
    """Finds the strengths of highest posterior, under one prior after another; each fit starts from the last one.

    Args:
        votes: The votes.
        n_arms: Number of arms.
    """

    def __init__(self, votes: _Votes, *, n_arms: int) -> None:
        self.n_arms = n_arms
        self.strengths = np.zeros((n_arms, 1))
        pair = votes.low * n_arms + votes.high
        order = np.argsort(pair, kind="stable")
        # Sorted, the votes of a pair are a slice: what they add to the derivatives is a product of matrices.
        self.votes = votes.take(order)
        start = np.flatnonzero(np.diff(pair[order], prepend=-1))
        ends = np.append(start[1:], order.size)
        self.pairs = [
            (int(self.votes.low[i]), int(self.votes.high[i]), slice(i, j)) for i, j in zip(start, ends, strict=True)
        ]

    def mode(self, prior: _Prior, *, within_nats: float = NEWTON_NATS) -> NDArray[np.float64]:
        """Return the strengths of highest posterior, (n_arms, n_features), or (n_arms, 1) where slopes have no room."""
        from scipy.linalg import cho_factor, cho_solve

        n_features = self.votes.features.shape[1] if prior.slope > 0 else 1
        strengths = np.zeros((self.n_arms, n_features))
        known = self.strengths[:, :n_features]
        strengths[:, : known.shape[1]] = known
        precision = np.full(n_features, 1 / prior.slope if prior.slope > 0 else 0.0)
        precision[0] = 1 / prior.intercept
        here = self._posterior(strengths, precision)
        for _ in range(MAX_STEPS):
            step = cho_solve(cho_factor(here.hessian, check_finite=False), here.gradient).reshape(strengths.shape)
            promised = float(here.gradient @ step.ravel()) / 2
            for halving in range(MAX_HALVINGS):
                trial = strengths - step / 2**halving
                there = self._posterior(trial, precision)
                if there.value <= here.value:
                    break
            else:  # rounding hides what is left to gain
                break
            strengths, here = trial, there
            if promised < within_nats:
                break
        self.strengths = strengths
        return strengths

    def _posterior(self, strengths: NDArray[np.float64], precision: NDArray[np.float64]) -> _Posterior:
        from scipy.special import expit

        n_arms, n_features = strengths.shape
        value = float((precision * strengths**2).sum()) / 2
        gradient = precision * strengths
        hessian = np.zeros((n_arms, n_features, n_arms, n_features))
        for t in range(n_arms):
            np.fill_diagonal(hessian[t, :, t], precision)
        for low, high, rows in self.pairs:
            features = self.votes.features[rows, :n_features]
            outcome, weight = self.votes.outcome[rows], self.votes.weight[rows]
            logit = features @ (strengths[low] - strengths[high])
            value += _log_loss(logit, outcome, weight)
            chance = expit(logit)
            slope = features.T @ (weight * (chance - outcome))
            gradient[low] += slope
            gradient[high] -= slope
            curvature = features.T @ (features * (weight * chance * (1 - chance))[:, None])
            hessian[low, :, low] += curvature
            hessian[high, :, high] += curvature
            hessian[low, :, high] -= curvature
            hessian[high, :, low] -= curvature
        size = n_arms * n_features
        return _Posterior(value, gradient.ravel(), hessian.reshape(size, size))
