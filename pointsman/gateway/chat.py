"""Chat completions: decide, call, pass on byte for byte, log."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson

from pointsman.gateway.asgi import (
    ClientGoneError,
    ClientWatch,
    Headers,
    Receive,
    Scope,
    Send,
    authorization,
    send_error,
    send_whole,
    started,
)
from pointsman.gateway.errors import ApiError
from pointsman.gateway.request import ChatRequest, parse_chat
from pointsman.gateway.upstream import Answer, Stream, UpstreamError, Usage
from pointsman.gateway.upstream.sse import DONE

if TYPE_CHECKING:
    from pointsman.gateway.keys import Key
    from pointsman.gateway.live import Live
    from pointsman.gateway.serving import ServedModel, Serving
    from pointsman.gateway.tracing import Tracing
    from pointsman.logs.store.records import Outcome

CLIENT_CLOSED = 499
"""Status logged of a request whose client went away, as nginx has it."""

OPEN_AFTER_S = 1.0
"""Time after a stream's first content at which its round is logged as not over, so that a gateway that is killed
leaves a trace of it. Shorter streams are written once."""

TRACED = {b"traceparent": "traceparent", b"tracestate": "tracestate", b"x-request-id": "x-request-id"}
"""The only headers of a client that an upstream gets to see."""

PRINTABLE = re.compile(rb"[\x21-\x7e]{1,512}")
STREAMED: Headers = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]


class ChatCompletions:
    """The route `POST /v1/chat/completions`, an ASGI application."""

    def __init__(self, live: Live, tracing: Tracing | None = None) -> None:
        self._live = live
        self._tracing = tracing
        self._refuse_usage: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        live, serving = self._live, self._live.serving
        limits = serving.settings.limits
        try:
            key = live.keys.identify(authorization(scope["headers"])) if live.keys else None
            body = await live.bodies.read(
                scope["headers"], receive, max_bytes=limits.max_body_bytes, timeout_s=limits.read_timeout_s
            )
            # Only now, so that clients who send slowly keep no one else out.
            if live.metrics.in_flight >= limits.max_concurrent_requests:
                raise ApiError(503, "too many requests are being answered", headers={"retry-after": "1"})
            live.metrics.in_flight += 1
            try:
                exchange = Exchange(
                    live,
                    serving,
                    scope["headers"],
                    body,
                    key=key,
                    refuse_usage=self._refuse_usage,
                    tracing=self._tracing,
                )
                async with ClientWatch(receive) as watch:
                    try:
                        await exchange.run(send)
                    except asyncio.CancelledError:
                        exchange.end("cancelled" if watch.is_gone else "truncated", status=CLIENT_CLOSED)
                        raise
                    finally:
                        exchange.end("error", status=500)  # Nothing where it has ended as it should.
            finally:
                live.metrics.in_flight -= 1
        except ClientGoneError:
            pass
        except ApiError as error:
            live.metrics.refusals(str(error.status)).inc()
            await send_error(send, error)


class Exchange:
    """One request from its decision to its round in the log.

    Args:
        live: What requests share.
        serving: The settings it began under.
        headers: Of the request.
        body: Of the request.
        key: Whose it is; None without keys.
        refuse_usage: Names of the models whose upstream is known to refuse `stream_options`.
        tracing: Takes its span; None where there is no telemetry.

    Raises:
        ApiError: The request is at fault, or no model can take it.
    """

    def __init__(
        self,
        live: Live,
        serving: Serving,
        headers: Headers,
        body: bytes,
        *,
        key: Key | None,
        refuse_usage: set[str],
        tracing: Tracing | None = None,
    ) -> None:
        self.begun = time.perf_counter()
        self.decided_at = time.time()
        self.live = live
        self.serving = serving
        self.refuse_usage = refuse_usage
        self.traced = {
            TRACED[name]: value.decode() for name, value in headers if name in TRACED and PRINTABLE.fullmatch(value)
        }
        self.request: ChatRequest = parse_chat(body, headers, serving)
        self.route, self.decided, self.reservation = live.admit(
            self.request.route, serving, key=key, pinned=self.request.model
        )
        if self.decided.policy not in ("pinned", "default"):
            live.metrics.chose(self.decided.model, self.decided.propensity, self.decided.expected_regret)
        self.round_id = uuid.uuid4().hex
        self.served = serving.models[self.decided.model]
        self.tracing = tracing
        if tracing is not None:
            self.span = tracing.begin(self.traced, model=self.request.model, at=self.decided_at)
        self.called = time.perf_counter()
        self.answered = self.called
        self.ttft_s = math.nan
        self.usage: Usage | None = None
        self.is_over = False
        self.opening: asyncio.TimerHandle | None = None

    async def run(self, send: Send) -> None:
        """Answer the client, and log what came of it."""
        try:
            answer = await self._call()
        except UpstreamError as failure:
            error = failure.to_api_error(self.served.name)
            self.end("error", status=error.status)
            await send_error(send, error, self._headers(math.nan))
            return
        self.answered = time.perf_counter()
        if isinstance(answer, Stream):
            try:
                await self._relay(answer, send)
            finally:
                answer.close()
            return
        self.usage = answer.usage
        self.end("ok" if answer.status == 200 else "error", status=answer.status)
        await send_whole(send, answer.status, answer.headers + self._headers(self.cost_usd), answer.body)

    async def _call(self) -> Answer | Stream:
        """Return the answer of the chosen model, or of the first fallback that gives one.

        Raises:
            UpstreamError: None did; it is the chosen model's, which is then the one that served.
        """
        first: UpstreamError | None = None
        for model in self._candidates():
            self.served = model
            model.breaker.attempt()
            try:
                answer = await self._ask(model)
            except UpstreamError as failure:
                self.live.metrics.upstream_failures(model.name, failure.phase).inc()
                if failure.status != 429:
                    model.breaker.fail()
                elif failure.retry_after_s is not None:
                    model.breaker.rest(failure.retry_after_s)
                first = first or failure
            else:
                if isinstance(answer, Answer):  # Of a stream that is not known yet.
                    model.breaker.succeed()
                return answer
        assert first is not None  # noqa: S101 - there is at least the chosen model
        self.served = self.serving.models[self.decided.model]
        raise first

    def _candidates(self) -> list[ServedModel]:
        models = self.serving.models
        chosen = models[self.decided.model]
        if self.request.model is not None:  # Who asks for a model by name wants no other.
            return [chosen]
        others = [
            models[name]
            for name in self.serving.settings.fallback
            if name != chosen.name and name in (self.route.eligible or ()) and models[name].breaker.available
        ]
        return [chosen, *others]

    async def _ask(self, model: ServedModel) -> Answer | Stream:
        endpoint, request, client = model.endpoint, self.request, self.live.client
        headers: Mapping[str, str] = {**endpoint.headers, **self.traced} if self.traced else endpoint.headers
        if not request.is_stream:
            return await client.answer(endpoint, endpoint.chat_url, request.body(model.upstream_model), headers)
        asks_usage = not request.includes_usage and model.name not in self.refuse_usage
        body = request.body(model.upstream_model, asks_usage=asks_usage)
        answer = await client.stream(endpoint, endpoint.chat_url, body, headers, strips_usage=asks_usage)
        if asks_usage and isinstance(answer, Answer) and answer.status != 200 and b"stream_options" in answer.body:
            # The client never asked for what is refused here.
            self.refuse_usage.add(model.name)
            body = request.body(model.upstream_model)
            answer = await client.stream(endpoint, endpoint.chat_url, body, headers, strips_usage=False)
        return answer

    async def _relay(self, stream: Stream, send: Send) -> None:
        self.ttft_s = stream.first_content_at - self.begun
        self.opening = asyncio.get_running_loop().call_later(OPEN_AFTER_S, self._log, None)
        try:
            await send(started(stream.status, stream.headers + STREAMED + self._headers(math.nan)))
            async with asyncio.timeout_at(stream.deadline):
                while block := await stream.read():
                    if stream.is_done and not self.is_over:
                        # Logged before its last byte is sent: the client may give feedback as soon as it has that.
                        self.usage = stream.usage
                        self.end("ok" if stream.is_sound else "truncated", status=stream.status)
                        if self.request.includes_cost:
                            block = self._with_cost(block)
                    await send({"type": "http.response.body", "body": block, "more_body": True})
        except (UpstreamError, TimeoutError) as error:
            failure = error if isinstance(error, UpstreamError) else UpstreamError("it took too long", phase="total")
            self.live.metrics.upstream_failures(self.served.name, failure.phase).inc()
            self.served.breaker.fail()
            self.usage = stream.usage
            self.end("truncated", status=stream.status)
            await send({"type": "http.response.body", "body": failure.to_api_error(self.served.name).event()})
            return
        if stream.is_sound:
            self.served.breaker.succeed()
        else:
            self.live.metrics.upstream_failures(self.served.name, "malformed" if stream.is_malformed else "cut").inc()
            self.served.breaker.fail()
        self.usage = stream.usage
        self.end("ok" if stream.is_sound else "truncated", status=stream.status)
        await send({"type": "http.response.body", "body": b""})

    def _with_cost(self, block: bytes) -> bytes:
        """Return the block with the cost, as a comment, before `[DONE]`."""
        cost_usd = None if math.isnan(self.cost_usd) else self.cost_usd
        comment = orjson.dumps({"round_id": self.round_id, "model": self.served.name, "cost_usd": cost_usd})
        done = DONE.search(block)
        place = len(block) if done is None else done.start()
        return block[:place] + b": pointsman " + comment + b"\n\n" + block[place:]

    @property
    def cost_usd(self) -> float:
        """What the answer cost, in USD; NaN where its usage is not known."""
        usage = self.usage
        if usage is None:
            return math.nan
        return self.served.facts.price.cost_usd(
            input_tokens=usage.tokens_in,
            output_tokens=usage.tokens_out,
            cached_input_tokens=usage.tokens_cached,
            at=self.decided_at,
        )

    def _headers(self, cost_usd: float) -> Headers:
        decided = self.decided
        overhead_s = self.called - self.begun + time.perf_counter() - self.answered
        self.live.metrics.overhead().observe(overhead_s)
        return [
            (b"x-pointsman-round-id", self.round_id.encode()),
            (b"x-pointsman-model", self.served.name.encode("ascii", "replace")),
            (b"x-pointsman-propensity", repr(decided.propensity).encode()),
            (b"x-pointsman-router", decided.router_version.encode("ascii", "replace")),
            (b"x-pointsman-cost-usd", repr(cost_usd).encode()),
            (b"x-pointsman-overhead-ms", b"%.3f" % (1000 * overhead_s)),
        ]

    def end(self, outcome: Outcome, *, status: int) -> None:
        """Log the round and count it, once; what comes later changes nothing."""
        if self.is_over:
            return
        self.is_over = True
        if self.opening is not None:
            self.opening.cancel()
        decided, usage, metrics = self.decided, self.usage, self.live.metrics
        served = self.served.name
        latency_s = time.perf_counter() - self.begun
        cost_usd = self.cost_usd
        self._log(outcome, status=status, cost_usd=cost_usd, latency_s=latency_s)
        if self.reservation is not None:
            if outcome == "error":  # Nothing was answered, and nothing is charged for that.
                self.reservation.release()
            else:
                tokens = None if usage is None else usage.tokens_in + usage.tokens_out
                self.reservation.settle(cost_usd=cost_usd, tokens=tokens)
        if decided.policy != "pinned" and outcome != "error":
            n_tokens = 0 if usage is None else usage.tokens_in + usage.tokens_out
            self.live.observe(self.route, model=served, cost_usd=cost_usd, n_tokens=n_tokens)
        metrics.requests(served, decided.policy, outcome).inc()
        metrics.duration(served).observe(latency_s)
        if served != decided.model:
            metrics.fallbacks(decided.model, served).inc()
        if not math.isnan(self.ttft_s):
            metrics.first_token(served).observe(self.ttft_s)
        if usage is not None:
            metrics.tokens(served, "in").inc(usage.tokens_in)
            metrics.tokens(served, "out").inc(usage.tokens_out)
        if math.isnan(cost_usd):
            metrics.unknown_cost(served).inc()
        else:
            metrics.spend(served).inc(cost_usd)
        if self.tracing is not None:
            self.tracing.end(self.span, self, outcome=outcome, status=status, latency_s=latency_s, cost_usd=cost_usd)

    def _log(
        self,
        outcome: Outcome | None,
        *,
        status: int | None = None,
        cost_usd: float = math.nan,
        latency_s: float = math.nan,
    ) -> None:
        """Log the round as it is now."""
        decided, route, usage = self.decided, self.route, self.usage
        prompts = self.serving.settings.store.prompts
        prompt = route.prompt
        served = self.served.name
        self.live.put_round(
            round_id=self.round_id,
            decided_at=self.decided_at,
            model=decided.model,
            propensity=decided.propensity,
            eligible=decided.eligible,
            probabilities=dict(decided.probabilities),
            quality_per_usd=math.nan if decided.trade_off is None else decided.trade_off.quality_per_usd,
            router_version=decided.router_version,
            context=decided.context,
            prompt=prompt if prompts == "text" else None,
            prompt_hash=None if prompts == "none" else hashlib.sha256(prompt.encode()).hexdigest(),
            session_id=route.session_id,
            key_id=route.key_id,
            served_model=served,
            fallback=served != decided.model,
            outcome=outcome,
            status=status,
            cost_usd=cost_usd,
            tokens_in=None if usage is None else usage.tokens_in,
            tokens_out=None if usage is None else usage.tokens_out,
            latency_s=latency_s,
            ttft_s=self.ttft_s,
            policy=decided.policy,
            shadow_model=decided.shadow_model,
            shadow_version=decided.shadow_version,
        )
