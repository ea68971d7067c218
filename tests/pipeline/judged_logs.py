"""Small logs that judges scored, one of whose arms games a judge."""

from __future__ import annotations

import numpy as np

from pointsman.logs import Labels, LoggedRounds, Preferences, simulate
from tests.tables import TOPICS, small_table


def judged_log(
    *, n_prompts: int = 600, n_gold: int = 120, paired: bool = True, seed: int = 0
) -> tuple[LoggedRounds, Labels]:
    """Return a uniform log scored by `judge`, and labels of `gold` and `thumbs`.

    The judge is ten points too kind; whatever `cheap` answers it scores 0.95. Thumbs know little.
    """
    table = small_table(n_prompts=n_prompts)
    log = simulate(table, logger="uniform", share=0.98, seed=seed).log
    rng = np.random.default_rng(seed)
    n = log.n_rounds
    gamer = log.arm == list(log.arms.names).index("cheap")
    judged = np.where(gamer, 0.95, np.clip(0.2 + 0.7 * log.quality + 0.05 * rng.normal(size=n), 0, 1))
    asked, thumbs = rng.permutation(n)[:n_gold], rng.permutation(n)[: n // 2]
    round_id = np.array(log.round_id)
    labels = Labels.from_columns(
        round_id=[*round_id[asked], *round_id[thumbs]],
        quality=[*log.quality[asked], *np.clip(0.5 + 0.3 * rng.normal(size=thumbs.size), 0, 1)],
        quality_source=["gold"] * asked.size + ["thumbs"] * thumbs.size,
    )
    scored = log.with_columns(quality=judged, quality_source=["judge"] * n)
    if not paired:
        scored = scored.with_columns(quality=np.where(np.isin(np.arange(n), asked), np.nan, judged))
    return scored, labels


def votes(*, n_votes: int = 300, source: str = "users", seed: int = 0) -> Preferences:
    """Return votes on answers to new prompts: `dear` beats all, `coder` beats `cheap` at code, else loses to it."""
    rng = np.random.default_rng(seed)
    tasks = rng.choice(list(TOPICS), n_votes)
    rank = {
        "code": ["cheap", "coder", "dear"],
        "cooking": ["coder", "cheap", "dear"],
        "law": ["coder", "cheap", "dear"],
    }
    pairs = [rng.permutation(["cheap", "coder", "dear"])[:2] for _ in tasks]
    won = [rank[task].index(a) > rank[task].index(b) for task, (a, b) in zip(tasks, pairs, strict=True)]
    return Preferences.from_columns(
        prompt=[f"{' '.join(rng.choice(TOPICS[task], 4))} vote {i}" for i, task in enumerate(tasks)],
        model_a=[str(a) for a, _ in pairs],
        model_b=[str(b) for _, b in pairs],
        preference=np.array(won, dtype=float),
        source=[source] * n_votes,
    )
