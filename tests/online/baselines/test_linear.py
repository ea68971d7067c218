"""How the linear baselines choose from what they believe."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.online.baselines.linear import EpsilonGreedy, LinThompson, LinUCB, largest_probabilities
from pointsman.online.draw import best_probabilities
from pointsman.online.features import LEARN_AT, Components

MEAN, DEVIATION = np.array([0.5, 0.6, 0.55]), np.array([0.1, 0.01, 0.5])
ALL = np.ones(3, dtype=bool)


def test_epsilon_fades_to_the_floor(rng):
    """After n answers an arm is drawn by chance with probability K exploration / n, and with the floor at least."""
    policy = EpsilonGreedy(n_arms=3, n_features=2, exploration=2.0, floor=0.03)
    np.testing.assert_allclose(policy.choose(MEAN, DEVIATION, ALL), 1 / 3)
    for n, epsilon in ((60, 0.1), (1_000, 0.03)):
        while policy.heads.quality[0].n_updates < n:
            policy.update(rng.normal(size=2), 0, quality=0.5)
        by_chance = epsilon / 3
        np.testing.assert_allclose(policy.choose(MEAN, DEVIATION, ALL), [by_chance, 1 - 2 * by_chance, by_chance])


def test_lin_ucb_takes_the_highest_bound():
    """The doubtful arm where exploration counts doubt, the best mean where it does not, each above the floor."""
    for exploration, chosen in ((1.0, 2), (0.0, 1)):
        policy = LinUCB(n_arms=3, n_features=2, exploration=exploration, floor=0.03)
        expected = np.full(3, 0.01)
        expected[chosen] = 0.98
        np.testing.assert_allclose(policy.choose(MEAN, DEVIATION, ALL), expected)


def test_lin_thompson_draws_by_the_share_of_its_posterior():
    """Thompson's probabilities at a deviation times `exploration`, above the floor."""
    policy = LinThompson(n_arms=3, n_features=2, exploration=0.5, floor=0.3)
    expected = 0.7 * best_probabilities(MEAN, 0.5 * DEVIATION, ALL) + 0.1
    np.testing.assert_allclose(policy.choose(MEAN, DEVIATION, ALL), expected)


def test_ties_share():
    """The largest scores share what is drawn; what is not eligible has nothing, however large."""
    found = largest_probabilities(np.array([0.4, 0.7, 0.7, 0.9]), np.array([True, True, True, False]))
    np.testing.assert_array_equal(found, [0, 0.5, 0.5, 0])


@pytest.mark.parametrize("n_components", [3, None])
def test_components_learned_on_the_way_are_as_if_known_before(n_components, rng):
    """When they are settled, what was learned is what a policy with these components learns from the same answers."""
    n = LEARN_AT[-1] + 200
    contexts, arm = rng.normal(size=(n, 5)) * np.array([3, 2, 1, 0.5, 0.2]), rng.integers(2, size=n)
    quality, cost_usd = rng.random(n), rng.exponential(0.01, size=n)
    learning = LinUCB(n_arms=2, n_features=5, n_components=n_components)
    for i in range(n):
        learning.update(contexts[i], int(arm[i]), quality=quality[i], cost_usd=cost_usd[i])
    assert learning.components.is_settled
    assert learning.components.n_components == (n_components or 5)
    assert not learning._seen
    known = LinUCB(n_arms=2, n_features=5, components=Components.from_state(learning.components.state()))
    for i in range(n):
        known.update(contexts[i], int(arm[i]), quality=quality[i], cost_usd=cost_usd[i])
    for one, other in zip(
        learning.heads.quality + learning.heads.cost, known.heads.quality + known.heads.cost, strict=True
    ):
        np.testing.assert_allclose(one.mean, other.mean, atol=1e-8)
        np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-10)
