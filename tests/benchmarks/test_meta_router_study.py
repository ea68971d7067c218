"""The study of the two-model Meta-Router: its judge, and a slice of it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies import meta_router
from benchmarks.studies.meta_router import (
    JUDGES,
    METHODS,
    PROMISED_AT,
    SHARES,
    Found,
    Job,
    Judge,
    Pair,
    judge_gain,
    plot,
    report,
    run,
)

# Two-sided normal quantile of one in a million.
FALSE_FAILURE_Z = 4.89


@pytest.fixture
def world(rng):
    """Prompts of no structure: two components, and two models right at random."""
    strong, weak = (rng.random((2, 20_000)) < [[0.8], [0.5]]).astype(np.float64)
    return Pair(components=rng.normal(size=(20_000, 4)), strong=strong, weak=weak, names=("dear", "cheap"))


@pytest.mark.parametrize("judge", JUDGES.values())
def test_the_judge_errs_as_the_study_says(seed, rng, world, judge):
    """Its gains lie in [-1, 1], are below gold's on average, and their error goes with what the prompt is about."""
    gap = judge_gain(world, judge, rng=rng) - (world.strong - world.weak)

    assert (abs(gap + world.strong - world.weak) <= 1).all()
    assert gap.mean() < -FALSE_FAILURE_Z * gap.std() / np.sqrt(gap.size)
    # Biases of both models cancel where their directions are alike: then the judge errs alike everywhere. Over judges
    # that does not happen.
    slopes = [
        abs(np.corrcoef(judge_gain(world, judge, rng=rng) - (world.strong - world.weak), axis)[0, 1])
        for _ in range(10)
        for axis in world.components[:, : judge.n_axes].T
    ]
    assert max(slopes) > FALSE_FAILURE_Z / np.sqrt(gap.size)


def test_a_judge_without_faults_says_gold(rng, world, monkeypatch):
    """Shifts, bias and noise are all there is between the two."""
    monkeypatch.setattr(meta_router, "SHIFT", {"strong": 0.0, "weak": 0.0})

    said = judge_gain(world, Judge(bias=0.0, noise=0.0, n_axes=2), rng=rng)

    np.testing.assert_array_equal(said, world.strong - world.weak)


@pytest.mark.data
def test_more_gold_is_better(shared_data):
    """On six draws of the real table, all gold beats a hundred gold labels by more than chance."""
    found = [run(Job("biased", seed, PROMISED_AT, ("all-gold", "gold-only"))) for seed in range(6)]

    gaps = np.array([all_gold.area - gold_only.area for all_gold, gold_only in found])

    # Student's t of six draws at one in a hundred; the seeds are fixed, so that it passes or fails for ever.
    assert gaps.mean() > 3.36 * gaps.std(ddof=1) / np.sqrt(6)


@pytest.mark.data
def test_the_report_counts_what_was_promised(shared_data, tmp_path, rng):
    """Every difference shows where methods are drawn in the promised order, and none where they are all alike."""
    order = {"all-gold": 4.0, "pooled": 2.0, "judge-only": 2.0, "gold-only": 1.0}

    def drawn(scale):
        return [
            Found(judge, method, PROMISED_AT, scale * order.get(method, 3.0) + rng.normal(), 1.0, 0 * SHARES, 0.5)
            for judge in JUDGES
            for method in METHODS
            for _ in range(100)
        ]

    right, alike = drawn(3.0), drawn(0.0)

    assert report(right).holds
    assert "8 promised differences 8 are" in report(right).found
    assert not report(alike).holds
    plot(right, tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").read_bytes().startswith(b"<?xml")
