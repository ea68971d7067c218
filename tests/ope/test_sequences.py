"""Confidence sequences: looked at after every round, they keep the promise that an interval breaks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import synthetic
from scipy import stats

from pointsman.errors import InvalidParameterError
from pointsman.ope.intervals import Wager, betting, place_bets
from pointsman.ope.sequences import HORIZONS, AsymptoticSequence, BettingSequence, OffPolicySequence

N_ROUNDS = 600

N_GRID = 200
"""A fifth of the default's: coarser bounds are valid too, and faster."""


def most_misses(n_replications: int, *, rate: float = 0.05) -> int:
    """Return the number of misses that a sequence of this error exceeds once in a million tests."""
    return int(stats.binom.isf(1e-6, n_replications, rate))


def ever_outside(low: np.ndarray, high: np.ndarray, truth: float | np.ndarray) -> bool:
    """Return whether any of the intervals misses."""
    return bool(((low > truth) | (high < truth)).any())


def peeked_wald(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Wald's 95% interval of the mean after each round from the 30th on, below and above."""
    count = np.arange(1, values.size + 1)
    mean = np.cumsum(values) / count
    spread = np.sqrt(np.maximum(np.cumsum(values**2) / count - mean**2, 0.0))
    half_width = 1.96 * spread / np.sqrt(count)
    return (mean - half_width)[29:], (mean + half_width)[29:]


def adaptive_log(n_rounds: int, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return rounds of a logging policy that leans towards the arm that did better so far, with a floor of 10%.

    Two arms that answer well with probability 0.4 and 0.6.
    """
    wins, calls = np.ones(2), np.full(2, 2.0)
    arm, outcome, propensity = np.empty(n_rounds, dtype=np.int64), np.empty(n_rounds), np.empty(n_rounds)
    draws = rng.random((n_rounds, 2))
    for i in range(n_rounds):
        rate = wins / calls
        second = 0.1 + 0.8 / (1 + math.exp(-20 * (rate[1] - rate[0])))
        arm[i] = draws[i, 0] < second
        propensity[i] = second if arm[i] else 1 - second
        outcome[i] = draws[i, 1] < (0.4, 0.6)[arm[i]]
        wins[arm[i]] += outcome[i]
        calls[arm[i]] += 1
    return {"arm": arm, "outcome": outcome, "propensity": propensity}


def each_kind(**options: object) -> list[AsymptoticSequence | BettingSequence]:
    """Return one of each for values in [0, 1]."""
    return [
        AsymptoticSequence(tuned_to=200, **options),
        BettingSequence(low=0, high=1, n_grid=N_GRID, **options),
        BettingSequence(low=0, high=1, n_grid=N_GRID, tuned_to=200, **options),
    ]


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("side", ["two-sided", "lower", "upper"])
def test_rounds_may_come_one_by_one_and_state_may_rest(rng, kind, side):
    """Any cut of the rounds, with the state through JSON in between, gives the intervals of one pass."""
    values = rng.beta(2, 3, 301)
    whole = each_kind(side=side)[kind]
    expected = whole.update(values)

    resumed = each_kind(side=side)[kind]
    parts = []
    for cut in np.split(values, [1, 2, 120, 121, 300]):
        parts.append(resumed.update(cut))
        resumed = type(resumed).from_state(json.loads(json.dumps(resumed.state(), allow_nan=False)))

    # Betting's ends are points of a grid; sums taken in parts differ by rounding only.
    np.testing.assert_allclose(np.concatenate([part.low for part in parts]), expected.low, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([part.high for part in parts]), expected.high, atol=1e-12)
    assert resumed.interval == pytest.approx(whole.interval, abs=1e-12)
    assert whole.interval == (expected.low[-1], expected.high[-1])
    assert resumed.n_rounds == whole.n_rounds == 301


@pytest.mark.parametrize("difference", [True, False])
def test_off_policy_rounds_may_come_one_by_one_too(rng, difference):
    """And their state may rest."""
    world = synthetic.FiniteWorld.random(n_states=3, n_arms=3, least_propensity=0.1, rng=rng)
    log = world.draw(60, rng=rng)
    rounds = {
        "arm": log.arm,
        "outcome": 2 * log.outcome - 1,
        "propensity": log.propensity,
        "target_probs": np.roll(log.propensities, 1, axis=1),
        "predicted": log.mean,
    }
    if difference:
        rounds["baseline_probs"] = log.propensities

    def fresh() -> OffPolicySequence:
        return OffPolicySequence(outcome_range=(-1, 1), difference=difference, largest_weight=10.0, n_grid=N_GRID)

    whole, resumed = fresh(), fresh()
    expected = whole.update(**rounds)
    low = []
    for i in range(60):
        low.append(resumed.update(**{name: values[i : i + 1] for name, values in rounds.items()}).low[0])
        resumed = OffPolicySequence.from_state(json.loads(json.dumps(resumed.state(), allow_nan=False)))

    np.testing.assert_allclose(low, expected.low, atol=1e-12)
    assert resumed.interval == pytest.approx(whole.interval, abs=1e-12)
    assert resumed.n_rounds == 60


def test_a_tuned_sequence_is_the_betting_bound_on_a_grid(seed, rng):
    """The same bets: after the round it is tuned to, the bounds of `betting`, rounded outwards."""
    values = rng.beta(2, 3, 150)

    low, high = betting(values, low=0, high=1)
    sequence = BettingSequence(low=0, high=1, tuned_to=150, n_grid=N_GRID)
    sequence.update(values)

    assert sequence.interval == pytest.approx((math.floor(low * N_GRID) / N_GRID, math.ceil(high * N_GRID) / N_GRID))


def test_an_untuned_sequence_splits_its_capital_over_horizons(seed, rng):
    """A mean is rejected once the average capital of four bettors ever reached 1 / alpha."""
    values = rng.beta(2, 3, 150)
    grid = np.arange(1, N_GRID + 1)[:, None] / N_GRID
    bets = [
        place_bets(Wager(values, 0.0), log_threshold=math.log(20), horizon=horizon, moments=np.zeros(6))[0]
        for horizon in HORIZONS
    ]
    capital = np.mean([np.exp(np.cumsum(each.log_growth(grid), axis=1)) for each in bets], axis=0)

    sequence = BettingSequence(low=0, high=1, side="lower", n_grid=N_GRID)
    sequence.update(values)

    assert sequence.interval == pytest.approx((np.count_nonzero(capital.max(axis=1) >= 20) / N_GRID, 1.0))


def test_an_untuned_sequence_is_not_much_wider(seed, rng):
    """At any number of rounds, by under two thirds than one that was tuned to this number."""
    values = rng.beta(1, 2, 3_000)
    running = BettingSequence(low=0, high=1).update(values)

    for n_rounds in (100, 400, 1_500, 3_000):
        tuned = BettingSequence(low=0, high=1, tuned_to=n_rounds)
        tuned.update(values[:n_rounds])
        width = running.high[n_rounds - 1] - running.low[n_rounds - 1]
        # Two steps of the grid come on top.
        assert width < 1.65 * (tuned.interval[1] - tuned.interval[0]) + 2e-3


def test_betting_never_retreats(seed, rng):
    """Ends move inwards only, and close in on the mean."""
    running = BettingSequence(low=0, high=1, n_grid=N_GRID).update(rng.beta(2, 3, 2_000))

    assert (np.diff(running.low) >= 0).all()
    assert (np.diff(running.high) <= 0).all()
    assert running.high[-1] - running.low[-1] < 0.1


@pytest.mark.parametrize("rate", [0.5, 0.05])
def test_looking_after_every_round_is_fine(seed, rng, rate):
    """Yes-or-no values: some betting interval misses in at most 5% of runs; some Wald interval in far more."""
    n_replications = 60
    misses = dict.fromkeys(("betting", "tuned", "wald"), 0)
    for values in (rng.random((n_replications, N_ROUNDS)) < rate).astype(float):
        for name, tuned_to in (("betting", None), ("tuned", 200)):
            running = BettingSequence(low=0, high=1, tuned_to=tuned_to, n_grid=N_GRID).update(values)
            misses[name] += ever_outside(*running, rate)
        misses["wald"] += ever_outside(*peeked_wald(values), rate)

    assert misses["betting"] <= most_misses(n_replications)
    assert misses["tuned"] <= most_misses(n_replications)
    # From round 30 to 600 a random walk leaves its 1.96 band in a third of runs and more.
    assert misses["wald"] > 0.1 * n_replications


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_one_bound_on_values_is_enough_for_one_end(seed, rng, side):
    """Exponential values have no upper bound: the mean stays inside after every round."""
    n_replications, sign = 60, 1 if side == "lower" else -1
    span = (0.0, 3.0) if side == "lower" else (-3.0, 0.0)
    low, high = (0.0, math.inf) if side == "lower" else (-math.inf, 0.0)
    misses, ends = 0, []
    for values in sign * rng.exponential(size=(n_replications, N_ROUNDS)):
        running = BettingSequence(low=low, high=high, mean_range=span, side=side, n_grid=N_GRID).update(values)
        misses += ever_outside(*running, float(sign))
        ends.append(abs(running.low[-1] if side == "lower" else running.high[-1]))

    assert misses <= most_misses(n_replications)
    assert np.mean(ends) > 0.8


@pytest.mark.parametrize("largest_weight", [math.inf, 10.0])
def test_a_logging_policy_that_adapts_is_fine(seed, rng, largest_weight):
    """Looked at after every round: a value, and a difference; Wald's intervals of the same weights miss far more."""
    n_replications, n_rounds = 40, 400
    misses = dict.fromkeys(("value", "difference", "wald"), 0)
    widths = []
    second = np.tile([0.0, 1.0], (n_rounds, 1))
    options = {"outcome_range": (0, 1), "largest_weight": largest_weight, "n_grid": N_GRID, "tuned_to": 200}
    for _ in range(n_replications):
        log = adaptive_log(n_rounds, rng=rng)
        value = OffPolicySequence(**options).update(**log, target_probs=second)
        difference = OffPolicySequence(**options, difference=True).update(
            **log, target_probs=second, baseline_probs=second[:, ::-1]
        )
        misses["value"] += ever_outside(*value, 0.6)
        misses["difference"] += ever_outside(*difference, 0.2)
        weighted = log["outcome"] / log["propensity"] * np.where(log["arm"] == 1, 1.0, 0.0)
        misses["wald"] += ever_outside(*peeked_wald(weighted), 0.6)
        widths.append(value.high[-1] - value.low[-1])

    assert misses["value"] <= most_misses(n_replications)
    assert misses["difference"] <= most_misses(n_replications)
    assert misses["wald"] > 0.1 * n_replications
    assert np.mean(widths) < 0.4


@pytest.mark.parametrize("side", ["two-sided", "lower", "upper"])
def test_the_asymptotic_sequence_covers_from_its_first_round_on(seed, rng, side):
    """Skewed values, looked at after every round from the hundredth to the 2,000th."""
    n_replications = 300
    misses = dict.fromkeys(("sequence", "wald"), 0)
    for values in rng.exponential(size=(n_replications, 2_000)):
        running = AsymptoticSequence(tuned_to=1_000, side=side).update(values)
        misses["sequence"] += ever_outside(*running, 1.0)
        low, high = peeked_wald(values)
        misses["wald"] += ever_outside(low[70:], high[70:], 1.0)

    # A mean of 100 exponential values has skewness 0.2, which adds up to two points to one tail's five.
    assert misses["sequence"] <= most_misses(n_replications, rate=0.07)
    assert misses["wald"] > most_misses(n_replications, rate=0.07)


def test_the_asymptotic_sequence_follows_a_drift(seed, rng):
    """It bounds the average of the means so far."""
    n_replications, misses = 200, 0
    mean = np.sin(np.arange(1_500) / 200)
    average = np.cumsum(mean) / np.arange(1, 1_501)
    for noise in rng.normal(size=(n_replications, 1_500)):
        misses += ever_outside(*AsymptoticSequence(tuned_to=1_000).update(mean + noise), average)

    assert misses <= most_misses(n_replications)


def test_the_asymptotic_sequence_is_its_formula(rng):
    """With the standard deviation of the rounds so far; one-sided ends are closer than either of two."""
    values = rng.normal(size=500)
    spent = -2 * math.log(0.05)
    squared_ratio = (spent + math.log(spent + 1)) / 200
    grown = 500 * squared_ratio + 1
    radius = values.std() * math.sqrt(2 * grown / (500**2 * squared_ratio) * math.log(math.sqrt(grown) / 0.05))

    both, lower, upper = (AsymptoticSequence(tuned_to=200, side=side) for side in ("two-sided", "lower", "upper"))
    running = both.update(values)
    lower.update(values)
    upper.update(values)

    assert both.interval == pytest.approx((values.mean() - radius, values.mean() + radius), abs=1e-12)
    assert np.isinf(running.low[:99]).all()
    assert np.isfinite(running.low[99:]).all()
    assert both.interval[0] < lower.interval[0] < values.mean() < upper.interval[1] < both.interval[1]
    assert lower.interval[1] == math.inf
    assert upper.interval[0] == -math.inf


def test_the_asymptotic_sequence_keeps_its_digits(rng):
    """Far from zero, in parts, the width is that of the centred values."""
    values = rng.normal(size=1_000)
    near, far = (AsymptoticSequence(tuned_to=1_000) for _ in range(2))
    near.update(values)
    for part in np.split(values + 1e8, 10):
        far.update(part)

    # 1e8 leaves eight digits of a value, and its rounding averages out over rounds.
    assert np.ptp(far.interval) == pytest.approx(np.ptp(near.interval), rel=1e-6)


@pytest.mark.parametrize("n_rounds", [300, 3_000, 30_000])
def test_tuning_is_for_the_round_it_names(n_rounds):
    """No other tuning is closer there by more than the approximation of the best, under a hundredth."""
    values = np.resize([-1.0, 1.0], n_rounds)

    def width(tuned_to: int) -> float:
        sequence = AsymptoticSequence(tuned_to=tuned_to)
        sequence.update(values)
        return float(np.ptp(sequence.interval))

    best = width(n_rounds)
    assert all(width(round(n_rounds * factor)) > 0.99 * best for factor in (0.1, 0.5, 2, 10))
    assert width(n_rounds // 10) > 1.05 * best
    assert width(n_rounds * 10) > 1.2 * best


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BettingSequence(low=0, high=math.inf), "mean_range"),
        (lambda: BettingSequence(low=0, high=math.inf, mean_range=(0, 1)), "finite for a lower end"),
        (lambda: BettingSequence(low=0, high=1, mean_range=(0, 2)), "mean_range"),
        (lambda: BettingSequence(low=0, high=1, n_grid=0), "n_grid"),
        (lambda: BettingSequence(low=0, high=1, tuned_to=0), "tuned_to"),
        (lambda: BettingSequence(low=0, high=1, side="both"), "side"),
        (lambda: AsymptoticSequence(tuned_to=1), "tuned_to"),
        (lambda: AsymptoticSequence(tuned_to=100, first_round=1), "first_round"),
        (lambda: AsymptoticSequence(tuned_to=100, level=95), "level"),
        (lambda: AsymptoticSequence(tuned_to=100).update(np.array([math.inf])), "finite"),
        (lambda: AsymptoticSequence(tuned_to=100).update(np.array([math.nan])), "nan in row 0"),
        (lambda: BettingSequence(low=0, high=1).update(np.array([2.0])), "must lie"),
        (lambda: OffPolicySequence(outcome_range=(0, 1), level=0), "level"),
        (lambda: OffPolicySequence(outcome_range=(1, 0)), "outcome_range"),
    ],
)
def test_sequences_check_their_arguments(make, message):
    """Each by name."""
    with pytest.raises(InvalidParameterError, match=message):
        make()


def test_a_baseline_goes_with_a_difference():
    """And with nothing else."""
    one_round = {
        "arm": np.array([0]),
        "outcome": np.array([1.0]),
        "propensity": np.array([0.5]),
        "target_probs": np.array([[1.0, 0.0]]),
    }
    with pytest.raises(InvalidParameterError, match="baseline_probs"):
        OffPolicySequence(outcome_range=(0, 1), difference=True).update(**one_round)
    with pytest.raises(InvalidParameterError, match="baseline_probs"):
        OffPolicySequence(outcome_range=(0, 1)).update(**one_round, baseline_probs=np.array([[0.0, 1.0]]))
