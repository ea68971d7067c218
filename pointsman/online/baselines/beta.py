"""Beta-Thompson: each arm's success rate for each type of request, blind to anything else about the prompt."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.base import ArmPrior, OnlinePolicy, Vector
from pointsman.online.baselines.linear import check_ranges, largest_probabilities
from pointsman.online.draw import NODES, explored, shares_of_largest
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, State

LEARN_TYPES_AT = 256
"""Contexts from which the types of requests are learned; until then all are of one type."""
PRIOR_QUALITY, PRIOR_ANSWERS = 0.7, 2.0
"""What an answer is expected to be worth before any was seen, and how many answers that belief is worth."""


class BetaThompson(OnlinePolicy):
    """Every arm with the probability that its success rate, less what its mean cost is worth, is the largest.

        theta_gt ~ Beta(a_gt, b_gt) for type g and arm t;  an answer adds q to a and 1 - q to b

    Types are clusters of the context (k-means), learned from the first `LEARN_TYPES_AT` prompts and then kept. That is
    how LiteLLM's adaptive router learns, with its rules for seven types of requests replaced by clusters, cost at the
    request's trade-off in place of its fixed score, and the probability of each draw in closed form.

    Args:
        n_arms: Number of arms.
        n_features: Of the context.
        n_types: Types of requests; with one, the context is not looked at.
        exploration: Factor on the standard deviations, >= 0.01: answers count 1 / exploration^2; 1 is Thompson
            sampling.
        floor: Probability spread evenly over the eligible arms, in [0, 1).

    References:
        Thompson (1933), Biometrika 25; Chapelle and Li (2011), NeurIPS: Beta-Thompson in practice.
    """

    name = "beta-thompson"

    def __init__(
        self, *, n_arms: int, n_features: int, n_types: int = 7, exploration: float = 0.5, floor: float = 0.02
    ) -> None:
        check_ranges(
            floor=(floor, 0, 1), n_types=(n_types, 1, LEARN_TYPES_AT), exploration=(exploration, 0.01, math.inf)
        )
        self.n_arms, self.n_features, self.n_types = n_arms, n_features, n_types
        self.exploration, self.floor = exploration, floor
        self.centers = np.zeros((1, n_features))
        self.prior = np.tile(PRIOR_ANSWERS * np.array([PRIOR_QUALITY, 1 - PRIOR_QUALITY]), (n_arms, 1))
        self.prior_cost = np.zeros((n_arms, 2))
        self.cost_factor = np.ones(n_arms)
        self._seen: list[tuple[Vector, int, float, float, float]] = []
        self._start()

    def _start(self) -> None:
        """Know nothing but the prior: (n_types, n_arms, 2) successes and failures; sums and numbers of costs."""
        n_types = len(self.centers)
        self.answers = np.tile(self.prior, (n_types, 1, 1))
        self.costs = np.tile(self.prior_cost, (n_types, 1, 1))

    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return Thompson's probabilities for requests of this type, above the floor."""
        answers, cost_usd = self.answers[self._type(context)], self._cost_usd(context)
        if math.isinf(trade_off.quality_per_usd):
            best = largest_probabilities(-cost_usd, eligible)
        else:
            answers = answers / self.exploration**2
            best = best_beta_probabilities(answers, trade_off.quality_per_usd * cost_usd, eligible)
        return explored(best, eligible=eligible, floor=self.floor)

    def update(
        self,
        context: Vector,
        arm: int,
        *,
        quality: float = math.nan,
        cost_usd: float = math.nan,
        trade_off: TradeOff | None = None,
        weight: float = 1.0,
    ) -> None:
        """Learn quality and cost, whichever is known, whatever the trade-off was."""
        del trade_off
        factor = self.cost_factor[arm]
        cost_usd = cost_usd / factor if factor > 0 else math.nan
        if len(self.centers) < self.n_types:
            if len(self._seen) == LEARN_TYPES_AT:
                self._learn_types()
            else:
                self._seen.append((np.asarray(context, dtype=np.float64), arm, quality, cost_usd, weight))
        self._count(context, arm, quality, cost_usd, weight)

    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Take in a new arm. One that is `like` another is expected to do as that one does, type by type."""
        answers = np.array([PRIOR_ANSWERS * PRIOR_QUALITY, PRIOR_ANSWERS * (1 - PRIOR_QUALITY)])
        cost, per_type = np.zeros(2), None
        if prior is not None:
            like = slice(None) if prior.like is None else slice(prior.like, prior.like + 1)
            known = self.answers[:, like].sum(axis=(0, 1))
            expected = known[0] / known.sum() if prior.quality is None else prior.quality
            if prior.like is not None and prior.quality is None:
                per_type = self.answers[:, prior.like, 0] / self.answers[:, prior.like].sum(axis=1)
            n = max(prior.n_rounds, PRIOR_ANSWERS)
            # Neither count may be zero: a Beta distribution has none.
            answers = n * np.clip([expected, 1 - expected], 0.01, 0.99)
            usd = prior.cost_usd
            if usd is None and prior.like is not None:
                usd = float(self._mean_costs()[prior.like])
            if usd is not None and math.isfinite(usd):
                cost = n * np.array([usd, 1.0])
        self.prior = np.vstack([self.prior, answers])
        self.prior_cost = np.vstack([self.prior_cost, cost])
        column = np.tile(answers, (len(self.centers), 1, 1))
        if per_type is not None:
            column[:, 0] = answers.sum() * np.clip(np.column_stack([per_type, 1 - per_type]), 0.01, 0.99)
        self.answers = np.concatenate([self.answers, column], axis=1)
        self.costs = np.concatenate([self.costs, np.tile(cost, (len(self.centers), 1, 1))], axis=1)
        self.cost_factor = np.append(self.cost_factor, 1.0)
        self.n_arms += 1
        return self.n_arms - 1

    def set_price(self, arm: int, factor: float) -> None:
        """Take an arm's price to be so many times that at which its costs were learned: from the next request on."""
        if not (math.isfinite(factor) and factor >= 0):
            raise InvalidParameterError(f"factor must be a finite number >= 0; got {factor}")
        self.cost_factor[arm] = factor

    def _type(self, context: Vector) -> int:
        if len(self.centers) == 1:
            return 0
        return int(((self.centers - context) ** 2).sum(axis=1).argmin())

    def _count(self, context: Vector, arm: int, quality: float, cost_usd: float, weight: float) -> None:
        place = self._type(context), arm
        if not math.isnan(quality):
            self.answers[place] += weight * np.array([quality, 1 - quality])
        if not math.isnan(cost_usd):
            self.costs[place] += cost_usd, 1.0

    def _cost_usd(self, context: Vector) -> Vector:
        """Return every arm's mean cost for this type, of all types where it has none, of all arms where none at all."""
        total, n = self.costs[self._type(context)].T
        overall = self._mean_costs()
        if np.isnan(overall).all():
            return np.zeros(self.n_arms)
        overall = np.where(np.isnan(overall), np.nanmean(overall), overall)
        mean = np.divide(total, n, out=overall, where=n > 0)
        return np.asarray(mean * self.cost_factor)

    def _mean_costs(self) -> Vector:
        total, n = self.costs.sum(axis=0).T
        return np.asarray(np.divide(total, n, out=np.full(self.n_arms, np.nan), where=n > 0))

    def _learn_types(self) -> None:
        from sklearn.cluster import KMeans

        context = np.array([each[0] for each in self._seen])
        self.centers = KMeans(n_clusters=self.n_types, n_init=4, random_state=0).fit(context).cluster_centers_
        self._start()
        for each in self._seen:
            self._count(*each)
        self._seen.clear()

    def state(self) -> tuple[State, Arrays]:
        """Return the settings and every array."""
        values: State = {
            "n_arms": self.n_arms,
            "n_features": self.n_features,
            "n_types": self.n_types,
            "exploration": self.exploration,
            "floor": self.floor,
        }
        arrays: Arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["seen_context"] = np.array([each[0] for each in self._seen]).reshape(-1, self.n_features)
        arrays["seen_outcome"] = np.array([each[1:] for each in self._seen], dtype=np.float64).reshape(-1, 4)
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        options: dict[str, Any] = dict(values)
        policy = cls(**options)
        for name in _ARRAYS:
            setattr(policy, name, arrays[name].copy())
        policy._seen = [
            (context, int(arm), float(quality), float(cost_usd), float(weight))
            for context, (arm, quality, cost_usd, weight) in zip(
                arrays["seen_context"], arrays["seen_outcome"], strict=True
            )
        ]
        return policy


_ARRAYS = ("centers", "prior", "prior_cost", "cost_factor", "answers", "costs")


def best_beta_probabilities(answers: Vector, price: Vector, eligible: NDArray[np.bool_]) -> Vector:
    """Return each arm's probability that Beta(a_t, b_t) - price_t is the largest, draws independent.

    By cells, as `best_probabilities` does it for normal draws: dF_t of a cell times the other arms' mean F over it,
    scaled to sum to one.

    Args:
        answers: (n_arms, 2) a and b of every arm, > 0.
        price: (n_arms,) what is taken off, in quality points.
        eligible: (n_arms,) arms that may be drawn; at least one.

    Returns:
        (n_arms,) probabilities, zero where not eligible, summing to one.
    """
    from scipy.special import betainc

    arms = np.flatnonzero(eligible)
    mean = answers[arms, 0] / answers[arms].sum(axis=1)
    deviation = np.sqrt(mean * (1 - mean) / (answers[arms].sum(axis=1) + 1))
    # A success rate leaves [0, 1] never, and six of its standard deviations hardly ever.
    cuts = np.clip(mean + NODES * deviation, 0.0, 1.0) - price[arms]
    lowest = cuts[0].max()
    contends = cuts[-1] >= lowest
    arms = arms[contends]
    (a, b), off = answers[arms].T, price[arms]
    edges = np.sort(cuts[:, contends][cuts[:, contends] >= lowest])
    # The lowest cell is open below, and the highest above.
    edges = np.concatenate([[lowest - 1], edges, [edges[-1] + 1]])
    # An arm that cannot be as bad as an edge has nothing below it; nothing is to be divided by zero.
    below = np.maximum(betainc(a, b, np.clip(edges[:, None] + off, 0.0, 1.0)), np.finfo(np.float64).tiny)
    probabilities = np.zeros(eligible.size)
    probabilities[arms] = shares_of_largest(below)
    return probabilities
