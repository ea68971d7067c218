"""Arms: the models a router can choose among. Files, HTTP and the command line call them models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.types import ArmIndex


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model.

    Attributes:
        name: The model's name, as logs and clients write it.
        cost_factor: Price today over the price in the training log; a price change is this one number.
        is_retired: Whether it is chosen no more; what was learned of it is kept.
    """

    name: str
    cost_factor: float = 1.0
    is_retired: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidParameterError("an arm's name must not be empty; got ''")
        if not (np.isfinite(self.cost_factor) and self.cost_factor >= 0):
            raise InvalidParameterError(f"cost_factor of {self.name!r} must be finite and >= 0; got {self.cost_factor}")


@dataclass(frozen=True)
class ArmSet:
    """An ordered set of arms; an arm's place is its column in every per-arm array."""

    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names:
            raise InvalidParameterError("an arm set must hold at least one arm; got none")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if all(arm.is_retired for arm in self.arms):
            raise InvalidParameterError("an arm set must hold at least one arm that is not retired; got none")
        if repeated:
            raise InvalidParameterError(f"arm names must be unique; got {repeated} more than once")

    @classmethod
    def named(cls, names: Iterable[str]) -> ArmSet:
        """Return the arms of these names, in sorted order, so that the order of a file does not matter."""
        return cls(tuple(Arm(name=name) for name in sorted(set(names))))

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in column order."""
        return tuple(arm.name for arm in self.arms)

    @property
    def cost_factors(self) -> np.ndarray:
        """(n_arms,) price today over the price in the training log."""
        return np.array([arm.cost_factor for arm in self.arms])

    @property
    def in_service(self) -> np.ndarray:
        """(n_arms,) whether an arm may be chosen."""
        return np.array([not arm.is_retired for arm in self.arms])

    def __len__(self) -> int:
        return len(self.arms)

    def __iter__(self) -> Iterator[Arm]:
        return iter(self.arms)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def index(self, name: str) -> int:
        """Return the column of one arm.

        Raises:
            InvalidParameterError: No arm has that name.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise InvalidParameterError(f"model must be one of {list(self.names)}; got {name!r}") from None

    def indices(self, names: Iterable[str]) -> ArmIndex:
        """Return the columns of many arms, as `index` does for one."""
        column = {name: i for i, name in enumerate(self.names)}
        try:
            return np.array([column[name] for name in names], dtype=np.int64)
        except KeyError as unknown:
            raise InvalidParameterError(f"model must be one of {list(self.names)}; got {unknown.args[0]!r}") from None
