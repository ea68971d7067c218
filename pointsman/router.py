"""A router: the encoder, the policy, the arms and the trade-off scale that together choose a model for a prompt."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pointsman.arms import ArmSet
from pointsman.encode.base import Encoder
from pointsman.errors import InvalidParameterError
from pointsman.policies.base import Policy
from pointsman.trade_off import TradeOff
from pointsman.types import Context, Eligible, PerArm, State

Prompt: TypeAlias = str | Sequence[float] | NDArray[np.floating[Any]]
"""A prompt's text; its embedding, for a router that was fitted on embeddings."""


@dataclass(frozen=True, kw_only=True)
class FitFacts:
    """What a router learned from, and how; all of it JSON-ready.

    Attributes:
        method: The policy's name.
        seed: Seed of the fit.
        options: The method's options; one that JSON cannot hold stands as `{"repr": ...}`.
        n_folds: Folds of the cross-fitting.
        n_features: Features of the context.
        log_hash: Content hash of the training log.
        n_rounds: Rounds learned from.
        n_outcomes: Those of them whose quality is known.
        n_fallback: Rounds left out because the arm that served had stood in for another.
        n_unlearnable: Rounds left out because no quality is known of the arm that served.
        unlearnable_models: The models of these rounds, and models that were eligible and never served.
        propensities: `logged`, `estimated` or `both`.
        quality_sources: Who judged quality.
        n_gold: Rounds with a gold label; None where that was not noted.
        correction: How judges' labels were brought to gold units; None where they were not.
        n_rounds_by_model: Rounds each arm served.
        logged_cost_usd: Mean logged cost of each arm's rounds, in USD; None where none is known.
        mean_quality: Mean predicted quality of each arm over all training prompts, out of fold.
        mean_cost_usd: The same for cost, in USD; None where the log had none.
        version: Version of the package that fitted it.
    """

    method: str
    seed: int
    options: State
    n_folds: int
    n_features: int
    log_hash: str
    n_rounds: int
    n_outcomes: int
    n_fallback: int
    n_unlearnable: int
    unlearnable_models: Sequence[str]
    propensities: str
    quality_sources: Sequence[str]
    n_rounds_by_model: Mapping[str, int]
    logged_cost_usd: Mapping[str, float | None]
    mean_quality: Mapping[str, float]
    mean_cost_usd: Mapping[str, float | None]
    version: str
    n_gold: int | None = None
    correction: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One choice, and all that is needed to learn from it later.

    Attributes:
        model: The chosen model.
        propensity: The probability with which it was chosen, exactly.
        probabilities: The probability of every eligible model.
        predicted_quality: Expected quality of every eligible model; empty for a method that predicts none.
        predicted_cost_usd: Expected cost of every eligible model at today's prices, in USD; empty where not known.
        trade_off: The trade-off chosen at.
        reasons: Why this model, in plain words: against the runner-up, and against the best single model.
    """

    model: str
    propensity: float
    probabilities: dict[str, float]
    predicted_quality: dict[str, float]
    predicted_cost_usd: dict[str, float]
    trade_off: TradeOff
    reasons: list[str]

    def to_dict(self) -> State:
        """Return the decision as JSON-ready values; a trade-off of infinity is the string "inf"."""
        values = dataclasses.asdict(self)
        values["quality_per_usd"] = json_number(values.pop("trade_off")["quality_per_usd"])
        return values

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Router:
    """Chooses a model for a prompt at any trade-off.

    Attributes:
        encoder: Turns prompts into context; None for a router fitted on embeddings, which is then asked with one.
        policy: The fitted policy; its columns are the arms.
        arms: The models it can choose, with today's cost factors.
        cost_scale_usd: tau, the 95th percentile of the cost of the logged calls, in USD: what `cost_weight` is scaled
            by. None where the log had no cost, or only zeros.
        default_trade_off: The trade-off where a request names none.
        facts: What it learned from, and how.
        training_rounds: Sorted identities of the rounds it learned from, by which `evaluate` knows to leave them out.
    """

    encoder: Encoder | None
    policy: Policy
    arms: ArmSet
    cost_scale_usd: float | None
    default_trade_off: TradeOff = field(default_factory=TradeOff)
    facts: FitFacts
    training_rounds: NDArray[np.uint64]

    def __post_init__(self) -> None:
        factors = self.arms.cost_factors
        if (factors == 1).all():
            factors_now = None
        elif not self.policy.can_reprice:
            raise InvalidParameterError(
                f"cost_factor must be 1 for the method {self.policy.name!r}, which does not compare predicted costs: "
                "a price change needs a router fitted on logs of the new price, or another method"
            )
        else:
            factors_now = factors
        if self.policy.cost_factors is not factors_now:
            # A policy may be shared by routers of different prices.
            policy = copy.copy(self.policy)
            policy.cost_factors = factors_now
            object.__setattr__(self, "policy", policy)

    def trade_off(
        self,
        *,
        quality_per_usd: float | None = None,
        cost_weight: float | None = None,
        willingness_to_pay: float | None = None,
    ) -> TradeOff:
        """Return the trade-off in any of its three spellings; the default where none is given.

        Args:
            quality_per_usd: lambda >= 0, in quality points per USD.
            cost_weight: w in [0, 1]; lambda = w / ((1 - w) tau).
            willingness_to_pay: USD that one full point of quality may cost; lambda = 1 / USD.

        Raises:
            InvalidParameterError: More than one is given, one is out of range, or `cost_weight` has no scale.
        """
        given = [value for value in (quality_per_usd, cost_weight, willingness_to_pay) if value is not None]
        if len(given) > 1:
            raise InvalidParameterError(
                "the trade-off must be given once, as quality_per_usd, cost_weight or willingness_to_pay; "
                f"got {len(given)} of them"
            )
        if quality_per_usd is not None:
            return TradeOff(quality_per_usd)
        if cost_weight is not None:
            if cost_weight == 0:
                return TradeOff()
            if self.cost_scale_usd is None:
                raise InvalidParameterError(
                    f"cost_weight must be 0 for a router fitted on a log without cost_usd; got {cost_weight}"
                )
            return TradeOff.from_cost_weight(cost_weight, cost_scale_usd=self.cost_scale_usd)
        if willingness_to_pay is not None:
            return TradeOff.from_willingness_to_pay(willingness_to_pay)
        return self.default_trade_off

    def context(self, prompts: Sequence[Prompt]) -> Context:
        """Return the context of prompts, (n_prompts, n_features).

        Raises:
            InvalidParameterError: The router wants text and got an embedding, or the other way round, or one of another
                length.
        """
        if self.encoder is not None:
            return self.encoder.encode(prompts)  # type: ignore[arg-type]  # it checks that they are strings
        if any(isinstance(prompt, str) for prompt in prompts):
            raise InvalidParameterError(
                "prompt must be an embedding: this router was fitted on a log of embeddings and has no encoder; "
                "got text: embed it with the model that embedded the log"
            )
        context = np.asarray(prompts, dtype=np.float32)
        if context.ndim != 2 or context.shape[1] != self.facts.n_features or not np.isfinite(context).all():
            raise InvalidParameterError(
                f"prompt must be an embedding of {self.facts.n_features} finite numbers; got shape {context.shape[1:]}"
            )
        return context

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return the probability of each arm for each context; rows sum to one over the eligible arms.

        Args:
            context: Features, one row a prompt.
            trade_off: Quality points per USD.
            eligible: (n_rounds, n_arms) arms that may be chosen; all where None.
        """
        in_service = self.arms.in_service
        if not in_service.all():
            eligible = np.tile(in_service, (len(context), 1)) if eligible is None else eligible & in_service
        return self.policy.probabilities(context, trade_off, eligible)

    def choose(
        self,
        prompt: Prompt,
        *,
        quality_per_usd: float | None = None,
        cost_weight: float | None = None,
        willingness_to_pay: float | None = None,
        eligible_models: Collection[str] | None = None,
        rng: np.random.Generator | None = None,
        seed: int | None = None,
    ) -> Decision:
        """Return the model to call for a prompt, drawn from exactly the probabilities that come with it.

        Args:
            prompt: Its text, or its embedding for a router fitted on embeddings.
            quality_per_usd: The trade-off, in one of its spellings: see `trade_off`.
            cost_weight: The same.
            willingness_to_pay: The same.
            eligible_models: The models to choose among; all where None.
            rng: Draws, where the policy is not sure; from `seed` where None.
            seed: Seed of the draw; a new one each time where None.

        Raises:
            InvalidParameterError: A model is not known, none is left, or the trade-off breaks its rule.
        """
        trade_off = self.trade_off(
            quality_per_usd=quality_per_usd, cost_weight=cost_weight, willingness_to_pay=willingness_to_pay
        )
        eligible = self._mask(eligible_models)
        context = self.context([prompt])
        decided, predicted = self.policy.decide(context, trade_off, None if eligible is None else eligible[None])
        probabilities = decided[0]
        chosen = int(probabilities.argmax())
        if probabilities[chosen] < 1:
            rng = np.random.default_rng(seed) if rng is None else rng
            cumulative = probabilities.cumsum()
            # Scaling by the last sum keeps a draw of 0.999... from falling past a row that sums to 1 - 1e-16.
            chosen = int((rng.random() * cumulative[-1] >= cumulative).sum())
        columns = range(len(self.arms)) if eligible is None else np.flatnonzero(eligible).tolist()
        names = self.arms.names
        quality = None if predicted is None else predicted[0][0]
        cost_usd = None if predicted is None or not np.isfinite(predicted[1]).all() else predicted[1][0]
        return Decision(
            model=names[chosen],
            propensity=float(probabilities[chosen]),
            probabilities={names[t]: float(probabilities[t]) for t in columns},
            predicted_quality={} if quality is None else {names[t]: float(quality[t]) for t in columns},
            predicted_cost_usd={} if cost_usd is None else {names[t]: float(cost_usd[t]) for t in columns},
            trade_off=trade_off,
            reasons=self._reasons(
                chosen,
                columns=list(columns),
                probabilities=probabilities,
                quality=quality,
                cost_usd=cost_usd,
                trade_off=trade_off,
            ),
        )

    def best_single(self, trade_off: TradeOff, eligible_models: Collection[str] | None = None) -> str:
        """Return the model of highest mean utility over the training prompts, by the outcome model; ties by name."""
        names = self.arms.names if eligible_models is None else [n for n in self.arms.names if n in eligible_models]
        quality = np.array([self.facts.mean_quality[name] for name in names])
        cost_usd = np.array([self._mean_cost(name) for name in names])
        return names[int(np.nanargmax(trade_off.utility(quality=quality, cost_usd=cost_usd)))]

    def reprice(self, model: str, factor: float) -> Router:
        """Return the router after the price of a model has changed by a factor; nothing is refitted.

        Args:
            model: The model.
            factor: Price now over price until now; 0.5 halves it. Its predicted costs are multiplied by it.

        Raises:
            InvalidParameterError: The model is not known, the factor is negative or not finite, or the method does not
                compare predicted costs, so that no number of it is the price.
        """
        column = self.arms.index(model)
        if not (math.isfinite(factor) and factor >= 0):
            raise InvalidParameterError(f"factor must be finite and >= 0; got {factor}")
        if not self.policy.can_reprice:
            raise InvalidParameterError(
                f"method must compare predicted costs to be repriced; {self.policy.name!r} does not: fit a router on "
                "logs of the new price, or with another method"
            )
        arms = list(self.arms)
        arms[column] = dataclasses.replace(arms[column], cost_factor=arms[column].cost_factor * factor)
        return dataclasses.replace(self, arms=ArmSet(tuple(arms)))

    def retire(self, model: str) -> Router:
        """Return the router that chooses a model no more; what it knows of it is kept.

        Raises:
            InvalidParameterError: The model is not known, or the last one.
        """
        column = self.arms.index(model)
        arms = list(self.arms)
        arms[column] = dataclasses.replace(arms[column], is_retired=True)
        return dataclasses.replace(self, arms=ArmSet(tuple(arms)))

    def __repr__(self) -> str:
        return f"Router({self.facts.method}, {len(self.arms)} models, fitted on {self.facts.n_rounds} rounds)"

    def _mask(self, models: Collection[str] | None) -> NDArray[np.bool_] | None:
        in_service = self.arms.in_service
        if models is None:
            return None if in_service.all() else in_service
        if isinstance(models, str):
            raise InvalidParameterError(f"eligible_models must be a list of names; got one string: give [{models!r}]")
        if not models:
            raise InvalidParameterError(f"eligible_models must name at least one of {list(self.arms.names)}; got none")
        mask = np.zeros(len(self.arms), dtype=np.bool_)
        mask[self.arms.indices(models)] = True
        if not (mask & in_service).any():
            raise InvalidParameterError(
                f"eligible_models must name at least one model that is not retired; got {sorted(models)}"
            )
        mask &= in_service
        return mask

    def _mean_cost(self, name: str) -> float:
        mean = self.facts.mean_cost_usd[name]
        return math.nan if mean is None else mean * self.arms.arms[self.arms.index(name)].cost_factor

    def _reasons(
        self,
        chosen: int,
        *,
        columns: list[int],
        probabilities: NDArray[np.float64],
        quality: NDArray[np.float64] | None,
        cost_usd: NDArray[np.float64] | None,
        trade_off: TradeOff,
    ) -> list[str]:
        names = self.arms.names
        model = names[chosen]
        at = describe_trade_off(trade_off)
        if len(columns) == 1:
            return [f"{model} is the only eligible model."]
        best = self.arms.index(self.best_single(trade_off, [names[t] for t in columns]))
        if quality is None:
            reasons = [f"{model} was chosen with probability {probabilities[chosen]:.3f} {at}."]
            reasons.append(f"The method {self.facts.method} ranks models without predicting their outcomes.")
            if best != chosen:
                reasons.append(f"On the average training prompt {names[best]} is the best single model.")
            return reasons
        costs = np.full(len(names), np.nan) if cost_usd is None else cost_usd
        utility = trade_off.utility(quality=quality, cost_usd=costs)
        expected = f"{model} is expected to give quality {quality[chosen]:.3f}"
        if cost_usd is not None:
            expected += f" for {usd(cost_usd[chosen])} USD"
        reasons = [f"{expected} on this prompt."]
        if probabilities[chosen] < 1:
            reasons.append(f"It was drawn with probability {probabilities[chosen]:.3f}.")
        others = [t for t in columns if t != chosen]
        runner_up = max(others, key=lambda t: utility[t])

        def against(other: int, title: str, closing: str = "") -> str:
            gap = utility[chosen] - utility[other]
            parts = [f"quality {quality[other]:.3f}"]
            if cost_usd is not None:
                parts.append(f"{usd(cost_usd[other])} USD")
            verdict = (
                f"{abs(gap):.4f} {'worse' if gap >= 0 else 'better'}"
                if not math.isinf(trade_off.quality_per_usd)
                else ("dearer" if gap >= 0 else "cheaper")
            )
            return f"{title} {names[other]}{closing} is expected to give {', '.join(parts)}: {verdict} {at}."

        reasons.append(against(runner_up, "The runner-up" if utility[runner_up] <= utility[chosen] else "The model"))
        if best == chosen:
            reasons.append(f"{model} is also the best single model over all training prompts {at}.")
        elif best != runner_up:
            reasons.append(against(best, "The best single model over all training prompts,", ","))
        else:
            reasons.append(f"{names[best]} is the best single model over all training prompts {at}.")
        if utility[chosen] < utility[runner_up]:
            reasons.append("The expected gain was too uncertain on this log to move away from the safer choice.")
        return reasons


def describe_trade_off(trade_off: TradeOff) -> str:
    """Return a trade-off in words, as the end of a sentence."""
    if trade_off.quality_per_usd == 0:
        return "where only quality counts"
    if math.isinf(trade_off.quality_per_usd):
        return "where only cost counts"
    return f"at {trade_off.quality_per_usd:.4g} points of quality per USD"


def usd(amount: float) -> str:
    """Return an amount of USD without exponent, to three significant digits."""
    if not math.isfinite(amount) or amount == 0:
        return f"{amount:g}"
    return f"{amount:.{max(2 - math.floor(math.log10(abs(amount))), 2)}f}"


def json_number(value: float) -> float | str | None:
    """Return a number as JSON can hold it: null for NaN, "inf" for infinity, which options accept too."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
