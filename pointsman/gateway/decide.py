"""What the gateway asks of whatever decides, and a decider of fixed probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.draw import draw
from pointsman.trade_off import TradeOff

RoundPolicy = Literal["router", "pinned", "default", "sticky", "shadow", "canary"]
"""What chose the model of a round."""


class NoEligibleModelError(InvalidParameterError):
    """The decider knows none of the eligible models, or none of them can take the request."""


@dataclass(frozen=True, slots=True)
class TradeOffAsked:
    """A trade-off as the client spelled it; the router's cost scale makes a `TradeOff` of a cost weight.

    Attributes:
        spelling: Which of the three.
        value: Its value, in quality points per USD, [0, 1], or USD.
    """

    spelling: Literal["quality_per_usd", "cost_weight", "willingness_to_pay"]
    value: float

    def at(self, cost_scale_usd: float) -> TradeOff:
        """Return the canonical trade-off.

        Args:
            cost_scale_usd: tau > 0, the router's fitted cost scale, in USD.

        Raises:
            InvalidParameterError: The value breaks the spelling's rule.
        """
        if self.spelling == "quality_per_usd":
            return TradeOff(self.value)
        if self.spelling == "cost_weight":
            return TradeOff.from_cost_weight(self.value, cost_scale_usd=cost_scale_usd)
        return TradeOff.from_willingness_to_pay(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRequest:
    """What is known of a request before a model is chosen.

    Attributes:
        prompt: Text of the last user message; empty where it has none.
        n_tokens_estimate: Estimated size of the whole request, in tokens.
        needs: Of `tools`, `vision` and `json`, what the model must support.
        trade_off: As the client spelled it; the configured default where None.
        max_cost_usd: What the answer may cost at most, in USD; no limit where None.
        eligible: Names of the models that the client, its key and the models' health allow; all where None.
        session_id: Conversation that the request belongs to.
        key_id: Name of the virtual key; None without keys.
        max_tokens: Limit of the answer that the client set, in tokens.
        is_dry: Whether nothing comes of the decision: it is only asked what would be chosen.
    """

    prompt: str
    n_tokens_estimate: int = 0
    needs: frozenset[str] = frozenset()
    trade_off: TradeOffAsked | None = None
    max_cost_usd: float | None = None
    eligible: tuple[str, ...] | None = None
    session_id: str | None = None
    key_id: str | None = None
    max_tokens: int | None = None
    is_dry: bool = False


def no_reasons() -> list[str]:
    """Return that there is nothing to say."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A model drawn, with all that is logged of the draw.

    Attributes:
        model: The chosen model.
        propensity: Its probability over `eligible`, exactly that of the draw.
        probabilities: Probability of every eligible model.
        eligible: Names of the models that could have been drawn.
        trade_off: The trade-off decided at; None where nothing was traded off.
        router_version: What decided, so that it can be found again.
        context: (n_features,) as the policy saw it; None where it saw none.
        policy: What chose.
        reasons: Returns why, in plain words; asked only where a client wants to know.
        shadow_model: What a router in shadow would have chosen.
        shadow_version: That router's version.
        expected_regret: Utility, in quality points, that the draw is expected to give up against the best eligible
            model, both by the router's own predictions; NaN where it predicts nothing.
    """

    model: str
    propensity: float
    probabilities: Mapping[str, float]
    eligible: tuple[str, ...]
    trade_off: TradeOff | None
    router_version: str
    context: NDArray[np.float32] | None = None
    policy: RoundPolicy = "router"
    reasons: Callable[[], list[str]] = no_reasons
    shadow_model: str | None = None
    shadow_version: str | None = None
    expected_regret: float = math.nan


class Decider(Protocol):
    """Chooses a model for a request: synchronously, within a millisecond, from the event loop's thread."""

    def decide(self, request: RouteRequest) -> Decided:
        """Draw a model from exactly the probabilities it states.

        Raises:
            NoEligibleModelError: No model can take the request.
            InvalidParameterError: The request's trade-off or limit is no valid one.
        """

    def observe(self, request: RouteRequest, *, model: str, cost_usd: float, n_tokens: int = 0) -> None:
        """Take in what came of a request that was routed.

        Args:
            request: As it was decided.
            model: The model that answered.
            cost_usd: What it cost; NaN where that is not known.
            n_tokens: Of the request and the answer.
        """


class FixedDecider:
    """Draws from the same probabilities whatever the prompt, renormalised over the eligible models.

    Args:
        probabilities: Weight of each model, > 0; scaled to sum to one.
        seed: Of the draws.
        trade_off: Where the request states none.
        cost_scale_usd: tau, by which a cost weight becomes a trade-off, in USD.

    Raises:
        InvalidParameterError: There is no model, or a weight is not positive and finite.
    """

    def __init__(
        self,
        probabilities: Mapping[str, float],
        *,
        seed: int = 0,
        trade_off: TradeOff | None = None,
        cost_scale_usd: float = 1e-3,
    ) -> None:
        if not probabilities:
            raise InvalidParameterError("probabilities must name at least one model; got none")
        for name, weight in probabilities.items():
            if not (math.isfinite(weight) and weight > 0):
                raise InvalidParameterError(f"probabilities must be > 0 and finite; got {weight} for {name}")
        self.weights = dict(probabilities)
        self.trade_off = trade_off or TradeOff()
        self.cost_scale_usd = cost_scale_usd
        self.rng = np.random.default_rng(seed)

    def decide(self, request: RouteRequest) -> Decided:
        """Draw one of the eligible models with probability in proportion to its weight."""
        allowed = self.weights if request.eligible is None else request.eligible
        eligible = tuple(name for name in self.weights if name in allowed)
        if not eligible:
            raise NoEligibleModelError(f"models must name at least one of {list(self.weights)}; got {list(allowed)}")
        trade_off = self.trade_off if request.trade_off is None else request.trade_off.at(self.cost_scale_usd)
        weights = np.array([self.weights[name] for name in eligible])
        probabilities = weights / weights.sum()
        arm = draw(probabilities, self.rng)
        return Decided(
            model=eligible[arm],
            propensity=float(probabilities[arm]),
            probabilities=dict(zip(eligible, probabilities.tolist(), strict=True)),
            eligible=eligible,
            trade_off=trade_off,
            router_version="fixed",
            reasons=lambda: [f"{eligible[arm]} was drawn with fixed probability {probabilities[arm]:.3f}."],
        )

    def observe(self, request: RouteRequest, *, model: str, cost_usd: float, n_tokens: int = 0) -> None:
        """Learn nothing."""


def alone(model: str, *, version: str, policy: RoundPolicy) -> Decided:
    """Return that a model answers without any draw: no other could have been chosen."""
    return Decided(
        model=model,
        propensity=1.0,
        probabilities={model: 1.0},
        eligible=(model,),
        trade_off=None,
        router_version=version,
        policy=policy,
    )
