"""Leading components of the context, learned from the first prompts and then kept."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.types import Arrays, Context

LEARN_AT = (32, 128, 512, 2048)
"""Prompts after which components are learned anew from all of them: four times, then they stay."""


class Components:
    """Principal components of the context, the first of variance one, at most `n_components`.

    Until enough prompts were seen they are learned anew at `LEARN_AT`; whoever uses them then has to learn its own
    coefficients anew, too (`version` tells).

    Args:
        n_features: Of the context.
        n_components: Of them kept.

    Attributes:
        center: (n_features,) mean of the context.
        axes: (n_features, n_components); all zero before the first are learned.
        variance: (n_components,) of each component, relative to the first; zero where there are fewer.
        version: How many times they were learned.
    """

    def __init__(self, *, n_features: int, n_components: int) -> None:
        self.n_components = min(n_components, n_features)
        self.center = np.zeros(n_features)
        self.axes = np.zeros((n_features, self.n_components))
        self.variance = np.zeros(self.n_components)
        self.version = 0

    @classmethod
    def of(cls, context: Context, *, n_components: int) -> Self:
        """Return the components of these contexts, for good."""
        components = cls(n_features=context.shape[1], n_components=n_components)
        components.learn(context)
        components.version = len(LEARN_AT)
        return components

    @property
    def is_settled(self) -> bool:
        """Whether they are never learned anew."""
        return self.version >= len(LEARN_AT)

    def learn(self, context: Context) -> None:
        """Learn the components from these contexts."""
        x = np.asarray(context, dtype=np.float64)
        self.center = x.mean(axis=0)
        variance, axes = np.linalg.eigh(np.cov(x, rowvar=False, bias=True).reshape(x.shape[1], -1))
        order = np.argsort(variance)[::-1][: self.n_components]
        kept = order[variance[order] > 1e-9 * max(float(variance.max()), np.finfo(np.float64).tiny)]
        leading = axes[:, kept]
        # Signs are arbitrary; made definite, the same prompts give the same components on any machine.
        leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(kept.size)])
        self.axes = np.zeros((x.shape[1], self.n_components))
        largest = max(float(variance.max()), np.finfo(np.float64).tiny)
        self.axes[:, : kept.size] = leading / np.sqrt(largest)
        self.variance = np.zeros(self.n_components)
        self.variance[: kept.size] = variance[kept] / largest
        self.version += 1

    def __call__(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the components of one context, or of many."""
        return np.asarray((context - self.center) @ self.axes)

    def state(self) -> Arrays:
        """Return all that `from_state` needs."""
        return {
            "center": self.center,
            "axes": self.axes,
            "variance": self.variance,
            "version": np.array([self.version]),
        }

    @classmethod
    def from_state(cls, arrays: Arrays) -> Self:
        """Return the components that `state` described."""
        components = cls(n_features=arrays["axes"].shape[0], n_components=arrays["axes"].shape[1])
        components.center, components.axes, components.variance = arrays["center"], arrays["axes"], arrays["variance"]
        components.version = int(arrays["version"][0])
        return components
