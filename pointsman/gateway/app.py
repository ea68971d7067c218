"""The gateway as a Starlette application."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.gateway import metrics as prometheus
from pointsman.gateway.asgi import ClientGoneError, authorization
from pointsman.gateway.chat import ChatCompletions
from pointsman.gateway.errors import ApiError, error_body
from pointsman.gateway.feedback import parse_feedback, told
from pointsman.gateway.keys import KeyRing
from pointsman.gateway.learn.status import LearnerStatus
from pointsman.gateway.live import Live, log
from pointsman.gateway.openapi import document as openapi_document
from pointsman.gateway.request import (
    AUTO,
    BYTES_PER_TOKEN,
    dumped,
    model_asked,
    parse_chat,
    parse_object,
    unknown_model,
)
from pointsman.gateway.routing import registry_folder
from pointsman.gateway.serving import Serving
from pointsman.gateway.upstream import UpstreamError
from pointsman.router import json_number

if TYPE_CHECKING:
    from pointsman.gateway.decide import Decider
    from pointsman.gateway.keys import Key
    from pointsman.gateway.live import RoundWriter
    from pointsman.gateway.settings import Settings

SEE_SPENDING_S = 15.0
DECIDER_GAUGES = {
    "budget_usd_per_request": "What a request may cost on average, by the budget",
    "budget_debt_usd": "What was spent above the budget so far; below it where negative",
    "lambda_quality_per_usd": "Trade-off that the budget asks for, in quality points per USD",
}
"""What a decider's `gauges` may return: those of its budget, where it holds one."""
LEARNER_METRICS = {
    "learner_seconds_since_turn": "Time since the learner last looked for feedback",
    "learner_feedback_waiting": "Feedback that the current version has not learned; NaN while the store is away",
    "refit_promoted_total": "Refits that were promoted",
    "refit_kept_in_shadow_total": "Refits that were not shown to be good enough",
}
Answering = Callable[[Request], Coroutine[Any, Any, Response]]


@runtime_checkable
class Gauged(Protocol):
    """A decider that tells of itself."""

    def gauges(self) -> Mapping[str, float]:
        """Return what it tells now, by the names of `DECIDER_GAUGES`."""


def make_app(settings: Settings, decider: Decider, writer: RoundWriter, **shared: Any) -> Starlette:
    """Return the gateway.

    Args:
        settings: Checked ones.
        decider: Chooses the models of requests that ask for `auto`.
        writer: Takes rounds and feedback; who opened it closes it.
        shared: Further fields of `Live`, such as `metrics` or `spend_log`.

    Returns:
        An ASGI application; `app.state.live` is what is alive in it, whose `replace` changes settings or decider.

    Raises:
        MissingDependencyError: Telemetry is on, and its packages are not installed.
    """
    live = Live(serving=Serving.of(settings), decider=decider, writer=writer, keys=KeyRing(settings.keys), **shared)
    live.metrics.watch(
        "model_available",
        "Whether a model may be called: 0 while its circuit breaker is open",
        "model",
        lambda: {name: float(model.breaker.available) for name, model in live.serving.models.items()},
    )
    live.metrics.sample(DECIDER_GAUGES, lambda: gauges(live.decider))
    tracing = None
    if settings.telemetry.otlp_endpoint is not None:
        from pointsman.gateway.tracing import Tracing

        tracing = Tracing(settings.telemetry)
    routes = Routes(live)
    live.metrics.sample(LEARNER_METRICS, routes.learner_metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await see_spending(live)
        watching = asyncio.create_task(watch_spending(live))
        yield
        watching.cancel()
        await live.client.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", ChatCompletions(live, tracing), methods=["POST"]),
            Route("/v1/embeddings", answering(routes.embeddings), methods=["POST"]),
            Route("/v1/route", answering(routes.route), methods=["POST"]),
            Route("/v1/feedback", answering(routes.feedback), methods=["POST"]),
            Route("/v1/models", answering(routes.models), methods=["GET"]),
            Route("/v1/models/{model:path}", answering(routes.model), methods=["GET"]),
            Route("/health/live", answering(routes.is_live), methods=["GET"]),
            Route("/health/ready", answering(routes.is_ready), methods=["GET"]),
            Route("/metrics", answering(routes.metrics), methods=["GET"]),
            Route("/openapi.json", answering(routes.openapi), methods=["GET"]),
        ],
        exception_handlers={HTTPException: no_route, Exception: broken},
        lifespan=lifespan,
    )
    app.state.live = live
    return app


async def see_spending(live: Live) -> None:
    """Take over what the log says that keys have spent; without the log, requests are served all the same."""
    if live.spend_log is not None:
        try:
            async with asyncio.timeout(SEE_SPENDING_S):
                await live.keys.see_spending(live.spend_log)
        except Exception as error:
            log.error("what keys have spent could not be read: %s", type(error).__name__)


async def watch_spending(live: Live) -> None:
    """Keep up with what replicas spend."""
    while True:
        await asyncio.sleep(SEE_SPENDING_S)
        await see_spending(live)


def gauges(decider: Decider) -> Mapping[str, float]:
    """Return what a decider tells of itself, of `DECIDER_GAUGES`; nothing where it tells nothing."""
    return decider.gauges() if isinstance(decider, Gauged) else {}


def json_response(content: Any, status: int = 200) -> Response:
    """Return an answer of JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Return an error, OpenAI-shaped."""
    return Response(error.body(), error.status, headers=error.headers, media_type="application/json")


def answering(route: Answering) -> Answering:
    """Return the route with its errors as answers."""

    async def answer(request: Request) -> Response:
        try:
            return await route(request)
        except ClientGoneError:
            return Response(status_code=499)
        except ApiError as error:
            return error_response(error)

    return answer


async def no_route(_: Request, error: Exception) -> Response:
    """Answer a path or a method that is not served."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    content = error_body(error.status_code, str(error.detail))
    return Response(content, error.status_code, headers=error.headers, media_type="application/json")


async def broken(_: Request, error: Exception) -> Response:
    """Answer where the gateway itself is at fault."""
    log.error("a request failed: %s", type(error).__name__)
    return Response(error_body(500, "the gateway failed; its log says why"), 500, media_type="application/json")


class Routes:
    """All routes but chat completions."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.since = int(time.time())
        self.learner: LearnerStatus | None = None

    async def _body(self, request: Request) -> bytes:
        limits = self.live.serving.settings.limits
        return await self.live.bodies.read(
            request.scope["headers"],
            request.receive,
            max_bytes=limits.max_body_bytes,
            timeout_s=limits.read_timeout_s,
        )

    def _key(self, request: Request) -> Key | None:
        return self.live.keys.identify(authorization(request.scope["headers"]))

    async def route(self, request: Request) -> Response:
        """Decide without calling a model, and say why. Nothing is logged: nothing comes of it that could be learned."""
        serving = self.live.serving
        key = self._key(request)
        asked = parse_chat(await self._body(request), request.scope["headers"], serving)
        route = dataclasses.replace(asked.route, is_dry=True)
        _, decided, reservation = self.live.admit(route, serving, key=key, pinned=asked.model)
        if reservation is not None:
            reservation.release()
        trade_off = decided.trade_off
        return json_response(
            {
                "model": decided.model,
                "propensity": decided.propensity,
                "probabilities": dict(decided.probabilities),
                "eligible_models": list(decided.eligible),
                "quality_per_usd": None if trade_off is None else json_number(trade_off.quality_per_usd),
                "router_version": decided.router_version,
                "policy": decided.policy,
                "reasons": decided.reasons() or [reason_of(decided.policy, decided.model)],
            }
        )

    async def feedback(self, request: Request) -> Response:
        """Take feedback, and answer once it is durable."""
        key = self._key(request)
        body = await self._body(request)
        given, is_batch = parse_feedback(body, now=time.time(), key_id=None if key is None else key.id)
        try:
            results = await self.live.writer.put_feedback(given)
        except Exception as error:
            log.error("feedback could not be stored: %s", type(error).__name__)
            raise ApiError(
                503, "the feedback could not be stored; send it again", headers={"retry-after": "1"}
            ) from None
        metrics = self.live.metrics
        for said, result in zip(given, results, strict=True):
            metrics.feedback(result.status).inc()
            if result.status == "accepted" and result.decided_at is not None:
                metrics.feedback_lag().observe(max(said.received_at - result.decided_at, 0.0))
        return json_response(*told(results, is_batch=is_batch))

    async def embeddings(self, request: Request) -> Response:
        """Pass a request for embeddings on to the model it names."""
        key = self._key(request)
        body = await self._body(request)
        document = parse_object(body)
        model = self.live.serving.models.get(model_asked(document))
        if model is None or model.is_chat:
            raise unknown_model(model_asked(document))
        document.pop("pointsman", None)
        price, n_tokens = model.facts.price, len(body) // BYTES_PER_TOKEN
        with contextlib.ExitStack() as stack:
            reservation = None
            if key is not None:
                key.require(model.name)
                cost_usd = price.cost_usd(input_tokens=n_tokens)
                reservation = stack.enter_context(key.admit(tokens=n_tokens, cost_usd=cost_usd))
            forwarded = dumped({**document, "model": model.upstream_model})
            endpoint = model.endpoint
            try:
                answer = await self.live.client.answer(
                    endpoint, endpoint.url("embeddings"), forwarded, endpoint.headers
                )
            except UpstreamError as failure:
                self.live.metrics.upstream_failures(model.name, failure.phase).inc()
                raise failure.to_api_error(model.name) from None
            usage = answer.usage
            if usage is not None:
                cost_usd = price.cost_usd(input_tokens=usage.tokens_in, output_tokens=usage.tokens_out)
                self.live.metrics.tokens(model.name, "in").inc(usage.tokens_in)
                self.live.metrics.spend(model.name).inc(cost_usd)
                if reservation is not None:
                    reservation.settle(cost_usd=cost_usd, tokens=usage.tokens_in + usage.tokens_out)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        return Response(answer.body, answer.status, headers=headers)

    async def models(self, request: Request) -> Response:
        """List what `model` may be."""
        names = self._names(self._key(request))
        return json_response({"object": "list", "data": [self._card(name) for name in names]})

    async def model(self, request: Request) -> Response:
        """Say that one of them is there."""
        name = request.path_params["model"]
        if name not in self._names(self._key(request)):
            raise unknown_model(name)
        return json_response(self._card(name))

    def _names(self, key: Key | None) -> list[str]:
        serving = self.live.serving
        models = [name for name in serving.models if key is None or key.models is None or name in key.models]
        return [AUTO, *(f"{AUTO}:{preset}" for preset in serving.presets), *models]

    def _card(self, name: str) -> dict[str, Any]:
        model = self.live.serving.models.get(name)
        owner = "pointsman" if model is None else model.endpoint.name
        return {"id": name, "object": "model", "created": self.since, "owned_by": owner}

    async def is_live(self, _: Request) -> Response:
        """Say that the process answers."""
        return json_response({"status": "ok"})

    async def is_ready(self, _: Request) -> Response:
        """Say whether to send requests here: some model is well."""
        serving = self.live.serving
        well = [name for name in serving.chat_models if serving.models[name].breaker.available]
        is_ready = bool(well)
        router = "ok" if self.live.router_health.available else "failing: the default model answers"
        content = {"status": "ok" if is_ready else "unavailable", "models": well, "router": router}
        return json_response(content, 200 if is_ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Give the metrics to Prometheus."""
        # In a thread: the routers may be on a disk that others share.
        folder = registry_folder(self.live.serving.settings)
        self.learner = await asyncio.to_thread(LearnerStatus.read, folder)
        return Response(self.live.metrics.exposition(), headers={"content-type": prometheus.CONTENT_TYPE})

    def learner_metrics(self) -> dict[str, float]:
        """Return what the learner last said of itself; nothing where there is none."""
        status = self.learner
        if status is None:
            return {}
        waiting = math.nan if status.waiting is None else status.waiting
        return {
            "learner_seconds_since_turn": max(time.time() - status.at, 0.0),
            "learner_feedback_waiting": waiting,
            "refit_promoted_total": status.n_promoted,
            "refit_kept_in_shadow_total": status.n_kept_in_shadow,
        }

    async def openapi(self, _: Request) -> Response:
        """Describe the API."""
        return json_response(openapi_document())


def reason_of(policy: str, model: str) -> str:
    """Return why a model answers that no router chose."""
    if policy == "pinned":
        return f"The request names {model}."
    return f"The router could not decide; {model} is the default model." if policy == "default" else ""
