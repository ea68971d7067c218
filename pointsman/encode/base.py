"""What an encoder is: prompts in, context out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.types import State


@runtime_checkable
class Encoder(Protocol):
    """Turns prompts into context vectors: deterministic, one row a prompt, independent of the other rows."""

    n_features: int

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return the context of each prompt, (n_prompts, n_features), rows of unit length.

        A prompt in which the encoder finds nothing, such as an empty one, may be all zeros instead: the router then
        falls back on what it knows of the arms alone.
        """

    def describe(self) -> State:
        """Return JSON-ready `{"kind", "fingerprint", ...}`: all that `encode.load` needs to rebuild this encoder.

        `fingerprint` changes whenever the vectors could: it keys the cache and is checked when a router is loaded.
        """


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the prompts as a list.

    Raises:
        InvalidParameterError: One string was given for a list of them, or an entry is not a string.
    """
    if isinstance(prompts, str):
        raise InvalidParameterError("prompts must be a list of strings; got one string: give [prompt]")
    checked = list(prompts)
    for i, prompt in enumerate(checked):
        if not isinstance(prompt, str):
            raise InvalidParameterError(f"prompts must be strings; prompts[{i}] is {type(prompt).__name__}")
    return checked


def fingerprint(**parts: str | int | None) -> str:
    """Return a hash, in hex, of all that decides an encoder's vectors."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def unit_rows(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the rows divided by their length, each by itself; a row of zeros stays as it is."""
    units = np.zeros(rows.shape, dtype=np.float32)
    for unit, row in zip(units, rows.astype(np.float64), strict=True):
        length = math.sqrt(row @ row)
        if length > 0:
            unit[:] = row / length
    return units
