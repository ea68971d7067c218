"""Features of the context, ordered by how much of its variation they carry: what pooled regressions are linear in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.nuisance.batches import batches
from pointsman.types import Arrays, Context

Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Three sets of features of the same rounds, each with mean 0 over the rounds they were fitted on.

    Attributes:
        shared: (n_rounds, n_shared) fine features, for what is common to all arms: principal components of the
            context beside those of a narrow kernel.
        linear: (n_rounds, n_specific) coarse features, for what sets one arm apart: the first principal components.
        smooth: (n_rounds, n_specific) the same from a wide kernel.
    """

    shared: Features
    linear: Features
    smooth: Features


class SpectralMap:
    """Principal components of the context and of two Gaussian kernels of it, each kernel through landmarks.

    k(x, z) = exp(-sharpness |x - z|^2 / D), with D the mean squared distance of two rounds, so that the unit of the
    features drops out. The kernel is approximated by its values at landmark rounds (Nystroem), whitened.

    Args:
        n_linear: Principal components of the context in `Basis.shared`.
        n_kernel: Components of the narrow kernel in `Basis.shared`.
        n_specific: Columns of `Basis.linear` and of `Basis.smooth`.
        n_landmarks: Rounds a kernel is approximated by.
        narrow: Sharpness of the kernel of the shared features.
        wide: Sharpness of the kernel of the smooth features.
        seed: Draws the landmarks.

    References:
        Williams and Seeger (2001), NIPS: the Nystroem approximation.
    """

    def __init__(
        self,
        *,
        n_linear: int = 64,
        n_kernel: int = 128,
        n_specific: int = 32,
        n_landmarks: int = 512,
        narrow: float = 5.0,
        wide: float = 1.75,
        seed: int = 0,
    ) -> None:
        self.n_linear = n_linear
        self.n_kernel = n_kernel
        self.n_specific = n_specific
        self.n_landmarks = n_landmarks
        self.narrow = narrow
        self.wide = wide
        self.seed = seed

    def fit(self, context: Context) -> Self:
        """Find the components from the rounds' contexts; outcomes play no part."""
        n_rounds, n_features = context.shape
        self.center_ = context.mean(axis=0, dtype=np.float64)
        gram = np.zeros((n_features, n_features))
        for rows in batches(np.arange(n_rounds), n_features=n_features):
            x = context[rows].astype(np.float64) - self.center_
            gram += x.T @ x
        covariance = gram / n_rounds
        self.distance_ = max(2 * float(np.trace(covariance)), np.finfo(np.float64).tiny)
        self.axes_ = _components(covariance, at_most=max(self.n_linear, self.n_specific))
        drawn = np.random.default_rng(self.seed).permutation(n_rounds)[: self.n_landmarks]
        self._set_landmarks(context[np.sort(drawn)].astype(np.float64) - self.center_)
        self.narrow_center_, self.narrow_axes_ = self._kernel_components(context, self.narrow, self.n_kernel)
        self.wide_center_, self.wide_axes_ = self._kernel_components(context, self.wide, self.n_specific)
        return self

    def transform(self, context: Context) -> Basis:
        """Return the features of each round."""
        n_rounds, n_features = context.shape
        n_linear = min(self.n_linear, self.axes_.shape[1])
        n_narrow = self.narrow_axes_.shape[1]
        shared = np.empty((n_rounds, n_linear + n_narrow), dtype=np.float32)
        linear = np.empty((n_rounds, min(self.n_specific, self.axes_.shape[1])), dtype=np.float32)
        smooth = np.empty((n_rounds, self.wide_axes_.shape[1]), dtype=np.float32)
        for rows in batches(np.arange(n_rounds), n_features=max(n_features, len(self.landmarks_))):
            x = context[rows].astype(np.float64) - self.center_
            components = x @ self.axes_
            distance = self._distance(x)
            shared[rows, :n_linear] = components[:, :n_linear]
            linear[rows] = components[:, : linear.shape[1]]
            shared[rows, n_linear:] = np.exp(-self.narrow * distance) @ self.narrow_axes_ - self.narrow_center_
            smooth[rows] = np.exp(-self.wide * distance) @ self.wide_axes_ - self.wide_center_
        return Basis(shared=shared, linear=linear, smooth=smooth)

    def state(self) -> Arrays:
        """Return the fitted arrays."""
        return {
            "center": self.center_,
            "distance": np.array([self.distance_]),
            "axes": self.axes_,
            "landmarks": self.landmarks_,
            "narrow_axes": self.narrow_axes_,
            "narrow_center": self.narrow_center_,
            "wide_axes": self.wide_axes_,
            "wide_center": self.wide_center_,
        }

    def restore(self, arrays: Arrays) -> Self:
        """Take the fitted arrays that `state` returned, and return self."""
        self.center_ = arrays["center"]
        self._set_landmarks(arrays["landmarks"])
        self.distance_ = float(arrays["distance"][0])
        self.axes_ = arrays["axes"]
        self.narrow_axes_, self.narrow_center_ = arrays["narrow_axes"], arrays["narrow_center"]
        self.wide_axes_, self.wide_center_ = arrays["wide_axes"], arrays["wide_center"]
        return self

    def _set_landmarks(self, landmarks: NDArray[np.float64]) -> None:
        self.landmarks_ = landmarks
        # Kept, for it would be most of the work on a single prompt.
        self._landmark_norms = (landmarks**2).sum(axis=1)

    def _distance(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squared distances to the landmarks, in units of the mean one."""
        squared = (x**2).sum(axis=1)[:, None] + self._landmark_norms - 2 * (x @ self.landmarks_.T)
        return np.asarray(np.maximum(squared, 0) / self.distance_)

    def _kernel_components(
        self, context: Context, sharpness: float, n_components: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return centre and axes such that exp(-sharpness distance) @ axes - centre are a kernel's components."""
        eigenvalues, vectors = np.linalg.eigh(np.exp(-sharpness * self._distance(self.landmarks_)))
        # Directions that rounding alone keeps from zero would blow up in the whitening.
        kept = eigenvalues > 1e-7 * eigenvalues[-1]
        whiten = vectors[:, kept] / np.sqrt(eigenvalues[kept])
        n_rounds = len(context)
        total, gram = np.zeros(whiten.shape[1]), np.zeros((whiten.shape[1], whiten.shape[1]))
        for rows in batches(np.arange(n_rounds), n_features=max(context.shape[1], len(self.landmarks_))):
            x = np.exp(-sharpness * self._distance(context[rows].astype(np.float64) - self.center_)) @ whiten
            total += x.sum(axis=0)
            gram += x.T @ x
        mean = total / n_rounds
        axes = _components(gram / n_rounds - np.outer(mean, mean), at_most=n_components)
        # Both families of shared features are put on one scale: the first component of each has variance one.
        return mean @ axes, whiten @ axes


def _components(covariance: NDArray[np.float64], *, at_most: int) -> NDArray[np.float64]:
    """Return the leading eigenvectors, scaled so that the first component has variance one, signs made definite."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    order = np.argsort(eigenvalues)[::-1][:at_most]
    kept = order[eigenvalues[order] > 1e-9 * max(eigenvalues[order[0]], np.finfo(np.float64).tiny)]
    if kept.size == 0:  # all contexts are equal: one feature that says nothing
        return np.zeros((len(covariance), 1))
    axes = vectors[:, kept]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return np.asarray(axes / np.sqrt(eigenvalues[kept[0]]))
