"""Intervals around an estimate: what each promises, and that it can be held to it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from scipy import stats

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimators import dr, ips, snips
from pointsman.ope.intervals import (
    BOLDNESS,
    PRIOR_VARIANCE,
    Wager,
    bca_quantiles,
    betting,
    bootstrap,
    empirical_bernstein,
    joint_intervals,
    off_policy_bounds,
    off_policy_wagers,
    place_bets,
    wald,
)

FALSE_FAILURE = 1e-6
"""Probability that a test of a true promise fails on one seed; see `synthetic.FALSE_FAILURE_Z`."""


def most_misses(n_replications: int, *, rate: float = 0.05) -> int:
    """Return the number of misses that an interval of this error exceeds once in a million tests."""
    return int(stats.binom.isf(FALSE_FAILURE, n_replications, rate))


def heavy_world(rng: np.random.Generator) -> tuple[synthetic.FiniteWorld, np.ndarray, np.ndarray]:
    """Return a world of weights up to 500 for a tenth of prompts, a target, and a baseline that differs there only."""
    world = synthetic.FiniteWorld(
        frequency=np.array([0.1, 0.9]),
        mean=np.array([[0.9, 0.1], [0.6, 0.5]]),
        propensities=np.array([[0.002, 0.998], [0.7, 0.3]]),
    )
    return world, np.array([[1.0, 0.0], [0.7, 0.3]]), np.array([[0.0, 1.0], [0.7, 0.3]])


# Wald


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_wald_is_the_normal_interval(level):
    """Its ends are scipy's quantiles."""
    assert wald(0.3, standard_error=0.2, level=level) == pytest.approx(stats.norm.interval(level, loc=0.3, scale=0.2))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_probability(level):
    """Percent are refused, everywhere."""
    values = np.linspace(0, 1, 9)
    calls = (
        lambda: wald(0.0, standard_error=1.0, level=level),
        lambda: bootstrap(values[None], np.ones((1, 9)), level=level),
        lambda: joint_intervals([0.0], [values], level=level),
        lambda: empirical_bernstein(values, low=0, high=1, level=level),
        lambda: betting(values, low=0, high=1, level=level),
    )
    for call in calls:
        with pytest.raises(InvalidParameterError, match="level"):
            call()


# Bootstrap


def quantile_error(*, level: float, n_resamples: int) -> float:
    """Return how far a bootstrap end may be off by chance, in standard errors of the estimate: of a normal quantile."""
    z = stats.norm.ppf((1 + level) / 2)
    p = (1 - level) / 2
    return synthetic.FALSE_FAILURE_Z * math.sqrt(p * (1 - p) / n_resamples) / stats.norm.pdf(z)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_of_an_even_sample_is_normal(seed, rng, method):
    """A mean of many symmetric values, in rounds that are no multiple of a block: Wald's ends, but for resampling."""
    values = rng.normal(size=40_001)
    values = np.concatenate([values, -values]) + 3.0
    standard_error = values.std() / math.sqrt(values.size)

    ends = bootstrap(values[None], np.ones((1, values.size)), n_resamples=500, method=method, seed=seed)

    # BCa's bias correction is itself resampled: an error of 1 / sqrt(500 phi(0)^2) in each of two places.
    tolerance = quantile_error(level=0.95, n_resamples=500) * (1 if method == "percentile" else 3)
    expected = wald(values.mean(), standard_error=standard_error)
    assert np.abs(np.subtract(ends, expected)).max() < tolerance * standard_error


def test_the_bootstrap_of_ratios_is_the_delta_methods(seed, rng):
    """The difference of two SNIPS estimates on the same rounds, whose errors are correlated."""
    world = synthetic.FiniteWorld.random(n_states=5, n_arms=3, least_propensity=0.1, rng=rng)
    log = world.draw(20_000, rng=rng)
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity}
    one, other = (snips(**logged, target_probs=rng.dirichlet(np.ones(3), 5)[log.state]) for _ in range(2))
    difference = one - other

    low, high = bootstrap(
        np.stack([term.numerator for term in difference.terms]),
        np.stack([term.denominator for term in difference.terms]),
        n_resamples=1_000,
        seed=seed,
    )

    # Skewness moves an end by skewness z^2 / (6 sqrt(n)) standard errors: under 0.05 with weights of at most 10.
    tolerance = (quantile_error(level=0.95, n_resamples=1_000) + 0.05) * difference.standard_error
    expected_low, expected_high = difference.interval(0.95)
    assert low == pytest.approx(expected_low, abs=tolerance)
    assert high == pytest.approx(expected_high, abs=tolerance)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_is_that_of_drawing_rounds(seed, rng, method):
    """On a skewed sample, scipy's ends by indices drawn with replacement."""
    values = rng.exponential(size=300)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4_000, method={"bca": "BCa"}.get(method, method), rng=rng
    ).confidence_interval

    ours = bootstrap(values[None], np.ones((1, 300)), n_resamples=20_000, method=method, seed=seed)

    # Errors of both, each half as large again in the long tail and with BCa's moving quantiles.
    tolerance = 1.5 * math.hypot(*(quantile_error(level=0.95, n_resamples=b) for b in (4_000, 20_000)))
    assert np.abs(np.subtract(ours, theirs)).max() < tolerance * values.std() / math.sqrt(300)


def test_bca_moves_its_quantiles_as_efron_does():
    """Bias from the share of resamples below the estimate, acceleration from the influence's skewness."""
    moves = np.repeat([-1.0, 0.0, 1.0], [550, 100, 350])
    influence = np.array([-1.0, -1.0, 2.0])
    bias, acceleration = stats.norm.ppf(0.6), (8 - 1 - 1) / (6 * 6**1.5)

    found = bca_quantiles(np.array([0.025, 0.975]), moves=moves, influence=influence)

    shifted = bias + stats.norm.ppf([0.025, 0.975])
    np.testing.assert_allclose(found, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)), rtol=1e-9)


def test_bca_leans_towards_the_long_tail(rng):
    """Percentile and Wald are too low on both ends for a sample skewed to the right."""
    values = rng.exponential(size=50)
    plain, corrected = (
        bootstrap(values[None], np.ones((1, 50)), method=method, n_resamples=20_000) for method in ("percentile", "bca")
    )

    assert corrected[0] > plain[0] > wald(values.mean(), standard_error=values.std() / math.sqrt(50))[0]
    assert corrected[1] > plain[1]


def test_the_bootstrap_repeats_and_scales(rng):
    """The same seed gives the same interval; another does not; a small outcome keeps its digits."""
    values = rng.exponential(size=(1, 101))
    ones = np.ones((1, 101))

    assert bootstrap(values, ones, seed=1) == bootstrap(values, ones, seed=1) != bootstrap(values, ones, seed=2)
    # Single precision holds deviations to 6e-8, and sums of them to a few times that.
    assert bootstrap(1e-9 * values, ones, seed=1) == pytest.approx(
        1e-9 * np.array(bootstrap(values, ones, seed=1)), rel=1e-5
    )
    assert np.subtract(bootstrap(1e6 + values, ones, seed=1), 1e6) == pytest.approx(
        np.array(bootstrap(values, ones, seed=1)), rel=1e-5
    )


def test_a_resample_without_weight_is_no_number():
    """With one round of three to carry the weight, a third of resamples or so hold none: there is no interval."""
    weight = np.array([[1.0, 0.0, 0.0]])

    assert all(math.isnan(end) for end in bootstrap(weight, weight))
    assert all(math.isnan(end) for end in bootstrap(np.zeros((1, 3)), np.zeros((1, 3))))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((1, 5), (1, 4)), {}, "numerators"),
        (((5,), (5,)), {}, "numerators"),
        (((1, 5), (1, 5)), {"n_resamples": 1}, "n_resamples"),
        (((1, 5), (1, 5)), {"method": "basic"}, "method"),
    ],
)
def test_the_bootstrap_checks_its_arguments(shapes, options, message):
    """Each by name."""
    with pytest.raises(InvalidParameterError, match=message):
        bootstrap(np.ones(shapes[0]), np.ones(shapes[1]), **options)


# Joint intervals


@pytest.mark.parametrize("n_estimates", [1, 2, 10, 50])
@pytest.mark.parametrize("side", ["two-sided", "lower", "upper"])
def test_independent_estimates_take_the_quantile_of_their_largest(n_estimates, side):
    """Sidak's: the level's root is the level of each."""
    each = 0.95 ** (1 / n_estimates)
    expected = stats.norm.ppf((1 + each) / 2 if side == "two-sided" else each)

    found = joint_intervals(np.zeros(n_estimates), np.eye(n_estimates, 4_096) * 64, side=side, n_draws=50_000)

    # Off-diagonal correlations are -1 / 4095. The density of the largest at c is derived from its distribution.
    step = 1e-4
    tail = stats.norm.sf if side != "two-sided" else (lambda c: 2 * stats.norm.sf(c))
    density = ((1 - tail(expected + step)) ** n_estimates - (1 - tail(expected)) ** n_estimates) / step
    tolerance = synthetic.FALSE_FAILURE_Z * math.sqrt(0.05 * 0.95 / 50_000) / density
    assert found.critical_value == pytest.approx(expected, abs=tolerance)
    assert np.isinf(found.low).all() == (side == "upper")
    assert np.isinf(found.high).all() == (side == "lower")


def test_estimates_that_move_together_cost_no_more_than_one(rng):
    """Copies, scaled and mirrored, have one error between them."""
    influence = rng.normal(size=500)
    values = np.array([0.1, 0.2, 0.3])

    found = joint_intervals(values, [influence, 2 * influence, -influence], level=0.9, n_draws=100_000)

    z = stats.norm.ppf(0.95)
    # c is at least z, and above it by the error of its quantile: density of |z| at the 90% quantile is 2 phi(z).
    assert z <= found.critical_value < z + synthetic.FALSE_FAILURE_Z * math.sqrt(0.09 / 1e5) / (2 * stats.norm.pdf(z))
    standard_error = np.array([1, 2, 1]) * influence.std(ddof=1) / math.sqrt(500)
    np.testing.assert_allclose(found.high, values + found.critical_value * standard_error)
    np.testing.assert_allclose(found.low, values - found.critical_value * standard_error)


def test_a_certain_estimate_is_its_own_interval(rng):
    """One that does not vary, or is not known, changes nothing for the others."""
    influence = rng.normal(size=(2, 300))
    odd = np.stack([influence[0], np.full(300, 1e-17), influence[1], np.full(300, np.nan)])

    with np.errstate(invalid="ignore"):
        found = joint_intervals([1.0, 2.0, 3.0, np.nan], odd)
    alone = joint_intervals([1.0, 3.0], influence)

    assert found.critical_value == alone.critical_value
    np.testing.assert_array_equal(found.low[[0, 2]], alone.low)
    assert found.low[1] == found.high[1] == 2.0
    assert math.isnan(found.low[3])
    assert math.isnan(found.high[3])


def test_a_joint_band_covers_all_policies_at_once(seed, rng):
    """95% of logs; taken one by one, the intervals of ten policies do not."""
    world = synthetic.FiniteWorld.random(n_states=5, n_arms=4, least_propensity=0.15, rng=rng)
    targets = [rng.dirichlet(np.ones(4), 5) for _ in range(10)]
    truth = np.array([world.value(target) for target in targets])
    n_replications, joint_misses, single_misses = 200, 0, 0
    for _ in range(n_replications):
        log = world.draw(1_000, rng=rng)
        logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity}
        estimates = [ips(**logged, target_probs=target[log.state]) for target in targets]
        found = joint_intervals([e.value for e in estimates], [e.influence for e in estimates], n_draws=4_000)
        joint_misses += not ((found.low <= truth) & (truth <= found.high)).all()
        ends = np.array([estimate.interval(0.95) for estimate in estimates])
        single_misses += not ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).all()

    # One point for the normal approximation at 1,000 rounds with weights of at most 7.
    assert joint_misses <= most_misses(n_replications, rate=0.06)
    assert single_misses > joint_misses


def test_joint_intervals_check_their_arguments():
    """Each by name."""
    for arguments, options, message in (
        (([0.0], np.ones((2, 5))), {}, "influences"),
        (([0.0], np.ones((1, 1))), {}, "influences"),
        (([0.0], np.ones((1, 5))), {"side": "both"}, "side"),
        (([0.0], np.ones((1, 5))), {"n_draws": 0}, "n_draws"),
    ):
        with pytest.raises(InvalidParameterError, match=message):
            joint_intervals(*arguments, **options)


# Bounded values


def test_empirical_bernstein_is_its_formula(rng):
    """Maurer and Pontil's, both ends at half the error."""
    values = 2 + 3 * rng.beta(2, 5, 400)
    log_term = math.log(4 / 0.05)
    half_width = math.sqrt(2 * values.var(ddof=1) * log_term / 400) + 7 * 3 * log_term / (3 * 399)

    low, high = empirical_bernstein(values, low=2, high=5)

    assert (low, high) == pytest.approx((max(2, values.mean() - half_width), values.mean() + half_width))
    assert empirical_bernstein(values, low=2, high=5, side="lower")[1] == 5
    assert empirical_bernstein(values, low=2, high=5, side="upper")[0] == 2
    assert empirical_bernstein(values[:1], low=2, high=5) == (2, 5)


def naive_log_capital(values: np.ndarray, mean: float, *, low: float, unit: float, tail: float) -> np.ndarray:
    """Return the running log capital of the documented bets, one round at a time."""
    seen, log_capital, running = [], 0.0, []
    for value in values:
        squares = sum((x - sum(seen) / len(seen)) ** 2 for x in seen)
        variance = (PRIOR_VARIANCE * unit**2 + squares) / (len(seen) + 1)
        bet = math.sqrt(2 * math.log(1 / tail) / (variance * len(values)))
        log_capital += math.log1p(min(bet, BOLDNESS / (mean - low)) * (value - mean))
        running.append(log_capital)
        seen.append(value)
    return np.array(running)


def test_the_betting_bound_is_where_the_capital_meets_the_threshold(seed, rng):
    """A plain loop over rounds reaches 1 / alpha just below the bound, and nowhere above it."""
    values = 1 + 4 * rng.beta(1, 3, 120)

    low, high = betting(values, low=1, high=5, level=0.9)
    alone, _ = betting(values, low=1, high=math.inf, level=0.9, side="lower", unit=4)

    # The bisection is exact to 45 halvings; the loop's sums of squares are to 1e-12 or so.
    for bound, rounds, least, tail in ((low, values, 1, 0.05), (-high, -values, -5, 0.05), (alone, values, 1, 0.1)):
        below, above = (
            naive_log_capital(rounds, bound + step, low=least, unit=4, tail=tail).max() for step in (-1e-9, 1e-9)
        )
        assert below >= math.log(1 / tail) > above


def test_betting_has_no_unit_and_no_side(rng):
    """A change of unit carries over to the bounds; mirrored values have mirrored bounds."""
    values = rng.beta(1, 3, 200)
    low, high = betting(values, low=0, high=1)

    # To the 45 halvings of the bisection and the rounding of the changed values.
    assert betting(10 - 3 * values, low=7, high=10) == pytest.approx((10 - 3 * high, 10 - 3 * low), abs=1e-9)


def test_one_end_is_tighter_than_either_of_two(rng):
    """It has the whole error to spend."""
    values = rng.beta(1, 3, 200)
    low, high = betting(values, low=0, high=1)

    assert betting(values, low=0, high=1, side="lower")[0] > low
    assert betting(values, low=0, high=1, side="upper")[1] < high
    assert betting(values, low=0, high=1, side="lower")[1] == 1


def test_values_that_say_nothing_bound_nothing():
    """A constant at an end, or a single round."""
    assert betting(np.zeros(50), low=0, high=1, side="lower") == (0, 1)
    assert betting(np.zeros(50), low=0, high=math.inf, side="lower") == (0, math.inf)
    assert betting(np.array([0.4]), low=0, high=1) == (0, 1)
    assert 0 < betting(np.ones(500), low=0, high=1)[0] < 1


@pytest.mark.parametrize("function", [betting, empirical_bernstein])
def test_values_outside_their_range_are_refused(function):
    """NaN too, with the row; and ranges that are none."""
    for values, low, high, message in (
        ([0.0, 1.5], 0, 1, r"1\.5 in row 1"),
        ([0.0, math.nan], 0, 1, "nan in row 1"),
        ([], 0, 1, "at least one"),
        ([0.5], 1, 0, "below"),
        ([0.5], 0, math.inf, "finite"),
        ([0.5], -math.inf, 1, "finite"),
    ):
        with pytest.raises(InvalidParameterError, match=message):
            function(np.array(values), low=low, high=high)
    with pytest.raises(InvalidParameterError, match="side"):
        function(np.array([0.5]), low=0, high=1, side="both")


def test_the_unit_of_bets_is_a_positive_number():
    """It may be left out."""
    with pytest.raises(InvalidParameterError, match="unit"):
        betting(np.array([0.5]), low=0, high=1, unit=0.0)


@pytest.mark.parametrize("side", ["two-sided", "lower", "upper"])
def test_finite_sample_bounds_cover_where_the_normal_interval_does_not(seed, rng, side):
    """Rare successes, 150 rounds each: Wald misses whenever there is none, the others keep their promise."""
    rate, n_rounds, n_replications = 0.01, 150, 300
    misses = dict.fromkeys(("betting", "empirical_bernstein", "wald"), 0)
    for values in (rng.random((n_replications, n_rounds)) < rate).astype(float):
        for name, (low, high) in {
            "betting": betting(values, low=0, high=1, side=side),
            "empirical_bernstein": empirical_bernstein(values, low=0, high=1, side=side),
            "wald": wald(values.mean(), standard_error=values.std() / math.sqrt(n_rounds)),
        }.items():
            misses[name] += not low <= rate <= high

    assert misses["betting"] <= most_misses(n_replications)
    assert misses["empirical_bernstein"] <= most_misses(n_replications)
    # No success at all has probability 0.99^150 = 22%.
    assert misses["wald"] > most_misses(n_replications, rate=0.05)


def test_betting_is_tighter_than_empirical_bernstein(seed, rng):
    """By half and more, at every spread."""
    for values in (rng.beta(0.5, 0.5, 1_000), rng.beta(20, 60, 1_000)):
        widths = [high - low for low, high in (f(values, low=0, high=1) for f in (betting, empirical_bernstein))]

        assert widths[0] < 0.75 * widths[1]


# Bets


def test_bets_depend_on_the_rounds_before_only(rng):
    """Changing round 60 changes no bet up to it."""
    gain, control = rng.exponential(size=(2, 100))
    changed = gain.copy()
    changed[60:] *= 7

    (one, _), (other, _) = (
        place_bets(
            Wager(values, 0.0, control=control - 1, largest_control=20.0),
            log_threshold=3.0,
            horizon=100,
            moments=np.zeros(6),
        )
        for values in (gain, changed)
    )

    np.testing.assert_array_equal(one.size[:61], other.size[:61])
    np.testing.assert_array_equal(one.lowest[:61], other.lowest[:61])
    np.testing.assert_array_equal(one.payoff[:60], other.payoff[:60])
    assert (one.size[61:] != other.size[61:]).all()


def test_bets_in_parts_are_bets_at_once(rng):
    """The moments carry over."""
    gain, control = rng.exponential(size=(2, 100))
    moments, parts = np.zeros(6), []
    for rows in (slice(0, 1), slice(1, 40), slice(40, 100)):
        wager = Wager(gain[rows], 0.0, control=control[rows] - 1, largest_control=20.0)
        bets, moments = place_bets(wager, log_threshold=3.0, horizon=50, moments=moments)
        parts.append(bets)

    whole, _ = place_bets(
        Wager(gain, 0.0, control=control - 1, largest_control=20.0), log_threshold=3.0, horizon=50, moments=np.zeros(6)
    )

    for part, all_of_it in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_allclose(np.concatenate(part), all_of_it, rtol=1e-9)


def test_capital_falls_in_the_mean_and_stays_positive(rng):
    """At every round, whatever the share of the control: so the rejected means are an interval."""
    gain = rng.exponential(size=200)
    control = np.minimum(10 * rng.exponential(size=200), 20.0) - 1
    # The floor of gain - s control is -20 s.
    wager = Wager(np.maximum(gain, control), 0.0, control=control, largest_control=20.0)

    bets, _ = place_bets(wager, log_threshold=3.0, horizon=200, moments=np.zeros(6))

    growth = np.stack([bets.log_growth(mean) for mean in np.linspace(0.01, 5, 100)])
    assert (bets.lowest < 0).any()
    assert np.isfinite(growth).all()
    assert (np.diff(growth, axis=0) <= 0).all()


# Policies


def every_round(world: synthetic.FiniteWorld) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return each possible prompt, arm and yes-or-no outcome as one round, with its probability and its prompt."""
    n_states, n_arms = world.mean.shape
    state, arm, outcome = (a.ravel() for a in np.meshgrid(np.arange(n_states), np.arange(n_arms), [0.0, 1.0]))
    propensity = world.propensities[state, arm]
    mean = world.mean[state, arm]
    probability = world.frequency[state] * propensity * np.where(outcome == 1, mean, 1 - mean)
    return {"arm": arm, "outcome": outcome, "propensity": propensity}, probability, state


@pytest.mark.parametrize("with_predictions", [True, False])
@pytest.mark.parametrize("with_baseline", [True, False])
def test_wagers_have_the_mean_and_the_floor_they_claim(seed, rng, with_baseline, with_predictions):
    """Over every possible round: the gain's mean is the value, the control's zero, and no share is below its floor."""
    world = synthetic.FiniteWorld.random(n_states=4, n_arms=3, least_propensity=0.05, rng=rng)
    logged, probability, state = every_round(world)
    target, baseline = rng.dirichlet(np.ones(3), (2, 4))
    target[0] = [0.0, 0.0, 1.0]
    predicted = rng.uniform(-0.2, 1.2, (4, 3))
    value = world.value(target) - (world.value(baseline) if with_baseline else 0)

    lower, upper = off_policy_wagers(
        arm=logged["arm"],
        outcome=10 * logged["outcome"] - 2,
        propensity=logged["propensity"],
        target_probs=target[state],
        baseline_probs=baseline[state] if with_baseline else None,
        predicted=10 * predicted[state] - 2 if with_predictions else None,
        outcome_range=(-2.0, 8.0),
        largest_weight=20.0,
    )

    assert probability.sum() == pytest.approx(1)
    assert probability @ lower.gain == pytest.approx(value)
    assert probability @ upper.gain == pytest.approx(-value if with_baseline else 1 - value)
    for wager in (lower, upper):
        assert probability @ wager.control == pytest.approx(0, abs=1e-12)
        for share in (0.0, 0.3, 1.0):
            least = (wager.gain - share * wager.control).min()
            assert least >= wager.floor - share * wager.largest_control - 1e-12


def test_the_whole_control_makes_the_doubly_robust_score(rng):
    """Gain less control is DR's per-round value, of a policy and of a difference."""
    world = synthetic.FiniteWorld.random(n_states=4, n_arms=3, least_propensity=0.05, rng=rng)
    log = world.draw(50, rng=rng)
    target, baseline = rng.dirichlet(np.ones(3), (2, 4))[:, log.state]
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "predicted": log.mean}
    own, theirs = (dr(**logged, target_probs=probs).terms[0].numerator for probs in (target, baseline))

    value, mirrored = off_policy_wagers(**logged, target_probs=target, outcome_range=(0, 1), largest_weight=20.0)
    difference, _ = off_policy_wagers(
        **logged, target_probs=target, baseline_probs=baseline, outcome_range=(0, 1), largest_weight=20.0
    )

    np.testing.assert_allclose(value.gain - value.control, own, atol=1e-12)
    np.testing.assert_allclose(1 - (mirrored.gain - mirrored.control), own, atol=1e-12)
    np.testing.assert_allclose(difference.gain - difference.control, own - theirs, atol=1e-12)


def test_the_logging_policy_is_bounded_by_its_own_outcomes(rng):
    """All weights are one: betting on the outcomes themselves."""
    world = synthetic.FiniteWorld.random(n_states=4, n_arms=3, least_propensity=0.1, rng=rng)
    log = world.draw(300, rng=rng)

    found = off_policy_bounds(
        arm=log.arm,
        outcome=5 * log.outcome - 1,
        propensity=log.propensity,
        target_probs=log.propensities,
        outcome_range=(-1.0, 4.0),
    )

    assert found == pytest.approx(betting(5 * log.outcome - 1, low=-1, high=4), abs=1e-9)


@pytest.mark.parametrize("largest_weight", [math.inf, 500.0])
@pytest.mark.parametrize("with_baseline", [True, False])
def test_bounds_of_policies_cover_where_the_normal_interval_does_not(seed, rng, with_baseline, largest_weight):
    """Weights of 500 on a tenth of prompts and 400 rounds: Wald's intervals of IPS and DR miss, the bounds do not."""
    world, target, baseline = heavy_world(rng)
    truth = world.value(target) - (world.value(baseline) if with_baseline else 0)
    misses = dict.fromkeys(("bounds", "ips"), 0)
    n_replications = 100
    for _ in range(n_replications):
        log = world.draw(400, rng=rng)
        logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity}
        low, high = off_policy_bounds(
            **logged,
            target_probs=target[log.state],
            baseline_probs=baseline[log.state] if with_baseline else None,
            predicted=np.full((400, 2), 0.5),
            outcome_range=(0, 1),
            largest_weight=largest_weight,
        )
        misses["bounds"] += not low <= truth <= high
        estimate = ips(**logged, target_probs=target[log.state])
        if with_baseline:
            estimate = estimate - ips(**logged, target_probs=baseline[log.state])
        low, high = estimate.interval(0.95)
        misses["ips"] += not low <= truth <= high

    assert misses["bounds"] <= most_misses(n_replications)
    # Without a round of weight 500, which 0.9998^400 = 92% of logs lack, IPS is off by the tenth of prompts.
    if with_baseline:
        assert misses["ips"] > most_misses(n_replications)


def test_known_weights_make_bounds_tighter(seed, rng):
    """With good overlap the control takes the weights' variance off, with predictions or without.

    A single log's bounds are its luck, as each end is the best so far; this is their mean over 25 logs. With outcomes
    at even odds and weights of three and more it takes two fifths of the variance off, a fifth of the width.
    """
    world = synthetic.FiniteWorld.random(n_states=5, n_arms=3, least_propensity=0.1, rng=rng)
    world = replace(world, mean=rng.uniform(0.4, 0.6, (5, 3)))
    target = np.eye(3)[world.propensities.argmin(axis=1)]
    widths = []
    for _ in range(25):
        log = world.draw(2_000, rng=rng)
        widths.append(
            [
                np.ptp(
                    off_policy_bounds(
                        arm=log.arm,
                        outcome=log.outcome,
                        propensity=log.propensity,
                        target_probs=target[log.state],
                        outcome_range=(0.0, 1.0),
                        **options,
                    )
                )
                for options in ({}, {"largest_weight": 10.0}, {"largest_weight": 10.0, "predicted": log.mean})
            ]
        )

    free, known, helped = np.mean(widths, axis=0)
    assert known < 0.95 * free
    assert helped < 0.95 * free


def test_bounds_do_not_need_overlap(seed, rng):
    """Where the target's arm is never logged for half the prompts, they are wide and right."""
    world = synthetic.FiniteWorld(
        frequency=np.array([0.5, 0.5]),
        mean=np.array([[0.9, 0.1], [0.8, 0.3]]),
        propensities=np.array([[0.0, 1.0], [0.5, 0.5]]),
    )
    target, baseline = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    log = world.draw(2_000, rng=rng)
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "outcome_range": (0, 1)}

    # The part that was seen is bounded to within a tenth: 4,000 / sqrt(2,000) rounds of variance under two.
    low, high = off_policy_bounds(**logged, target_probs=target[log.state])
    assert 0.3 < low < 0.4 + 0.05
    assert 0.9 - 0.05 < high <= 1
    low, high = off_policy_bounds(**logged, target_probs=target[log.state], baseline_probs=baseline[log.state])
    assert low < world.value(target) - world.value(baseline) < high


def test_a_policy_does_not_differ_from_itself(rng):
    """Rounds on which the policies agree say so: the bounds close on zero as only certain rounds can."""
    world = synthetic.FiniteWorld.random(n_states=4, n_arms=3, least_propensity=0.05, rng=rng)
    log = world.draw(1_000, rng=rng)

    low, high = off_policy_bounds(
        arm=log.arm,
        outcome=log.outcome,
        propensity=log.propensity,
        target_probs=log.mean / log.mean.sum(axis=1, keepdims=True),
        baseline_probs=log.mean / log.mean.sum(axis=1, keepdims=True),
        outcome_range=(0, 1),
    )

    assert -0.02 < low <= 0 <= high < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": np.array([0.5, 1.5])}, "outcome must lie"),
        ({"propensity": np.array([0.5, 0.0])}, "propensity"),
        ({"outcome_range": (1.0, 0.0)}, "outcome_range"),
        ({"outcome_range": (0.0, math.inf)}, "outcome_range"),
        ({"largest_weight": 1.5}, "largest_weight must bound"),
        ({"largest_weight": 0.0}, "largest_weight must be positive"),
        ({"side": "both"}, "side"),
        ({"level": 95}, "level"),
    ],
)
def test_off_policy_bounds_check_their_arguments(change, message):
    """Each by name."""
    good = {
        "arm": np.array([0, 1]),
        "outcome": np.array([0.5, 1.0]),
        "propensity": np.array([0.5, 0.5]),
        "target_probs": np.array([[1.0, 0.0], [0.0, 1.0]]),
        "outcome_range": (0.0, 1.0),
    }

    low, high = off_policy_bounds(**good)
    assert 0 <= low < high <= 1
    with pytest.raises(InvalidParameterError, match=message):
        off_policy_bounds(**{**good, **change})


def test_values_that_are_all_the_lowest_are_bounded_in_silence():
    """A mean on trial that is the lowest value limits no bet; nothing divides by zero."""
    low, high = betting(np.zeros(50), low=0.0, high=1.0)

    assert low == 0.0
    assert 0.0 < high < 0.2
