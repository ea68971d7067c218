"""What can be evaluated: a router, one model for everything, the best single model, the policy that wrote the log."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError, OverlapWarning
from pointsman.logs import LoggedRounds
from pointsman.policies.base import greedy
from pointsman.router import Router
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerArm

Target: TypeAlias = Router | str
"""What can be evaluated: a router, `"always MODEL"`, `"best-single"` (the model of highest mean utility on the training
log of the first router), or `"logging"`, the policy that wrote the log."""

Targets: TypeAlias = Target | Sequence[Target] | Mapping[str, Target]
"""One of them, several, or several by names of your choice."""

LOGGING = "logging"
BEST_SINGLE = "best-single"
ALWAYS = "always "
SPELLED = (LOGGING, BEST_SINGLE)
"""Targets that are spelled out and need no router or model."""


class Decisions(Protocol):
    """A policy's decisions on the rounds of a log, in the log's columns."""

    @property
    def moves(self) -> bool:
        """Whether the trade-off moves them."""

    @property
    def is_logging(self) -> bool:
        """Whether they are the log's own."""

    def __call__(self, trade_off: TradeOff) -> PerArm:
        """Return the probability of every arm in every round."""


class RouterDecisions:
    """A router's."""

    moves = True
    is_logging = False

    def __init__(self, router: Router, log: LoggedRounds, context: Context) -> None:
        common = [name for name in log.arms.names if name in router.arms]
        self.router = router
        self.context = context
        self.log_columns = log.arms.indices(common)
        self.router_columns = router.arms.indices(common)
        self.shape = (log.n_rounds, len(log.arms))
        self.eligible = np.zeros((log.n_rounds, len(router.arms)), dtype=np.bool_)
        self.eligible[:, self.router_columns] = log.eligible[:, self.log_columns]
        absent = [name for name in router.arms.names if name not in log.arms]
        if absent:
            warnings.warn(
                f"the log does not know {', '.join(absent)}: the router is evaluated as if it could not choose them",
                OverlapWarning,
                stacklevel=2,
            )

    def __call__(self, trade_off: TradeOff) -> PerArm:
        """Return the router's probabilities among the arms that were eligible and that it knows."""
        probabilities = np.zeros(self.shape)
        own = self.router.probabilities(self.context, trade_off, self.eligible)
        probabilities[:, self.log_columns] = own[:, self.router_columns]
        return probabilities


class BestSingleDecisions:
    """The best single model at each trade-off, as the router's training log has it, among those that were eligible.

    Chosen on the training log and not on the one evaluated, so that its estimate has no winner's curse.
    """

    moves = True
    is_logging = False

    def __init__(self, router: Router, log: LoggedRounds) -> None:
        common = [name for name in log.arms.names if name in router.arms]
        self.columns = log.arms.indices(common)
        self.eligible = log.eligible
        facts = router.facts
        self.quality = np.full(len(log.arms), np.nan)
        self.cost_usd = np.full(len(log.arms), np.nan)
        self.quality[self.columns] = [facts.mean_quality[name] for name in common]
        costs = [facts.mean_cost_usd[name] for name in common]
        factors = router.arms.cost_factors[router.arms.indices(common)]
        self.cost_usd[self.columns] = np.array([np.nan if cost is None else cost for cost in costs]) * factors

    def __call__(self, trade_off: TradeOff) -> PerArm:
        """Return certainty of the eligible arm of highest mean utility."""
        utility = trade_off.utility(quality=self.quality, cost_usd=self.cost_usd)
        known = np.zeros_like(self.eligible)
        known[:, self.columns] = self.eligible[:, self.columns]
        shape = self.eligible.shape
        return greedy(np.broadcast_to(np.nan_to_num(utility, nan=-np.inf), shape), eligible=known)


@dataclass(frozen=True, kw_only=True)
class FoldedDecisions:
    """Those of several folds' policies, each on the rounds it never saw."""

    n_rounds: int
    parts: list[tuple[NDArray[np.int64], Decisions]]
    moves = True
    is_logging = False

    def __call__(self, trade_off: TradeOff) -> PerArm:
        """Return each fold's decisions on its own rounds."""
        first = self.parts[0][1](trade_off)
        probabilities = np.zeros((self.n_rounds, first.shape[1]))
        for rows, decisions in self.parts:
            probabilities[rows] = decisions(trade_off)
        return probabilities


@dataclass(frozen=True, kw_only=True)
class FixedDecisions:
    """Decisions that no trade-off moves."""

    probabilities: PerArm
    is_logging: bool = False
    moves = False

    def __call__(self, trade_off: TradeOff) -> PerArm:
        """Return the decisions."""
        del trade_off
        return self.probabilities


def fixed_decisions(name: str, log: LoggedRounds) -> FixedDecisions:
    """Return the decisions of `"logging"` or `"always MODEL"`.

    Raises:
        InvalidParameterError: The target is neither, or the model is not known or not always eligible.
    """
    if name == LOGGING:
        return FixedDecisions(probabilities=np.eye(len(log.arms))[log.arm], is_logging=True)
    if not name.startswith(ALWAYS):
        raise InvalidParameterError(
            f"target must be a router, 'always MODEL', {BEST_SINGLE!r} or {LOGGING!r}; got {name!r}"
        )
    column = log.arms.index(name.removeprefix(ALWAYS))
    barred = int((~log.eligible[:, column]).sum())
    if barred:
        raise InvalidParameterError(
            f"target {name!r} must be eligible in every round; in {barred} of {log.n_rounds} it is not"
        )
    return FixedDecisions(probabilities=np.tile(np.eye(len(log.arms))[column], (log.n_rounds, 1)))


def named_targets(targets: Targets) -> list[tuple[str, Target]]:
    """Return targets with their names: those of a mapping, else a router's method and the others' own spelling."""
    if isinstance(targets, Mapping):
        return list(targets.items())
    listed = [targets] if isinstance(targets, Router | str) else targets
    return [(target.facts.method if isinstance(target, Router) else target, target) for target in listed]


def distinct(targets: Iterable[tuple[str, Target]]) -> dict[str, Target]:
    """Return targets by a name each has alone: the second of a name gets a number."""
    by_name: dict[str, Target] = {}
    for name, target in targets:
        place = 2
        unique = name
        while unique in by_name:
            unique, place = f"{name} ({place})", place + 1
        by_name[unique] = target
    return by_name
