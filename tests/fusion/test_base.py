"""Judged rounds: what they refuse, and that nobody's own words enter what is expected of a judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import judging
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError
from pointsman.fusion import JudgedRounds, make_correction


def of_prompts(*, judged, group, context=None, gold=None):
    """Return rounds of one arm and one judge."""
    judged = np.array(judged, dtype=np.float64).reshape(len(group), -1)
    return JudgedRounds(
        context=np.zeros((len(group), 1)) if context is None else context,
        arm=np.zeros(len(group), dtype=np.int64),
        judged=judged,
        gold=np.full(len(group), np.nan) if gold is None else np.array(gold, dtype=np.float64),
        group=np.array(group),
        arms=["a"],
        judges=[f"judge {j}" for j in range(judged.shape[1])],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": np.zeros((4, 3))}, r"context must have shape \(30, 3\).*got \(4, 3\)"),
        ({"context": np.zeros(30)}, r"context must have shape \(30, n_features\).*got \(30,\)"),
        ({"arm": np.zeros(4, dtype=np.int64)}, r"arm must have shape \(30\)"),
        ({"group": np.zeros(4, dtype=np.int64)}, r"group must have shape \(30\)"),
        ({"judged": np.zeros((30, 5))}, r"judged must have shape \(30, 2\).*got \(30, 5\)"),
        ({"gold": np.full(30, 1.5)}, r"gold must hold labels in \[0, 1\]; got 1.5; rescale"),
        ({"gold": np.full(30, np.inf)}, r"gold must hold labels in \[0, 1\]; got inf"),
        ({"judged": np.full((30, 2), -1.0)}, r"judged must hold labels in \[0, 1\]; got -1.0"),
        ({"arm": np.full(30, 3)}, r"arm must be in \[0, 3\).*got 3"),
        ({"arm": np.full(30, -1)}, r"arm must be in \[0, 3\).*got -1"),
    ],
)
def test_rounds_that_do_not_fit_are_refused(rng, change, message):
    """Each message names what was given, its rule and what was got."""
    rounds = judging(n_rounds=30, n_gold=10, n_judges=2, rng=rng).rounds
    with pytest.raises(InvalidParameterError, match=message):
        replace(rounds, **change)


def test_counts_and_masks_are_those_of_the_labels():
    """NaN is no label; a judge's zero is one."""
    rounds = of_prompts(judged=[[0, np.nan], [np.nan, np.nan], [1, 1]], gold=[np.nan, 0, 1], group=[0, 1, 2])
    assert (rounds.n_rounds, rounds.n_arms, rounds.n_judges) == (3, 1, 2)
    assert rounds.has_gold.tolist() == [False, True, True]
    assert rounds.is_judged.tolist() == [True, False, True]


def test_a_prompts_own_words_are_not_expected_of_it(rng):
    """Where features tell prompts apart and a judge's words are noise, what is expected knows nothing of them."""
    n_prompts, repeats = 60, 4
    group = np.repeat(np.arange(n_prompts), repeats)
    words = rng.uniform(0.1, 0.9, n_prompts)[group]  # of one prompt the same, of two unlike
    rounds = of_prompts(judged=words, group=group, context=np.eye(n_prompts)[group])
    apart = of_prompts(judged=words, group=np.arange(group.size), context=rounds.context)

    own = np.corrcoef(rounds.expected[::repeats, 0], words[::repeats])[0, 1]

    # Out of fold nothing is known but the mean of the others, which moves against a prompt's own words.
    assert own < FALSE_FAILURE_Z / np.sqrt(n_prompts)
    # The test would see it: where repeats of a prompt do not share a fold, they give each other away.
    assert np.corrcoef(apart.expected[:, 0], words)[0, 1] > 0.9


def test_a_round_changes_nothing_that_is_expected_of_itself(rng):
    """One label moved from end to end moves the expectation of other prompts only."""
    rounds = judging(n_rounds=100, n_gold=10, rng=rng).rounds
    moved = rounds.judged.copy()
    moved[7, 0] = 0.0
    changed = replace(rounds, judged=moved)

    assert changed.expected[7, 0] == rounds.expected[7, 0]
    assert not np.array_equal(changed.expected, rounds.expected)


def test_gold_plays_no_part_in_it(rng):
    """Other gold labels, or none, leave it bit for bit."""
    rounds = judging(n_rounds=100, n_gold=40, n_judges=2, rng=rng).rounds
    np.testing.assert_array_equal(replace(rounds, gold=np.full(100, np.nan)).expected, rounds.expected)


def test_it_is_what_such_an_arm_would_be_told(seed, rng):
    """Close to the mean label of the arm at that prompt, nearer than the round's own noisy label."""
    drawn = judging(n_rounds=1_500, n_gold=10, rng=rng, noise=0.1)
    mean = drawn.expected - drawn.gap[:, 0]

    error = drawn.rounds.expected[:, 0] - mean

    # A regression of 4 coefficients an arm on 400 rounds each: noise 0.1 sqrt(4 / 400) = 0.01, less what the penalty
    # takes, against 0.1 of the label itself. A chi-square of 12 stays below 4 times its mean but once in a million.
    assert np.sqrt((error**2).mean()) < 2 * 0.01


def test_what_was_expected_is_kept(rng):
    """Some of the rounds, or with labels hidden or replaced: the expectation is that of all, computed once."""
    rounds = judging(n_rounds=60, n_gold=20, n_judges=2, rng=rng).rounds
    some, mask = np.array([5, 3, 40]), rounds.arm == 1

    np.testing.assert_array_equal(rounds.take(some).expected, rounds.expected[some])
    np.testing.assert_array_equal(rounds.take(mask).expected, rounds.expected[mask])
    assert rounds.without_gold(mask).expected is rounds.expected
    assert rounds.with_judged(np.full((60, 2), np.nan)).expected is rounds.expected
    assert replace(rounds, judged=1 - rounds.judged).expected is not rounds.expected


def test_taking_and_hiding_do_what_they_say(rng):
    """Rows are those asked for; gold is hidden where the mask holds; the judges' words are those given."""
    rounds = judging(n_rounds=60, n_gold=20, n_judges=2, rng=rng).rounds
    some, mask = np.array([5, 3, 40]), rounds.arm == 1

    for name in ("context", "arm", "judged", "gold", "group"):
        np.testing.assert_array_equal(getattr(rounds.take(some), name), getattr(rounds, name)[some])
    hidden = rounds.without_gold(mask)
    np.testing.assert_array_equal(hidden.has_gold, rounds.has_gold & ~mask)
    np.testing.assert_array_equal(hidden.judged, rounds.judged)
    np.testing.assert_array_equal(rounds.with_judged(1 - rounds.judged).judged, 1 - rounds.judged)
    assert rounds.has_gold.sum() == 20


def test_a_judge_that_says_nothing_is_expected_to_say_a_half(rng):
    """The others are not touched by it."""
    rounds = judging(n_rounds=60, n_gold=20, n_judges=2, rng=rng).rounds
    silent = rounds.judged.copy()
    silent[:, 1] = np.nan
    expected = replace(rounds, judged=silent).expected
    assert (expected[:, 1] == 0.5).all()
    np.testing.assert_array_equal(expected[:, 0], rounds.expected[:, 0])


def test_a_judge_of_one_prompt_is_expected_to_say_its_mean():
    """One group only, whether of all rounds or of those the judge scored: nothing to learn from elsewhere."""
    assert of_prompts(judged=[0.2, 0.4, 0.9], group=[7, 7, 7]).expected[:, 0] == pytest.approx([0.5] * 3)
    lone = of_prompts(judged=[0.2, 0.4, np.nan, np.nan], group=[7, 7, 1, 2])
    assert lone.expected[:, 0] == pytest.approx([0.3] * 4)


def test_expectations_are_labels(rng):
    """They lie in [0, 1] where a regression would leave it."""
    x = np.linspace(-1, 1, 200)
    rounds = of_prompts(judged=np.clip(x * 2 + 0.5, 0, 1), group=np.arange(200), context=x[:, None])
    assert (rounds.expected >= 0).all()
    assert rounds.expected.max() == 1


def test_corrections_are_made_by_name():
    """An unknown name or option is refused, with those there are; options reach the constructor."""
    assert make_correction("hierarchical", n_components=3).n_components == 3
    assert make_correction().name == "hierarchical"
    with pytest.raises(InvalidParameterError, match=r"correction must be among \['arm-shift'.*got 'magic'"):
        make_correction("magic")
    with pytest.raises(InvalidParameterError, match=r"options of 'hierarchical' must be among \['n_components'\]"):
        make_correction("hierarchical", n_trees=3)
