"""What a policy is: one contract for everything that chooses an arm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError, NotFittedError
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, Arrays, Context, Eligible, PerArm, State


def greedy(utility: PerArm, *, eligible: Eligible | None = None, cost_usd: PerArm | None = None) -> PerArm:
    """Return probability one for the eligible arm of highest utility in each row.

    Ties go to the cheaper arm, then to the lower column: a random tie-break would make the propensity wrong.

    Args:
        utility: Utility of every arm, in quality points.
        eligible: Arms that may be chosen; all where None.
        cost_usd: Cost that breaks ties; none where None.

    Returns:
        Probabilities; each row holds a single one.

    Raises:
        InvalidParameterError: A row has no eligible arm.
    """
    utility = np.array(utility, dtype=np.float64)
    if eligible is not None:
        check_eligible(eligible, shape=utility.shape)
        utility[~eligible] = -np.inf
    if cost_usd is None:
        chosen = utility.argmax(axis=1)
    else:
        best = utility == utility.max(axis=1, keepdims=True)
        chosen = np.where(best, np.nan_to_num(cost_usd), np.inf).argmin(axis=1)
    probabilities = np.zeros_like(utility)
    probabilities[np.arange(len(utility)), chosen] = 1.0
    return probabilities


def check_eligible(eligible: Eligible, *, shape: tuple[int, ...]) -> None:
    """Raise InvalidParameterError unless the mask has this shape and an arm in every row."""
    if eligible.shape != shape:
        raise InvalidParameterError(f"eligible must have shape {shape}; got {eligible.shape}")
    empty = ~eligible.any(axis=1)
    if empty.any():
        raise InvalidParameterError(
            f"eligible must leave at least one arm in every row; row {int(empty.argmax())} has none"
        )


def check_rounds(context: Context, scores: Scores) -> None:
    """Raise InvalidParameterError unless there is one finite row of context for each of at least one round."""
    if context.ndim != 2 or len(context) != scores.n_rounds:
        raise InvalidParameterError(
            f"context must have shape ({scores.n_rounds}, n_features), one row a round; got {context.shape}"
        )
    if scores.n_rounds == 0:
        raise InvalidParameterError("scores must hold at least one round to learn from; got none")
    if not np.isfinite(context).all():
        raise InvalidParameterError("context must be finite; got NaN or infinity: encode the prompts again")


def check_context(context: Context, *, n_features: int) -> None:
    """Raise InvalidParameterError unless the context has as many features as the policy was fitted on."""
    if context.ndim != 2 or context.shape[1] != n_features:
        raise InvalidParameterError(
            f"context must have shape (n_rounds, {n_features}), as the policy was fitted; got {context.shape}"
        )


def check_trade_off(trade_off: TradeOff, *, cost_usd: np.ndarray) -> None:
    """Raise InvalidParameterError where cost counts and a cost is not known."""
    if trade_off.quality_per_usd > 0 and not np.isfinite(cost_usd).all():
        raise InvalidParameterError(
            f"quality_per_usd must be 0 for a policy fitted on a log without cost_usd; got {trade_off.quality_per_usd}"
        )


class Policy(ABC):
    """Chooses an arm for a context at any trade-off; learned once, for all trade-offs.

    The constructor stores, `fit` works, fitted names end in `_`. Given the same arguments and `seed`, `fit` gives
    the same policy, byte for byte.
    """

    name: ClassVar[str]
    """The method's name on the command line and in manifests."""

    exact: ClassVar[bool] = False
    """Whether the choice maximises quality - lambda cost for fixed predictions, so its cost never rises with lambda."""

    can_reprice: ClassVar[bool] = False
    """Whether `probabilities` multiplies its predicted costs by `cost_factors`."""

    cost_factors: NDArray[np.float64] | None = None
    """(n_arms,) price today over the price learned from, set by the router that holds the policy; one where None. It is
    no part of `state`, and `predict` knows nothing of it: see `priced`."""

    if not TYPE_CHECKING:  # or a type checker would take every misspelt attribute for a fitted one

        def __getattr__(self, attribute: str) -> NoReturn:
            if attribute.endswith("_") and not attribute.startswith("_"):
                raise NotFittedError(f"{type(self).__name__}.{attribute} is there only after fit: call fit first")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")

    @abstractmethod
    def fit(self, context: Context, scores: Scores) -> Self:
        """Learn from logged rounds and return self.

        Args:
            context: Features of each round's prompt.
            scores: The rounds' outcomes, propensities and cross-fitted nuisances.
        """

    @abstractmethod
    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return the probability of each arm for each context; rows sum to one over the eligible arms.

        Args:
            context: Features, one row a prompt.
            trade_off: Quality points per USD.
            eligible: Arms that may be chosen; all where None.
        """

    def choose(
        self,
        context: Context,
        trade_off: TradeOff,
        eligible: Eligible | None = None,
        *,
        rng: np.random.Generator,
    ) -> tuple[ArmIndex, PerArm]:
        """Draw an arm for each context from exactly `probabilities`; return the arms and those probabilities."""
        probabilities = self.probabilities(context, trade_off, eligible)
        cumulative = probabilities.cumsum(axis=1)
        # Scaling by the last sum keeps a draw of 0.999... from falling past a row that sums to 1 - 1e-16.
        draw = rng.random(len(cumulative)) * cumulative[:, -1]
        return (draw[:, None] >= cumulative).sum(axis=1).astype(np.int64), probabilities

    def predict(self, context: Context) -> tuple[PerArm, PerArm] | None:
        """Return predicted quality and cost_usd of every arm, or None for a policy that predicts neither."""
        del context
        return None

    def decide(
        self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None
    ) -> tuple[PerArm, tuple[PerArm, PerArm] | None]:
        """Return `probabilities` with what is predicted at today's prices, or None for a policy that predicts neither.

        For one prompt at a time: a policy that compares predictions makes them once.
        """
        predicted = self.predict(context)
        probabilities = self.probabilities(context, trade_off, eligible)
        return probabilities, None if predicted is None else self._at_todays_prices(predicted)

    def _at_todays_prices(self, predicted: tuple[PerArm, PerArm]) -> tuple[PerArm, PerArm]:
        quality, cost_usd = predicted
        return quality, cost_usd if self.cost_factors is None else cost_usd * self.cost_factors

    def priced(self, context: Context) -> tuple[PerArm, PerArm]:
        """Return predicted quality, and predicted cost_usd at today's prices: times `cost_factors`.

        Raises:
            InvalidParameterError: The policy predicts neither.
        """
        predicted = self.predict(context)
        if predicted is None:
            raise InvalidParameterError(f"method must predict costs to have them repriced; {self.name!r} does not")
        return self._at_todays_prices(predicted)

    @abstractmethod
    def state(self) -> tuple[State, Arrays]:
        """Return all that `from_state` needs: JSON-ready values (constructor arguments included) and arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
