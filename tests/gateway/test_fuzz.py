"""The gateway before what no one would write: requests made from its own OpenAPI document, and hostile bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from pointsman.gateway.app import make_app
from pointsman.gateway.decide import FixedDecider
from pointsman.gateway.serve import protocol
from tests.gateway.conftest import KeptRounds, gateway_settings
from tests.gateway.test_serve import process, write_settings
from tests.gateway.upstreams import Upstream, closed_port, serving

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
MODELS = ["auto", "auto:0.3", "auto:cheap", "good", "other", "vectors"]


@pytest.fixture(scope="module")
def gateway_url(upstream_server: tuple[Upstream, str]) -> Iterator[str]:
    """A gateway that serves for all of this file's requests."""
    settings = gateway_settings(upstream_server[1])
    app = make_app(settings, FixedDecider({"good": 1.0, "other": 1.0}), KeptRounds())
    with serving(app, http=protocol(settings)) as url:
        yield url


def test_does_as_its_document_says(gateway_url: str, tmp_path: Path):
    """Whatever is asked, an answer is one that the document has for it, and what it forbids is refused."""
    document = httpx.get(f"{gateway_url}/openapi.json").json()
    for path in ("/v1/chat/completions", "/v1/route", "/v1/embeddings"):  # Most requests should get past the name.
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        body["properties"]["model"] = {"enum": MODELS}
    document["paths"]["/v1/models/{model}"]["get"]["parameters"][0]["schema"] = {"enum": MODELS}
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    command = [sys.executable, "-c", "import schemathesis.cli; schemathesis.cli.schemathesis()", "--no-color", "run"]
    command += ["openapi.json", "--url", gateway_url, "--checks", ",".join(CHECKS), "--seed", "1"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "400", "--generation-database", "none"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    assert told.returncode == 0, told.stdout + told.stderr


ROUTES = ("/v1/chat/completions", "/v1/route", "/v1/embeddings", "/v1/feedback")
BEGUN = b'{"model": "good", "messages": [{"role": "user", "content": "x"}], "round_id": "r", "quality": 1, "x": '
TOO_LARGE = 20 * 2**20 + 1


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"x" * TOO_LARGE, 413),
        (BEGUN + b"[" * 200_000 + b"]" * 200_000 + b"}", 400),
        (BEGUN + b'{"x":' * 200_000 + b"1" + b"}" * 200_001, 400),
        (BEGUN + b'"\xed\xa0\x80"}', 400),  # a surrogate, as no UTF-8 may have it
        (BEGUN + b'"\xc0\xaf"}', 400),  # an overlong form
        (b"\xff\xfe" + BEGUN.decode().encode("utf-16-le"), 400),
        (BEGUN + b'"\\ud800"}', 400),  # a lone surrogate, escaped
        (BEGUN + b"NaN}", 400),
        (BEGUN + b"1e999}", 400),
        (BEGUN + b"1" * 100_000 + b"}", 400),
        (b'{"feedback": [' + b"{}," * 100_000 + b"{}]}", 400),
    ],
    ids=[
        "large",
        "deep-list",
        "deep-object",
        "surrogate",
        "overlong",
        "utf-16",
        "escaped",
        "nan",
        "infinite",
        "long-number",
        "batch",
    ],
)
def test_refuses_hostile_bodies_on_every_route(gateway_url: str, path: str, body: bytes, status: int):
    """Too large, too deep, no UTF-8, no number: the client's fault, OpenAI-shaped, and short."""
    answer = httpx.post(f"{gateway_url}{path}", content=body)

    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert len(answer.content) < 1000


def exchange(url: str, request: bytes) -> bytes:
    """All that comes back for these bytes until the gateway closes, or is silent for a second."""
    host, port = url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=1) as connection, contextlib.suppress(OSError):
        connection.sendall(request)
        while piece := connection.recv(65536):
            answer += piece
    return answer


BODY = b'{"model": "good", "messages": [{"role": "user", "content": "x"}]}'
INJECTED = b"x-injected: 1"


def request_with(header: bytes, *, body: bytes = BODY, target: bytes = b"/v1/chat/completions") -> bytes:
    """A request as raw bytes, with one more header line."""
    head = [b"POST " + target + b" HTTP/1.1", b"host: x", b"connection: close", header]
    return b"\r\n".join([*head, b"content-length: %d" % len(body), b"", body])


@pytest.mark.parametrize("name", [b"x-pointsman-session", b"x-pointsman-models", b"x-request-id", b"traceparent"])
@pytest.mark.parametrize("between", [b"\r", b"\n", b"\r\n ", b"\x00", b"\xe5\x98\x8a\xe5\x98\x8d", b"%0d%0a"])
def test_no_header_comes_back_that_a_client_made_up(
    gateway_url: str, upstream_server: tuple[Upstream, str], name: bytes, between: bytes
):
    """A line break smuggled into a header's value makes none in the answer, and none in what the upstream gets."""
    upstream_server[0].headers = {}
    head = exchange(gateway_url, request_with(name + b": good" + between + INJECTED)).partition(b"\r\n\r\n")[0]

    assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))
    assert INJECTED not in head.lower()
    assert "x-injected" not in upstream_server[0].headers
    assert not any("injected" in value for value in upstream_server[0].headers.values())


@pytest.mark.parametrize(
    "model", ["auto:x\r\nx-injected: 1", "good\r\nx-injected: 1", "good\x00", "auto:\r\n\r\nHTTP/1.1 200 OK"]
)
def test_no_header_comes_back_of_a_body_or_a_path(gateway_url: str, model: str):
    """Names of models are quoted in bodies alone."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}]}).encode()
    target = b"/v1/models/" + urllib.parse.quote(model, safe="").encode()
    for request in (request_with(b"x: y", body=body), request_with(b"x: y", target=target).replace(b"POST", b"GET")):
        answer = exchange(gateway_url, request)
        head = answer.partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 404 ")
        assert INJECTED not in head.lower()
        assert answer.count(b"HTTP/1.1 404 ") == answer.count(b"content-length:") == 1


@pytest.mark.parametrize(
    "header",
    [
        b"content-length: 5",
        b"content-length: -1",
        b"content-length: 0x10",
        b"content-length: 99999999999999999999999",
        b"transfer-encoding: chunked",
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding : chunked",
        b"no colon",
    ],
)
def test_one_request_is_never_read_as_two(gateway_url: str, header: bytes):
    """Where two lengths of a body disagree, or one is no length, the request is refused and the connection closed."""
    smuggled = b"0\r\n\r\nGET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = exchange(gateway_url, request_with(header, body=smuggled))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def memory_bytes(pid: int) -> int:
    """The resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_thousands_of_slow_clients_take_little_and_keep_no_one_out(
    tmp_path: Path, upstream_server: tuple[Upstream, str]
):
    """Clients that never finish their headers or bodies: others are served at once, and all are given up.

    9,900 of them, or as many as the machine's limit of open files lets both ends have.
    """
    resource = pytest.importorskip("resource")
    n_files, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_clients = 9_900 if most_files < 0 else min(9_900, most_files // 2 - 50)  # below zero there is no limit
    if n_clients < 1_000:
        pytest.skip(f"needs 2,100 open files; the limit is {most_files}")
    if 0 <= n_files < 2 * n_clients:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * n_clients + 100, most_files))
    port, n_sent = closed_port(), 8192
    limits = {"read_timeout_s": 20.0, "max_connections": 12_000}
    path = write_settings(tmp_path, upstream_server[1], port=port, models=("good",), limits=limits)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    parts = (
        head + b"x-slow: ",
        head + b"content-length: 1000000\r\n\r\n" + b"x" * n_sent,
        head + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % n_sent + b"x" * n_sent + b"\r\n",
    )
    with process(path, port) as (running, url), contextlib.ExitStack() as stack:
        before = memory_bytes(running.pid)
        clients = []
        for i in range(n_clients):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            client.sendall(parts[i % len(parts)])
            clients.append(client)
        begun = time.monotonic()
        assert httpx.post(f"{url}/v1/chat/completions", content=BODY).status_code == 200
        assert time.monotonic() - begun < 2
        # What was sent, and of each connection its buffers, its parser and its task: 13 KB of these were seen.
        assert memory_bytes(running.pid) - before < n_clients * (n_sent + 24 * 1024)
        answers = {client.recv(12) for client in clients}
        assert answers == {b"", b"HTTP/1.1 408"}
        assert httpx.post(f"{url}/v1/chat/completions", content=BODY).status_code == 200
