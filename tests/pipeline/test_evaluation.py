"""Comparisons, savings, slices, doubts, requirements and power, from a log and a router."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from pointsman.errors import InvalidParameterError, SmallSampleWarning
from pointsman.logs import LoggedRounds
from pointsman.pipeline import Requirement, check, evaluate, evaluate_cross_fitted, fit, one_sided_level, power, score
from tests.tables import small_logs

pytestmark = pytest.mark.filterwarnings("ignore::pointsman.errors.StatisticalWarning")

LAMBDA = 50.0


@pytest.fixture(scope="module")
def logs():
    """A log to learn from, another to evaluate on, the truth of the latter."""
    return small_logs()


@pytest.fixture(scope="module")
def router(logs):
    """A router fitted on the first log."""
    return fit(logs[0], method="direct")


@pytest.fixture(scope="module")
def found(logs, router):
    """The router against the best single model and the log's own policy."""
    return evaluate(router, logs[1], quality_per_usd=[0, LAMBDA])


def test_a_router_is_compared_with_the_best_single_model_and_with_today(found):
    """Every trade-off, outcome and opponent has its paired difference."""
    places = {(row["against"], row["quality_per_usd"], row["outcome"]) for row in found.comparisons}

    assert len(places) == len(found.comparisons) == 2 * 2 * 3
    assert {place[0] for place in places} == {"best-single", "logging"}


def test_a_difference_is_that_of_the_two_values_and_its_interval_is_tighter(found, logs, router):
    """On the same rounds the difference of estimates is the estimate of the difference; noise in common cancels."""
    both = evaluate([router, "best-single"], logs[1], against="best-single", quality_per_usd=LAMBDA)
    row = both.comparison(LAMBDA, against="best-single", policy="direct")
    own = both.row(LAMBDA, policy="direct")
    other = both.row(LAMBDA, policy="best-single")

    assert row["value"] == pytest.approx(own["value"] - other["value"])
    assert row["standard_error"] < math.hypot(own["standard_error"], other["standard_error"])
    assert row["value"] == pytest.approx(found.comparison(LAMBDA, against="best-single")["value"])


def test_the_difference_to_the_logging_policy_is_to_its_mean(found, logs):
    """What the log achieved is a plain mean of what was seen."""
    achieved = float(logs[1].quality.mean())

    row = found.comparison(0.0, against="logging", outcome="quality")

    assert row["value"] == pytest.approx(found.row(0.0)["quality"] - achieved)


def test_exchanging_policies_turns_the_difference_around(logs, router):
    """Exchanged, the difference is minus what it was, interval and all."""
    forth = evaluate(router, logs[1], against="logging", quality_per_usd=LAMBDA)
    back = evaluate("logging", logs[1], against=router, quality_per_usd=LAMBDA)
    one = forth.comparison(LAMBDA, against="logging")
    other = back.comparison(LAMBDA, against="direct")

    assert one["value"] == pytest.approx(-other["value"])
    assert (one["ci_low"], one["ci_high"]) == pytest.approx((-other["ci_high"], -other["ci_low"]))


def test_a_policy_against_itself_differs_by_nothing_for_certain(logs, router):
    """Two copies of one router have a difference of zero with no width."""
    twice = evaluate(router, logs[1], against=fit(logs[0], method="direct"), quality_per_usd=LAMBDA)

    row = twice.comparison(LAMBDA, against="direct (2)")

    assert (row["value"], row["ci_low"], row["ci_high"], row["interval"]) == (0.0, 0.0, 0.0, "exact")
    assert twice.headline is not None
    assert twice.headline["verdict"] == "undecided"


def test_the_difference_covers_the_truth(found, logs, router):
    """The truth of the same prompts lies in the interval of the difference to the best single model."""
    truth = score(router, logs[2], quality_per_usd=[0, LAMBDA])
    for row in truth.rows:
        lam = row["quality_per_usd"]
        best = router.best_single(router.trade_off(quality_per_usd=lam))
        column = logs[2].arms.index(best)
        single = float((logs[2].quality - lam * logs[2].cost_usd)[:, column].mean())
        difference = found.comparison(lam, against="best-single")
        margin = 4.9 * difference["standard_error"]  # a false failure in a million
        assert abs(difference["value"] - (row["value"] - single)) < margin


def test_the_frontier_has_a_point_a_trade_off_within_its_band(found):
    """A router has a point each, the log's own policy one; the band holds the points."""
    points = [row["policy"] for row in found.frontier]

    assert points.count("direct") == 2
    assert points.count("logging") == 1
    for row in found.frontier:
        assert row["quality_low"] <= row["quality"] <= row["quality_high"]
        assert row["cost_usd_low"] <= row["cost_usd"] <= row["cost_usd_high"]


def test_the_band_is_wider_than_one_interval(found):
    """To hold for all points at once costs width."""
    point = next(row for row in found.frontier if row["policy"] == "direct")
    row = found.row(point["quality_per_usd"])

    if row["interval"] == "normal":
        assert point["quality_high"] - point["quality_low"] > row["quality_ci_high"] - row["quality_ci_low"]


def test_savings_have_a_number_or_a_reason(found):
    """Each opponent has both kinds."""
    assert {(row["against"], row["kind"]) for row in found.savings} == {
        (against, kind)
        for against in ("best-single", "logging")
        for kind in ("cost at equal quality", "quality at equal cost")
    }
    assert all(row["reason"] or math.isfinite(row["ci_low"]) for row in found.savings)


def test_slices_split_the_difference(logs, router):
    """Slices weighted by their rounds add up to the whole."""
    n_rounds = logs[1].n_rounds
    labels = pa.array(["a" if i % 3 else "b" for i in range(n_rounds)])
    log = LoggedRounds.from_table(logs[1].table.append_column("team", labels))

    found = evaluate(router, log, quality_per_usd=LAMBDA, slices=["team", "absent"])

    assert {row["slice"] for row in found.slices} == {"a", "b"}
    assert sum(row["n_rounds"] for row in found.slices) == n_rounds
    whole = found.comparison(LAMBDA, against="best-single")["value"]
    assert sum(row["n_rounds"] * row["value"] for row in found.slices) / n_rounds == pytest.approx(whole)


def test_a_column_of_too_many_labels_is_no_slice(logs, router):
    """A label a round says nothing of slices."""
    labels = pa.array([str(i) for i in range(logs[1].n_rounds)])
    log = LoggedRounds.from_table(logs[1].table.append_column("user", labels))

    with pytest.raises(InvalidParameterError, match="at most 50 labels; 'user' has"):
        evaluate(router, log, quality_per_usd=0, slices=["user"])
    with pytest.raises(InvalidParameterError, match="got 'prompt'"):
        evaluate(router, log, quality_per_usd=0, slices=["prompt"])


def test_examples_are_prompts_on_which_models_differ(found):
    """Largest expected gain first, never the same model twice."""
    gains = [row["gain"] for row in found.examples]

    assert gains == sorted(gains, reverse=True)
    assert all(row["model"] != row["against_model"] for row in found.examples)


def test_sensitivity_starts_at_the_estimate_and_widens(found):
    """Gamma 1 is no hidden confounding; every more of it opens the bounds."""
    (each,) = found.sensitivity
    first, *rest = each["rows"]

    assert first["low"] == pytest.approx(first["high"])
    assert first["low"] == pytest.approx(found.comparison(each["quality_per_usd"], against="best-single")["value"])
    for before, after in zip(each["rows"], rest, strict=False):
        assert after["low"] <= before["low"] + 1e-12
        assert after["high"] >= before["high"] - 1e-12


def test_diagnostics_hold_overlap_balance_and_missing_outcomes(found, logs):
    """Every policy that is not the log's own has its overlap at each trade-off."""
    notes = found.diagnostics

    assert {(row["policy"], row["quality_per_usd"]) for row in notes["overlap"]} == {
        (policy, lam) for policy in ("direct", "best-single") for lam in (0.0, LAMBDA)
    }
    assert all(row["gate"] in ("normal", "finite-sample") for row in notes["overlap"])
    assert {row["model"] for row in notes["balance"]} == set(logs[1].arms.names)
    assert notes["missing"]["sentence"] == "Every round has its outcome."


def test_an_evaluation_is_json_and_a_page(found, tmp_path):
    """JSON without NaN; the page names the verdict and asks for nothing from the network."""
    state = json.loads(found.to_json())
    page = found.to_html(tmp_path / "report.html")

    assert state["headline"]["sentence"] == found.headline["sentence"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert "best single model" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_cross_fitting_compares_recipes_fold_by_fold(logs, router):
    """The best single model is chosen by fold, too; routers are no opponents there."""
    found = evaluate_cross_fitted(router, logs[0], quality_per_usd=0)

    assert {row["against"] for row in found.comparisons} == {"best-single", "logging"}
    with pytest.raises(InvalidParameterError, match="against must hold no router"):
        evaluate_cross_fitted(router, logs[0], against=router)


def test_the_best_single_model_needs_a_router(logs):
    """Without one there is no training log to choose it on."""
    with pytest.raises(InvalidParameterError, match="chosen on a router's training log"):
        evaluate("always dear", logs[1], against="best-single", quality_per_usd=0)


@pytest.mark.parametrize("estimator", ["dm", "switch_dr", "unheard"])
def test_comparisons_rest_on_an_unbiased_estimator(logs, router, estimator):
    """An estimator whose bias is only bounded is none to compare by."""
    with pytest.raises(InvalidParameterError, match="estimator must be among"):
        evaluate(router, logs[1], estimator=estimator)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("utility>=0", ("utility", ">=", 0.0)),
        (" quality >= -0.01 ", ("quality", ">=", -0.01)),
        ("cost_usd<=-1e-3", ("cost_usd", "<=", -0.001)),
    ],
)
def test_requirements_are_read(text, expected):
    """Outcome, sense and threshold."""
    found = Requirement.parse(text)

    assert (found.outcome, found.sense, found.threshold) == expected


@pytest.mark.parametrize("text", ["utility", "utility>0", "latency_s<=1", "utility>=", "utility>=0; quality>=0"])
def test_other_requirements_are_refused(text):
    """The message shows the form."""
    with pytest.raises(InvalidParameterError, match="OUTCOME>=NUMBER"):
        Requirement.parse(text)


def test_a_requirement_holds_the_bound_against_the_threshold(found):
    """Just below the lower end is met, just above is not; likewise at the upper end."""
    row = found.comparison(0.0, against="logging")
    other = found.comparison(LAMBDA, against="logging")
    low = min(row["ci_low"], other["ci_low"])
    high = max(row["ci_high"], other["ci_high"])

    def met(sense, threshold):
        requirement = Requirement(outcome="utility", sense=sense, threshold=threshold)
        return all(each["met"] for each in check(found, [requirement], policy="direct", against="logging"))

    assert met(">=", low - 1e-9)
    assert not met(">=", low + 1e-9)
    assert met("<=", high + 1e-9)
    assert not met("<=", high - 1e-9)


def test_confidence_is_one_sided():
    """Each end of a 90% interval holds with 95%."""
    assert one_sided_level(0.95) == pytest.approx(0.9)
    with pytest.raises(InvalidParameterError, match=r"confidence must be in \(0.5, 1\); got 0.5"):
        one_sided_level(0.5)


def test_power_falls_with_exploration_and_grows_with_the_effect(logs, router):
    """More exploration or a larger effect needs fewer rounds; the noise now is that of the difference."""
    found = power(router, logs[1], effect=[0.01, 0.02], quality_per_usd=LAMBDA)
    rows = {(row["exploration"], row["effect"]): row for row in found.rows}
    difference = evaluate(router, logs[1], quality_per_usd=LAMBDA).comparison(LAMBDA, against="best-single")

    assert rows[0.0, 0.01]["n_needed"] == pytest.approx(4 * rows[0.0, 0.02]["n_needed"], rel=0.01)
    assert rows[0.0, 0.01]["standard_deviation"] == pytest.approx(
        difference["standard_error"] * np.sqrt(logs[1].n_rounds)
    )
    assert rows[0.0, 0.01]["n_more"] == max(0, rows[0.0, 0.01]["n_needed"] - logs[1].n_rounds)
    assert json.loads(found.to_json())["policy"] == "direct"


def test_power_needs_two_policies_that_must_be_reweighted(logs, router):
    """The log's own policy is no use of exploration."""
    with pytest.raises(InvalidParameterError, match="needs no more exploration"):
        power(router, logs[1], against="logging")


def test_a_model_never_tried_on_a_slice_is_named(logs, router):
    """Where the router would send prompts of a slice to a model the log never tried there, the limits say so."""
    log = logs[1]
    task = np.array(log.table["task"].to_pylist())
    names = np.array(log.arms.names)[log.arm]
    found = evaluate(router, log.filter(~((task == "code") & (names == "coder"))), quality_per_usd=LAMBDA)

    cells = {(cell["slice"], cell["model"]): cell for cell in found.diagnostics["overlap_by_slice"]}

    assert cells["code", "coder"]["unsupported"]
    assert cells["code", "coder"]["target_share"] > 0.5
    assert not cells["cooking", "cheap"]["unsupported"]
    assert any("never tried coder on code" in sentence for sentence in found.limits)


def test_power_from_too_few_rounds_is_doubted(logs, router):
    """A noise that few rounds tell comes with a warning."""
    with pytest.warns(SmallSampleWarning, match="the rounds needed may be far more"):
        power(router, logs[1].take(np.arange(60)), quality_per_usd=LAMBDA)


def test_policies_go_by_the_names_they_are_given(logs, router):
    """A mapping names its policies; a policy on both sides is one."""
    other = fit(logs[0], method="knn")

    found = evaluate({"new": router, "old": other}, logs[1], against={"old": other}, quality_per_usd=LAMBDA)

    assert [each["name"] for each in found.policies] == ["new", "old"]
    assert {(row["policy"], row["against"]) for row in found.comparisons} == {("new", "old")}


def test_a_known_floor_narrows_finite_sample_intervals(logs, router):
    """A uniform policy over three models has weights of three; one that claims more than the log shows is refused."""
    few = logs[1].take(np.arange(100))
    plain = evaluate(router, few, quality_per_usd=0).row(0.0)
    told = evaluate(router, few, quality_per_usd=0, propensity_floor=1 / 3).row(0.0)

    assert plain["interval"] == told["interval"] == "finite-sample"
    assert told["ci_high"] - told["ci_low"] < plain["ci_high"] - plain["ci_low"]
    with pytest.raises(InvalidParameterError, match=r"at most the smallest propensity of the log, 0\.333333; got 0\.5"):
        evaluate(router, few, quality_per_usd=0, propensity_floor=0.5)
