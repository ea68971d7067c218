"""Real judges beside a reference: rounds in which all of them spoke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import RESULTS, SHARED_DATA, EncodedTable, TableSpec, encoded_table
from pointsman.encode import default_encoder, encode_with_progress
from pointsman.encode.cache import CachedEncoder
from pointsman.fusion import JudgedRounds
from pointsman.logs import Preferences, read_preferences
from pointsman.types import Context

VECTORS = RESULTS / "vectors.sqlite"

JUDGES = ("deepseek_r1", "gpt_4_1_mini", "claude_3_7_sonnet")
"""Of the table paretobandit."""
MODELS = ("google/gemini-2.5-pro", "meta-llama/llama-3.1-8b-instruct", "mistralai/mistral-large-2512")
"""Of the table paretobandit, those that all three judged: 2,000 prompts."""

LLMBAR_MODELS = ("GPT-4", "ChatGPT", "ChatGPT-0301", "PaLM2", "LLaMA2", "Falcon")
VANILLA = "Vanilla"
"""A strategy of LLMBar: the model is asked for the better response and no more."""

PANDALM_JUDGES = ("judge_gpt35", "judge_pandalm7b")


@lru_cache(maxsize=1)
def judged_tables() -> dict[str, EncodedTable]:
    """Return the prompts of paretobandit that three judges scored, once for each judge whose scores are the quality."""
    tables = {
        judge: encoded_table(
            TableSpec(
                name=judge, file="paretobandit.parquet", quality_column=f"judge_{judge}", models=tuple(sorted(MODELS))
            ),
            folder=SHARED_DATA,
            vectors=VECTORS,
        )
        for judge in JUDGES
    }
    shared = set.intersection(*(set(each.table.query_id) for each in tables.values()))

    def of_shared(each: EncodedTable) -> EncodedTable:
        place = {name: row for row, name in enumerate(each.table.query_id)}
        rows = np.array([place[name] for name in sorted(shared)])
        return EncodedTable(table=each.table.take(rows), features=each.features[rows])

    return {judge: of_shared(each) for judge, each in tables.items()}


def paretobandit(reference: str) -> JudgedRounds:
    """Return every cell as a round: the reference's score as gold, those of the two others as judges'."""
    tables = judged_tables()
    table, features = tables[reference].table, tables[reference].features
    n_prompts, n_arms = table.quality.shape
    others = [judge for judge in JUDGES if judge != reference]
    prompt = np.repeat(np.arange(n_prompts), n_arms)
    return JudgedRounds(
        context=features[prompt],
        arm=np.tile(np.arange(n_arms), n_prompts),
        judged=np.column_stack([tables[judge].table.quality.ravel() for judge in others]),
        gold=table.quality.ravel(),
        group=prompt,
        arms=table.arms.names,
        judges=others,
    )


def llmbar(judges: Sequence[str]) -> JudgedRounds:
    """Return every pair as a round of one arm: a label is the preference for response 1, the mean of both orders."""
    votes = read_preferences(SHARED_DATA / "judge_llmbar.parquet")
    return _pairs(votes, judges, arm=np.zeros(len(votes), dtype=np.int64), arms=["response 1"])


def pandalm(judges: Sequence[str]) -> JudgedRounds:
    """Return every pair as a round, its two models as the arm: a label is the preference for the first."""
    votes = read_preferences(SHARED_DATA / "judge_pandalm.parquet")
    kind, arm = np.unique(votes.arm_a * len(votes.arms) + votes.arm_b, return_inverse=True)
    names = [" or ".join(votes.arms.names[t] for t in divmod(int(each), len(votes.arms))) for each in kind]
    return _pairs(votes, judges, arm=arm, arms=names)


def llmbar_judges(model: str) -> list[str]:
    """Return every way in which one model was asked."""
    votes = read_preferences(SHARED_DATA / "judge_llmbar.parquet")
    return [name for name in votes.sources if name.startswith(f"{model}/")]


def _pairs(votes: Preferences, judges: Sequence[str], *, arm: NDArray[np.int64], arms: Sequence[str]) -> JudgedRounds:
    source = np.array(votes.source)
    pair_id = np.array(votes.table["pair_id"].to_pylist())
    is_gold = source == "gold"
    order = np.argsort(pair_id[is_gold])
    gold_rows = np.flatnonzero(is_gold)[order]
    names = pair_id[gold_rows]
    judged = np.full((names.size, len(judges)), np.nan)
    for j, judge in enumerate(judges):
        mine = np.flatnonzero((source == judge) & np.isin(pair_id, names))
        judged[np.searchsorted(names, pair_id[mine]), j] = votes.preference[mine]
    prompts = [votes.prompt[row] for row in gold_rows]
    return JudgedRounds(
        context=_encoded(prompts),
        arm=arm[gold_rows],
        judged=judged,
        gold=votes.preference[gold_rows].copy(),
        group=np.unique(prompts, return_inverse=True)[1],
        arms=arms,
        judges=judges,
    )


def _encoded(prompts: Sequence[str]) -> Context:
    return encode_with_progress(CachedEncoder(default_encoder(), VECTORS), prompts, show=False)


def unpaired(rounds: JudgedRounds, has_gold: NDArray[np.bool_]) -> JudgedRounds:
    """Return the rounds with gold where the mask holds, and judges' labels everywhere else."""
    return replace(
        rounds,
        gold=np.where(has_gold, rounds.gold, np.nan),
        judged=np.where(has_gold[:, None], np.nan, rounds.judged),
    )
