"""Calling the models: one pooled client, timeouts by phase, retries where safe, a circuit breaker, SSE."""

from pointsman.gateway.upstream.answer import Answer, Stream, UpstreamClient
from pointsman.gateway.upstream.breaker import CircuitBreaker
from pointsman.gateway.upstream.endpoint import Endpoint, Timeouts
from pointsman.gateway.upstream.failure import UpstreamError
from pointsman.gateway.upstream.usage import Usage

__all__ = ["Answer", "CircuitBreaker", "Endpoint", "Stream", "Timeouts", "UpstreamClient", "UpstreamError", "Usage"]
