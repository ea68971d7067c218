"""The default: pooled regressions, weighted against selection, averaged and compared."""

from __future__ import annotations

from typing import Self

import numpy as np

from pointsman.nuisance.pooled import Link, PooledRegression
from pointsman.nuisance.spectral import Basis, SpectralMap
from pointsman.policies.base import check_context, check_rounds, greedy
from pointsman.policies.comparing import ComparingPolicy
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, PerArm, State, under

MEMBERS: tuple[tuple[str, Link], ...] = (
    ("linear", "logit"),
    ("linear", "identity"),
    ("smooth", "logit"),
    ("smooth", "identity"),
)
"""What the regressions averaged for quality differ in: the features of the arms' own part, and the link."""

DIAL = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Trade-offs the safety step looks at, in units of 1 / the dearest arm's mean cost: from quality only to where a whole
point of quality pays for one call of the dearest arm."""


class Auto(ComparingPolicy):
    """Compares arms by pooled regressions, weighted against selection, and only where that shows an improvement.

    Its aim is the regret of Tsiourvas et al., its means a plug-in: on one-arm logs of the usual size the doubly robust
    objective loses to it by its variance, not its bias. So the scores serve the safety step alone, and four things keep
    the variance of the plug-in small:

    1. Arms share most of what is learned of a prompt (`PooledRegression`), how much is chosen by evidence.
    2. A round weighs e^-`weight_power`, e its propensity. Power 1 would aim the regression at the prompts an arm did
       not see as much as at those it did, at full variance; 0 would let it extrapolate along the confounder.
    3. Four regressions are averaged, which differ in link and in the features of the arms' own part.
    4. Safety step: the policy routes only if its predicted improvement on the best single arm, averaged over the dial,
       exceeds `safety` standard errors of the doubly robust estimate of that improvement; otherwise every prompt gets
       the arm that is best on average at the trade-off. The default stops a router that shows next to nothing and is
       no guarantee: a stricter one costs more than it saves, for the best single arm is itself chosen by noise.

    Exact at every trade-off: quality and cost are predicted apart and compared.

    Args:
        weight_power: Power in [0, 1] of the inverse propensity a round is weighted by.
        shrink: Factor on the standard deviation of the arms' own part, after evidence has chosen it: the evidence is
            that of predictions, and a comparison of many arms picks their errors.
        safety: Standard errors of improvement to be shown before the policy routes: 1.64 for one-sided 95%.
        seed: Draws the landmarks of the kernel features.

    Attributes:
        routes_: Whether the safety step let the policy route.
        improvement_: Predicted improvement on the best single arm in utility over 1 + lambda / its unit, averaged over
            the dial.
        improvement_error_: Standard error of its doubly robust estimate.
        mean_quality_, mean_cost_usd_: (n_arms,) predicted means over the log's prompts.

    References:
        Tsiourvas, Sun and Perakis (2025), NeurIPS: the objective; Zhou, Athey and Wager (2023), Operations Research
        71(1): its doubly robust scores. The pooling, the weights and the safety step are this package's own.
    """

    name = "auto"

    def __init__(self, *, weight_power: float = 0.5, shrink: float = 0.85, safety: float = 0.1, seed: int = 0) -> None:
        self.weight_power = weight_power
        self.shrink = shrink
        self.safety = safety
        self.seed = seed

    def fit(self, context: Context, scores: Scores) -> Self:
        """Learn quality and cost, then decide whether to route at all, and return self."""
        check_rounds(context, scores)
        self.n_features_ = context.shape[1]
        self.map_ = SpectralMap(seed=self.seed).fit(context)
        basis = self.map_.transform(context)
        self._fit_quality(basis, scores)
        self._fit_cost(basis, scores)
        quality, cost_usd = self._routed(basis)
        self.mean_quality_, self.mean_cost_usd_ = quality.mean(axis=0), cost_usd.mean(axis=0)
        self.improvement_, self.improvement_error_ = self._improvement(quality, cost_usd, scores)
        self.routes_ = self.improvement_ > self.safety * self.improvement_error_
        return self

    def predict(self, context: Context) -> tuple[PerArm, PerArm]:
        """Return predicted quality and cost_usd of every arm: means over the log's prompts where it does not route."""
        check_context(context, n_features=self.n_features_)
        if self.routes_:
            return self._routed(self.map_.transform(context))
        shape = (len(context), self.mean_quality_.size)
        return np.broadcast_to(self.mean_quality_, shape), np.broadcast_to(self.mean_cost_usd_, shape)

    def _fit_quality(self, basis: Basis, scores: Scores) -> None:
        known = np.flatnonzero(np.isfinite(scores.quality))
        self.seen_ = np.bincount(scores.arm[known], minlength=scores.n_arms) > 0
        weight = scores.propensity[known] ** -self.weight_power
        if scores.quality_weight is not None:
            weight = weight * scores.quality_weight[known]
        self.quality_ = [
            PooledRegression(link=link).fit(
                basis.shared[known],
                getattr(basis, specific)[known],
                scores.quality[known],
                arm=scores.arm[known],
                n_arms=scores.n_arms,
                sample_weight=weight,
                shrink=self.shrink,
            )
            for specific, link in MEMBERS
        ]

    def _fit_cost(self, basis: Basis, scores: Scores) -> None:
        known = np.flatnonzero(np.isfinite(scores.cost_usd))
        self.cost_: PooledRegression | None = None
        self.cost_scale_usd_ = np.full(scores.n_arms, np.nan)
        self.least_cost_usd_ = np.full(scores.n_arms, np.nan)
        if known.size == 0:
            return
        arm, cost_usd = scores.arm[known], scores.cost_usd[known]
        n_rounds = np.bincount(arm, minlength=scores.n_arms)
        total = np.bincount(arm, weights=cost_usd, minlength=scores.n_arms)
        # Arms differ in price by orders of magnitude but agree on which prompts are dear: relative costs can be pooled.
        mean = np.where(n_rounds > 0, total / np.maximum(n_rounds, 1), (total / np.maximum(n_rounds, 1)).max())
        self.cost_scale_usd_ = np.where(mean > 0, mean, 1.0) * (mean > 0).any()
        self.least_cost_usd_ = np.array(
            [cost_usd[arm == t].min() if n_rounds[t] else mean[t] for t in range(scores.n_arms)]
        )
        self.cost_ = PooledRegression().fit(
            basis.shared[known],
            basis.linear[known],
            cost_usd / np.where(self.cost_scale_usd_ > 0, self.cost_scale_usd_, 1.0)[arm],
            arm=arm,
            n_arms=scores.n_arms,
        )

    def _routed(self, basis: Basis) -> tuple[PerArm, PerArm]:
        quality = np.mean(
            [
                member.predict(basis.shared, getattr(basis, specific))
                for member, (specific, _) in zip(self.quality_, MEMBERS, strict=True)
            ],
            axis=0,
        )
        # Nothing speaks for an arm that was never seen to answer: it is chosen only where nothing else is eligible.
        quality[:, ~self.seen_] = 0.0
        if self.cost_ is None:
            return quality, np.full_like(quality, np.nan)
        relative = self.cost_.predict(basis.shared, basis.linear)
        # An arm is not expected to cost less than the cheapest call it was ever seen to make.
        return quality, np.maximum(relative * self.cost_scale_usd_, self.least_cost_usd_)

    def _improvement(self, quality: PerArm, cost_usd: PerArm, scores: Scores) -> tuple[float, float]:
        """Return the predicted improvement on the best single arm, averaged over the dial, and its standard error."""
        unit = float(np.max(self.mean_cost_usd_)) if self.cost_ is not None else 0.0
        dial = [TradeOff(step / unit) for step in DIAL] if unit > 0 else [TradeOff()]
        quality_scores, cost_scores = scores.quality_scores, scores.cost_scores
        predicted, influence = 0.0, np.zeros(scores.n_rounds)
        for trade_off in dial:
            weight = 1 / (len(dial) * (1 + trade_off.quality_per_usd * unit))
            utility = trade_off.utility(quality=quality, cost_usd=cost_usd)
            change = greedy(utility, eligible=scores.eligible, cost_usd=cost_usd) - greedy(
                np.broadcast_to(utility.mean(axis=0), utility.shape), eligible=scores.eligible
            )
            utility_scores = trade_off.utility(quality=quality_scores, cost_usd=cost_scores)
            predicted += weight * float((change * utility).sum(axis=1).mean())
            influence += weight * (change * utility_scores).sum(axis=1)
        return predicted, float(influence.std(ddof=1) / np.sqrt(scores.n_rounds)) if scores.n_rounds > 1 else np.inf

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments, the safety step's verdict, and the arrays of every regression."""
        values: State = {
            "options": {
                "weight_power": self.weight_power,
                "shrink": self.shrink,
                "safety": self.safety,
                "seed": self.seed,
            },
            "n_features": self.n_features_,
            "routes": bool(self.routes_),
            "improvement": self.improvement_,
            "improvement_error": self.improvement_error_,
            "members": [member.state()[0] for member in self.quality_],
            "cost": None if self.cost_ is None else self.cost_.state()[0],
        }
        arrays: Arrays = {f"map.{name}": array for name, array in self.map_.state().items()}
        for i, member in enumerate(self.quality_):
            arrays |= {f"quality.{i}.{name}": array for name, array in member.state()[1].items()}
        if self.cost_ is not None:
            arrays |= {f"cost.{name}": array for name, array in self.cost_.state()[1].items()}
        for name in ("seen", "cost_scale_usd", "least_cost_usd", "mean_quality", "mean_cost_usd"):
            arrays[name] = getattr(self, f"{name}_")
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = cls(**values["options"])
        policy.n_features_ = int(values["n_features"])
        policy.routes_ = bool(values["routes"])
        policy.improvement_, policy.improvement_error_ = values["improvement"], values["improvement_error"]
        policy.map_ = SpectralMap(seed=policy.seed).restore(under("map.", arrays))
        policy.quality_ = [
            PooledRegression.from_state(member, under(f"quality.{i}.", arrays))
            for i, member in enumerate(values["members"])
        ]
        cost = values["cost"]
        policy.cost_ = None if cost is None else PooledRegression.from_state(cost, under("cost.", arrays))
        policy.seen_ = arrays["seen"]
        policy.cost_scale_usd_, policy.least_cost_usd_ = arrays["cost_scale_usd"], arrays["least_cost_usd"]
        policy.mean_quality_, policy.mean_cost_usd_ = arrays["mean_quality"], arrays["mean_cost_usd"]
        return policy
