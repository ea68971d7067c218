"""The network form of the regret-minimising policies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pointsman.errors import MissingDependencyError
from pointsman.policies import from_state, make
from pointsman.trade_off import TradeOff


def test_without_torch_it_names_the_extra(
    draw_log: Callable[..., Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden layers without torch are a clear error that says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    log = draw_log(rng, n_rounds=50)
    with pytest.raises(MissingDependencyError, match=r"pointsman\[torch\]"):
        make("rm-softmax", hidden=(8,)).fit(log.context, log.scores)


@pytest.mark.torch
@pytest.mark.parametrize("method", ["rm-classification", "rm-interval", "rm-softmax"])
def test_a_network_learns_repeats_itself_and_serves_without_torch(
    method: str, draw_log: Callable[..., Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It beats the best single arm, the same seed gives the same bytes, and numpy alone serves what was learned."""
    torch = pytest.importorskip("torch")
    log = draw_log(rng, n_rounds=1500, exact_outcomes=True)
    before = torch.get_num_threads(), torch.get_rng_state()
    policy, again = (make(method, hidden=(16,), seed=5).fit(log.context, log.scores) for _ in range(2))
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    values, arrays = policy.state()
    assert {k: a.tobytes() for k, a in arrays.items()} == {k: a.tobytes() for k, a in again.state()[1].items()}
    monkeypatch.setitem(sys.modules, "torch", None)
    rebuilt = from_state(method, json.loads(json.dumps(values)), arrays)
    chosen = rebuilt.probabilities(log.context, TradeOff(0))
    np.testing.assert_array_equal(chosen, policy.probabilities(log.context, TradeOff(0)))
    assert (chosen * log.quality).sum(axis=1).mean() > log.quality.mean(axis=0).max()


@pytest.mark.torch
def test_a_handful_of_rounds_trains_to_the_end(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """With no round to hold out, all are learned from."""
    pytest.importorskip("torch")
    log = draw_log(rng, n_rounds=1)
    policy = make("rm-softmax", hidden=(4,)).fit(log.context, log.scores)
    assert np.isfinite(policy.probabilities(log.context, TradeOff(10))).all()
