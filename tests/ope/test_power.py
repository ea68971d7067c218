"""Rounds and exploration needed to tell two policies apart."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import FALSE_FAILURE_Z, FiniteWorld

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimators import dr
from pointsman.ope.power import contrast_noise, detectable_effect, rounds_needed


def noise_of(world, log, *, target, baseline, predicted):
    """Return the noise of target minus baseline on a log of a finite world."""
    return contrast_noise(
        arm=log.arm,
        outcome=log.outcome,
        propensity=log.propensity,
        eligible=np.ones(log.propensities.shape, dtype=bool),
        predicted=predicted[log.state],
        target_probs=target[log.state],
        baseline_probs=baseline[log.state],
    )


@pytest.fixture
def world(rng):
    """A confounded world of few prompts."""
    return FiniteWorld.random(n_states=6, n_arms=3, least_propensity=0.05, rng=rng)


@pytest.fixture
def policies(rng):
    """A target, a baseline and rough predictions."""
    return rng.dirichlet(np.ones(3), 6), rng.dirichlet(np.ones(3), 6), rng.uniform(0.3, 0.7, (6, 3))


def test_without_more_exploration_the_deviation_is_that_of_the_influence(seed, world, policies, rng):
    """The two parts add up to what this log shows."""
    target, baseline, predicted = policies
    log = world.draw(2_000, rng=rng)

    noise = noise_of(world, log, target=target, baseline=baseline, predicted=predicted)
    parts = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "predicted": predicted[log.state]}
    difference = dr(**parts, target_probs=target[log.state]) - dr(**parts, target_probs=baseline[log.state])

    np.testing.assert_allclose(noise.influence, difference.influence, atol=1e-9)
    assert noise.standard_deviation() == pytest.approx(difference.influence.std(ddof=1))


def test_the_deviation_under_exploration_is_that_of_a_log_drawn_so(seed, world, policies, rng):
    """What one log says of another logging policy agrees with a log of that policy."""
    target, baseline, predicted = policies
    n_rounds, exploration = 40_000, 0.4
    log = world.draw(n_rounds, rng=rng)
    other = FiniteWorld(
        frequency=world.frequency,
        mean=world.mean,
        propensities=(1 - exploration) * world.propensities + exploration / 3,
    )
    explored = other.draw(n_rounds, rng=rng)

    told = noise_of(world, log, target=target, baseline=baseline, predicted=predicted)
    seen = noise_of(other, explored, target=target, baseline=baseline, predicted=predicted)

    # Both variances are means over rounds; the standard error of each follows from the spread of its summands.
    reweighted = (
        told.squared_residual
        / told.propensity
        * (1 / ((1 - exploration) * told.propensity + exploration / 3) - 1 / told.propensity)
    )
    spread = np.hypot((told.influence**2 + reweighted).std(), (seen.influence**2).std()) / np.sqrt(n_rounds)
    gap = told.standard_deviation(exploration=exploration) ** 2 - seen.standard_deviation() ** 2
    assert abs(gap) < FALSE_FAILURE_Z * spread


def test_rounds_needed_give_the_power_they_promise(seed, rng):
    """Of many studies of that size, the promised share tells the difference."""
    n_rounds = rounds_needed(standard_deviation=2.0, effect=0.25, power=0.8)
    n_studies = 4_000

    means = 0.25 + rng.normal(scale=2.0 / np.sqrt(n_rounds), size=n_studies)
    told = np.mean(abs(means) > 1.959964 * 2.0 / np.sqrt(n_rounds))

    assert n_rounds == 503  # ((1.95996 + .84162) * 2 / .25)^2 = 502.3
    assert abs(told - 0.8) < FALSE_FAILURE_Z * np.sqrt(0.8 * 0.2 / n_studies) + 0.002  # rounding up adds power


def test_a_detectable_effect_is_the_inverse_of_rounds_needed():
    """The effect that n rounds detect needs n rounds."""
    effect = detectable_effect(standard_deviation=1.5, n_rounds=700, power=0.9)

    assert rounds_needed(standard_deviation=1.5, effect=effect * (1 + 1e-12), power=0.9) == 700


def test_arguments_out_of_range_are_refused(world, policies, rng):
    """Each names its parameter, the rule and the value."""
    target, baseline, predicted = policies
    log = world.draw(50, rng=rng)
    noise = noise_of(world, log, target=target, baseline=baseline, predicted=predicted)

    with pytest.raises(InvalidParameterError, match=r"exploration must be in \[0, 1\]; got 1.5"):
        noise.standard_deviation(exploration=1.5)
    with pytest.raises(InvalidParameterError, match="effect must be finite and other than zero; got 0"):
        rounds_needed(standard_deviation=1.0, effect=0.0)
    with pytest.raises(InvalidParameterError, match=r"power must be in \(0, 1\); got 1"):
        rounds_needed(standard_deviation=1.0, effect=0.1, power=1.0)
    with pytest.raises(InvalidParameterError, match="n_rounds must be at least 1; got 0"):
        detectable_effect(standard_deviation=1.0, n_rounds=0)
    with pytest.raises(InvalidParameterError, match="at least two rounds; got 1"):
        noise_of(world, log.rows(slice(1)), target=target, baseline=baseline, predicted=predicted)
