"""How a call to a model fails, and what the client is told of it."""

from __future__ import annotations

from typing import Literal

from pointsman.errors import PointsmanError
from pointsman.gateway.errors import ApiError

Phase = Literal["connect", "first_token", "between_tokens", "total", "status", "cut", "malformed"]


class UpstreamError(PointsmanError):
    """A model gave no answer, or no whole one.

    Attributes:
        phase: Where it failed; `status` where it answered with an HTTP error.
        status: That HTTP error; None without.
        retry_after_s: How long the upstream asked to be left alone, in seconds; None where it did not.
    """

    def __init__(
        self, message: str, *, phase: Phase, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def is_refusal(self) -> bool:
        """Whether the request surely was not worked on, so that sending it again is safe."""
        return self.phase == "connect" or self.status in (429, 503)

    def to_api_error(self, model: str) -> ApiError:
        """Return what the client is told; nothing the upstream wrote, as that may show its credentials."""
        status = {429: 429, 503: 503, 504: 504}.get(self.status or 0, 502)
        if self.phase in ("first_token", "between_tokens", "total"):
            status = 504
        headers = {} if self.retry_after_s is None else {"retry-after": str(max(round(self.retry_after_s), 1))}
        return ApiError(status, f"{model} failed: {self}", code=f"upstream_{self.phase}", headers=headers)
