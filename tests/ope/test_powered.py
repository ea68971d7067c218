"""A few gold labels and many of a judge."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.powered import prediction_powered


def mean_of(values: np.ndarray) -> Estimate:
    """Return a plain mean as an estimate."""
    return Estimate(name="mean", terms=(Ratio(values, np.ones(values.size)),))


def test_a_perfect_judge_makes_every_round_gold(rng):
    """Where the judge repeats the gold label, the estimate is nearly the mean of all rounds."""
    labels = rng.normal(size=4_000)
    gold, rest = mean_of(labels[:400]), mean_of(labels[400:])

    found = prediction_powered(gold=gold, judged_gold=gold, judged_rest=rest)

    assert found.value == pytest.approx(labels.mean(), abs=0.003)  # s is n_rest / n up to noise in two variances
    assert found.standard_error == pytest.approx(labels.std() / np.sqrt(4_000), rel=0.05)


def test_a_judge_that_never_varies_leaves_the_gold_labels(rng):
    """Nothing is taken from a constant."""
    gold = mean_of(rng.normal(size=50))

    found = prediction_powered(gold=gold, judged_gold=mean_of(np.ones(50)), judged_rest=mean_of(np.ones(500)))

    assert (found.value, found.parameter) == (gold.value, 0.0)
    assert found.standard_error == pytest.approx(gold.standard_error, rel=0.02)  # n - 1 of 550 in place of 50


def test_a_biased_judge_leaves_the_mean_in_gold_units(seed, rng):
    """Over many logs the estimate is unbiased, its standard error right, and smaller than that of gold alone."""
    n_logs, n, n_rest = 400, 100, 900
    errors, own, claimed = np.zeros(n_logs), np.zeros(n_logs), np.zeros(n_logs)
    for j in range(n_logs):
        truth = rng.normal(size=n + n_rest)
        judged = 2.0 + 0.5 * truth + 0.3 * rng.normal(size=n + n_rest)
        gold = mean_of(truth[:n])
        found = prediction_powered(gold=gold, judged_gold=mean_of(judged[:n]), judged_rest=mean_of(judged[n:]))
        errors[j], own[j], claimed[j] = found.value, gold.value, found.standard_error

    # s is estimated: a bias of order 1 / n of a standard deviation.
    assert abs(errors.mean()) < FALSE_FAILURE_Z * errors.std() / np.sqrt(n_logs) + 1 / n
    assert errors.std() < 0.75 * own.std()
    # The spread of 400 logs is known to one part in 28.
    assert claimed.mean() == pytest.approx(errors.std(), rel=FALSE_FAILURE_Z / np.sqrt(2 * n_logs) + 0.03)


def test_rounds_that_do_not_match_are_refused(rng):
    """Both estimates of the gold rounds, and enough rounds of each kind."""
    few, many = mean_of(rng.normal(size=5)), mean_of(rng.normal(size=9))

    with pytest.raises(InvalidParameterError, match="same rounds; got 5 and 9"):
        prediction_powered(gold=few, judged_gold=many, judged_rest=many)
    with pytest.raises(InvalidParameterError, match="at least two; got 5 with a gold label and 1 without"):
        prediction_powered(gold=few, judged_gold=few, judged_rest=mean_of(np.ones(1)))
