"""A router chooses what it says, at any trade-off, and says why."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.logs import LoggedRounds
from pointsman.pipeline import fit
from pointsman.router import Router, json_number, usd
from pointsman.trade_off import TradeOff
from tests.tables import MODELS, small_logs

CODE = "python function loop bug"
LAW = "court contract clause appeal"


@pytest.fixture(scope="module")
def router() -> Router:
    """A router that predicts and compares."""
    return fit(small_logs()[0], method="direct")


@pytest.fixture(scope="module")
def by_chance() -> Router:
    """A router that draws."""
    return fit(small_logs()[0], method="uniform")


def test_the_dial_moves_the_choice_without_a_refit(router):
    """Quality only takes the dear model; cost only takes the cheapest one."""
    assert router.choose(LAW, quality_per_usd=0).model == "dear"
    assert router.choose(LAW, quality_per_usd=math.inf).model == "cheap"
    assert router.choose(CODE, quality_per_usd=50).model == "coder"


def test_the_three_spellings_of_a_trade_off_choose_alike(router):
    """lambda, the cost weight it stands for, and what a point may cost give the same decision."""
    tau = router.cost_scale_usd
    weight = TradeOff(50).cost_weight(cost_scale_usd=tau)
    decisions = [
        router.choose(LAW, quality_per_usd=50),
        router.choose(LAW, cost_weight=weight),
        router.choose(LAW, willingness_to_pay=1 / 50),
    ]
    assert {decision.model for decision in decisions} == {decisions[0].model}
    assert np.allclose([decision.trade_off.quality_per_usd for decision in decisions], 50, rtol=1e-12)


def test_the_cost_scale_is_the_95th_percentile_of_the_logged_cost(router):
    """Its scale is read off the log."""
    assert router.cost_scale_usd == pytest.approx(np.quantile(small_logs()[0].cost_usd, 0.95), rel=0)


def test_no_trade_off_means_the_default(router):
    """Where a request names none, the router's own holds."""
    dear = fit(small_logs()[0], method="direct", default_quality_per_usd=1e6)
    assert router.choose(LAW).model == "dear"
    assert dear.choose(LAW).model == "cheap"


@pytest.mark.parametrize(
    "bad",
    [
        {"quality_per_usd": -1},
        {"quality_per_usd": math.nan},
        {"cost_weight": 1.5},
        {"willingness_to_pay": -1},
        {"quality_per_usd": 1, "cost_weight": 0.5},
        {"eligible_models": []},
        {"eligible_models": ["unheard of"]},
        {"eligible_models": "dear"},
    ],
)
def test_a_bad_request_is_refused_by_name(router, bad):
    """Each broken rule is an error that names the parameter."""
    with pytest.raises(InvalidParameterError, match="|".join(bad) + "|trade-off|model"):
        router.choose(CODE, **bad)


def test_only_eligible_models_are_chosen_and_listed(router):
    """What may not be chosen has no probability at all."""
    decision = router.choose(CODE, eligible_models=["cheap", "dear"])
    assert set(decision.probabilities) == set(decision.predicted_quality) == {"cheap", "dear"}
    assert sum(decision.probabilities.values()) == pytest.approx(1)
    assert router.choose(CODE, eligible_models=["cheap"]).reasons == ["cheap is the only eligible model."]


def test_reasons_name_the_runner_up_and_the_best_single_model(router):
    """A person reads why this model and not the others."""
    decision = router.choose(CODE, quality_per_usd=50)
    text = " ".join(decision.reasons)
    assert decision.model == "coder"
    assert "runner-up" in text
    assert "best single model" in text
    assert router.best_single(decision.trade_off) in text


def test_a_draw_follows_its_seed_and_its_probabilities(by_chance):
    """The same seed draws the same model, and the propensity is the chosen model's probability."""
    decisions = [by_chance.choose(CODE, seed=seed) for seed in range(60)]
    assert decisions[3] == by_chance.choose(CODE, seed=3)
    assert {decision.model for decision in decisions} == set(MODELS)  # missed with probability 3 (2/3)^60 < 1e-10
    assert all(decision.propensity == decision.probabilities[decision.model] for decision in decisions)
    assert all(decision.predicted_quality == {} for decision in decisions)


def test_a_price_change_is_one_number(router):
    """A hundredth of the price makes the dear model the choice where cost counts; the old router stays as it was."""
    assert router.choose(CODE, quality_per_usd=300).model != "dear"
    cheaper = router.reprice("dear", 0.01)
    assert cheaper.choose(LAW, quality_per_usd=300).model == "dear"
    before, after = router.choose(LAW), cheaper.choose(LAW)
    assert after.predicted_cost_usd["dear"] == pytest.approx(before.predicted_cost_usd["dear"] * 0.01, rel=1e-12)
    assert router.choose(CODE, quality_per_usd=300).model != "dear"
    assert cheaper.reprice("dear", 100).arms.cost_factors == pytest.approx(1)


def test_a_repriced_router_is_exactly_the_one_whose_costs_were_multiplied(router, rng):
    """Probabilities equal those of utilities computed by hand from the scaled predictions."""
    context = router.context([LAW, CODE, "soup onion"])
    factors = np.array([2.0, 0.5, 0.1])
    changed = router
    for name, factor in zip(router.arms.names, factors, strict=True):
        changed = changed.reprice(name, factor)
    quality, cost_usd = router.policy.predict(context)
    for value in (0, 10, 100, 1000):
        chosen = (quality - value * cost_usd * factors).argmax(axis=1)
        assert (changed.probabilities(context, TradeOff(value)).argmax(axis=1) == chosen).all()


def test_a_method_that_compares_no_costs_cannot_be_repriced(by_chance):
    """It says so, instead of ignoring the price."""
    with pytest.raises(InvalidParameterError, match="repriced"):
        by_chance.reprice("dear", 0.5)


@pytest.mark.parametrize(("model", "factor"), [("unheard of", 0.5), ("dear", -1), ("dear", math.nan)])
def test_a_bad_price_change_is_refused(router, model, factor):
    """Model and factor are checked."""
    with pytest.raises(InvalidParameterError):
        router.reprice(model, factor)


def test_a_router_of_embeddings_is_asked_with_an_embedding(rng):
    """Without prompts in the log there is no encoder: text is refused, a vector of the right length chosen for."""
    embedding = rng.standard_normal((90, 5)).astype(np.float32)
    log = LoggedRounds.from_columns(
        round_id=[str(i) for i in range(90)],
        embedding=embedding,
        model=[MODELS[i % 3] for i in range(90)],
        propensity=np.full(90, 1 / 3),
        quality=rng.random(90),
    )
    router = fit(log, method="direct")
    assert router.encoder is None
    assert router.choose(embedding[0]).model in MODELS
    with pytest.raises(InvalidParameterError, match="embedding"):
        router.choose("text")
    with pytest.raises(InvalidParameterError, match="5 finite numbers"):
        router.choose(embedding[0][:3])
    with pytest.raises(InvalidParameterError, match="cost"):
        router.choose(embedding[0], cost_weight=0.5)
    assert router.cost_scale_usd is None
    assert router.choose(embedding[0], cost_weight=0).trade_off == TradeOff()


def test_a_decision_is_json(router):
    """Machines read every part, infinity included."""
    values = json.loads(router.choose(CODE, quality_per_usd=math.inf).to_json())
    assert values["quality_per_usd"] == "inf"
    assert set(values) == {
        "model",
        "propensity",
        "probabilities",
        "predicted_quality",
        "predicted_cost_usd",
        "quality_per_usd",
        "reasons",
    }


def test_amounts_are_written_without_exponents():
    """Small prices are read by people."""
    assert [usd(x) for x in (0.0, 1.5, 0.000038123, 12.0)] == ["0", "1.50", "0.0000381", "12.00"]
    assert [json_number(x) for x in (math.nan, math.inf, -math.inf, 0.5)] == [None, "inf", "-inf", 0.5]
