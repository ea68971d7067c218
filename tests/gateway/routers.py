"""Settings, registries and traffic of the small table, for tests of what decides and learns behind the gateway."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from pointsman.gateway.decide import RouteRequest
from pointsman.gateway.routing import RouterDecider
from pointsman.gateway.settings import Settings
from pointsman.logs import FullFeedback
from pointsman.logs.store import Feedback, Round, RoundStore
from tests.tables import MODELS

PRICES = {"cheap": 0.1, "coder": 0.3, "dear": 3.0}
"""USD per million tokens, as the table's costs go."""


def price(usd_per_mtok: float) -> dict[str, float]:
    """A price of which cached input is a tenth."""
    cached = usd_per_mtok / 10
    return {
        "input_usd_per_mtok": usd_per_mtok,
        "cached_input_usd_per_mtok": cached,
        "output_usd_per_mtok": usd_per_mtok,
    }


def router_settings(
    folder: Path, *, models: tuple[str, ...] = MODELS, prices: dict[str, float] | None = None, **more: Any
) -> Settings:
    """Settings over these models, whose registry and store are in the folder."""
    return Settings(
        **{
            "upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1"}},
            "models": [
                {"name": name, "upstream": "main", "price": price((prices or PRICES).get(name, 1.0))} for name in models
            ],
            "store": {"url": f"sqlite:///{folder}/log.db"},
            "router": {"registry": folder / "registry"},
            **more,
        }
    )


def traffic(
    decider: RouterDecider,
    store: RoundStore,
    table: FullFeedback,
    *,
    n_rounds: int,
    first: int = 0,
    models: tuple[str, ...] = MODELS,
) -> list[str]:
    """Decide, answer as the table says, and judge; return the names of the rounds."""
    rounds, said = [], []
    for i in range(first, first + n_rounds):
        row = i % len(table)
        decided = decider.decide(RouteRequest(prompt=table.prompt[row], eligible=models))
        arm = table.arms.index(decided.model)
        round_ = Round(
            round_id=uuid.uuid4().hex,
            decided_at=time.time() - 1e6 + i,
            model=decided.model,
            propensity=decided.propensity,
            eligible=decided.eligible,
            probabilities=decided.probabilities,
            context=decided.context,
            prompt=f"{table.prompt[row]} ({i})",
            router_version=decided.router_version,
            policy=decided.policy,
            outcome="ok",
            cost_usd=float(table.cost_usd[row, arm]),  # type: ignore[index]  # the table has costs
        )
        rounds.append(round_)
        said.append(
            Feedback(
                feedback_id=f"said-{round_.round_id}",
                round_id=round_.round_id,
                received_at=time.time(),
                quality=float(table.quality[row, arm]),
            )
        )
    store.write(rounds, said)
    return [each.round_id for each in rounds]


def mean_quality(decider: RouterDecider, table: FullFeedback) -> float:
    """Expected quality of what is decided on the table's prompts."""
    found = []
    for row, prompt in enumerate(table.prompt):
        decided = decider.decide(RouteRequest(prompt=prompt, eligible=table.arms.names))
        found.append(sum(p * table.quality[row, table.arms.index(name)] for name, p in decided.probabilities.items()))
    return float(np.mean(found))
