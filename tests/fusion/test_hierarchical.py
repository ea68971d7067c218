"""The default correction: what it believes without gold, what it learns with it, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from judging import judging
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError, NotFittedError
from pointsman.fusion import JudgedRounds, make_correction
from pointsman.fusion.baselines import GoldOnly, JudgeOnly, Pooled, Shift
from pointsman.fusion.hierarchical import Hierarchical

NOISE = 0.1


def world(rng, *, bias, n_rounds=1_500, n_gold=100, n_arms=4, noises=(0.05,), paired=True):
    """Return rounds whose judges err by `bias` (of x and arm) and noise of their own, and their expected gold labels.

    What a judge says follows the answer itself, gold and all, so that a judge's surprise is worth having.
    """
    x = rng.uniform(-1, 1, (n_rounds, 3))
    arm = rng.integers(n_arms, size=n_rounds)
    gold = 0.5 + 0.05 * x[:, 0] + 0.03 * np.cos(arm) + NOISE * rng.uniform(-1.7, 1.7, n_rounds)
    told = np.column_stack([gold + bias(x, arm) + noise * rng.uniform(-1.7, 1.7, n_rounds) for noise in noises])
    has_gold = rng.permutation(n_rounds) < n_gold
    rounds = JudgedRounds(
        context=x,
        arm=arm,
        judged=np.clip(np.where(has_gold[:, None] & (not paired), np.nan, told), 0, 1),
        gold=np.where(has_gold, gold, np.nan),
        group=np.arange(n_rounds),
        arms=[f"arm {t}" for t in range(n_arms)],
        judges=[f"judge {j}" for j in range(len(noises))],
    )
    return rounds, gold


def none(x, _):
    """Return no bias."""
    return np.zeros(len(x))


def constant(x, _):
    """Return the same bias everywhere."""
    return np.full(len(x), 0.2)


def of_one_arm(_, arm):
    """Return the bias of a judge that is fooled by one arm."""
    return np.where(arm == 2, 0.3, 0.0)


def of_arms(_, arm):
    """Return a bias of each arm's own."""
    return np.array([0.2, -0.15, 0.05, -0.25])[arm]


def of_prompts(x, _):
    """Return a bias along a feature that gold hardly follows."""
    return 0.15 * x[:, 1]


def fitted(rounds):
    """Return what the default makes of these rounds."""
    return Hierarchical().fit(rounds).correct(rounds)


def rmse(quality, gold, rounds):
    """Return the error on rounds without a gold label."""
    return float(np.sqrt(((quality - gold)[~rounds.has_gold] ** 2).mean()))


def test_an_unbiased_judge_is_left_alone(seed, rng):
    """With gold labels that agree, corrected labels are the judge's own, to within what the correction owns to."""
    rounds, _ = world(rng, bias=none, n_gold=60)
    found = fitted(rounds)
    moved = found.quality - rounds.judged[:, 0]
    # By arm, the mean of the move is that of the posterior mean of one arm's terms.
    for t in range(4):
        rows = rounds.arm == t
        assert abs(moved[rows].mean()) < FALSE_FAILURE_Z * found.error[rows].mean()
    # A judge's surprise counts for 0.1^2 / (0.1^2 + 0.05^2) = 0.8 of itself, which moves labels by a fifth of 0.11.
    assert np.sqrt((moved**2).mean()) < 0.05


def test_a_constant_bias_is_learned_at_the_root_of_gold(seed, rng):
    """Its error is that of a mean of n gold labels less what the judge said, at 40 labels as at 640."""
    for n_gold in (40, 640):
        rounds, gold = world(rng, bias=constant, n_gold=n_gold)
        left = (fitted(rounds).quality - gold)[~rounds.has_gold].mean()
        # Gold less judge scatters by 0.05; what arms and prompts are allowed to differ by adds less than as much.
        assert abs(left) < FALSE_FAILURE_Z * 2 * 0.05 / np.sqrt(n_gold)


@pytest.mark.parametrize("paired", [True, False])
def test_the_bias_of_one_arm_is_found_and_stays_there(seed, rng, paired):
    """The fooled arm is brought down by 0.3, though a quarter of the labels tell of it; the others stay put."""
    rounds, gold = world(rng, bias=of_one_arm, n_gold=120, paired=paired)
    found = fitted(rounds)
    for t in range(4):
        rows = (rounds.arm == t) & ~rounds.has_gold
        # Unpaired, an arm's 30 gold labels scatter about their expectation by 0.1, paired about the judge by 0.05;
        # shrinkage adds to the fooled arm's, pooling to the others', as much again.
        tolerance = FALSE_FAILURE_Z * 1.5 * (0.05 if paired else 0.11) / np.sqrt(30)
        assert abs((found.quality - gold)[rows].mean()) < tolerance


def test_a_bias_that_depends_on_the_prompt_is_found(seed, rng):
    """The slope of 0.15 along a feature is taken off, all but a third, by 200 gold labels."""
    rounds, gold = world(rng, bias=of_prompts, n_gold=200)
    left = (fitted(rounds).quality - gold)[~rounds.has_gold]
    slope = np.polyfit(rounds.context[~rounds.has_gold, 1], left, 1)[0]
    # Least squares on 200 labels: 0.05 / sqrt(200 / 3) = 0.006; the rest is room for shrinkage.
    assert abs(slope) < 0.05
    # An answer is known by its judge to 0.05.
    assert np.sqrt((left**2).mean()) < 0.075


def test_judges_count_by_how_little_they_err(seed, rng):
    """Of a judge that errs by 0.03 and one by 0.3, the mean errs by 0.15: the correction is far better."""
    rounds, gold = world(rng, bias=none, n_gold=150, noises=(0.03, 0.3))
    found = rmse(fitted(rounds).quality, gold, rounds)
    mean = rmse(rounds.judged.mean(axis=1), gold, rounds)
    assert found < 0.6 * mean
    good = rounds.with_judged(np.where([False, True], np.nan, rounds.judged))
    assert found < 1.5 * rmse(fitted(good).quality, gold, good) + 0.02


def test_missing_judges_are_no_news(seed, rng):
    """Where a judge said nothing, the label is what is expected with the others', and its error is larger there."""
    rounds, gold = world(rng, bias=constant, n_gold=200, noises=(0.05, 0.05))
    silent = rng.random((rounds.n_rounds, 2)) < 0.4
    rounds = rounds.with_judged(np.where(silent, np.nan, rounds.judged))
    found = fitted(rounds)
    assert np.isfinite(found.quality).all()
    off = np.abs(found.quality - gold)
    n_said = 2 - silent.sum(axis=1)
    # Two, one or no judge leave 0.035, 0.05 and 0.1 of the answer unknown: each mean error is apart by many of its own.
    assert off[n_said == 2].mean() < off[n_said == 0].mean()
    assert off[n_said == 1].mean() < off[n_said == 0].mean()
    assert abs((found.quality - gold).mean()) < FALSE_FAILURE_Z * 2 * 0.08 / np.sqrt(200)


def test_a_judge_never_seen_on_gold_rounds_is_brought_to_gold_units(seed, rng):
    """By what it would have been expected to say there: its constant bias is gone all the same."""
    rounds, gold = world(rng, bias=constant, n_gold=100, paired=False)
    found = fitted(rounds)
    others = ~rounds.has_gold
    # Gold labels scatter by 0.1 about what can be expected of them; as much again is for what arms may differ by.
    assert abs((found.quality - gold)[others].mean()) < FALSE_FAILURE_Z * 2 * NOISE / np.sqrt(100)
    # Its surprises are believed, as they should be here.
    assert np.corrcoef(found.quality[others], gold[others])[0, 1] > 0.7


@pytest.mark.parametrize("bias", [constant, of_arms, of_prompts])
def test_posterior_errors_are_honest(seed, rng, bias):
    """Over worlds, what is left of an arm's mean bias, over its error, is as large as a standard normal."""
    scores = []
    for _ in range(12):
        rounds, gold = world(rng, bias=bias, n_rounds=800, n_gold=80)
        model = Hierarchical().fit(rounds)
        design, _ = model.design(rounds)
        found = model.correct(rounds)
        others = ~rounds.has_gold
        for t in range(4):
            rows = others & (rounds.arm == t)
            mean = design[rows].mean(axis=0)
            left = (found.quality - gold)[rows]
            # The mean of so many rounds has an error of its own: that of what each gold label adds.
            own = left.std(ddof=1) / np.sqrt(rows.sum())
            scores.append(left.mean() / np.hypot(np.sqrt(mean @ model.regression_.covariance_ @ mean), own))
    # 48 scores, of which the 4 of one world may move together: as few as 12 squares. Empirical Bayes leaves out that
    # variances are themselves uncertain: 1.3 is room for that.
    assert np.sqrt(np.mean(np.square(scores))) < 1.3 * np.sqrt(1 + FALSE_FAILURE_Z * np.sqrt(2 / 12))
    assert np.sqrt(np.mean(np.square(scores))) > 0.3


def test_it_beats_simple_corrections_where_arms_are_judged_unlike(seed, rng):
    """Paired over worlds, its squared errors are below those of a shift, of the judge, of gold alone and of pooling."""
    rivals = [Shift(), JudgeOnly(), GoldOnly(), Pooled()]
    gains = np.empty((8, len(rivals)))
    for j in range(8):
        rounds, gold = world(rng, bias=of_arms, n_rounds=600, n_gold=100)
        own = rmse(fitted(rounds).quality, gold, rounds) ** 2
        gains[j] = [rmse(rival.fit(rounds).correct(rounds).quality, gold, rounds) ** 2 - own for rival in rivals]
    mean, standard_error = gains.mean(axis=0), gains.std(axis=0, ddof=1) / np.sqrt(8)
    # One-sided Student's t of 7 degrees at 1e-5 is 10: gains of 0.01 and more vary by a tenth of themselves.
    assert (mean > 10 * standard_error).all() or (gains > 0).all()
    # The shift leaves what arms differ by, 0.18 in deviation; gold alone the answer's own 0.1.
    assert mean[0] > 0.5 * 0.18**2
    assert mean[2] > 0.5 * (NOISE**2 - 0.05**2)


def test_without_gold_in_an_arm_its_error_is_larger(seed, rng):
    """Where arms are seen to differ, one without a gold label is less sure, and as wrong as that allows."""
    rounds, gold = world(rng, bias=of_arms, n_gold=200)
    rounds = rounds.without_gold(rounds.arm == 3)
    found = fitted(rounds)
    of_arm = [found.error[rounds.arm == t].mean() for t in range(4)]
    assert of_arm[3] > 2 * max(of_arm[:3])
    off = (found.quality - gold)[rounds.arm == 3].mean()
    # A variance found from three arms' biases is a chi-square of three: Student's t, whose tail at 1e-4 is near 20.
    assert abs(off) < 20 * of_arm[3]


def test_labels_are_labels_and_gold_of_what_is_corrected_is_not_looked_at(rng):
    """Within [0, 1]; `predict` is the label of `correct`; `design` gives both mean and error back."""
    rounds = judging(n_rounds=200, n_gold=50, n_judges=2, rng=rng).rounds
    model = Hierarchical().fit(rounds)
    found = model.correct(rounds)
    blind = rounds.without_gold(np.ones(200, dtype=bool))
    np.testing.assert_array_equal(model.correct(blind).quality, found.quality)
    np.testing.assert_array_equal(model.predict(rounds), found.quality)
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    design, variance = model.design(rounds)
    np.testing.assert_allclose(np.sqrt(model.regression_.variance(design)), found.error)
    assert (variance > 0).all()
    assert model.noise_ == model.regression_.noise_


@pytest.mark.parametrize(("n_arms", "n_judges"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_the_blocks_are_those_of_the_design(rng, n_arms, n_judges):
    """With one arm or one judge the terms that tell arms or judges apart are left out."""
    rounds = judging(n_rounds=200, n_gold=50, n_arms=n_arms, n_judges=n_judges, rng=rng).rounds
    model = Hierarchical().fit(rounds)
    assert model.design(rounds)[0].shape == (200, sum(block.n_columns for block in model.regression_.blocks))
    names = " ".join(model.regression_.variance_)
    assert ("arm" in names) == (n_arms > 1)
    assert ("judge" in names) == (n_judges > 1)


def test_reliability_is_how_far_judges_agree(seed, rng):
    """1 for a lone judge or one repeated; halfway to nothing for surprises that have nothing in common."""
    rounds, _ = world(rng, bias=none, noises=(0.05,))
    assert Hierarchical().fit(rounds).reliability_ == 1.0
    twice = JudgedRounds(
        context=rounds.context,
        arm=rounds.arm,
        judged=np.repeat(rounds.judged, 2, axis=1),
        gold=rounds.gold,
        group=rounds.group,
        arms=rounds.arms,
        judges=["a", "b"],
    )
    assert Hierarchical().fit(twice).reliability_ == pytest.approx(1.0)
    noise = np.clip(rng.uniform(0.2, 0.8, (rounds.n_rounds, 2)), 0, 1)
    # The mean's variance is half of one judge's, their covariance 0 but for 1 / sqrt(1,500) of it: c / v within 0.26.
    assert 0.5 <= Hierarchical().fit(twice.with_judged(noise)).reliability_ < 0.5 + 0.5 * FALSE_FAILURE_Z * 2 / 38


def test_features_without_spread_are_no_trouble(rng):
    """Prompts that are all alike, or of one feature."""
    rounds = judging(n_rounds=100, n_gold=30, rng=rng).rounds
    for context in (np.zeros((100, 4)), np.ones((100, 1)), rounds.context[:, :1]):
        same = JudgedRounds(
            context=context,
            arm=rounds.arm,
            judged=rounds.judged,
            gold=rounds.gold,
            group=rounds.group,
            arms=rounds.arms,
            judges=rounds.judges,
        )
        assert np.isfinite(fitted(same).quality).all()


def test_too_little_gold_and_use_before_fit_are_refused(rng):
    """One gold label shows no spread."""
    rounds = judging(n_rounds=50, n_gold=1, rng=rng).rounds
    with pytest.raises(InvalidParameterError, match="at least 2 gold labels to learn from; got 1"):
        Hierarchical().fit(rounds)
    with pytest.raises(NotFittedError, match="Hierarchical is not fitted"):
        make_correction("hierarchical").predict(rounds)


def test_without_judges_there_is_nothing_to_correct(rng):
    """Rounds of no judge are refused in words, not by an array's shape."""
    rounds = JudgedRounds(
        context=rng.normal(size=(30, 2)),
        arm=np.zeros(30, dtype=np.int64),
        judged=np.empty((30, 0)),
        gold=rng.random(30),
        group=np.arange(30),
        arms=["a"],
        judges=[],
    )
    with pytest.raises(InvalidParameterError, match="at least one judge"):
        Hierarchical().fit(rounds)
