"""What Prometheus scrapes: requests, times, money, failures, and the health of what is logged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
LAG_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400, 604_800, 2_592_000)
OVERHEAD_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)

M = TypeVar("M", Counter, Histogram)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The gateway's metrics, in a registry of their own: others add their collectors to it.

    Labels are names of the settings and words of ours, so their number is bounded; what a client wrote is never one.

    Attributes:
        registry: Of all metrics.
        in_flight: Requests being answered.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Answers by serving model", ("model", "policy", "outcome"))
        self.refusals = self._counter("refusals", "Requests refused before a model was called", ("status",))
        self.duration = self._histogram("request_duration_seconds", "From request to last byte", SECONDS, ("model",))
        self.first_token = self._histogram("time_to_first_token_seconds", "Streams only", SECONDS, ("model",))
        self.overhead = self._histogram("overhead_seconds", "What the gateway adds", OVERHEAD_SECONDS)
        self.tokens = self._counter("tokens", "By the upstream's count", ("model", "direction"))
        self.spend = self._counter("spend_usd", "Cost of the answers whose usage is known", ("model",))
        self.unknown_cost = self._counter("unknown_cost", "Answers whose cost is not known", ("model",))
        self.choices = self._counter("choices", "Times the router chose a model", ("model",))
        self.fallbacks = self._counter("fallbacks", "Answers by another model than chosen", ("chosen", "served"))
        self.upstream_failures = self._counter("upstream_failures", "Calls that failed", ("model", "phase"))
        self.router_failures = self._counter("router_failures", "Decisions left to the default model", ("reason",))
        self.rounds_lost = self._counter("rounds_not_logged", "Rounds that the store did not take", ())
        self.feedback = self._counter("feedback", "Feedback received", ("status",))
        self.feedback_lag = self._histogram("feedback_lag_seconds", "From a decision to its feedback", LAG_SECONDS)
        # Sums, so that the effective sample size of any window is a quotient of rates, (sum 1/p)^2 / sum 1/p^2.
        self.inverse_propensity = self._counter("inverse_propensity", "Sum of 1 / propensity of the choices", ())
        self.inverse_propensity_squares = self._counter("inverse_propensity_squares", "Sum of their squares", ())
        self.expected_regret = self._counter("expected_regret", "Sum of what choices are expected to give up", ())
        self.expected_regret_rounds = self._counter("expected_regret_rounds", "Choices that it is the sum of", ())
        self.in_flight = 0
        self.least_propensity = math.inf
        self.gauge("requests_in_flight", "Requests being answered", lambda: self.in_flight)
        self.gauge(
            "propensity_min",
            "Least propensity of a router's choice; NaN before the first",
            lambda: self.least_propensity if self.least_propensity < math.inf else math.nan,
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Labelled[Counter]:
        return Labelled(Counter(f"pointsman_{name}", text, labels, registry=self.registry), labels)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Labelled[Histogram]:
        metric = Histogram(f"pointsman_{name}", text, labels, registry=self.registry, buckets=buckets)
        return Labelled(metric, labels)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge without labels that is read when it is scraped."""
        Gauge(f"pointsman_{name}", text, registry=self.registry).set_function(value)

    def watch(self, name: str, text: str, label: str, values: Callable[[], dict[str, float]]) -> None:
        """Add a gauge that is read when it is scraped.

        Args:
            name: Without the prefix.
            text: What it means.
            label: Name of its label.
            values: Returns the gauge's value by the label's.
        """
        self.registry.register(_Watched(name, text, label, values))

    def sample(self, texts: Mapping[str, str], values: Callable[[], Mapping[str, float]]) -> None:
        """Add metrics without labels that are read together when they are scraped, and may be absent.

        Args:
            texts: What each means, by its name without the prefix. A name that ends in `_total` is a counter's.
            values: Returns the values there are, by name.
        """
        self.registry.register(_Sampled(texts, values))

    def chose(self, model: str, propensity: float, expected_regret: float) -> None:
        """Count a router's choice.

        Args:
            model: The chosen one.
            propensity: Its probability, in (0, 1].
            expected_regret: What the draw is expected to give up, in quality points; NaN, which counts nothing, where
                the router predicts nothing.
        """
        self.choices(model).inc()
        if math.isfinite(expected_regret):
            self.expected_regret().inc(max(expected_regret, 0.0))
            self.expected_regret_rounds().inc()
        self.inverse_propensity().inc(1 / propensity)
        self.inverse_propensity_squares().inc(1 / propensity**2)
        self.least_propensity = min(self.least_propensity, propensity)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class Labelled(Generic[M]):
    """A metric whose children are looked up in a dictionary, several times faster than by its `labels`."""

    def __init__(self, metric: M, labels: tuple[str, ...]) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {} if labels else {(): metric}

    def __call__(self, *labels: str) -> M:
        """Return the child of these labels."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class _Watched(Collector):
    def __init__(self, name: str, text: str, label: str, values: Callable[[], dict[str, float]]) -> None:
        self._facts = f"pointsman_{name}", text, label
        self._values = values

    def collect(self) -> Iterator[Metric]:
        name, text, label = self._facts
        family = GaugeMetricFamily(name, text, labels=[label])
        for value, number in self._values().items():
            family.add_metric([value], number)
        yield family


class _Sampled(Collector):
    def __init__(self, texts: Mapping[str, str], values: Callable[[], Mapping[str, float]]) -> None:
        self._texts, self._values = texts, values

    def collect(self) -> Iterator[Metric]:
        for name, value in self._values().items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(f"pointsman_{name}", self._texts[name], value=value)
