"""Identities of the estimators, exact where arithmetic is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import synthetic

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate, merge
from pointsman.ope.estimators import clipped_ips, dm, dr, dros, ips, sndr, snips, switch_dr

ROUNDING = 1e-12
"""Sums of a few hundred numbers of order one, in double precision, taken in another order."""

N_ROUNDS, N_ARMS = 300, 4

MAX_WEIGHT = 1.5
"""Largest weight used by the estimators that shrink; a fair share of the weights here lies beyond."""

ALL = ("dm", "ips", "clipped_ips", "snips", "dr", "sndr", "switch_dr", "dros")
SHRINKING = ("clipped_ips", "switch_dr", "dros")


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
    """Return all of them, by name."""
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "target_probs": target}
    return {
        "dm": dm(predicted=predicted, target_probs=target),
        "ips": ips(**logged),
        "clipped_ips": clipped_ips(**logged, max_weight=MAX_WEIGHT),
        "snips": snips(**logged),
        "dr": dr(**logged, predicted=predicted),
        "sndr": sndr(**logged, predicted=predicted),
        "switch_dr": switch_dr(**logged, predicted=predicted, threshold=MAX_WEIGHT),
        "dros": dros(**logged, predicted=predicted, shrinkage=MAX_WEIGHT**2),
    }


def test_each_estimator_by_hand():
    """Two rounds of two arms, of weights 2 and 4."""
    logged = {
        "arm": np.array([0, 1]),
        "outcome": np.array([1.0, 0.5]),
        "propensity": np.array([0.25, 0.25]),
        "target_probs": np.array([[0.5, 0.5], [0.0, 1.0]]),
    }
    predicted = np.array([[0.6, 0.2], [0.9, 0.4]])  # under the target 0.4 both times; residuals 0.4 and 0.1

    found = {
        "dm": dm(predicted=predicted, target_probs=logged["target_probs"]),
        "ips": ips(**logged),
        "clipped_ips": clipped_ips(**logged, max_weight=3),
        "snips": snips(**logged),
        "dr": dr(**logged, predicted=predicted),
        "sndr": sndr(**logged, predicted=predicted),
        "switch_dr": switch_dr(**logged, predicted=predicted, threshold=2),
        "dros": dros(**logged, predicted=predicted, shrinkage=16),
    }

    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        {
            "dm": 0.4,
            "ips": (2 * 1 + 4 * 0.5) / 2,
            "clipped_ips": (2 * 1 + 3 * 0.5) / 2,
            "snips": (2 * 1 + 4 * 0.5) / 6,
            "dr": 0.4 + (2 * 0.4 + 4 * 0.1) / 2,
            "sndr": 0.4 + (2 * 0.4 + 4 * 0.1) / 6,
            "switch_dr": 0.4 + (2 * 0.4) / 2,
            "dros": 0.4 + (32 / 20 * 0.4 + 64 / 32 * 0.1) / 2,
        },
        rel=ROUNDING,
    )
    assert tuple(found) == ALL
    assert all(estimate.name == name for name, estimate in found.items())
    np.testing.assert_allclose(found["clipped_ips"].omitted, [0, 0.5])
    np.testing.assert_allclose(found["switch_dr"].omitted, [0, 0.4])
    np.testing.assert_allclose(found["dros"].omitted, [0.4 * 0.4, 2 * 0.1])


def test_the_logging_policy_is_worth_its_mean_outcome(log, predicted):
    """All weights are one: without predictions it is the mean; with them too, where they do not tell arms apart.

    Not so for DRos, which shrinks every weight, and DM, which has none.
    """
    estimates = every_estimate(log, log.propensities, predicted)
    for name in ("ips", "clipped_ips", "snips"):
        assert estimates[name].value == pytest.approx(log.outcome.mean(), rel=ROUNDING)

    alike = every_estimate(log, log.propensities, np.tile(predicted[:, :1], N_ARMS))
    for name in ("dr", "sndr", "switch_dr"):
        assert alike[name].value == pytest.approx(log.outcome.mean(), rel=ROUNDING)


def test_always_the_logged_arm_is_worth_the_mean_outcome_under_a_sure_logger(log, predicted):
    """Where the logger was sure and the target agrees, every weighted estimate is the mean outcome."""
    sure = np.eye(N_ARMS)[log.arm]
    certain = synthetic.OneArmLog(**{**vars(log), "propensities": sure})

    estimates = every_estimate(certain, sure, predicted)

    for name in ("ips", "clipped_ips", "snips", "dr", "sndr", "switch_dr"):
        assert estimates[name].value == pytest.approx(log.outcome.mean(), rel=ROUNDING)


def test_a_zero_outcome_model_turns_dr_into_ips(log, target):
    """And SNDR into SNIPS, value and influence."""
    estimates = every_estimate(log, target, np.zeros((N_ROUNDS, N_ARMS)))

    for with_model, without in (("dr", "ips"), ("sndr", "snips")):
        assert estimates[with_model].value == estimates[without].value
        np.testing.assert_array_equal(estimates[with_model].influence, estimates[without].influence)
    assert estimates["dm"].value == 0


@pytest.mark.parametrize("name", ["dr", "sndr", "switch_dr", "dros"])
def test_a_perfect_outcome_model_makes_it_indifferent_to_propensities(log, target, predicted, rng, name):
    """With no residual, any propensities give the direct method, and nothing is left out."""
    exact = predicted.copy()
    exact[np.arange(N_ROUNDS), log.arm] = log.outcome
    other = synthetic.OneArmLog(**{**vars(log), "propensities": rng.uniform(0.01, 1, (N_ROUNDS, N_ARMS))})

    true, wrong = (every_estimate(a, target, exact)[name] for a in (log, other))

    assert true.value == wrong.value == dm(predicted=exact, target_probs=target).value
    assert true.bias_bound == wrong.bias_bound == 0


@pytest.mark.parametrize(
    ("shrinking", "parameter", "none_left", "none_shrunk"),
    [(switch_dr, "threshold", dm, dr), (dros, "shrinkage", dm, dr), (clipped_ips, "max_weight", None, ips)],
)
def test_the_ends_of_shrinking(log, target, predicted, shrinking, parameter, none_left, none_shrunk):
    """Exact: no weight is left at 0, none shrunk at infinity, where nothing is left out either."""
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "target_probs": target}
    if shrinking is not clipped_ips:
        logged["predicted"] = predicted

    nothing, everything = (shrinking(**logged, **{parameter: limit}) for limit in (0.0, math.inf))

    expected = none_shrunk(**logged)
    assert everything.value == expected.value
    np.testing.assert_array_equal(everything.influence, expected.influence)
    assert everything.bias_bound == 0
    assert everything.interval() == expected.interval()
    assert nothing.value == (none_left(predicted=predicted, target_probs=target).value if none_left else 0)
    assert (nothing.parameter, everything.parameter) == (0, math.inf)


@pytest.mark.parametrize(("estimator", "parameter"), [(switch_dr, "threshold"), (dros, "shrinkage")])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_a_hyper_parameter_is_not_negative(log, target, predicted, estimator, parameter, value):
    """The message names it."""
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "target_probs": target}

    with pytest.raises(InvalidParameterError, match=f"{parameter} must be >= 0"):
        estimator(**logged, predicted=predicted, **{parameter: value})
    with pytest.raises(InvalidParameterError, match="max_weight must be >= 0"):
        clipped_ips(**logged, max_weight=value)


@pytest.mark.parametrize("name", ["snips", "sndr"])
def test_self_normalised_estimates_move_with_a_constant(log, target, predicted, name):
    """Adding one to every outcome adds one to the value, and leaves the standard error."""
    shifted = synthetic.OneArmLog(**{**vars(log), "outcome": log.outcome + 1})

    before, after = (every_estimate(a, target, predicted)[name] for a in (log, shifted))

    assert after.value == pytest.approx(before.value + 1, rel=ROUNDING)
    assert after.standard_error == pytest.approx(before.standard_error, rel=1e-10)


@pytest.mark.parametrize("name", ["snips", "sndr"])
def test_self_normalised_estimates_do_not_see_the_scale_of_propensities(log, target, predicted, name):
    """Halving every propensity changes nothing."""
    halved = synthetic.OneArmLog(**{**vars(log), "propensities": log.propensities / 2})

    before, after = (every_estimate(a, target, predicted)[name].value for a in (log, halved))

    assert after == pytest.approx(before, rel=ROUNDING)


@pytest.mark.parametrize("name", ALL)
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


@pytest.mark.parametrize("name", ALL)
def test_merged_shards_are_one_pass(log, target, predicted, name):
    """Value, standard error and bias bound, from unequal shards, of a difference of two; whole or as sums."""
    shards = [slice(0, 50), slice(50, 51), slice(51, N_ROUNDS)]

    def difference(rows):
        other = np.roll(target, 1, axis=1)[rows]
        mine, theirs = (every_estimate(log.rows(rows), t, predicted[rows])[name] for t in (target[rows], other))
        return mine - theirs

    parts, whole = [difference(rows) for rows in shards], difference(slice(None))
    first, *rest = (part.sums() for part in parts)

    for merged in (merge(parts), sum(rest, start=first)):
        assert merged.value == pytest.approx(whole.value, rel=ROUNDING, abs=ROUNDING)
        assert merged.standard_error == pytest.approx(whole.standard_error, rel=ROUNDING)
        assert merged.bias_bound == pytest.approx(whole.bias_bound, rel=ROUNDING)


@pytest.mark.parametrize("name", ALL)
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
    assert (quality_part - quality_part).standard_error < ROUNDING
    assert (quality_part + quality_part).value == 2 * quality_part.value


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


def bias_of(world, target, predicted, *, believed, used) -> float:
    """Return the bias of mean_i(sum_t pi mu' + used w' (y - mu')), a finite sum: E_x sum_t e used w' (m - mu') + ..."""
    mean_used = world.propensities * used(target / believed) * (world.mean - predicted)
    return float(world.frequency @ (mean_used + target * predicted - target * world.mean).sum(axis=1))


USED = {
    "ips": lambda weight: weight,
    "clipped_ips": lambda weight: np.minimum(weight, MAX_WEIGHT),
    "dr": lambda weight: weight,
    "switch_dr": lambda weight: weight * (weight <= MAX_WEIGHT),
    "dros": lambda weight: weight / (1 + (weight / MAX_WEIGHT) ** 2),
}
"""The weight each uses, written down apart."""


@pytest.mark.parametrize("outcome_model", ["right", "wrong"])
@pytest.mark.parametrize("propensities", ["right", "wrong"])
def test_the_bias_of_each_is_what_theory_says(seed, rng, propensities, outcome_model):
    """Two by two: DR and SNDR are wrong only where both nuisances are, switch-DR and DRos wherever the model is.

    Each as a finite sum, zero where it should be; those without an outcome model have only the propensities to lean on.
    """
    world = synthetic.FiniteWorld.random(n_states=6, n_arms=N_ARMS, least_propensity=0.05, rng=rng)
    table = rng.dirichlet(np.ones(N_ARMS), 6)
    believed = {"right": world.propensities, "wrong": np.full((6, N_ARMS), 1 / N_ARMS)}[propensities]
    guess = {"right": world.mean, "wrong": np.full((6, N_ARMS), 0.9)}[outcome_model]
    log = world.draw(100_000, rng=rng)
    as_believed = synthetic.OneArmLog(**{**vars(log), "propensities": believed[log.state]})

    estimates = every_estimate(as_believed, table[log.state], guess[log.state])

    bias = {
        name: bias_of(world, table, guess * ("ips" not in name), believed=believed, used=used)
        for name, used in USED.items()
    }
    mean_weight = float(world.frequency @ (world.propensities * table / believed).sum(axis=1))
    correction = bias["dr"] - bias_of(world, table, guess, believed=believed, used=np.zeros_like)
    bias["sndr"] = bias["dr"] + correction * (1 / mean_weight - 1)
    for name, expected in bias.items():
        # A ratio's own bias is of order 1 / n, less than a hundredth of a standard error here.
        off = estimates[name].value - world.value(table) - expected
        assert abs(off) < (synthetic.FALSE_FAILURE_Z + 0.01) * estimates[name].standard_error, name
    either = "right" in (propensities, outcome_model)
    assert (abs(bias["dr"]) < ROUNDING) == (abs(bias["sndr"]) < ROUNDING) == either
    assert (abs(bias["switch_dr"]) < ROUNDING) == (abs(bias["dros"]) < ROUNDING) == (outcome_model == "right")
    assert (abs(bias["ips"]) < ROUNDING) == (propensities == "right")


@pytest.mark.parametrize("name", SHRINKING)
def test_the_bias_bound_bounds_the_bias(seed, rng, name):
    """In at least 95% of 400 logs of 500 rounds, and the widened interval covers the truth in as many."""
    n_rounds, n_logs = 500, 400
    world = synthetic.FiniteWorld.random(n_states=6, n_arms=N_ARMS, least_propensity=0.1, rng=rng)
    table = rng.dirichlet(np.ones(N_ARMS), 6)
    guess = np.clip(world.mean + 0.2, 0, 1)
    bias = bias_of(world, table, guess * ("ips" not in name), believed=world.propensities, used=USED[name])
    bounded = covered = 0

    for _ in range(n_logs):
        log = world.draw(n_rounds, rng=rng)
        estimate = every_estimate(log, table[log.state], guess[log.state])[name]
        low, high = estimate.interval(0.95)
        bounded += abs(bias) <= estimate.bias_bound
        covered += low <= world.value(table) <= high

    # Weights below 10 and 500 rounds skew a normal bound by at most a tenth of its miss rate on either side.
    floor = 0.95 - 0.005 - synthetic.FALSE_FAILURE_Z * np.sqrt(0.95 * 0.05 / n_logs)
    assert min(bounded, covered) / n_logs > floor
