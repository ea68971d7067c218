"""Training BaRP on prompts whose outcomes are revealed pull by pull."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.barp.policy import BaRP
from pointsman.types import ArmIndex, Context, PerRound

Pulls = Literal["fresh", "once"]
Reveal = Callable[[NDArray[np.int64], ArmIndex], tuple[PerRound, PerRound]]
"""Returns quality and cost_usd of these arms on these prompts, and reveals no other."""

LARGEST_WEIGHT = 5.0
"""Importance weights are cut here; what lies above it is bias."""


def train(
    policy: BaRP,
    context: Context,
    reveal: Reveal,
    *,
    n_epochs: int,
    pulls: Pulls,
    rng: np.random.Generator,
    after_epoch: Callable[[int], None] | None = None,
) -> int:
    """Train on these prompts as if they came one after the other, and return how many outcomes were revealed.

    Every epoch sees each prompt once, in a new order, at a preference of its own, uniform on the simplex.

        fresh  Each epoch pulls anew: n_prompts outcomes an epoch.
        once   A prompt is pulled in the first epoch, and never again: n_prompts outcomes altogether. Later epochs
               learn from the same pulls at new preferences (the outcome does not depend on the preference, its reward
               does). The policy has moved on, so that a reward counts by pi(t given x, w) / e, e the probability the
               arm was pulled with, cut at `LARGEST_WEIGHT`: without weights the gradient would be that of another
               policy, and cut ones keep some of that bias for less noise. Ours.

    Pulls of the warm-up, drawn evenly, count and are learned from by the same weights. Rounds whose reward is not known
    are left out.

    Args:
        policy: Learns in place; samples, unless it is `greedy`.
        context: Of each prompt.
        reveal: Gives quality and cost of pulled arms.
        n_epochs: Passes over the prompts, >= 1.
        pulls: `fresh` or `once`.
        rng: Draws preferences, orders and arms.
        after_epoch: Called with the number of epochs done.

    Raises:
        InvalidParameterError: There is no prompt or no epoch, pulls are of another kind, or the policy is greedy.
        MissingDependencyError: The policy's form is `mlp` and torch is not installed.
    """
    if n_epochs < 1 or not len(context):
        raise InvalidParameterError(f"n_epochs and prompts must be >= 1; got {n_epochs} and {len(context)}")
    if pulls not in ("fresh", "once"):
        raise InvalidParameterError(f"pulls must be 'fresh' or 'once'; got {pulls!r}")
    if policy.greedy:
        raise InvalidParameterError("greedy must be off while training; got a policy that never explores")
    record = _Record(policy, context, reveal, rng)
    for epoch in range(n_epochs):
        order = rng.permutation(len(context))
        cost_weight = rng.random(len(context))
        if not policy.is_warm:
            first = order[: policy.n_warm_up]
            record.pull(first, cost_weight[first])
            policy.warm_up(context[first], record.cost_usd[first])
        for start in range(0, order.size, policy.batch_rounds):
            rows = order[start : start + policy.batch_rounds]
            now = record.pull(rows, cost_weight[rows])
            policy.learn(
                context[rows],
                record.arm[rows],
                cost_weight=cost_weight[rows],
                quality=record.quality[rows],
                cost_usd=record.cost_usd[rows],
                weight=np.minimum(now / record.propensity[rows], LARGEST_WEIGHT),
            )
        if pulls == "fresh":
            record.known[:] = False
        if after_epoch is not None:
            after_epoch(epoch + 1)
    return record.n_revealed


class _Record:
    """What was pulled of each prompt, with which probability, and what came of it."""

    def __init__(self, policy: BaRP, context: Context, reveal: Reveal, rng: np.random.Generator) -> None:
        self.policy, self.context, self.reveal, self.rng = policy, context, reveal, rng
        self.arm = np.zeros(len(context), dtype=np.int64)
        self.propensity, self.quality, self.cost_usd = np.full((3, len(context)), np.nan)
        self.known = np.zeros(len(context), dtype=np.bool_)
        self.n_revealed = 0

    def pull(self, rows: NDArray[np.int64], cost_weight: PerRound) -> PerRound:
        """Let the policy pull an arm of those prompts that have none; return its probability now of each one's arm."""
        probabilities = self.policy.choice_probabilities(self.context[rows], cost_weight)
        new = ~self.known[rows]
        if new.any():
            cumulative = probabilities[new].cumsum(axis=1)
            arm = (cumulative <= self.rng.random((len(cumulative), 1)) * cumulative[:, -1:]).sum(axis=1)
            self.arm[rows[new]] = arm
            self.propensity[rows[new]] = probabilities[new, arm]
            self.quality[rows[new]], self.cost_usd[rows[new]] = self.reveal(rows[new], arm)
            self.known[rows[new]] = True
            self.n_revealed += arm.size
        return np.asarray(probabilities[np.arange(rows.size), self.arm[rows]])
