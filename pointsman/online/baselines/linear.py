"""Linear bandits that share nothing between arms: epsilon-greedy, LinUCB and linear Thompson sampling."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.base import ArmPrior, OnlinePolicy, Vector
from pointsman.online.baselines.heads import ArmHeads
from pointsman.online.draw import best_probabilities, explored
from pointsman.online.features import LEARN_AT, Components
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, State, under

N_COMPONENTS = 32
"""Components kept where none is said: with one answer a prompt, an arm's own regression does not bear many more."""


class LinearArms(OnlinePolicy):
    """Chooses by a linear regression of quality and one of cost for every arm, apart from all others (`ArmHeads`).

    Args:
        n_arms: Number of arms.
        n_features: Of the context.
        n_components: Principal components of the context regressed on; all of them where None.
        exploration: How much it explores, >= 0; each kind of bandit says what it multiplies.
        floor: Probability spread evenly over the eligible arms, in [0, 1).
        components: The components, where the distribution of prompts is known beforehand; learned from the first
            contexts where None.
    """

    def __init__(
        self,
        *,
        n_arms: int,
        n_features: int,
        n_components: int | None = N_COMPONENTS,
        exploration: float = 0.5,
        floor: float = 0.02,
        components: Components | None = None,
    ) -> None:
        check_ranges(exploration=(exploration, 0, math.inf), floor=(floor, 0, 1))
        self.n_arms, self.n_features, self.exploration, self.floor = n_arms, n_features, exploration, floor
        if components is None:
            n_kept = n_features if n_components is None else n_components
            components = Components(n_features=n_features, n_components=n_kept)
        self.components = components
        self.heads = ArmHeads(n_arms=n_arms, n_columns=self.components.n_components)
        self._seen: list[tuple[Vector, int, float, float, float]] = []

    @abstractmethod
    def choose(self, mean: Vector, deviation: Vector, eligible: NDArray[np.bool_]) -> Vector:
        """Return the probability of every arm from what is believed of its utility."""

    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return the probability of every arm; zero where not eligible."""
        mean, variance = self.heads.utility(self.components(context), trade_off)
        return self.choose(mean, np.sqrt(variance), eligible)

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
        cost_usd = self.heads.at_first_price(arm, cost_usd)
        if not self.components.is_settled:
            if len(self._seen) == LEARN_AT[self.components.version]:
                self._relearn()
            if not self.components.is_settled:
                self._seen.append((np.asarray(context, dtype=np.float64), arm, quality, cost_usd, weight))
        self.heads.learn(self.components(context), arm, quality=quality, cost_usd=cost_usd, weight=weight)

    def _relearn(self) -> None:
        """Learn the components anew from all contexts so far, and with them all that was learned of the arms."""
        context = np.array([each[0] for each in self._seen])
        arm = np.array([each[1] for each in self._seen])
        quality, cost_usd, weight = np.array([each[2:] for each in self._seen]).T
        self.components.learn(context)
        self.heads = self.heads.restarted()
        self.heads.learn_many(self.components(context), arm, quality=quality, cost_usd=cost_usd, weight=weight)
        if self.components.is_settled:
            self._seen.clear()

    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Take in a new arm, with regressions of its own."""
        self.n_arms += 1
        return self.heads.add_arm(prior)

    def set_price(self, arm: int, factor: float) -> None:
        """Take an arm's price to be so many times that at which its costs were learned: from the next request on."""
        self.heads.set_price(arm, factor)

    def state(self) -> tuple[State, Arrays]:
        """Return the settings and every array."""
        arrays: Arrays = {
            "seen_context": np.array([each[0] for each in self._seen]).reshape(-1, self.n_features),
            "seen_outcome": np.array([each[1:] for each in self._seen], dtype=np.float64).reshape(-1, 4),
        }
        arrays |= {f"components.{key}": array for key, array in self.components.state().items()}
        arrays |= {f"heads.{key}": array for key, array in self.heads.state().items()}
        values: State = {
            "n_arms": self.n_arms,
            "n_features": self.n_features,
            "exploration": self.exploration,
            "floor": self.floor,
        }
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        options: dict[str, Any] = dict(values)
        policy = cls(**options, components=Components.from_state(under("components.", arrays)))
        policy.heads = ArmHeads.from_state(under("heads.", arrays))
        policy._seen = [
            (context, int(arm), float(quality), float(cost_usd), float(weight))
            for context, (arm, quality, cost_usd, weight) in zip(
                arrays["seen_context"], arrays["seen_outcome"], strict=True
            )
        ]
        return policy


class EpsilonGreedy(LinearArms):
    """The arm of highest predicted utility, but with probability epsilon any eligible arm.

    epsilon_n = min(1, max(floor, exploration K / n)) after n answers: every arm gets some `exploration` log n answers
    by chance, and the floor for ever. Options are those of `LinearArms`.

    References:
        Auer, Cesa-Bianchi and Fischer (2002), Machine Learning 47: epsilon_n-greedy.
    """

    name = "epsilon-greedy"

    def choose(self, mean: Vector, deviation: Vector, eligible: NDArray[np.bool_]) -> Vector:
        """Return 1 - epsilon for the best predicted arm, above epsilon spread evenly."""
        del deviation
        n_answers = sum(head.n_updates for head in self.heads.quality)
        fading = self.exploration * np.count_nonzero(eligible) / max(n_answers, 1)
        return explored(
            largest_probabilities(mean, eligible), eligible=eligible, floor=min(1.0, max(self.floor, fading))
        )


class LinUCB(LinearArms):
    """The arm of highest mean + exploration x standard deviation of its utility, above the floor.

    Quality and cost are regressed apart. At a fixed trade-off that predicts what LinUCB on the utility predicts, and
    it is the stronger form where the trade-off differs from request to request (`ArmHeads`). The floor makes the
    propensity of every choice known and positive, which LinUCB's argmax alone does not have. Options are those of
    `LinearArms`; `exploration` is LinUCB's alpha, in posterior standard deviations.

    References:
        Li, Chu, Langford and Schapire (2010), WWW: LinUCB with disjoint linear models.
    """

    name = "lin-ucb"

    def choose(self, mean: Vector, deviation: Vector, eligible: NDArray[np.bool_]) -> Vector:
        """Return one for the arm of the highest upper bound, above the floor."""
        bound = mean + self.exploration * deviation
        return explored(largest_probabilities(bound, eligible), eligible=eligible, floor=self.floor)


class LinThompson(LinearArms):
    """Every arm with the probability that its utility is the largest, each arm's regression apart from the others'.

    Options are those of `LinearArms`; `exploration` multiplies posterior standard deviations, 1 is Thompson sampling.

    References:
        Agrawal and Goyal (2013), ICML: Thompson sampling for contextual bandits with linear payoffs.
    """

    name = "lin-thompson"

    def choose(self, mean: Vector, deviation: Vector, eligible: NDArray[np.bool_]) -> Vector:
        """Return Thompson's probabilities, above the floor."""
        probabilities = best_probabilities(mean, self.exploration * deviation, eligible)
        return explored(probabilities, eligible=eligible, floor=self.floor)


def largest_probabilities(score: Vector, eligible: NDArray[np.bool_]) -> Vector:
    """Return the even distribution over the eligible arms of the largest score: one arm, but for ties."""
    largest = eligible & (score >= score[eligible].max())
    return np.asarray(largest / np.count_nonzero(largest))


def check_ranges(**ranges: tuple[float, float, float]) -> None:
    """Raise InvalidParameterError where one of these, `name=(value, low, high)`, lies outside its range."""
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise InvalidParameterError(f"{name} must be in [{low}, {high}]; got {value}")
