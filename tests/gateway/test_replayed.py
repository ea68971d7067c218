"""Tests of the replayed models, through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from pointsman.arms import ArmSet
from pointsman.errors import InvalidLogError
from pointsman.gateway.replayed import FINE, ReplayedModels, served
from pointsman.gateway.serving import ANSWER_TOKENS
from pointsman.logs import FullFeedback

N_PROMPTS = 40


def table(*, cost_usd: Any = None, seed: int = 0) -> FullFeedback:
    """Outcomes of three models, one of them free; costs of the others differ by a factor of a thousand."""
    rng = np.random.default_rng(seed)
    if cost_usd is None:
        cost_usd = rng.lognormal(size=(N_PROMPTS, 3)) * [1e-2, 1e-5, 0.0]
    return FullFeedback(
        query_id=tuple(f"q{i}" for i in range(N_PROMPTS)),
        prompt=tuple(f"What is {i} + {i}?" for i in range(N_PROMPTS)),
        arms=ArmSet.named(["dear", "cheap", "free"]),
        quality=rng.uniform(size=(N_PROMPTS, 3)),
        cost_usd=cost_usd,
    )


@pytest.fixture(scope="module")
def replayed() -> Iterator[tuple[ReplayedModels, openai.OpenAI]]:
    """The models, served, and a client of theirs."""
    models = ReplayedModels(table())
    with served(models) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield models, client


def asked(client: openai.OpenAI, model: str, prompt: str, **more: Any) -> Any:
    """Ask one thing."""
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], **more)


def test_configured_prices_give_recorded_costs(replayed: Any):
    """The usage of an answer, at the price of the settings, costs what the table says, to half of a fine token."""
    models, client = replayed
    facts = models.settings("http://127.0.0.1:1").facts
    mean = models.table.cost_usd.mean(axis=0)
    for i in range(0, N_PROMPTS, 5):
        for t, name in enumerate(models.table.arms.names):
            usage = asked(client, name, models.table.prompt[i]).usage
            told = facts[name].price.cost_usd(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)
            step = mean[t] / ANSWER_TOKENS / FINE
            assert told == pytest.approx(models.table.cost_usd[i, t], abs=0.5001 * step)
            assert models.outcome(models.table.prompt[i], name) == (
                models.table.quality[i, t],
                models.table.cost_usd[i, t],
            )


def test_streams_what_it_answers_whole(replayed: Any):
    """The chunks of a stream make the same answer, its last the same usage where that is asked for."""
    models, client = replayed
    prompt = models.table.prompt[3]
    whole = asked(client, "dear", prompt)
    chunks = list(asked(client, "dear", prompt, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in asked(client, "dear", prompt, stream=True))


def test_refuses_what_the_table_does_not_hold(replayed: Any):
    """404 for another prompt or model, 503 for a model that is down, and only while it is."""
    models, client = replayed
    prompt = models.table.prompt[0]
    for model, said in (("dear", "Something else"), ("nothing", prompt)):
        with pytest.raises(openai.NotFoundError):
            asked(client, model, said)
    models.down.add("cheap")
    with pytest.raises(openai.InternalServerError):
        asked(client, "cheap", prompt)
    models.down.clear()
    assert asked(client, "cheap", prompt).model == "cheap"
    assert [card.id for card in client.models.list()] == list(models.table.arms.names)


def test_reads_the_last_user_message_in_parts(replayed: Any):
    """The prompt is the text of the last user message, whatever came before, also where it is in parts."""
    models, client = replayed
    parts = [{"type": "text", "text": models.table.prompt[7]}]
    messages: Any = [
        {"role": "user", "content": models.table.prompt[1]},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": parts},
    ]
    answer = client.chat.completions.create(model="dear", messages=messages)
    assert answer.usage == asked(client, "dear", models.table.prompt[7]).usage


def test_needs_costs():
    """A table without costs cannot be replayed."""
    whole = table()
    bare = FullFeedback(
        query_id=whole.query_id, prompt=whole.prompt, arms=whole.arms, quality=whole.quality, cost_usd=None
    )
    with pytest.raises(InvalidLogError, match="cost_usd"):
        ReplayedModels(bare)
