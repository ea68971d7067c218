"""OpenTelemetry: a real collector of OTLP over HTTP gets what the conventions say, and nothing that anyone wrote."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2 as httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pointsman.gateway.settings import Settings
from pointsman.gateway.tracing import EXPORT_S, SECONDS, TOKENS
from tests.gateway.conftest import COST_USD, Gateway, gateway_settings
from tests.gateway.upstreams import closed_port

QUESTION = "What is the capital of Switzerland?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP.

    Attributes:
        url: Where.
        spans: Received, in order.
        measurements: The last of each, by name.
        resource: Attributes of the last resource.
        headers: Of the last request.
        raw: All bytes received.
        paths: Of all requests.
        refuses: Whether all are answered with 401.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.measurements: dict[str, Any] = {}
        self.resource: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.raw = b""
        self.paths: list[str] = []
        self.refuses = False
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """Read an export, and say that it has come."""
        body = request.rfile.read(int(request.headers["content-length"]))
        self.raw += body
        self.paths.append(request.path)
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        if request.path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = attributes(group.resource)
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
        elif request.path == "/v1/metrics":
            for each in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.measurements |= {metric.name: metric for scope in each.scope_metrics for metric in scope.metrics}
        is_known = request.path in ("/v1/traces", "/v1/metrics")
        request.send_response(401 if self.refuses else 200 if is_known else 404)
        request.send_header("content-length", "0")
        request.end_headers()

    def span(self, n: int = 1) -> Span:
        """The last span, once there are so many."""
        wait_until(lambda: len(self.spans) >= n)
        assert len(self.spans) == n
        return self.spans[-1]


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait, at most 30 s."""
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of something, as a dictionary."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, to which exporters send at once."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def ask(gateway: Gateway, model: str = "auto", *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    """Ask for a completion."""
    body = {"model": model, "messages": MESSAGES, **more}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers or {})


def test_a_completion_is_a_span_of_the_conventions(collector: Collector, make_gateway: Any):
    """Parent is the client's span, the upstream is called within ours, and the attributes are those of the round."""
    gateway = make_gateway(
        telemetry={
            "otlp_endpoint": f"{collector.url}/",
            "service_name": "router-test",
            "headers": {"authorization": "Bearer collector-secret"},
        }
    )
    headers = {
        "authorization": "Bearer sk-client-secret",
        "traceparent": f"00-{TRACE}-{PARENT}-01",
        "tracestate": "vendor=1",
    }
    before = time.time()
    answer = ask(gateway, headers=headers, pointsman={"session": "talk-1"})
    after = time.time()

    span, round_ = collector.span(), gateway.round()
    served = answer.headers["x-pointsman-model"]
    assert (span.name, span.kind, span.status.code) == ("chat auto", Span.SPAN_KIND_CLIENT, Status.STATUS_CODE_UNSET)
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "main",
        "gen_ai.request.model": "auto",
        "gen_ai.response.model": served,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.conversation.id": "talk-1",
        "server.address": "127.0.0.1",
        "server.port": gateway.live.serving.models["good"].endpoint.chat_url.port,
        "pointsman.round_id": answer.headers["x-pointsman-round-id"],
        "pointsman.propensity": 0.5,
        "pointsman.router_version": "fixed",
        "pointsman.policy": "router",
        "pointsman.chosen_model": served,
        "pointsman.cost_usd": pytest.approx(COST_USD),
        "pointsman.fallback": False,
    }
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    seen = gateway.upstream.headers
    assert seen["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert seen["tracestate"] == "vendor=1"
    assert before <= span.start_time_unix_nano / 1e9 < span.end_time_unix_nano / 1e9 <= after
    assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 == pytest.approx(round_.latency_s, abs=1e-6)
    assert collector.resource["service.name"] == "router-test"
    assert collector.headers["authorization"] == "Bearer collector-secret"


def test_nothing_that_anyone_wrote_is_sent(collector: Collector, make_gateway: Any):
    """Neither prompt, answer nor secret is in any byte, whatever comes of the request."""
    gateway = make_gateway(telemetry={"otlp_endpoint": collector.url}, fallback=[])
    client = gateway.client()
    client.chat.completions.create(model="good", messages=MESSAGES)
    list(client.chat.completions.create(model="good", messages=MESSAGES, stream=True))
    for model in ("broken", "unauthorized", "error-midway"):
        ask(gateway, model, stream=True, headers={"authorization": "Bearer sk-client-secret"})
    collector.span(5)
    wait_until(lambda: "gen_ai.client.token.usage" in collector.measurements)
    for text in (QUESTION, "capital", "Hel", "wörld", "sk-client-secret", "sk-upstream-secret", "overloaded"):
        assert text.encode() not in collector.raw


@pytest.mark.parametrize(
    ("model", "is_stream", "error", "responds"),
    [
        ("broken", False, "502", False),
        ("limited", False, "429", False),
        ("hang-before-content", True, "504", False),
        ("strict", False, "400", False),
        ("cut", True, "truncated", True),
        ("error-midway", True, "truncated", True),
    ],
)
def test_a_failure_has_a_type(
    collector: Collector, make_gateway: Any, model: str, is_stream: bool, error: str, responds: bool
):
    """It is the status that the client got, or how the stream ended; who never answered is no response's model."""
    gateway = make_gateway(telemetry={"otlp_endpoint": collector.url})
    ask(gateway, model, stream=is_stream)
    span = collector.span()
    told = attributes(span)
    assert (span.name, span.status.code) == (f"chat {model}", Status.STATUS_CODE_ERROR)
    assert told["error.type"] == error
    assert ("gen_ai.response.model" in told) == responds
    assert told["pointsman.policy"] == "pinned"
    assert "gen_ai.usage.input_tokens" not in told
    assert "pointsman.cost_usd" not in told
    wait_until(lambda: "gen_ai.client.operation.duration" in collector.measurements)
    (point,) = collector.measurements["gen_ai.client.operation.duration"].histogram.data_points
    assert attributes(point)["error.type"] == error


def test_who_stands_in_is_told_from_who_was_chosen(collector: Collector, make_gateway: Any):
    """A fallback's span names both, and the one call that was answered."""
    gateway = make_gateway({"refuse": 1.0}, telemetry={"otlp_endpoint": collector.url})
    body = {"pointsman": {"models": ["refuse", "other"]}, "stream": True}
    assert ask(gateway, **body).status_code == 200
    told = attributes(collector.span())
    assert (told["pointsman.chosen_model"], told["gen_ai.response.model"]) == ("refuse", "other")
    assert (told["pointsman.fallback"], told["gen_ai.provider.name"]) == (True, "main")
    assert "error.type" not in told


def test_a_client_that_goes_away_ends_its_span(collector: Collector, make_gateway: Any):
    """What was broken off is told as that."""
    gateway = make_gateway(telemetry={"otlp_endpoint": collector.url})
    body = {"model": "endless", "messages": MESSAGES, "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as stream:
        next(stream.iter_bytes())
    assert attributes(collector.span())["error.type"] == "cancelled"


def test_measurements_are_those_of_the_conventions(collector: Collector, make_gateway: Any):
    """Duration of all, first chunk of streams, tokens by type, in the buckets that the conventions ask for."""
    gateway = make_gateway(telemetry={"otlp_endpoint": collector.url, "sample_ratio": 0.0})
    ask(gateway, "good")
    ask(gateway, "good", stream=True)
    measured = collector.measurements

    def points(name: str) -> list[Any]:
        return list(measured[name].histogram.data_points) if name in measured else []

    duration, first, usage = (
        f"gen_ai.client.{name}" for name in ("operation.duration", "operation.time_to_first_chunk", "token.usage")
    )
    wait_until(lambda: sum(point.count for point in points(duration)) == 2)
    wait_until(lambda: sum(point.count for point in points(usage)) == 4)
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "main",
        "gen_ai.request.model": "good",
        "gen_ai.response.model": "good",
        "server.address": "127.0.0.1",
        "server.port": gateway.live.serving.models["good"].endpoint.chat_url.port,
    }
    (took,), (began,) = points(duration), points(first)
    assert attributes(took) == attributes(began) == common
    assert (took.count, began.count) == (2, 1)
    assert 0 < began.sum < took.sum
    assert tuple(took.explicit_bounds) == tuple(began.explicit_bounds) == SECONDS
    tokens = {attributes(point)["gen_ai.token.type"]: point for point in points(usage)}
    assert {kind: (point.count, point.sum) for kind, point in tokens.items()} == {"input": (2, 20), "output": (2, 10)}
    assert attributes(tokens["input"]) == {**common, "gen_ai.token.type": "input"}
    assert tuple(tokens["input"].explicit_bounds) == TOKENS
    assert TOKENS[-1] == 67_108_864
    assert math.isclose(SECONDS[-1], 81.92)
    assert [measured[name].unit for name in (duration, first, usage)] == ["s", "s", "{token}"]
    assert not collector.spans  # of a share of none


def test_whether_a_trace_is_kept_is_said_by_who_began_it(collector: Collector, make_gateway: Any):
    """Of traces begun here none is, at a ratio of 0, and upstreams are told so; a client's own is as it says."""
    gateway = make_gateway(telemetry={"otlp_endpoint": collector.url, "sample_ratio": 0.0})
    ask(gateway, "good", headers={"traceparent": "nonsense", "tracestate": "vendor=1"})
    version, trace, _, flags = gateway.upstream.headers["traceparent"].split("-")
    assert (version, len(trace), int(flags, 16) & 1) == ("00", 32, 0)
    assert "tracestate" not in gateway.upstream.headers
    ask(gateway, "good", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert collector.span().trace_id.hex() == TRACE


def test_a_collector_that_is_away_costs_no_request(
    upstream_server: Any, make_gateway: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Requests are answered, the log says it once of spans and once of measurements, and the end is not held up."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    gateway = make_gateway(telemetry={"otlp_endpoint": f"http://127.0.0.1:{closed_port()}"})
    with caplog.at_level(logging.INFO):
        for _ in range(40):
            began = time.monotonic()
            assert ask(gateway).status_code == 200
            assert time.monotonic() - began < 2

        def said() -> list[str]:
            return [record.getMessage() for record in caplog.records if "otlp" in record.getMessage().lower()]

        wait_until(lambda: len(said()) == 2)
        ask(gateway)
        time.sleep(0.5)
        assert sorted(line.split()[0] for line in said()) == ["measurements", "spans"]
        assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
        began = time.monotonic()
        gateway.stack.close()
        assert time.monotonic() - began < EXPORT_S + 5


def test_a_collector_that_refuses_is_told_of_once(
    collector: Collector, make_gateway: Any, caplog: pytest.LogCaptureFixture
):
    """However many exports fail, the log has one line of spans and one of measurements."""
    collector.refuses = True
    gateway = make_gateway(telemetry={"otlp_endpoint": collector.url})
    for n in range(1, 4):
        ask(gateway)
        wait_until(lambda: min(map(collector.paths.count, ("/v1/traces", "/v1/metrics"))) >= n)  # noqa: B023 - at once
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(line.split()[0] for line in lines) == ["measurements", "spans"]


def test_what_waits_is_sent_at_the_end(
    collector: Collector, make_gateway: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A gateway that stops loses no span and no measurement, though it was not yet time to send any."""
    for name in ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"):
        monkeypatch.setenv(name, "60000")
    gateway = make_gateway(telemetry={"otlp_endpoint": collector.url})
    ask(gateway)
    assert not collector.raw
    gateway.stack.close()
    assert len(collector.spans) == 1
    assert "gen_ai.client.token.usage" in collector.measurements
    assert "otlp" not in caplog.text


FAKE = {
    "upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1"}},
    "models": [{"name": "a", "upstream": "main", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}],
}
WITHOUT = """
import json, sys
sys.modules["opentelemetry"] = None  # as where it is not installed
from pointsman.gateway.app import make_app
from pointsman.gateway.decide import FixedDecider
from pointsman.gateway.settings import Settings
from pointsman.gateway.settings.plan import plan
settings = Settings(**json.loads(sys.argv[1]))
for begin in (lambda: plan(settings), lambda: make_app(settings, FixedDecider({"a": 1.0}), None)):
    try:
        begin()
        print("fine")
    except ImportError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:4318"])
def test_its_packages_are_needed_only_where_it_is_on(endpoint: str | None):
    """Off, a gateway starts without them; on, both the check and the start say what to install."""
    settings = {**FAKE, "telemetry": {"otlp_endpoint": endpoint}}
    told = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", WITHOUT, json.dumps(settings)], capture_output=True, text=True, check=True
    )
    missing = "MissingDependencyError telemetry needs more packages; pip install 'pointsman[otel]'"
    assert told.stdout.splitlines() == ["fine" if endpoint is None else missing] * 2


def test_secrets_of_the_collector_are_not_shown():
    """Headers are secrets, and none goes into the URL."""
    on = {"otlp_endpoint": "http://127.0.0.1:4318", "headers": {"api-key": "collector-secret"}}
    assert "collector-secret" not in repr(gateway_settings("http://127.0.0.1:9", telemetry=on))
    with pytest.raises(ValueError, match="put secrets into headers") as raised:
        Settings(**FAKE, telemetry={"otlp_endpoint": "http://user:collector-secret@127.0.0.1:4318"})
    assert "collector-secret" not in str(raised.value)
