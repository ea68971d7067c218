"""Rounds in batches, so that memory does not grow with the log."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointsman.types import Context

BATCH_BYTES = 32 * 2**20
"""Size of one batch of features in float64: large enough for BLAS to run at full speed, small beside the log."""


def batches(rows: NDArray[np.int64], *, n_features: int) -> Iterator[NDArray[np.int64]]:
    """Yield consecutive slices of `rows`, each of at most `BATCH_BYTES` of float64 features."""
    size = max(1, BATCH_BYTES // (8 * max(1, n_features)))
    for start in range(0, rows.size, size):
        yield rows[start : start + size]


def affine(X: Context, *, coef: NDArray[np.float64], intercept: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return X @ coef + intercept in float64, without a float64 copy of all of X.

    Args:
        X: Context, (n_rounds, n_features).
        coef: (n_features, n_arms).
        intercept: (n_arms,).
    """
    result = np.empty((len(X), coef.shape[1]))
    for batch in batches(np.arange(len(X)), n_features=coef.shape[0]):
        rows = slice(batch[0], batch[-1] + 1)  # not copied before they are converted
        result[rows] = X[rows].astype(np.float64, copy=False) @ coef + intercept
    return result
