"""The gateway end to end: clients and upstreams that others wrote, over sockets, with a store on disk.

`python -m benchmarks.gateway.install` makes the environment with llmock and aimock (upstreams with the faults of real
ones) and litellm (a client); without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pydantic
import pytest

from pointsman.gateway.app import make_app
from pointsman.gateway.decide import FixedDecider
from pointsman.gateway.replayed import served
from pointsman.gateway.serve import protocol
from pointsman.gateway.settings import Settings
from pointsman.logs.store import Round, SqliteStore, Writer
from tests.gateway.upstreams import closed_port

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-gateway"
BIN = ENVIRONMENT / "bin"
AIMOCK = ENVIRONMENT / "node" / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
ABSENT = "its environment is not here: run `python -m benchmarks.gateway.install`"
PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
TIMEOUTS = {"connect_s": 2.0, "first_token_s": 5.0, "between_tokens_s": 0.5, "total_s": 20.0}
MESSAGES: Any = [{"role": "user", "content": "What is the weather in Bern?"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


class Upstream:
    """llmock, as a process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def script(self, *behaviors: dict[str, Any]) -> None:
        """Have it behave so, from a clean slate."""
        httpx.post(f"{self.url}/_llmock/reset").raise_for_status()
        if behaviors:
            httpx.post(f"{self.url}/_llmock/scenario", json={"behaviors": behaviors}).raise_for_status()

    def faults_of_its_client(self) -> list[str]:
        """What it finds wrong with how the gateway treated its faults."""
        verdict = httpx.get(f"{self.url}/_llmock/verdict").json()
        return [each["code"] for each in verdict["findings"] if each["severity"] == "error"]


class Gateway:
    """A gateway before one of them."""

    def __init__(self, url: str, store: SqliteStore, writer: Writer) -> None:
        self.url, self.store, self.writer = url, store, writer

    def client(self, **more: Any) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="sk-client", max_retries=0, **more)

    def rounds(self) -> list[Round]:
        """All rounds, at least one, once what waits is written: where a client hangs up the gateway sees that later."""
        names: list[str] = []
        until = time.monotonic() + 5
        while not names:
            assert time.monotonic() < until
            asyncio.run(self.writer.flush())
            with self.store.snapshot() as snapshot:
                names = [row[0] for row in snapshot.fetch("SELECT round_id FROM rounds ORDER BY decided_at")]
        found = [self.store.get_round(name) for name in names]
        return [each for each in found if each is not None]


@contextlib.contextmanager
def process(command: list[str], port: int) -> Iterator[str]:
    """A server of its own, once it says that it is well; its base URL."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - ours
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            assert running.poll() is None
            assert time.monotonic() < until
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.05)
        yield url
    finally:
        running.kill()
        running.wait()


@contextlib.contextmanager
def gateway_before(upstreams: dict[str, Any], weights: dict[str, float], folder: Path) -> Iterator[Gateway]:
    """A gateway that draws one of these models of `upstream`, and falls back on `two`."""
    settings = Settings.model_validate(
        {
            "upstreams": {"upstream": upstreams},
            "models": [{"name": name, "upstream": "upstream", "price": PRICE} for name in weights],
            "fallback": ["two"],
        }
    )
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(SqliteStore.open(folder / "rounds.sqlite"))
        writer = stack.enter_context(contextlib.closing(Writer(store)))
        app = make_app(settings, FixedDecider(weights), writer)
        url = stack.enter_context(served(app, http=protocol(settings)))
        yield Gateway(url, store, writer)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """llmock, served once for all tests."""
    binary = BIN / "llmock"
    if not binary.exists():
        pytest.skip(f"llmock: {ABSENT}")
    port = closed_port()
    with process([str(binary), "serve", "--port", str(port), "--log-level", "critical"], port) as url:
        yield Upstream(url)


@pytest.fixture
def gateway(upstream: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway before it that chooses `one` or `two`, and falls back on `two`."""
    upstream.script()
    facts = {"base_url": f"{upstream.url}/v1", "api_key": "sk-upstream", "timeouts": TIMEOUTS}
    with gateway_before(facts, {"one": 1.0, "two": 1.0}, tmp_path) as gateway:
        yield gateway


def text_of(stream: Any) -> str:
    """The text of a stream."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_answers_as_the_upstream_would_itself(gateway: Gateway, upstream: Upstream):
    """What the official client gets of the gateway, whole or as a stream, is what it gets of the upstream."""
    direct = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="sk-upstream", max_retries=0)
    with direct, gateway.client() as client:
        for model in ("one", "two"):
            expected = direct.chat.completions.create(model=model, messages=MESSAGES)
            raw = client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES)
            answer = raw.parse()
            assert answer.choices == expected.choices
            assert answer.usage == expected.usage
            assert raw.headers["x-pointsman-model"] == answer.model == model
            stream = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
            assert text_of(stream) == expected.choices[0].message.content
    rounds = gateway.rounds()
    assert [round_.outcome for round_ in rounds] == ["ok"] * 4
    assert all(round_.tokens_out and round_.cost_usd > 0 for round_ in rounds)


def test_answers_many_at_once(gateway: Gateway):
    """The asynchronous client, 100 requests at once, half of them streams: each is answered, and logged once."""

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:

            async def one(i: int) -> str:
                messages: Any = [{"role": "user", "content": f"Say {i}"}]
                if i % 2:
                    answer = await client.chat.completions.create(model="auto", messages=messages)
                    return answer.choices[0].message.content or ""
                stream = await client.chat.completions.create(model="auto", messages=messages, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

            return await asyncio.gather(*(one(i) for i in range(100)))

    assert all(asyncio.run(ask()))
    rounds = gateway.rounds()
    assert sorted(round_.prompt or "" for round_ in rounds) == sorted(f"Say {i}" for i in range(100))
    assert {(round_.outcome, round_.propensity) for round_ in rounds} == {("ok", 0.5)}


def test_lets_an_agent_use_its_tools(gateway: Gateway):
    """A tool is called, its result goes back, and the answer comes; also as a stream."""
    with gateway.client() as client:
        create = client.chat.completions.create
        first = create(model="auto", messages=MESSAGES, tools=TOOLS)
        (call,) = first.choices[0].message.tool_calls or []
        assert call.function.name == "get_weather"
        assert "city" in json.loads(call.function.arguments)
        result = {"role": "tool", "tool_call_id": call.id, "content": "21C"}
        messages = [*MESSAGES, first.choices[0].message.model_dump(exclude_none=True), result]
        last = create(model="auto", messages=messages, tools=TOOLS)
        assert last.choices[0].finish_reason == "stop"
        assert last.choices[0].message.content
        with client.chat.completions.stream(model="auto", messages=MESSAGES, tools=TOOLS) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls
        assert streamed is not None
        assert streamed[0].function.arguments == call.function.arguments
    assert [round_.outcome for round_ in gateway.rounds()] == ["ok"] * 3


def test_parses_structured_output(gateway: Gateway):
    """`parse` gives an object of the type asked for."""

    class Weather(pydantic.BaseModel):
        city: str
        degrees: int

    with gateway.client() as client:
        answer = client.chat.completions.parse(model="auto", messages=MESSAGES, response_format=Weather)
        assert isinstance(answer.choices[0].message.parsed, Weather)


def test_waits_as_told_when_limited(gateway: Gateway, upstream: Upstream):
    """429 with Retry-After is tried again no sooner than that, and the client sees only the answer."""
    upstream.script({"type": "fail", "status": 429, "retry_after": 0.3, "match": {"model": "one"}})
    with gateway.client() as client:
        begun = time.perf_counter()
        assert client.chat.completions.create(model="one", messages=MESSAGES).choices[0].message.content
        assert time.perf_counter() - begun >= 0.3
    assert upstream.faults_of_its_client() == []


def test_falls_back_while_a_model_is_down(gateway: Gateway, upstream: Upstream):
    """The other model answers, whole or as a stream; the log says which was chosen and which served."""
    upstream.script({"type": "fail", "status": 500, "times": None, "match": {"model": "one"}})
    with gateway.client() as client:
        served_by = []
        for i in range(20):
            create = client.chat.completions.with_raw_response.create
            raw = create(model="auto", messages=MESSAGES, stream=i % 2 == 0)
            assert text_of(raw.parse()) if i % 2 == 0 else raw.parse().choices[0].message.content
            served_by.append(raw.headers["x-pointsman-model"])
        with pytest.raises(openai.APIStatusError):
            client.chat.completions.create(model="one", messages=MESSAGES)
    assert set(served_by) == {"two"}
    rounds = gateway.rounds()[:20]
    fallbacks = [round_ for round_ in rounds if round_.fallback]
    assert fallbacks
    for round_ in rounds:
        assert round_.served_model == "two"
        assert round_.fallback == (round_.model == "one")
        # Until its breaker opened the failing model was eligible, and afterwards it was not.
        assert round_.propensity == 1 / len(round_.eligible)
    assert len(fallbacks) == 5  # the breaker's threshold: after as many failures it is asked no more
    assert upstream.faults_of_its_client() == []


@pytest.mark.parametrize("kind", ["disconnect", "malformed", "stall", "truncate"])
def test_says_that_a_stream_broke(gateway: Gateway, upstream: Upstream, kind: str):
    """What breaks after its first content is an error at the client, and the log calls what broke off truncated."""
    upstream.script(
        {"type": "reply", "text": "one two three four five six seven eight nine ten", "times": None},
        {"type": "stream_fault", "kind": kind, "after_chunks": 4, "stall_seconds": 5},
    )
    with gateway.client() as client:
        stream = client.chat.completions.create(model="one", messages=MESSAGES, stream=True)
        # What is malformed goes through as it is, as all bytes do: the client sees that, and hangs up.
        with pytest.raises(json.JSONDecodeError if kind == "malformed" else openai.APIError):
            text_of(stream)
    (round_,) = gateway.rounds()
    assert round_.outcome in (("truncated", "cancelled") if kind == "malformed" else ("truncated",))
    assert not round_.fallback


def test_litellm_is_a_client(gateway: Gateway, upstream: Upstream):
    """The SDK of litellm asks for `auto`, whole and as a stream, with the trade-off in its extra body."""
    python = BIN / "python"
    if not (BIN / "litellm").exists():
        pytest.skip(f"litellm: {ABSENT}")
    upstream.script({"type": "reply", "text": "It is sunny.", "times": None, "match": {"tools": False}})
    script = """
import json, sys
import litellm
asked = dict(model="openai/auto", api_base=sys.argv[1], api_key="sk-client", messages=json.loads(sys.argv[2]))
whole = litellm.completion(**asked, extra_body={"pointsman": {"quality_per_usd": 40}})
chunks = litellm.completion(**asked, stream=True)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
called = litellm.completion(**asked, tools=json.loads(sys.argv[3])).choices[0].message.tool_calls
print(json.dumps([whole.choices[0].message.content, whole.usage.total_tokens, text, called[0].function.name]))
"""
    told = subprocess.run(  # noqa: S603 - our own script
        [str(python), "-c", script, f"{gateway.url}/v1", json.dumps(MESSAGES), json.dumps(TOOLS)],
        env={"PATH": "/usr/bin:/bin", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    whole, n_tokens, text, tool = json.loads(told.stdout.splitlines()[-1])
    assert text == whole == "It is sunny."
    assert tool == "get_weather"
    rounds = gateway.rounds()
    assert rounds[0].quality_per_usd == 40
    assert (rounds[0].tokens_in or 0) + (rounds[0].tokens_out or 0) == n_tokens
    assert [round_.outcome for round_ in rounds] == ["ok"] * 3
    assert not math.isnan(rounds[1].ttft_s)


SUNNY = "It is sunny in Bern, and warm for the time of the year."
FAULTS: dict[str, dict[str, Any]] = {
    "drop": {"chaos": {"dropRate": 1}},
    "malformed": {"chaos": {"malformedRate": 1}},
    "disconnect": {"chaos": {"disconnectRate": 1}},
    "limit": {"chaos": {"rateLimitRate": 1}},
    "error": {"response": {"error": {"message": "overloaded", "type": "server_error"}, "status": 503}},
}
"""What aimock is told to do of each model."""


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """aimock, served once for all tests; its base URL."""
    node = shutil.which("node")
    if node is None or not AIMOCK.exists():
        pytest.skip(f"aimock: {ABSENT}, with node and npm")
    slow = {"latency": 50, "chunkSize": 8}
    sunny = {"response": {"content": SUNNY}}
    call = {"toolCalls": [{"name": "get_weather", "arguments": {"city": "Bern"}}]}
    fixtures = [
        *({"match": {"model": model}, **sunny, **fault} for model, fault in FAULTS.items()),
        {"match": {"model": "truncate"}, **sunny, **slow, "truncateAfterChunks": 4},
        {"match": {"toolName": "get_weather", "hasToolResult": False}, "response": call},
        {"match": {"endpoint": "chat"}, **sunny, "chunkSize": 8},
    ]
    file = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    file.write_text(json.dumps({"fixtures": fixtures}))
    port = closed_port()
    command = [node, str(AIMOCK), "--port", str(port), "--fixtures", str(file), "--log-level", "silent"]
    with process(command, port) as url:
        yield url


def before_aimock(url: str, weights: dict[str, float], folder: Path) -> contextlib.AbstractContextManager[Gateway]:
    """A gateway before it, which asks twice."""
    return gateway_before({"base_url": f"{url}/v1", "timeouts": TIMEOUTS, "max_retries": 1}, weights, folder)


def test_answers_as_aimock_would_itself(aimock: str, tmp_path: Path):
    """Whole, streamed, and in three turns with a tool, the answers are those that it gives without the gateway."""
    direct = openai.OpenAI(base_url=f"{aimock}/v1", api_key="none", max_retries=0)
    with before_aimock(aimock, {"one": 1.0, "two": 1.0}, tmp_path) as gateway, gateway.client() as client, direct:
        expected = direct.chat.completions.create(model="one", messages=MESSAGES)
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)
        assert raw.parse().choices == expected.choices
        assert raw.parse().usage == expected.usage
        assert raw.headers["x-pointsman-model"] == raw.parse().model
        assert text_of(client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)) == SUNNY
        with client.chat.completions.stream(model="auto", messages=MESSAGES, tools=TOOLS) as stream:
            said = stream.get_final_completion().choices[0].message
        (call,) = said.tool_calls or []
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bern"})
        result = {"role": "tool", "tool_call_id": call.id, "content": "21C"}
        messages = [*MESSAGES, said.model_dump(exclude_none=True), result]
        last = client.chat.completions.create(model="auto", messages=messages, tools=TOOLS)
        assert last.choices[0].message.content == SUNNY
        rounds = gateway.rounds()
    assert [(round_.outcome, round_.propensity) for round_ in rounds] == [("ok", 0.5)] * 4
    assert all(round_.tokens_out and round_.cost_usd > 0 for round_ in rounds)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_falls_back_from_each_fault_of_aimock(aimock: str, tmp_path: Path, fault: str, is_stream: bool):
    """The client gets the other model's answer, and the log says that it stood in."""
    with before_aimock(aimock, {fault: 1.0, "two": 1e-12}, tmp_path) as gateway, gateway.client() as client:
        answer = client.chat.completions.create(model="auto", messages=MESSAGES, stream=is_stream)
        assert (text_of(answer) if is_stream else answer.choices[0].message.content) == SUNNY
        (round_,) = gateway.rounds()
    assert (round_.model, round_.served_model, round_.fallback, round_.outcome) == (fault, "two", True, "ok")


def test_says_that_a_stream_of_aimock_was_truncated(aimock: str, tmp_path: Path):
    """What came is passed on, then there is an error, and the log calls the round truncated."""
    with before_aimock(aimock, {"truncate": 1.0, "two": 1e-12}, tmp_path) as gateway, gateway.client() as client:
        came = ""
        with pytest.raises(openai.APIError):  # noqa: PT012 - what came before it is what counts
            for chunk in client.chat.completions.create(model="auto", messages=MESSAGES, stream=True):
                came += chunk.choices[0].delta.content or ""
        (round_,) = gateway.rounds()
    assert came
    assert SUNNY.startswith(came)
    assert (round_.outcome, round_.served_model, round_.fallback) == ("truncated", "truncate", False)


def test_the_log_agrees_with_clients_in_any_chaos(aimock: str, tmp_path: Path):
    """While half of all calls fail, each client has a whole answer or a true error, and the log counts as many."""

    async def ask(url: str) -> list[str | int]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def one(i: int) -> str | int:
                try:
                    answer: Any = await client.chat.completions.create(
                        model="auto", messages=MESSAGES, stream=i % 2 == 0
                    )
                    if i % 2:
                        return answer.choices[0].message.content or ""
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])
                except openai.APIStatusError as error:
                    return error.status_code

            return await asyncio.gather(*(one(i) for i in range(60)))

    chaos = {"dropRate": 0.2, "malformedRate": 0.1, "disconnectRate": 0.1, "rateLimitRate": 0.1}
    with before_aimock(aimock, {"one": 1.0, "two": 1.0}, tmp_path) as gateway:
        httpx.post(f"{aimock}/__aimock/chaos", json=chaos).raise_for_status()
        try:
            told = asyncio.run(ask(gateway.url))
        finally:
            httpx.delete(f"{aimock}/__aimock/chaos").raise_for_status()
        rounds = gateway.rounds()
    assert told.count(SUNNY) > 20
    assert set(told) <= {SUNNY, 429, 502, 503}
    assert sum(round_.outcome == "ok" for round_ in rounds) == told.count(SUNNY)
    # 503 before a model was drawn, where both circuits were open, is no round.
    assert len(told) - told.count(503) <= len(rounds) <= len(told)
