"""Online: policies that learn from each answer they gave, and know the propensity of each choice.

Policies by name; a policy's module is imported when it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from pointsman.errors import InvalidParameterError
from pointsman.online.base import OnlinePolicy

__all__ = ["ONLINE_POLICIES", "OnlinePolicy", "policy"]

_CLASSES = {
    "pooled-thompson": ("bandit", "PooledThompson"),
    "barp": ("barp", "BaRP"),
    "beta-thompson": ("baselines", "BetaThompson"),
    "epsilon-greedy": ("baselines", "EpsilonGreedy"),
    "lin-thompson": ("baselines", "LinThompson"),
    "lin-ucb": ("baselines", "LinUCB"),
    "neural-linear": ("baselines", "NeuralLinear"),
}


class _Policies(Mapping[str, type[OnlinePolicy]]):
    def __getitem__(self, name: str) -> type[OnlinePolicy]:
        module, cls = _CLASSES[name]
        found: type[OnlinePolicy] = getattr(import_module(f"pointsman.online.{module}"), cls)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


ONLINE_POLICIES: Mapping[str, type[OnlinePolicy]] = _Policies()
"""Every online policy by its name on the command line, the default first."""


def policy(name: str, *, n_arms: int, n_features: int, seed: int = 0, **options: Any) -> OnlinePolicy:
    """Return an online policy that has learned nothing yet.

    Args:
        name: A key of `ONLINE_POLICIES`.
        n_arms: Number of arms.
        n_features: Of the context.
        seed: Given to the policies that draw something beside their choices; the others have no use for it.
        options: The policy's own constructor arguments.

    Raises:
        InvalidParameterError: There is no such policy, it has no such option, or an option breaks its rule.
    """
    if name not in ONLINE_POLICIES:
        raise InvalidParameterError(f"policy must be one of {list(ONLINE_POLICIES)}; got {name!r}")
    found = ONLINE_POLICIES[name]
    accepted = inspect.signature(found).parameters
    if "seed" in accepted:
        options["seed"] = seed
    if unknown := sorted(options.keys() - accepted.keys()):
        known = sorted(accepted.keys() - {"n_arms", "n_features", "seed"})
        raise InvalidParameterError(f"options of {name!r} must be among {known}; got {unknown}")
    try:
        return found(n_arms=n_arms, n_features=n_features, **options)  # type: ignore[call-arg]  # as all are made
    except TypeError as wrong:
        raise InvalidParameterError(f"options of {name!r} must be of their type; got {options}: {wrong}") from wrong
