"""Regressions on outcomes and on doubly robust scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from pointsman.errors import InvalidParameterError
from pointsman.policies.direct import Direct, DoublyRobust
from pointsman.trade_off import TradeOff


class ArmMeans(BaseEstimator):
    """A user's own outcome model, without coefficients."""

    def fit(self, X: Any, y: Any, *, arm: Any, n_arms: int, sample_weight: Any = None) -> Self:
        """Keep each arm's mean."""
        del X, sample_weight
        self.means_ = np.array([y[arm == t].mean() for t in range(n_arms)])
        return self

    def predict(self, X: Any) -> Any:
        """Return the means for every row."""
        return np.tile(self.means_, (len(X), 1))


def test_any_outcome_model_can_be_compared_but_only_a_linear_one_saved(
    draw_log: Callable[..., Any], rng: np.random.Generator
) -> None:
    """A model without coefficients chooses by its own predictions; saving it says why it cannot be saved."""
    log = draw_log(rng)
    policy = Direct(outcome_model=ArmMeans()).fit(log.context, log.scores)
    means = [log.scores.quality[log.scores.arm == t].mean() for t in range(4)]
    assert (policy.probabilities(log.context, TradeOff(0)).argmax(axis=1) == np.argmax(means)).all()
    with pytest.raises(InvalidParameterError, match="outcome_model must be linear"):
        policy.state()


def test_direct_leaves_out_rounds_without_an_outcome(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Quality that is not known yet is not learned from, while the cost of the same round is."""
    log = draw_log(rng)
    quality = log.scores.quality.copy()
    quality[:100] = np.nan
    part = replace(
        log.scores,
        **{
            name: getattr(log.scores, name)[100:]
            for name in (
                "arm",
                "quality",
                "cost_usd",
                "propensity",
                "eligible",
                "predicted_quality",
                "predicted_cost_usd",
                "fold",
            )
        },
    )
    policy = Direct().fit(log.context, replace(log.scores, quality=quality))
    np.testing.assert_array_equal(policy.quality_coef_, Direct().fit(log.context[100:], part).quality_coef_)
    np.testing.assert_array_equal(policy.cost_coef_, Direct().fit(log.context, log.scores).cost_coef_)


def test_dr_recovers_a_linear_truth(draw_log: Callable[..., Any], rng: np.random.Generator, seed: int) -> None:
    """With exact predictions the scores are the truth, and next to no penalty gives its slopes back."""
    log = draw_log(rng, n_rounds=300)
    slopes = rng.standard_normal((4, log.context.shape[1]))
    truth = log.context @ slopes.T + 0.5
    row = np.arange(300)
    scores = replace(log.scores, predicted_quality=truth, quality=truth[row, log.scores.arm])
    policy = DoublyRobust(relative_penalties=(1e-9, 1.0)).fit(log.context, scores)
    # A penalty of 1e-9 of the mean eigenvalue shrinks by about that share.
    np.testing.assert_allclose(policy.quality_coef_, slopes, atol=1e-6)
    np.testing.assert_allclose(policy.quality_intercept_, 0.5, atol=1e-6)


def test_dr_learns_an_arm_where_it_was_eligible(draw_log: Callable[..., Any], rng: np.random.Generator) -> None:
    """Scores of rounds in which an arm could not be chosen leave its regression alone."""
    log = draw_log(rng, with_masks=True)
    spoilt = log.scores.predicted_quality.copy()
    spoilt[~log.scores.eligible] += 100
    policy, other = (
        DoublyRobust().fit(log.context, replace(log.scores, predicted_quality=predicted))
        for predicted in (log.scores.predicted_quality, spoilt)
    )
    np.testing.assert_array_equal(policy.quality_coef_, other.quality_coef_)
