"""From a log to a router to numbers, with everything that must not be read left out and said."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pointsman.errors import (
    InvalidLogError,
    InvalidParameterError,
    LabelWarning,
    OverlapError,
    OverlapWarning,
    SmallSampleWarning,
    StatisticalWarning,
)
from pointsman.logs import LoggedRounds, simulate
from pointsman.nuisance.per_arm import PerArmRegressor
from pointsman.pipeline import (
    collapse_warnings,
    default_trade_offs,
    evaluate,
    evaluate_cross_fitted,
    fit,
    score,
)
from pointsman.pipeline import simulate as simulate_with_features
from tests.tables import small_logs, small_table

SCORE_KEYS = {
    "quality_per_usd",
    "value",
    "quality",
    "cost_usd",
    "oracle_value",
    "best_single_model",
    "best_single_value",
    "regret",
}
EVALUATION_KEYS = {"quality_per_usd", "estimator", "value", "ci_low", "ci_high", "ess"}

pytestmark = pytest.mark.filterwarnings("ignore::pointsman.errors.SmallSampleWarning")


@pytest.fixture(scope="module")
def logs():
    """A log to learn from, another to evaluate on, the truth of the latter."""
    return small_logs()


@pytest.fixture(scope="module")
def router(logs):
    """A router fitted on the first log."""
    return fit(logs[0], method="direct")


def test_fallback_rounds_teach_nothing(logs):
    """A log with fallbacks of absurd outcomes gives the router of the log without them, and their number."""
    log = logs[0]
    fallback = np.arange(log.n_rounds) % 4 == 0
    poisoned = log.with_columns(fallback=fallback, quality=np.where(fallback, 0.0, log.quality))
    router = fit(poisoned, method="direct")
    without = fit(log.filter(~fallback), method="direct")
    assert router.facts.n_fallback == fallback.sum()
    assert np.array_equal(router.policy.quality_coef_, without.policy.quality_coef_)
    assert np.array_equal(router.training_rounds, np.sort(log.identity[~fallback]))


def test_a_model_without_outcomes_is_not_learned(logs):
    """It and its rounds are left out, counted and named; propensities of what is left are estimated anew."""
    log = logs[0]
    dear = np.array(log.arms.names)[log.arm] == "dear"
    router = fit(log.with_columns(quality=np.where(dear, np.nan, log.quality)), method="direct")
    assert router.arms.names == ("cheap", "coder")
    assert router.facts.unlearnable_models == ["dear"]
    assert router.facts.n_unlearnable == dear.sum()
    assert router.facts.propensities == "estimated"


def test_a_log_without_any_outcome_teaches_nothing(logs):
    """No quality at all, or only that of fallbacks, is an error."""
    log = logs[0]
    with pytest.raises(InvalidLogError, match="quality"):
        fit(log.with_columns(quality=np.full(log.n_rounds, np.nan)), method="direct")
    with pytest.raises(InvalidLogError, match="fallback"):
        fit(log.with_columns(fallback=np.ones(log.n_rounds, dtype=bool)), method="direct")


def test_rounds_whose_quality_is_not_known_yet_are_kept(logs):
    """They are no error, and count as read."""
    log = logs[0]
    late = np.arange(log.n_rounds) % 5 == 0
    router = fit(log.with_columns(quality=np.where(late, np.nan, log.quality)), method="direct")
    assert router.facts.n_outcomes == (~late).sum()
    assert router.training_rounds.size == log.n_rounds


def test_labels_of_judges_are_named(logs):
    """A judge alone, or with too few gold labels to correct it by, warns by name; with enough it is corrected."""
    log = logs[0]
    with pytest.warns(LabelWarning, match="judged by gpt"):
        fit(log.with_columns(quality_source=["gpt"] * log.n_rounds), method="best-single")
    few = ["gold" if i < 5 else "gpt" for i in range(log.n_rounds)]
    with pytest.warns(LabelWarning, match="5 gold labels are too few"):
        fit(log.with_columns(quality_source=few), method="best-single")
    mixed = ["gpt" if i % 2 else "gold" for i in range(log.n_rounds)]
    router = fit(log.with_columns(quality_source=mixed), method="best-single")
    assert router.facts.quality_sources == ["gold", "gpt"]
    assert (router.facts.n_gold, router.facts.correction) == (log.n_rounds // 2, "hierarchical")


def test_a_deterministic_log_can_be_learned_from_but_warns(logs):
    """Nothing in it can check what is extrapolated; evaluating another policy on it is refused."""
    table = small_table()
    simulated = simulate(table, logger="deterministic", signal="length", seed=0)
    with pytest.warns(OverlapWarning, match="never explored"):
        router = fit(simulated.log, method="direct")
    other = simulate(simulated.rest, logger="deterministic", signal="length", seed=0, share=0.9).log
    with pytest.raises(OverlapError, match="determin"):
        evaluate([router, "always coder", "always cheap"], other, quality_per_usd=0)


def test_propensities_are_estimated_where_there_are_none(logs):
    """With none logged they are estimated, and `logged` refuses."""
    log = logs[0].with_columns(propensity=np.full(logs[0].n_rounds, np.nan))
    assert fit(log, method="direct").facts.propensities == "estimated"
    assert fit(logs[0], method="direct", propensity="estimated").facts.propensities == "estimated"
    with pytest.raises(InvalidLogError, match="propensity"):
        fit(log, method="direct", propensity="logged")


def test_repeated_prompts_share_a_fold(logs):
    """A log of three prompts, each many times, has three groups: five folds are too many."""
    log = logs[0].with_columns(prompt=[f"prompt {i % 3}" for i in range(logs[0].n_rounds)])
    assert fit(log, method="direct", n_folds=3).facts.n_folds == 3
    with pytest.raises(InvalidParameterError, match="n_folds"):
        fit(log, method="direct", n_folds=5)


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "unheard of"},
        {"method": "direct", "options": {"unheard": 1}},
        {"method": "direct", "propensity": "guessed"},
        {"method": "direct", "n_folds": 1},
        {"method": "direct", "default_quality_per_usd": -1},
        {"method": "direct", "default_quality_per_usd": math.inf},
    ],
)
def test_a_bad_argument_of_fit_is_refused(logs, bad):
    """Each is told by name."""
    with pytest.raises(InvalidParameterError):
        fit(logs[0], **bad)


def test_evaluate_gives_the_fixed_keys_and_covers_the_truth(logs, router):
    """Rows for every trade-off and estimator; the doubly robust intervals hold the truth."""
    found = evaluate(router, logs[1], quality_per_usd=[0, 50])
    state = json.loads(found.to_json())
    assert {"rows", "diagnostics", "comparisons", "frontier", "savings", "headline"} <= set(state)
    assert len(state["rows"]) == 2 * 8
    assert all(set(row) >= EVALUATION_KEYS for row in state["rows"])
    assert all(row["ci_low"] is None for row in state["rows"] if row["estimator"] == "dm")
    truth = score(router, logs[2], quality_per_usd=[0, 50])
    for value in (0, 50):
        row = found.row(value)
        # Five standard errors: a right estimator fails here once in two million.
        assert abs(row["value"] - truth.row(value)["value"]) < 5 * row["standard_error"]
    assert state["diagnostics"]["propensities"] == "logged"


def test_evaluate_never_reads_training_rounds(logs, router):
    """Rounds in both logs are left out and counted; a log of nothing else is refused with the way out."""
    alone = evaluate(router, logs[1], quality_per_usd=0)
    both = evaluate(router, LoggedRounds.concat([logs[0], logs[1]]), quality_per_usd=0)
    assert both.diagnostics["n_left_out_training"] == logs[0].n_rounds
    assert both.diagnostics["n_rounds"] == logs[1].n_rounds
    assert both.rows == alone.rows
    with pytest.raises(InvalidParameterError, match="--cross-fit"):
        evaluate(router, logs[0])


def test_the_logging_policy_evaluates_to_what_it_achieved(logs):
    """Its weights are all one: every estimator but dm is the mean reward."""
    found = evaluate("logging", logs[1], quality_per_usd=[0, 50])
    for value in (0, 50):
        reward = (logs[1].quality - value * logs[1].cost_usd).mean()
        for estimator in ("ips", "snips", "dr"):
            assert found.row(value, estimator=estimator)["value"] == pytest.approx(reward, rel=1e-12)


def test_several_policies_are_evaluated_on_the_same_rounds(logs, router):
    """Routers by their method, fixed policies by their name; twins are told apart."""
    found = evaluate([router, router, "always dear", "logging"], logs[1], quality_per_usd=0, estimators=["dr"])
    assert [row["policy"] for row in found.rows] == ["direct", "direct (2)", "always dear", "logging"]
    assert found.rows[0]["value"] == found.rows[1]["value"]
    assert found.row(0, policy="always dear")["policy"] == "always dear"
    with pytest.raises(InvalidParameterError, match="rows"):
        found.row(1)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("always unheard of", {}),
        ("unheard of", {}),
        ([], {}),
        ("logging", {"quality_per_usd": [-1]}),
        ("logging", {"quality_per_usd": []}),
        ("logging", {"estimators": ["guess"]}),
        ("logging", {"estimators": "dr"}),
        ("logging", {"level": 2}),
    ],
)
def test_a_bad_argument_of_evaluate_is_refused(logs, target, options):
    """Each is told by name."""
    with pytest.raises(InvalidParameterError):
        evaluate(target, logs[1], **options)


def test_a_log_without_cost_knows_quality_only():
    """Only lambda 0 by default, and nothing else is allowed."""
    log, other, truth = small_logs(with_cost=False)
    router = fit(log, method="direct")
    assert router.cost_scale_usd is None
    assert {row["quality_per_usd"] for row in evaluate(router, other).rows} == {0.0}
    assert [row["quality_per_usd"] for row in score(router, truth).rows] == [0.0]
    assert json.loads(score(router, truth).to_json())["rows"][0]["cost_usd"] is None
    for judge in (lambda: evaluate(router, other, quality_per_usd=1), lambda: score(router, truth, quality_per_usd=1)):
        with pytest.raises(InvalidParameterError, match="quality_per_usd must be 0"):
            judge()


def test_models_the_log_does_not_know_are_said(logs, router):
    """A router is evaluated without a model the log never had, and says so; without any in common it is refused."""
    log = logs[1]
    names = np.array(log.arms.names)[log.arm]
    without = LoggedRounds.from_table(log.filter(names != "dear").table)
    with pytest.warns(OverlapWarning, match="dear"):
        found = evaluate(router, without, quality_per_usd=0, propensity="estimated")
    assert any("dear" in note for note in found.diagnostics["warnings"])
    renamed = LoggedRounds.from_table(
        log.table.set_column(log.table.column_names.index("model"), "model", [["other"] * log.n_rounds])
    )
    with pytest.raises(InvalidParameterError, match="at least one of the router's models"):
        evaluate(router, renamed)


def test_a_router_is_asked_only_for_eligible_models(logs, router):
    """Rounds in which it knows no eligible model are left out and counted."""
    log = logs[1]
    names = np.array(log.arms.names)[log.arm]
    cheap_only = fit(logs[0].filter(np.array(logs[0].arms.names)[logs[0].arm] == "cheap"), method="direct")
    row = int((names != "cheap").argmax())
    eligible = [[names[row]] if i == row else None for i in range(log.n_rounds)]
    found = evaluate(cheap_only, log.with_columns(eligible_models=eligible), quality_per_usd=0)
    assert found.diagnostics["n_unanswerable"] == 1
    assert found.diagnostics["n_rounds"] == log.n_rounds - 1


def test_cross_fitting_evaluates_the_recipe_on_its_own_log(logs, router):
    """Every round is used, each by a router that never saw it, and the recipe's value is near the router's."""
    found = evaluate_cross_fitted(router, logs[0], quality_per_usd=[0], n_folds=3)
    assert found.diagnostics["cross_fitted"]
    assert found.diagnostics["n_rounds"] == logs[0].n_rounds
    row = found.row(0)
    assert abs(row["value"] - 0.9) < 5 * row["standard_error"] + 0.1  # routing by topic gives 0.9; a third less data
    own = fit(logs[0], method="direct", options={"outcome_model": PerArmRegressor(Ridge())})
    with pytest.raises(InvalidParameterError, match="options"):
        evaluate_cross_fitted(own, logs[0])


def test_score_gives_the_fixed_keys_and_the_truth(logs, router):
    """Values agree with those computed by hand from the table."""
    table = logs[2]
    found = json.loads(score(router, table, quality_per_usd=[50]).to_json())
    (row,) = found["rows"]
    assert set(row) == SCORE_KEYS | {"share_of_gap_closed"}
    utility = table.quality - 50 * table.cost_usd
    chosen = [router.arms.index(router.choose(prompt, quality_per_usd=50).model) for prompt in table.prompt]
    assert row["value"] == pytest.approx(utility[np.arange(len(table)), chosen].mean(), rel=1e-12)
    assert row["oracle_value"] == pytest.approx(utility.max(axis=1).mean(), rel=1e-12)
    assert row["best_single_model"] == table.arms.names[utility.mean(axis=0).argmax()]
    assert row["regret"] == pytest.approx(row["oracle_value"] - row["value"], rel=1e-9)


def test_score_compares_over_the_models_both_have(logs):
    """A model the router does not know counts neither for the oracle nor as the best single one; both are said."""
    log = logs[0]
    names = np.array(log.arms.names)[log.arm]
    fitted = fit(LoggedRounds.from_table(log.filter(names != "dear").table), method="direct")
    found = score(fitted, logs[2], quality_per_usd=0)
    assert found.diagnostics["models_not_in_router"] == ["dear"]
    assert found.rows[0]["oracle_value"] == pytest.approx(logs[2].quality[:, :2].max(axis=1).mean(), rel=1e-12)
    known = fit(log, method="direct")
    table = small_table()
    fewer = type(table)(
        query_id=table.query_id,
        prompt=table.prompt,
        arms=fitted.arms,
        quality=table.quality[:, :2],
        cost_usd=table.cost_usd[:, :2],
    )
    with pytest.warns(StatisticalWarning, match="was fitted on"):
        found = score(known, fewer, quality_per_usd=0)
    assert found.diagnostics["models_not_in_table"] == ["dear"]
    assert found.diagnostics["n_seen_in_training"] == log.n_rounds
    with pytest.raises(InvalidParameterError, match="at least one"):
        score(fit(log.filter(names == "dear"), method="direct"), fewer)


def test_score_names_the_judge(router):
    """Values in a judge's units are said to be so."""
    with pytest.warns(LabelWarning, match="gpt"):
        score(router, small_table(source="gpt", n_prompts=30, seed=9), quality_per_usd=0)


def test_features_are_drawn_for_simulation_where_they_are_needed():
    """The first principal component needs features, which nobody has to pass."""
    found = simulate_with_features(small_table(), logger="confounded", seed=1)
    assert np.ptp(found.probabilities[:, 0]) > 0


def test_default_trade_offs_scale_with_the_dearest_model():
    """In units of 1 / its mean cost; quality only where no cost is known."""
    assert default_trade_offs([0.01, np.nan, 0.5]) == [0, 0.1, 0.2, 0.4, 1.0]
    assert default_trade_offs([np.nan]) == default_trade_offs([0.0]) == default_trade_offs([]) == [0]


def test_warnings_that_differ_in_numbers_are_one():
    """Five trade-offs do not warn five times."""
    assert collapse_warnings(["a 1.5 b", "a 2 b", "c", "a 1.5 b"]) == ["a 1.5 b (and 1 more like it)", "c"]
    assert collapse_warnings(["a 1 b (and 2 more like it)", "a 2 b"]) == ["a 1 b (and 3 more like it)"]


@pytest.mark.filterwarnings("default::pointsman.errors.SmallSampleWarning")
def test_doubts_are_warned_of_and_written_down(logs, router):
    """What is warned of stands in the diagnostics in the same words, for the estimators asked for only."""
    few = logs[1].take(np.arange(12))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = evaluate(router, few, quality_per_usd=0, estimators=["ips"], n_folds=2)
    said = [str(each.message) for each in caught if issubclass(each.category, StatisticalWarning)]
    assert said == found.diagnostics["warnings"]
    assert not any(note.startswith(("dr:", "snips:")) for note in said)
    assert all(issubclass(each.category, SmallSampleWarning | OverlapWarning) for each in caught)


class SlowEncoder:
    """Counts what it encodes, as one of the slow kinds."""

    n_features = 3

    def __init__(self):
        self.n_encoded = 0

    def encode(self, prompts):
        """Return a vector of each prompt's length."""
        self.n_encoded += len(prompts)
        return np.array([[len(prompt), 1, 0] for prompt in prompts], dtype=np.float32)

    def describe(self):
        """Return what keys the cache."""
        return {"kind": "endpoint", "fingerprint": "slow"}


def test_a_slow_encoder_encodes_no_prompt_twice(logs, tmp_path, monkeypatch):
    """Fitted twice, on a log of distinct prompts: each is encoded once."""
    monkeypatch.setenv("POINTSMAN_CACHE", str(tmp_path))
    encoder = SlowEncoder()
    first, again = (fit(logs[0], method="direct", encoder=encoder) for _ in range(2))
    assert encoder.n_encoded == logs[0].n_rounds
    assert np.array_equal(first.policy.quality_coef_, again.policy.quality_coef_)
