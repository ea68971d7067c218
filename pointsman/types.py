"""Array types, named for what one entry stands for."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

PerRound: TypeAlias = NDArray[np.float64]
"""(n_rounds,) one number a round."""

PerArm: TypeAlias = NDArray[np.float64]
"""(n_rounds, n_arms) one number for every arm in every round."""

ArmIndex: TypeAlias = NDArray[np.int64]
"""(n_rounds,) index of the logged arm."""

Eligible: TypeAlias = NDArray[np.bool_]
"""(n_rounds, n_arms) whether an arm could have been chosen in a round."""

Context: TypeAlias = NDArray[np.floating[Any]]
"""(n_rounds, n_features) what the router sees of each prompt."""

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Named arrays: the numeric half of anything saved."""

State: TypeAlias = dict[str, Any]
"""JSON-ready values: the other half."""


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays of a part under its name, to be saved with those of others."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def under(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays of the part of that name, as `prefixed` took them."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
