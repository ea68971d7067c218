"""The endpoint encoder, against a real server on a socket."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from pointsman.encode.base import Encoder
from pointsman.encode.endpoint import EndpointEncoder, _retry_after_s
from pointsman.errors import EndpointError, InvalidParameterError

SECRET = "sk-very-secret-0123456789"  # noqa: S105

Answer = tuple[int, dict[str, str], bytes]


def vector(text: str) -> list[float]:
    """Return three numbers that depend on the text alone."""
    return [byte + 1.0 for byte in hashlib.sha256(text.encode()).digest()[:3]]


def good(request: dict[str, Any]) -> Answer:
    """Answer rightly, in reversed order."""
    entries = [{"index": i, "embedding": vector(text)} for i, text in enumerate(request["input"])]
    return 200, {}, json.dumps({"object": "list", "data": entries[::-1]}).encode()


class Server:
    """An embeddings server that answers from a script, then rightly, and remembers the requests."""

    def __init__(self) -> None:
        self.script: list[Answer | Callable[[dict[str, Any]], Answer] | None] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                step = outer.script.pop(0) if outer.script else good
                if step is None:
                    self.close_connection = True
                    return
                status, headers, content = step(body) if callable(step) else step
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, and a secret in the environment."""
    monkeypatch.setenv("TEST_API_KEY", SECRET)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.close()


def encoder_of(server: Server, **changes: Any) -> EndpointEncoder:
    """Return an encoder that talks to the server."""
    arguments: dict[str, Any] = {
        "base_url": server.url,
        "model": "embed-1",
        "n_features": 3,
        "api_key_env": "TEST_API_KEY",
        "batch_size": 2,
        "timeout_s": 5.0,
        **changes,
    }
    return EndpointEncoder(**arguments)


def unit(texts: list[str]) -> np.ndarray:
    """Return the rows the server's vectors become."""
    rows = np.array([vector(text) for text in texts])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_rows_come_in_the_order_of_the_prompts(server: Server) -> None:
    """Batches of two, answered backwards: each prompt gets its own unit row; the request is OpenAI's."""
    encoder = encoder_of(server)
    prompts = ["a", "b", "c", "größe 🙂", "e"]

    context = encoder.encode(prompts)

    assert isinstance(encoder, Encoder)
    assert context.dtype == np.float32
    np.testing.assert_allclose(context, unit(prompts), atol=2**-23)
    assert [len(body["input"]) for _, _, body in server.requests] == [2, 2, 1]
    path, headers, body = server.requests[0]
    assert path == "/v1/embeddings"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body == {"model": "embed-1", "input": ["a", "b"], "encoding_format": "float"}


def test_empty_prompts_cost_no_request(server: Server) -> None:
    """They get the zero vector; no prompts get no rows."""
    encoder = encoder_of(server)

    assert encoder.encode(["", ""]).tolist() == [[0.0] * 3] * 2
    assert encoder.encode([]).shape == (0, 3)
    assert server.requests == []
    np.testing.assert_allclose(encoder.encode(["", "a"])[1:], unit(["a"]), atol=2**-23)


def test_long_prompts_are_cut_before_they_are_sent(server: Server) -> None:
    """Head and tail, within max_characters."""
    encoder_of(server, max_characters=100).encode(["a" * 1000 + "z" * 1000])

    (text,) = server.requests[0][2]["input"]
    assert len(text) == 100
    assert text.startswith("aaa")
    assert text.endswith("zzz")


def test_without_a_key_no_key_is_sent(server: Server) -> None:
    """Local servers want none."""
    encoder_of(server, api_key_env=None).encode(["a"])

    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    """Retry-After says when; the answer that then comes is used."""
    server.script = [(status, {"Retry-After": "0"}, b"busy"), (status, {"Retry-After": "0"}, b"busy")]

    np.testing.assert_allclose(encoder_of(server).encode(["a"]), unit(["a"]), atol=2**-23)
    assert len(server.requests) == 3


def test_a_lost_connection_is_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs up without an answer gets the same request again."""
    monkeypatch.setattr("pointsman.encode.endpoint._FIRST_PAUSE_S", 0.0)
    server.script = [None]

    np.testing.assert_allclose(encoder_of(server).encode(["a"]), unit(["a"]), atol=2**-23)
    assert server.requests[0][2] == server.requests[1][2]


def test_it_gives_up_in_the_end(server: Server) -> None:
    """After max_retries, one error with the server's words."""
    server.script = [(503, {"Retry-After": "0"}, b"overloaded\nnow")] * 3

    with pytest.raises(EndpointError, match=r"answered 503: overloaded now; tried 3 times"):
        encoder_of(server, max_retries=2).encode(["a"])
    assert len(server.requests) == 3


def test_nobody_listening_is_an_endpoint_error(server: Server) -> None:
    """The error names the address."""
    encoder = encoder_of(server, max_retries=0)
    server.http.server_close()

    with pytest.raises(EndpointError, match=rf"{server.url} .*cannot be reached"):
        encoder.encode(["a"])


def test_a_refusal_is_not_repeated_and_hides_the_key(server: Server) -> None:
    """A 401 that quotes the key is shown without it."""
    server.script = [(401, {}, f"Incorrect API key provided: {SECRET}".encode())]

    with pytest.raises(EndpointError, match=r"answered 401: Incorrect API key provided: \*\*\*") as caught:
        encoder_of(server).encode(["a"])
    assert len(server.requests) == 1
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_redirect_is_not_followed(server: Server) -> None:
    """Neither key nor prompts go to a server that was not named."""
    other = Server()
    try:
        server.script = [(307, {"Location": f"{other.url}/embeddings"}, b""), (302, {"Location": other.url}, b"")]
        for status in (307, 302):
            with pytest.raises(EndpointError, match=f"answered {status}"):
                encoder_of(server).encode(["a"])
        assert other.requests == []
    finally:
        other.close()


ENTRY = {"index": 0, "embedding": [1, 2, 3]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"[" * 100_000,
        json.dumps({"data": []}).encode(),
        json.dumps({"data": [ENTRY, ENTRY]}).encode(),
        json.dumps({"data": [{"index": 1, "embedding": [1, 2, 3]}]}).encode(),
        json.dumps({"data": [{"index": "x", "embedding": [1, 2, 3]}]}).encode(),
        json.dumps({"data": [{"index": 0, "embedding": [1, 2]}]}).encode(),
        json.dumps({"data": [{"index": 0, "embedding": "AAAA"}]}).encode(),
        json.dumps({"data": [{"index": 0, "embedding": [1, None, 3]}]}).encode(),
        b'{"data": [{"index": 0, "embedding": [1, NaN, 3]}]}',
        b'{"data": [{"index": 1e999, "embedding": [1, 2, 3]}]}',
    ],
    ids=range(14),
)
def test_an_answer_that_is_no_embedding_is_one_error(server: Server, content: bytes) -> None:
    """Broken JSON, missing, repeated or short vectors: an EndpointError, never a wrong row."""
    server.script = [(200, {}, content)]

    with pytest.raises(EndpointError):
        encoder_of(server).encode(["a"])


def test_the_key_is_read_at_each_call_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated key is used at once; description, repr and state hold the variable's name alone."""
    encoder = encoder_of(server)
    encoder.encode(["a"])
    monkeypatch.setenv("TEST_API_KEY", "rotated")
    encoder.encode(["a"])

    assert [headers["Authorization"] for _, headers, _ in server.requests] == [f"Bearer {SECRET}", "Bearer rotated"]
    shown = f"{encoder!r} {json.dumps(encoder.describe())} {vars(encoder)}"
    assert SECRET not in shown
    assert "rotated" not in shown
    assert encoder.describe()["api_key_env"] == "TEST_API_KEY"


@pytest.mark.parametrize("key", ["", "  ", "se\ncret", "schlüssel"])
def test_an_unusable_key_is_refused_without_showing_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Unset, empty, with a line break, not ASCII: the error names the variable."""
    monkeypatch.setenv("TEST_API_KEY", key)

    with pytest.raises(InvalidParameterError, match="TEST_API_KEY") as caught:
        encoder_of(server).encode(["a"])
    assert not key.strip() or key not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com/v1",
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "http://h:port",
        "http://h h/",
        "http://[x",
    ],
)
def test_addresses_other_than_http_are_refused(url: str) -> None:
    """Above all files."""
    with pytest.raises(InvalidParameterError, match="base_url must be"):
        EndpointEncoder(base_url=url, model="m", n_features=3)


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@host/v1", "https://host/v1?key=hunter2", "https://host/#hunter2"]
)
def test_addresses_with_secrets_are_refused_without_showing_them(url: str) -> None:
    """They would end in manifests and errors."""
    with pytest.raises(InvalidParameterError) as caught:
        EndpointEncoder(base_url=url, model="m", n_features=3)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"n_features": 0}, {"n_features": 1.5}, {"batch_size": 0}, {"max_retries": -1}, {"timeout_s": 0.0}, {"model": ""}],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    """Each by its name."""
    arguments: dict[str, Any] = {"base_url": "https://host/v1", "model": "m", "n_features": 3, **wrong}
    with pytest.raises(InvalidParameterError, match=next(iter(wrong))):
        EndpointEncoder(**arguments)


def test_the_fingerprint_is_that_of_the_vectors() -> None:
    """Another model, server or cut is another encoder; another timeout or batch is not."""

    def printed(**changes: Any) -> str:
        arguments: dict[str, Any] = {"base_url": "https://host/v1", "model": "m", "n_features": 3, **changes}
        return str(EndpointEncoder(**arguments).describe()["fingerprint"])

    same = {printed(), printed(base_url="https://host/v1/"), printed(timeout_s=9.0), printed(batch_size=1)}
    others = {
        printed(model="n"),
        printed(base_url="https://other/v1"),
        printed(n_features=4),
        printed(max_characters=9),
    }
    assert len(same) == 1
    assert len(others | same) == 5


def test_retry_after_is_seconds_or_a_date() -> None:
    """A past date means now; what cannot be read means the default."""
    assert _retry_after_s(None, default=2.0) == 2.0
    assert _retry_after_s("7", default=2.0) == 7.0
    assert _retry_after_s("-1", default=2.0) == 0.0
    assert _retry_after_s("soon", default=2.0) == 2.0
    assert _retry_after_s("nan", default=2.0) == 2.0
    assert _retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", default=2.0) == 0.0
    assert _retry_after_s("Wed, 21 Oct 2115 07:28:00 GMT", default=2.0) > 1e9
