"""OpenTelemetry: a span and measurements per completion, by the conventions for generative AI, without any text.

Importing this module needs the extra `otel`. Nothing imports it unless `telemetry.otlp_endpoint` is set.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pointsman._version import __version__
from pointsman.errors import MissingDependencyError
from pointsman.gateway.live import log
from pointsman.gateway.request import AUTO

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise MissingDependencyError("telemetry needs more packages; pip install 'pointsman[otel]'") from None

if TYPE_CHECKING:
    from pointsman.gateway.chat import Exchange
    from pointsman.gateway.settings.schema import TelemetrySettings
    from pointsman.logs.store.records import Outcome

SECONDS: Final = tuple(0.01 * 2**n for n in range(14))
TOKENS: Final = tuple(4**n for n in range(14))
"""The buckets that the conventions ask for."""

EXPORT_S: Final = 5.0
"""How long one export may take, and the last one at the end."""
SILENCE_S: Final = 600.0
"""Time between two words in the log about a collector that takes nothing."""


class Tracing:
    """Sends a span and measurements of each completion to a collector, from threads of its own.

    A collector that is away or slow costs no request anything: what waits beyond a bound is dropped.

    Args:
        settings: With an `otlp_endpoint`.

    References:
        OpenTelemetry, semantic conventions for generative AI (client spans and metrics), status Development; W3C Trace
        Context for the parent and for what the upstream is told.
    """

    def __init__(self, settings: TelemetrySettings) -> None:
        # They would write a line a batch, or a span, for as long as a collector is away; `_Silence` says it once.
        for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        resource = Resource.create({"service.name": settings.service_name, "service.version": __version__})
        url = settings.otlp_endpoint
        self._traces = TracerProvider(
            sampler=ParentBasedTraceIdRatio(settings.sample_ratio), resource=resource, shutdown_on_exit=False
        )
        self._traces.add_span_processor(
            BatchSpanProcessor(_Spans(endpoint=f"{url}/v1/traces", headers=headers, timeout=EXPORT_S))
        )
        reader = PeriodicExportingMetricReader(
            _Measurements(endpoint=f"{url}/v1/metrics", headers=headers, timeout=EXPORT_S)
        )
        self._meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("pointsman", __version__)
        meter = self._meters.get_meter("pointsman", __version__)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to receive the first chunk of a stream.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._context = TraceContextTextMapPropagator()

    def begin(self, traced: dict[str, str], *, model: str | None, at: float) -> Span:
        """Begin the span of a completion.

        Args:
            traced: Headers that the upstream will get. A `traceparent` among them is the span's parent, and is replaced
                by the span's own.
            model: That the client names; None where one is chosen.
            at: When the request began, in Unix seconds.
        """
        asked = model or AUTO
        parent = self._context.extract(traced, Context())
        span = self._tracer.start_span(
            f"chat {asked}",
            parent,
            SpanKind.CLIENT,
            {"gen_ai.operation.name": "chat", "gen_ai.request.model": asked},
            start_time=int(at * 1e9),
        )
        traced.pop("traceparent", None)
        traced.pop("tracestate", None)
        self._context.inject(traced, set_span_in_context(span, parent))
        return span

    def end(
        self, span: Span, exchange: Exchange, *, outcome: Outcome, status: int, latency_s: float, cost_usd: float
    ) -> None:
        """End the span of a completion, and measure it.

        Args:
            span: As it was begun.
            exchange: The completion.
            outcome: How it ended.
            status: HTTP status of the answer.
            latency_s: From the request to the last byte, in s.
            cost_usd: What the answer cost, in USD; NaN where that is not known.
        """
        served, decided, usage = exchange.served, exchange.decided, exchange.usage
        address = served.endpoint.chat_url
        common: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": served.endpoint.name,
            "gen_ai.request.model": exchange.request.model or AUTO,
            "server.address": address.host,
            "server.port": address.port,
        }
        if outcome != "error":
            common["gen_ai.response.model"] = served.name
        told: dict[str, Any] = {} if outcome == "ok" else {"error.type": str(status) if outcome == "error" else outcome}
        self._duration.record(latency_s, {**common, **told})
        is_stream = not math.isnan(exchange.ttft_s)
        if is_stream:
            self._first_chunk.record(exchange.ttft_s, common)
        if usage is not None:
            self._tokens.record(usage.tokens_in, {**common, "gen_ai.token.type": "input"})
            self._tokens.record(usage.tokens_out, {**common, "gen_ai.token.type": "output"})
        if span.is_recording():
            if told:
                span.set_status(StatusCode.ERROR)
            told |= common
            told |= {
                "pointsman.round_id": exchange.round_id,
                "pointsman.policy": decided.policy,
                "pointsman.router_version": decided.router_version,
                "pointsman.chosen_model": decided.model,
                "pointsman.propensity": decided.propensity,
                "pointsman.fallback": served.name != decided.model,
            }
            if is_stream:
                told["gen_ai.response.time_to_first_chunk"] = exchange.ttft_s
            if usage is not None:
                told["gen_ai.usage.input_tokens"] = usage.tokens_in
                told["gen_ai.usage.output_tokens"] = usage.tokens_out
                told["gen_ai.usage.cache_read.input_tokens"] = usage.tokens_cached
            if not math.isnan(cost_usd):
                told["pointsman.cost_usd"] = cost_usd
            if exchange.route.session_id is not None:
                told["gen_ai.conversation.id"] = exchange.route.session_id
            span.set_attributes(told)
        span.end(int((exchange.decided_at + latency_s) * 1e9))

    def close(self) -> None:
        """Send what waits, within `EXPORT_S`: a collector that is away holds nobody up."""
        until = time.monotonic() + EXPORT_S
        ends = [threading.Thread(target=each.shutdown, daemon=True) for each in (self._traces, self._meters)]
        for end in ends:
            end.start()
        for end in ends:
            end.join(max(until - time.monotonic(), 0))


class _Silence:
    """Says that a collector takes nothing, and then nothing for a while."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said_at = -math.inf

    def note(self, *, is_sent: bool) -> None:
        if not is_sent and time.monotonic() - self._said_at > SILENCE_S:
            self._said_at = time.monotonic()
            log.warning("%s cannot be sent to telemetry.otlp_endpoint, and are dropped; requests go on", self._what)


class _Spans(OTLPSpanExporter):
    def __init__(self, *, endpoint: str, headers: Mapping[str, str], timeout: float) -> None:
        super().__init__(endpoint=endpoint, headers=dict(headers), timeout=timeout)
        self._silence = _Silence("spans")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = super().export(spans)
        except Exception:  # which some versions let through where there is no connection
            result = SpanExportResult.FAILURE
        self._silence.note(is_sent=result is SpanExportResult.SUCCESS)
        return result


class _Measurements(OTLPMetricExporter):
    def __init__(self, *, endpoint: str, headers: Mapping[str, str], timeout: float) -> None:
        super().__init__(endpoint=endpoint, headers=dict(headers), timeout=timeout)
        self._silence = _Silence("measurements")

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        try:
            result = super().export(metrics_data, timeout_millis=timeout_millis, **kwargs)
        except Exception:
            result = MetricExportResult.FAILURE
        self._silence.note(is_sent=result is MetricExportResult.SUCCESS)
        return result
