"""Logs of known truth: classification data as bandit feedback, and logs as large as one likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.worlds import CLASS_LOGGERS, ClassLogger, class_world, draw_arms
from benchmarks.studies.worlds import SHARE_LEARNED as SHARE_LEARNED
from pointsman.types import ArmIndex, Context, PerArm, PerRound

Logger: TypeAlias = ClassLogger
LOGGERS = CLASS_LOGGERS

N_DIRECTIONS = 24


@dataclass(frozen=True, kw_only=True)
class BanditLog:
    """Logged rounds, one target policy, and its true value.

    Attributes:
        context: Features.
        arm: Logged arm.
        outcome: Its outcome.
        propensities: The logging policy's probability of every arm.
        target_probs: The target policy's.
        truth: The target's value: of these rounds for classes, of the population for synthetic worlds.
    """

    context: Context
    arm: ArmIndex
    outcome: PerRound
    propensities: PerArm
    target_probs: PerArm
    truth: float

    @property
    def propensity(self) -> PerRound:
        """Probability of the logged arm."""
        return np.asarray(self.propensities[np.arange(self.arm.size), self.arm])


def bandit_from_classes(
    *,
    context: NDArray[np.float64],
    label: NDArray[np.int64],
    logger: Logger,
    rng: np.random.Generator,
    target_greed: float = 0.9,
) -> BanditLog:
    """Return one round for every row of `class_world`: arms are classes, and outcomes say whether it is the row's.

    Args:
        context: Features, (n_rows, n_features).
        label: Class of each row, 0 to K - 1.
        logger: Who logs.
        rng: Draws the split, the logger's mood and the arms.
        target_greed: In [0, 1]; 1 is a deterministic target.
    """
    world = class_world(context=context, label=label, logger=logger, rng=rng, target_greed=target_greed)
    arm = draw_arms(world.propensities, rng=rng)
    return BanditLog(
        context=world.context,
        arm=arm,
        outcome=np.asarray(world.mean[np.arange(arm.size), arm]),
        propensities=world.propensities,
        target_probs=world.targets[0],
        truth=world.value(world.targets[0]),
    )


def large_log(n_rounds: int, *, n_features: int, n_arms: int, seed: int = 0) -> BanditLog:
    """Return a log of yes-or-no outcomes with contexts on the unit sphere, mostly in `N_DIRECTIONS` directions.

    Each arm's expected outcome is a logistic function of its own line in the context; the logger leans to late arms
    where the first direction is large. The target is greedy with wrong lines; its truth is that of these rounds.
    """
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((N_DIRECTIONS, n_features), dtype=np.float32) / np.sqrt(n_features)
    place = rng.standard_normal((n_rounds, N_DIRECTIONS), dtype=np.float32)
    context = place @ directions
    context += np.float32(0.3 / np.sqrt(n_features)) * rng.standard_normal((n_rounds, n_features), dtype=np.float32)
    context /= np.linalg.norm(context, axis=1, keepdims=True)
    rank = np.linspace(-1, 1, n_arms)
    leaning = np.exp((place[:, :1] - 0.5) * rank)
    propensities = 0.95 * leaning / leaning.sum(axis=1, keepdims=True) + 0.05 / n_arms
    slopes = 2 * rng.standard_normal((n_features, n_arms), dtype=np.float32)
    expected = 1 / (1 + np.exp(-(0.8 * rank + context @ slopes)))
    arm = draw_arms(propensities, rng=rng)
    (target_probs,) = policies(context, n_arms=n_arms, n_policies=1, seed=seed)
    return BanditLog(
        context=context,
        arm=arm,
        outcome=(rng.random(n_rounds) < expected[np.arange(n_rounds), arm]).astype(np.float64),
        propensities=propensities,
        target_probs=target_probs,
        truth=float((target_probs * expected).sum(axis=1).mean()),
    )


def policies(context: Context, *, n_arms: int, n_policies: int, seed: int = 0) -> list[PerArm]:
    """Return target policies: each greedy with a line of its own for every arm, an even tenth of the time at random."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for _ in range(n_policies):
        slopes = rng.standard_normal((context.shape[1], n_arms), dtype=np.float32)
        probabilities = np.full((len(context), n_arms), 0.1 / n_arms)
        probabilities[np.arange(len(context)), (context @ slopes).argmax(axis=1)] += 0.9
        found.append(probabilities)
    return found
