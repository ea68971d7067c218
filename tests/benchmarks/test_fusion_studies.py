"""The studies of fused labels: what they are made of, that they run, and that they can fail."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest

from benchmarks import speed
from benchmarks.studies import gamed, gold_values, judged_routers, judges
from benchmarks.studies.real_judges import JUDGES, LLMBAR_MODELS, VANILLA, llmbar, pandalm, paretobandit, unpaired
from benchmarks.studies.worlds import overlap_world
from pointsman.fusion import CORRECTIONS
from pointsman.logs import label_matrix, simulate

# Two-sided normal quantile of one in a million.
FALSE_FAILURE_Z = 4.89


@pytest.mark.data
def test_real_judges_meet_a_reference(shared_data):
    """Three judges scored 6,000 answers; a strong judge of LLMBar and of PandaLM agrees with people beyond chance."""
    cells = paretobandit(JUDGES[0])
    assert cells.judged.shape == (6_000, 2)
    assert not np.isnan(cells.judged).any()
    assert not np.isnan(cells.gold).any()
    assert np.unique(cells.group).size == 2_000

    strong, weak = (llmbar([f"{model}/{VANILLA}"]) for model in (LLMBAR_MODELS[0], LLMBAR_MODELS[-1]))
    assert strong.n_rounds == 419
    agreement = [np.nanmean(abs(each.judged[:, 0] - each.gold) < 0.5) for each in (strong, weak)]
    assert agreement[0] > 0.75 > agreement[1]

    pairs = pandalm(["judge_gpt35"])
    known = ~np.isnan(pairs.judged[:, 0])
    assert (pairs.n_rounds, pairs.n_arms) == (999, 10)
    assert np.corrcoef(pairs.judged[known, 0], pairs.gold[known])[0, 1] > 0.3


@pytest.mark.data
def test_an_unpaired_judge_is_silent_where_there_is_gold(shared_data):
    """Every round keeps exactly one kind of label."""
    whole = pandalm(["judge_pandalm7b"])
    has_gold = np.arange(whole.n_rounds) % 10 == 0

    rounds = unpaired(whole, has_gold)

    np.testing.assert_array_equal(rounds.has_gold, has_gold)
    np.testing.assert_array_equal(np.isnan(rounds.judged[:, 0]), has_gold)


@pytest.mark.data
@pytest.mark.parametrize("design", judges.DESIGNS)
def test_every_correction_is_compared_on_real_judges(shared_data, design):
    """On one draw every method has an error, and corrected labels are nearer than those of gold alone."""
    found = judges.run(judges.Job(judges.settings()[0], design, 100, 0))

    assert set(found.error) == set(CORRECTIONS)
    assert all(0 < error < 1 for error in found.error.values())
    assert found.error["hierarchical"] < found.error["gold-only"]


def test_holm_steps_down():
    """The smallest of three p-values is multiplied by three, the next by two, and none falls below one before it."""
    np.testing.assert_allclose(judges.holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])


def test_the_comparison_of_judges_can_fail(rng):
    """It holds where the default is nearer in every draw, and does not where all methods are alike."""

    def drawn(gain):
        return [
            judges.Found(
                judges.Job(setting, design, 100, seed),
                {name: 0.1 + 0.01 * rng.random() - gain * (name == judges.DEFAULT) for name in CORRECTIONS},
            )
            for setting in judges.settings()
            for design in judges.DESIGNS
            for seed in range(20)
        ]

    right = judges.report(drawn(0.05))
    assert right.holds
    assert "paretobandit 12 of 12, LLMBar 52 of 52, PandaLM 12 of 12 (paired)" in right.found
    assert not judges.report(drawn(0.0)).holds


@pytest.mark.parametrize("kind", gold_values.KINDS)
def test_gold_and_judge_are_what_the_study_says(seed, rng, kind):
    """Labels lie in [0, 1]; gold has the world's means; the judge is off by its arm's bias where none is clipped."""
    world = overlap_world("good")
    drawn = world.draw(40_000, rng=rng)
    gold = drawn.outcome if kind == "binary" else gold_values.shaded(world, drawn, rng=rng)
    judged = gold_values.judge_labels(world, drawn, gold, kind=kind, rng=rng)

    gap = gold - world.mean[drawn.prompt, drawn.arm]
    assert ((gold >= 0) & (gold <= 1)).all()
    assert ((judged >= 0) & (judged <= 1)).all()
    assert abs(gap.mean()) < FALSE_FAILURE_Z * gap.std() / np.sqrt(gap.size)
    off = [float((judged - gold)[drawn.arm == t].mean()) for t in range(4)]
    assert np.argsort(off).tolist() == np.argsort(gold_values.SHIFT).tolist()


def test_a_paired_judge_narrows_intervals():
    """On a few logs a judge that scored the gold rounds makes the interval narrower than gold alone does."""
    cell = gold_values.Cell(10_000, "binary", "paired", "good")

    found = gold_values.run(gold_values.Job(cell, range(3)))

    assert all(log.normal.width < log.gold_only.width for log in found)
    assert all(log.judge_only.width < log.normal.width for log in found)


def test_coverage_in_gold_units_can_fail():
    """It holds where 95% of narrow intervals cover, and not where 90% do or where they are no narrower."""

    def logs(share, width):
        interval = [gold_values.Interval(covered=i < 500 * share, width=width, error=0.0) for i in range(500)]
        gold = gold_values.Interval(covered=True, width=1.0, error=0.0)
        cell = gold_values.Cell(2_000, "binary", "paired", "good")
        return [gold_values.Found(cell, each, each, gold, gold, gold, True) for each in interval]

    assert gold_values.report(logs(0.95, 0.6)).holds
    assert not gold_values.report(logs(0.90, 0.6)).holds
    assert not gold_values.report(logs(0.95, 0.8)).holds


@pytest.mark.data
@pytest.mark.parametrize("design", gamed.DESIGNS)
def test_gold_labels_are_as_many_as_asked(shared_data, rng, design):
    """The gamer has its few, every other arm 30; unpaired, a round with gold has no label of the judge."""
    log = simulate(gamed.gamed_table().table, logger="uniform", seed=0).log
    judged, labels = gamed.labelled(log, gamed.Job(0, design, 5, "hierarchical"), rng=rng)
    matrix = label_matrix(judged, labels)

    count = np.bincount(log.arm[~np.isnan(matrix.gold)], minlength=len(log.arms))
    assert count.tolist() == [5 if name == gamed.GAMER else gamed.OTHERS_GOLD for name in log.arms.names]
    both = ~np.isnan(matrix.gold) & ~np.isnan(matrix.judged[:, 0])
    assert both.sum() == (count.sum() if design == "paired" else 0)
    own = log.arm == log.arms.names.index(gamed.GAMER)
    said = matrix.judged[own, 0]
    np.testing.assert_allclose(said[~np.isnan(said)], gamed.JUDGED_QUALITY)


@pytest.mark.data
def test_gold_labels_unmask_an_arm_that_judges_fall_for(shared_data):
    """On one log, judge-only sends most traffic to the arm; with 30 gold labels of it nothing is left."""
    trusting, corrected = (
        gamed.run(gamed.Job(0, "paired", 30, method)).share for method in (gamed.JUDGE_ONLY, gamed.DEFAULT)
    )

    assert trusting.min() > 0.5
    assert corrected.max() < gamed.MOST_TRAFFIC


def test_the_study_of_gaming_can_fail():
    """One log in which the arm keeps two percent of the traffic at one trade-off breaks the promise."""

    def shares(kept):
        found = [
            gamed.Found(gamed.Job(seed, design, n, method), np.full(5, 0.0 if n else 0.9))
            for seed in range(3)
            for design in gamed.DESIGNS
            for n in gamed.N_GOLD
            for method in gamed.CORRECTED
        ]
        found.append(gamed.Found(gamed.Job(0, "-", 0, gamed.JUDGE_ONLY), np.full(5, 0.95)))
        found.append(gamed.Found(gamed.Job(3, "paired", 30, gamed.DEFAULT), np.array([0, 0, kept, 0, 0])))
        return gamed.report(found)

    assert shares(0.0).holds
    assert "from 3 gold labels (paired)" in shares(0.0).found
    assert not shares(0.02).holds


@pytest.mark.data
def test_routers_of_real_judges_are_compared(shared_data):
    """On one log every method's router loses something finite at every trade-off."""
    found = judged_routers.run(judged_routers.Job(JUDGES[0], 0))

    assert set(found.loss) == set(judged_routers.METHODS)
    assert all(loss.shape == (5,) and (abs(loss) < 1).all() for loss in found.loss.values())


def test_the_comparison_of_routers_can_fail(rng):
    """It holds where the default loses less in every draw, and does not where all lose alike."""

    def drawn(gain):
        return [
            judged_routers.Found(
                judged_routers.Job(judge, seed),
                {name: 0.01 * rng.random(5) - gain * (name == "hierarchical") for name in judged_routers.METHODS},
            )
            for judge in JUDGES
            for seed in range(20)
        ]

    assert judged_routers.report(drawn(0.05)).holds
    assert not judged_routers.report(drawn(0.0)).holds


def test_the_time_of_fusing_is_told_by_piece():
    """All pieces of a small fusion are timed, and its time is at least that of what judges are expected to say."""
    found = speed._measure_fuse(Namespace(labels=3_000))

    assert len(found["pieces"]) == 3
    assert found["seconds"] >= found["pieces"]["what judges are expected to say"] > 0
