"""What every policy promises, checked for every method by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError, InvalidRouterError, NotFittedError
from pointsman.policies import METHODS, from_state, make
from pointsman.policies.base import Policy
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, State

OPTIONS: dict[str, dict[str, Any]] = {"always": {"arm": 1}}
TRADE_OFFS = [TradeOff(x) for x in (0.0, 5.0, 30.0, 100.0, 1e4, np.inf)]

pytestmark = pytest.mark.parametrize("method", list(METHODS))


def fitted(method: str, log: Any, **options: Any) -> Policy:
    """Return the method, fitted on the log with the options it cannot do without."""
    return make(method, **{**OPTIONS.get(method, {}), **options}).fit(log.context, log.scores)


def through_a_file(values: State, arrays: Arrays) -> tuple[State, Arrays]:
    """Return a state written as JSON and arrays without pickle, and read back."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return json.loads(json.dumps(values)), dict(np.load(file, allow_pickle=False))


def test_probabilities_sum_to_one_over_eligible_arms(
    method: str, draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """Rows sum to one and are zero for arms that may not be chosen, whether or not masks were learned from."""
    for with_masks in (False, True):
        log = draw_log(rng, n_rounds=300, with_masks=with_masks)
        policy = fitted(method, log)
        eligible = rng.random((300, 4)) < 0.5
        eligible[~eligible.any(axis=1), 2] = True
        for trade_off in TRADE_OFFS:
            for mask in (None, eligible):
                probabilities = policy.probabilities(log.context, trade_off, mask)
                # Four probabilities, each rounded once.
                np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=4 * np.finfo(float).eps)
                assert (probabilities >= 0).all()
                if mask is not None:
                    assert (probabilities[~mask] == 0).all()


def test_choose_draws_from_exactly_the_probabilities(
    method: str, draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """The arms drawn for one prompt have the frequencies the policy states (chi-square, at one in a million)."""
    from scipy.stats import chisquare

    log = draw_log(rng, n_rounds=200)
    context = np.repeat(log.context[:1], 4000, axis=0)
    eligible = np.tile([True, True, False, True], (4000, 1))
    policy = fitted(method, log)
    arm, probabilities = policy.choose(context, TradeOff(10), eligible, rng=rng)
    np.testing.assert_array_equal(probabilities, policy.probabilities(context, TradeOff(10), eligible))
    expected = probabilities.sum(axis=0)
    counts = np.bincount(arm, minlength=4)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    if possible.sum() > 1:
        assert chisquare(counts[possible], expected[possible]).pvalue > 1e-6


def test_permuting_arms_permutes_results(
    method: str, draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """Column order carries no meaning: only prompts at a near tie may differ, by the rounding of a sum."""
    log = draw_log(rng, n_rounds=400)
    order = np.array([2, 0, 3, 1])
    place = order.argsort()
    scores = log.scores
    permuted = replace(
        scores,
        arm=place[scores.arm],
        eligible=scores.eligible[:, order],
        predicted_quality=scores.predicted_quality[:, order],
        predicted_cost_usd=scores.predicted_cost_usd[:, order],
    )
    options = {"arm": int(place[1])} if method == "always" else {}
    policy, other = fitted(method, log), fitted(method, replace(log, scores=permuted), **options)
    for trade_off in TRADE_OFFS:
        same = policy.probabilities(log.context, trade_off)[:, order] == other.probabilities(log.context, trade_off)
        assert same.all(axis=1).mean() >= 0.99


def test_expected_cost_never_rises_with_the_trade_off(
    method: str, draw_log: Callable[..., Any], rng: np.random.Generator, seed: int
) -> None:
    """A policy that calls itself exact chooses no dearer arm when money counts for more."""
    if not METHODS[method].exact:
        pytest.skip(f"{method} does not compare predictions")
    log = draw_log(rng, n_rounds=300)
    policy = fitted(method, log)
    predicted = policy.predict(log.context)
    assert predicted is not None
    costs = [
        (policy.probabilities(log.context, TradeOff(x)) * predicted[1]).sum(axis=1)
        for x in (0.0, *np.geomspace(1e-2, 1e5, 60), np.inf)
    ]
    assert (np.diff(costs, axis=0) <= 0).all()


def test_same_seed_gives_the_same_bytes(method: str, draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Two fits on the same rounds with the same seed have the same state, byte for byte."""
    log = draw_log(rng)
    (values, arrays), (other_values, other_arrays) = (fitted(method, log, seed=3).state() for _ in range(2))
    assert json.dumps(values) == json.dumps(other_values)
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: array.tobytes() for name, array in other_arrays.items()
    }


@pytest.mark.parametrize("with_cost", [True, False])
def test_state_survives_a_file(
    method: str, with_cost: bool, draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """A policy rebuilt from JSON and arrays gives identical probabilities and an identical state."""
    log = draw_log(rng, with_cost=with_cost)
    policy = fitted(method, log)
    values, arrays = through_a_file(*policy.state())
    rebuilt = from_state(method, values, arrays)
    for trade_off in TRADE_OFFS if with_cost else TRADE_OFFS[:1]:
        np.testing.assert_array_equal(
            policy.probabilities(log.context, trade_off), rebuilt.probabilities(log.context, trade_off)
        )
    again_values, again_arrays = rebuilt.state()
    assert json.loads(json.dumps(again_values)) == values
    assert all(array.tobytes() == again_arrays[name].tobytes() for name, array in arrays.items())


def test_a_broken_state_is_refused(method: str, draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """A state without its arrays, or with options of another method, is a router error and nothing else."""
    values, arrays = fitted(method, draw_log(rng, n_rounds=200)).state()
    with pytest.raises(InvalidRouterError):
        from_state(method, values, {})
    with pytest.raises(InvalidRouterError):
        from_state(method, {**values, "options": {"foreign": 1}}, arrays)


def test_a_single_arm_is_always_chosen(method: str, draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """With one arm there is nothing to choose and nothing to fail on."""
    log = draw_log(rng, n_rounds=100, n_arms=1)
    policy = fitted(method, log, **({"arm": 0} if method == "always" else {}))
    for trade_off in TRADE_OFFS:
        assert (policy.probabilities(log.context, trade_off) == 1).all()


@pytest.mark.parametrize("n_rounds", [1, 2, 7])
def test_a_handful_of_rounds_is_enough(
    method: str, n_rounds: int, draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """The smallest logs give a policy, with arms that never served and folds that are empty."""
    log = draw_log(rng, n_rounds=n_rounds)
    probabilities = fitted(method, log).probabilities(log.context, TradeOff(10))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_an_arm_never_logged_does_no_harm(method: str, draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """An arm without a single round leaves finite probabilities, and can be chosen where it alone is eligible."""
    log = draw_log(rng, n_rounds=300, never_logged=2)
    assert not (log.scores.arm == 2).any()
    policy = fitted(method, log)
    alone = np.tile(np.arange(4) == 2, (300, 1))
    for trade_off in TRADE_OFFS:
        assert np.isfinite(policy.probabilities(log.context, trade_off)).all()
        np.testing.assert_array_equal(policy.probabilities(log.context, trade_off, alone), alone)


def test_without_cost_only_quality_counts(method: str, draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """A log without cost gives a policy at lambda = 0, and a clear error above."""
    log = draw_log(rng, n_rounds=300, with_cost=False)
    policy = fitted(method, log)
    np.testing.assert_allclose(policy.probabilities(log.context, TradeOff(0)).sum(axis=1), 1)
    for quality_per_usd in (1.0, np.inf):
        with pytest.raises(InvalidParameterError, match="quality_per_usd must be 0"):
            policy.probabilities(log.context, TradeOff(quality_per_usd))


def test_bad_shapes_are_refused(method: str, draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Rounds that do not match, a foreign context, a wrong mask and an empty row each raise."""
    log = draw_log(rng, n_rounds=100)
    unfitted = make(method, **OPTIONS.get(method, {}))
    for context in (log.context[1:], log.context[0], np.full_like(log.context, np.nan)):
        with pytest.raises(InvalidParameterError, match="context must"):
            unfitted.fit(context, log.scores)
    policy = fitted(method, log)
    for context in (log.context[:, 1:], log.context[0]):
        with pytest.raises(InvalidParameterError, match="context must"):
            policy.probabilities(context, TradeOff(0))
    for eligible in (np.ones((100, 3), dtype=bool), np.zeros((100, 4), dtype=bool)):
        with pytest.raises(InvalidParameterError, match="eligible must"):
            policy.probabilities(log.context, TradeOff(0), eligible)


def test_before_fit_it_says_so(method: str, draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """A policy that has not been fitted says so, and does not pretend to have fitted attributes."""
    with pytest.raises(NotFittedError, match="call fit first"):
        make(method, **OPTIONS.get(method, {})).probabilities(np.zeros((1, 6)), TradeOff(0))


def test_its_name_is_its_key(method: str) -> None:
    """A method's class carries the name it is found by."""
    assert METHODS[method].name == method
