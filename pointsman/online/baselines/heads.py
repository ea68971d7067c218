"""What the linear baselines learn of every arm: a regression of quality and one of cost, apart from all other arms."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.base import ArmPrior, Vector
from pointsman.online.posterior import LinearPosterior
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, PerRound, under

ONE = np.ones(1)

PRIOR_QUALITY = 0.7
"""What an answer is expected to be worth before any was seen: a little hope, so that every arm is tried."""
MEAN_VARIANCE = 0.08
"""Prior variance of an arm's mean quality."""
SLOPE_VARIANCE = 0.2
"""Prior variance of an arm's slopes, shared out among them."""
NOISE = 0.1
"""Variance of a quality about its expectation."""
COST_VARIANCE = 0.5
"""Prior variance of a relative cost's mean, and of its slopes, shared out among them."""
COST_NOISE = 0.5
"""Variance of a relative cost about its expectation."""
LEAST_RELATIVE_COST = 0.02
"""No call is expected to cost less than this share of an arm's first."""


class ArmHeads:
    """Two Gaussian linear regressions an arm on z, nothing shared between arms.

        quality_t(z) = a_t + z . w_t,    cost_t(z) = unit_t (1 + b_t + z . k_t)

    As both are learned apart, one set of heads serves every trade-off: at lambda an arm's utility has the mean
    quality - lambda cost and the variance of both. At a fixed lambda that is the regression of the utility itself, as
    ridge regression is linear in its outcomes, with a penalty of its own for each; where lambda differs from request to
    request, a regression of the utility would mix them.

    Args:
        n_arms: Number of arms.
        n_columns: Entries of z.

    Attributes:
        quality: A posterior an arm.
        cost: A posterior an arm, of cost / unit - 1.
        unit_usd: (n_arms,) first positive cost of every arm, zero where it was free so far; NaN where none was seen.
        cost_factor: (n_arms,) price today over the price that costs were learned at.
    """

    def __init__(self, *, n_arms: int, n_columns: int) -> None:
        self.n_columns = n_columns
        self.quality = [self._quality_head() for _ in range(n_arms)]
        self.cost = [self._cost_head() for _ in range(n_arms)]
        self.unit_usd = np.full(n_arms, np.nan)
        self.cost_factor = np.ones(n_arms)

    def utility(self, z: Vector, trade_off: TradeOff) -> tuple[Vector, Vector]:
        """Return the mean and the variance, (n_arms,) each, of every arm's utility; of its quality until costs come."""
        row = np.concatenate([ONE, z])
        rate = trade_off.quality_per_usd
        is_free = rate == 0 or not np.isfinite(self.unit_usd).any()
        if is_free or not math.isinf(rate):
            mean, variance = _predict(self.quality, row)
            if is_free:
                return mean, variance
        relative, doubt = _predict(self.cost, row)
        unit = np.where(np.isnan(self.unit_usd), np.nanmean(self.unit_usd), self.unit_usd) * self.cost_factor
        cost_usd = unit * np.maximum(1 + relative, LEAST_RELATIVE_COST)
        if math.isinf(rate):
            return -cost_usd, doubt * unit**2
        return mean - rate * cost_usd, variance + doubt * (rate * unit) ** 2

    def learn(self, z: Vector, arm: int, *, quality: float, cost_usd: float, weight: float) -> None:
        """Learn from one answer; what is NaN is not known. The cost is at the price the arm had to begin with."""
        row = [(slice(0, self.n_columns + 1), np.concatenate([ONE, z]))]
        if not math.isnan(quality):
            self.quality[arm].update(row, quality, weight=weight)
        if math.isnan(cost_usd):
            return
        if not self.unit_usd[arm] > 0:
            self.unit_usd[arm] = cost_usd
        if self.unit_usd[arm] > 0:
            self.cost[arm].update(row, cost_usd / self.unit_usd[arm] - 1)

    def learn_many(
        self, z: Context, arm: NDArray[np.int64], *, quality: PerRound, cost_usd: PerRound, weight: PerRound
    ) -> None:
        """Learn from many answers at once: the same as one by one."""
        rows = np.column_stack([np.ones(len(z)), z])
        for t in np.unique(arm):
            mine = arm == t
            known = mine & ~np.isnan(quality)
            self.quality[t].update_many(rows[known], quality[known], weight[known])
            known = mine & ~np.isnan(cost_usd)
            if known.any() and not self.unit_usd[t] > 0:
                positive = cost_usd[known & (cost_usd > 0)]
                self.unit_usd[t] = positive[0] if positive.size else 0.0
            if self.unit_usd[t] > 0:
                relative = cost_usd[known] / self.unit_usd[t] - 1
                self.cost[t].update_many(rows[known], relative, np.ones(relative.size))

    def set_price(self, arm: int, factor: float) -> None:
        """Take an arm's price to be so many times that of the beginning."""
        if not (math.isfinite(factor) and factor >= 0):
            raise InvalidParameterError(f"factor must be a finite number >= 0; got {factor}")
        self.cost_factor[arm] = factor

    def at_first_price(self, arm: int, cost_usd: float) -> float:
        """Return a cost at the price its arm had to begin with; NaN where it is free now, which says nothing."""
        factor = self.cost_factor[arm]
        return float(cost_usd / factor) if factor > 0 else math.nan

    def add_arm(self, prior: ArmPrior | None) -> int:
        """Take in a new arm, as the last, and return its index.

        z is centred, so an arm's mean is its intercept. An arm that is `like` another starts from that one's
        coefficients. The prior variance V becomes V / (1 + n V / noise), which n answers would have made of it.
        """
        quality, cost, unit = self._quality_head(), self._cost_head(), math.nan
        if prior is not None:
            quality = _informed(
                quality,
                mean=_mean_of(self.quality, prior.like) if prior.quality is None else prior.quality,
                like=None if prior.like is None else self.quality[prior.like],
                n_rounds=prior.n_rounds,
            )
            like = prior.like if prior.like is not None and np.isfinite(self.unit_usd[prior.like]) else None
            unit = math.nan if like is None else float(self.unit_usd[like] * self.cost_factor[like])
            if prior.cost_usd is not None:
                unit = prior.cost_usd
            if unit > 0:
                cost = _informed(
                    cost,
                    mean=0.0 if prior.cost_usd is not None or like is None else float(self.cost[like].mean[0]),
                    like=None if like is None else self.cost[like],
                    n_rounds=prior.n_rounds,
                )
        self.quality.append(quality)
        self.cost.append(cost)
        self.unit_usd = np.append(self.unit_usd, unit)
        self.cost_factor = np.append(self.cost_factor, 1.0)
        return len(self.quality) - 1

    def restarted(self) -> ArmHeads:
        """Return heads that have seen no answer, for a z that means something else: priors, prices and units stay."""
        heads = ArmHeads(n_arms=0, n_columns=self.n_columns)
        heads.quality = [_restarted(each) for each in self.quality]
        heads.cost = [_restarted(each) for each in self.cost]
        heads.unit_usd, heads.cost_factor = self.unit_usd.copy(), self.cost_factor.copy()
        return heads

    def state(self) -> Arrays:
        """Return all that `from_state` needs."""
        arrays: Arrays = {"unit_usd": self.unit_usd, "cost_factor": self.cost_factor}
        for name, posteriors in (("quality", self.quality), ("cost", self.cost)):
            for arm, posterior in enumerate(posteriors):
                arrays |= {f"{name}.{arm}.{key}": array for key, array in posterior.state().items()}
        return arrays

    @classmethod
    def from_state(cls, arrays: Arrays) -> Self:
        """Return the heads that `state` described."""
        heads = cls(n_arms=0, n_columns=0)
        heads.unit_usd, heads.cost_factor = arrays["unit_usd"].copy(), arrays["cost_factor"].copy()
        n_arms = heads.unit_usd.size
        heads.quality = [LinearPosterior.from_state(under(f"quality.{arm}.", arrays)) for arm in range(n_arms)]
        heads.cost = [LinearPosterior.from_state(under(f"cost.{arm}.", arrays)) for arm in range(n_arms)]
        heads.n_columns = heads.quality[0].mean.size - 1
        return heads

    def _quality_head(self) -> LinearPosterior:
        mean = np.concatenate([[PRIOR_QUALITY], np.zeros(self.n_columns)])
        return LinearPosterior(_variances(MEAN_VARIANCE, SLOPE_VARIANCE, self.n_columns), noise=NOISE, prior_mean=mean)

    def _cost_head(self) -> LinearPosterior:
        return LinearPosterior(_variances(COST_VARIANCE, COST_VARIANCE, self.n_columns), noise=COST_NOISE)


def _variances(mean: float, slopes: float, n_columns: int) -> Vector:
    return np.concatenate([[mean], np.full(n_columns, slopes / max(n_columns, 1))])


def _predict(posteriors: list[LinearPosterior], row: Vector) -> tuple[Vector, Vector]:
    mean = np.array([float(row @ posterior.mean) for posterior in posteriors])
    variance = np.array([float(row @ posterior.covariance @ row) for posterior in posteriors])
    return mean, np.maximum(variance, 0.0)


def _mean_of(posteriors: list[LinearPosterior], like: int | None) -> float:
    means = [float(posterior.mean[0]) for posterior in posteriors]
    return means[like] if like is not None else float(np.mean(means))


def _informed(head: LinearPosterior, *, mean: float, like: LinearPosterior | None, n_rounds: float) -> LinearPosterior:
    prior_mean = head.prior_mean.copy() if like is None else like.mean.copy()
    prior_mean[0] = mean
    variance = head.prior_variance.copy()
    told = slice(0, 1) if like is None else slice(None)
    variance[told] /= 1 + n_rounds * head.prior_variance[told] / head.noise
    return LinearPosterior(variance, noise=head.noise, prior_mean=prior_mean)


def _restarted(head: LinearPosterior) -> LinearPosterior:
    prior_mean = head.prior_mean.copy()
    prior_mean[1:] = 0.0
    return LinearPosterior(head.prior_variance, noise=head.noise, prior_mean=prior_mean)
