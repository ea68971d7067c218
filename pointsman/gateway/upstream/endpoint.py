"""Where a model is called, and for how long it is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from aiohttp import ClientTimeout
from yarl import URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each phase of a call may last, in seconds.

    Attributes:
        connect_s: Until the connection stands.
        first_token_s: From sending the request to the first content of a stream.
        between_tokens_s: Between two chunks of a stream.
        total_s: The whole call; the only limit, after connecting, of an answer that is not streamed.
    """

    connect_s: float = 5.0
    first_token_s: float = 60.0
    between_tokens_s: float = 30.0
    total_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible API.

    Attributes:
        name: What the settings call it.
        base_url: Such as `https://api.openai.com/v1`.
        headers: Sent with each request, credentials among them; never shown.
        timeouts: By phase.
        max_retries: Further attempts at a request that was refused before anything came back.
        max_connections: Kept open at once.
        max_answer_bytes: Largest answer that is not streamed.
        max_retry_after_s: The longest wait that an upstream may ask for and get, in seconds.
    """

    name: str
    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_retries: int = 2
    max_connections: int = 1000
    max_answer_bytes: int = 64 * 2**20
    max_retry_after_s: float = 5.0

    @cached_property
    def chat_url(self) -> URL:
        """Where chat completions are asked for."""
        return self.url("chat/completions")

    @cached_property
    def client_timeout(self) -> ClientTimeout:
        """The client's own timeout: of the connection only, as the other phases are timed by who reads."""
        return ClientTimeout(total=None, sock_connect=self.timeouts.connect_s)

    def url(self, path: str) -> URL:
        """Return the address of a path below the base URL."""
        return URL(f"{self.base_url.rstrip('/')}/{path}")
