"""What a statistician asks to see: bias where theory says, and none where it says none.

Replications are rows of one long log of a world with finitely many prompts, where truth is a finite sum.
"""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import dm, dr, ips, snips

N_REPLICATIONS = 2_000
N_ROUNDS = 100
N_STATES, N_ARMS = 8, 4


@pytest.fixture
def world(rng):
    """A confounded logger with a floor of 5%."""
    return synthetic.FiniteWorld.random(n_states=N_STATES, n_arms=N_ARMS, least_propensity=0.05, rng=rng)


@pytest.fixture
def target(rng):
    """Some policy, (n_states, n_arms)."""
    return rng.dirichlet(np.ones(N_ARMS), N_STATES)


def replications(estimate: Estimate, n_rounds: int = N_ROUNDS) -> np.ndarray:
    """Return the estimate of each consecutive stretch of rounds: the estimator's own terms, cut and added again."""
    return np.sum(
        [
            term.numerator.reshape(-1, n_rounds).mean(axis=1) / term.denominator.reshape(-1, n_rounds).mean(axis=1)
            for term in estimate.terms
        ],
        axis=0,
    )


def deviation(values: np.ndarray, truth: float) -> float:
    """Return how many Monte Carlo standard errors the mean of the replications is from the truth."""
    return (values.mean() - truth) / (values.std(ddof=1) / np.sqrt(values.size))


@pytest.mark.parametrize("estimator", ["ips", "dr"])
def test_known_propensities_leave_no_bias(seed, rng, world, target, estimator):
    """IPS and DR, the latter with predictions that are plainly wrong."""
    log = world.draw(N_REPLICATIONS * N_ROUNDS, rng=rng)
    logged = {
        "arm": log.arm,
        "outcome": log.outcome,
        "propensity": log.propensity,
        "target_probs": target[log.state],
    }
    wrong = rng.uniform(-1, 2, (N_STATES, N_ARMS))[log.state]

    estimate = ips(**logged) if estimator == "ips" else dr(**logged, predicted=wrong)

    assert abs(deviation(replications(estimate), world.value(target))) < synthetic.FALSE_FAILURE_Z


def test_the_bias_of_snips_is_of_order_one_over_n(seed, rng, world, target):
    """It stays within its second-order term: -cov(w y - V w, w) / n, and what follows."""
    log = world.draw(N_REPLICATIONS * N_ROUNDS, rng=rng)
    value = world.value(target)
    weight = target[log.state, log.arm] / log.propensity

    values = replications(
        snips(arm=log.arm, outcome=log.outcome, propensity=log.propensity, target_probs=target[log.state])
    )

    second_order = -np.mean(weight * (log.outcome - value) * (weight - 1)) / N_ROUNDS
    # The next term is smaller by 1/n times moments of weights, all at most 20 = 1 / 0.05 here: let it be as large as
    # variance of w over n times the second.
    slack = abs(second_order) * weight.var() * 10 / N_ROUNDS
    standard_error = values.std(ddof=1) / np.sqrt(N_REPLICATIONS)
    assert abs(values.mean() - value - second_order) < synthetic.FALSE_FAILURE_Z * standard_error + slack


@pytest.mark.parametrize("outcome_model", ["right", "wrong"])
@pytest.mark.parametrize("propensities", ["right", "wrong"])
def test_either_nuisance_suffices_and_neither_does_not(seed, rng, world, target, propensities, outcome_model):
    """Two by two: no bias in three cells, and in the fourth the product of both errors, to the digit.

    Bias = E_x sum_t pi(t | x) (1 - e_t(x) / e'_t(x)) (mu'_t(x) - mu_t(x)).
    """
    log = world.draw(N_REPLICATIONS * N_ROUNDS, rng=rng)
    believed = {"right": world.propensities, "wrong": np.full((N_STATES, N_ARMS), 1 / N_ARMS)}[propensities]
    predicted = {"right": world.mean, "wrong": np.full((N_STATES, N_ARMS), 0.9)}[outcome_model]
    expected_bias = float(
        world.frequency @ (target * (1 - world.propensities / believed) * (predicted - world.mean)).sum(axis=1)
    )

    values = replications(
        dr(
            arm=log.arm,
            outcome=log.outcome,
            propensity=believed[log.state, log.arm],
            predicted=predicted[log.state],
            target_probs=target[log.state],
        )
    )

    assert (expected_bias == 0) == ("right" in (propensities, outcome_model))
    assert abs(deviation(values, world.value(target) + expected_bias)) < synthetic.FALSE_FAILURE_Z


def test_both_wrong_shows(seed, rng):
    """In a world built for it the fourth cell's bias is far beyond noise, as is the direct method's and IPS's."""
    mean = np.array([[0.9, 0.1], [0.1, 0.2]])
    world = synthetic.FiniteWorld(
        frequency=np.array([0.5, 0.5]), mean=mean, propensities=np.array([[0.8, 0.2], [0.2, 0.8]])
    )
    target = np.array([[1.0, 0.0], [1.0, 0.0]])  # always the first arm, which was logged where it is good
    log = world.draw(N_REPLICATIONS * N_ROUNDS, rng=rng)
    logged = {
        "arm": log.arm,
        "outcome": log.outcome,
        "propensity": np.full(log.arm.size, 0.5),
        "target_probs": target[log.state],
    }
    # What one sees without looking at prompts: the mean of each arm where it was logged, (.8 * .9 + .2 * .1, ...).
    pooled = np.tile([0.74, 0.18], (log.arm.size, 1))

    for estimate in (
        dr(**logged, predicted=pooled),
        ips(**logged),
        dm(predicted=pooled, target_probs=target[log.state]),
    ):
        values = replications(estimate)
        # True value 0.5; the pooled mean 0.74. A tenth is many standard errors of at most 1 / sqrt(N_ROUNDS) a draw.
        assert values.mean() - 0.5 > 0.1 > synthetic.FALSE_FAILURE_Z * 2 / np.sqrt(N_REPLICATIONS * N_ROUNDS)


def test_without_cross_fitting_an_overfit_model_keeps_its_bias(seed, rng):
    """A model that has memorised its rounds leaves no residual to correct by; out of fold the correction works.

    More features than rounds and hardly any penalty: in sample DR is the direct method of a confounded fit, though the
    propensities are right. Cross-fitted, the same model gives no bias.
    """
    n_replications, n_rounds, n_features = 300, 60, 50
    own, crossed = np.empty(n_replications), np.empty(n_replications)
    model = PerArmRidge(penalties=[1e-3])
    for j in range(n_replications):
        confounder = rng.choice([-1.0, 1.0], n_rounds)
        noise = rng.normal(size=(n_rounds, n_features - 1))
        # The confounder is one feature of many, and so faint that a fit of smallest norm all but ignores it.
        context = np.column_stack([0.1 * confounder, noise])
        first = 0.5 + 0.3 * confounder
        propensities = np.column_stack([first, 1 - first])
        arm = synthetic.draw_arms(propensities, rng=rng)
        outcome = confounder + 0.1 * rng.normal(size=n_rounds)  # the arm is of no effect, and the value of either 0
        logged = {
            "arm": arm,
            "outcome": outcome,
            "propensity": propensities[np.arange(n_rounds), arm],
            "target_probs": np.tile([1.0, 0.0], (n_rounds, 1)),
        }
        in_sample = model.fit(context, outcome, arm=arm, n_arms=2).predict(context)
        out_of_fold = cross_fit_outcomes(
            model,
            context=context,
            outcome=outcome,
            arm=arm,
            n_arms=2,
            fold=assign_folds(n_rounds, n_folds=2, seed=j),
        )
        own[j] = dr(**logged, predicted=in_sample).value
        crossed[j] = dr(**logged, predicted=out_of_fold).value

    assert deviation(own, 0.0) > 2 * synthetic.FALSE_FAILURE_Z
    assert abs(deviation(crossed, 0.0)) < synthetic.FALSE_FAILURE_Z


def test_normal_intervals_cover_where_overlap_is_good(seed, rng):
    """At 500 rounds and weights below 10, coverage lies in the binomial band around its level.

    For values and for the difference of two policies, at 90% and at 95%.
    """
    n_rounds = 500
    world = synthetic.FiniteWorld.random(n_states=N_STATES, n_arms=N_ARMS, least_propensity=0.1, rng=rng)
    target, other = rng.dirichlet(np.ones(N_ARMS), (2, N_STATES))
    log = world.draw(N_REPLICATIONS * n_rounds, rng=rng)
    predicted = np.clip(world.mean + rng.normal(scale=0.1, size=world.mean.shape), 0, 1)
    truth = dict.fromkeys(("ips", "snips", "dr"), world.value(target)) | {
        "dr - other": world.value(target) - world.value(other)
    }
    covered = dict.fromkeys([(name, level) for name in truth for level in (0.9, 0.95)], 0)

    for start in range(0, log.arm.size, n_rounds):
        part = log.rows(slice(start, start + n_rounds))
        logged = {"arm": part.arm, "outcome": part.outcome, "propensity": part.propensity}
        value, against = (
            dr(**logged, predicted=predicted[part.state], target_probs=policy[part.state]) for policy in (target, other)
        )
        estimates = {
            "ips": ips(**logged, target_probs=target[part.state]),
            "snips": snips(**logged, target_probs=target[part.state]),
            "dr": value,
            "dr - other": value - against,
        }
        for name, level in covered:
            low, high = estimates[name].interval(level)
            covered[name, level] += low <= truth[name] <= high

    for (_, level), count in covered.items():
        band = synthetic.FALSE_FAILURE_Z * np.sqrt(level * (1 - level) / N_REPLICATIONS)
        # An Edgeworth term of a normal interval is of order skewness^2 / n: with weights below 10 at most a twentieth
        # of the miss rate, by the rule behind `check_sample_size`.
        assert abs(count / N_REPLICATIONS - level) < band + 0.05 * (1 - level)
