"""How good nuisances must be: the bias they leave beside noise, and the noise that no estimator can go below."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from pointsman.ope.estimators import dr, ips

N_STATES, N_ARMS = 8, 4


@pytest.fixture
def world(rng):
    """A confounded logger with a floor of 5%."""
    return synthetic.FiniteWorld.random(n_states=N_STATES, n_arms=N_ARMS, least_propensity=0.05, rng=rng)


@pytest.fixture
def target(rng):
    """Some policy, (n_states, n_arms)."""
    return rng.dirichlet(np.ones(N_ARMS), N_STATES)


def logged(world, target, *, n_rounds, rng):
    """Return rounds as the estimators take them, and their states."""
    log = world.draw(n_rounds, rng=rng)
    known = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity}
    return known | {"target_probs": target[log.state]}, log.state


def by_log(estimate, n_rounds):
    """Return the values of consecutive stretches of rounds, for an estimate that is a plain mean."""
    (term,) = estimate.terms
    return term.numerator.reshape(-1, n_rounds).mean(axis=1)


@pytest.mark.parametrize(("outcome_rate", "propensity_rate"), [(0.4, 0.4), (0.8, 0.0), (0.1, 0.1), (0.2, 0.0)])
def test_bias_vanishes_beside_noise_where_rates_add_to_more_than_a_half(
    seed, rng, world, target, outcome_rate, propensity_rate
):
    """Nuisances off by n^-a and n^-b leave a bias of n^-(a+b), to the digit; noise is of order n^-1/2."""
    n_replications = 300
    shape = rng.uniform(0.5, 1.0, (N_STATES, N_ARMS))
    relative = []
    for n_rounds in (100, 1_600):
        predicted = world.mean + n_rounds**-outcome_rate * shape
        believed = world.propensities / (1 + 0.5 * n_rounds**-propensity_rate * shape)
        rate = outcome_rate + propensity_rate
        bias = -0.5 * n_rounds**-rate * float(world.frequency @ (target * shape**2).sum(axis=1))
        known, state = logged(world, target, n_rounds=n_replications * n_rounds, rng=rng)
        known["propensity"] = believed[state, known["arm"]]

        values = by_log(dr(**known, predicted=predicted[state]), n_rounds)

        spread = values.std(ddof=1)
        error = abs(values.mean() - world.value(target) - bias)
        assert error < synthetic.FALSE_FAILURE_Z * spread / np.sqrt(n_replications)
        relative.append(abs(bias) / spread)
    # From 100 to 1,600 rounds the ratio changes by a factor of 16^(1/2 - a - b), .44 or 2.3 here, but for weights that
    # shrink with the propensities' error, by a quarter at most, and a standard deviation known to 4%.
    assert (relative[1] < relative[0]) == (rate > 0.5)


def test_no_log_tells_more_than_the_semiparametric_bound_allows(seed, rng, world, target):
    """With the true outcome model DR attains E sum pi^2 sigma^2 / e + Var(sum pi mu), IPS lies above it.

    And the squared standard errors average it, which is what intervals rest on.
    """
    n_replications, n_rounds = 2_000, 100
    mean = (target * world.mean).sum(axis=1)
    noise = (target**2 * world.mean * (1 - world.mean) / world.propensities).sum(axis=1)
    bound = float(world.frequency @ (noise + mean**2)) - world.value(target) ** 2
    of_ips = (
        float(world.frequency @ (target**2 * world.mean / world.propensities).sum(axis=1)) - world.value(target) ** 2
    )
    known, state = logged(world, target, n_rounds=n_replications * n_rounds, rng=rng)

    for estimate, expected in ((dr(**known, predicted=world.mean[state]), bound), (ips(**known), of_ips)):
        values = by_log(estimate, n_rounds)
        squares = (values - values.mean()) ** 2
        # A variance of so many values, by their fourth moment.
        tolerance = synthetic.FALSE_FAILURE_Z * squares.std(ddof=1) / np.sqrt(n_replications)
        assert abs(values.var(ddof=1) - expected / n_rounds) < tolerance
        terms = estimate.terms[0].numerator
        tolerance = synthetic.FALSE_FAILURE_Z * ((terms - terms.mean()) ** 2).std(ddof=1) / np.sqrt(terms.size)
        assert abs(estimate.standard_error**2 * terms.size - expected) < tolerance
    assert of_ips > bound
