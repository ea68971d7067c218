"""What the linear baselines learn of an arm: ridge regression, and a belief worth as many answers as is said."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.online.base import ArmPrior
from pointsman.online.baselines.heads import MEAN_VARIANCE, NOISE, PRIOR_QUALITY, SLOPE_VARIANCE, ArmHeads
from pointsman.trade_off import TradeOff

N_COLUMNS = 4


def answered(heads: ArmHeads, rng, *, n: int, arm: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Teach one arm n answers one by one; return what it was taught."""
    z, quality, cost_usd = rng.normal(size=(n, N_COLUMNS)), rng.random(n), rng.exponential(0.02, size=n)
    for i in range(n):
        heads.learn(z[i], arm, quality=quality[i], cost_usd=cost_usd[i], weight=1.0)
    return z, quality, cost_usd


def test_quality_is_ridge_regression_and_no_other_arm_learns(rng):
    """Mean and variance are those of Bayesian ridge by hand; the other arm is as at first."""
    heads = ArmHeads(n_arms=2, n_columns=N_COLUMNS)
    z, quality, _ = answered(heads, rng, n=50)
    rows = np.column_stack([np.ones(50), z])
    precision = (
        np.diag(1 / np.array([MEAN_VARIANCE, *[SLOPE_VARIANCE / N_COLUMNS] * N_COLUMNS])) + rows.T @ rows / NOISE
    )
    start = np.array([PRIOR_QUALITY, 0, 0, 0, 0])
    coefficients = start + np.linalg.solve(precision, rows.T @ (quality - rows @ start) / NOISE)
    asked = rng.normal(size=N_COLUMNS)
    row = np.array([1, *asked])
    mean, variance = heads.utility(asked, TradeOff(0.0))
    assert mean[0] == pytest.approx(row @ coefficients, abs=1e-10)
    assert variance[0] == pytest.approx(row @ np.linalg.solve(precision, row), abs=1e-10)
    assert mean[1] == PRIOR_QUALITY


def test_many_answers_at_once_teach_what_one_by_one_do(rng):
    """Utilities at every trade-off agree to rounding, weights and missing outcomes included."""
    singly, at_once = ArmHeads(n_arms=3, n_columns=N_COLUMNS), ArmHeads(n_arms=3, n_columns=N_COLUMNS)
    n = 80
    z, arm = rng.normal(size=(n, N_COLUMNS)), rng.integers(3, size=n)
    quality = np.where(rng.random(n) < 0.2, np.nan, rng.random(n))
    cost_usd = np.where(rng.random(n) < 0.2, np.nan, rng.exponential(0.02, size=n))
    weight = rng.uniform(0.2, 1.0, size=n)
    for i in range(n):
        singly.learn(z[i], int(arm[i]), quality=quality[i], cost_usd=cost_usd[i], weight=weight[i])
    at_once.learn_many(z, arm, quality=quality, cost_usd=cost_usd, weight=weight)
    for rate in (0.0, 5.0, 100.0, np.inf):
        for one, all_ in zip(singly.utility(z[0], TradeOff(rate)), at_once.utility(z[0], TradeOff(rate)), strict=True):
            np.testing.assert_allclose(one, all_, rtol=1e-9, atol=1e-12)


def test_a_belief_is_worth_as_many_answers_as_it_says():
    """A belief of quality 0.9 worth 30 answers, and then 30 answers of 0.5, meet near the middle.

    The prior that all arms have is worth NOISE / MEAN_VARIANCE = 1.25 answers more, so the mean is
    (31.25 x 0.9 + 30 x 0.5) / 61.25.
    """
    heads = ArmHeads(n_arms=1, n_columns=N_COLUMNS)
    arm = heads.add_arm(ArmPrior(quality=0.9, cost_usd=0.3, n_rounds=30.0))
    nowhere = np.zeros(N_COLUMNS)
    mean, _ = heads.utility(nowhere, TradeOff(1.0))
    assert mean[arm] == pytest.approx(0.9 - 0.3)
    for _ in range(30):
        heads.learn(nowhere, arm, quality=0.5, cost_usd=0.3, weight=1.0)
    mean, _ = heads.utility(nowhere, TradeOff(0.0))
    assert mean[arm] == pytest.approx((31.25 * 0.9 + 30 * 0.5) / 61.25)


def test_an_arm_like_another_starts_from_its_coefficients(rng):
    """Expected utilities are those of the other arm for every prompt; with less certainty for fewer answers."""
    heads = ArmHeads(n_arms=2, n_columns=N_COLUMNS)
    answered(heads, rng, n=60, arm=1)
    few, many = (heads.add_arm(ArmPrior(like=1, n_rounds=n)) for n in (5.0, 500.0))
    for _ in range(5):
        mean, variance = heads.utility(rng.normal(size=N_COLUMNS), TradeOff(3.0))
        assert mean[few] == pytest.approx(mean[1])
        assert mean[many] == pytest.approx(mean[1])
        assert variance[few] > variance[many]
