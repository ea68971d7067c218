"""Errors as OpenAI's API spells them: `{"error": {"message", "type", "param", "code"}}` with the true status."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from pointsman.errors import PointsmanError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}
"""What OpenAI calls the error of a status; `server_error` where the status is not here."""


class ApiError(PointsmanError):
    """What a client is told instead of an answer.

    Attributes:
        status: HTTP status.
        message: What is wrong and what to do, free of secrets.
        param: The field of the request that is at fault.
        code: A word for machines.
        headers: Further response headers, such as `retry-after`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return the error as JSON."""
        return error_body(self.status, self.message, param=self.param, code=self.code)

    def event(self) -> bytes:
        """Return the error as one event of a stream that has begun."""
        return b"data: " + self.body() + b"\n\n"


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> bytes:
    """Return an OpenAI-shaped error as JSON."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    # A lone surrogate from a header or a path has no UTF-8.
    try:
        return orjson.dumps({"error": error})
    except TypeError:
        error["message"] = message.encode("utf-8", "replace").decode()
        return orjson.dumps({"error": error})
