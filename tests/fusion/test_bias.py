"""A judge's bias, agreement and worth, on rounds of known truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from judging import judging
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError
from pointsman.fusion.base import JudgedRounds
from pointsman.fusion.bias import agreements, calibration_curves, judge_biases, judge_worth


def _rounds(judged, gold, *, arm=None, n_arms=1, group=None, context=None) -> JudgedRounds:
    judged, gold = np.asarray(judged, dtype=float), np.asarray(gold, dtype=float)
    judged = judged[:, None] if judged.ndim == 1 else judged
    n = gold.size
    return JudgedRounds(
        context=np.zeros((n, 1)) if context is None else context,
        arm=np.zeros(n, dtype=np.int64) if arm is None else np.asarray(arm),
        judged=judged,
        gold=gold,
        group=np.arange(n) if group is None else np.asarray(group),
        arms=[f"arm {t}" for t in range(n_arms)],
        judges=[f"judge {j}" for j in range(judged.shape[1])],
    )


def _even(rounds: JudgedRounds) -> np.ndarray:
    return np.full(rounds.n_rounds, rounds.has_gold.mean())


def test_bias_is_that_of_the_world(seed, rng):
    """Overall and by arm, where labels meet and where they do not, bias is the truth within its errors."""
    for paired in (True, False):
        world = judging(n_rounds=6_000, n_gold=900, rng=rng, n_judges=2, paired=paired)
        rounds = world.rounds

        found = judge_biases(rounds, probability=_even(rounds))

        assert {row.basis for row in found} == {"paired" if paired else "expected"}
        for row in found:
            j = rounds.judges.index(row.judge)
            cell = np.full(6_000, True) if row.by == "overall" else rounds.arm == rounds.arms.index(row.cell)
            assert abs(row.value + world.gap[cell, j].mean()) < FALSE_FAILURE_Z * row.standard_error
            assert row.ci_low < row.value < row.ci_high


def test_intervals_cover_as_they_say():
    """Of 1,000 intervals at 90% from 60 gold labels, as many hold the truth as a binomial allows."""
    covered = 0
    for seed in range(1_000):
        rng = np.random.default_rng(seed)
        truth = rng.random(400)
        judged = (rng.random(400) < truth).astype(float)
        gold = (rng.random(400) < np.clip(truth - 0.2, 0, 1)).astype(float)
        asked = 0.05 + 0.2 * (truth > 0.5)  # gold is asked for more often where answers are good
        rounds = _rounds(judged, np.where(rng.random(400) < asked, gold, np.nan))
        row = judge_biases(rounds, probability=asked, level=0.9)[0]
        # E[judge - gold] for truth uniform on [0, 1]: 0.5 - 0.8^2 / 2
        covered += row.ci_low <= 0.5 - 0.32 <= row.ci_high

    assert abs(covered - 900) < FALSE_FAILURE_Z * np.sqrt(1_000 * 0.9 * 0.1)


def test_weights_undo_who_was_asked(seed, rng):
    """Gold asked for mostly where the judge is right leaves the weighted bias at the truth; it moves a plain one."""
    kind = rng.random(20_000) < 0.5
    asked = np.where(kind, 0.02, 0.3)
    gold = rng.uniform(0.2, 0.5, 20_000)
    rounds = _rounds(gold + 0.4 * kind, np.where(rng.random(20_000) < asked, gold, np.nan))

    row = judge_biases(rounds, probability=asked)[0]

    assert abs(row.value - 0.4 * kind.mean()) < FALSE_FAILURE_Z * row.standard_error
    both = rounds.has_gold
    assert (rounds.judged[both, 0] - rounds.gold[both]).mean() < row.value - FALSE_FAILURE_Z * row.standard_error


def test_rounds_of_one_prompt_count_once(rng):
    """Every round told four times, as rounds of the same prompt, leaves the standard error of the bias as it was."""
    judged, gold = rng.random(60), rng.random(60)
    once = judge_biases(_rounds(judged, gold), probability=np.ones(60))[0]

    many = _rounds(np.repeat(judged, 4), np.repeat(gold, 4), group=np.repeat(np.arange(60), 4))
    row = judge_biases(many, probability=np.ones(240))[0]

    assert row.standard_error == pytest.approx(once.standard_error)


def test_equal_differences_do_not_claim_certainty():
    """Five gold labels that the judge misses by exactly as much still leave an interval."""
    gold = np.full(205, np.nan)
    gold[:100] = 0.5
    gold[200:] = 0.05
    judged = np.concatenate([np.tile([0.2, 0.8], 100), np.full(5, 0.95)])
    arm = np.repeat([0, 1], [200, 5])

    rows = judge_biases(_rounds(judged, gold, arm=arm, n_arms=2), probability=np.where(arm == 1, 1.0, 0.5))

    row = next(row for row in rows if row.cell == "arm 1")
    assert row.value == pytest.approx(0.9)
    assert row.ci_high - row.ci_low > 0.1


def test_only_the_cell_that_differs_is_flagged(seed, rng):
    """Of 20 slices one has another bias: it is flagged, and the others, but for Holm's 5%, are not."""
    n = 20_000
    label = rng.integers(20, size=n)
    gold = rng.uniform(0.3, 0.5, n)
    judged = gold + rng.uniform(-0.1, 0.1, n) + 0.2 * (label == 7)
    rounds = _rounds(judged, np.where(rng.random(n) < 0.2, gold, np.nan))

    rows = judge_biases(
        rounds, probability=np.full(n, 0.2), slices={"task": [f"task {k}" for k in label]}, level=0.999999
    )

    assert [row.cell for row in rows if row.differs] == ["task 7"]


def test_an_arm_that_games_the_judge_is_flagged(seed):
    """0.95 whatever it answers, gold 0.05: flagged from 30 gold labels, and no other arm is."""
    rng = np.random.default_rng(seed)
    n = 3_000
    arm = rng.integers(4, size=n)
    good = rng.random(n) < np.where(arm == 3, 0.05, 0.6)
    judged = np.where(arm == 3, 0.95, np.clip(0.3 + 0.4 * good + rng.normal(0, 0.15, n), 0, 1))
    asked = np.zeros(n, dtype=bool)
    for t in range(4):
        asked[rng.permutation(np.flatnonzero(arm == t))[:30]] = True

    rounds = _rounds(judged, np.where(asked, good, np.nan), arm=arm, n_arms=4)
    rows = judge_biases(rounds, probability=np.full(n, 120 / n))

    assert [row.cell for row in rows if row.gamed] == ["arm 3"]


def test_a_kind_judge_is_no_gamed_one(seed, rng):
    """None is flagged by a judge as far off everywhere, one that varies on its favourite, one harsh on all others."""
    n = 3_000
    arm = rng.integers(3, size=n)
    gold = np.where(arm == 2, 0.3, rng.uniform(0, 0.3, n))
    for judged in (gold + 0.6, gold + 0.6 * (arm == 2) * rng.random(n), np.where(arm == 2, 0.3, gold / 3)):
        rounds = _rounds(judged, np.where(rng.random(n) < 0.3, gold, np.nan), arm=arm, n_arms=3)
        assert not any(row.gamed for row in judge_biases(rounds, probability=np.full(n, 0.3)))


def test_agreement_is_what_others_compute(rng):
    """With equal weights correlations, AUC, differences and constants are those of scipy, scikit-learn and numpy."""
    gold = (rng.random(300) < 0.4).astype(float)
    judged = np.round(np.clip(0.4 * gold + rng.uniform(0, 0.6, 300), 0, 1), 1)  # rounded, so that there are ties

    found = agreements(_rounds(judged, gold), probability=np.full(300, 0.5))[0]

    assert found.n_pairs == 300
    assert found.correlation == pytest.approx(pearsonr(judged, gold).statistic)
    assert found.rank_correlation == pytest.approx(spearmanr(judged, gold).statistic)
    assert found.auc == pytest.approx(roc_auc_score(gold, judged))
    assert found.absolute_difference == pytest.approx(abs(judged - gold).mean())
    assert found.constant_absolute_difference == pytest.approx(abs(gold - np.median(gold)).mean())
    assert found.rmse == pytest.approx(np.sqrt(((judged - gold) ** 2).mean()))
    assert found.constant_rmse == pytest.approx(gold.std())


def test_a_constant_judge_agrees_with_nothing():
    """It has no correlation, and cannot tell good from bad."""
    gold = np.tile([0.0, 1.0], 20)

    found = agreements(_rounds(np.full(40, 0.7), gold), probability=np.ones(40))[0]

    assert np.isnan(found.correlation)
    assert np.isnan(found.rank_correlation)
    assert found.auc == 0.5


def test_calibration_bins_hold_every_pair_once(seed, rng):
    """Bins follow each other, hold all pairs, and gold is within its interval of what was drawn."""
    judged = rng.random(4_000)
    gold = np.where(rng.random(4_000) < 0.5, (rng.random(4_000) < 0.2 + 0.6 * judged**2).astype(float), np.nan)
    rounds = _rounds(judged, gold)

    bins = calibration_curves(rounds, probability=np.full(4_000, 0.5), level=1 - 1e-6)

    assert len(bins) == 10
    assert sum(each.n_pairs for each in bins) == rounds.has_gold.sum()
    assert all(a.high < b.low for a, b in pairwise(bins))
    for each in bins:
        inside = (judged >= each.low) & (judged <= each.high)
        assert each.ci_low <= (0.2 + 0.6 * judged[inside] ** 2).mean() <= each.ci_high


def test_worth_is_the_formula_of_a_linear_judge(seed, rng):
    """A judge that correlates rho with gold within arms replaces about n / (1 - r^2 (1 - n / N)) - n gold labels."""
    n, n_gold = 20_000, 2_000
    arm = rng.integers(2, size=n)
    signal, noise = rng.uniform(-0.15, 0.15, (2, n))
    gold = 0.5 + 0.1 * arm + signal + noise  # correlates 1 / sqrt(2) with the judge
    asked = rng.permutation(n) < n_gold
    rounds = _rounds(0.4 - 0.1 * arm + signal, np.where(asked, gold, np.nan), arm=arm, n_arms=2)

    found = judge_worth(rounds, probability=_even(rounds), price_usd={"judge 0": 0.001, "gold": 1.0}, level=1 - 1e-6)[0]

    # Arms are known to both: their share of the variance, 0.05^2, is told by all rounds, as what the judge sees is.
    within, seen, between = 2 * 0.3**2 / 12, 0.3**2 / 12, 0.05**2
    with_judge = (within - seen) / n_gold + (seen + between) / n
    without = within / n_gold + between / n
    truth = n_gold * (without / with_judge - 1)
    assert found.ci_low < truth < found.ci_high
    assert found.ci_high - found.ci_low < truth
    assert found.standard_error == pytest.approx(np.sqrt(with_judge), rel=0.1)
    assert found.per_thousand == pytest.approx(found.replaced / 20)
    assert found.usd_per_gold_label == pytest.approx(20 / found.replaced)
    assert found.worth_its_price is True


def test_noise_replaces_next_to_nothing(seed, rng):
    """A judge of pure noise replaces under a twentieth of the gold labels, and dear at that is not worth its price."""
    n = 10_000
    rounds = _rounds(rng.random(n), np.where(rng.random(n) < 0.1, rng.random(n), np.nan))

    found = judge_worth(rounds, probability=_even(rounds), price_usd={"judge 0": 0.01, "gold": 1.0})[0]

    # log(V0 / V) is off by about chi-square(1) / n_gold for a slope without use: 24 is that at one in a million.
    assert found.replaced < 24
    assert found.worth_its_price is False


def test_prices_that_are_not_known_leave_the_question_open(rng):
    """Without a price nothing is said about it; a negative one is refused."""
    rounds = judging(n_rounds=400, n_gold=80, rng=rng).rounds

    assert judge_worth(rounds, probability=_even(rounds))[0].worth_its_price is None
    assert judge_worth(rounds, probability=_even(rounds), price_usd={"judge 0": 1.0})[0].worth_its_price is None
    with pytest.raises(InvalidParameterError, match="price_usd of 'gold' must be >= 0"):
        judge_worth(rounds, probability=_even(rounds), price_usd={"gold": -1.0})


def test_a_cell_without_gold_says_so(rng):
    """An arm without a gold label has no bias, not a wrong one; a level or a chance out of range is refused."""
    rounds = judging(n_rounds=600, n_gold=120, rng=rng).rounds
    blind = replace(rounds, gold=np.where(rounds.arm == 1, np.nan, rounds.gold))

    row = next(row for row in judge_biases(blind, probability=_even(blind)) if row.cell == "arm 1")

    assert row.n_gold == 0
    assert row.n_judged > 0
    assert np.isnan([row.value, row.ci_low, row.ci_high, row.p_value]).all()
    assert not row.differs
    assert not row.gamed
    with pytest.raises(InvalidParameterError, match="level must be in"):
        judge_biases(rounds, probability=_even(rounds), level=95)
    with pytest.raises(InvalidParameterError, match="probability must be in"):
        judge_biases(rounds, probability=np.zeros(600))
