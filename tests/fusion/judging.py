"""Judged rounds of known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.fusion.base import JudgedRounds


@dataclass(frozen=True, kw_only=True, eq=False)
class Judging:
    """Rounds with what they do not hold.

    Attributes:
        rounds: The rounds.
        expected: (n_rounds,) E[gold | x, arm].
        gap: (n_rounds, n_judges) E[gold - judge | x, arm].
    """

    rounds: JudgedRounds
    expected: NDArray[np.float64]
    gap: NDArray[np.float64]


def judging(
    *,
    n_rounds: int,
    n_gold: int,
    rng: np.random.Generator,
    n_arms: int = 3,
    n_judges: int = 1,
    n_features: int = 3,
    paired: bool = True,
    slopes: float = 0.04,
    noise: float = 0.03,
) -> Judging:
    """Draw rounds in which gold and what the judges are short of it are linear in the prompt, with slopes of each arm.

    Labels keep within [0, 1] without clipping, so that what is linear stays so. Gold rounds are drawn at random; they
    have the judges' labels, too, where `paired`.
    """
    x = rng.uniform(-1, 1, (n_rounds, n_features))
    arm = rng.integers(n_arms, size=n_rounds)
    level = rng.uniform(-0.05, 0.05, n_arms)
    expected = 0.5 + level[arm] + x @ np.full(n_features, 0.02)
    constant = rng.uniform(-0.1, 0.1, (n_arms, n_judges))
    shape = (n_arms, n_judges, n_features)
    slope = rng.choice([-slopes, slopes], shape) * rng.uniform(0.5, 1, shape)
    gap = constant[arm] + np.einsum("ijk,ik->ij", slope[arm], x)
    gold = expected + rng.uniform(-noise, noise, n_rounds) * np.sqrt(3)
    judged = expected[:, None] - gap + rng.uniform(-noise, noise, (n_rounds, n_judges)) * np.sqrt(3)
    has_gold = rng.permutation(n_rounds) < n_gold
    rounds = JudgedRounds(
        context=x,
        arm=arm,
        judged=judged if paired else np.where(has_gold[:, None], np.nan, judged),
        gold=np.where(has_gold, gold, np.nan),
        group=np.arange(n_rounds),
        arms=[f"arm {t}" for t in range(n_arms)],
        judges=[f"judge {j}" for j in range(n_judges)],
    )
    return Judging(rounds=rounds, expected=expected, gap=gap)
