"""From pairwise votes to one more judge a source: how often the arm that served would win, prompt by prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import Encoder
from pointsman.errors import InvalidParameterError
from pointsman.fusion.preferences import WinRates
from pointsman.logs import LabelMatrix, LoggedRounds, Preferences
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.pipeline.rounds import encode_prompts
from pointsman.types import ArmIndex, Context, PerRound


def with_votes(
    labels: LabelMatrix,
    log: LoggedRounds,
    context: Context,
    preferences: Preferences,
    encoder: Encoder | None,
    *,
    n_folds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> LabelMatrix:
    """Return the labels with one judge more for every source of votes, called "SOURCE (votes)".

    Its label of a round is the win rate of the arm that served, at the round's prompt, by a contextual Bradley-Terry
    model (`WinRates`) that saw no vote on that prompt; NaN for an arm without votes. Both orders of a pair are averaged
    first, and a row counts as often as it has votes.

    Args:
        labels: What the other sources said.
        log: The rounds.
        context: Their features, from `encoder`.
        preferences: The votes; those on models outside the log are left out.
        encoder: Turns prompts into context.
        n_folds: Folds by prompt.
        seed: Draws the folds.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidParameterError: The log has no prompts, only embeddings.
        InvalidLogError: No vote is on two models of the log.
    """
    if log.prompt is None or encoder is None:
        raise InvalidParameterError(
            f"preferences need the prompts of the rounds they shall judge; {log.source} has embeddings only"
        )
    votes = preferences.among(log.arms).merged().preferences
    code: dict[str, int] = {}
    group = np.array([code.setdefault(prompt, len(code)) for prompt in [*log.prompt, *votes.prompt]], dtype=np.int64)
    prompts = list(dict.fromkeys(votes.prompt))
    place = {prompt: k for k, prompt in enumerate(prompts)}
    of_prompt = encode_prompts(encoder, prompts, show_progress=show_progress)
    voted = of_prompt[[place[prompt] for prompt in votes.prompt]]
    fold = np.zeros(group.size, dtype=np.int64)  # of a single prompt no vote is left to judge it by
    if len(code) > 1:
        fold = assign_folds(group.size, n_folds=min(n_folds, len(code)), seed=seed, groups=group)
    columns = []
    for source in votes.sources:
        mine = np.array([each == source for each in votes.source])
        columns.append(
            _out_of_fold(
                votes.filter(mine),
                voted[mine],
                log_context=context,
                log_arm=log.arm,
                fold=fold[: log.n_rounds],
                vote_fold=fold[log.n_rounds :][mine],
                vote_group=group[log.n_rounds :][mine],
                n_arms=len(log.arms),
                seed=seed,
            )
        )
    return replace(
        labels,
        judged=np.column_stack([labels.judged, *columns]),
        judges=(*labels.judges, *(f"{source} (votes)" for source in votes.sources)),
    )


def _out_of_fold(
    votes: Preferences,
    vote_context: Context,
    *,
    log_context: Context,
    log_arm: ArmIndex,
    fold: NDArray[np.int64],
    vote_fold: NDArray[np.int64],
    vote_group: NDArray[np.int64],
    n_arms: int,
    seed: int,
) -> PerRound:
    """Return the win rate of each round's arm by votes of the other folds."""
    rate = np.full(log_arm.size, np.nan)
    telling = votes.arm_a != votes.arm_b
    for k in np.unique(fold):
        taught = vote_fold != k
        if not (telling & taught).any():
            continue
        model = WinRates(seed=seed).fit(
            vote_context[taught],
            votes.preference[taught],
            arm_a=votes.arm_a[taught],
            arm_b=votes.arm_b[taught],
            n_arms=n_arms,
            sample_weight=votes.n_votes[taught].astype(np.float64),
            group=vote_group[taught],
        )
        mine = np.flatnonzero(fold == k)
        mine = mine[model.n_votes_[log_arm[mine]] > 0]
        if mine.size:
            rate[mine] = model.predict(log_context[mine])[np.arange(mine.size), log_arm[mine]]
    return rate
