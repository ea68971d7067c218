"""Hidden confounding: bounds that hold at its true strength, fail below it, and end where nothing is assumed."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import synthetic

from pointsman.errors import InvalidParameterError, OverlapError
from pointsman.ope.estimate import Ratio
from pointsman.ope.estimators import dr, snips
from pointsman.ope.sensitivity import (
    flip_gamma,
    manski_bounds,
    sensitivity_bounds,
    sharp_bounds,
    sharp_flip_gamma,
)

UNIT = (0.0, 1.0)
GAMMAS = (1.0, 1.2, 1.7, 3.0, 10.0, 1e9)
N_ARMS = 3


def world(n_rounds: int, *, rng: np.random.Generator) -> dict[str, Any]:
    """Return an ordinary log with two policies and predictions."""
    drawn = synthetic.FiniteWorld.random(n_states=6, n_arms=N_ARMS, least_propensity=0.1, rng=rng)
    log = drawn.draw(n_rounds, rng=rng)
    target, against = rng.dirichlet(np.ones(N_ARMS), (2, 6))
    return {
        "arm": log.arm,
        "outcome": log.outcome,
        "propensity": log.propensity,
        "predicted": np.clip(log.mean + 0.05 * rng.normal(size=log.mean.shape), 0, 1),
        "target_probs": target[log.state],
        "against_probs": against[log.state],
    }


def hidden(n_rounds: int, *, gamma: float, rng: np.random.Generator) -> tuple[dict[str, Any], float]:
    """Return a log whose hidden confounder reaches gamma everywhere, its target policy, and that policy's true value.

    The target calls one arm in each of three states, of nominal propensity e. The confounder u decides that arm's
    outcome, y = u, and its true inverse propensity, 1 + (1 / e - 1) gamma where u = 1 and 1 + (1 / e - 1) / gamma
    elsewhere; P(u = 1) is what makes the propensity e on average.
    """
    nominal = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.25, 0.5, 0.25]])
    called = np.array([0, 1, 2])
    e = nominal[called, called]
    if_bad, if_good = (1 / (1 + (1 / e - 1) * ratio) for ratio in (1 / gamma, gamma))
    good_share = (if_bad - e) / (if_bad - if_good)
    state = rng.integers(0, 3, n_rounds)
    u = rng.random(n_rounds) < good_share[state]
    of_called = np.where(u, if_good[state], if_bad[state])
    propensities = nominal[state] * ((1 - of_called) / (1 - e[state]))[:, None]
    propensities[np.arange(n_rounds), called[state]] = of_called
    arm = synthetic.draw_arms(propensities, rng=rng)
    log = {
        "arm": arm,
        "outcome": np.where(arm == called[state], u, rng.random(n_rounds) < 0.5).astype(np.float64),
        "propensity": nominal[state, arm],
        "target_probs": np.eye(N_ARMS)[called[state]],
    }
    return log, float(good_share.mean())


def without(log: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a log's arrays but for these."""
    return {name: value for name, value in log.items() if name not in names}


def folds(n_rounds: int) -> np.ndarray:
    """Two folds, alternating."""
    return np.arange(n_rounds) % 2


def test_without_hidden_confounding_both_bounds_are_the_estimate(seed, rng):
    """Gamma = 1 is snips for the stabilised bounds and dr for the sharp ones, whatever the range cuts off."""
    log = world(300, rng=rng)
    alone = without(log, "against_probs")
    plain = without(alone, "predicted")

    for outcome_range in (None, UNIT):
        found = sensitivity_bounds(**plain, gamma=1.0, outcome_range=outcome_range)
        assert [found.low[0], found.high[0]] == pytest.approx([snips(**plain).value] * 2, rel=1e-12)
    by_arm = sensitivity_bounds(**without(log, "predicted"), gamma=1.0, normalise="arm")
    assert by_arm.low[0] == pytest.approx(by_arm.high[0], rel=1e-12)
    sharp = sharp_bounds(**log, gamma=1.0, fold=folds(300), outcome_range=UNIT)
    against = alone | {"target_probs": log["against_probs"]}
    for bound in sharp:
        assert bound.value == pytest.approx(dr(**alone).value - dr(**against).value, abs=1e-12)
        assert bound.influence == pytest.approx((dr(**alone) - dr(**against)).influence, abs=1e-12)


@pytest.mark.parametrize("greatest", [True, False])
def test_the_scan_finds_the_worst_of_all_choices(seed, rng, greatest):
    """On eight rounds, all 2^8 corners of the r can be tried; a ratio of linear functions is extreme at a corner."""
    n_rounds, gamma = 8, 2.5
    y, e, d = rng.normal(size=n_rounds), rng.uniform(0.1, 1.0, n_rounds), rng.uniform(0.1, 1.0, n_rounds)
    corners = np.array(list(product([gamma, 1 / gamma], repeat=n_rounds)))
    weight = d * (1 + (1 / e - 1) * corners)
    values = (weight * y).sum(axis=1) / weight.sum(axis=1)

    found = sensitivity_bounds(
        arm=np.zeros(n_rounds, dtype=int),
        outcome=y,
        propensity=e,
        target_probs=np.column_stack([d, 1 - d]),
        gamma=gamma,
    )

    # The policy's other arm has no round here: all it takes is credited at the ratio, as in snips.
    assert (found.high if greatest else found.low)[0] == pytest.approx(values.max() if greatest else values.min())


@pytest.mark.parametrize("normalise", ["all", "arm"])
def test_bounds_widen_with_gamma_and_end_at_manski(seed, rng, normalise):
    """Within the range of outcomes throughout; for yes-or-no outcomes the limit is Manski's."""
    log = without(world(400, rng=rng), "predicted")
    alone = without(log, "against_probs")

    for arrays, (least, greatest) in ((alone, (0, 1)), (log, (-1, 1))):
        found = sensitivity_bounds(**arrays, gamma=GAMMAS, normalise=normalise, outcome_range=UNIT)
        manski = manski_bounds(**without(arrays, "propensity"), outcome_range=UNIT)
        assert np.all(np.diff(found.low) <= 1e-12)
        assert np.all(np.diff(found.high) >= -1e-12)
        assert np.all((found.low >= least - 1e-12) & (found.high <= greatest + 1e-12))
        assert [found.low[-1], found.high[-1]] == pytest.approx([manski.low.value, manski.high.value], abs=1e-6)


def test_sharp_bounds_widen_with_gamma_and_end_at_manski(seed, rng):
    """For a fixed quantile R grows with gamma; that quantiles change with it moves the mean in second order only."""
    log = world(2_000, rng=rng)

    found = [sharp_bounds(**log, gamma=gamma, fold=folds(2_000), outcome_range=UNIT) for gamma in GAMMAS[:-1]]
    manski = manski_bounds(**without(log, "predicted", "propensity"), outcome_range=UNIT)
    limit = sharp_bounds(**log, gamma=np.inf, fold=folds(2_000), outcome_range=UNIT)

    for (low, high), (next_low, next_high) in pairwise(found):
        assert low.value - next_low.value > -low.standard_error
        assert next_high.value - high.value > -high.standard_error
    assert [bound.value for bound in limit] == [bound.value for bound in manski]


def test_manski_counts_what_was_seen_and_bounds_the_rest(rng):
    """Two rounds by hand: one decision seen, half of the other."""
    found = manski_bounds(
        arm=np.array([0, 1]),
        outcome=np.array([0.5, 1.0]),
        target_probs=np.array([[1.0, 0.0], [0.5, 0.5]]),
        outcome_range=UNIT,
    )

    assert [found.low.value, found.high.value] == [(0.5 + 0.5) / 2, (0.5 + 1.0) / 2]


@pytest.mark.parametrize("gamma", [1.5, 3.0])
@pytest.mark.parametrize("good", [True, False])
def test_bounds_reach_the_truth_at_its_gamma_and_miss_it_below(seed, rng, gamma, good):
    """Where the confounder does its worst, the truth is the bound itself: at less than gamma it lies beyond."""
    n_rounds = 20_000
    log, truth = hidden(n_rounds, gamma=gamma, rng=rng)
    if not good:
        log["outcome"], truth = 1 - log["outcome"], 1 - truth
    side = 1 if good else -1
    below = 1 + (gamma - 1) * 0.4
    predicted = np.full((n_rounds, N_ARMS), 0.5)

    for strength in (gamma, below):
        worst = np.where(log["outcome"] == good, strength, 1 / strength)
        own = log["target_probs"][np.arange(n_rounds), log["arm"]] * (1 + (1 / log["propensity"] - 1) * worst)
        stabilised = Ratio(own * log["outcome"], own)
        standard_error = stabilised.influence.std() / np.sqrt(n_rounds)
        found = sensitivity_bounds(**log, gamma=strength)
        sharp = sharp_bounds(**log, predicted=predicted, gamma=strength, fold=folds(n_rounds), outcome_range=UNIT)
        for bound, noise in (
            ((found.high if good else found.low)[0], standard_error),
            (sharp[int(good)].value, sharp[int(good)].standard_error),
        ):
            if strength == gamma:
                assert abs(bound - truth) < synthetic.FALSE_FAILURE_Z * noise
            else:
                assert side * (truth - bound) > synthetic.FALSE_FAILURE_Z * noise


def test_a_point_estimate_is_wrong_where_bounds_are_right(seed, rng):
    """Hidden confounding at gamma = 3 puts the truth far outside the interval, and inside the bounds' interval."""
    log, truth = hidden(20_000, gamma=3.0, rng=rng)

    low, high = snips(**log).interval()
    found = sensitivity_bounds(**log, gamma=3.3, n_resamples=100, seed=seed)

    assert not low - (high - low) <= truth <= high + (high - low)
    assert found.ci_low[0] <= found.low[0] <= truth <= found.high[0] <= found.ci_high[0]


def test_sharp_bounds_are_tighter_where_the_context_tells_outcomes_apart(seed, rng):
    """Predictions leave little to confound: a stabilised bound moves weight between contexts, which is not allowed."""
    n_rounds = 4_000
    x = rng.random(n_rounds)
    arm = rng.integers(0, 2, n_rounds)
    outcome = np.clip(x + 0.02 * rng.normal(size=n_rounds), 0, 1)
    log = {
        "arm": arm,
        "outcome": outcome,
        "propensity": np.full(n_rounds, 0.5),
        "target_probs": np.tile([1.0, 0.0], (n_rounds, 1)),
    }

    wide = sensitivity_bounds(**log, gamma=3.0)
    sharp = sharp_bounds(**log, predicted=np.tile(x[:, None], (1, 2)), gamma=3.0, fold=folds(n_rounds))

    # y = x + noise of sd 0.02, so the sharp width is of that order, and the other that of x itself.
    assert sharp.high.value - sharp.low.value < 0.02 * 3 + 2 * sharp.high.standard_error
    assert wide.high[0] - wide.low[0] > 0.15


@pytest.mark.parametrize("gamma", [1.5, 4.0])
def test_the_sharp_bound_is_that_of_the_outcomes_tail(seed, rng, gamma):
    """Uniform outcomes: the mean of the upper tail of size 1 / (1 + gamma) is 1 - 1 / (2 (1 + gamma))."""
    n_rounds = 20_000
    tail = 1 - 1 / (2 * (1 + gamma))
    rho = 0.5 / gamma + (1 - 1 / gamma) * tail

    low, high = sharp_bounds(
        arm=rng.integers(0, 2, n_rounds),
        outcome=rng.random(n_rounds),
        propensity=np.full(n_rounds, 0.5),
        predicted=np.full((n_rounds, 2), 0.5),
        target_probs=np.tile([1.0, 0.0], (n_rounds, 1)),
        gamma=gamma,
        fold=folds(n_rounds),
    )

    expected = (0.5 + rho) / 2
    assert abs(high.value - expected) < synthetic.FALSE_FAILURE_Z * high.standard_error
    assert abs(low.value - (1 - expected)) < synthetic.FALSE_FAILURE_Z * low.standard_error


@pytest.mark.parametrize("n_resamples", [0, 40])
def test_a_conclusion_flips_where_its_lower_bound_reaches_zero(seed, rng, n_resamples):
    """Just before the flip the lower bound, or lower end, is positive, just after it is not."""
    n_rounds = 2_000
    arm = rng.integers(0, 2, n_rounds)
    log: dict[str, Any] = {
        "arm": arm,
        "outcome": (rng.random(n_rounds) < np.array([0.4, 0.6])[arm]).astype(np.float64),
        "propensity": np.full(n_rounds, 0.5),
        "target_probs": np.tile([0.0, 1.0], (n_rounds, 1)),
        "against_probs": np.tile([1.0, 0.0], (n_rounds, 1)),
    }
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "level": 0.9}

    flip = flip_gamma(**log, outcome_range=UNIT, **options)
    around = sensitivity_bounds(**log, gamma=(flip * 0.9999, flip * 1.0001), outcome_range=UNIT, **options)

    low = around.ci_low if n_resamples else around.low
    assert low[0] > 0 > low[1]
    assert 1 < flip < 3
    if n_resamples:
        assert flip < flip_gamma(**log, outcome_range=UNIT)
    backwards = log | {"target_probs": log["against_probs"], "against_probs": log["target_probs"]}
    assert flip_gamma(**backwards, **options) == 1


def test_a_gain_that_nothing_can_hide_never_flips():
    """An arm that always works against one that never does, both tried: infinity."""
    arm = np.arange(100) % 2
    log: dict[str, Any] = {
        "arm": arm,
        "outcome": np.where(arm == 1, 1.0, -1.0),
        "propensity": np.full(100, 0.5),
        "target_probs": np.tile([0.0, 1.0], (100, 1)),
    }

    assert flip_gamma(**log) == np.inf
    assert sharp_flip_gamma(**log, predicted=np.tile([-1.0, 1.0], (100, 1)), fold=folds(100)) == np.inf


def test_the_sharp_flip_is_where_its_bound_reaches_zero(rng):
    """With a level, the end of its interval, which comes sooner."""
    log = world(2_000, rng=rng) | {"fold": folds(2_000), "outcome_range": UNIT}
    row = np.arange(2_000)
    log["outcome"] = np.where(log["target_probs"][row, log["arm"]] > log["against_probs"][row, log["arm"]], 0.9, 0.1)
    log["predicted"] = np.where(log["target_probs"] > log["against_probs"], 0.8, 0.2)

    flip, sooner = sharp_flip_gamma(**log), sharp_flip_gamma(**log, level=0.95)

    assert 1 < sooner <= flip
    if np.isfinite(flip):
        assert sharp_bounds(**log, gamma=flip * 0.98).low.value > 0 > sharp_bounds(**log, gamma=flip * 1.02).low.value


def test_decisions_both_policies_share_do_not_count(seed, rng):
    """A difference of policies that differ in a tenth of the rounds is bounded by a tenth."""
    log = without(world(2_000, rng=rng), "predicted")
    differ = np.arange(2_000) % 10 == 0
    log["against_probs"] = np.where(differ[:, None], log["against_probs"], log["target_probs"])

    found = sensitivity_bounds(**log, gamma=1e9)

    assert -0.1 <= found.low[0] <= found.high[0] <= 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 0.5}, "gamma must be at least 1"),
        ({"gamma": np.nan}, "gamma must be at least 1"),
        ({"gamma": np.inf}, "gamma must be finite"),
        ({"n_resamples": -1}, "n_resamples must be at least 0"),
        ({"n_resamples": 1, "level": 1.0}, "level must be in"),
        ({"normalise": "none"}, "normalise must be"),
        ({"outcome_range": (0.0, 0.5)}, "outcome_range must hold every outcome"),
    ],
)
def test_broken_rules_are_named(rng, options, words):
    """Parameter, rule, value got."""
    log = without(world(50, rng=rng), "predicted")

    with pytest.raises(InvalidParameterError, match=words):
        sensitivity_bounds(**log, **options)


def test_an_unbounded_search_is_refused(rng):
    """Bisection needs an end."""
    with pytest.raises(InvalidParameterError, match="largest must be a finite number above 1; got 1"):
        flip_gamma(**without(world(50, rng=rng), "predicted"), largest=1.0)


def test_an_arm_without_rounds_has_no_bounds():
    """Not a number: an error that names it."""
    log: dict[str, Any] = {
        "arm": np.zeros(20, dtype=int),
        "outcome": np.ones(20),
        "propensity": np.full(20, 0.5),
        "target_probs": np.tile([0.0, 1.0], (20, 1)),
    }

    with pytest.raises(OverlapError, match=r"arms \[0, 1\]"):
        sensitivity_bounds(**log, gamma=2.0)
    with pytest.raises(OverlapError, match=r"columns \[1\]"):
        sharp_bounds(**log, gamma=2.0, predicted=np.zeros((20, 2)), fold=folds(20))
