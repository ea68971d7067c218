"""Rounds and feedback that tests write, and waiting for what happens to them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pointsman.logs.store import Feedback, Round

_numbers = itertools.count()


def a_round(round_id: str = "a", **changed: Any) -> Round:
    """A round over and done, every column filled with something that is hard to keep exactly."""
    values: dict[str, Any] = {
        "round_id": round_id,
        "decided_at": 1_790_000_000.123456,
        "model": "large",
        "propensity": 0.1 + 0.2,
        "eligible": ("large", "grün"),
        "probabilities": {"large": 0.1 + 0.2, "grün": 1 - (0.1 + 0.2)},
        "quality_per_usd": 1 / 3,
        "router_version": "v1",
        "context": np.array([0.1, -1e-30, 3.0], dtype=np.float32),
        "prompt": "Wie heißt 🦊?\n",
        "prompt_hash": "beef",
        "session_id": "s",
        "key_id": "k",
        "served_model": "large",
        "outcome": "ok",
        "status": 200,
        "cost_usd": 1e-7,
        "tokens_in": 12,
        "tokens_out": 2**40,
        "latency_s": 0.75,
        "ttft_s": 0.25,
        "policy": "canary",
        "shadow_model": "grün",
        "shadow_version": "v2",
    }
    return Round(**(values | changed))


def said(round_id: str = "a", quality: float | None = 0.5, **changed: Any) -> Feedback:
    """Feedback on a round, of a name of its own."""
    values: dict[str, Any] = {"feedback_id": f"f{next(_numbers)}", "received_at": 1_790_000_100.5}
    return Feedback(**(values | {"round_id": round_id, "quality": quality} | changed))


def eventually(holds: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Wait until it holds, and fail where it does not in time."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"did not hold within {within_s} s"
        time.sleep(0.01)
