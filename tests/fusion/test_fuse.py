"""Fused labels: unbiased for gold whatever the correction, and honest about where they come from."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from judging import judging
from scipy.special import expit
from sklearn.base import clone

from pointsman.errors import InvalidParameterError, OverlapError, OverlapWarning
from pointsman.fusion import LEAST_GOLD, Corrected, Correction, JudgedRounds, fuse, make_correction

# Among thousands of replications some estimates are trimmed, and some known probabilities look wrong by chance.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pointsman.errors.OverlapWarning"),
    pytest.mark.filterwarnings("ignore::pointsman.errors.CalibrationWarning"),
]

REPLICATIONS_T = 7.0
"""Standard errors over 16 replications: Student's t of 15 degrees is further out four times in a million. The biases
that these tests must see are larger."""


class OwnPrompt(Correction):
    """Remembers the gold label of a prompt it has seen, and says nothing good of any other."""

    name = "own-prompt"

    def fit(self, rounds: JudgedRounds) -> OwnPrompt:
        """Remember."""
        known = rounds.has_gold
        self.seen_ = dict(zip(rounds.group[known].tolist(), rounds.gold[known].tolist(), strict=True))
        return self

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Recall."""
        quality = np.array([self.seen_.get(group, 0.0) for group in rounds.group.tolist()])
        return Corrected(quality=quality, error=np.full(rounds.n_rounds, np.nan))


def biased_world(rng, *, n_rounds=400, uneven=False, paired=True):
    """Return rounds whose judge is 0.3 too kind, the probability of a gold label, and the gold mean of these rounds."""
    x = rng.uniform(-1, 1, (n_rounds, 2))
    arm = rng.integers(3, size=n_rounds)
    gold = 0.24 + 0.1 * x[:, 0] + 0.05 * arm + rng.uniform(-0.1, 0.1, n_rounds)
    judged = gold + 0.3 + 0.1 * x[:, 0] + rng.uniform(-0.05, 0.05, n_rounds)
    rho = expit(-1.5 + 1.2 * x[:, 0]) if uneven else np.full(n_rounds, 0.2)
    has_gold = rng.random(n_rounds) < rho
    rounds = JudgedRounds(
        context=x,
        arm=arm,
        judged=np.where(has_gold & (not paired), np.nan, judged)[:, None],
        gold=np.where(has_gold, gold, np.nan),
        group=np.arange(n_rounds),
        arms=["a", "b", "c"],
        judges=["judge"],
    )
    return rounds, rho, float(gold.mean())


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("correction", "known", "uneven"),
    [
        ("judge-only", True, True),
        ("judge-only", False, True),
        ("judge-only", False, False),
        ("hierarchical", True, True),
        ("hierarchical", False, True),
    ],
)
def test_labels_to_evaluate_by_are_unbiased_whatever_the_correction(seed, rng, correction, paired, known, uneven):
    """A correction that believes a judge who is 0.3 too kind leaves the mean where gold has it."""
    errors = np.empty(16)
    for j in range(errors.size):
        rounds, rho, truth = biased_world(rng, uneven=uneven, paired=paired)
        fused = fuse(rounds, make_correction(correction), gold_propensity=rho if known else None, seed=j)
        errors[j] = fused.pseudo_quality.mean() - truth
    standard_error = errors.std(ddof=1) / np.sqrt(errors.size)
    # To take gold labels for a random sample would leave 0.1 cov(x, rho) / E[rho] = 0.04 of a bias; an estimated rho is
    # shrunk towards the share, by up to a sixth of its slope.
    left = 0.04 / 6 if uneven and not known else 0.0
    assert abs(errors.mean()) < REPLICATIONS_T * standard_error + left
    if correction == "judge-only":
        assert 10 * standard_error + left < 0.3  # so the judge's own bias would be seen


def test_a_right_correction_is_worth_its_labels(seed, rng):
    """Errors with a correction that learns are well below those of the gold labels alone."""
    fused_errors, gold_errors = [], []
    for j in range(24):
        rounds, rho, truth = biased_world(rng)
        fused_errors.append(fuse(rounds, make_correction(), gold_propensity=rho, seed=j).pseudo_quality.mean() - truth)
        gold_errors.append(rounds.gold[rounds.has_gold].mean() - truth)
    # Gold alone is off by 0.09 sqrt(.8 / 80), the fused by 0.03 of the same: a ratio of 3, of which an F of 24 and 24
    # degrees takes a factor of 2.9 once in a million.
    assert np.std(fused_errors) < np.std(gold_errors)


@pytest.mark.parametrize("labelled_share", [0.2, 0.5])
def test_repeats_of_a_prompt_with_gold_are_predicted_as_if_they_had_it(seed, rng, labelled_share):
    """A correction that knows a prompt from its own gold labels is used on none of its rounds, with a label or not."""
    errors = []
    for j in range(16):
        n_prompts, repeats = 40, 5
        group = np.repeat(np.arange(n_prompts), repeats)
        gold = rng.uniform(0.2, 0.8, n_prompts)[group]
        has_gold = rng.random(group.size) < labelled_share
        rounds = JudgedRounds(
            context=np.zeros((group.size, 1)),
            arm=np.zeros(group.size, dtype=np.int64),
            judged=np.full((group.size, 1), 0.5),
            gold=np.where(has_gold, gold, np.nan),
            group=group,
            arms=["a"],
            judges=["judge"],
        )
        fused = fuse(rounds, OwnPrompt(), gold_propensity=np.full(group.size, labelled_share), seed=j)
        of_gold = np.isin(group, group[has_gold])
        assert (fused.expected[of_gold] == 0).all()
        errors.append(fused.pseudo_quality.mean() - gold.mean())
    standard_error = np.std(errors, ddof=1) / np.sqrt(len(errors))
    assert abs(np.mean(errors)) < REPLICATIONS_T * standard_error


def test_gold_is_kept_and_nothing_is_known_where_nobody_judged(rng):
    """Quality is gold where there is one, of weight 1 and error 0; NaN where there is no label at all."""
    rounds = judging(n_rounds=200, n_gold=50, rng=rng).rounds
    silent = ~rounds.has_gold & (np.arange(200) % 4 == 0)
    rounds = rounds.with_judged(np.where(silent[:, None], np.nan, rounds.judged))

    fused = fuse(rounds, make_correction())

    known = rounds.has_gold
    np.testing.assert_array_equal(fused.quality[known], rounds.gold[known])
    assert (fused.error[known] == 0).all()
    assert (fused.weight[known] == 1).all()
    others = ~known & ~silent
    assert ((fused.weight > 0) & (fused.weight <= 1)).all()
    assert (fused.weight[others] < 1).all()
    assert (fused.error[others] > 0).all()
    assert ((fused.quality[others] >= 0) & (fused.quality[others] <= 1)).all()
    for values in (fused.quality, fused.error, fused.expected, fused.pseudo_quality):
        np.testing.assert_array_equal(np.isnan(values), silent)
    np.testing.assert_array_equal(fused.pseudo_quality[others], fused.expected[others])
    gap = (rounds.gold - fused.expected) / fused.labelling.probability
    np.testing.assert_array_equal(fused.pseudo_quality[known], (fused.expected + gap)[known])
    spread = np.mean([(g - rounds.gold[known & (rounds.arm == t)].mean()) ** 2
                      for t in range(3) for g in rounds.gold[known & (rounds.arm == t)]])  # fmt: skip
    np.testing.assert_allclose(fused.weight[others], spread / (spread + fused.error[others] ** 2))


def test_a_rounds_own_gold_label_never_touches_what_is_expected_of_it(rng):
    """Moved from end to end it moves the expectation of others, and of repeats of its prompt not at all."""
    rounds = judging(n_rounds=200, n_gold=50, rng=rng).rounds
    rows = np.flatnonzero(rounds.has_gold)
    group = rounds.group.copy()
    group[rows[1]] = group[rows[0]]
    group[np.flatnonzero(~rounds.has_gold)[0]] = group[rows[0]]
    rounds = replace(rounds, group=group)
    same = np.flatnonzero(group == group[rows[0]])
    gold = rounds.gold.copy()
    gold[rows[0]] = 1.0
    for name in ("hierarchical", "linear", "isotonic"):
        before, after = (fuse(each, make_correction(name)).expected for each in (rounds, replace(rounds, gold=gold)))
        np.testing.assert_array_equal(after[same], before[same])
        assert not np.array_equal(after, before)


def test_the_correction_given_is_left_as_it_was(rng):
    """It is cloned; the one returned is fitted on all gold labels, hidden words included."""
    rounds = judging(n_rounds=200, n_gold=50, rng=rng).rounds
    given = make_correction()
    fused = fuse(rounds, given)
    assert not hasattr(given, "regression_")
    again = clone(given).fit(rounds).correct(rounds)
    np.testing.assert_array_equal(np.where(rounds.has_gold, rounds.gold, again.quality), fused.quality)


def test_the_same_seed_gives_the_same_bits(rng):
    """And another seed draws other folds."""
    rounds = judging(n_rounds=200, n_gold=50, rng=rng).rounds
    one, same, other = (fuse(rounds, make_correction(), seed=seed).pseudo_quality for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_order_of_rounds_does_not_matter_much(seed, rng):
    """Folds are other draws, so labels move by what a fifth of the gold labels is worth, and no further."""
    rounds = judging(n_rounds=600, n_gold=120, rng=rng).rounds
    order = rng.permutation(600)
    shuffled = JudgedRounds(
        context=rounds.context[order],
        arm=rounds.arm[order],
        judged=rounds.judged[order],
        gold=rounds.gold[order],
        group=rounds.group[order],
        arms=rounds.arms,
        judges=rounds.judges,
    )
    one, other = fuse(rounds, make_correction()), fuse(shuffled, make_correction())
    # Only `expected` of the judges hangs on the folds here: a share of the noise of a judge's regression.
    noise = np.sqrt(one.correction.noise_)
    assert np.abs(other.quality - one.quality[order]).max() < noise
    assert np.sqrt(((other.quality - one.quality[order]) ** 2).mean()) < 0.2 * noise
    assert abs(other.pseudo_quality.mean() - one.pseudo_quality.mean()) < noise / np.sqrt(120)


def test_a_judge_that_hardly_scored_gold_rounds_is_heard_by_what_is_expected_of_it(rng):
    """Its words would tell which rounds have a gold label; those of the judge that scored all are used."""
    rounds = judging(n_rounds=300, n_gold=60, n_judges=2, rng=rng).rounds
    judged = rounds.judged.copy()
    judged[rounds.has_gold, 1] = np.nan
    rounds = replace(rounds, judged=judged)

    fused = fuse(rounds, make_correction())

    assert fused.judges_used == ("judge 0",)
    moved = judged.copy()
    row = np.flatnonzero(~rounds.has_gold)[0]
    expected = rounds.expected
    moved[row, 1] = 1 - moved[row, 1]
    again = replace(rounds, judged=moved)
    again.__dict__["expected"] = expected
    np.testing.assert_array_equal(fuse(again, make_correction()).expected, fused.expected)


def test_rounds_that_nobody_judged_do_not_make_a_judge_common(rng):
    """A judge of every labelled round but one gold round in ten is uncommon on gold, however long the log is."""
    rounds = judging(n_rounds=4_000, n_gold=200, rng=rng).rounds
    unjudged = rounds.has_gold & (rng.random(4_000) < 0.9)
    unlabelled = ~rounds.has_gold & (rng.random(4_000) < 0.95)
    rounds = rounds.with_judged(np.where((unjudged | unlabelled)[:, None], np.nan, rounds.judged))
    assert (~np.isnan(rounds.judged[rounds.has_gold])).sum() >= LEAST_GOLD
    assert fuse(rounds, make_correction()).judges_used == ()


def test_too_little_to_correct_by_is_said():
    """Few gold labels, none of the judge's, or gold of one prompt only."""
    rng = np.random.default_rng(0)
    rounds = judging(n_rounds=100, n_gold=LEAST_GOLD - 1, rng=rng).rounds
    with pytest.raises(InvalidParameterError, match=r"gold must hold at least 10 labels.*got 9: label more"):
        fuse(rounds, make_correction())
    rounds = judging(n_rounds=100, n_gold=30, rng=rng).rounds
    with pytest.raises(InvalidParameterError, match="judged must hold at least one label; got none"):
        fuse(rounds.with_judged(np.full((100, 1), np.nan)), make_correction())
    group = np.where(rounds.has_gold, 0, rounds.group + 1)
    with pytest.raises(InvalidParameterError, match="gold must hold labels of at least two prompts; got one"):
        fuse(replace(rounds, group=group), make_correction())


def test_gold_on_arms_of_its_own_is_an_error_that_explains_positivity(rng):
    """It names the arms on both sides and says what to do."""
    rounds = judging(n_rounds=300, n_gold=60, rng=rng).rounds
    rounds = rounds.without_gold(rounds.arm != 2)
    rounds = rounds.with_judged(np.where((rounds.arm == 2)[:, None], np.nan, rounds.judged))
    with pytest.raises(OverlapError, match="positivity") as error:
        fuse(rounds, make_correction())
    for words in ("are of ['arm 2']", "judges' of ['arm 0', 'arm 1']", "gold-labelled, best at random"):
        assert words in str(error.value)


def test_an_arm_without_gold_is_told_of(rng):
    """Its bias is taken from the others'; no other warning comes with it where probabilities are known."""
    rounds = judging(n_rounds=900, n_gold=900, rng=rng).rounds
    rho = np.where(rounds.arm == 1, 1e-9, 0.2)
    rounds = rounds.without_gold(rng.random(900) >= rho)
    with pytest.warns(OverlapWarning, match="no gold label of arm 1: the judges' bias there is taken to be like"):
        fuse(rounds, make_correction(), gold_propensity=np.where(rounds.has_gold, 0.2 * 2 / 3, np.nan))


def test_all_gold_is_its_own_answer(rng):
    """Where every round has a gold label, so is every label to learn from or evaluate by."""
    rounds = judging(n_rounds=60, n_gold=60, rng=rng).rounds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = fuse(rounds, make_correction())
    np.testing.assert_array_equal(fused.quality, rounds.gold)
    np.testing.assert_allclose(fused.pseudo_quality, rounds.gold, atol=1e-12)


def test_rounds_nobody_judged_count_where_their_probability_is_known(rng):
    """Gold asked at a known 10% of all rounds, a judge that speaks in half: pseudo labels average gold over all rounds.

    Within 4 standard errors of the mean of 4,000 pseudo labels; without the silent rounds R / rho would average 1.8.
    """
    n_rounds = 4_000
    gold = rng.random(n_rounds)
    asked, spoke = rng.random(n_rounds) < 0.1, rng.random(n_rounds) < 0.5
    rounds = JudgedRounds(
        context=rng.normal(size=(n_rounds, 3)),
        arm=np.zeros(n_rounds, dtype=np.int64),
        judged=np.where(spoke, np.clip(gold + 0.2, 0, 1), np.nan)[:, None],
        gold=np.where(asked, gold, np.nan),
        group=np.arange(n_rounds),
        arms=["a"],
        judges=["judge"],
    )
    fused = fuse(rounds, make_correction(), gold_propensity=np.full(n_rounds, 0.1))
    assert not np.isnan(fused.pseudo_quality).any()
    assert np.isnan(fused.quality[~asked & ~spoke]).all()
    gap = fused.pseudo_quality - gold
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(n_rounds)
