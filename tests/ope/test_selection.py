"""Hyper-parameters chosen from the log: the rules by hand, and what they earn and cost over many logs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import synthetic

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.estimators import clipped_ips, dr, dros, ips, switch_dr
from pointsman.ope.selection import candidate_parameters, least_mse_bound, slope, tuned

ROUNDING = 1e-12
"""Sums of a few hundred numbers of order one, in double precision, taken in another order."""

N_STATES, N_ARMS = 8, 4

TUNABLE = {
    "clipped_ips": (clipped_ips, "max_weight"),
    "switch_dr": (switch_dr, "threshold"),
    "dros": (dros, "shrinkage"),
}


def known(value: float, *, standard_error: float, bias: float = 0.0) -> Estimate:
    """Return an estimate of two rounds with this value, standard error and estimated bias."""
    spread = np.array([-1.0, 1.0]) * standard_error
    return Estimate(name="known", terms=(Ratio(value + spread, np.ones(2)),), omitted=np.full(2, bias), parameter=value)


def hard_world(*, least_propensity: float, rng: np.random.Generator) -> synthetic.FiniteWorld:
    """Return a world whose logger nearly always takes the best arm, and the others as rarely as this."""
    world = synthetic.FiniteWorld.random(n_states=N_STATES, n_arms=N_ARMS, least_propensity=0.0, rng=rng)
    greedy = synthetic.softmax(12 * world.mean)
    return synthetic.FiniteWorld(
        frequency=world.frequency,
        mean=world.mean,
        propensities=least_propensity + (1 - N_ARMS * least_propensity) * greedy,
    )


def test_known_estimates_are_what_they_say():
    """The tests below rest on it."""
    made = known(0.3, standard_error=0.1, bias=0.2)

    assert made.value == pytest.approx(0.3)
    assert made.standard_error == pytest.approx(0.1)
    assert made.bias_bound == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("values", "widths", "expected"),
    [
        ([0.0, 0.3, 0.6], [0.2, 0.1, 0.05], 1),  # within 2 standard errors: [-.4, .4], [.1, .5], then [.5, .7]
        ([0.0, 0.3, 0.35], [0.2, 0.1, 0.05], 2),  # [.25, .45] meets [.1, .4]
        ([0.0, 0.5, 0.0], [0.1, 0.1, 0.1], 0),  # one that disagrees ends it, whoever follows
        ([0.0, 0.5], [0.2, 0.05], 0),  # [.4, .6] just misses [-.39, .39]
        ([0.0, 0.5, 0.35], [0.2, 0.01, 0.19], 2),  # the second is taken to be as wide as the third, [.12, .88]
    ],
)
def test_slope_by_hand(values, widths, expected):
    """The last whose interval meets all before it, at one standard error a width."""
    estimates = [known(v, standard_error=w * 0.99) for v, w in zip(values, widths, strict=True)]

    assert slope(estimates) is estimates[expected]


def test_a_higher_level_dares_more():
    """Wider intervals disagree less."""
    estimates = [known(v, standard_error=0.1) for v in (0.0, 0.6)]

    assert slope(estimates) is estimates[0]
    assert slope(estimates, level=0.95) is estimates[1]


def test_the_least_bound_by_hand():
    """Squared bias plus variance; the first of equals; a stated bound counts as bias, an infinite one never wins."""
    steady = known(0.0, standard_error=0.5)
    shrunk = known(0.1, standard_error=0.2, bias=0.3)
    rigid = known(0.2, standard_error=0.1, bias=0.6)
    stated = Estimate(name="known", terms=steady.terms, bias_bound=0.1)
    unknown = Estimate(name="known", terms=known(0.0, standard_error=0.0).terms, bias_bound=math.inf)

    assert least_mse_bound([steady, shrunk, rigid]) is shrunk
    assert least_mse_bound([steady, rigid, unknown]) is steady
    assert least_mse_bound([stated, steady]) is steady
    assert least_mse_bound([shrunk, known(0.1, standard_error=0.2, bias=0.3)]) is shrunk


def test_candidates_run_from_no_shrinking_to_no_weight(rng):
    """Falling, from the log's own weights, dense where the large ones are; squared for a shrinkage."""
    weight = np.where(rng.random(1_000) < 0.3, 0.0, rng.pareto(1.5, 1_000))
    positive = np.sort(weight[weight > 0])[::-1]

    clips = candidate_parameters("clipped_ips", weight=weight, n_candidates=10)
    shrinkages = candidate_parameters("dros", weight=weight, n_candidates=10)

    for found in (clips, shrinkages):
        assert (found[0], found[-1]) == (math.inf, 0)
        assert (np.diff(found) < 0).all()
    assert np.isin(clips[1:-1], positive).all()
    assert (clips[1], clips[2], clips[-2]) == (positive[0], positive[1], positive[-1])
    np.testing.assert_array_equal(shrinkages[3:-1], clips[1:-1] ** 2)
    assert shrinkages[2] == 10 * positive[0] ** 2
    np.testing.assert_array_equal(candidate_parameters("switch_dr", weight=np.zeros(3)), [math.inf, 0])


@pytest.mark.parametrize("rule", ["least_mse_bound", "slope"])
@pytest.mark.parametrize("estimator", TUNABLE)
def test_the_grid_in_one_pass_is_the_rule_on_its_estimates(seed, rng, estimator, rule):
    """The choice and its value are those of the estimator itself at every candidate, one by one."""
    world = hard_world(least_propensity=0.01, rng=rng)
    log = world.draw(400, rng=rng)
    target = rng.dirichlet(np.full(N_ARMS, 0.3), N_STATES)[log.state]
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "target_probs": target}
    model = {} if estimator == "clipped_ips" else {"predicted": np.clip(world.mean + 0.2, 0, 1)[log.state]}
    function, parameter = TUNABLE[estimator]
    weight = target[np.arange(400), log.arm] / log.propensity

    found = tuned(estimator, **logged, **model, rule=rule)

    one_by_one = [
        function(**logged, **model, **{parameter: float(candidate)})
        for candidate in candidate_parameters(estimator, weight=weight)
    ]
    expected = {"least_mse_bound": least_mse_bound, "slope": slope}[rule](one_by_one)
    assert (found.name, found.parameter) == (estimator, expected.parameter)
    assert found.value == expected.value
    assert found.bias_bound == expected.bias_bound
    np.testing.assert_array_equal(found.influence, expected.influence)


def test_the_choice_does_not_depend_on_blocks_or_on_a_large_constant(monkeypatch, rng):
    """A shifted outcome with shifted predictions leaves every residual, so the choice."""
    world = hard_world(least_propensity=0.01, rng=rng)
    log = world.draw(1_000, rng=rng)
    logged = {
        "arm": log.arm,
        "propensity": log.propensity,
        "target_probs": rng.dirichlet(np.ones(N_ARMS), N_STATES)[log.state],
    }
    predicted = world.mean[log.state] + 0.1
    plain = tuned("dros", **logged, outcome=log.outcome, predicted=predicted)

    monkeypatch.setattr("pointsman.ope.selection.BLOCK", 17)
    lifted = tuned("dros", **logged, outcome=log.outcome + 1e8, predicted=predicted + 1e8)

    assert 0 < plain.parameter < math.inf
    assert lifted.parameter == plain.parameter
    # A number of 10^8 is rounded at 10^-8; weights are at most 100.
    assert lifted.value - 1e8 == pytest.approx(plain.value, abs=1e-6)


def test_no_weight_and_one_round_can_be_tuned():
    """Nothing to choose from: nothing is shrunk."""
    one = {"outcome": np.ones(1), "propensity": np.full(1, 0.5), "predicted": np.full((1, 2), 0.5)}

    apart = tuned("dros", arm=np.array([0]), target_probs=np.array([[0.0, 1.0]]), **one)
    agreed = tuned("dros", arm=np.array([0]), target_probs=np.array([[1.0, 0.0]]), **one)

    assert (apart.parameter, apart.value) == (math.inf, 0.5)
    assert agreed.n_rounds == 1


def test_wrong_arguments_are_named(rng):
    """Estimator, rule, missing predictions, no candidates, no estimates, a level in percent."""
    logged = {
        "arm": np.array([0, 1]),
        "outcome": np.ones(2),
        "propensity": np.full(2, 0.5),
        "target_probs": np.full((2, 2), 0.5),
    }

    with pytest.raises(InvalidParameterError, match=r"estimator must be one of.*got 'dr'"):
        tuned("dr", **logged)
    with pytest.raises(InvalidParameterError, match=r"rule must be one of.*got 'best'"):
        tuned("clipped_ips", **logged, rule="best")
    with pytest.raises(InvalidParameterError, match="dros needs predicted"):
        tuned("dros", **logged)
    with pytest.raises(InvalidParameterError, match="n_candidates must be positive; got 0"):
        tuned("clipped_ips", **logged, n_candidates=0)
    for rule in (slope, least_mse_bound):
        with pytest.raises(InvalidParameterError, match="must be an estimate"):
            rule([])
    with pytest.raises(InvalidParameterError, match="level"):
        slope([known(0.0, standard_error=1.0)], level=95)


def squared_errors(*, least_propensity: float, n_rounds: int, n_logs: int, rng: np.random.Generator) -> dict:
    """Return (n_logs,) squared errors by estimator; the outcome model is off by 0.2 or so in every cell."""
    world = hard_world(least_propensity=least_propensity, rng=rng)
    table = rng.dirichlet(np.full(N_ARMS, 0.3), N_STATES)
    guess = world.mean + rng.normal(scale=0.2, size=world.mean.shape)
    truth = world.value(table)
    errors: dict[str, list[float]] = {}
    for _ in range(n_logs):
        log = world.draw(n_rounds, rng=rng)
        logged = {
            "arm": log.arm,
            "outcome": log.outcome,
            "propensity": log.propensity,
            "target_probs": table[log.state],
        }
        with_model = logged | {"predicted": guess[log.state]}
        for name, estimate in {
            "ips": ips(**logged),
            "clipped_ips": tuned("clipped_ips", **logged),
            "dr": dr(**with_model),
            "switch_dr": tuned("switch_dr", **with_model),
            "dros": tuned("dros", **with_model),
        }.items():
            errors.setdefault(name, []).append((estimate.value - truth) ** 2)
    return {name: np.array(values) for name, values in errors.items()}


UNSHRUNK = {"clipped_ips": "ips", "switch_dr": "dr", "dros": "dr"}


def test_choosing_pays_where_overlap_is_bad(seed, rng):
    """Mean squared error over 400 logs of 500 rounds, arms logged once in 200: not above that of no shrinking.

    And plainly below it for DRos: between 0.32 and 0.66 of it in 40 worlds, where switch-DR came to between 0.37 and
    0.91, and clipped IPS to between 0.54 and 1.03 of IPS.
    """
    errors = squared_errors(least_propensity=0.005, n_rounds=500, n_logs=400, rng=rng)

    for name, unshrunk in UNSHRUNK.items():
        gain = errors[unshrunk] - errors[name]
        assert gain.mean() > -synthetic.FALSE_FAILURE_Z * gain.std(ddof=1) / np.sqrt(gain.size), name
    assert errors["dros"].mean() < errors["dr"].mean()


def test_choosing_costs_little_where_overlap_is_good(seed, rng):
    """Arms logged once in five: at most half more than that of no shrinking, beyond noise.

    A candidate that saves se^2 - s^2 of variance for an estimated bias b has b^2 < se^2 - s^2, and good overlap leaves
    little variance to save: over 40 worlds the ratio was between 0.56 and 1.34, its median 0.83 to 1.02.
    """
    errors = squared_errors(least_propensity=0.2, n_rounds=500, n_logs=300, rng=rng)

    for name, unshrunk in UNSHRUNK.items():
        excess = errors[name] - 1.5 * errors[unshrunk]
        assert excess.mean() < synthetic.FALSE_FAILURE_Z * excess.std(ddof=1) / np.sqrt(excess.size), name


@pytest.mark.parametrize("estimator", TUNABLE)
def test_the_chosen_is_within_a_standard_error_of_no_shrinking(seed, rng, estimator):
    """By the rule itself: estimated bias is the distance of the two, and it must cost less than the variance saved."""
    world = hard_world(least_propensity=0.002, rng=rng)
    table = rng.dirichlet(np.full(N_ARMS, 0.3), N_STATES)
    for _ in range(20):
        log = world.draw(300, rng=rng)
        logged = {
            "arm": log.arm,
            "outcome": log.outcome,
            "propensity": log.propensity,
            "target_probs": table[log.state],
        }
        model = {} if estimator == "clipped_ips" else {"predicted": np.full((300, N_ARMS), 0.9)}

        unshrunk = ips(**logged) if estimator == "clipped_ips" else dr(**logged, **model)
        found = tuned(estimator, **logged, **model)

        assert abs(found.value - unshrunk.value) <= unshrunk.standard_error + ROUNDING
