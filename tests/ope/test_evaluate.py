"""All estimators at once, at the data boundary."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import synthetic

from pointsman.errors import (
    InvalidLogError,
    InvalidParameterError,
    MissingOutcomeWarning,
    OverlapError,
    SmallSampleWarning,
)
from pointsman.ope.estimators import dr, snips
from pointsman.ope.evaluate import ESTIMATORS, evaluate_policy
from pointsman.trade_off import TradeOff

N_ROUNDS, N_ARMS = 2_000, 3


@pytest.fixture
def world(rng):
    """Six prompts."""
    return synthetic.FiniteWorld.random(n_states=6, n_arms=N_ARMS, least_propensity=0.1, rng=rng)


@pytest.fixture
def arguments(world, rng):
    """What evaluate_policy needs, for a policy that takes the best arm."""
    log = world.draw(N_ROUNDS, rng=rng)
    predicted = np.clip(log.mean + 0.1, 0, 1)
    price = np.array([0.01, 0.02, 0.03])
    return {
        "arm": log.arm,
        "quality": log.outcome,
        "cost_usd": price[log.arm],
        "propensity": log.propensity,
        "eligible": np.ones((N_ROUNDS, N_ARMS), dtype=bool),
        "predicted_quality": predicted,
        "predicted_cost_usd": np.tile(price, (N_ROUNDS, 1)),
        "target_probs": np.eye(N_ARMS)[world.mean.argmax(axis=1)][log.state],
        "trade_off": TradeOff(5.0),
    }


def test_rows_cover_the_truth(seed, world, arguments):
    """IPS, SNIPS and DR lie within noise of the true utility, quality and cost; the direct method keeps its bias."""
    best = np.eye(N_ARMS)[world.mean.argmax(axis=1)]
    quality, cost_usd = world.value(best), float(world.frequency @ best @ [0.01, 0.02, 0.03])

    rows = {row["estimator"]: row for row in evaluate_policy(**arguments)}

    assert tuple(rows) == ESTIMATORS
    for name in ("ips", "snips", "dr"):
        row = rows[name]
        for value, ends, truth in (
            (row["value"], (row["ci_low"], row["ci_high"]), quality - 5 * cost_usd),
            (row["quality"], (row["quality_ci_low"], row["quality_ci_high"]), quality),
            (row["cost_usd"], (row["cost_usd_ci_low"], row["cost_usd_ci_high"]), cost_usd),
        ):
            standard_error = (ends[1] - ends[0]) / (2 * 1.96)
            assert abs(value - truth) < synthetic.FALSE_FAILURE_Z * standard_error
    assert math.isnan(rows["dm"]["ci_low"])
    assert rows["dm"]["quality"] > quality
    assert all(row["n_rounds"] == N_ROUNDS and row["missing_share"] == 0 for row in rows.values())
    assert all(1 < row["ess"] < N_ROUNDS for row in rows.values())


def test_utility_is_quality_minus_lambda_cost(arguments):
    """Row by row, on the same rounds."""
    for row in evaluate_policy(**arguments):
        assert row["value"] == pytest.approx(row["quality"] - 5 * row["cost_usd"], rel=1e-10)


def test_rounds_of_unknown_outcome_are_left_out_and_counted(arguments):
    """The rest is evaluated as if they had never been."""
    quality = arguments["quality"].copy()
    quality[:200] = np.nan

    with pytest.warns(MissingOutcomeWarning, match=r"10\.0% of rounds"):
        rows = evaluate_policy(**arguments | {"quality": quality})

    kept = {name: value[200:] if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
    for row, expected in zip(rows, evaluate_policy(**kept), strict=True):
        assert row["missing_share"] == pytest.approx(0.1)
        assert row["n_rounds"] == 1_800
        assert (row["value"], row["quality"], row["ess"]) == (expected["value"], expected["quality"], expected["ess"])


def test_a_log_without_costs_is_evaluated_on_quality(arguments):
    """At lambda = 0; elsewhere there is nothing to go by."""
    unknown = {"cost_usd": np.full(N_ROUNDS, np.nan), "predicted_cost_usd": np.full((N_ROUNDS, N_ARMS), np.nan)}

    rows = evaluate_policy(**arguments | unknown | {"trade_off": TradeOff(0.0)})

    assert all(math.isnan(row["cost_usd"]) and row["value"] == row["quality"] for row in rows)
    with pytest.raises(InvalidLogError, match="no round's utility is known"):
        evaluate_policy(**arguments | unknown)


def test_estimates_are_those_of_the_estimators(arguments):
    """Nothing is added on the way, at another level of coverage either."""
    rows = {row["estimator"]: row for row in evaluate_policy(**arguments | {"trade_off": TradeOff(0.0), "level": 0.8})}

    logged = {name: arguments[name] for name in ("arm", "propensity", "target_probs")}
    expected = dr(**logged, outcome=arguments["quality"], predicted=arguments["predicted_quality"])
    assert (rows["dr"]["ci_low"], rows["dr"]["ci_high"]) == expected.interval(0.8)
    assert rows["snips"]["value"] == snips(**logged, outcome=arguments["quality"]).value


def test_bad_overlap_is_never_a_silent_number(arguments):
    """A deterministic logger is an error; weights carried by a few rounds are a warning."""
    with pytest.raises(OverlapError, match="deterministic"):
        evaluate_policy(**arguments | {"propensity": np.ones(N_ROUNDS)})

    rare = np.where(arguments["target_probs"][np.arange(N_ROUNDS), arguments["arm"]] > 0, 0.9, 0.5)
    rare[int(np.flatnonzero(rare == 0.9)[0])] = 1e-3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate_policy(**arguments | {"propensity": rare})
    assert SmallSampleWarning in {w.category for w in caught}


def test_wrong_input_is_named(arguments):
    """Propensities, shapes, sums and eligibility."""
    unknown = arguments["propensity"].copy()
    unknown[3] = np.nan
    with pytest.raises(InvalidLogError, match=r"propensity must be in \(0, 1\]; got nan"):
        evaluate_policy(**arguments | {"propensity": unknown})
    with pytest.raises(InvalidParameterError, match="one row for each of 2000 rounds"):
        evaluate_policy(**arguments | {"target_probs": np.ones((5, N_ARMS))})
    with pytest.raises(InvalidParameterError, match=r"row 0 sums to 3\.0"):
        evaluate_policy(**arguments | {"target_probs": np.ones((N_ROUNDS, N_ARMS))})
    with pytest.raises(InvalidParameterError, match="not eligible"):
        evaluate_policy(**arguments | {"eligible": arguments["target_probs"] == 0})
