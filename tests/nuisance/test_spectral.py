"""Features ordered by how much of the context's variation they carry."""

from __future__ import annotations

import numpy as np

from pointsman.nuisance.spectral import SpectralMap


def contexts(rng, n_rounds=400, n_features=12):
    """Unit rows whose first directions vary most."""
    x = rng.standard_normal((n_rounds, n_features)) * np.arange(n_features, 0, -1)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_components_are_centred_uncorrelated_and_ordered(rng):
    """Every family has mean 0, no correlation, and variances that fall from 1."""
    x = contexts(rng)
    basis = SpectralMap(n_linear=8, n_kernel=16, n_specific=6, n_landmarks=100).fit(x).transform(x)
    for features in (basis.shared[:, :8], basis.shared[:, 8:], basis.linear, basis.smooth):
        features = features.astype(np.float64)
        # The features are float32: their sums of 400 terms are exact to about 400 * 6e-8.
        np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
        covariance = features.T @ features / len(x)
        np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-4)
        assert abs(covariance[0, 0] - 1) < 1e-4
        assert (np.diff(np.diag(covariance)) < 1e-6).all()


def test_with_every_round_a_landmark_the_kernel_is_exact(rng):
    """With all rounds as landmarks the components' Gram matrix is the centred kernel itself, up to scale."""
    x = contexts(rng, n_rounds=60, n_features=5)
    fitted = SpectralMap(n_kernel=60, n_specific=60, n_landmarks=60, wide=2.0).fit(x)
    features = fitted.transform(x).smooth.astype(np.float64)
    squared = ((x[:, None, :].astype(np.float64) - x) ** 2).sum(axis=2)
    kernel = np.exp(-2.0 * squared / (2 * x.astype(np.float64).var(axis=0).sum()))
    center = np.eye(60) - 1 / 60
    centred = center @ kernel @ center
    largest = np.linalg.eigvalsh(centred)[-1]
    # Directions under 1e-7 of the largest are left out, and the features are float32.
    np.testing.assert_allclose(features @ features.T, centred * 60 / largest, atol=60 * 1e-4)


def test_one_prompt_alone_has_the_features_it_has_among_others(rng):
    """Rows do not depend on each other."""
    x = contexts(rng)
    fitted = SpectralMap(n_landmarks=100).fit(x)
    together, alone = fitted.transform(x[:5]), fitted.transform(x[2:3])
    np.testing.assert_allclose(alone.shared[0], together.shared[2], atol=1e-5)
    np.testing.assert_allclose(alone.smooth[0], together.smooth[2], atol=1e-5)


def test_equal_contexts_give_features_that_say_nothing():
    """A log whose prompts are all the same is no error."""
    basis = SpectralMap().fit(np.ones((10, 4), dtype=np.float32)).transform(np.ones((3, 4), dtype=np.float32))
    for features in (basis.shared, basis.linear, basis.smooth):
        assert np.isfinite(features).all()
        np.testing.assert_allclose(features, 0, atol=1e-6)


def test_the_state_is_enough_to_transform(rng):
    """A restored map gives the same bits."""
    x = contexts(rng)
    fitted = SpectralMap(n_landmarks=50).fit(x)
    restored = SpectralMap(n_landmarks=50).restore(fitted.state())
    np.testing.assert_array_equal(fitted.transform(x).shared, restored.transform(x).shared)
    np.testing.assert_array_equal(fitted.transform(x).linear, restored.transform(x).linear)
