"""Regret minimisation at nodes of the trade-off: `rm-classification` and `rm-softmax`, in their literal form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.policies.base import check_trade_off, greedy
from pointsman.policies.head import PENALTIES, HeadPolicy
from pointsman.policies.objectives import CrossEntropy, Objective, SoftmaxRegret, normalised_utility
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, Eligible, PerArm, State

NODES: tuple[float, ...] = (0.0, *(float(x) for x in np.logspace(-2, 1, 10)))
"""Trade-offs at which a function of its own is learned, in units of 1 / cost scale: quality alone, then three a decade
from where the dearest arm's cost weighs a hundredth of a quality point to where it weighs ten."""


def cost_scale_of(cost_usd: NDArray[np.float64]) -> float:
    """Return the cost scale tau, in USD: the mean cost of the dearest arm; 1 where it is not positive or known."""
    dearest = float(cost_usd.max())
    return dearest if dearest > 0 else 1.0


def check_increasing(name: str, places: Sequence[float]) -> None:
    """Raise InvalidParameterError unless the trade-offs are finite, >= 0, increasing, and there is one."""
    values = np.asarray(places, dtype=np.float64)
    if values.size == 0 or not (np.isfinite(values).all() and values[0] >= 0 and (np.diff(values) > 0).all()):
        raise InvalidParameterError(f"{name} must be finite, >= 0 and increasing; got {tuple(places)}")


class NodePolicy(HeadPolicy):
    """Learns one function of the context at each node of the trade-off, and serves each trade-off by the nearest node.

    Nearest is by the cost weight w = lambda tau / (1 + lambda tau) in [0, 1], tau the cost scale: between nodes that is
    close to nearest in log lambda, and it gives quality alone (w = 0) and cost alone (w = 1, the cheapest arm, which
    needs no function) a place. At a node the policy is the literal one.

    Args:
        nodes: Trade-offs in units of 1 / cost scale, increasing. Without costs only quality counts, and only lambda = 0
            is learned.
        penalties: As in `HeadPolicy`.
        hidden: As in `HeadPolicy`; the nodes then share the hidden layers.
        seed: As in `HeadPolicy`.

    Attributes:
        nodes_: The nodes learned.
    """

    nodes_: tuple[float, ...]

    def __init__(
        self,
        *,
        nodes: Sequence[float] = NODES,
        penalties: Sequence[float] = PENALTIES,
        hidden: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(penalties=penalties, hidden=hidden, seed=seed)
        check_increasing("nodes", nodes)
        self.nodes = tuple(nodes)

    @property
    def cost_scale_usd_(self) -> float:
        """Cost scale tau, in USD: the mean cost of the dearest arm."""
        return cost_scale_of(self.cost_usd_)

    @abstractmethod
    def objective(self, *, gain: PerArm, eligible: Eligible) -> Objective:
        """Return what is minimised at a node, from the pseudo-utility of every arm there."""

    def objectives(self, scores: Scores) -> Sequence[Objective]:
        """Return the objective of every node."""
        cost_scores = scores.cost_scores / self.cost_scale_usd_
        has_cost = bool(np.isfinite(cost_scores).all())
        self.nodes_ = self.nodes if has_cost else (0.0,)
        cost = cost_scores if has_cost else np.zeros_like(cost_scores)
        quality = scores.quality_scores
        return [
            self.objective(
                gain=normalised_utility(quality=quality, cost=cost, cost_weight=node / (1 + node)),
                eligible=scores.eligible,
            )
            for node in self.nodes_
        ]

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return probability one for the eligible arm of highest logit at the nearest node."""
        check_trade_off(trade_off, cost_usd=self.cost_usd_)
        n_arms = len(self.cost_usd_)
        cost_weights = np.array([*(node / (1 + node) for node in self.nodes_), 1.0])
        weight = trade_off.cost_weight(cost_scale_usd=self.cost_scale_usd_)
        nearest = int(np.abs(cost_weights - weight).argmin())
        # Past the last node these are no functions, and no columns: only the shape of the context is checked then.
        logits = self.head_.outputs(context, slice(nearest * n_arms, (nearest + 1) * n_arms))
        cost_usd = np.tile(self.cost_usd_, (len(context), 1))
        if nearest == len(self.nodes_):
            return greedy(-cost_usd, eligible=eligible)
        return greedy(logits, eligible=eligible, cost_usd=cost_usd)

    def options(self) -> State:
        """Return the constructor's arguments, JSON-ready."""
        return {"nodes": list(self.nodes), **super().options()}

    def state(self) -> tuple[State, Arrays]:
        """Return the constructor's arguments, the nodes and the layers."""
        values, arrays = super().state()
        return {**values, "nodes": list(self.nodes_)}, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        policy = super().from_state(values, arrays)
        policy.nodes_ = tuple(values["nodes"])
        return policy


class RMClassification(NodePolicy):
    """RM-Classification: at each node, cross-entropy to argmax_t G_i(t; lambda) over the eligible arms.

    References:
        Tsiourvas, Sun and Perakis (2025), NeurIPS: Causal LLM Routing.
    """

    name = "rm-classification"

    def objective(self, *, gain: PerArm, eligible: Eligible) -> Objective:
        """Return the cross-entropy to the arm of highest pseudo-utility."""
        return CrossEntropy.to_best(gain=gain, eligible=eligible)


class RMSoftmax(NodePolicy):
    """RM-Softmax: at each node, the mean doubly robust regret of the softmax policy.

    mean_i sum_t softmax(f(x_i) / temperature)_t [max_s G_i(s) - G_i(t)]; served by the arg max of f.

    Args:
        temperature: > 0. With a linear f and no penalty it only rescales f; with one, the higher the smoother.
        nodes: As in `NodePolicy`.
        penalties: As in `HeadPolicy`.
        hidden: As in `NodePolicy`.
        seed: As in `HeadPolicy`.

    References:
        Tsiourvas, Sun and Perakis (2025), NeurIPS: Causal LLM Routing.
    """

    name = "rm-softmax"

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        nodes: Sequence[float] = NODES,
        penalties: Sequence[float] = PENALTIES,
        hidden: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(nodes=nodes, penalties=penalties, hidden=hidden, seed=seed)
        check_temperature(temperature)
        self.temperature = temperature

    def objective(self, *, gain: PerArm, eligible: Eligible) -> Objective:
        """Return the regret of the softmax policy."""
        return SoftmaxRegret(gain=gain, eligible=eligible, temperature=self.temperature)

    def options(self) -> State:
        """Return the constructor's arguments, JSON-ready."""
        return {"temperature": self.temperature, **super().options()}


def check_temperature(temperature: float) -> None:
    """Raise InvalidParameterError unless the temperature is finite and positive."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise InvalidParameterError(f"temperature must be finite and > 0; got {temperature}")
