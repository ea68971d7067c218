"""Policies: what chooses an arm.

Methods by name; a method's module is imported when it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.policies.base import Policy
from pointsman.types import Arrays, State

__all__ = ["METHODS", "Policy", "from_state", "make"]

_CLASSES = {
    "always": ("fixed", "Always"),
    "auto": ("auto", "Auto"),
    "best-single": ("fixed", "BestSingle"),
    "clone": ("clone", "Clone"),
    "direct": ("direct", "Direct"),
    "dr": ("direct", "DoublyRobust"),
    "knn": ("knn", "NearestNeighbour"),
    "rm-classification": ("regret", "RMClassification"),
    "rm-interval": ("interval", "RMInterval"),
    "rm-softmax": ("regret", "RMSoftmax"),
    "uniform": ("fixed", "Uniform"),
}


class _Methods(Mapping[str, type[Policy]]):
    def __getitem__(self, name: str) -> type[Policy]:
        module, cls = _CLASSES[name]
        policy: type[Policy] = getattr(import_module(f"pointsman.policies.{module}"), cls)
        return policy

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


METHODS: Mapping[str, type[Policy]] = _Methods()
"""Every method by its name on the command line and in manifests."""


def make(name: str, *, seed: int = 0, **options: Any) -> Policy:
    """Return an unfitted policy.

    Args:
        name: A key of `METHODS`.
        seed: Given to the methods that draw something; the others have no use for it.
        options: The method's own constructor arguments.

    Raises:
        InvalidParameterError: There is no such method, or it has no such option or lacks one.
    """
    if name not in METHODS:
        raise InvalidParameterError(f"method must be one of {list(METHODS)}; got {name!r}")
    method = METHODS[name]
    accepted = inspect.signature(method).parameters
    if "seed" in accepted:
        options["seed"] = seed
    required = {option for option, rule in accepted.items() if rule.default is inspect.Parameter.empty}
    if not required <= options.keys() <= accepted.keys():
        raise InvalidParameterError(
            f"options of {name!r} must be among {sorted(accepted)}, with all of {sorted(required)}; "
            f"got {sorted(options)}"
        )
    return method(**options)


def from_state(name: str, values: State, arrays: Arrays) -> Policy:
    """Return the fitted policy that `Policy.state` described.

    Raises:
        InvalidRouterError: There is no such method, or the state is not one it wrote.
    """
    if name not in METHODS:
        raise InvalidRouterError(f"method must be one of {list(METHODS)}; got {name!r}: written by another version?")
    try:
        return METHODS[name].from_state(values, arrays)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as broken:
        raise InvalidRouterError(f"the state of {name!r} is incomplete or not its own: {broken!r}") from broken
