"""What `fuse_labels` finds, on logs whose truth is known."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError, LabelWarning
from pointsman.logs import Labels, LoggedRounds, read_labels
from pointsman.pipeline import fuse_labels
from tests.pipeline.judged_logs import judged_log, votes


@pytest.fixture(scope="module")
def found():
    """A fusion with everything in it."""
    log, labels = judged_log()
    return fuse_labels(
        log,
        labels,
        preferences=votes(),
        price_usd={"judge": 0.001, "thumbs": 0.5, "gold": 1.0},
        n_next=7,
        two_models=("coder", "dear"),
    )


def test_every_judge_is_told_of_overall_by_model_and_by_slice(found):
    """Three judges, three models, three tasks; the gamed model leads the page."""
    assert found.judges == ["judge", "thumbs", "users (votes)"]
    by = {(row["judge"], row["by"], row["cell"]) for row in found.bias}
    assert len(by) == len(found.bias) == 3 * (1 + 3 + 3)
    assert {(row["judge"], row["cell"]) for row in found.bias if row["gamed"]} == {("judge", "cheap")}
    assert found.headline["kind"] == "gamed"
    assert "cheap games judge" in found.headline["sentence"]
    assert {row["judge"] for row in found.agreement} == {row["judge"] for row in found.worth} == set(found.judges)


def test_a_judge_that_knows_is_worth_its_price_and_noise_is_not(found):
    """The cheap judge replaces gold labels; thumbs at half the price of gold replace next to none."""
    worth = {row["judge"]: row for row in found.worth}
    assert worth["judge"]["worth_its_price"] is True
    assert worth["thumbs"]["worth_its_price"] is False
    assert worth["users (votes)"]["worth_its_price"] is None


def test_the_labels_are_in_gold_units_and_can_be_read(found, tmp_path):
    """One a round, gold kept, the gamed model brought down to gold; the file is one of labels, with errors."""
    log, labels = judged_log()
    fused = found.labels
    gold = labels.matrix(log).gold
    assert list(fused.round_id) == log.round_id
    np.testing.assert_array_equal(fused.quality[fused.has_gold], gold[fused.has_gold])
    assert (fused.error[fused.has_gold] == 0).all()
    assert (fused.error[~fused.has_gold] > 0).all()
    cheap = log.arm == list(log.arms.names).index("cheap")
    # Its judge says 0.95; gold is about 0.42, known to 0.3 / sqrt(40) from its 40 gold labels.
    assert fused.quality[cheap].mean() < 0.42 + 5 * 0.05

    found.labels.write(tmp_path / "fused.parquet")

    written = read_labels(tmp_path / "fused.parquet")
    assert written.sources == ("fused",)
    assert len(written) == log.n_rounds
    assert {"error", "n_sources", "has_gold"} <= set(written.table.column_names)


def test_next_rounds_lack_gold_and_say_why(found):
    """Seven are named, in order of their rank, with a prompt and two models to decide between."""
    log, labels = judged_log()
    gold = dict(zip(log.round_id, labels.matrix(log).gold, strict=True))
    assert [row["rank"] for row in found.next_rounds] == list(range(1, 8))
    for row in found.next_rounds:
        assert np.isnan(gold[row["round_id"]])
        assert row["prompt"]
        assert len(set(row["between"])) == 2
        assert row["reason"].startswith("helps to decide between")
    assert found.more["regret_reduction"] >= found.more["random_regret_reduction"] > 0
    assert [row["cell"] for row in found.more["rows"]] == ["", *log.arms.names]
    for row in found.more["rows"]:
        assert row["later_half_width"] < row["half_width"]


def test_the_gain_curve_starts_and_ends_at_nothing(found):
    """Sending none or all to the strong model is no choice; between, an interval holds every value."""
    assert (found.gain["weak"], found.gain["strong"]) == ("coder", "dear")
    rows = found.gain["rows"]
    assert rows[0]["gain"] == rows[-1]["gain"] == 0
    assert all(row["ci_low"] <= row["gain"] <= row["ci_high"] for row in rows)
    # Where code and cooking differ as they do here, choosing wins.
    assert found.gain["area_ci_low"] > 0


def test_the_gain_is_that_of_gold_not_of_what_was_predicted(seed, rng):
    """Where gold is noise, a judge that favours some prompts makes predictions, but no gain."""
    n = 2_000
    x = rng.normal(size=(n, 4)).astype(np.float32)
    second = rng.random(n) < 0.5
    judged = np.clip(0.5 + 0.1 * np.where(second, 1, -1) * x[:, 0] + 0.05 * rng.normal(size=n), 0, 1)
    names = [f"r{i}" for i in range(n)]
    log = LoggedRounds.from_columns(
        round_id=names,
        embedding=list(x),
        model=np.where(second, "b", "a").tolist(),
        quality=judged,
        quality_source=["judge"] * n,
        propensity=np.full(n, 0.5),
    )
    labels = Labels.from_columns(
        round_id=names[:400], quality=rng.integers(2, size=400).astype(float), quality_source=["gold"] * 400
    )

    gain = fuse_labels(log, labels, n_next=0, level=1 - 1e-6).gain

    assert gain["area_ci_low"] < 0 < gain["area_ci_high"]


def test_two_models_have_a_gain_curve_unasked():
    """The dearer one is the strong one; three models have none unless two are named."""
    log, labels = judged_log()
    two = log.filter(log.arm != list(log.arms.names).index("cheap"))
    two = LoggedRounds.from_table(two.table)  # of the models that are left

    gain = fuse_labels(two, labels, n_next=0).gain

    assert (gain["weak"], gain["strong"]) == ("coder", "dear")
    assert fuse_labels(log, labels, n_next=0).gain is None


def test_json_holds_all_but_the_labels(found):
    """It is plain JSON, without NaN, and says how many labels there are."""
    state = json.loads(found.to_json())
    assert state["n_labels"] == len(found.labels)
    assert "labels" not in state
    assert set(state) >= {
        "headline", "bias", "agreement", "calibration", "worth", "coverage", "next_rounds", "more", "gain", "warnings",
        "judges", "gold", "correction", "level", "source", "mean_quality",
    }  # fmt: skip
    assert state["coverage"]["n_gold"] == 120
    assert [row["n_gold"] for row in state["coverage"]["by_model"]] == [
        row["n_gold"] for row in state["bias"] if row["judge"] == "judge" and row["by"] == "arm"
    ]


def test_the_same_seed_gives_the_same_bytes():
    """Nothing in it hangs on the clock or on the order of a set."""
    log, labels = judged_log(n_prompts=200, n_gold=60)
    assert fuse_labels(log, labels, seed=3).to_json() == fuse_labels(log, labels, seed=3).to_json()


def test_judges_that_never_scored_gold_rounds_are_told_of_all_the_same():
    """By what they would be expected to say; with another correction as well."""
    log, labels = judged_log(paired=False)
    found = fuse_labels(log, labels, correction="arm-shift")
    overall = next(row for row in found.bias if row["judge"] == "judge" and row["by"] == "overall")
    assert overall["basis"] == "expected"
    assert overall["ci_low"] > 0
    assert found.correction == "arm-shift"
    assert found.next_rounds


def test_no_gold_is_said_aloud():
    """Nothing is told of bias, the labels are the judges' own, and the warning stands in the result too."""
    log, labels = judged_log(n_prompts=100, n_gold=20)
    with pytest.warns(LabelWarning, match="no label is of source 'expert'"):
        found = fuse_labels(log, labels, gold="expert")
    assert found.headline["kind"] == "no-gold"
    assert found.bias == found.worth == found.next_rounds == []
    assert found.correction is None
    assert len(found.warnings) == 1
    assert len(found.labels) == log.n_rounds
    assert not found.labels.has_gold.any()


def test_all_gold_needs_no_judge():
    """No warning, no correction: the labels are gold."""
    log, _ = judged_log(n_prompts=60)
    gold = log.with_columns(quality_source=["gold"] * log.n_rounds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fuse_labels(gold)
    assert found.headline["kind"] == "gold-only"
    assert found.labels.has_gold.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 95}, "level must be in"),
        ({"n_next": -1}, "n_next must be >= 0"),
        ({"correction": "magic"}, "correction must be among"),
        ({"slices": ("model",)}, "slices must be by columns that describe rounds"),
        ({"price_usd": {"nobody": 1.0}}, "price_usd must be of sources among"),
        ({"two_models": ("dear", "dear")}, "two_models must be two models of"),
        ({"quality_per_usd": -1.0}, "quality_per_usd must be >= 0"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    """Each says its rule and what was got."""
    log, labels = judged_log(n_prompts=60, n_gold=20)
    with pytest.raises(InvalidParameterError, match=message):
        fuse_labels(log, labels, **options)


def test_labels_of_the_log_alone_will_do():
    """Gold and judge may both be in the log's own quality, round by round."""
    log, labels = judged_log(n_prompts=200, n_gold=60)
    gold = labels.matrix(log).gold
    mixed = log.with_columns(
        quality=np.where(np.isnan(gold), log.quality, gold),
        quality_source=np.where(np.isnan(gold), "judge", "gold").tolist(),
    )
    found = fuse_labels(mixed)
    assert found.coverage["n_gold"] == 60
    assert found.bias[0]["basis"] == "expected"
    assert isinstance(labels, Labels)
