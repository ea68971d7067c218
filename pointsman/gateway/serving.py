"""What requests are served with: made of the settings as a whole, so that a reload swaps all of it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pointsman.gateway.decide import RouteRequest, TradeOffAsked
from pointsman.gateway.upstream import CircuitBreaker, Endpoint, Timeouts

if TYPE_CHECKING:
    from pointsman.gateway.settings import Settings
    from pointsman.gateway.settings.prices import ModelFacts
    from pointsman.gateway.settings.schema import UpstreamSettings


ANSWER_TOKENS = 1000
"""Tokens that an answer is expected to take where the request sets no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that can be called.

    Attributes:
        name: What clients call it.
        upstream_model: What its upstream calls it.
        is_chat: Whether it answers chats; it makes embeddings otherwise.
        endpoint: Where it is called.
        facts: Its price, context window and capabilities.
        breaker: Whether it is well.
    """

    name: str
    upstream_model: str
    is_chat: bool
    endpoint: Endpoint
    facts: ModelFacts
    breaker: CircuitBreaker

    def can_take(self, request: RouteRequest) -> bool:
        """Return whether the request fits the context window, needs nothing unsupported, and may cost that much."""
        window = self.facts.context_window
        return (
            (window is None or request.n_tokens_estimate <= window)
            and request.needs <= self.facts.supports
            and (request.max_cost_usd is None or self.estimate_usd(request) <= request.max_cost_usd)
        )

    def estimate_usd(self, request: RouteRequest) -> float:
        """Return what the request is expected to cost at most, in USD."""
        return self.facts.price.cost_usd(input_tokens=request.n_tokens_estimate, output_tokens=tokens_out(request))


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The settings as the request path reads them.

    Attributes:
        settings: All of them.
        models: By the name clients use.
        chat_models: Names of those that are routed.
        presets: Trade-offs by name.
    """

    settings: Settings
    models: Mapping[str, ServedModel]
    chat_models: tuple[str, ...]
    presets: Mapping[str, TradeOffAsked]

    @classmethod
    def of(cls, settings: Settings, *, before: Serving | None = None) -> Serving:
        """Return what the settings say.

        Args:
            settings: Checked ones.
            before: What has been served with until now: a model that stays keeps its circuit breaker.
        """
        endpoints = {
            name: endpoint_of(name, upstream, max_answer_bytes=settings.limits.max_answer_bytes)
            for name, upstream in settings.upstreams.items()
        }
        models = {}
        for model in settings.models:
            kept = before.models.get(model.name) if before is not None else None
            stays = kept is not None and kept.endpoint.base_url == endpoints[model.upstream].base_url
            breaker = kept.breaker if kept is not None and stays else CircuitBreaker()
            asked = settings.upstreams[model.upstream].breaker
            breaker.threshold, breaker.cooldown_s = asked.failures, asked.cooldown_s
            models[model.name] = ServedModel(
                name=model.name,
                upstream_model=model.upstream_model or model.name,
                is_chat=model.kind == "chat",
                endpoint=endpoints[model.upstream],
                facts=settings.facts[model.name],
                breaker=breaker,
            )
        return cls(
            settings=settings,
            models=models,
            chat_models=tuple(name for name, model in models.items() if model.is_chat),
            presets={
                name: TradeOffAsked(preset.spelling, preset.value) for name, preset in settings.router.presets.items()
            },
        )


def tokens_out(request: RouteRequest) -> int:
    """Return how many tokens an answer may take: what the request allows, `ANSWER_TOKENS` where it says nothing."""
    return ANSWER_TOKENS if request.max_tokens is None else request.max_tokens


def endpoint_of(name: str, upstream: UpstreamSettings, *, max_answer_bytes: int) -> Endpoint:
    """Return where, how and how patiently an upstream is called."""
    headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "pointsman"}
    if upstream.api_key is not None:
        headers["authorization"] = f"Bearer {upstream.api_key.get_secret_value()}"
    headers.update({key.lower(): value.get_secret_value() for key, value in upstream.headers.items()})
    timeouts = upstream.timeouts
    return Endpoint(
        name=name,
        base_url=upstream.base_url,
        headers=headers,
        timeouts=Timeouts(
            connect_s=timeouts.connect_s,
            first_token_s=timeouts.first_token_s,
            between_tokens_s=timeouts.between_tokens_s,
            total_s=timeouts.total_s,
        ),
        max_retries=upstream.max_retries,
        max_connections=upstream.max_connections,
        max_answer_bytes=max_answer_bytes,
    )
