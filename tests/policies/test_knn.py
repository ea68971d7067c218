"""Nearest neighbours, against a loop that does what the formula says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.policies.knn import NearestNeighbour


def test_predictions_are_means_over_the_nearest_rounds_of_the_arm(
    draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """For each arm, the mean outcome of the k logged rounds of highest cosine."""
    log = draw_log(rng, n_rounds=200)
    policy = NearestNeighbour(n_neighbours_grid=(5,)).fit(log.context, log.scores)
    query = rng.standard_normal((10, log.context.shape[1]))
    quality, cost_usd = policy.predict(query)
    unit = log.context / np.linalg.norm(log.context, axis=1, keepdims=True)
    for row, direction in enumerate(query):
        for arm in range(4):
            mine = np.flatnonzero(log.scores.arm == arm)
            nearest = mine[np.argsort(-unit[mine] @ direction)[:5]]
            assert quality[row, arm] == pytest.approx(log.scores.quality[nearest].mean())
            assert cost_usd[row, arm] == pytest.approx(log.scores.cost_usd[nearest].mean())


def test_k_has_the_smallest_leave_one_out_error(
    draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """The k taken is the best of predicting every round from the others, one at a time."""
    log = draw_log(rng, n_rounds=120)
    grid = (1, 4, 16)
    policy = NearestNeighbour(n_neighbours_grid=grid).fit(log.context, log.scores)
    unit = log.context / np.linalg.norm(log.context, axis=1, keepdims=True)
    errors = np.zeros((len(grid), 2))
    outcomes = np.column_stack([log.scores.quality, log.scores.cost_usd])
    for i in range(120):
        others = np.flatnonzero((log.scores.arm == log.scores.arm[i]) & (np.arange(120) != i))
        order = others[np.argsort(-unit[others] @ unit[i])]
        for row, k in enumerate(grid):
            errors[row] += (outcomes[order[:k]].mean(axis=0) - outcomes[i]) ** 2
    best = errors.argmin(axis=0)
    assert policy.n_neighbours_ == (grid[best[0]], grid[best[1]])


def test_rounds_without_an_outcome_are_no_neighbours(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """A round whose quality is not known yet is as if it were not there."""
    log = draw_log(rng, n_rounds=200)
    quality = log.scores.quality.copy()
    quality[:50] = np.nan
    policy = NearestNeighbour(n_neighbours_grid=(8,)).fit(log.context, replace(log.scores, quality=quality))
    assert len(policy.rounds_) == 150
    assert np.isfinite(policy.predict(log.context)).all()


@pytest.mark.parametrize("grid", [(), (0, 4)])
def test_the_grid_must_hold_numbers_of_neighbours(grid: tuple[int, ...]) -> None:
    """No numbers, and no neighbours, are refused."""
    with pytest.raises(InvalidParameterError, match="n_neighbours_grid"):
        NearestNeighbour(n_neighbours_grid=grid)
