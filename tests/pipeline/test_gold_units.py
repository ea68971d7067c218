"""Routers and evaluations in gold units, from logs that are mostly a judge's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pointsman.errors import (
    CalibrationWarning,
    InvalidParameterError,
    LabelWarning,
    OverlapError,
)
from pointsman.folder import read_folder, write_folder
from pointsman.fusion import LEAST_GOLD
from pointsman.logs import Labels, LoggedRounds, label_matrix
from pointsman.pipeline import default_trade_offs, evaluate, evaluate_cross_fitted, fit, power
from pointsman.pipeline.gold_units import in_gold_units
from pointsman.registry import load_router, save_router
from tests.pipeline.judged_logs import judged_log
from tests.synthetic import FALSE_FAILURE_Z

MODELS = ("cheap", "fair", "gamer")
COST_USD = np.array([1e-4, 1e-3, 1.1e-3])

pytestmark = pytest.mark.filterwarnings("ignore::pointsman.errors.SmallSampleWarning")


def one_hot_log(rng, *, n_rounds, mean, judged, floor=0.0):
    """Return a uniform log by embeddings, scored by `judge`, and every round's gold label, 0 or 1."""
    x = rng.uniform(-1, 1, (n_rounds, 2)).astype(np.float32)
    arm = rng.integers(3, size=n_rounds)
    gold = (rng.random(n_rounds) < mean(x, arm)).astype(np.float64)
    log = LoggedRounds.from_columns(
        round_id=[f"r{i}" for i in range(n_rounds)],
        embedding=x,
        model=[MODELS[t] for t in arm],
        propensity=np.full(n_rounds, 1 / 3),
        quality=np.clip(judged(gold, arm) + floor, 0, 1),
        quality_source=["judge"] * n_rounds,
        cost_usd=COST_USD[arm] * rng.uniform(0.8, 1.2, n_rounds),
    )
    return log, gold


def labels_of(log, gold, rows, *, source="gold", **columns):
    """Return gold labels of these rounds."""
    return Labels.from_columns(
        round_id=[log.round_id[i] for i in rows], quality=gold[rows], quality_source=[source] * len(rows), **columns
    )


def gaming_log(rng):
    """Return a log whose judge scores the gamer 0.95 always, gold 0.05, with 30 gold labels on every model."""
    log, gold = one_hot_log(
        rng,
        n_rounds=900,
        mean=lambda x, t: np.array([0.45, 0.75, 0.05])[t] + 0.1 * x[:, 0] * (t < 2),
        judged=lambda gold, t: np.where(t == 2, 0.95, 0.25 + 0.5 * gold),
    )
    rows = np.concatenate([rng.permutation(np.flatnonzero(log.arm == t))[:30] for t in range(3)])
    return log, labels_of(log, gold, rows)


def to_gamer(router, log):
    """Return the gamer's share of traffic at every default trade-off."""
    costs = [log.cost_usd[log.arm == t].mean() for t in range(3)]
    return [
        router.probabilities(log.embedding, router.trade_off(quality_per_usd=at))[
            :, list(router.arms.names).index("gamer")
        ].mean()
        for at in default_trade_offs(costs)
    ]


@pytest.mark.parametrize("method", ["direct", "auto"])
def test_an_arm_that_games_the_judge_is_sent_next_to_nothing(seed, rng, method):
    """By 30 gold labels on it under 1% at every default trade-off; by the judge alone most where quality counts."""
    log, labels = gaming_log(rng)

    corrected = to_gamer(fit(log, labels=labels, method=method), log)
    with pytest.warns(LabelWarning, match="judged by judge"):
        judges = to_gamer(fit(log, method=method), log)

    assert max(corrected) < 0.01
    assert judges[0] > 0.5


def test_labels_in_a_file_or_in_the_log_make_one_router(seed, rng):
    """A judge's label where gold is not, in one column or in two files: one router, and facts alike."""
    log, gold = one_hot_log(
        rng, n_rounds=400, mean=lambda x, t: 0.5 + 0.1 * t * x[:, 0], judged=lambda gold, _: 0.3 + 0.4 * gold
    )
    asked = np.zeros(400, dtype=bool)
    asked[rng.permutation(400)[:80]] = True
    judge = np.where(asked, np.nan, log.quality)
    mixed = log.with_columns(
        quality=np.where(asked, gold, judge), quality_source=np.where(asked, "gold", "judge").tolist()
    )
    scored = log.with_columns(quality=judge)

    inside = fit(mixed, method="direct")
    outside = fit(scored, method="direct", labels=labels_of(log, gold, np.flatnonzero(asked)))

    np.testing.assert_array_equal(outside.policy.quality_coef_, inside.policy.quality_coef_)
    np.testing.assert_array_equal(outside.policy.quality_intercept_, inside.policy.quality_intercept_)
    assert (
        (inside.facts.n_gold, inside.facts.n_outcomes) == (outside.facts.n_gold, outside.facts.n_outcomes) == (80, 400)
    )
    assert inside.facts.quality_sources == outside.facts.quality_sources == ["gold", "judge"]


def test_other_labels_are_another_log(rng):
    """What the router was fitted on is told by the hash of log and labels together."""
    log, labels = gaming_log(rng)
    fewer = Labels.from_table(labels.table.slice(1))
    hashes = {fit(log, labels=each, method="best-single").facts.log_hash for each in (labels, fewer, labels)}
    assert len(hashes) == 2
    assert log.content_hash not in hashes


def mixed_world(rng, *, n_rounds=1_200, share=0.08):
    """Return a judged log, its gold labels and all gold; the judge is too kind, most of all to `gamer`."""
    log, gold = one_hot_log(
        rng,
        n_rounds=n_rounds,
        mean=lambda x, t: np.array([0.4, 0.6, 0.5])[t] + 0.15 * x[:, 0],
        judged=lambda gold, t: 0.15 + 0.7 * gold + 0.1 * (t == 2) * (1 - gold),
    )
    asked = np.flatnonzero(rng.random(n_rounds) < share)
    return log, labels_of(log, gold, asked), gold, asked


def test_intervals_in_gold_units_cover_and_are_narrower_than_gold_alone(seed, rng):
    """95% intervals of a model's value, over fresh logs; the judge's word is worth most of a gold label here."""
    n_replications, truth = 8, 0.5
    missed, widths, widths_of_gold = 0, [], []
    options = {"quality_per_usd": 0.0, "against": "always cheap", "estimators": ("dr",)}
    for _ in range(n_replications):
        log, labels, gold, asked = mixed_world(rng, n_rounds=900, share=0.1)
        row = evaluate("always gamer", log, labels=labels, **options).rows[0]
        missed += not row["ci_low"] <= truth <= row["ci_high"]
        widths.append(row["ci_high"] - row["ci_low"])
        n_own = np.count_nonzero(log.arm[asked] == 2)
        widths_of_gold.append(2 * 1.96 * gold[log.arm == 2].std() / math.sqrt(n_own))
    assert missed <= stats.binom.isf(1e-6, n_replications, 0.05)
    assert np.mean(widths) < 0.7 * np.mean(widths_of_gold)


def test_values_are_golds_whatever_the_correction(seed, rng):
    """By a correction that believes a judge who is 0.25 too kind, the value is still that of gold, to its own error."""
    log, gold = one_hot_log(
        rng, n_rounds=900, mean=lambda x, _: 0.5 + 0.1 * x[:, 0], judged=lambda gold, _: 0.5 + 0.5 * gold
    )
    labels = labels_of(log, gold, np.flatnonzero(rng.random(900) < 0.2))
    row = evaluate(
        "always fair", log, labels=labels, correction="judge-only", quality_per_usd=0.0, against="always cheap",
        estimators=("dr",),
    ).rows[0]  # fmt: skip
    # Some 60 gold labels on the model: its error is near 0.035, and the judge is off by seven of them.
    assert abs(row["value"] - 0.5) < FALSE_FAILURE_Z * row["standard_error"]


def test_the_judges_bias_would_be_seen(rng):
    """On the judge's word alone the same interval misses: 0.15 + 0.7 / 2 + 0.1 / 2 = 0.55, and a narrower one."""
    log, _, gold, _ = mixed_world(rng, n_rounds=20_000)
    options = {"quality_per_usd": 0.0, "against": "always cheap", "estimators": ("dr",)}
    with pytest.warns(LabelWarning):
        row = evaluate("always gamer", log, **options).rows[0]
    assert row["ci_low"] > gold[log.arm == 2].mean() + 0.02


def test_what_an_evaluation_says_of_its_labels(rng):
    """Sources, counts, the correction, and how gold labels came about; known probabilities are used."""
    log, labels, gold, asked = mixed_world(rng)
    options = {"quality_per_usd": 0.0, "against": "always cheap", "estimators": ("dr",)}

    notes = evaluate("always fair", log, labels=labels, **options).diagnostics
    known = labels_of(log, gold, asked, gold_propensity=np.full(asked.size, 0.08))
    of_known = evaluate("always fair", log, labels=known, **options)
    column = evaluate(
        "always fair", log.with_columns(gold_propensity=np.full(log.n_rounds, 0.08)), labels=labels, **options
    )

    assert notes["quality_sources"] == ["gold", "judge"]
    assert (notes["n_gold"], notes["n_judged"], notes["correction"]) == (asked.size, {"judge": 1_200}, "hierarchical")
    assert notes["labelling"]["kind"] == "estimated"
    assert notes["labelling"]["judges_used"] == ["judge"]
    for found in (of_known, column):
        assert found.diagnostics["labelling"]["kind"] == "known"
        assert found.diagnostics["labelling"]["covered"] == 1.0
    assert of_known.rows[0]["value"] == pytest.approx(column.rows[0]["value"], abs=1e-12)


def test_probabilities_that_cannot_be_are_told_of(rng):
    """Gold labels stated to be rarer than they are stand for more rounds than there are."""
    log, labels, _, _ = mixed_world(rng)
    wrong = log.with_columns(gold_propensity=np.full(log.n_rounds, 0.02))
    with pytest.warns(CalibrationWarning, match="stand for"):
        in_gold_units(wrong, label_matrix(wrong, labels), wrong.embedding, gold="gold", n_folds=5, seed=0)


def test_no_gold_is_in_the_judges_units_and_says_so(rng):
    """Whether there is none, or its source is called something else."""
    log, labels, _, _ = mixed_world(rng)
    with pytest.warns(LabelWarning, match="no label is of source 'gold': every result is in the judge's units"):
        alone = fit(log, method="direct")
    with pytest.warns(
        LabelWarning, match="judged by gold, judge, whose labels are averaged, and no label is of source"
    ):
        misnamed = fit(log, labels=labels, gold="experts", method="direct")
    for router in (alone, misnamed):
        assert (router.facts.n_gold, router.facts.correction) == (0, None)
    with pytest.warns(LabelWarning, match=r"and 9 gold labels are too few to correct that by, 10 are needed"):
        few = fit(log, labels=Labels.from_table(labels.table.slice(0, LEAST_GOLD - 1)), method="direct")
    assert (few.facts.n_gold, few.facts.correction) == (9, None)


def test_another_name_for_gold_is_as_good(rng):
    """Labels of `experts` named as gold give the same router as labels of `gold`."""
    log, _, gold, asked = mixed_world(rng, n_rounds=400, share=0.2)
    one = fit(log, labels=labels_of(log, gold, asked), method="direct")
    other = fit(log, labels=labels_of(log, gold, asked, source="experts"), gold="experts", method="direct")
    np.testing.assert_array_equal(other.policy.quality_coef_, one.policy.quality_coef_)
    assert other.facts.quality_sources == ["experts", "judge"]


def test_gold_alone_needs_no_judge(rng):
    """Where every label is gold nothing is corrected, and nothing warned of."""
    log, gold = one_hot_log(rng, n_rounds=300, mean=lambda x, t: 0.5 + 0.1 * t * x[:, 0], judged=lambda gold, _: gold)
    of_gold = log.with_columns(quality=gold, quality_source=["gold"] * 300)
    units = in_gold_units(of_gold, label_matrix(of_gold), of_gold.embedding, gold="gold", n_folds=5, seed=0)
    np.testing.assert_array_equal(units.quality, gold)
    assert units.pseudo_quality is units.quality
    assert (units.weight, units.fused, units.notes["correction"]) == (None, None, None)


def test_gold_that_never_meets_the_judge_explains_positivity(rng):
    """Gold labels on a model, or on prompts, that no judge scored."""
    log, gold = one_hot_log(rng, n_rounds=900, mean=lambda _, t: 0.5 + 0.1 * t, judged=lambda gold, _: 0.5 * gold)
    own = np.flatnonzero(log.arm == 2)
    apart = log.with_columns(quality=np.where(log.arm == 2, np.nan, log.quality))
    with pytest.raises(OverlapError, match=r"positivity: at least one model .*'gamer'.*best at random"):
        fit(apart, labels=labels_of(log, gold, own), method="direct")
    far = np.flatnonzero(log.embedding[:, 0] > 0.8)
    moved = log.with_columns(
        embedding=np.where(log.embedding[:, :1] > 0.8, log.embedding + 20, log.embedding),
        quality=np.where(log.embedding[:, 0] > 0.8, np.nan, log.quality),
    )
    with pytest.raises(OverlapError, match="positivity: gold labels must lie among the same prompts"):
        evaluate("always fair", moved, labels=labels_of(log, gold, far), quality_per_usd=0.0, against="always cheap")


def test_a_correction_there_is_not_is_refused_before_the_work(rng):
    """By every function that takes one, whether or not it would be needed."""
    log, gold = one_hot_log(rng, n_rounds=60, mean=lambda _, t: 0.5 + 0.0 * t, judged=lambda gold, _: gold)
    of_gold = log.with_columns(quality=gold, quality_source=["gold"] * 60)
    router = fit(of_gold, method="best-single")
    calls = (
        lambda: fit(of_gold, correction="magic"),
        lambda: evaluate("always fair", of_gold, correction="magic"),
        lambda: evaluate_cross_fitted(router, of_gold, correction="magic"),
        lambda: power("always fair", of_gold, against="always cheap", correction="magic"),
    )
    for call in calls:
        with pytest.raises(InvalidParameterError, match="correction must be among"):
            call()


@pytest.mark.parametrize("correction", ["hierarchical", "shift"])
def test_a_recipe_is_evaluated_on_its_own_judged_log(rng, correction):
    """Refitted by fold with the labels of each; the gamer is not what it chooses."""
    log, labels = gaming_log(rng)
    router = fit(log, labels=labels, method="direct", correction=correction)
    found = evaluate_cross_fitted(
        router, log, labels=labels, correction=correction, quality_per_usd=0.0, estimators=("dr",)
    )
    assert found.diagnostics["cross_fitted"] is True
    assert found.diagnostics["correction"] == router.facts.correction == correction
    assert found.diagnostics["n_gold"] == 90
    row = next(row for row in found.rows if row["policy"] == "direct")
    assert math.isfinite(row["value"])
    assert row["ci_low"] < row["value"] < row["ci_high"]


def test_rounds_left_out_take_their_labels_with_them(rng):
    """Fallbacks and models without any label: their gold labels correct nothing, and the count says so."""
    log, labels = gaming_log(rng)
    gold_rows = np.isin(log.round_id, labels.table["round_id"].to_pylist())
    fallback = np.zeros(log.n_rounds, dtype=bool)
    fallback[np.flatnonzero(gold_rows)[:20]] = True
    assert fit(log.with_columns(fallback=fallback), labels=labels, method="direct").facts.n_gold == 70


def test_facts_survive_the_disk_and_old_folders_still_load(rng, tmp_path):
    """Gold labels and correction are in the manifest; one written before there were any reads as not noted."""
    log, labels = gaming_log(rng)
    router = fit(log, labels=labels, method="best-single")
    save_router(router, tmp_path / "r")
    facts = load_router(tmp_path / "r").facts
    assert facts == router.facts
    assert (facts.n_gold, facts.correction) == (90, "hierarchical")

    manifest, arrays = read_folder(tmp_path / "r")
    older = {key: value for key, value in manifest["training"].items() if key not in ("n_gold", "correction")}
    assert len(older) == len(manifest["training"]) - 2
    write_folder(tmp_path / "older", manifest=manifest | {"training": older}, arrays=arrays)
    facts = load_router(tmp_path / "older").facts
    assert (facts.n_gold, facts.correction) == (None, None)


def test_several_judges_and_prompts_of_text():
    """The log's judge and one in the file, on prompts that are encoded: all are named."""
    log, labels = judged_log(n_prompts=120, n_gold=40)
    assert fit(log, labels=labels, method="best-single").facts.quality_sources == ["gold", "judge", "thumbs"]
