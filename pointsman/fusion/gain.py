"""What a two-model router gains over random routing at every share of traffic to the strong model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.types import PerRound

AREA_SHARES = (0.2, 0.8)
"""Shares between which the area is taken: at the ends every router is all but random."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GainCurve:
    """Efficiency gain at every share of traffic to the strong model; linear between the points.

    Attributes:
        share: (n_prompts + 1,) 0, 1 / n, ..., 1.
        gain: (n_prompts + 1,) in quality points a prompt; 0 at both ends.
    """

    share: NDArray[np.float64]
    gain: NDArray[np.float64]

    @property
    def largest(self) -> float:
        """The largest gain, in quality points a prompt."""
        return float(self.gain.max())

    def at(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gain at shares in [0, 1]; between two points one prompt is sent either way by chance."""
        return np.interp(share, self.share, self.gain)

    def area(self, low: float = AREA_SHARES[0], high: float = AREA_SHARES[1]) -> float:
        """Return the integral of the gain over shares from low to high.

        Raises:
            InvalidParameterError: Not 0 <= low < high <= 1.
        """
        if not 0 <= low < high <= 1:
            raise InvalidParameterError(f"low and high must satisfy 0 <= low < high <= 1; got {low} and {high}")
        inside = self.share[(self.share > low) & (self.share < high)]
        corners = np.concatenate([[low], inside, [high]])
        return float(np.trapezoid(self.at(corners), corners))


def efficiency_gain(*, predicted: PerRound, gain: PerRound) -> GainCurve:
    """Return the efficiency-gain curve of sending the prompts of largest predicted gain to the strong model.

        gain(k / n) = (1 / n) sum_{i among the k of largest prediction} g_i  -  (k / n) mean_i g_i

    with g the gold gain of strong over weak: what is won over sending k prompts drawn at random. Prompts of equal
    prediction are taken in random order, and the curve is the expectation over it: each counts as their mean. So the
    order of rows plays no part, and a constant prediction gains exactly nothing.

    Args:
        predicted: (n_prompts,) predicted gain, in any unit.
        gain: (n_prompts,) gold label of the strong model minus that of the weak one.

    Raises:
        InvalidParameterError: There is no prompt, the shapes differ, or a number is not finite.

    References:
        Zhang, Xie, Yang and Wu (2026), ICLR, arXiv 2509.25535: the curve; the treatment of ties is ours.
    """
    if predicted.ndim != 1 or predicted.size == 0 or predicted.shape != gain.shape:
        raise InvalidParameterError(
            f"predicted and gain must hold one number a prompt each; got shapes {predicted.shape} and {gain.shape}"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(gain).all()):
        raise InvalidParameterError("predicted and gain must be finite; got NaN or infinity; leave those prompts out")
    _, rank, n_tied = np.unique(-predicted, return_inverse=True, return_counts=True)
    above_random = np.bincount(rank, weights=gain - gain.mean()) / n_tied
    curve = np.concatenate([[0.0], np.cumsum(np.repeat(above_random, n_tied))]) / gain.size
    curve[-1] = 0.0  # but for rounding
    return GainCurve(share=np.arange(gain.size + 1) / gain.size, gain=curve)
