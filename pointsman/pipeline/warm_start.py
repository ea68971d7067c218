"""From a fitted router to one that goes on learning."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pointsman.errors import InvalidLogError
from pointsman.logs import Labels, LoggedRounds, label_matrix
from pointsman.online.bandit import PooledThompson
from pointsman.online.method import Online
from pointsman.online.warm_start import warm_start as start
from pointsman.pipeline.gold_units import CORRECTION, GOLD, in_gold_units
from pointsman.pipeline.learning import learnable_rounds
from pointsman.pipeline.rounds import make_context
from pointsman.router import Router

LOGGED_TRUST, ESTIMATED_TRUST = 1.0, 0.5
"""What a logged round is worth beside a new answer: where the propensity was logged, and where it was not, so that what
else drove the choice is not known."""


def warm_start(
    router: Router,
    log: LoggedRounds,
    *,
    trust: float | None = None,
    labels: Labels | None = None,
    gold: str = GOLD,
    correction: str = CORRECTION,
    exploration: float = 0.6,
    floor: float = 0.01,
    memory: float = math.inf,
    seed: int = 0,
    show_progress: bool = False,
) -> Router:
    """Return the router as one that learns from each answer it gives, beginning with what it and its log say.

    See `online.warm_start.warm_start`. The result is a router like any other, its method `online`; its
    `policy.learner` is the bandit.

    Args:
        router: Fitted on the log, or on one like it, by any method.
        log: Rounds; models that the router does not know are left out.
        trust: What a logged round is worth beside an answer from now on, in (0, 1]; 1 where propensities were logged,
            0.5 where they were not, if None.
        labels: More labels of the log's rounds.
        gold: The source whose labels are the truth asked for.
        correction: How judges' labels are corrected.
        exploration: Of the bandit.
        floor: Of the bandit.
        memory: Of the bandit.
        seed: Of the folds of a correction.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidLogError: No round is left to learn from.
        InvalidParameterError: An argument breaks its rule.
    """
    learnable = learnable_rounds(log, label_matrix(log, labels, gold=gold))
    known = np.isin([learnable.rounds.arms.names[t] for t in learnable.rounds.arm], router.arms.names)
    if not known.any():
        raise InvalidLogError(f"{log.source}: at least one round must be of the router's models; got none of them")
    rounds, matrix = learnable.rounds.filter(known), learnable.labels.take(known)
    context = make_context(rounds, router.encoder, show_progress=show_progress)
    units = in_gold_units(rounds, matrix, context, gold=gold, correction=correction, n_folds=5, seed=seed, stacklevel=3)
    if trust is None:
        trust = ESTIMATED_TRUST if np.isnan(rounds.propensity).any() else LOGGED_TRUST
    bandit = PooledThompson(
        n_arms=len(router.arms),
        n_features=int(context.shape[1]),
        exploration=exploration,
        floor=floor,
        memory=memory,
    )
    start(
        bandit,
        router.policy,
        context,
        router.arms.indices(rounds.arms.names[t] for t in rounds.arm),
        quality=units.quality,
        cost_usd=rounds.cost_usd,
        weight=units.weight,
        trust=trust,
    )
    policy = Online(bandit)
    options = {"trust": trust, "from": router.facts.method}
    return dataclasses.replace(
        router, policy=policy, facts=dataclasses.replace(router.facts, method=Online.name, options=options)
    )
