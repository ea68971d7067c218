"""Simple corrections against their formulas, on few and many labels, paired and not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import judging
from scipy import stats
from sklearn.base import clone
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError, NotFittedError
from pointsman.fusion.base import JudgedRounds
from pointsman.fusion.baselines import (
    PAIRS_ENOUGH,
    ArmShift,
    GoldOnly,
    Isotonic,
    JudgeOnly,
    Linear,
    Pooled,
    PredictionPowered,
    Shift,
)
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope import prediction_powered
from pointsman.ope.frontier import linearised

METHODS = [GoldOnly, JudgeOnly, Pooled, Shift, ArmShift, Linear, Isotonic, PredictionPowered]
# Means and products of a few hundred numbers of size one, in another order.
TOLERANCE = 1e-10


def few(*, judged, gold, arm=None, arms=("a", "b"), judges=None):
    """Return a handful of rounds of unlike prompts."""
    judged = np.array(judged, dtype=np.float64).reshape(len(gold), -1)
    return JudgedRounds(
        context=np.arange(len(gold), dtype=np.float64)[:, None],
        arm=np.zeros(len(gold), dtype=np.int64) if arm is None else np.array(arm),
        judged=judged,
        gold=np.array(gold, dtype=np.float64),
        group=np.arange(len(gold)),
        arms=list(arms),
        judges=judges or [f"judge {j}" for j in range(judged.shape[1])],
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("paired", [True, False])
def test_every_round_gets_a_label_whatever_gold_it_has(rng, method, paired):
    """Labels lie in [0, 1] in every round, judged or not; gold of the rounds to correct plays no part."""
    rounds = judging(n_rounds=200, n_gold=40, n_judges=2, rng=rng, paired=paired).rounds
    model = method().fit(rounds)

    found = model.correct(rounds)
    blind = model.correct(rounds.without_gold(np.ones(200, dtype=bool)))

    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert found.quality.shape == found.error.shape == (200,)
    assert np.isnan(found.error).all() or (found.error > 0).all()
    np.testing.assert_array_equal(found.quality, blind.quality)
    assert clone(model).name == method.name
    with pytest.raises(NotFittedError):
        clone(model).curves_  # noqa: B018


def test_gold_only_knows_no_judge(rng):
    """It is the ridge per arm of the gold labels; an arm without gold gets their mean."""
    rounds = judging(n_rounds=300, n_gold=100, rng=rng).rounds
    rounds = rounds.without_gold(rounds.arm == 2)
    known = rounds.has_gold
    ridge = PerArmRidge().fit(rounds.context[known], rounds.gold[known], arm=rounds.arm[known], n_arms=3)

    quality = GoldOnly().fit(rounds).correct(rounds).quality

    own = rounds.arm < 2
    expected = ridge.predict(rounds.context)[np.arange(300), rounds.arm]
    np.testing.assert_allclose(quality[own], expected[own], atol=TOLERANCE)
    np.testing.assert_allclose(quality[~own], rounds.gold[known].mean(), atol=TOLERANCE)


def test_judge_only_is_the_mean_of_those_who_spoke(rng):
    """Where nobody spoke it is what they would be expected to say, each by a regression on other prompts."""
    rounds = judging(n_rounds=100, n_gold=30, n_judges=2, rng=rng).rounds
    judged = rounds.judged.copy()
    judged[0, 1] = judged[1, 0] = np.nan
    judged[2] = np.nan
    rounds = replace(rounds, judged=judged)

    quality = JudgeOnly().fit(rounds).correct(rounds).quality

    np.testing.assert_allclose(quality[0], judged[0, 0], atol=TOLERANCE)
    np.testing.assert_allclose(quality[1], judged[1, 1], atol=TOLERANCE)
    np.testing.assert_allclose(quality[2], rounds.expected[2].mean(), atol=TOLERANCE)
    np.testing.assert_allclose(quality[3:], judged[3:].mean(axis=1), atol=TOLERANCE)


def test_pooled_takes_a_judge_for_gold(rng):
    """Where a judge spoke its label stays; elsewhere one regression on all labels of both kinds predicts."""
    rounds = judging(n_rounds=200, n_gold=50, rng=rng, paired=False).rounds
    stacked = np.where(rounds.has_gold, rounds.gold, rounds.judged[:, 0])
    ridge = PerArmRidge().fit(rounds.context, stacked, arm=rounds.arm, n_arms=3)

    quality = Pooled().fit(rounds).correct(rounds).quality

    expected = np.where(rounds.has_gold, ridge.predict(rounds.context)[np.arange(200), rounds.arm], rounds.judged[:, 0])
    np.testing.assert_allclose(quality, expected, atol=TOLERANCE)


def test_a_shift_is_the_mean_gap_and_its_error_that_of_the_mean(rng):
    """Two judges on the same gold rounds: the error is the one of the mean over rounds of the mean over judges."""
    rounds = judging(n_rounds=200, n_gold=50, n_judges=2, rng=rng).rounds
    gap = (rounds.gold[:, None] - rounds.judged)[rounds.has_gold]

    found = Shift().fit(rounds).correct(rounds)

    np.testing.assert_allclose(found.quality, (rounds.judged + gap.mean(axis=0)).mean(axis=1), atol=TOLERANCE)
    np.testing.assert_allclose(found.error, stats.sem(gap.mean(axis=1)), rtol=1e-9)


def test_a_shift_of_an_arm_is_that_arms_own(rng):
    """Each arm by its gold rounds alone, one label as well as many; an arm without gold by the judge's constant."""
    gold = [0.9, 0.7, 0.8, 0.2, np.nan, np.nan]
    judged = [0.5, 0.4, 0.6, 0.4, 0.3, 0.5]
    rounds = few(judged=judged, gold=gold, arm=[0, 0, 0, 1, 1, 2], arms="abc")

    model = ArmShift().fit(rounds)
    found = model.correct(rounds)

    gaps = np.array([0.4, 0.3, 0.2])
    every = np.append(gaps, -0.2)
    np.testing.assert_allclose(model.shift_[:, 0], [gaps.mean(), -0.2, every.mean()], atol=TOLERANCE)
    np.testing.assert_allclose(found.quality, np.array(judged) + model.shift_[rounds.arm, 0], atol=TOLERANCE)
    np.testing.assert_allclose(found.error[[0, 5]], [stats.sem(gaps), stats.sem(every)], rtol=1e-9)
    assert np.isnan(found.error[3:5]).all()  # one label says nothing of its own error


def test_few_pairs_among_much_gold_give_way_to_all_of_it(rng):
    """Below `PAIRS_ENOUGH` gold rounds that a judge scored, all gold rounds count, with what it would have said."""
    rounds = judging(n_rounds=400, n_gold=100, rng=rng, paired=False).rounds
    judged = rounds.judged.copy()
    scored = np.flatnonzero(rounds.has_gold)[: PAIRS_ENOUGH - 1]
    judged[scored, 0] = 0.9
    rounds = replace(rounds, judged=judged)
    believed = np.where(np.isnan(judged), rounds.expected, judged)[:, 0]
    expected = float((rounds.gold - believed)[rounds.has_gold].mean())

    shifts = Shift().fit(rounds).shift_
    lines = [method().fit(rounds).curves_[0] for method in (Linear, Isotonic, PredictionPowered)]

    np.testing.assert_allclose(shifts, expected, atol=TOLERANCE)
    assert all(line.slope == 1 and line.intercept == pytest.approx(expected) for line in lines)
    judged = judged.copy()
    judged[np.flatnonzero(rounds.has_gold)[PAIRS_ENOUGH - 1], 0] = 0.9
    more = replace(rounds, judged=judged)
    paired = (more.gold - judged[:, 0])[more.has_gold & ~np.isnan(judged[:, 0])]
    np.testing.assert_allclose(Shift().fit(more).shift_, paired.mean(), atol=TOLERANCE)


def test_a_line_is_that_of_least_squares(rng):
    """Slope, intercept and the standard error of the line, against scipy and the textbook."""
    rounds = judging(n_rounds=100, n_gold=30, rng=rng).rounds
    x, y = rounds.judged[rounds.has_gold, 0], rounds.gold[rounds.has_gold]
    line = stats.linregress(x, y)

    found = Linear().fit(rounds).correct(rounds)

    np.testing.assert_allclose(found.quality, line.intercept + line.slope * rounds.judged[:, 0], atol=TOLERANCE)
    # Of the line at label l: se of the slope times the distance that makes it the mean's at the centre.
    error = line.stderr * np.sqrt(((x - x.mean()) ** 2).mean() + (rounds.judged[:, 0] - x.mean()) ** 2)
    np.testing.assert_allclose(found.error, error, rtol=1e-8)


@pytest.mark.parametrize("method", [Linear, Isotonic])
def test_judges_count_by_how_well_they_tell_gold(rng, method):
    """A judge of pure noise gets next to no weight beside one that all but knows gold."""
    gold = rng.uniform(size=400)
    judged = np.column_stack([0.5 * gold + 0.3, rng.uniform(size=400)])
    rounds = few(judged=judged, gold=np.where(np.arange(400) < 200, gold, np.nan))

    quality = method().fit(rounds).correct(rounds).quality

    # Its curve is exact but for the 1 / 200 between two steps; noise about gold is 1 / 12.
    assert abs(quality - gold).max() < 0.02 + 0.01


def test_steps_follow_the_order_of_labels_not_their_values(rng):
    """A monotone distortion of the judge's scale changes nothing on the labels that were learned from."""
    rounds = judging(n_rounds=100, n_gold=60, rng=rng).rounds
    known = rounds.take(np.flatnonzero(rounds.has_gold))
    bent = known.with_judged(known.judged**3)

    straight, curved = (Isotonic().fit(each).correct(each).quality for each in (known, bent))

    np.testing.assert_allclose(straight, curved, atol=TOLERANCE)


def test_the_mean_of_prediction_powered_labels_is_that_estimate(rng):
    """Over rounds without gold, as `ope.prediction_powered` of the mean: the same share, the same value."""
    rounds = judging(n_rounds=500, n_gold=60, rng=rng).rounds
    gold, judged = rounds.gold[rounds.has_gold], rounds.judged[:, 0]
    means = {
        "gold": gold,
        "judged_gold": judged[rounds.has_gold],
        "judged_rest": judged[~rounds.has_gold],
    }
    estimate = prediction_powered(
        **{name: linearised("dm", value=each.mean(), influence=each - each.mean()) for name, each in means.items()}
    )

    model = PredictionPowered().fit(rounds)

    assert model.curves_[0].slope == pytest.approx(estimate.parameter, rel=1e-9)
    rest = model.correct(rounds).quality[~rounds.has_gold]
    assert rest.mean() == pytest.approx(estimate.value, rel=1e-9)


def test_a_useless_judge_is_not_believed(seed, rng):
    """Labels of noise alone: the share of prediction power is zero up to its sampling error."""
    n_gold, n_rest = 400, 4_000
    judged = rng.uniform(size=n_gold + n_rest)
    gold = np.where(np.arange(judged.size) < n_gold, rng.uniform(size=judged.size), np.nan)
    rounds = few(judged=judged, gold=gold)

    slope = PredictionPowered().fit(rounds).curves_[0].slope

    # cov / var of independent labels of one variance has standard deviation 1 / sqrt(n).
    assert abs(slope) < FALSE_FAILURE_Z / np.sqrt(n_gold)


@pytest.mark.parametrize("paired", [True, False])
def test_constants_are_right_where_bias_is_constant(seed, rng, paired):
    """Where the judge is short of gold by one number an arm, the arms' constants find it, to sampling error."""
    drawn = judging(n_rounds=3_000, n_gold=600, rng=rng, paired=paired, slopes=0.0)
    rounds = drawn.rounds

    found = ArmShift().fit(rounds)

    for t in range(3):
        mine = rounds.arm == t
        error = np.sqrt(found.covariance_[t, 0, 0])
        # An unpaired judge is expected by a regression of (600 / 3) / (2400 / 3) the gold labels' variance.
        slack = 1.0 if paired else np.sqrt(1.25)
        assert abs(found.shift_[t, 0] - drawn.gap[mine, 0][0]) < FALSE_FAILURE_Z * slack * error


def test_what_nothing_can_be_learned_from_is_refused():
    """No gold label, no judge, no label at all."""
    nothing = few(judged=[0.5, 0.5], gold=[np.nan, np.nan])
    alone = few(judged=np.empty((2, 0)), gold=[0.5, 0.5])
    silent = few(judged=[np.nan, np.nan], gold=[np.nan, np.nan])

    for method in (GoldOnly, Shift, ArmShift, Linear, Isotonic, PredictionPowered):
        with pytest.raises(InvalidParameterError, match="at least one gold label"):
            method().fit(nothing)
    for method in (JudgeOnly, Shift, ArmShift, Linear, Isotonic, PredictionPowered):
        with pytest.raises(InvalidParameterError, match="at least one judge"):
            method().fit(alone)
    with pytest.raises(InvalidParameterError, match="at least one label"):
        Pooled().fit(silent)
