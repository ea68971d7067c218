"""Nearest neighbours: each arm's outcome is the mean over the most similar prompts it answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.policies.base import check_context, check_rounds
from pointsman.policies.comparing import ComparingPolicy
from pointsman.policies.fixed import arm_means
from pointsman.scores import Scores
from pointsman.types import ArmIndex, Arrays, Context, PerArm, State

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors


class NearestNeighbour(ComparingPolicy):
    """Predicts each arm's quality and cost by the mean over the nearest logged rounds of that arm, and compares.

    Prompts are near where the cosine of their contexts is high. An arm that served fewer than k known rounds is
    predicted by the mean of all of them, one that served none by its mean out-of-fold prediction.

    Args:
        n_neighbours_grid: Numbers of neighbours k to try. Quality and cost each take the k of smallest leave-one-out
            squared error over all logged rounds; ties go to the larger k.

    Attributes:
        n_neighbours_: k of quality and of cost.

    Raises:
        InvalidParameterError: The grid is empty or holds a number below 1.
    """

    name = "knn"

    n_neighbours_: tuple[int, int]
    rounds_: NDArray[np.float32]
    arm_: ArmIndex
    outcomes_: NDArray[np.float64]
    fallback_: NDArray[np.float64]

    def __init__(self, *, n_neighbours_grid: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)) -> None:
        if not n_neighbours_grid or min(n_neighbours_grid) < 1:
            raise InvalidParameterError(f"n_neighbours_grid must hold numbers >= 1; got {n_neighbours_grid}")
        self.n_neighbours_grid = tuple(n_neighbours_grid)

    def fit(self, context: Context, scores: Scores) -> Self:
        """Keep the rounds whose outcomes are known, choose k, and return self."""
        check_rounds(context, scores)
        has_cost = bool(np.isfinite(scores.cost_usd).any())
        known = np.isfinite(scores.quality) & (np.isfinite(scores.cost_usd) | (not has_cost))
        self.rounds_ = _unit_rows(context[known])
        self.arm_ = scores.arm[known]
        self.outcomes_ = np.column_stack([scores.quality[known], scores.cost_usd[known]])
        self.fallback_ = np.column_stack(arm_means(scores, estimate="model"))
        self._index()
        self.n_neighbours_ = self._choose_k()
        return self

    def predict(self, context: Context) -> tuple[PerArm, PerArm]:
        """Return predicted quality and cost_usd of every arm; cost is NaN where the log had none."""
        check_context(context, n_features=self.rounds_.shape[1])
        query = _unit_rows(context)
        predicted = np.tile(self.fallback_, (len(query), 1, 1))
        for arm, (index, outcomes) in self._index_.items():
            k = min(max(self.n_neighbours_), len(outcomes))
            nearest = index.kneighbors(query, n_neighbors=k, return_distance=False)
            for column, k_column in enumerate(self.n_neighbours_):
                predicted[:, arm, column] = outcomes[nearest[:, :k_column], column].mean(axis=1)
        return predicted[:, :, 0], predicted[:, :, 1]

    def _index(self) -> None:
        from sklearn.neighbors import NearestNeighbors

        # On unit rows the Euclidean order is the cosine order, and scikit-learn has a chunked product for it.
        self._index_: dict[int, tuple[NearestNeighbors, NDArray[np.float64]]] = {}
        for arm in np.unique(self.arm_):
            mine = self.arm_ == arm
            index = NearestNeighbors(algorithm="brute", metric="euclidean").fit(self.rounds_[mine])
            self._index_[int(arm)] = (index, self.outcomes_[mine])

    def _choose_k(self) -> tuple[int, int]:
        grid = np.array(sorted(self.n_neighbours_grid, reverse=True))
        error = np.zeros((len(grid), 2))
        for index, outcomes in self._index_.values():
            others = len(outcomes) - 1
            if others == 0:
                continue
            nearest = index.kneighbors(n_neighbors=min(int(grid[0]), others), return_distance=False)
            means = outcomes[nearest].cumsum(axis=1) / np.arange(1, nearest.shape[1] + 1)[:, None]
            for row, k in enumerate(grid):
                error[row] += ((means[:, min(int(k), others) - 1] - outcomes) ** 2).sum(axis=0)
        quality, cost = grid[np.nan_to_num(error).argmin(axis=0)]
        return int(quality), int(cost)

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments, k, and the rounds: this policy is its log."""
        values: State = {
            "options": {"n_neighbours_grid": list(self.n_neighbours_grid)},
            "n_neighbours": list(self.n_neighbours_),
        }
        arrays: Arrays = {
            "rounds": self.rounds_,
            "arm": self.arm_,
            "outcomes": self.outcomes_,
            "fallback": self.fallback_,
        }
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = cls(n_neighbours_grid=tuple(values["options"]["n_neighbours_grid"]))
        quality, cost = values["n_neighbours"]
        policy.n_neighbours_ = (quality, cost)
        policy.rounds_, policy.arm_ = arrays["rounds"], arrays["arm"]
        policy.outcomes_, policy.fallback_ = arrays["outcomes"], arrays["fallback"]
        policy._index()
        return policy


def _unit_rows(context: Context) -> NDArray[np.float32]:
    norm = np.linalg.norm(context, axis=1, keepdims=True)
    return np.asarray(context / np.where(norm > 0, norm, 1), dtype=np.float32)
