"""Small tables of full feedback whose best arm depends on what the prompt is about."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pointsman.arms import ArmSet
from pointsman.logs import FullFeedback, LoggedRounds, simulate

TOPICS = {
    "code": ["python", "function", "compile", "loop", "bug", "array", "string", "class"],
    "cooking": ["onion", "butter", "oven", "soup", "bake", "flour", "garlic", "salt"],
    "law": ["contract", "court", "liability", "clause", "appeal", "statute", "tenant", "lawyer"],
}
MODELS = ("cheap", "coder", "dear")


def small_table(*, n_prompts: int = 240, with_cost: bool = True, source: str = "gold", seed: int = 0) -> FullFeedback:
    """Return a table: `coder` is good at code, `dear` at everything, `cheap` at cooking; costs 1 : 3 : 30."""
    rng = np.random.default_rng(seed)
    tasks = rng.choice(list(TOPICS), n_prompts)
    prompts = tuple(f"{' '.join(rng.choice(TOPICS[task], 4))} number {i}" for i, task in enumerate(tasks))
    good = {"code": (0.2, 0.95, 0.9), "cooking": (0.85, 0.2, 0.9), "law": (0.2, 0.2, 0.9)}
    quality = np.clip(np.array([good[task] for task in tasks]) + 0.05 * rng.standard_normal((n_prompts, 3)), 0, 1)
    cost_usd = np.array([1e-4, 3e-4, 3e-3]) * np.exp(0.1 * rng.standard_normal((n_prompts, 1)))
    return FullFeedback(
        query_id=tuple(f"q{i}" for i in range(n_prompts)),
        prompt=prompts,
        arms=ArmSet.named(MODELS),
        quality=quality,
        cost_usd=cost_usd if with_cost else None,
        extra=pa.table({"task": tasks.tolist()}),
        quality_source=source,
    )


def small_logs(**options: object) -> tuple[LoggedRounds, LoggedRounds, FullFeedback]:
    """Return a uniform log to learn from, another to evaluate on, and the full feedback of the latter's prompts."""
    table = small_table(**options)  # type: ignore[arg-type]
    first = simulate(table, logger="uniform", share=0.5, seed=0)
    second = simulate(first.rest, logger="uniform", share=0.95, seed=1)
    return first.log, second.log, second.truth
