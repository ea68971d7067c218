"""Cross-fitting: every round is predicted by a model that never saw it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.nuisance.base import CrossFittingModel, OutcomeModel
from pointsman.types import ArmIndex, Context, PerArm, PerRound


def assign_folds(n_rounds: int, *, n_folds: int, seed: int, groups: NDArray[np.generic] | None = None) -> ArmIndex:
    """Return the fold of each round, drawn at random, of sizes as equal as the groups allow.

    Args:
        n_rounds: Number of rounds.
        n_folds: Number of folds, at least 2; each gets at least one group.
        seed: Seed of the draw.
        groups: (n_rounds,) label of each round; rounds of one group, such as repeats of one prompt, share a fold, or
            the model that predicts a round would have seen its twin. Every round is its own group where None.

    Returns:
        (n_rounds,) int in [0, n_folds).

    Raises:
        InvalidParameterError: n_folds < 2, or there are fewer groups than folds.
    """
    if n_folds < 2:
        raise InvalidParameterError(f"n_folds must be at least 2; got {n_folds}")
    member = np.arange(n_rounds) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = np.bincount(member)
    if size.size < n_folds:
        raise InvalidParameterError(
            f"n_folds must be at most the number of distinct prompts, {size.size}; got {n_folds}; log more rounds"
        )
    shuffled = np.random.default_rng(seed).permutation(size.size)
    # Dealt out from the largest group to the smallest, folds differ by at most the largest group.
    largest_first = shuffled[np.argsort(-size[shuffled], kind="stable")]
    fold = np.empty(size.size, dtype=np.int64)
    fold[largest_first] = np.arange(size.size) % n_folds
    return fold[member]


def cross_fit_outcomes(
    model: OutcomeModel,
    *,
    context: Context,
    outcome: PerRound,
    arm: ArmIndex,
    n_arms: int,
    fold: ArmIndex,
    sample_weight: PerRound | None = None,
) -> PerArm:
    """Return the out-of-fold predicted outcome of every arm in every round.

    Args:
        model: Cloned for each fold, unless it offers to share what its folds have in common (`CrossFittingModel`);
            itself left as it is.
        context: Features of each round.
        outcome: Realised outcome of the logged arm; a round whose outcome is NaN teaches nothing but is predicted.
        arm: Logged arm.
        n_arms: Number of arms.
        fold: Fold of each round, from `assign_folds`.
        sample_weight: Weight of each round; one where None.

    Returns:
        Predictions, (n_rounds, n_arms), in the unit of `outcome`; all NaN where no outcome is known.

    Raises:
        InvalidLogError: All known outcomes lie in one fold, so that nothing is left to predict that fold from.
    """
    from sklearn.base import clone

    known = ~np.isnan(outcome)
    predicted = np.full((len(outcome), n_arms), np.nan)
    if not known.any():
        return predicted
    labels = np.unique(fold)
    for k in labels:
        if not (known & (fold != k)).any():
            raise InvalidLogError(
                f"outcomes must be known in at least two folds; all {np.count_nonzero(known)} known ones are in "
                f"fold {k}; log more outcomes"
            )
    if isinstance(model, CrossFittingModel):
        return model.cross_fit(context, outcome, arm=arm, n_arms=n_arms, fold=fold, sample_weight=sample_weight)
    for k in labels:
        held_out = fold == k
        rows = np.flatnonzero(known & ~held_out)
        fitted = clone(model).fit(
            context[rows],
            outcome[rows],
            arm=arm[rows],
            n_arms=n_arms,
            sample_weight=None if sample_weight is None else sample_weight[rows],
        )
        predicted[held_out] = fitted.predict(context[held_out])
    return predicted
