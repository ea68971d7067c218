"""Vectors from any server that speaks OpenAI's `/embeddings`."""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import check_prompts, fingerprint, unit_rows
from pointsman.encode.text import bound_text
from pointsman.errors import EndpointError, InvalidParameterError
from pointsman.types import State

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_RETRIED: Final = frozenset([408, 409, 429, 500, 502, 503, 504, 529])
_MAX_ANSWER_BYTES: Final = 256 * 2**20


class EndpointEncoder:
    """An OpenAI-compatible `/embeddings` endpoint.

    The API key is read from the environment at each call; it is in no description, error or repr. An empty prompt,
    which such servers refuse, gets the zero vector without a call. Rows are as reproducible as the server makes them:
    a cache (`CachedEncoder`) makes them so, and spares the cost.

    Args:
        base_url: Up to and without `/embeddings`, such as https://api.openai.com/v1.
        model: The server's name of the model.
        n_features: Length of the model's vectors.
        api_key_env: Environment variable that holds the API key; no key is sent where None.
        batch_size: Prompts in one request.
        max_characters: Characters kept of a prompt, half from its head and half from its tail.
        timeout_s: Seconds without an answer after which a request has failed.
        max_retries: Times a request is sent again after a lost connection, a 429 or a 5xx; the pause before it is the
            server's `Retry-After`, else 0.5 s doubling each time, and at most 60 s.
    """

    kind: ClassVar[str] = "endpoint"

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        n_features: int,
        api_key_env: str | None = None,
        batch_size: int = 64,
        max_characters: int = 16_000,
        timeout_s: float = 30.0,
        max_retries: int = 4,
    ) -> None:
        _check_url(base_url)
        if not model:
            raise InvalidParameterError("model must not be empty; got ''")
        for name, value, least in (
            ("n_features", n_features, 1),
            ("batch_size", batch_size, 1),
            ("max_characters", max_characters, 3),
            ("max_retries", max_retries, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise InvalidParameterError(f"{name} must be an integer >= {least}; got {value!r}")
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise InvalidParameterError(f"timeout_s must be finite and > 0; got {timeout_s}")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.n_features = n_features
        self.api_key_env = api_key_env
        self.batch_size = batch_size
        self.max_characters = max_characters
        self.timeout_s = timeout_s
        self.max_retries = max_retries

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return the context of each prompt, (n_prompts, n_features).

        Raises:
            InvalidParameterError: `prompts` is not a list of strings, or the API key's variable is not set.
            EndpointError: The server cannot be reached, refuses, or answers no such vectors.
        """
        texts = [bound_text(prompt, max_characters=self.max_characters) for prompt in check_prompts(prompts)]
        rows = np.zeros((len(texts), self.n_features))
        filled = [row for row, text in enumerate(texts) if text]
        for start in range(0, len(filled), self.batch_size):
            batch = filled[start : start + self.batch_size]
            rows[batch] = self._vectors([texts[row] for row in batch])
        return unit_rows(rows)

    def describe(self) -> State:
        """Return what `encode.load` needs to rebuild this encoder: the name of the key's variable, never the key."""
        return {
            "kind": self.kind,
            "base_url": self.base_url,
            "model": self.model,
            "n_features": self.n_features,
            "api_key_env": self.api_key_env,
            "batch_size": self.batch_size,
            "max_characters": self.max_characters,
            "timeout_s": self.timeout_s,
            "max_retries": self.max_retries,
            "fingerprint": fingerprint(
                kind=self.kind,
                base_url=self.base_url,
                model=self.model,
                n_features=self.n_features,
                max_characters=self.max_characters,
            ),
        }

    def __repr__(self) -> str:
        return f"EndpointEncoder(base_url={self.base_url!r}, model={self.model!r}, n_features={self.n_features})"

    def _vectors(self, texts: list[str]) -> NDArray[np.float64]:
        body = json.dumps({"model": self.model, "input": texts, "encoding_format": "float"}).encode()
        answer = self._post(body)
        try:
            entries = sorted(json.loads(answer)["data"], key=lambda entry: int(entry["index"]))
            if [entry["index"] for entry in entries] != list(range(len(texts))):
                raise ValueError("the indices are not those of the inputs")
            vectors = np.array([entry["embedding"] for entry in entries], dtype=np.float64)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise self._error(
                f"did not answer with one embedding for each of {len(texts)} inputs ({error!r})"
            ) from None
        if vectors.shape != (len(texts), self.n_features):
            raise self._error(f"must answer with vectors of n_features={self.n_features}; got shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise self._error("answered with a vector that is not finite")
        return vectors

    def _post(self, body: bytes) -> bytes:
        """Return the body of a 200 answer, after as many tries as are allowed."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._authorization()}
        request = urllib.request.Request(f"{self.base_url}/embeddings", data=body, headers=headers, method="POST")  # noqa: S310
        for attempt in range(self.max_retries + 1):
            pause_s = _FIRST_PAUSE_S * 2**attempt
            try:
                with _opener.open(request, timeout=self.timeout_s) as response:
                    answer: bytes = response.read(_MAX_ANSWER_BYTES)
                    return answer
            except urllib.error.HTTPError as error:
                with error:
                    why = f"answered {error.code}: {self._excerpt(error)}"
                    pause_s = _retry_after_s(error.headers.get("Retry-After"), default=pause_s)
                if error.code not in _RETRIED:
                    raise self._error(why) from None
            except (OSError, http.client.HTTPException) as error:
                why = f"cannot be reached ({getattr(error, 'reason', None) or error!r})"
            if attempt < self.max_retries:
                time.sleep(min(pause_s, _LONGEST_PAUSE_S))
        raise self._error(f"{why}; tried {self.max_retries + 1} times")

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise InvalidParameterError(
                f"api_key_env must name an environment variable that holds the API key; {self.api_key_env} is not set"
            )
        # http.client would print a header it refuses, key and all.
        if not (key.isascii() and key.isprintable()):
            raise InvalidParameterError(f"the API key in {self.api_key_env} must be printable ASCII")
        return key

    def _authorization(self) -> dict[str, str]:
        key = self._key()
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def _excerpt(self, error: urllib.error.HTTPError) -> str:
        """Return the start of an error's body, without the key, which some servers repeat."""
        try:
            text = error.read(10_000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = ""
        key = self._key()
        if key is not None:
            text = text.replace(key, "***")
        return " ".join(text.split())[:300] or str(error.reason)

    def _error(self, why: str) -> EndpointError:
        return EndpointError(f"the embeddings endpoint {self.base_url} (model {self.model!r}) {why}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an error: following it would hand the key and the prompts to another server."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing."""


_opener: Final = urllib.request.build_opener(_NoRedirect)


def _check_url(base_url: str) -> None:
    rule = "base_url must be http(s)://host[:port][/path] without user, query or fragment"
    try:
        parts = urllib.parse.urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise InvalidParameterError(f"{rule}; got one that cannot be read") from None
    # Not shown: what stands before the @ is a password.
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidParameterError(f"{rule}; got one with such a part; put the key in the variable api_key_env names")
    if not valid or not base_url.isprintable() or " " in base_url:
        raise InvalidParameterError(f"{rule}; got {base_url!r}")


def _retry_after_s(value: str | None, *, default: float) -> float:
    """Return the pause a `Retry-After` header asks for, in seconds: it holds seconds or a date (RFC 9110)."""
    if value is None:
        return default
    try:
        pause_s = float(value)
    except ValueError:
        try:
            pause_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return default
    return max(pause_s, 0.0) if math.isfinite(pause_s) else default
