"""Baselines: the bandits that others use for routing, made as well as they can be and with exact propensities."""

from __future__ import annotations

from pointsman.online.base import OnlinePolicy
from pointsman.online.baselines.beta import BetaThompson
from pointsman.online.baselines.linear import EpsilonGreedy, LinThompson, LinUCB
from pointsman.online.baselines.neural import NeuralLinear

BASELINES: dict[str, type[OnlinePolicy]] = {
    policy.name: policy for policy in (EpsilonGreedy, LinUCB, LinThompson, NeuralLinear, BetaThompson)
}
"""The baselines by name; each takes `n_arms`, `n_features` and options of its own."""

__all__ = ["BASELINES", "BetaThompson", "EpsilonGreedy", "LinThompson", "LinUCB", "NeuralLinear"]
