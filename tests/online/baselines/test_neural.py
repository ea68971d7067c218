"""Neural-linear learns features that no linear bandit has."""

from __future__ import annotations

import numpy as np

from pointsman.online.baselines import LinThompson, NeuralLinear
from pointsman.online.baselines.neural import FIRST_TRAINING
from pointsman.trade_off import TradeOff

ALL = np.ones(2, dtype=bool)


def expected(x: np.ndarray) -> np.ndarray:
    """Arm 0 is good where both features have one sign, arm 1 where they differ: 0.9 against 0.1."""
    good = 0.5 + 0.4 * np.sign(x[0] * x[1])
    return np.array([good, 1 - good])


def worth(policy, rng, *, n_rounds: int) -> float:
    """Mean expected quality of what it chooses, after so many answers of arms drawn evenly."""
    for _ in range(n_rounds):
        x, arm = rng.normal(size=2), int(rng.integers(2))
        policy.update(x, arm, quality=float(rng.random() < expected(x)[arm]))
    prompts = rng.normal(size=(200, 2))
    return float(np.mean([policy.probabilities(x, TradeOff(0.0), ALL) @ expected(x) for x in prompts]))


def test_it_learns_what_is_not_linear(rng):
    """Where the best arm depends on a product of features it has over 0.75 of 0.9; a linear bandit about 0.5."""
    assert worth(NeuralLinear(n_arms=2, n_features=2), rng, n_rounds=900) > 0.75
    assert worth(LinThompson(n_arms=2, n_features=2), rng, n_rounds=900) < 0.6


def test_without_anything_to_learn_its_features_stay_random(rng):
    """Answers that are all alike move the weights by less than a fifth: drawn towards zero, nothing would be left."""
    policy = NeuralLinear(n_arms=2, n_features=2)
    before = policy.weights.copy()
    for _ in range(FIRST_TRAINING + 1):
        policy.update(rng.normal(size=2), int(rng.integers(2)), quality=0.5, cost_usd=0.1)
    assert policy.n_trained
    assert np.linalg.norm(policy.weights - before) < 0.2 * np.linalg.norm(before)


def test_training_follows_the_gradient_of_the_loss(rng):
    """After training the fit to the answers is better than before, and training anew hardly moves it."""
    policy = NeuralLinear(n_arms=2, n_features=2)
    worth(policy, rng, n_rounds=FIRST_TRAINING + 1)
    assert policy.n_trained == FIRST_TRAINING
    assert np.abs(policy.outputs).max() > 0.01
    for _ in range(20):
        policy._train()
    before = policy.weights.copy()
    policy._train()
    assert np.abs(policy.weights - before).max() < 0.05


def test_what_it_remembers_is_bounded(rng):
    """No more answers are kept than is said, the latest; it is trained when they have grown by a share."""
    policy = NeuralLinear(n_arms=2, n_features=2, n_remembered=200, growth=0.5)
    trained = set()
    for i in range(600):
        policy.update(np.array([i, 1.0]), 0, quality=0.5, cost_usd=0.1)
        trained.add(policy.n_trained)
    assert len(policy._remembered) == 200
    assert policy._remembered[0][0][0] == 400
    assert sorted(trained) == [0, 128, 192, 288, 432]


def test_costs_teach_its_features_too(rng):
    """An arm dear where features have one sign and cheap where they differ is chosen there alone."""
    policy = NeuralLinear(n_arms=2, n_features=2)
    for _ in range(900):
        x, arm = rng.normal(size=2), int(rng.integers(2))
        policy.update(x, arm, quality=0.5, cost_usd=0.5 if arm else 1.0 if x[0] * x[1] > 0 else 0.1)
    dear, cheap = (policy.probabilities(np.array([1.0, side]), TradeOff(2.0), ALL)[0] for side in (1.0, -1.0))
    assert cheap > 0.9
    assert dear < 0.1
