"""Synthetic one-arm logs of known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.types import ArmIndex, Context, PerArm, PerRound

FALSE_FAILURE_Z = 4.89
"""Two-sided normal quantile of one in a million: 100 seeds of ten such checks fail once in a thousand full runs."""


@dataclass(frozen=True, kw_only=True)
class OneArmLog:
    """Logged rounds with what a real log does not hold.

    Attributes:
        context: Features.
        state: Which prompt, where there are finitely many; else the row.
        arm: Logged arm.
        outcome: Its outcome.
        propensities: The logging policy's probability of every arm.
        mean: Expected outcome of every arm.
    """

    context: Context
    state: ArmIndex
    arm: ArmIndex
    outcome: PerRound
    propensities: PerArm
    mean: PerArm

    @property
    def propensity(self) -> PerRound:
        """Probability of the logged arm."""
        return self.propensities[np.arange(self.arm.size), self.arm]

    def rows(self, rows: slice | NDArray[np.int64]) -> OneArmLog:
        """Return these rounds only."""
        return OneArmLog(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class FiniteWorld:
    """Finitely many prompts, so that every expectation is a sum.

    Attributes:
        frequency: (n_states,) how often each prompt comes.
        mean: (n_states, n_arms) probability that an arm answers it well.
        propensities: (n_states, n_arms) the logging policy.
    """

    frequency: NDArray[np.float64]
    mean: PerArm
    propensities: PerArm

    @classmethod
    def random(cls, *, n_states: int, n_arms: int, least_propensity: float, rng: np.random.Generator) -> FiniteWorld:
        """Return a world whose logger prefers good arms, so that outcomes are confounded."""
        mean = rng.uniform(0.1, 0.9, (n_states, n_arms))
        preference = np.exp(2 * mean)
        preference /= preference.sum(axis=1, keepdims=True)
        return cls(
            frequency=rng.dirichlet(np.full(n_states, 5.0)),
            mean=mean,
            propensities=least_propensity + (1 - n_arms * least_propensity) * preference,
        )

    def draw(self, n_rounds: int, *, rng: np.random.Generator) -> OneArmLog:
        """Draw rounds of yes-or-no outcomes."""
        state = rng.choice(self.frequency.size, n_rounds, p=self.frequency)
        arm = draw_arms(self.propensities[state], rng=rng)
        mean = self.mean[state]
        return OneArmLog(
            context=np.eye(self.frequency.size)[state],
            state=state,
            arm=arm,
            outcome=(rng.random(n_rounds) < mean[np.arange(n_rounds), arm]).astype(np.float64),
            propensities=self.propensities[state],
            mean=mean,
        )

    def value(self, target: PerArm) -> float:
        """Return the true value of a policy given as a table, (n_states, n_arms)."""
        return float(self.frequency @ (target * self.mean).sum(axis=1))


def draw_arms(propensities: PerArm, *, rng: np.random.Generator) -> ArmIndex:
    """Draw one arm a row."""
    beyond = rng.random((len(propensities), 1)) >= propensities.cumsum(axis=1)
    return np.minimum(beyond.sum(axis=1), propensities.shape[1] - 1).astype(np.int64)


def softmax(logits: NDArray[np.float64]) -> PerArm:
    """Return softmax over the last axis."""
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def linear(
    *, n_rounds: int, n_features: int, n_arms: int, rng: np.random.Generator, strength: float = 1.0, noise: float = 0.1
) -> OneArmLog:
    """Draw rounds of linear expected outcomes and a logit logger of this strength, confounded by the first feature."""
    context = rng.normal(size=(n_rounds, n_features))
    slopes = rng.normal(size=(n_features, n_arms)) / np.sqrt(n_features)
    rank = np.linspace(-1, 1, n_arms) if n_arms > 1 else np.zeros(1)
    propensities = softmax(strength * context[:, :1] * rank)
    arm = draw_arms(propensities, rng=rng)
    mean = 0.5 + context @ slopes
    return OneArmLog(
        context=context,
        state=np.arange(n_rounds),
        arm=arm,
        outcome=mean[np.arange(n_rounds), arm] + noise * rng.normal(size=n_rounds),
        propensities=propensities,
        mean=mean,
    )
