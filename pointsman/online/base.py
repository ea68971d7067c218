"""What an online policy is: it decides with a known propensity, and learns from each answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.draw import draw
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, State

Vector = NDArray[np.float64]
"""(n_features,) context of one prompt, or (n_arms,) one number an arm."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An arm drawn, and the probability it was drawn with.

    Attributes:
        arm: Its index.
        propensity: Its probability over the arms that were eligible, exactly that of the draw.
        probabilities: (n_arms,) those of all arms; zero where not eligible.
    """

    arm: int
    propensity: float
    probabilities: Vector


@dataclass(frozen=True, kw_only=True)
class ArmPrior:
    """What is believed of a new arm before its first answer.

    Attributes:
        quality: Expected quality of its answers, in [0, 1]; that of the other arms where None.
        cost_usd: Expected cost of an answer, in USD; that of the other arms where None.
        like: Arm of the same family, whose answers it is expected to resemble; none where None.
        n_rounds: How many answers the belief is worth, >= 0: how soon the arm's own answers outweigh it.
    """

    quality: float | None = None
    cost_usd: float | None = None
    like: int | None = None
    n_rounds: float = 10.0

    def __post_init__(self) -> None:
        if self.quality is not None and not 0 <= self.quality <= 1:
            raise InvalidParameterError(f"quality of an arm's prior must be in [0, 1]; got {self.quality}")
        if self.cost_usd is not None and not (math.isfinite(self.cost_usd) and self.cost_usd >= 0):
            raise InvalidParameterError(f"cost_usd of an arm's prior must be finite and >= 0; got {self.cost_usd}")
        if not (math.isfinite(self.n_rounds) and self.n_rounds >= 0):
            raise InvalidParameterError(f"n_rounds of an arm's prior must be finite and >= 0; got {self.n_rounds}")


class OnlinePolicy(ABC):
    """Chooses an arm for one prompt at a time, and learns from what came of it.

    One policy serves every trade-off: it learns quality and cost, or its baseline's single reward, and combines them
    when it decides. Feedback may come late, out of order, or never; quality and cost may come apart.
    """

    name: ClassVar[str]

    n_arms: int
    n_features: int

    @abstractmethod
    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return the probability of every arm; zero where not eligible."""

    @abstractmethod
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
        """Learn from an answer.

        Args:
            context: As given to the decision.
            arm: The arm that answered, and had been chosen.
            quality: Of the answer, in [0, 1]; NaN where not known.
            cost_usd: Of the answer; NaN where not known.
            trade_off: The decision's, for policies that learn one reward; the others have no use for it.
            weight: Of the quality, in (0, 1]: less than one for a label that is in doubt.
        """

    def revise(self, context: Vector, arm: int, *, before: float, after: float, weight: float = 1.0) -> None:
        """Learn that a quality, which was learned as `before`, is `after`.

        Where a policy cannot take back what it has learned, the new word is one more outcome.
        """
        del before
        self.update(context, arm, quality=after, weight=weight)

    @abstractmethod
    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Take in a new arm, as the last; return its index. A few prompts scored beforehand go to `update`.

        An arm that goes is no business of the policy: it is not eligible any more.

        Args:
            prior: What is believed of it; as little as of the first arms where None.
        """

    def set_price(self, arm: int, factor: float) -> None:  # noqa: B027 - most baselines have nothing to do here
        """Take an arm's price to be so many times that of the beginning, from the next request on.

        A policy that learns one reward has no use for it, and finds out from the costs that it sees.
        """

    def decide(
        self,
        context: Vector,
        trade_off: TradeOff,
        eligible: NDArray[np.bool_] | None = None,
        *,
        rng: np.random.Generator,
    ) -> Choice:
        """Draw an arm from exactly `probabilities`.

        Raises:
            InvalidParameterError: No arm is eligible.
        """
        allowed = np.ones(self.n_arms, dtype=np.bool_) if eligible is None else eligible
        if not np.count_nonzero(allowed):
            raise InvalidParameterError("eligible must hold at least one arm; got none")
        probabilities = self.probabilities(context, trade_off, allowed)
        arm = draw(probabilities, rng)
        return Choice(arm=arm, propensity=float(probabilities[arm]), probabilities=probabilities)

    @abstractmethod
    def state(self) -> tuple[State, Arrays]:
        """Return all that `from_state` needs: JSON-ready values and arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
