"""BaRP: a policy that is told the preference, and learns from the reward of the arm it pulled."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.barp.networks import Adam, Bilinear, Network, Perceptron
from pointsman.online.base import ArmPrior, OnlinePolicy, Vector
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, Arrays, Context, PerArm, PerRound, State

Form = Literal["bilinear", "mlp"]

FORMS: tuple[Form, ...] = ("bilinear", "mlp")
LARGEST_HALVES = 4096
"""Rounds of which quality or cost is still to come, at most; the oldest are dropped."""
COST_SCALE_QUANTILE = 0.95
"""Of observed costs: the cost scale. The paper does not disclose its own."""


class _Round(NamedTuple):
    context: Vector
    arm: int
    quality: float
    cost_usd: float
    quality_per_usd: float
    weight: float

    @property
    def key(self) -> tuple[bytes, int, float]:
        """What both halves of a round have in common."""
        return self.context.tobytes(), self.arm, self.quality_per_usd

    @property
    def is_known(self) -> bool:
        """Whether all that the reward weighs is known."""
        return not (
            (math.isnan(self.quality) and not math.isinf(self.quality_per_usd))
            or (math.isnan(self.cost_usd) and self.quality_per_usd > 0)
        )


class BaRP(OnlinePolicy):
    """REINFORCE on pi(t given x, w): one policy that is told the preference w = (w_q, w_c), on the simplex.

    The reward is that of the arm pulled, and every batch of rounds gives one Adam step on a loss,

        r = w_q q - w_c min(c / tau, 1),
        loss = -mean[(r - b) log pi(t given x, w)] - beta mean[H(pi)],

    b the batch's mean reward, H the entropy. A trade-off of lambda is w_c = lambda tau / (1 + lambda tau). The first
    `n_warm_up` rounds choose evenly among the eligible arms; from them come tau, and the centre and the spread by which
    contexts are standardised; then they are learned from like any other.

    What it does not do, like the paper's: log pi is that of the parameters at the time of the step, and of all arms.
    Feedback that comes late was drawn from older parameters, and a choice among few eligible arms from another softmax;
    neither is corrected for. One reward is learned, so that a change of price is only found out from costs.

    A round is learned from once all that its reward weighs is known: quality, but where cost alone counts; cost, but
    where quality alone does. One of which the other never comes is skipped: half a reward would be another trade-off's.

    Args:
        n_arms: Number of arms.
        n_features: Of the context, which stays as the encoder gives it.
        form: `bilinear`: logits linear in the prompt and in the preference. `mlp`: the paper's form, which needs torch
            to learn, but not to serve.
        learning_rate: Of Adam, > 0; the paper's is 1e-4.
        entropy: beta >= 0; ours.
        batch_rounds: Rounds of one step, >= 1; the paper's.
        n_warm_up: Rounds of the warm-up, >= 1.
        cost_scale_usd: tau > 0, in USD; the 95th percentile of the warm-up's costs where None, and 1 USD where that is
            not positive.
        greedy: Whether to take the most likely arm, always: the paper's way at test. Nothing is explored then.
        seed: Of the first weights.

    Raises:
        InvalidParameterError: A setting is out of its range.

    References:
        Wei et al. (2025), Learning to Route LLMs from Bandit Feedback, arXiv 2510.07429; Williams (1992), Machine
        Learning 8: REINFORCE. The warm-up, the bilinear form and beta are this package's own.
    """

    name = "barp"

    def __init__(
        self,
        *,
        n_arms: int,
        n_features: int,
        form: Form = "bilinear",
        learning_rate: float = 1e-3,
        entropy: float = 0.01,
        batch_rounds: int = 32,
        n_warm_up: int = 128,
        cost_scale_usd: float | None = None,
        greedy: bool = False,
        seed: int = 0,
    ) -> None:
        if form not in FORMS:
            raise InvalidParameterError(f"form must be among {list(FORMS)}; got {form!r}")
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise InvalidParameterError(f"learning_rate must be finite and > 0; got {learning_rate}")
        if not (math.isfinite(entropy) and entropy >= 0):
            raise InvalidParameterError(f"entropy must be finite and >= 0; got {entropy}")
        for name, value in (("batch_rounds", batch_rounds), ("n_warm_up", n_warm_up)):
            if value < 1:
                raise InvalidParameterError(f"{name} must be >= 1; got {value}")
        if cost_scale_usd is not None and not (math.isfinite(cost_scale_usd) and cost_scale_usd > 0):
            raise InvalidParameterError(f"cost_scale_usd must be finite and > 0; got {cost_scale_usd}")
        self.n_arms, self.n_features = n_arms, n_features
        self.form: Form = form
        self.learning_rate, self.entropy = learning_rate, entropy
        self.batch_rounds, self.n_warm_up = batch_rounds, n_warm_up
        self.cost_scale_usd = math.nan if cost_scale_usd is None else cost_scale_usd
        self.greedy, self.seed = greedy, seed
        self.network: Network = (
            Bilinear(n_arms=n_arms, n_features=n_features)
            if form == "bilinear"
            else Perceptron(n_arms=n_arms, n_features=n_features, seed=seed)
        )
        self.adam = Adam(self.network.parameters)
        self.is_warm = False
        self.center, self.spread = np.zeros(n_features), 1.0
        self._waiting: list[_Round] = []
        self._halves: dict[tuple[bytes, int, float], _Round] = {}

    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return the softmax over the eligible arms; during the warm-up, the same for each of them."""
        cost_weight = np.array([self._cost_weight(trade_off.quality_per_usd)]) if self.is_warm else np.zeros(1)
        return np.asarray(self.choice_probabilities(np.asarray(context)[None], cost_weight, eligible[None])[0])

    def choice_probabilities(
        self, context: Context, cost_weight: PerRound, eligible: NDArray[np.bool_] | None = None
    ) -> PerArm:
        """Return `probabilities` of many rounds, at the preference's w_c of each; all arms are eligible where None."""
        allowed = np.ones((len(context), self.n_arms), dtype=np.bool_) if eligible is None else eligible
        if not self.is_warm:
            return np.asarray(allowed / allowed.sum(axis=1, keepdims=True))
        logits = np.where(allowed, self._logits(context, cost_weight), -np.inf)
        if self.greedy:
            return np.asarray(np.eye(self.n_arms)[logits.argmax(axis=1)])
        return np.asarray(np.exp(log_softmax(logits)))

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
        """Keep the round, and take a step where it fills a batch; without a trade-off quality alone counts."""
        rate = (trade_off or TradeOff()).quality_per_usd
        one = _Round(np.array(context, dtype=np.float64), arm, quality, cost_usd, rate, weight)
        if not one.is_known and 0 < rate < math.inf:
            one = self._joined(one)
        if not one.is_known:
            return
        self._waiting.append(one)
        if not self.is_warm and len(self._waiting) >= self.n_warm_up:
            seen = np.array([each.context for each in self._waiting])
            self.warm_up(seen, np.array([each.cost_usd for each in self._waiting]))
        while self.is_warm and len(self._waiting) >= self.batch_rounds:
            batch, self._waiting = self._waiting[: self.batch_rounds], self._waiting[self.batch_rounds :]
            contexts, arms, qualities, costs, rates, weights = zip(*batch, strict=True)
            self.learn(
                np.array(contexts),
                np.array(arms),
                cost_weight=np.array([self._cost_weight(rate) for rate in rates]),
                quality=np.array(qualities),
                cost_usd=np.array(costs),
                weight=np.array(weights),
            )

    def _joined(self, half: _Round) -> _Round:
        """Return the round with what was known of it before; keep what is known until the rest comes."""
        if math.isnan(half.quality) and math.isnan(half.cost_usd):
            return half
        before = self._halves.pop(half.key, None)
        if before is not None:
            if math.isnan(half.quality):
                half = half._replace(quality=before.quality, weight=before.weight)
            elif math.isnan(half.cost_usd):
                half = half._replace(cost_usd=before.cost_usd)
        if not half.is_known:
            self._halves[half.key] = half
            if len(self._halves) > LARGEST_HALVES:
                del self._halves[next(iter(self._halves))]
        return half

    def warm_up(self, context: Context, cost_usd: PerRound) -> None:
        """Take tau, where it was not given, and the scale of contexts from these rounds; choose by softmax from now."""
        x = np.asarray(context, dtype=np.float64)
        self.center = x.mean(axis=0)
        self.spread = float(np.sqrt(x.var(axis=0).mean())) or 1.0
        if math.isnan(self.cost_scale_usd):
            known = cost_usd[np.isfinite(cost_usd)]
            scale = float(np.quantile(known, COST_SCALE_QUANTILE)) if known.size else 0.0
            self.cost_scale_usd = scale if scale > 0 else 1.0
        self.is_warm = True

    def reward(self, *, quality: PerRound, cost_usd: PerRound, cost_weight: PerRound) -> PerRound:
        """Return w_q q - w_c min(c / tau, 1), in [-1, 1]; NaN where something that it weighs is not known."""
        scaled = np.minimum(cost_usd / self.cost_scale_usd, 1)
        # A weight of zero times NaN is not NaN.
        return np.where(cost_weight < 1, (1 - cost_weight) * quality, 0.0) - np.where(
            cost_weight > 0, cost_weight * scaled, 0.0
        )

    def learn(
        self,
        context: Context,
        arm: ArmIndex,
        *,
        cost_weight: PerRound,
        quality: PerRound,
        cost_usd: PerRound,
        weight: PerRound,
    ) -> None:
        """Take one step on these rounds, each by its weight; those whose reward is not known are left out.

        Raises:
            MissingDependencyError: The form is `mlp` and torch is not installed.
        """
        reward = self.reward(quality=quality, cost_usd=cost_usd, cost_weight=cost_weight)
        known = np.isfinite(reward) & (weight > 0)
        if not known.any():
            return
        standard, arm, cost_weight = self._standard(context[known]), arm[known], cost_weight[known]
        reward, weight = reward[known], weight[known]
        advantage = weight * (reward - np.average(reward, weights=weight))
        gradient = self.network.gradient(
            standard,
            cost_weight,
            lambda logits: loss_gradient(logits, arm=arm, advantage=advantage, entropy=self.entropy),
        )
        self.adam.step(self.network.parameters, gradient, learning_rate=self.learning_rate)

    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Take in an arm with the mean of the others' logits, or those of the arm it is `like`.

        A prior's quality, cost and size are of no use here: no outcome is predicted.
        """
        like = slice(None) if prior is None or prior.like is None else [prior.like]
        for name in self.network.of_arms:
            array = self.network.parameters[name]
            self.network.parameters[name] = np.concatenate([array, array[like].mean(axis=0, keepdims=True)])
            for moment in (self.adam.mean, self.adam.square):
                moment[name] = np.concatenate([moment[name], np.zeros_like(array[:1])])
        self.n_arms += 1
        return self.n_arms - 1

    def state(self) -> tuple[State, Arrays]:
        """Return the settings, every array, and the rounds of the unfinished batch."""
        values: State = {
            "options": {
                "n_arms": self.n_arms,
                "n_features": self.n_features,
                "form": self.form,
                "learning_rate": self.learning_rate,
                "entropy": self.entropy,
                "batch_rounds": self.batch_rounds,
                "n_warm_up": self.n_warm_up,
                "cost_scale_usd": None if math.isnan(self.cost_scale_usd) else self.cost_scale_usd,
                "greedy": self.greedy,
                "seed": self.seed,
            },
            "is_warm": self.is_warm,
            "spread": self.spread,
            "n_steps": self.adam.n_steps,
        }
        arrays: Arrays = {"center": self.center.copy()}
        for kind, rounds in (("waiting", self._waiting), ("halves", [*self._halves.values()])):
            arrays[f"{kind}_context"] = np.array([each.context for each in rounds]).reshape(-1, self.n_features)
            arrays[f"{kind}_outcome"] = np.array([each[1:] for each in rounds], dtype=np.float64).reshape(-1, 5)
        for group, named in self._groups().items():
            arrays |= {f"{group}.{name}": array.copy() for name, array in named.items()}
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = cls(**values["options"])
        policy.is_warm, policy.spread = bool(values["is_warm"]), float(values["spread"])
        policy.adam.n_steps = int(values["n_steps"])
        policy.center = arrays["center"].copy()
        for group, named in policy._groups().items():
            named |= {name: arrays[f"{group}.{name}"].copy() for name in named}
        policy._waiting, halves = (
            [
                _Round(context, int(arm), *(float(each) for each in rest))
                for context, (arm, *rest) in zip(arrays[f"{kind}_context"], arrays[f"{kind}_outcome"], strict=True)
            ]
            for kind in ("waiting", "halves")
        )
        policy._halves = {half.key: half for half in halves}
        return policy

    def _groups(self) -> dict[str, Arrays]:
        return {"parameter": self.network.parameters, "mean": self.adam.mean, "square": self.adam.square}

    def _cost_weight(self, quality_per_usd: float) -> float:
        return TradeOff(quality_per_usd).cost_weight(cost_scale_usd=self.cost_scale_usd)

    def _standard(self, context: Context) -> Context:
        return np.asarray((context - self.center) / self.spread, dtype=np.float64)

    def _logits(self, context: Context, cost_weight: PerRound) -> PerArm:
        return self.network.logits(self._standard(context), cost_weight)


def log_softmax(logits: PerArm) -> PerArm:
    """Return log pi of every arm; -inf stays."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def loss_gradient(logits: PerArm, *, arm: ArmIndex, advantage: PerRound, entropy: float) -> PerArm:
    """Return the gradient in the logits of -mean[(r - b) log pi(t)] - beta mean[H(pi)].

    Args:
        logits: Of every arm.
        arm: Pulled in each round.
        advantage: r - b, of it.
        entropy: beta.

    Returns:
        (n_rounds, n_arms); rows sum to zero.
    """
    log_pi = log_softmax(logits)
    pi = np.exp(log_pi)
    gradient = advantage[:, None] * pi
    gradient[np.arange(arm.size), arm] -= advantage
    mean_log = (pi * log_pi).sum(axis=1, keepdims=True)
    return np.asarray((gradient + entropy * pi * (log_pi - mean_log)) / arm.size)
