"""A fitted policy as the prior of the default bandit."""

from __future__ import annotations

import math

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.online.bandit import PooledThompson
from pointsman.policies.base import Policy
from pointsman.types import ArmIndex, Context, PerRound

MOST_PROMPTS = 2048
"""Prompts on which the fitted policy is asked what it expects; more would hardly move a few hundred coefficients."""


def warm_start(
    bandit: PooledThompson,
    policy: Policy | None,
    context: Context,
    arm: ArmIndex,
    *,
    quality: PerRound,
    cost_usd: PerRound,
    weight: PerRound | None = None,
    trust: float = 1.0,
) -> PooledThompson:
    """Have a bandit begin with what a log says, and with what was fitted on it; return the bandit.

    How sure it is comes from the rounds: its precision is that of having seen each of them with weight `trust`, under
    variances that evidence chooses on them. What it expects comes from the policy, where that predicts outcomes: its
    mean is the projection of the policy's predictions, for every prompt of the log and every arm, on the bandit's own
    features. So what arms share, and what was corrected for, is taken over, and answers that disagree move it as fast
    as `trust` allows. Answers that contradict the log outright have it forgotten (`PooledThompson.doubt_log`).

    Args:
        bandit: Has learned nothing yet; its components become those of the log.
        policy: Fitted on the log; None, or one that predicts nothing, leaves the mean to the rounds.
        context: (n_rounds, n_features) of the log.
        arm: (n_rounds,) logged arm.
        quality: (n_rounds,) NaN where not known.
        cost_usd: (n_rounds,) in USD; NaN where not known.
        weight: (n_rounds,) of the qualities, in (0, 1]; one where None.
        trust: What a logged round is worth beside an answer that is seen from now on, in (0, 1]: less than one where
            the log is old, its propensities are not known, or its judges are in doubt.

    Raises:
        InvalidParameterError: `trust` lies outside (0, 1], or the bandit has learned already.
    """
    if not 0 < trust <= 1:
        raise InvalidParameterError(f"trust must be in (0, 1]; got {trust}: start cold to trust a log not at all")
    rows = np.asarray(context, dtype=np.float64)
    whole = np.ones(arm.size) if weight is None else weight
    bandit.learn_rounds(rows, arm, quality=quality, cost_usd=cost_usd, weight=whole)
    # After the variances were chosen: they are the world's, however little the rounds are trusted.
    bandit.forget(trust)
    step = math.ceil(len(context) / MOST_PROMPTS)
    predicted = None if policy is None else policy.predict(context[::step])
    if predicted is not None:
        bandit.recentre(rows[::step], predicted[0])
    bandit.doubt_log(rows)
    return bandit
