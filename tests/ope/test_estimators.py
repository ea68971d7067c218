"""Identities of the estimators, exact where arithmetic is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import synthetic

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate, merge
from pointsman.ope.estimators import dm, dr, ips, snips

ROUNDING = 1e-12
"""Sums of a few hundred numbers of order one, in double precision, taken in another order."""

N_ROUNDS, N_ARMS = 300, 4


@pytest.fixture
def log(rng):
    """A confounded log."""
    world = synthetic.FiniteWorld.random(n_states=6, n_arms=N_ARMS, least_propensity=0.05, rng=rng)
    return world.draw(N_ROUNDS, rng=rng)


@pytest.fixture
def target(rng):
    """Some policy."""
    return rng.dirichlet(np.ones(N_ARMS), N_ROUNDS)


@pytest.fixture
def predicted(rng):
    """Some predictions."""
    return rng.uniform(size=(N_ROUNDS, N_ARMS))


def every_estimate(log, target, predicted) -> dict[str, Estimate]:
    """Return all four, by name."""
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "target_probs": target}
    return {
        "dm": dm(predicted=predicted, target_probs=target),
        "ips": ips(**logged),
        "snips": snips(**logged),
        "dr": dr(**logged, predicted=predicted),
    }


def test_the_logging_policy_is_worth_its_mean_outcome(log, predicted):
    """All weights are one: IPS and SNIPS are the mean; so is DR, where predictions do not tell arms apart."""
    estimates = every_estimate(log, log.propensities, predicted)
    assert estimates["ips"].value == pytest.approx(log.outcome.mean(), rel=ROUNDING)
    assert estimates["snips"].value == pytest.approx(log.outcome.mean(), rel=ROUNDING)

    alike = every_estimate(log, log.propensities, np.tile(predicted[:, :1], N_ARMS))
    assert alike["dr"].value == pytest.approx(log.outcome.mean(), rel=ROUNDING)


def test_always_the_logged_arm_is_worth_the_mean_outcome_under_a_sure_logger(log, predicted):
    """Where the logger was sure and the target agrees, every weighted estimate is the mean outcome."""
    sure = np.eye(N_ARMS)[log.arm]
    certain = synthetic.OneArmLog(**{**vars(log), "propensities": sure})

    estimates = every_estimate(certain, sure, predicted)

    for name in ("ips", "snips", "dr"):
        assert estimates[name].value == pytest.approx(log.outcome.mean(), rel=ROUNDING)


def test_a_zero_outcome_model_turns_dr_into_ips(log, target):
    """Value and influence."""
    estimates = every_estimate(log, target, np.zeros((N_ROUNDS, N_ARMS)))

    assert estimates["dr"].value == estimates["ips"].value
    np.testing.assert_array_equal(estimates["dr"].influence, estimates["ips"].influence)
    assert estimates["dm"].value == 0


def test_a_perfect_outcome_model_makes_dr_indifferent_to_propensities(log, target, predicted, rng):
    """With no residual, any propensities give the direct method."""
    exact = predicted.copy()
    exact[np.arange(N_ROUNDS), log.arm] = log.outcome

    values = [
        dr(
            arm=log.arm,
            outcome=log.outcome,
            propensity=propensity,
            predicted=exact,
            target_probs=target,
        ).value
        for propensity in (log.propensity, rng.uniform(0.01, 1, N_ROUNDS))
    ]

    assert values[0] == values[1] == dm(predicted=exact, target_probs=target).value


def test_snips_moves_with_a_constant(log, target, predicted):
    """Adding one to every outcome adds one to the value, and leaves the standard error."""
    shifted = synthetic.OneArmLog(**{**vars(log), "outcome": log.outcome + 1})

    before, after = (every_estimate(a, target, predicted)["snips"] for a in (log, shifted))

    assert after.value == pytest.approx(before.value + 1, rel=ROUNDING)
    assert after.standard_error == pytest.approx(before.standard_error, rel=1e-10)


def test_snips_does_not_see_the_scale_of_propensities(log, target, predicted):
    """Halving every propensity changes nothing."""
    halved = synthetic.OneArmLog(**{**vars(log), "propensities": log.propensities / 2})

    before, after = (every_estimate(a, target, predicted)["snips"].value for a in (log, halved))

    assert after == pytest.approx(before, rel=ROUNDING)


@pytest.mark.parametrize("name", ["dm", "ips", "snips", "dr"])
def test_the_order_of_rows_and_arms_does_not_matter(log, target, predicted, rng, name):
    """Permuting rows permutes the influence; permuting arms changes nothing."""
    estimate = every_estimate(log, target, predicted)[name]

    rows = rng.permutation(N_ROUNDS)
    by_row = every_estimate(log.rows(rows), target[rows], predicted[rows])[name]
    columns = rng.permutation(N_ARMS)
    renamed = synthetic.OneArmLog(
        **{**vars(log), "arm": np.argsort(columns)[log.arm], "propensities": log.propensities[:, columns]}
    )
    by_arm = every_estimate(renamed, target[:, columns], predicted[:, columns])[name]

    assert by_row.value == pytest.approx(estimate.value, rel=ROUNDING)
    np.testing.assert_allclose(by_row.influence, estimate.influence[rows], atol=ROUNDING)
    assert by_arm.value == pytest.approx(estimate.value, rel=ROUNDING)


@pytest.mark.parametrize("name", ["dm", "ips", "snips", "dr"])
def test_merged_shards_are_one_pass(log, target, predicted, name):
    """Value and standard error, from unequal shards, of estimates and of a difference of two."""
    shards = [slice(0, 50), slice(50, 51), slice(51, N_ROUNDS)]

    def difference(rows):
        other = np.roll(target, 1, axis=1)[rows]
        mine, theirs = (every_estimate(log.rows(rows), t, predicted[rows])[name] for t in (target[rows], other))
        return mine - theirs

    merged, whole = merge([difference(rows) for rows in shards]), difference(slice(None))

    assert merged.value == pytest.approx(whole.value, rel=ROUNDING, abs=ROUNDING)
    assert merged.standard_error == pytest.approx(whole.standard_error, rel=1e-10)
    assert merged.bias_bound == whole.bias_bound


@pytest.mark.parametrize("name", ["dm", "ips", "snips", "dr"])
def test_algebra_of_estimates_is_algebra_of_influence(log, target, predicted, name):
    """A utility's estimate is quality's minus lambda times cost's, with the standard error of the pair."""
    cost = 0.01 * log.outcome + 0.002 * log.arm
    priced = synthetic.OneArmLog(**{**vars(log), "outcome": cost})
    utility = synthetic.OneArmLog(**{**vars(log), "outcome": log.outcome - 7 * cost})

    quality_part = every_estimate(log, target, predicted)[name]
    cost_part = every_estimate(priced, target, 0.3 * predicted)[name]
    direct = every_estimate(utility, target, predicted - 7 * 0.3 * predicted)[name]
    combined = quality_part - 7 * cost_part

    assert combined.value == pytest.approx(direct.value, rel=1e-10)
    np.testing.assert_allclose(combined.influence, direct.influence, atol=1e-11)
    assert (quality_part - quality_part).value == 0
    assert (quality_part - quality_part).standard_error == 0
    assert (quality_part + quality_part).value == 2 * quality_part.value


def test_the_influence_of_a_ratio_is_its_derivative(log, target):
    """Dropping weight on a round moves SNIPS by its influence over n, to first order."""
    estimate = every_estimate(log, target, np.zeros((N_ROUNDS, N_ARMS)))["snips"]
    (term,) = estimate.terms
    step = 1e-6

    for i in range(5):
        weight = np.ones(N_ROUNDS)
        weight[i] += step
        moved = (weight @ term.numerator) / (weight @ term.denominator)
        # The second derivative is of order one.
        assert (moved - estimate.value) / step == pytest.approx(estimate.influence[i] / N_ROUNDS, abs=10 * step)


def test_arms_the_target_never_uses_need_no_prediction(log, predicted):
    """NaN for an arm of probability zero does not spoil the estimate."""
    target = np.tile([0.5, 0.5, 0.0, 0.0], (N_ROUNDS, 1))
    patchy = predicted.copy()
    patchy[:, 2:] = np.nan

    for name, estimate in every_estimate(log, target, patchy).items():
        assert estimate.value == every_estimate(log, target, predicted)[name].value


def test_the_direct_method_has_no_interval(log, target, predicted):
    """Nor has anything built on it: its bias is unknown."""
    estimates = every_estimate(log, target, predicted)

    assert all(math.isnan(end) for end in estimates["dm"].interval())
    assert all(math.isnan(end) for end in (estimates["dr"] - estimates["dm"]).interval())
    low, high = estimates["dr"].interval(0.9)
    assert low < estimates["dr"].value < high


def test_zero_weights_leave_snips_undefined_and_one_round_no_spread():
    """NaN, not a number that looks like one."""
    nothing = snips(arm=np.array([0]), outcome=np.ones(1), propensity=np.ones(1), target_probs=np.array([[0.0, 1.0]]))

    assert math.isnan(nothing.value)
    assert math.isnan(nothing.standard_error)


def test_estimates_on_different_rounds_do_not_mix(log, target, predicted):
    """A sum needs the same rounds; a merger the same estimator."""
    estimates = every_estimate(log, target, predicted)
    fewer = every_estimate(log.rows(slice(0, 10)), target[:10], predicted[:10])

    with pytest.raises(InvalidParameterError, match="same rounds"):
        estimates["ips"] - fewer["ips"]
    with pytest.raises(InvalidParameterError, match="one estimator"):
        merge([estimates["ips"], estimates["dr"]])
