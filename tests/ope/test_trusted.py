"""The interval to print where outcomes are judges' labels that gold ones corrected."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError
from pointsman.ope import GoldLabels, trusted_interval
from pointsman.ope.diagnostics import gate
from pointsman.ope.diagnostics.trust import LEAST_EFFECTIVE, LEAST_EFFECTIVE_GOLD
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.intervals import gain_on_logging_bounds, off_policy_bounds, wald
from pointsman.ope.trusted import TrustedIntervals, degrees_of_freedom


def mean_of(values):
    """Return the estimate that is a plain mean."""
    values = np.asarray(values, dtype=np.float64)
    return Estimate(name="mean", terms=(Ratio(values, np.ones(values.size)),))


# Student's t


@pytest.mark.parametrize("degrees", [1.0, 2.5, 7.0, 300.0])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_wald_with_degrees_of_freedom_is_students(degrees, level):
    """Its ends are scipy's quantiles; with infinitely many it is the normal's."""
    found = wald(0.3, standard_error=0.2, level=level, degrees_of_freedom=degrees)
    assert found == pytest.approx(stats.t.interval(level, degrees, loc=0.3, scale=0.2))
    normal = wald(0.3, standard_error=0.2, level=level)
    assert found[1] > normal[1]
    assert wald(0.3, standard_error=0.2, level=level, degrees_of_freedom=math.inf) == normal


def test_an_estimates_interval_takes_them(rng):
    """As `wald` does, about the estimate's own value."""
    estimate = mean_of(rng.normal(size=50))
    expected = stats.t.interval(0.9, 4.5, loc=estimate.value, scale=estimate.standard_error)
    assert estimate.interval(0.9, degrees_of_freedom=4.5) == pytest.approx(expected)


def test_normal_influence_has_as_many_degrees_as_rounds(seed, rng):
    """The kurtosis of a normal is three: 2 n / (3 - 1) = n."""
    n = 4_000
    # A sample's kurtosis of n normals is off by sqrt(24 / n), and degrees by half of that, relatively.
    tolerance = FALSE_FAILURE_Z * 1.2 * math.sqrt(24 / n) / 2
    assert degrees_of_freedom(mean_of(rng.normal(size=n))) / n == pytest.approx(1, abs=tolerance)


def test_degrees_are_those_of_the_spread_of_the_variance(rng):
    """Over many samples of ten, of any shape, the estimated variance varies as that of so many degrees does."""
    law = stats.gamma(4.0)
    samples = law.rvs((20_000, 200), random_state=rng)
    variances = samples.var(axis=1)
    kurtosis = 3 + float(law.stats("k"))
    expected = 2 * 200 / (kurtosis - 1)
    found = 2 * variances.mean() ** 2 / variances.var()
    # Relative spread of a variance over 20,000 samples: sqrt(2 / 20,000) and a little for its own tail.
    assert found / expected == pytest.approx(1, abs=FALSE_FAILURE_Z * 3 * math.sqrt(2 / 20_000))
    many = degrees_of_freedom(mean_of(law.rvs(400_000, random_state=rng))) / 400_000 * 200
    # A sample kurtosis rests on eighth moments: a few percent at this size.
    assert many == pytest.approx(expected, rel=0.1)


def test_a_few_heavy_rounds_leave_few_degrees():
    """Rounds that carry all of it, among however many: about twice as many as they, whatever the length of the log."""
    for n in (1_000, 100_000):
        values = np.zeros(n)
        values[:5] = [1, -1, 1, -1, 1]
        assert degrees_of_freedom(mean_of(values)) == pytest.approx(10, rel=0.02)


def test_no_spread_has_no_degrees_to_lose():
    """Equal outcomes, and such as are all one step from their mean: infinite, not a division by zero."""
    assert degrees_of_freedom(mean_of(np.full(10, 0.3))) == math.inf
    assert degrees_of_freedom(mean_of([0.0, 1.0] * 5)) == math.inf


# The gate


def corrected(rng, *, n_rounds=3_000, rho=0.1):
    """Return pseudo-outcomes of a mean that gold labels correct, and one over their probability."""
    gold, judged = rng.random(n_rounds), rng.random(n_rounds)
    gold_weight = (rng.random(n_rounds) < rho) / rho
    return mean_of(judged + gold_weight * (gold - judged)), gold_weight


def test_enough_gold_labels_open_it(seed, rng):
    """300 gold labels in 3,000 rounds of weight one; the size it tells is theirs, not the log's."""
    estimate, gold_weight = corrected(rng)
    found = gate(estimate, weight=np.ones(3_000), gold_weight=gold_weight)
    assert found.interval == "normal"
    assert found.reasons == ()
    assert found.effective_sample_size == pytest.approx(np.count_nonzero(gold_weight))
    assert gate(estimate, weight=np.ones(3_000)).effective_sample_size == 3_000


@pytest.mark.parametrize(("n_gold", "is_open"), [(LEAST_EFFECTIVE_GOLD, True), (LEAST_EFFECTIVE_GOLD - 1, False)])
def test_few_gold_labels_close_it(rng, n_gold, is_open):
    """Twenty are enough, where a log of rounds that speak for themselves needs a hundred."""
    n_rounds = 400
    gold_weight = np.where(np.arange(n_rounds) < n_gold, n_rounds / n_gold, 0.0)
    estimate = mean_of(rng.normal(size=n_rounds))
    found = gate(estimate, weight=np.ones(n_rounds), gold_weight=gold_weight)
    assert (found.interval == "normal") is is_open
    if not is_open:
        assert found.reasons == ("the effective sample size is 19 gold labels, 20 are needed",)
    plain = gate(estimate, weight=gold_weight)
    assert plain.interval == "finite-sample"
    assert f"{n_gold} rounds, {LEAST_EFFECTIVE} are needed" in plain.reasons[0]


def test_gold_labels_that_stand_for_too_many_close_it(seed, rng):
    """Weights that average two say that the probabilities of a gold label are wrong."""
    estimate, gold_weight = corrected(rng)
    found = gate(estimate, weight=np.ones(3_000), gold_weight=2 * gold_weight)
    assert found.interval == "finite-sample"
    assert "the importance weights average 2.0" in found.reasons[0] or "average 1.9" in found.reasons[0]


def test_weights_of_policy_and_gold_multiply(rng):
    """Gold labels where the policy does not go count for nothing."""
    estimate, gold_weight = corrected(rng)
    weight = np.where(np.arange(3_000) % 2, 2.0, 0.0)
    found = gate(estimate, weight=weight, gold_weight=gold_weight)
    assert found.effective_sample_size == pytest.approx(np.count_nonzero(gold_weight[1::2]))


def test_skewness_is_left_to_students_t(rng):
    """An influence too skewed for a normal interval closes the gate of plain outcomes only."""
    estimate, weight = mean_of(rng.standard_gamma(0.02, size=2_000)), np.ones(2_000)
    assert gate(estimate, weight=weight).interval == "finite-sample"
    assert gate(estimate, weight=weight, gold_weight=weight).interval == "normal"


# Intervals


def judged_world(rng, *, n_rounds=4_000, rho=(0.02, 0.12)):
    """Return rounds of two prompts and arms, a target, gold labels at these probabilities; a baseline; and values."""
    mean = np.array([[0.2, 0.7], [0.9, 0.4]])
    x, arm = rng.integers(2, size=n_rounds), rng.integers(2, size=n_rounds)
    outcome = (rng.random(n_rounds) < mean[x, arm]).astype(np.float64)
    probability = np.array(rho)[x]
    has_gold = rng.random(n_rounds) < probability
    rounds = {
        "arm": arm,
        "outcome": outcome,
        "propensity": np.full(n_rounds, 0.5),
        "target_probs": np.array([[0.1, 0.9], [0.3, 0.7]])[x],
        "outcome_range": (0.0, 1.0),
        "gold": GoldLabels(weight=has_gold / probability, outcome=np.where(has_gold, outcome, np.nan)),
    }
    baseline = np.array([[0.6, 0.4], [0.8, 0.2]])
    value = 0.5 * (mean * [[0.1, 0.9], [0.3, 0.7]]).sum()
    return rounds, baseline[x], {"value": value, "baseline": 0.5 * (mean * baseline).sum(), "logging": mean.mean()}


@pytest.mark.parametrize("rho", [(0.05, 0.05), (0.02, 0.12)])
def test_finite_sample_bounds_by_gold_alone_cover(seed, rng, rho):
    """Of a value, the log's own value, a difference and a gain on the log, however unevenly gold was asked for."""
    misses = dict.fromkeys(("value", "logging", "difference", "gain"), 0)
    n_replications = 12
    for _ in range(n_replications):
        rounds, baseline, truth = judged_world(rng, rho=rho)
        own = np.eye(2)[rounds["arm"]]
        cases = {
            "value": (rounds, truth["value"]),
            "logging": (rounds | {"target_probs": own, "propensity": np.ones(own.shape[0])}, truth["logging"]),
            "difference": (rounds | {"baseline_probs": baseline}, truth["value"] - truth["baseline"]),
            "gain": (rounds | {"on_logging": True}, truth["value"] - truth["logging"]),
        }
        for name, (given, expected) in cases.items():
            low, high = TrustedIntervals(**given).finite_sample
            assert low <= high
            misses[name] += not low <= expected <= high
    # At most 5% each, and betting is well below that.
    assert max(misses.values()) <= stats.binom.isf(1e-6, n_replications, 0.05)


def test_bounds_by_gold_alone_are_those_of_the_gold_rounds(rng):
    """Where all gold labels weigh the same they are the bounds of a log that holds those rounds only."""
    rounds, baseline, _ = judged_world(rng, rho=(0.05, 0.05))
    gold = rounds["gold"]
    rows = np.flatnonzero(gold.weight)
    alone = {name: rounds[name][rows] for name in ("arm", "outcome", "propensity", "target_probs")}
    alone["outcome_range"] = (0.0, 1.0)
    close = {"rel": 1e-6, "abs": 1e-9}
    assert TrustedIntervals(**rounds).finite_sample == pytest.approx(off_policy_bounds(**alone), **close)
    difference = TrustedIntervals(**rounds, baseline_probs=baseline).finite_sample
    assert difference == pytest.approx(off_policy_bounds(**alone, baseline_probs=baseline[rows]), **close)
    weight = alone["target_probs"][np.arange(rows.size), alone["arm"]] / 0.5
    gain = TrustedIntervals(**rounds, on_logging=True).finite_sample
    expected = gain_on_logging_bounds(weight=weight, outcome=alone["outcome"], outcome_range=(0.0, 1.0))
    assert gain == pytest.approx(expected, **close)


def test_the_logs_own_decisions_gain_nothing_on_the_log(rng):
    """A target that is the logging policy: whatever gold labels weigh, no round says that it gains or loses."""
    rounds, _, _ = judged_world(rng)
    low, high = TrustedIntervals(**rounds | {"target_probs": np.full((4_000, 2), 0.5)}, on_logging=True).finite_sample
    # Some 280 bets on nothing at all, the largest weight three times the mean: 3 log(40) / 280 = 0.04 if all were bold.
    assert -0.1 < low <= 0 <= high < 0.1


def test_judged_outcomes_are_not_looked_at_by_them(rng):
    """Pseudo-outcomes outside [0, 1] are no trouble, and change nothing."""
    rounds, _, _ = judged_world(rng)
    wild = rounds | {"outcome": rng.normal(size=rounds["outcome"].size) * 10}
    assert TrustedIntervals(**wild).finite_sample == TrustedIntervals(**rounds).finite_sample


def test_no_gold_label_among_the_rounds_is_an_error(rng):
    """There is nothing to bet on."""
    rounds, _, _ = judged_world(rng)
    n = rounds["arm"].size
    nothing = GoldLabels(weight=np.zeros(n), outcome=np.full(n, np.nan))
    with pytest.raises(InvalidParameterError, match="gold must hold a label among these rounds; got none"):
        TrustedIntervals(**rounds | {"gold": nothing}).finite_sample  # noqa: B018


def test_an_open_gate_gives_students_interval_and_a_closed_one_gold_alone(rng):
    """By the degrees of the influence; plain outcomes keep the normal's."""
    rounds, _, truth = judged_world(rng, rho=(0.1, 0.1))
    weight = rounds["target_probs"][np.arange(4_000), rounds["arm"]] / 0.5
    pseudo = 0.5 + rounds["gold"].weight * (rounds["outcome"] - 0.5)
    estimate = mean_of(weight * pseudo)
    found = trusted_interval(estimate, **rounds)
    assert found.kind == "normal"
    degrees = degrees_of_freedom(estimate)
    assert degrees < 4_000
    assert (found.low, found.high) == estimate.interval(degrees_of_freedom=degrees)
    assert found.low < truth["value"] < found.high
    plain = trusted_interval(estimate, **rounds | {"gold": None})
    assert (plain.low, plain.high) == estimate.interval()

    few = np.flatnonzero(rounds["gold"].weight)[LEAST_EFFECTIVE_GOLD - 1 :]
    scarce = rounds["gold"].weight.copy()
    scarce[few] = 0
    scarce *= 4_000 / scarce.sum()
    closed = rounds | {"gold": GoldLabels(weight=scarce, outcome=rounds["gold"].outcome)}
    found = trusted_interval(estimate, **closed)
    assert found.kind == "finite-sample"
    assert "gold labels" in found.reasons[0]
    assert (found.low, found.high) == TrustedIntervals(**closed).finite_sample


def test_gold_labels_of_some_rounds():
    """By mask or by place."""
    gold = GoldLabels(weight=np.array([2.0, 0.0, 4.0]), outcome=np.array([0.1, np.nan, 0.3]))
    for rows in (np.array([2, 0]), np.array([True, False, True])):
        some = gold.take(rows)
        np.testing.assert_array_equal(some.weight, gold.weight[rows])
        np.testing.assert_array_equal(some.outcome, gold.outcome[rows])
