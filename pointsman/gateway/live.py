"""What is alive while the gateway serves; settings and decider can be exchanged between two requests."""

from __future__ import annotations

import logging
import math
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from pointsman.errors import InvalidParameterError
from pointsman.gateway.asgi import BodyReader
from pointsman.gateway.decide import Decided, Decider, NoEligibleModelError, RouteRequest, alone
from pointsman.gateway.errors import ApiError
from pointsman.gateway.keys import Key, KeyRing, Reservation, SpendLog
from pointsman.gateway.metrics import Metrics
from pointsman.gateway.serving import Serving, tokens_out
from pointsman.gateway.upstream import CircuitBreaker, UpstreamClient
from pointsman.logs.store.records import Round

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.gateway.settings import Settings
    from pointsman.logs.store.records import Feedback, FeedbackResult

log = logging.getLogger("pointsman.gateway")

DEFAULT_VERSION = "default"


class RoundWriter(Protocol):
    """The store, as the request path sees it."""

    def put_round(self, round_: Round, /) -> bool:
        """Queue a round to be written; False where it is lost."""

    async def put_feedback(self, feedback: Sequence[Feedback], /) -> Sequence[FeedbackResult]:
        """Write feedback, and return once it is durable."""


@dataclass(slots=True, kw_only=True)
class Live:
    """All that requests share.

    Attributes:
        serving: The settings.
        decider: What chooses.
        writer: Where rounds and feedback go.
        client: What calls the models.
        metrics: What is counted.
        bodies: What reads requests.
        router_health: Opens where the decider fails or is late several times in a row: the default model then answers.
        keys: Who may ask for what.
        spend_log: What knows, across restarts and replicas, what keys have spent; None where nothing does.
    """

    serving: Serving
    decider: Decider
    writer: RoundWriter
    client: UpstreamClient = field(default_factory=UpstreamClient)
    metrics: Metrics = field(default_factory=Metrics)
    bodies: BodyReader = field(default_factory=BodyReader)
    router_health: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(cooldown_s=1.0))
    keys: KeyRing = field(default_factory=KeyRing)
    spend_log: SpendLog | None = None

    def replace(self, *, settings: Settings | None = None, decider: Decider | None = None) -> None:
        """Serve the next requests by other settings, or by another decider; those in flight end as they began."""
        if settings is not None:
            self.serving = Serving.of(settings, before=self.serving)
            self.keys.update(settings.keys)
        if decider is not None:
            self.decider = decider
            self.router_health.succeed()

    def admit(
        self, request: RouteRequest, serving: Serving, *, key: Key | None, pinned: str | None
    ) -> tuple[RouteRequest, Decided, Reservation | None]:
        """Decide which model answers, and hold its share of the key's limits.

        Args:
            request: As the client asks it.
            serving: The settings.
            key: Whose request it is; None without keys.
            pinned: The model that the client names; None where it is to be chosen.

        Returns:
            The request with the models that were eligible, the decision, and what is held.

        Raises:
            ApiError: No model may or can take the request, or a limit of the key is reached.
        """
        if key is not None:
            request = replace(request, key_id=key.id)
        if pinned is None:
            request = replace(request, eligible=self._eligible(request, serving, key))
            decided = self._decide(request, serving)
        else:
            if key is not None:
                key.require(pinned)
            if serving.models[pinned].breaker.is_failing:
                raise ApiError(503, f"{pinned} keeps failing and rests for a while", headers={"retry-after": "5"})
            decided = alone(pinned, version="pinned", policy="pinned")
        if key is None:
            return request, decided, None
        cost_usd = serving.models[decided.model].estimate_usd(request)
        return request, decided, key.admit(tokens=request.n_tokens_estimate + tokens_out(request), cost_usd=cost_usd)

    def _eligible(self, request: RouteRequest, serving: Serving, key: Key | None) -> tuple[str, ...]:
        """Return the models that client and key allow, that can take the request, are affordable, and well.

        Raises:
            ApiError: There is none.
        """
        models = serving.models
        names: Sequence[str] = serving.chat_models if request.eligible is None else request.eligible
        if key is not None and key.models is not None:
            names = [name for name in names if name in key.models]
            if not names:
                raise ApiError(403, f"key {key.id!r} may use none of these models", code="model_not_allowed")
        names = [name for name in names if models[name].can_take(request)]
        if not names:
            limit = "" if request.max_cost_usd is None else f", for at most {request.max_cost_usd:g} USD"
            needs = "".join(f", {need}" for need in sorted(request.needs))
            raise ApiError(
                400,
                f"no model can take this request: about {request.n_tokens_estimate} tokens{needs}{limit}",
                code="no_eligible_model",
            )
        if key is not None and key.budget_usd < math.inf:
            costs = {name: models[name].estimate_usd(request) for name in names}
            remaining = key.remaining_usd
            names = [name for name in names if costs[name] <= remaining]
            if not names:  # Not even the cheapest is affordable: the key says so.
                key.admit(cost_usd=min(costs.values()))
        well = tuple([name for name in names if models[name].breaker.available])
        if not well:
            raise ApiError(503, "all models that may answer are failing", headers={"retry-after": "5"})
        return well

    def _decide(self, request: RouteRequest, serving: Serving) -> Decided:
        """Return what the decider chose; the default model where it fails.

        A decision that comes late is used all the same, and counts as a failure.
        """
        if not self.router_health.available:
            return self._default(request, serving, "resting")
        self.router_health.attempt()
        begun = time.perf_counter()
        try:
            decided = self.decider.decide(request)
        except NoEligibleModelError as error:
            raise ApiError(400, str(error), code="no_eligible_model") from None
        except InvalidParameterError as error:
            raise ApiError(400, str(error), param="pointsman") from None
        except Exception as error:
            # Whatever is wrong with the router, requests are served. What the error says may hold the prompt.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("the router failed: %s\n%s", type(error).__name__, where)
            self.router_health.fail()
            return self._default(request, serving, "error")
        if time.perf_counter() - begun > serving.settings.router.deadline_ms / 1000:
            self.metrics.router_failures("late").inc()
            self.router_health.fail()
        else:
            self.router_health.succeed()
        return decided

    def _default(self, request: RouteRequest, serving: Serving, reason: str) -> Decided:
        self.metrics.router_failures(reason).inc()
        eligible = request.eligible or serving.chat_models
        default = serving.settings.default_model
        return alone(default if default in eligible else eligible[0], version=DEFAULT_VERSION, policy="default")

    def observe(self, request: RouteRequest, *, model: str, cost_usd: float, n_tokens: int) -> None:
        """Tell the decider what came of a request; nothing that goes wrong there concerns the client."""
        try:
            self.decider.observe(request, model=model, cost_usd=cost_usd, n_tokens=n_tokens)
        except Exception as error:
            log.error("the router could not take in an outcome: %s", type(error).__name__)
            self.metrics.router_failures("observe").inc()

    def put_round(self, **columns: Any) -> None:
        """Log a round. Nothing that goes wrong here concerns the client."""
        try:
            taken = self.writer.put_round(Round(**columns))
        except Exception as error:
            log.error("a round could not be logged: %s", type(error).__name__)
            taken = False
        if not taken:
            self.metrics.rounds_lost().inc()
