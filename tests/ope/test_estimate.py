"""The algebra of estimates, and the sums they can be computed from."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import BIAS_Z, Estimate, Ratio, merge

ROUNDING = 1e-12
"""Sums of a few thousand numbers of order one, in double precision, taken in another order."""

N_ROUNDS = 2_000


def mean_of(value: np.ndarray, **rest) -> Estimate:
    """Return a plain mean."""
    return Estimate(name="mean", terms=(Ratio(value, np.ones(value.size)),), **rest)


def ratio_of(numerator: np.ndarray, denominator: np.ndarray, **rest) -> Estimate:
    """Return a ratio of means."""
    return Estimate(name="ratio", terms=(Ratio(numerator, denominator),), **rest)


def cut(estimate: Estimate, rows: slice) -> Estimate:
    """Return the estimate of these rounds."""
    return Estimate(
        name=estimate.name,
        terms=tuple(Ratio(term.numerator[rows], term.denominator[rows]) for term in estimate.terms),
        omitted=None if estimate.omitted is None else estimate.omitted[rows],
        bias_bound=estimate.bias_bound,
        parameter=estimate.parameter,
    )


def streamed(estimate: Estimate, edges: list[int]):
    """Return the sums of the estimate, added one stretch of rounds at a time."""
    ends = [0, *edges, estimate.n_rounds]
    first, *rest = (cut(estimate, slice(start, stop)).sums() for start, stop in pairwise(ends))
    return sum(rest, start=first)


@pytest.fixture
def estimate(rng):
    """A sum of a mean and a ratio, less another mean that goes with the first, with something omitted."""
    value, weight = rng.uniform(size=N_ROUNDS), rng.exponential(size=N_ROUNDS)
    omitted = rng.normal(size=N_ROUNDS) + 0.1
    return (
        mean_of(value, omitted=omitted)
        + ratio_of(weight * rng.uniform(size=N_ROUNDS), weight)
        - mean_of(value**2, omitted=0.5 * omitted)
    )


def test_the_influence_of_a_ratio_is_its_derivative(rng):
    """More weight on a round moves the ratio by its influence over n, to first order."""
    weight = rng.exponential(size=300)
    term = Ratio(weight * rng.uniform(size=300), weight)
    step = 1e-6

    for i in range(5):
        emphasis = np.ones(300)
        emphasis[i] += step
        moved = (emphasis @ term.numerator) / (emphasis @ term.denominator)
        # The second derivative is of order one.
        assert (moved - term.value) / step == pytest.approx(term.influence[i] / 300, abs=10 * step)


def test_a_bias_bound_widens_the_interval_on_both_sides(rng):
    """By itself; an infinite one leaves no interval."""
    value = rng.uniform(size=50)
    low, high = mean_of(value).interval(0.9)

    wide = mean_of(value, bias_bound=0.25).interval(0.9)

    assert wide == pytest.approx((low - 0.25, high + 0.25), rel=ROUNDING)
    assert all(math.isnan(end) for end in mean_of(value, bias_bound=math.inf).interval())


def test_stated_bias_bounds_add(rng):
    """And scale with the estimate, whatever the sign; nothing times infinity is nothing."""
    value = rng.uniform(size=50)
    small, large, unknown = (mean_of(value, bias_bound=bound) for bound in (0.1, 0.3, math.inf))

    assert (small + large).bias_bound == (small - large).bias_bound == pytest.approx(0.4)
    assert (-2 * small).bias_bound == pytest.approx(0.2)
    assert (small + 0 * unknown).bias_bound == pytest.approx(0.1)
    assert (small - unknown).bias_bound == math.inf


def test_what_two_estimates_omit_cancels_in_their_difference(rng):
    """The bound is then that of the difference, which may be far below the sum; a stated one can only be added."""
    value, omitted = rng.uniform(size=400), rng.normal(size=400) + 1
    one, other = mean_of(value, omitted=omitted), mean_of(value, omitted=omitted + 0.01)

    expected = BIAS_Z * omitted.std(ddof=1) / 20 + omitted.mean()
    assert one.bias_bound == pytest.approx(expected, rel=ROUNDING)
    assert (one - one).bias_bound == 0
    assert (other - one).bias_bound == pytest.approx(0.01, rel=1e-10)  # the difference of numbers of order one
    assert (one + mean_of(value)).bias_bound == one.bias_bound
    assert (-3 * one).bias_bound == pytest.approx(3 * one.bias_bound, rel=ROUNDING)
    assert (one - mean_of(value, bias_bound=0.5)).bias_bound == pytest.approx(one.bias_bound + 0.5)
    assert mean_of(value[:1], omitted=omitted[:1]).bias_bound == math.inf


def test_a_hyper_parameter_survives_algebra_only_where_it_is_one(rng):
    """The difference of two policies at the same shrinkage has it; at two shrinkages it has none."""
    value = rng.uniform(size=10)
    one, same, other = (mean_of(value, parameter=parameter) for parameter in (2.0, 2.0, 3.0))

    assert (one - same).parameter == (5 * one).parameter == 2
    assert (one - other).parameter is None


@pytest.mark.parametrize("edges", [[], [1], [1, 2, 1_000], list(range(20, N_ROUNDS, 20))])
def test_streamed_sums_are_one_pass(estimate, edges):
    """Value, standard error, bias bound and interval, whatever the shards, from four numbers squared at most."""
    sums = streamed(estimate, edges)

    assert sums.n_rounds == N_ROUNDS
    assert sums.value == pytest.approx(estimate.value, rel=ROUNDING)
    assert sums.standard_error == pytest.approx(estimate.standard_error, rel=ROUNDING)
    assert sums.bias_bound == pytest.approx(estimate.bias_bound, rel=ROUNDING)
    assert sums.interval(0.9) == pytest.approx(estimate.interval(0.9), rel=ROUNDING)
    assert sums.comoment.shape == (2 * 3 + 1,) * 2


def test_sums_add_in_any_order(estimate):
    """Associative and commutative, to rounding."""
    one, two, three = (cut(estimate, rows).sums() for rows in (slice(0, 7), slice(7, 900), slice(900, None)))

    for sums in (one + (two + three), (three + one) + two):
        assert sums.value == pytest.approx(estimate.value, rel=ROUNDING)
        assert sums.standard_error == pytest.approx(estimate.standard_error, rel=ROUNDING)


def test_sums_keep_their_digits_under_a_large_constant(rng):
    """A ratio does not see a constant in its outcome, here a million: squares of it alone would leave four digits.

    One rounding of a number of 10^6 is 10^-10, against a spread of order one.
    """
    weight, outcome = rng.exponential(size=N_ROUNDS), rng.uniform(size=N_ROUNDS)
    plain, lifted = (ratio_of(weight * (outcome + constant), weight) for constant in (0, 1e6))

    sums = streamed(lifted, list(range(100, N_ROUNDS, 100)))

    assert sums.standard_error == pytest.approx(plain.standard_error, rel=1e-9)
    assert sums.value - 1e6 == pytest.approx(plain.value, rel=1e-8)


def test_stated_bias_bounds_are_averaged_over_shards(rng):
    """By rounds, in a merger and in sums: the bias of a mean is the mean of the biases."""
    value = rng.uniform(size=40)
    shards = [mean_of(value[:10], bias_bound=0.4), mean_of(value[10:], bias_bound=0.1)]

    assert merge(shards).bias_bound == pytest.approx(0.175)
    assert (shards[0].sums() + shards[1].sums()).bias_bound == pytest.approx(0.175)
    unknown = mean_of(value, bias_bound=math.inf).sums()
    assert (unknown + shards[0].sums()).bias_bound == math.inf


def test_a_shard_without_weight_does_no_harm(rng):
    """Its own ratio is undefined; that of all rounds is not."""
    weight = np.concatenate([np.zeros(5), rng.exponential(size=50)])
    estimate = ratio_of(weight * rng.uniform(size=55), weight)
    nothing, rest = cut(estimate, slice(0, 5)).sums(), cut(estimate, slice(5, None)).sums()

    assert math.isnan(nothing.value)
    assert math.isnan(nothing.standard_error)
    for sums in (nothing + rest, rest + nothing):
        assert sums.value == pytest.approx(estimate.value, rel=ROUNDING)
        assert sums.standard_error == pytest.approx(estimate.standard_error, rel=ROUNDING)


def test_one_round_has_no_spread():
    """NaN, not a number that looks like one."""
    single = mean_of(np.array([0.3]), omitted=np.array([0.1]))

    for found in (single, single.sums()):
        assert math.isnan(found.standard_error)
        assert found.bias_bound == math.inf


def test_only_like_estimates_mix(rng):
    """A sum needs the same rounds; a merger the same estimator, of the same hyper-parameter."""
    value = rng.uniform(size=20)

    with pytest.raises(InvalidParameterError, match="same rounds; got 20 and 10"):
        mean_of(value) - mean_of(value[:10])
    for other in (ratio_of(value, value), mean_of(value, parameter=2.0), mean_of(value, omitted=value)):
        with pytest.raises(InvalidParameterError, match="one estimator of one hyper-parameter"):
            merge([mean_of(value), other])
        with pytest.raises(InvalidParameterError, match="one estimator of one hyper-parameter"):
            mean_of(value).sums() + other.sums()
    with pytest.raises(InvalidParameterError, match="one estimator"):
        merge([])
