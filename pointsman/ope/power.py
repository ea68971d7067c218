"""How many rounds, or how much exploration, it takes to tell two policies apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.types import ArmIndex, Eligible, PerArm, PerRound


@dataclass(frozen=True, kw_only=True, eq=False)
class ContrastNoise:
    """Where the noise of a doubly robust difference comes from, so that it can be told for another logging policy.

    With d_i(t) = pi_1(t | x_i) - pi_0(t | x_i), one round's contribution is
    sum_t d_i(t) mu_t(x_i) + d_i(t_i) (y_i - mu_{t_i}(x_i)) / e_i, and of its variance only

        E[ d(t_i)^2 (y_i - mu_{t_i}(x_i))^2 / e_i^2 ]

    depends on the logging policy: logged by e' instead, this log's 1 / e_i^2 becomes 1 / (e_i e'_i).

    Attributes:
        influence: (n_rounds,) influence of the difference on this log.
        squared_residual: (n_rounds,) d(t_i)^2 (y_i - mu_{t_i}(x_i))^2.
        propensity: Probability of the logged arm.
        uniform: (n_rounds,) probability of the logged arm if all eligible arms were equally likely.
    """

    influence: PerRound
    squared_residual: PerRound
    propensity: PerRound
    uniform: PerRound

    def standard_deviation(self, *, exploration: float = 0.0) -> float:
        """Return the standard deviation of one round's contribution.

        Args:
            exploration: Share of requests that would go to an arm drawn evenly among the eligible ones, the others to
                the policy that wrote the log: e' = (1 - exploration) e + exploration / n_eligible.

        Raises:
            InvalidParameterError: `exploration` lies outside [0, 1].
        """
        if not 0 <= exploration <= 1:
            raise InvalidParameterError(f"exploration must be in [0, 1]; got {exploration}")
        logged = (1 - exploration) * self.propensity + exploration * self.uniform
        now = float((self.squared_residual / self.propensity**2).mean())
        then = float((self.squared_residual / (self.propensity * logged)).mean())
        # With wrong predictions the two parts may cancel, so only their sum has to be positive, in a large sample.
        return math.sqrt(max(float(self.influence.var(ddof=1)) - now + then, 0.0))


def contrast_noise(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    eligible: Eligible,
    predicted: PerArm,
    target_probs: PerArm,
    baseline_probs: PerArm,
) -> ContrastNoise:
    """Return the noise of the doubly robust difference of two policies on the same rounds.

    Args:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        eligible: Arms that could have been chosen.
        predicted: Out-of-fold predicted outcome of every arm.
        target_probs: The policy's probability of every arm.
        baseline_probs: The other's.

    Raises:
        InvalidParameterError: There are fewer than two rounds.
    """
    if arm.size < 2:
        raise InvalidParameterError(f"a variance needs at least two rounds; got {arm.size}")
    rows = np.arange(arm.size)
    change = target_probs - baseline_probs
    own = change[rows, arm]
    residual = np.where(own != 0, own * (outcome - predicted[rows, arm]), 0.0)
    direct = np.where(change != 0, change * predicted, 0.0).sum(axis=1)
    contribution = direct + residual / propensity
    return ContrastNoise(
        influence=contribution - contribution.mean(),
        squared_residual=residual**2,
        propensity=propensity,
        uniform=1 / eligible.sum(axis=1),
    )


def rounds_needed(*, standard_deviation: float, effect: float, level: float = 0.95, power: float = 0.8) -> int:
    """Return the rounds at which a difference of this size is told from zero with this probability.

    n = ((z_{1 - (1 - level) / 2} + z_power) sd / effect)^2, rounded up: the two-sided normal test.

    Args:
        standard_deviation: Of one round's contribution to the difference, in its unit.
        effect: The difference to be told from zero, in the same unit.
        level: One minus the test's size.
        power: Probability of telling.

    Raises:
        InvalidParameterError: `effect` is zero or not finite, or `level` or `power` lies outside (0, 1).
    """
    if not math.isfinite(effect) or effect == 0:
        raise InvalidParameterError(f"effect must be finite and other than zero; got {effect}")
    return max(2, math.ceil((_z(level=level, power=power) * standard_deviation / abs(effect)) ** 2))


def detectable_effect(*, standard_deviation: float, n_rounds: int, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest difference that so many rounds tell from zero with this probability: `rounds_needed` solved.

    Raises:
        InvalidParameterError: `n_rounds` is below one, or `level` or `power` lies outside (0, 1).
    """
    if n_rounds < 1:
        raise InvalidParameterError(f"n_rounds must be at least 1; got {n_rounds}")
    return _z(level=level, power=power) * standard_deviation / math.sqrt(n_rounds)


def _z(*, level: float, power: float) -> float:
    for name, value in (("level", level), ("power", power)):
        if not 0 < value < 1:
            raise InvalidParameterError(f"{name} must be in (0, 1); got {value}")
    normal = NormalDist()
    return normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
