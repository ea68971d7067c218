"""Beta-Thompson: the probability of each draw, and types of requests."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.online.baselines.beta import LEARN_TYPES_AT, BetaThompson, best_beta_probabilities
from pointsman.trade_off import TradeOff

N_DRAWS = 100_000


@pytest.mark.parametrize("most", [1.0, 10.0, 300.0])
@pytest.mark.parametrize("n_arms", [2, 5, 11])
def test_probabilities_are_those_of_beta_thompson(n_arms, most, rng):
    """They are the shares of the largest draw, to 0.013: 0.008 of quadrature and 3 errors of 100,000 draws."""
    answers = 0.3 + most * rng.random((n_arms, 2))
    price = 0.3 * rng.random(n_arms)
    eligible = np.ones(n_arms, dtype=bool)
    eligible[0] = n_arms == 2
    found = best_beta_probabilities(answers, price, eligible)
    drawn = np.where(eligible, rng.beta(*answers.T, size=(N_DRAWS, n_arms)) - price, -np.inf)
    shares = np.bincount(drawn.argmax(axis=1), minlength=n_arms) / N_DRAWS
    assert found.sum() == pytest.approx(1)
    assert (found[~eligible] == 0).all()
    assert np.abs(found - shares).max() < 0.008 + 3 * 0.5 / np.sqrt(N_DRAWS)


def test_equal_arms_share_and_a_price_above_one_is_never_paid():
    """Two arms alike have a half each; one that costs more than any success is worth has nothing."""
    alike = np.array([[3.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(best_beta_probabilities(alike, np.zeros(2), np.ones(2, dtype=bool)), 0.5, rtol=1e-12)
    found = best_beta_probabilities(alike, np.array([0.0, 1.5]), np.ones(2, dtype=bool))
    np.testing.assert_array_equal(found, [1, 0])


def test_types_are_learned_once_and_counted_anew(rng):
    """Until then all requests are of one type; then each answer counts for the type of its prompt, none is lost."""
    policy = BetaThompson(n_arms=2, n_features=3, n_types=2)
    kind = rng.integers(2, size=LEARN_TYPES_AT + 40)
    contexts = 0.1 * rng.normal(size=(kind.size, 3)) + 3.0 * kind[:, None]
    for i, x in enumerate(contexts):
        assert len(policy.centers) == (1 if i <= LEARN_TYPES_AT else 2)
        arm = i % 2
        policy.update(x, arm, quality=float(arm == kind[i]), cost_usd=0.1)
    assert policy.answers.sum() - 2 * policy.prior.sum() == pytest.approx(kind.size)
    assert policy.costs[..., 1].sum() == kind.size
    for which in range(2):
        chosen = policy.probabilities(np.full(3, 3.0 * which), TradeOff(0.0), np.ones(2, dtype=bool))
        assert chosen[which] > 0.95


def test_one_type_never_looks_at_the_context(rng):
    """Its probabilities are the same for every prompt."""
    policy = BetaThompson(n_arms=3, n_features=4, n_types=1)
    for i in range(LEARN_TYPES_AT + 10):
        policy.update(rng.normal(size=4), i % 3, quality=float(rng.random() < 0.5))
    everyone = np.ones(3, dtype=bool)
    first, second = (policy.probabilities(rng.normal(size=4), TradeOff(0.0), everyone) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not policy._seen
