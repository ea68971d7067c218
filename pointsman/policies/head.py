"""The logits of a policy as functions of the context: linear, or a network whose weights are plain arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.policies.base import Policy, check_context, check_rounds
from pointsman.policies.fixed import arm_means
from pointsman.policies.objectives import Objective
from pointsman.scores import Scores
from pointsman.types import ArmIndex, Arrays, Context, PerArm, State

PENALTIES: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Ridge penalties tried, per unit of squared logit a round's context gives on average: at the first only intercepts are
left, at the last the training rounds are fitted as closely as the features allow."""

MAX_ITERATIONS = 100
"""L-BFGS iterations at one penalty: a cross-entropy needs 15; a regret, which is not convex, up to this many."""

RELATIVE_TOLERANCE = 1e-5
"""L-BFGS stops when a step lowers the loss by less than this share of it; a float32 context resolves 1e-7."""

N_JUDGED = 3
"""Objectives, evenly spread, whose held-out values choose the penalty they all share: a path for each would be most of
the time, and neighbours in lambda ask for much the same."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Layers of weights with rectifiers between them; one layer is a linear function.

    Attributes:
        layers: Weight (n_out, n_in) and bias (n_out,) of each layer.
    """

    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]

    @property
    def n_features(self) -> int:
        """Number of features of the context."""
        return int(self.layers[0][0].shape[1])

    def outputs(self, context: Context, columns: slice = slice(None)) -> PerArm:
        """Return these columns of the last layer's outputs, (n_rounds, n_columns)."""
        check_context(context, n_features=self.n_features)
        hidden = np.asarray(context, dtype=np.float64)
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        weight, bias = self.layers[-1]
        return hidden @ weight[columns].T + bias[columns]

    def take_arms(self, arms: ArmIndex) -> Head:
        """Return the head whose every group of n_arms outputs is these of the group's columns, in this order."""
        weight, bias = self.layers[-1]
        weight = weight.reshape(-1, arms.size, weight.shape[1])[:, arms].reshape(weight.shape)
        return Head(layers=(*self.layers[:-1], (weight, bias.reshape(-1, arms.size)[:, arms].ravel())))

    def arrays(self) -> Arrays:
        """Return the layers by name."""
        named: dict[str, NDArray[Any]] = {}
        for depth, (weight, bias) in enumerate(self.layers):
            named[f"weight_{depth}"], named[f"bias_{depth}"] = weight, bias
        return named

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Head:
        """Return the head that `arrays` described."""
        n_layers = sum(name.startswith("weight_") for name in arrays)
        return cls(layers=tuple((arrays[f"weight_{depth}"], arrays[f"bias_{depth}"]) for depth in range(n_layers)))


def fit_linear(
    context: Context,
    objective: Objective,
    *,
    variance: NDArray[np.float64],
    penalty: float,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return slopes and intercepts, (n_outputs, n_features + 1), that minimise the penalised objective by L-BFGS.

    loss(X w + b) + penalty / 2 * n_features * |w|^2, with b free. The slopes are searched in units of the curvature a
    softmax has at zero, about variance / n_outputs, plus the penalty's: without that a decaying spectrum of the
    context costs ten times the iterations.

    Args:
        context: Centred, uncorrelated features of mean variance one.
        objective: The loss, for exactly these rounds.
        variance: (n_features,) variance of each feature.
        penalty: Ridge penalty, >= 0.
        start: Where to start; at zero where None.
    """
    from scipy.optimize import minimize

    n_features = context.shape[1]
    shape = (objective.n_outputs, n_features + 1)
    curvature: NDArray[np.float64] = np.append(variance, 1.0) / objective.n_outputs
    curvature[:-1] += penalty * n_features
    unit = 1 / np.sqrt(np.maximum(curvature, curvature.max() * np.finfo(np.float32).eps))

    def penalised(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        line = flat.reshape(shape) * unit
        slopes = line[:, :-1].astype(context.dtype)
        loss, inner = objective.loss(np.asarray(context @ slopes.T, dtype=np.float64) + line[:, -1])
        gradient = np.empty(shape)
        gradient[:, :-1] = (context.T @ inner.astype(context.dtype)).T + penalty * n_features * line[:, :-1]
        gradient[:, -1] = inner.sum(axis=0)
        gradient *= unit
        return loss + penalty / 2 * n_features * float((line[:, :-1] ** 2).sum()), gradient.ravel()

    found = minimize(
        penalised,
        np.zeros(shape).ravel() if start is None else (start / unit).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "ftol": RELATIVE_TOLERANCE},
    )
    return np.asarray(found.x.reshape(shape) * unit, dtype=np.float64)


def fit_linear_head(
    context: Context, objectives: Sequence[Objective], *, held_out: NDArray[np.bool_], penalties: Sequence[float]
) -> tuple[Head, float]:
    """Return one linear function per output of every objective, and the penalty they share.

    The penalty is the one of highest held-out value, summed over `N_JUDGED` of the objectives; ties go to the heavier.
    Each path runs from the heaviest penalty to the lightest and starts at zero; then every objective is fitted to all
    rounds, from zero.

    Args:
        context: Features of each round.
        objectives: What to minimise, each apart; their outputs stand side by side in the head.
        held_out: Rounds that choose the penalty; where none or all are held out, the heaviest is taken.
        penalties: Ridge penalties to try.
    """
    centre = context.mean(axis=0, dtype=np.float64)
    spread = float(np.sqrt(context.var(axis=0, dtype=np.float64).mean())) or 1.0
    standard = (context - centre.astype(context.dtype)) / context.dtype.type(spread)
    variance, axes = np.linalg.eigh(np.asarray(standard.T @ standard, dtype=np.float64) / len(standard))
    variance = np.maximum(variance, 0)
    standard = standard @ axes.astype(context.dtype)
    grid = sorted(penalties, reverse=True)
    value = np.zeros(len(grid))
    learning, judging = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if len(grid) > 1 and learning.size and judging.size:
        learning_context, judging_context = standard[learning], standard[judging]
        judged = sorted({round(i) for i in np.linspace(0, len(objectives) - 1, N_JUDGED)})
        for objective in (objectives[i] for i in judged):
            learn, judge = objective.take(learning), objective.take(judging)
            line = None
            for column, penalty in enumerate(grid):
                line = fit_linear(learning_context, learn, variance=variance, penalty=penalty, start=line)
                value[column] += judge.value(judging_context @ line[:, :-1].T + line[:, -1])
    chosen = grid[int(value.argmax())]
    lines = np.concatenate(
        [fit_linear(standard, objective, variance=variance, penalty=chosen) for objective in objectives]
    )
    slopes = lines[:, :-1] @ axes.T / spread
    return Head(layers=((slopes, lines[:, -1] - slopes @ centre),)), chosen


def hold_out(fold: ArmIndex, *, seed: int) -> NDArray[np.bool_]:
    """Return which rounds are held out: those of the first fold, or a random fifth where there is one fold only."""
    if (fold != fold[0]).any():
        return np.asarray(fold == fold.min())
    held_out = np.zeros(fold.size, dtype=bool)
    held_out[np.random.default_rng(seed).permutation(fold.size)[: fold.size // 5]] = True
    return held_out


def _take_arms(scores: Scores, arms: ArmIndex) -> Scores:
    return replace(
        scores,
        arm=arms.argsort()[scores.arm],
        # Contiguous, because the memory's order decides how sums over a row are rounded.
        eligible=np.ascontiguousarray(scores.eligible[:, arms]),
        predicted_quality=np.ascontiguousarray(scores.predicted_quality[:, arms]),
        predicted_cost_usd=np.ascontiguousarray(scores.predicted_cost_usd[:, arms]),
    )


class HeadPolicy(Policy):
    """A policy whose choice is the arm of highest logit.

    Args:
        penalties: Ridge penalties of the linear form to try, per unit of squared logit; see `PENALTIES`.
        hidden: Widths of the hidden layers; () is the linear form, which needs no torch.
        seed: Seed of whatever is drawn while fitting.

    Attributes:
        head_: The logits.
        penalty_: The ridge penalty chosen; None for a network.
        cost_usd_: (n_arms,) mean predicted cost, in USD; NaN where the log had none.

    Raises:
        InvalidParameterError: A penalty is negative or there is none, or a width is below 1.
    """

    head_: Head
    penalty_: float | None
    cost_usd_: NDArray[np.float64]

    def __init__(self, *, penalties: Sequence[float] = PENALTIES, hidden: Sequence[int] = (), seed: int = 0) -> None:
        if not penalties or not all(np.isfinite(penalty) and penalty >= 0 for penalty in penalties):
            raise InvalidParameterError(f"penalties must hold finite numbers >= 0; got {tuple(penalties)}")
        if any(width < 1 for width in hidden):
            raise InvalidParameterError(f"hidden must hold widths >= 1; got {tuple(hidden)}")
        self.penalties = tuple(penalties)
        self.hidden = tuple(hidden)
        self.seed = seed

    @abstractmethod
    def objectives(self, scores: Scores) -> Sequence[Objective]:
        """Return what is minimised, in the order of the head's outputs."""

    def fit(self, context: Context, scores: Scores) -> Self:
        """Minimise the objectives over the rounds and return self.

        Raises:
            InvalidParameterError: Context and scores do not fit each other.
            MissingDependencyError: There are hidden layers and torch is not installed.
        """
        check_rounds(context, scores)
        # A regret is not convex, and rounding that depends on the order of columns can end in another minimum: learned
        # in an order the rounds give, the policy is the same whatever the order of the arms.
        order = np.lexsort((scores.cost_scores.mean(axis=0), scores.quality_scores.mean(axis=0)))
        place = order.argsort()
        ordered = _take_arms(scores, order)
        self.cost_usd_ = arm_means(ordered, estimate="model")[1][place]
        objectives = self.objectives(ordered)
        held_out = hold_out(scores.fold, seed=self.seed)
        if self.hidden:
            from pointsman.policies.torch_head import fit_network

            self.penalty_ = None
            head = fit_network(context, objectives, held_out=held_out, hidden=self.hidden, seed=self.seed)
        else:
            head, self.penalty_ = fit_linear_head(context, objectives, held_out=held_out, penalties=self.penalties)
        self.head_ = head.take_arms(place)
        return self

    def options(self) -> State:
        """Return the constructor's arguments, JSON-ready."""
        return {"penalties": list(self.penalties), "hidden": list(self.hidden), "seed": self.seed}

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments and the layers."""
        return (
            {"options": self.options(), "penalty": self.penalty_},
            {**self.head_.arrays(), "cost_usd": self.cost_usd_},
        )

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = cls(**values["options"])
        policy.penalty_ = values["penalty"]
        policy.head_ = Head.from_arrays(arrays)
        policy.cost_usd_ = arrays["cost_usd"]
        return policy
