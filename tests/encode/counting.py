"""An encoder that counts what it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import check_prompts, unit_rows
from pointsman.types import State


class CountingEncoder:
    """Vectors drawn from the text's hash; remembers what it was asked for."""

    def __init__(self, *, n_features: int = 8, name: str = "counting") -> None:
        self.n_features = n_features
        self.name = name
        self.asked: list[str] = []

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit rows that depend on each text and nothing else."""
        self.asked.extend(check_prompts(prompts))
        seeds = [hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest() for prompt in prompts]
        rows = [np.random.default_rng(list(seed)).normal(size=self.n_features) for seed in seeds]
        return unit_rows(np.array(rows).reshape(len(rows), self.n_features))

    def describe(self) -> State:
        """Return a description whose fingerprint is the name."""
        return {"kind": "counting", "fingerprint": self.name}
