"""The objectives' analytic gradients and identities."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.policies.objectives import (
    CrossEntropy,
    Interpolated,
    Objective,
    SoftmaxRegret,
    interpolate,
    normalised_utility,
    softmax,
)
from pointsman.trade_off import TradeOff

N_ROUNDS, N_ARMS = 20, 4


def eligible_arms(rng: np.random.Generator) -> np.ndarray:
    """Return a random mask with an arm in every row."""
    eligible = rng.random((N_ROUNDS, N_ARMS)) < 0.7
    eligible[:, 0] = True
    return eligible


def softmax_regret(rng: np.random.Generator) -> SoftmaxRegret:
    """Return a random softmax regret."""
    return SoftmaxRegret(
        gain=rng.standard_normal((N_ROUNDS, N_ARMS)), eligible=eligible_arms(rng), temperature=rng.uniform(0.5, 2)
    )


def cross_entropy(rng: np.random.Generator) -> CrossEntropy:
    """Return a random cross-entropy."""
    return CrossEntropy.to_best(gain=rng.standard_normal((N_ROUNDS, N_ARMS)), eligible=eligible_arms(rng))


def interpolated(rng: np.random.Generator) -> Interpolated:
    """Return a random interpolated regret of two draws."""
    return Interpolated(draws=tuple((rng.random(N_ROUNDS), softmax_regret(rng)) for _ in range(2)))


@pytest.mark.parametrize("objective_of", [softmax_regret, cross_entropy, interpolated])
def test_the_gradient_is_that_of_the_loss(objective_of: object, rng: np.random.Generator, seed: int) -> None:
    """Central differences agree to their own error: step^2 of truncation plus machine eps / step of rounding."""
    objective: Objective = objective_of(rng)  # type: ignore[operator]
    outputs = rng.standard_normal((N_ROUNDS, objective.n_outputs))
    gradient = objective.loss(outputs)[1]
    step = 1e-5
    for index in np.ndindex(outputs.shape):
        moved = outputs.copy()
        moved[index] += step
        up = objective.loss(moved)[0]
        moved[index] -= 2 * step
        slope = (up - objective.loss(moved)[0]) / (2 * step)
        assert abs(slope - gradient[index]) <= 10 * (step**2 + np.finfo(float).eps / step)


def test_softmax_regret_is_the_best_minus_the_doubly_robust_value(rng: np.random.Generator, seed: int) -> None:
    """Loss + DR value of the softmax policy = mean best score, whatever the logits: their gradients are opposite."""
    objective = softmax_regret(rng)
    best = np.where(objective.eligible, objective.gain, -np.inf).max(axis=1).mean()
    outputs = rng.standard_normal((N_ROUNDS, N_ARMS))
    policy = softmax(outputs / objective.temperature, eligible=objective.eligible)
    assert objective.loss(outputs)[0] + (policy * objective.gain).sum(axis=1).mean() == pytest.approx(best, abs=1e-12)
    # The value's gradient by the softmax's Jacobian, p_t (G_t - sum_s p_s G_s) / temperature.
    mean = (policy * objective.gain).sum(axis=1, keepdims=True)
    value_gradient = policy * (objective.gain - mean) / objective.temperature / N_ROUNDS
    np.testing.assert_allclose(objective.loss(outputs)[1], -value_gradient, atol=1e-14)


def test_a_cold_softmax_has_the_regret_of_the_arg_max(rng: np.random.Generator, seed: int) -> None:
    """At temperature towards 0 the loss is the regret of choosing the highest eligible logit."""
    warm = softmax_regret(rng)
    cold = SoftmaxRegret(gain=warm.gain, eligible=warm.eligible, temperature=1e-9)
    outputs = rng.standard_normal((N_ROUNDS, N_ARMS))
    best = np.where(cold.eligible, cold.gain, -np.inf).max(axis=1).mean()
    assert cold.loss(outputs)[0] == pytest.approx(best - cold.value(outputs), abs=1e-12)


def test_an_ineligible_arm_is_neither_chosen_nor_aimed_at(rng: np.random.Generator) -> None:
    """However high its score or its logit, an arm that could not be chosen moves nothing."""
    eligible = np.tile([True, True, False], (5, 1))
    gain = np.tile([0.2, 0.7, 100.0], (5, 1))
    outputs = np.tile([0.0, 0.0, 50.0], (5, 1))
    regret = SoftmaxRegret(gain=gain, eligible=eligible)
    assert regret.loss(outputs)[0] == pytest.approx(0.25)
    assert (regret.loss(outputs)[1][:, 2] == 0).all()
    entropy = CrossEntropy.to_best(gain=gain, eligible=eligible)
    assert (entropy.label == 1).all()
    assert (entropy.loss(outputs)[1][:, 2] == 0).all()


def test_interpolation_is_exact_at_the_ends_and_linear_between(rng: np.random.Generator) -> None:
    """Place 0 gives the lower function, 1 the upper, and s their mean with weights 1 - s and s."""
    outputs = rng.standard_normal((N_ROUNDS, 2 * N_ARMS))
    lower, upper = outputs[:, :N_ARMS], outputs[:, N_ARMS:]
    np.testing.assert_array_equal(interpolate(outputs, place=0), lower)
    np.testing.assert_array_equal(interpolate(outputs, place=1), upper)
    np.testing.assert_allclose(interpolate(outputs, place=0.3), 0.7 * lower + 0.3 * upper, rtol=1e-14)


@pytest.mark.parametrize("quality_per_usd", [0.0, 3.0, 1e6])
def test_normalised_utility_is_utility_on_one_scale(quality_per_usd: float, rng: np.random.Generator) -> None:
    """It is (quality - lambda cost) / (1 + lambda tau), so no arg max changes."""
    quality, cost_usd = rng.random((2, N_ROUNDS, N_ARMS))
    scale = 0.7
    trade_off = TradeOff(quality_per_usd)
    weight = trade_off.cost_weight(cost_scale_usd=scale)
    np.testing.assert_allclose(
        normalised_utility(quality=quality, cost=cost_usd / scale, cost_weight=weight),
        trade_off.utility(quality=quality, cost_usd=cost_usd) / (1 + quality_per_usd * scale),
        atol=1e-14,
    )
