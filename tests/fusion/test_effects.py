"""R- and DR-learners of a judge's bias against closed-form truth, and where there is little to learn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import judging
from scipy import stats
from sklearn.base import clone

from pointsman.errors import InvalidParameterError, NotFittedError, OverlapError, OverlapWarning
from pointsman.fusion.effects import DRLearner, RLearner, _Units
from pointsman.nuisance.ridge import PerArmRidge

LEARNERS = [RLearner, DRLearner]
N_ARMS, N_FEATURES, NOISE = 3, 3, 0.03
# Chance of each failure without a cause.
FALSE_FAILURE = 1e-6


def allowed(n_free, *, n_gold, n_judged, noise=NOISE):
    """Return the root mean square error that a regression of q coefficients exceeds once in a million."""
    return np.sqrt(stats.chi2.isf(FALSE_FAILURE, n_free) * noise**2 * (1 / n_gold + 1 / n_judged))


def rms(errors):
    """Return the root mean square."""
    return np.sqrt(np.mean(errors**2))


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("paired", [True, False])
def test_the_effect_is_found_in_a_linear_world(seed, rng, learner, paired):
    """Delta of every arm, linear in the prompt, to the sampling error of its coefficients; labels follow it."""
    drawn = judging(n_rounds=3_000, n_gold=1_500, rng=rng, paired=paired)
    n_judged = 3_000 if paired else 1_500

    model = learner().fit(drawn.rounds)
    effect = model.effect(drawn.rounds)

    bound = allowed(N_ARMS * (1 + N_FEATURES), n_gold=1_500, n_judged=n_judged)
    assert rms(effect - drawn.gap) < bound < rms(drawn.gap - drawn.gap.mean()) / 3
    said = ~np.isnan(drawn.rounds.judged[:, 0])
    corrected = model.correct(drawn.rounds).quality[said]
    np.testing.assert_allclose(corrected, (drawn.rounds.judged + effect)[said, 0], atol=1e-12)


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_judge_has_its_own_effect(seed, rng, learner):
    """Three judges, a constant for each of them and each arm."""
    drawn = judging(n_rounds=3_000, n_gold=1_500, n_judges=3, slopes=0.0, rng=rng)

    effect = learner().fit(drawn.rounds).effect(drawn.rounds)

    # Of each judge, of each arm one: gold labels are shared, so errors of judges go together.
    bound = allowed(N_ARMS, n_gold=1_500, n_judged=3_000)
    for j in range(3):
        # What the prompt has no part in is not free, but its shrunken slopes are not zero either: let them be as many.
        assert rms(effect[:, j] - drawn.gap[:, j]) < np.sqrt(2) * bound


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("n_judges", [1, 2])
def test_the_error_is_as_large_as_errors_are(seed, rng, learner, n_judges):
    """Squared errors over claimed variances average no more than chance allows, and not next to nothing."""
    drawn = judging(n_rounds=2_000, n_gold=100, n_judges=n_judges, slopes=0.0, rng=rng)

    model = learner().fit(drawn.rounds)
    found = model.correct(drawn.rounds)

    assert (found.error > 0).all()
    z = (model.effect(drawn.rounds) - drawn.gap).mean(axis=1) / found.error
    # At least the constants of the arms are free, each with a third of the rounds. Two judges' claimed errors are those
    # of judges that err together, which is the most.
    assert np.mean(z**2) < stats.chi2.isf(FALSE_FAILURE, N_ARMS) / N_ARMS


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_judge_heard_four_times_makes_nothing_surer(rng, learner):
    """Gold labels count once, however many judges they are held against."""
    rounds = judging(n_rounds=2_000, n_gold=100, slopes=0.0, rng=rng).rounds
    copies = replace(rounds, judged=np.repeat(rounds.judged, 4, axis=1), judges=[f"copy {j}" for j in range(4)])

    once, again = (learner().fit(each).correct(each).error.mean() for each in (rounds, copies))

    assert again > once


@pytest.mark.parametrize("learner", LEARNERS)
def test_gold_labels_that_were_not_drawn_alike_do_no_harm(seed, rng, learner):
    """Gold asked for where the first feature is large: with the propensity known or estimated the effect is found."""
    drawn = judging(n_rounds=4_000, n_gold=4_000, rng=rng)
    asked = np.exp(-1 + 0.9 * drawn.rounds.context[:, 0])  # the odds that a label is gold, so their logit is linear
    rounds = drawn.rounds.without_gold(rng.random(4_000) >= asked)

    known = learner().fit(rounds, gold_propensity=asked)
    estimated = learner(propensity="estimated").fit(rounds)

    # Where it is least, one round in seven has a gold label.
    bound = allowed(N_ARMS * (1 + N_FEATURES), n_gold=4_000 / 7, n_judged=4_000)
    for model in (known, estimated):
        assert rms(model.effect(rounds) - drawn.gap) < bound


@pytest.mark.parametrize("learner", LEARNERS)
def test_units_without_overlap_are_left_out_aloud(rng, learner):
    """A warning names their share; where nothing is left it is an error that speaks of positivity."""
    drawn = judging(n_rounds=1_000, n_gold=500, rng=rng)
    asked = np.where(drawn.rounds.context[:, 0] > 0, 0.5, 1e-4)
    rounds = drawn.rounds.without_gold(rng.random(1_000) >= asked)
    n_left_out = np.count_nonzero(asked < 0.5) * 1.0
    n_left_out += np.count_nonzero(rounds.has_gold & (asked < 0.5))
    share = n_left_out / (1_000 + np.count_nonzero(rounds.has_gold))

    with pytest.warns(OverlapWarning, match=f"{share:.0%} of the labels of gold and judge 0"):
        model = learner().fit(rounds, gold_propensity=asked)
    assert model.n_units_ == (1_000 + np.count_nonzero(rounds.has_gold) - n_left_out,)
    with pytest.raises(OverlapError, match="positivity"):
        learner().fit(rounds, gold_propensity=np.full(1_000, 1e-4))


@pytest.mark.parametrize("learner", LEARNERS)
def test_few_gold_labels_of_thousands_are_not_trimmed(rng, learner):
    """A known constant share, however small, leaves no unit out, and warns of nothing."""
    rounds = judging(n_rounds=3_000, n_gold=20, rng=rng).rounds

    assert learner().fit(rounds).n_units_ == learner(propensity=20 / 3_020).fit(rounds).n_units_ == (3_020,)


@pytest.mark.parametrize("learner", LEARNERS)
def test_an_arm_without_gold_takes_what_arms_share(seed, rng, learner):
    """The judge is short of gold by the same for all arms: so it is for the one nobody checked."""
    drawn = judging(n_rounds=2_000, n_gold=1_000, rng=rng, slopes=0.0)
    lifted = drawn.rounds.with_judged(np.clip(drawn.rounds.judged + drawn.gap + 0.2, 0, 1))
    rounds = lifted.without_gold(lifted.arm == 2)
    rounds = replace(rounds)  # with what is expected of these labels

    effect = learner().fit(rounds).effect(rounds)[rounds.arm == 2, 0]

    # Two arms tell the shared constant; a third's own deviation has the variance of theirs: nearly none.
    assert abs(effect.mean() + 0.2) < 0.02


@pytest.mark.parametrize(("learner", "kept"), [(RLearner, 0.8), (DRLearner, 0.97)])
def test_an_arm_with_little_gold_is_shrunk_towards_the_others(seed, rng, learner, kept):
    """Of an arm's one gold label, 0.1 below what is expected, less is believed the more alike the other arms are."""
    drawn = judging(n_rounds=3_000, n_gold=600, n_arms=8, rng=rng, slopes=0.0, noise=0.06)
    rounds = drawn.rounds.with_judged(drawn.rounds.judged + drawn.gap)  # no bias at all
    odd = np.flatnonzero((rounds.arm == 7) & rounds.has_gold)
    gold = rounds.gold.copy()
    gold[odd[0]] = drawn.expected[odd[0]] - 0.1
    gold[odd[1:]] = np.nan
    rounds = replace(rounds, gold=gold)

    effect = learner().fit(rounds).effect(rounds)[:, 0]

    # Standard deviations: 0.005 of the arm's effect, about -0.055 and -0.08, and 0.003 of the others', of 500 labels.
    # The scores of the DR-learner lean on a regression an arm, of which evidence sees more than there is: it shrinks
    # less.
    assert -0.1 * kept < effect[rounds.arm == 7].mean() < -0.03 < effect[rounds.arm < 7].mean()


def test_what_is_regressed_is_what_the_papers_say(rng):
    """Of equal noise the R-learner's is (o - m) / (z - e) with weights (z - e)^2; the DR-learner's its score."""
    z = np.repeat([1.0, 0.0], 10)
    e, o, mu_1, mu_0 = rng.uniform(0.1, 0.9, (4, 20))
    units = _Units(
        judge=0,
        row=np.arange(20),
        is_gold=z,
        label=o,
        propensity=e,
        expected_gold=mu_1,
        expected_judge=mu_0,
        gold_noise=0.25,
        judge_noise=0.25,
    )
    m = e * mu_1 + (1 - e) * mu_0

    factor, outcome = RLearner()._weighted(units, n_judges=1)
    np.testing.assert_allclose(outcome / factor, (o - m) / (z - e))
    np.testing.assert_allclose(factor**2 * 0.25, (z - e) ** 2)

    factor, outcome = DRLearner()._weighted(units, n_judges=1)
    score = (z - e) / (e * (1 - e)) * (o - np.where(z == 1, mu_1, mu_0)) + mu_1 - mu_0
    np.testing.assert_allclose(outcome / factor, score)


@pytest.mark.parametrize("learner", LEARNERS)
def test_both_learners_forgive_a_wrong_outcome_model(seed, rng, learner):
    """mu_1 off by a constant, mu_0 by another: with the right propensity the effect is unbiased all the same."""

    class Off(PerArmRidge):
        """A regression that is wrong by 0.3 everywhere."""

        def predict(self, X):
            return super().predict(X) + 0.3

        def cross_fit(self, X, y, **options):
            return super().cross_fit(X, y, **options) + 0.3

    drawn = judging(n_rounds=20_000, n_gold=20_000, rng=rng, slopes=0.0)
    asked = 0.5 + 0.4 * drawn.rounds.context[:, 0]
    rounds = drawn.rounds.without_gold(rng.random(20_000) >= asked)
    rounds.expected  # noqa: B018 - so that there is something to spoil
    rounds.expected[:] += 0.2

    effect = learner(outcome_model=Off()).fit(rounds, gold_propensity=asked).effect(rounds)

    # Residuals are of size 0.5 and 0.2 now, not NOISE, and a round in ten has gold where it is least: so are the
    # errors of the arms' constants, and of slopes.
    bound = allowed(N_ARMS * (1 + N_FEATURES), n_gold=20_000 / 10, n_judged=20_000, noise=0.5)
    assert rms(effect - drawn.gap) < bound


def test_scales_are_matched_where_asked_for(rng):
    """A judge that squeezes gold into a fifth of its range: with its variance matched, its labels tell gold again."""
    drawn = judging(n_rounds=1_000, n_gold=200, rng=rng)
    gold = np.clip(0.5 + 4 * (drawn.expected - 0.5), 0, 1)
    rounds = replace(
        drawn.rounds,
        judged=0.3 + 0.2 * gold[:, None] + 0.001 * rng.normal(size=(1_000, 1)),
        gold=np.where(drawn.rounds.has_gold, gold, np.nan),
        context=rng.normal(size=(1_000, 3)),  # nothing to tell gold by but the judge
    )

    matched, plain = (rms(RLearner(match_scales=each).fit(rounds).correct(rounds).quality - gold) for each in (1, 0))

    assert matched < plain / 4


def test_a_noisy_judge_counts_less(rng):
    """The average of a sharp judge and one that guesses is nearly the sharp one's."""
    drawn = judging(n_rounds=1_000, n_gold=300, n_judges=2, slopes=0.0, rng=rng)
    judged = drawn.rounds.judged.copy()
    judged[:, 1] = rng.uniform(size=1_000)
    rounds = replace(drawn.rounds, judged=judged)

    model = RLearner().fit(rounds)
    quality = model.correct(rounds).quality

    sharp, guess = (np.clip(judged + model.effect(rounds), 0, 1) - quality[:, None]).T
    # Variances of 2 * 0.03^2 and 1 / 12 about gold: weights of 1 : 46.
    assert rms(sharp) < rms(guess) / 20


@pytest.mark.parametrize("learner", LEARNERS)
def test_judges_that_said_nothing_stand_by_what_is_expected_of_them(rng, learner):
    """With every label hidden but the expectations kept, there are still labels, in gold units."""
    drawn = judging(n_rounds=2_000, n_gold=400, n_judges=2, rng=rng)
    drawn.rounds.expected  # noqa: B018 - before the labels are hidden
    hushed = drawn.rounds.with_judged(np.full((2_000, 2), np.nan))

    found = learner().fit(hushed).correct(hushed)

    biased = hushed.expected.mean(axis=1)
    assert rms(found.quality - drawn.expected) < rms(biased - drawn.expected) / 3


def test_one_seed_one_effect(rng):
    """Fits are repeatable, and gold of the rounds to correct plays no part."""
    rounds = judging(n_rounds=300, n_gold=60, rng=rng).rounds
    model = RLearner(propensity="estimated").fit(rounds)

    again = clone(model).fit(rounds)

    blind = rounds.without_gold(np.ones(300, dtype=bool))
    np.testing.assert_array_equal(model.correct(rounds).quality, again.correct(blind).quality)


def test_what_nothing_can_be_learned_from_is_refused(rng):
    """No judge, gold of one prompt, impossible propensities; and what is not fitted has no effect."""
    rounds = judging(n_rounds=50, n_gold=10, rng=rng).rounds
    alone = replace(rounds, judged=np.empty((50, 0)), judges=[])
    one_prompt = replace(rounds, group=np.zeros(50, dtype=np.int64))

    with pytest.raises(InvalidParameterError, match="at least one judge"):
        RLearner().fit(alone)
    with pytest.raises(InvalidParameterError, match="at least 2 prompts"):
        RLearner().fit(one_prompt)
    with pytest.raises(InvalidParameterError, match="propensity must be"):
        RLearner(propensity="guess").fit(rounds)
    with pytest.raises(InvalidParameterError, match="propensity must be"):
        RLearner(propensity=1.0).fit(rounds)
    with pytest.raises(InvalidParameterError, match="gold_propensity must be"):
        RLearner().fit(rounds, gold_propensity=np.zeros(50))
    with pytest.raises(NotFittedError):
        RLearner().effect(rounds)
