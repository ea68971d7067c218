"""Worlds of known truth, and logs drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pointsman.ope.estimate import Estimate, Ratio
from pointsman.types import ArmIndex, Context, PerArm, PerRound

Overlap = Literal["good", "moderate", "bad"]
OVERLAPS: tuple[Overlap, ...] = ("good", "moderate", "bad")

LEAST_PROPENSITY = {"good": 0.1, "moderate": 0.02, "bad": 0.002}
"""What the logging policy gives every arm; the largest weight is at most its reciprocal."""
LEANING = {"good": 0.5, "moderate": 1.5, "bad": 2.5}
"""Slope of the logging policy's logits."""

ClassLogger = Literal["friendly", "uniform", "adversarial"]
CLASS_LOGGERS: tuple[ClassLogger, ...] = ("friendly", "uniform", "adversarial")

SHARE_LEARNED = 0.3
"""Share of the labelled rows that the logger's and the target's classifiers learn from; the others are prompts."""

N_FEATURES, N_ARMS, N_PROMPTS = 5, 4, 20_000
N_POLICIES = 20


class Drawn(NamedTuple):
    """Logged rounds: which prompt, which arm, what came of it. Several logs lie one after the other."""

    prompt: ArmIndex
    arm: ArmIndex
    outcome: PerRound


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A finite population of prompts. Rounds draw from it with replacement, so that every truth is a mean over it.

    Attributes:
        context: (n_prompts, n_features).
        mean: (n_prompts, n_arms) probability that the outcome is one; else it is zero.
        propensities: (n_prompts, n_arms) the logging policy.
        least_propensity: What it gives every arm.
        targets: (n_policies, n_prompts, n_arms) target policies.
    """

    context: Context
    mean: PerArm
    propensities: PerArm
    least_propensity: float
    targets: NDArray[np.float64]

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return int(self.mean.shape[1])

    def draw(self, n_rounds: int, *, rng: np.random.Generator) -> Drawn:
        """Return rounds, independent of each other."""
        prompt = rng.integers(len(self.mean), size=n_rounds)
        arm = draw_arms(self.propensities[prompt], rng=rng)
        return Drawn(prompt, arm, (rng.random(n_rounds) < self.mean[prompt, arm]).astype(np.float64))

    def propensity(self, drawn: Drawn) -> PerRound:
        """Return the probability of each logged arm."""
        return np.asarray(self.propensities[drawn.prompt, drawn.arm])

    def value(self, target: PerArm) -> float:
        """Return the value of a policy, (n_prompts, n_arms)."""
        return float((target * self.mean).sum(axis=1).mean())

    def bound(self, target: PerArm) -> float:
        """Return the semiparametric bound on n times the variance of an estimate of a policy's value.

        E[ sum_t pi_t^2 sigma_t^2 / e_t ] + Var( sum_t pi_t mu_t ), the same for known and unknown propensities.

        References:
            Hahn (1998), Econometrica 66(2).
        """
        noise = (target**2 * self.mean * (1 - self.mean) / self.propensities).sum(axis=1).mean()
        return float(noise + (target * self.mean).sum(axis=1).var())


def overlap_world(overlap: Overlap, *, seed: int = 0) -> World:
    """Return a world of confounded logging with four arms, whose expected outcomes are not linear in the context.

    The logging policy leans by the first two features, which also drive the outcome, the more so the worse the overlap.
    The targets are greedy routers at twenty trade-offs between a noisy guess of the outcome and the arm's price, with
    5% of exploration: from the dearest arms to the cheapest one.
    """
    rng = np.random.default_rng([seed, 1])
    x = rng.normal(size=(N_PROMPTS, N_FEATURES))
    rank = np.linspace(-1, 1, N_ARMS)
    slopes = 0.7 * rng.normal(size=(N_FEATURES, N_ARMS))
    logit = 0.4 * rank + 0.8 * x[:, :1] - 0.5 * x[:, :1] * rank + x @ slopes / 2
    logit += 0.8 * np.sin(2 * x[:, 1:2] + np.arange(N_ARMS)) - 0.5 * (x[:, 2:3] ** 2 - 1) * rank
    mean = 1 / (1 + np.exp(-logit))
    leaning = softmax(-LEANING[overlap] * (x[:, :1] + 0.5 * x[:, 1:2] + 0.5) * rank)
    floor = LEAST_PROPENSITY[overlap]
    guess = mean + 0.15 * rng.normal(size=mean.shape)
    price = np.geomspace(0.05, 1.0, N_ARMS)
    best = [(guess - trade_off * price).argmax(axis=1) for trade_off in np.linspace(0.0, 1.0, N_POLICIES)]
    return World(
        context=x,
        mean=mean,
        propensities=floor + (1 - N_ARMS * floor) * leaning,
        least_propensity=floor,
        targets=np.stack([0.05 / N_ARMS + 0.95 * np.eye(N_ARMS)[chosen] for chosen in best]),
    )


def class_world(
    *,
    context: NDArray[np.float64],
    label: NDArray[np.int64],
    logger: ClassLogger,
    rng: np.random.Generator,
    target_greed: float = 0.9,
) -> World:
    """Return labelled rows as a world: an arm is a class, its outcome whether it is the row's.

    Two logits are learned from `SHARE_LEARNED` of the rows: the target's from all features; the logger's, weaker, from
    every third. The target chooses its class with probability `target_greed` plus an even share of the rest. The logger
    draws u ~ U(0, 1) a row and

        friendly:     chooses its class with probability 0.7 + 0.2 u, the others evenly;
        adversarial:  chooses its class with probability (1 - 0.7 - 0.2 u) / (K - 1), the others evenly;
        uniform:      chooses evenly.

    Args:
        context: Features, (n_rows, n_features).
        label: Class of each row, 0 to K - 1.
        logger: Who logs.
        rng: Draws the split and u.
        target_greed: In [0, 1]; 1 is a deterministic target.

    References:
        Dudik, Erhan, Langford and Li (2014), Statistical Science 29(4): the conversion; Farajtabar, Chow and
        Ghavamzadeh (2018), ICML: friendly and adversarial softening.
    """
    from sklearn.linear_model import LogisticRegression

    n_arms = int(label.max()) + 1
    shuffled = rng.permutation(label.size)
    cut = round(SHARE_LEARNED * label.size)
    learned, rest = shuffled[:cut], shuffled[cut:]
    few = np.arange(0, context.shape[1], 3)
    target = LogisticRegression(max_iter=500).fit(context[learned], label[learned]).predict(context[rest])
    habit = LogisticRegression(max_iter=500).fit(context[learned][:, few], label[learned])
    usual = habit.predict(context[rest][:, few])
    each = np.arange(rest.size)
    target_probs = np.full((rest.size, n_arms), (1 - target_greed) / n_arms)
    target_probs[each, target] += target_greed
    own = np.full(rest.size, 1 / n_arms)
    if logger != "uniform":
        own = 0.7 + 0.2 * rng.random(rest.size)
        if logger == "adversarial":
            own = (1 - own) / (n_arms - 1)
    propensities = np.repeat(((1 - own) / (n_arms - 1))[:, None], n_arms, axis=1)
    propensities[each, usual] = own
    return World(
        context=context[rest],
        mean=np.eye(n_arms)[label[rest]],
        propensities=propensities,
        least_propensity=float(propensities.min()),
        targets=target_probs[None],
    )


def draw_arms(propensities: PerArm, *, rng: np.random.Generator) -> ArmIndex:
    """Return one arm a row."""
    beyond = rng.random((len(propensities), 1)) * propensities.sum(axis=1, keepdims=True)
    drawn = (beyond >= propensities.cumsum(axis=1)).sum(axis=1)
    return np.asarray(np.minimum(drawn, propensities.shape[1] - 1), dtype=np.int64)


def softmax(logits: NDArray[np.float64]) -> PerArm:
    """Return softmax over arms."""
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def fourier_features(context: Context, *, n_features: int = 60, width: float = 2.0, seed: int = 0) -> Context:
    """Return random Fourier features, by which a ridge is a Gaussian kernel's ridge, nearly; and the context itself.

    References:
        Rahimi and Recht (2007), NeurIPS.
    """
    rng = np.random.default_rng([seed, 2])
    direction = rng.normal(size=(context.shape[1], n_features)) / width
    phase = rng.uniform(0, 2 * np.pi, n_features)
    return np.column_stack([context, np.cos(context @ direction + phase)])


class Replications(NamedTuple):
    """An estimator on each of several logs."""

    value: NDArray[np.float64]
    """(n_logs,)"""
    standard_error: NDArray[np.float64]
    """(n_logs,)"""


def replications(estimate: Estimate, *, n_rounds: int) -> Replications:
    """Return value and standard error of each consecutive stretch of rounds, as of an estimate on that stretch alone.

    The estimator's own terms are cut and added again, so that one call serves many logs.
    """
    value, influence = influences(estimate, n_rounds=n_rounds)
    return Replications(value, influence.std(axis=1, ddof=1) / np.sqrt(n_rounds))


def influences(estimate: Estimate, *, n_rounds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n_logs,) values and (n_logs, n_rounds) influences of each consecutive stretch of rounds."""
    n_logs = estimate.n_rounds // n_rounds
    value, influence = np.zeros(n_logs), np.zeros((n_logs, n_rounds))
    for term in estimate.terms:
        numerator, denominator = (part.reshape(n_logs, n_rounds) for part in term)
        mean = denominator.mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = numerator.mean(axis=1) / mean
            influence += (numerator - ratio[:, None] * denominator) / mean[:, None]
        value += ratio
    return value, influence


def stretch(estimate: Estimate, rows: slice) -> Estimate:
    """Return the estimate on these rounds alone."""
    return Estimate(
        name=estimate.name,
        terms=tuple(Ratio(term.numerator[rows], term.denominator[rows]) for term in estimate.terms),
        bias_bound=estimate.bias_bound,
        omitted=None if estimate.omitted is None else estimate.omitted[rows],
        parameter=estimate.parameter,
    )
