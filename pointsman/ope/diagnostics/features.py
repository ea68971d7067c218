"""Few numbers that stand for a context: what tests of balance and missingness look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.nuisance.batches import affine, batches
from pointsman.types import Context


def principal_features(
    context: Context, *, at_most: int, names: Sequence[str] | None = None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return at most so many features, standardised, and their names; those that do not vary are left out.

    The features themselves where they are few enough, else the principal components of the standardised context that
    carry most of its variance.

    Args:
        context: Context.
        at_most: Number of features.
        names: (n_features,) names of the context's columns; their numbers where None.
    """
    n_rounds, n_features = context.shape
    mean = context.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((n_features, n_features))
    for rows in batches(np.arange(n_rounds), n_features=n_features):
        centred = context[rows] - mean
        covariance += centred.T @ centred / n_rounds
    variance = np.diag(covariance)
    varying = np.flatnonzero(variance > (np.finfo(np.float32).eps * (abs(mean) + 1e-300)) ** 2)
    scale = np.sqrt(variance[varying])
    if varying.size <= at_most:
        axes = np.eye(varying.size)
        called = [f"feature {j}" if names is None else names[j] for j in varying.tolist()]
    else:
        _, vectors = np.linalg.eigh(covariance[np.ix_(varying, varying)] / np.outer(scale, scale))
        axes = vectors[:, ::-1][:, :at_most]
        called = [f"component {j + 1}" for j in range(at_most)]
    coef = np.zeros((n_features, axes.shape[1]))
    coef[varying] = axes / scale[:, None]
    features = affine(context, coef=coef, intercept=-mean @ coef)
    spread = features.std(axis=0)
    return features / np.where(spread > 0, spread, 1.0), tuple(called)
