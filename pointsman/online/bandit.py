"""The default: Thompson sampling with separate quality and cost heads, partially pooled over arms."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.base import OnlinePolicy, Vector
from pointsman.online.draw import best_probabilities, explored
from pointsman.online.features import LEARN_AT, Components
from pointsman.online.posterior import LinearPosterior, Row
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, State

ONE = np.ones(1)

PRIOR_QUALITY = 0.7
"""What an answer is expected to be worth before any was seen: a little hope, so that every arm is tried."""
SHARED_MEAN_VARIANCE = 0.05
"""Prior variance of what all arms have in common."""
SHARED_VARIANCE = 0.1
"""Prior variance, over prompts, of what all arms have in common about a prompt."""
ARM_MEAN_VARIANCE = 0.03
"""Prior variance of an arm's own mean."""
ARM_VARIANCE = 0.03
"""Prior variance, over prompts, of an arm's own part."""
COST_COMPONENTS = 6
COST_VARIANCE = 0.5
"""Prior variance of a relative cost's mean, and of its part that goes with the prompt."""
COST_NOISE = 0.5
"""Variance of a relative cost about its expectation."""
LEAST_RELATIVE_COST = 0.02
"""No call is expected to cost less than this share of an arm's first."""
FORGET_EVERY = 64
"""Outcomes after which geometric forgetting is made up for, all at once."""
SLACK = 0.25
"""Standard deviations a round that an arm may drift without any alarm."""
KEPT_AT_ALARM = 0.1
"""Share of the certainty about an arm's own part that is kept when it has changed."""


class PooledThompson(OnlinePolicy):
    """Thompson sampling on q_t(x) = c + u(x) . w + b_t + v(x) . w_t, and a cost model of its own.

    u are the leading components of the context, v the first few of them. All arms share c and w, so that an answer of
    one says something of all; b_t and w_t are an arm's own. One Gaussian posterior holds all of it, exactly
    (`LinearPosterior`), and a second, smaller one relative cost:

        cost_t(x) = unit_t (1 + z(x) . k + d_t + z(x) . k_t).

    At trade-off lambda an arm's utility is normal with mean q_t - lambda cost_t and the variance of both, and an arm is
    drawn with the probability that its utility is the largest (`best_probabilities`), a `floor` of it spread evenly. So
    every trade-off is served by what was learned at all of them, the propensity of each draw is exact, and the
    policy's own log can be evaluated off-policy.

    Every outcome moves the posterior at once. What was learned is forgotten geometrically (`memory`), towards the
    prior; and an arm whose answers have become worse or better than it was expected to be (a two-sided CUSUM of its
    standardised residuals) forgets most of its own part at once.

    Args:
        n_arms: Number of arms.
        n_features: Of the context.
        n_shared: Components in u.
        n_specific: Components in v.
        exploration: Factor on the posterior standard deviation: 1 is Thompson sampling.
        floor: Probability spread evenly over the eligible arms, in [0, 1).
        memory: Outcomes after which what was learned counts half; infinity never forgets.
        noise: Variance of a quality about its expectation.
        alarm: CUSUM, in standard deviations, at which an arm is taken to have changed; infinity never.
        components: The components, where the distribution of prompts is known beforehand; learned from the first
            contexts where None.

    References:
        Thompson (1933), Biometrika 25; Agrawal and Goyal (2013), ICML: linear contextual Thompson sampling; Page
        (1954), Biometrika 41: CUSUM. The pooling and the exact propensities are this package's own.
    """

    name = "pooled-thompson"

    def __init__(
        self,
        *,
        n_arms: int,
        n_features: int,
        n_shared: int = 32,
        n_specific: int = 12,
        exploration: float = 0.5,
        floor: float = 0.02,
        memory: float = math.inf,
        noise: float = 0.1,
        alarm: float = 12.0,
        components: Components | None = None,
    ) -> None:
        for name, value, low, high in (
            ("exploration", exploration, 0, math.inf),
            ("floor", floor, 0, 1),
            ("memory", memory, 1, math.inf),
            ("alarm", alarm, 0, math.inf),
        ):
            if not low <= value <= high:
                raise InvalidParameterError(f"{name} must be in [{low}, {high}]; got {value}")
        self.n_arms, self.n_features = n_arms, n_features
        self.exploration, self.floor, self.memory, self.noise, self.alarm = exploration, floor, memory, noise, alarm
        self.components = Components(n_features=n_features, n_components=n_shared) if components is None else components
        self.n_shared = self.components.n_components
        self.n_specific = min(n_specific, self.n_shared)
        self._start()

    def _start(self) -> None:
        """Know nothing but the prior."""
        n_arms, k, m = self.n_arms, self.n_shared, self.n_specific
        # [c, u | b_1, v_1 | b_2, v_2 | ...]: what all arms share, then each arm's own, so that a row is two slices.
        shared = np.concatenate([[SHARED_MEAN_VARIANCE], np.full(k, SHARED_VARIANCE / k)])
        own = np.concatenate([[ARM_MEAN_VARIANCE], np.full(m, ARM_VARIANCE / m)])
        self.quality = LinearPosterior(
            np.concatenate([shared, np.tile(own, n_arms)]),
            noise=self.noise,
            prior_mean=np.concatenate([[PRIOR_QUALITY], np.zeros(k + n_arms * (m + 1))]),
        )
        n_cost = self.n_cost = min(COST_COMPONENTS, m)
        cost_own = np.concatenate([[COST_VARIANCE], np.full(n_cost, COST_VARIANCE / n_cost)])
        self.cost = LinearPosterior(
            np.concatenate([np.full(n_cost, COST_VARIANCE / n_cost), np.tile(cost_own, n_arms)]), noise=COST_NOISE
        )
        self.unit_usd = np.full(n_arms, np.nan)
        self.cost_factor = np.ones(n_arms)
        self.drift = np.zeros((n_arms, 2))
        self.n_since = 0
        self._seen: list[tuple[Vector, int, float, float, float]] = []

    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return Thompson's probabilities at this trade-off, above the floor."""
        mean, variance = self.predict(context, trade_off)
        deviation = self.exploration * np.sqrt(variance)
        return explored(best_probabilities(mean, deviation, eligible), eligible=eligible, floor=self.floor)

    def predict(self, context: Vector, trade_off: TradeOff) -> tuple[Vector, Vector]:
        """Return the posterior mean and variance of every arm's utility."""
        z = self.components(context)
        u = np.concatenate([ONE, z])
        own = u[: self.n_specific + 1]
        shared, width = self.n_shared + 1, self.n_specific + 1
        mean, variance = _of_arms(self.quality, u, own, shared=shared, width=width)
        rate = trade_off.quality_per_usd
        if rate == 0 or not np.isfinite(self.unit_usd).any():
            return mean, variance
        k = z[: self.n_cost]
        relative, doubt = _of_arms(self.cost, k, np.concatenate([ONE, k]), shared=self.n_cost, width=self.n_cost + 1)
        unit = np.where(np.isnan(self.unit_usd), np.nanmean(self.unit_usd), self.unit_usd) * self.cost_factor
        cost_usd = unit * np.maximum(1 + relative, LEAST_RELATIVE_COST)
        if math.isinf(rate):
            return -cost_usd, doubt * unit**2
        return mean - rate * cost_usd, variance + doubt * (rate * unit) ** 2

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
        # A cost is learned, and remembered, at the price its arm had to begin with; one of a free arm says nothing.
        factor = self.cost_factor[arm]
        cost_usd = cost_usd / factor if factor > 0 else math.nan
        if not self.components.is_settled:
            self._remember(context, arm, quality, cost_usd, weight)
        z = self.components(context)
        if not math.isnan(quality):
            self._learn_quality(z, arm, quality, weight)
        if not math.isnan(cost_usd):
            self._learn_cost(z, arm, cost_usd)

    def set_price(self, arm: int, factor: float) -> None:
        """Take an arm's price to be so many times that at which its costs were learned: from the next request on."""
        if not (math.isfinite(factor) and factor >= 0):
            raise InvalidParameterError(f"factor must be a finite number >= 0; got {factor}")
        self.cost_factor[arm] = factor

    def _learn_quality(self, z: Vector, arm: int, quality: float, weight: float) -> None:
        row = self._row(z, arm)
        spread = self.quality.spread(row)
        variance = sum(float(values @ spread[place]) for place, values in row)
        expected = sum(float(values @ self.quality.mean[place]) for place, values in row)
        self.quality.update(row, quality, weight=weight)
        if math.isfinite(self.alarm):
            self._watch(arm, (quality - expected) / math.sqrt(variance + self.noise / weight))
        if math.isfinite(self.memory):
            self.n_since += 1
            if self.n_since >= FORGET_EVERY:
                self.quality.forget(0.5 ** (self.n_since / self.memory))
                self.n_since = 0

    def _learn_cost(self, z: Vector, arm: int, cost_usd: float) -> None:
        if math.isnan(self.unit_usd[arm]) and cost_usd > 0:
            self.unit_usd[arm] = cost_usd
        unit = self.unit_usd[arm]
        if unit > 0:
            k = z[: self.n_cost]
            start = self.n_cost + arm * (self.n_cost + 1)
            row: Row = [(slice(0, self.n_cost), k), (slice(start, start + self.n_cost + 1), np.concatenate([ONE, k]))]
            self.cost.update(row, cost_usd / unit - 1)

    def _watch(self, arm: int, residual: float) -> None:
        """Follow an arm's standardised residuals both ways; forget its own part where they have drifted."""
        up, down = self.drift[arm]
        up, down = max(0.0, up + residual - SLACK), max(0.0, down - residual - SLACK)
        if max(up, down) > self.alarm:
            start = self.n_shared + 1 + arm * (self.n_specific + 1)
            self.quality.loosen(np.arange(start, start + self.n_specific + 1), KEPT_AT_ALARM)
            up = down = 0.0
        self.drift[arm] = up, down

    def _row(self, z: Vector, arm: int) -> Row:
        u = np.concatenate([ONE, z])
        start = self.n_shared + 1 + arm * (self.n_specific + 1)
        return [(slice(0, u.size), u), (slice(start, start + self.n_specific + 1), u[: self.n_specific + 1])]

    def _remember(self, context: Vector, arm: int, quality: float, cost_usd: float, weight: float) -> None:
        """Keep a round until the components are settled; learn them anew, and all rounds with them, when it is time."""
        if len(self._seen) == LEARN_AT[self.components.version]:
            self.components.learn(np.array([each[0] for each in self._seen]))
            self._relearn()
            if self.components.is_settled:
                self._seen.clear()
                return
        self._seen.append((np.asarray(context, dtype=np.float64), arm, quality, cost_usd, weight))

    def _relearn(self) -> None:
        seen, drift = self._seen, self.drift.copy()
        factor = self.cost_factor.copy()
        self._start()
        self._seen, self.drift, self.cost_factor = seen, drift, factor
        z = self.components(np.array([each[0] for each in seen]))
        rows = np.zeros((len(seen), self.quality.mean.size))
        outcomes, weights = np.zeros(len(seen)), np.zeros(len(seen))
        for i, (_, arm, quality, cost_usd, weight) in enumerate(seen):
            if not math.isnan(quality):
                for place, values in self._row(z[i], arm):
                    rows[i, place] = values
                outcomes[i], weights[i] = quality, weight
            if not math.isnan(cost_usd):
                self._learn_cost(z[i], arm, cost_usd)
        self.quality.update_many(rows, outcomes, weights)

    def state(self) -> tuple[State, Arrays]:
        """Return the settings and every array."""
        values: State = {
            "n_arms": self.n_arms,
            "n_features": self.n_features,
            "n_shared": self.n_shared,
            "n_specific": self.n_specific,
            "exploration": self.exploration,
            "floor": self.floor,
            "memory": None if math.isinf(self.memory) else self.memory,
            "noise": self.noise,
            "alarm": None if math.isinf(self.alarm) else self.alarm,
            "n_since": self.n_since,
        }
        arrays: Arrays = {
            "unit_usd": self.unit_usd,
            "cost_factor": self.cost_factor,
            "drift": self.drift,
            "seen_context": np.array([each[0] for each in self._seen]).reshape(-1, self.n_features),
            "seen_outcome": np.array([each[1:] for each in self._seen], dtype=np.float64).reshape(-1, 4),
        }
        for name, part in (("components", self.components), ("quality", self.quality), ("cost", self.cost)):
            arrays |= {f"{name}.{key}": array for key, array in part.state().items()}
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        options = {name: value for name, value in values.items() if name != "n_since"}
        for name in ("memory", "alarm"):
            options[name] = math.inf if options[name] is None else options[name]
        policy = cls(**options, components=Components.from_state(_under("components.", arrays)))
        policy.quality = LinearPosterior.from_state(_under("quality.", arrays))
        policy.cost = LinearPosterior.from_state(_under("cost.", arrays))
        policy.unit_usd, policy.cost_factor = arrays["unit_usd"].copy(), arrays["cost_factor"].copy()
        policy.drift, policy.n_since = arrays["drift"].copy(), int(values["n_since"])
        policy._seen = [
            (context, int(arm), float(quality), float(cost_usd), float(weight))
            for context, (arm, quality, cost_usd, weight) in zip(
                arrays["seen_context"], arrays["seen_outcome"], strict=True
            )
        ]
        return policy


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _of_arms(
    posterior: LinearPosterior, shared_row: Vector, own_row: Vector, *, shared: int, width: int
) -> tuple[Vector, Vector]:
    """Return the posterior mean and variance of every arm's row: shared columns, then that arm's own."""
    n_arms = (posterior.mean.size - shared) // width
    mean = float(shared_row @ posterior.mean[:shared]) + posterior.mean[shared:].reshape(n_arms, width) @ own_row
    # Var = u' S u + 2 o' C u + o' O o; one product with the shared columns serves all arms.
    through = posterior.covariance[:, :shared] @ shared_row
    common = float(shared_row @ through[:shared])
    across = through[shared:].reshape(n_arms, width) @ own_row
    blocks = posterior.covariance[shared:, shared:].reshape(n_arms, width, n_arms, width)
    diagonal = np.einsum("tatb->tab", blocks)
    alone = (diagonal @ own_row) @ own_row
    return mean, np.maximum(common + 2 * across + alone, 0.0)
