"""What the regret-minimising policies minimise, as functions of the logits, with analytic gradients.

Every objective here is a mean over rounds, so a full batch and a mini-batch use the same code, and a linear head and a
network differ only in how the gradient with respect to the logits is carried on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.policies.base import greedy
from pointsman.types import ArmIndex, Eligible, PerArm, PerRound


def normalised_utility(*, quality: PerArm, cost: PerArm, cost_weight: PerRound | float) -> PerArm:
    """Return (1 - w) quality - w cost, which is utility / (1 + lambda tau) for w = lambda tau / (1 + lambda tau).

    Dividing by 1 + lambda tau changes no arg max and keeps the regrets at all trade-offs, infinity included, on one
    scale, so that one penalty and one held-out value serve them all.

    Args:
        quality: Quality of every arm.
        cost: Cost of every arm over the cost scale tau.
        cost_weight: w in [0, 1], one for all rounds or one a round.
    """
    weight = np.asarray(cost_weight, dtype=np.float64)[..., None]
    return np.asarray((1 - weight) * quality - weight * cost)


def softmax(logits: PerArm, *, eligible: Eligible) -> PerArm:
    """Return exp(logits) over its row sum, over the eligible arms."""
    probability = np.where(eligible, logits, -np.inf)
    probability -= probability.max(axis=1, keepdims=True)
    np.exp(probability, out=probability)
    probability /= probability.sum(axis=1, keepdims=True)
    return probability


class Objective(Protocol):
    """A mean over rounds of a function of the logits."""

    @property
    def n_outputs(self) -> int:
        """Number of columns of the outputs it takes."""

    def take(self, rounds: ArmIndex) -> Self:
        """Return the objective of these rounds alone."""

    def loss(self, outputs: PerArm) -> tuple[float, PerArm]:
        """Return the loss and its gradient with respect to the outputs, (n_rounds, n_outputs)."""

    def value(self, outputs: PerArm) -> float:
        """Return how good the outputs are when they choose: higher is better, comparable over objectives."""


@dataclass(frozen=True, kw_only=True)
class SoftmaxRegret:
    """mean_i sum_t p_i(t) [max_s G_i(s) - G_i(t)], p = softmax(logits / temperature).

    The maximum does not depend on the logits, so the gradient is that of minus the doubly robust value of the policy p:
    p_i(t) [r_i(t) - sum_s p_i(s) r_i(s)] / (n temperature), r the bracket.

    Attributes:
        gain: G, pseudo-utility of every arm at one trade-off a round.
        eligible: Arms that could have been chosen; maximum and softmax run over these.
        temperature: > 0; towards 0 the loss becomes the regret of the arg max.

    References:
        Tsiourvas, Sun and Perakis (2025), NeurIPS: RM-Softmax.
    """

    gain: PerArm
    eligible: Eligible
    temperature: float = 1.0

    @property
    def n_outputs(self) -> int:
        """One logit an arm."""
        return int(self.gain.shape[1])

    @cached_property
    def regret(self) -> PerArm:
        """max_s G_i(s) - G_i(t), the maximum over the eligible arms."""
        return np.asarray(np.where(self.eligible, self.gain, -np.inf).max(axis=1, keepdims=True) - self.gain)

    def take(self, rounds: ArmIndex) -> SoftmaxRegret:
        """Return the objective of these rounds alone."""
        return SoftmaxRegret(gain=self.gain[rounds], eligible=self.eligible[rounds], temperature=self.temperature)

    def loss(self, outputs: PerArm) -> tuple[float, PerArm]:
        """Return the mean softmax regret and its gradient."""
        probability = softmax(outputs / self.temperature, eligible=self.eligible)
        mean_regret = np.einsum("it,it->i", probability, self.regret)
        gradient = self.regret - mean_regret[:, None]
        gradient *= probability
        gradient /= self.temperature * len(outputs)
        return float(mean_regret.mean()), gradient

    def value(self, outputs: PerArm) -> float:
        """Return the doubly robust value of choosing the arm of highest logit."""
        return float((greedy(outputs, eligible=self.eligible) * self.gain).sum(axis=1).mean())


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """-mean_i log p_i(label_i), p = softmax(logits) over the eligible arms.

    Attributes:
        label: Arm to choose, one a round.
        eligible: Arms that could have been chosen.
        gain: Pseudo-utility by which held-out choices are judged; where None, by the likelihood of the labels.
    """

    label: ArmIndex
    eligible: Eligible
    gain: PerArm | None = None

    @classmethod
    def to_best(cls, *, gain: PerArm, eligible: Eligible) -> CrossEntropy:
        """Return the cross-entropy to argmax_t G_i(t) over the eligible arms: RM-Classification.

        Regret is at most its largest value times the error rate of such a classifier.

        References:
            Tsiourvas, Sun and Perakis (2025), NeurIPS: RM-Classification.
        """
        return cls(label=np.where(eligible, gain, -np.inf).argmax(axis=1), eligible=eligible, gain=gain)

    @property
    def n_outputs(self) -> int:
        """One logit an arm."""
        return int(self.eligible.shape[1])

    def take(self, rounds: ArmIndex) -> CrossEntropy:
        """Return the objective of these rounds alone."""
        gain = None if self.gain is None else self.gain[rounds]
        return CrossEntropy(label=self.label[rounds], eligible=self.eligible[rounds], gain=gain)

    def loss(self, outputs: PerArm) -> tuple[float, PerArm]:
        """Return the mean cross-entropy and its gradient."""
        probability = softmax(outputs, eligible=self.eligible)
        row = np.arange(len(outputs))
        # A linear head can drive a label's probability below the smallest number while it searches along a line.
        likelihood = np.maximum(probability[row, self.label], np.finfo(np.float64).tiny)
        gradient = probability
        gradient[row, self.label] -= 1
        return float(-np.log(likelihood).mean()), gradient / len(outputs)

    def value(self, outputs: PerArm) -> float:
        """Return the doubly robust value of choosing the arm of highest logit, or the mean log-likelihood."""
        if self.gain is None:
            return -self.loss(outputs)[0]
        return float((greedy(outputs, eligible=self.eligible) * self.gain).sum(axis=1).mean())


@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """Mean softmax regret over trade-offs drawn in an interval, of logits (1 - s) f_l + s f_u.

    Attributes:
        draws: For each draw, s in [0, 1] of every round and the regret at the trade-off that lies there.

    References:
        Tsiourvas, Sun and Perakis (2025), NeurIPS: RM-Interval.
    """

    draws: tuple[tuple[PerRound, SoftmaxRegret], ...]

    @property
    def n_outputs(self) -> int:
        """Two logits an arm: those at the interval's lower end, then those at its upper end."""
        return 2 * self.draws[0][1].n_outputs

    def take(self, rounds: ArmIndex) -> Interpolated:
        """Return the objective of these rounds alone."""
        return Interpolated(draws=tuple((place[rounds], regret.take(rounds)) for place, regret in self.draws))

    def loss(self, outputs: PerArm) -> tuple[float, PerArm]:
        """Return the mean softmax regret over the draws and its gradient."""
        total = 0.0
        gradient = np.zeros_like(outputs, dtype=np.float64)
        n_arms = outputs.shape[1] // 2
        for place, regret in self.draws:
            loss, inner = regret.loss(interpolate(outputs, place=place))
            total += loss
            gradient[:, :n_arms] += (1 - place)[:, None] * inner
            gradient[:, n_arms:] += place[:, None] * inner
        return total / len(self.draws), gradient / len(self.draws)

    def value(self, outputs: PerArm) -> float:
        """Return the doubly robust value of choosing the arm of highest logit, over the draws."""
        values = [regret.value(interpolate(outputs, place=place)) for place, regret in self.draws]
        return float(np.mean(values))


def interpolate(outputs: PerArm, *, place: PerRound | float) -> PerArm:
    """Return (1 - s) f_l + s f_u for outputs [f_l, f_u] side by side and s = `place`."""
    n_arms = outputs.shape[1] // 2
    s: NDArray[np.float64] = np.asarray(place, dtype=np.float64)[..., None]
    return np.asarray((1 - s) * outputs[:, :n_arms] + s * outputs[:, n_arms:])
