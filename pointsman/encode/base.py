"""What an encoder is: prompts in, context out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pointsman.types import State


@runtime_checkable
class Encoder(Protocol):
    """Turns prompts into context vectors: deterministic, one row a prompt, independent of the other rows."""

    n_features: int

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return the context of each prompt, (n_prompts, n_features), rows of unit length."""

    def describe(self) -> State:
        """Return JSON-ready `{"kind", "fingerprint", ...}`: all that `encode.load` needs to rebuild this encoder.

        `fingerprint` changes whenever the vectors could: it keys the cache and is checked when a router is loaded.
        """
