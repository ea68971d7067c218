"""Tests of what decides with fixed probabilities, and of how trade-offs are spelled."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.gateway.decide import FixedDecider, NoEligibleModelError, RouteRequest, TradeOffAsked


def test_frequencies_are_the_probabilities_over_the_eligible(seed: int):
    """Of 4,000 draws each model's share is within four and a half standard errors of its stated probability."""
    decider = FixedDecider({"a": 1.0, "b": 2.0, "c": 5.0}, seed=seed)
    request = RouteRequest(prompt="x", eligible=("c", "a"))
    drawn = [decider.decide(request) for _ in range(4000)]

    assert all(each.eligible == ("a", "c") for each in drawn)
    assert all(each.propensity == each.probabilities[each.model] for each in drawn)
    for name, probability in (("a", 1 / 6), ("c", 5 / 6)):
        assert drawn[0].probabilities[name] == pytest.approx(probability)
        share = np.mean([each.model == name for each in drawn])
        assert abs(share - probability) < 4.5 * math.sqrt(probability * (1 - probability) / 4000)


def test_no_model_is_an_error_of_its_own():
    """So that the client is told, rather than given the default model."""
    with pytest.raises(NoEligibleModelError):
        FixedDecider({"a": 1.0}).decide(RouteRequest(prompt="x", eligible=("b",)))
    for weights in ({}, {"a": 0.0}, {"a": math.nan}, {"a": math.inf}):
        with pytest.raises(InvalidParameterError):
            FixedDecider(weights)


def test_spellings_mean_the_same_trade_off():
    """At a cost scale of 0.01 USD, a cost weight of 1/2 is 100 points per USD, as is 0.01 USD a point."""
    for spelling, value in (("quality_per_usd", 100), ("cost_weight", 0.5), ("willingness_to_pay", 0.01)):
        assert TradeOffAsked(spelling, value).at(0.01).quality_per_usd == pytest.approx(100)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError):
        TradeOffAsked("cost_weight", 1.5).at(0.01)
