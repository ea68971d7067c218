"""Who was asked for a gold label: known, estimated, or out of reach."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from judging import judging
from scipy.special import expit
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import CalibrationWarning, InvalidParameterError, OverlapError, OverlapWarning
from pointsman.fusion.labelling import TRIM, estimate_labelling


def labelled_by(probability, *, rng, paired=True, n_features=3):
    """Return judged rounds, each of whose gold labels is there with this probability of its context and arm."""
    full = judging(n_rounds=2_000, n_gold=2_000, rng=rng, n_features=n_features).rounds
    rho = probability(full.context, full.arm)
    has_gold = rng.random(2_000) < rho
    judged = full.judged if paired else np.where(has_gold[:, None], np.nan, full.judged)
    return replace(full, judged=judged, gold=np.where(has_gold, full.gold, np.nan)), rho


def estimate(rounds, **options):
    """Return the labelling of the rounds that somebody judged."""
    return estimate_labelling(rounds, labelled=rounds.has_gold | rounds.is_judged, **options)


def test_known_probabilities_are_kept(rng):
    """To the bit, and called known; nothing is trimmed."""
    rounds, rho = labelled_by(lambda x, _: 0.02 + 0.1 * (x[:, 0] > 0), rng=rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate(rounds, gold_propensity=rho)
    np.testing.assert_array_equal(found.probability, rho)
    assert (found.kind, found.covered, found.trimmed_share) == ("known", 1.0, 0.0)
    assert found.n_gold == rounds.has_gold.sum()
    assert found.share == found.n_gold / 2_000


def test_what_is_given_is_not_written_into(rng):
    """The caller's probabilities stay as they were, NaN and all."""
    rounds, rho = labelled_by(lambda x, _: np.full(len(x), 0.05), rng=rng)
    some = np.where(np.arange(2_000) % 2, rho, np.nan)
    given = some.copy()
    estimate(rounds, gold_propensity=given)
    np.testing.assert_array_equal(given, some)


def test_known_of_gold_rounds_alone_they_are_enough(rng):
    """Where only the rounds with a gold label carry the probability, as a file of labels does, nothing is estimated."""
    rounds, rho = labelled_by(lambda x, _: 0.02 + 0.1 * (x[:, 0] > 0), rng=rng)
    found = estimate(rounds, gold_propensity=np.where(rounds.has_gold, rho, np.nan))
    assert found.kind == "known"
    np.testing.assert_array_equal(found.probability[rounds.has_gold], rho[rounds.has_gold])
    assert (found.probability[~rounds.has_gold] == found.share).all()


@pytest.mark.parametrize("of_gold_alone", [False, True])
def test_some_known_and_others_estimated(seed, rng, of_gold_alone):
    """Known ones are kept, and gold labels of both kinds together stand for all rounds once."""
    rounds, rho = labelled_by(lambda x, _: np.full(len(x), 0.1), rng=rng)
    known = rng.random(2_000) < 0.5
    if of_gold_alone:
        known &= rounds.has_gold
    found = estimate(rounds, gold_propensity=np.where(known, rho, np.nan))
    assert found.kind == "both"
    np.testing.assert_array_equal(found.probability[known], rho[known])
    stands_for = (rounds.has_gold / found.probability).mean()
    # The estimated half is scaled to its rounds, the known half varies as 1,000 draws of probability 0.1 do.
    assert abs(stands_for - 1) < FALSE_FAILURE_Z * math.sqrt(0.9 / 0.1 / 2_000)


def test_labelling_at_random_is_estimated_near_its_share(seed, rng):
    """With a hundred gold labels among two thousand, no probability wanders far from one in twenty."""
    rounds = judging(n_rounds=2_000, n_gold=100, rng=rng).rounds

    found = estimate(rounds)

    assert found.kind == "estimated"
    assert found.share == 0.05
    # Slopes of 3 features, 3 arms, a judge: were none shrunk, log odds would be off by sqrt(8 / 95) = 0.29 each.
    log_ratio = np.log(found.probability / 0.05)
    assert np.sqrt((log_ratio**2).mean()) < 2 * 0.29
    assert (rounds.has_gold / found.probability).mean() == pytest.approx(1, abs=1e-9)
    assert found.trimmed_share == 0


@pytest.mark.parametrize("paired", [True, False])
def test_labelling_by_the_prompt_and_arm_is_found(seed, rng, paired):
    """Estimates follow the true log odds, and within quarters of them promise as many gold labels as there are."""
    rounds, rho = labelled_by(lambda x, t: expit(-2 + 1.0 * x[:, 0] + 0.7 * (t == 1)), rng=rng, paired=paired)

    # Judges that never scored gold rounds are heard by what is expected of them, as `fuse` has it.
    words = rounds.judged if paired else np.full_like(rounds.judged, np.nan)
    found = estimate_labelling(rounds.with_judged(words), labelled=np.ones(2_000, dtype=bool))

    # The constant share is off by 0.7 in log odds; 8 slopes at n rho (1 - rho) = 240 are off by sqrt(8 / 240) = 0.18.
    error = np.log(found.probability / rho)
    assert np.sqrt((error**2).mean()) < 2 * 0.18 + 0.1
    by_rho = np.array_split(np.argsort(rho), 4)
    for rows in by_rho:
        expected = found.probability[rows].sum()
        # The estimate of a quarter's rate is itself off by about as much as its count.
        tolerance = FALSE_FAILURE_Z * math.sqrt(2 * expected)
        assert abs(rounds.has_gold[rows].sum() - expected) < tolerance


def test_a_labelling_that_needs_what_the_judge_said_is_found(seed, rng):
    """Where bad answers are sent to experts more often, the inverse of the estimate rights the mean gold label."""
    full = judging(n_rounds=4_000, n_gold=4_000, rng=rng, noise=0.1).rounds
    gold = full.judged[:, 0] + rng.uniform(-0.05, 0.05, 4_000)
    has_gold = rng.random(4_000) < expit(-2 - 4 * (full.judged[:, 0] - 0.5))
    rounds = replace(full, gold=np.where(has_gold, gold, np.nan).clip(0, 1))

    weight = has_gold / estimate(rounds).probability

    righted = (weight * gold).sum() / weight.sum()
    # Hajek's standard error, near 0.006; the mean gold label as it stands is off by 4 var(judge) = 0.05.
    standard_error = np.sqrt(((weight * (gold - righted)) ** 2).sum()) / weight.sum()
    assert abs(righted - gold.mean()) < FALSE_FAILURE_Z * standard_error
    assert abs(righted - gold.mean()) < abs(gold[has_gold].mean() - gold.mean())


def test_few_gold_labels_are_taken_to_be_drawn_at_random(rng):
    """Nine in five folds teach no logit."""
    rounds = judging(n_rounds=300, n_gold=9, rng=rng).rounds
    assert np.allclose(estimate(rounds).probability, 9 / 300)


def test_rounds_that_nobody_judged_do_not_count(rng):
    """They neither lower the share nor get a probability below one."""
    rounds = judging(n_rounds=600, n_gold=60, rng=rng).rounds
    dumb = np.arange(600) % 2 == 0
    rounds = replace(
        rounds, judged=np.where(dumb[:, None], np.nan, rounds.judged), gold=np.where(dumb, np.nan, rounds.gold)
    )
    found = estimate(rounds)
    assert found.share == rounds.has_gold.sum() / 300
    assert (found.probability[dumb] == 1).all()
    assert (rounds.has_gold / found.probability)[~dumb].mean() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, np.inf])
def test_a_known_probability_is_one(rng, value):
    """Zero is no probability with which a label was asked for."""
    rounds = judging(n_rounds=100, n_gold=20, rng=rng).rounds
    with pytest.raises(InvalidParameterError, match=r"gold_propensity must be in \(0, 1\]; got .*; leave it out"):
        estimate(rounds, gold_propensity=np.full(100, value))


@pytest.mark.parametrize("apart_by", ["prompt", "arm"])
def test_gold_apart_from_the_judges_is_an_error_that_explains_positivity(seed, rng, apart_by):
    """Gold on prompts, or on an arm, of its own: nothing there says how the judges err where they judged."""
    full = judging(n_rounds=2_000, n_gold=2_000, rng=rng).rounds
    own = rng.random(2_000) < 0.05
    context, arm = full.context.copy(), np.where(own, 2, full.arm % 2)
    if apart_by == "prompt":
        context[own, 0] += 8
        arm = full.arm
    rounds = replace(
        full,
        context=context,
        arm=arm,
        gold=np.where(own, full.gold, np.nan),
        judged=np.where(own[:, None], np.nan, full.judged),
    )
    with pytest.raises(OverlapError) as error:
        estimate(rounds)
    for words in ("positivity", "among the same prompts", "gold-labelled at random", "gold_propensity"):
        assert words in str(error.value)


def test_rounds_that_are_never_asked_about_are_told_of(seed, rng):
    """A third of the rounds out of reach: their probability is raised to a tenth of the share, aloud."""
    rounds, rho = labelled_by(lambda x, _: np.where(x[:, 0] > 1 / 3, 0.0, 0.2) + 1e-9, rng=rng, n_features=1)
    with pytest.warns(OverlapWarning, match=r"of rounds had next to no chance of a gold label \(under .*extrapolated"):
        # A logit of three features falls off a cliff only where it may be steep: so it is given the step itself.
        found = estimate(replace(rounds, context=np.where(rho[:, None] < 0.1, 5.0, -5.0)))
    assert found.trimmed_share > 0.01
    assert found.probability.min() == TRIM * found.share


def test_probabilities_that_the_labels_belie_are_told_of(rng):
    """Stated at half of what they were, gold labels stand for twice the rounds there are."""
    rounds, rho = labelled_by(lambda x, _: np.full(len(x), 0.1), rng=rng)
    with pytest.warns(CalibrationWarning, match=r"stand for (1[789]|2[0123])\d% of the labelled rounds"):
        estimate(rounds, gold_propensity=rho / 2)


def test_the_same_seed_gives_the_same_bits(rng):
    """Folds are drawn by the seed alone."""
    rounds = judging(n_rounds=400, n_gold=60, rng=rng).rounds
    np.testing.assert_array_equal(estimate(rounds, seed=3).probability, estimate(rounds, seed=3).probability)
