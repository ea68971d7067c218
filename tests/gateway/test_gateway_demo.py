"""Tests of the gateway's demo: the whole loop over sockets, through the official client."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pointsman.demo import example_table
from pointsman.errors import InvalidParameterError
from pointsman.gateway.demo import LOG, run_gateway_demo, telling_trade_off
from pointsman.logs import read_log
from pointsman.pipeline import simulate
from pointsman.trade_off import TradeOff
from tests.gateway.test_replayed import table


@pytest.fixture(scope="module")
def tables():
    """A short log of the example table, and the prompts that are not in it."""
    whole = example_table()
    simulated = simulate(whole, logger="confounded", share=0.75, seed=0)
    some = np.sort(np.random.default_rng(0).permutation(simulated.log.n_rounds)[:30])
    return simulated.log.take(some), whole.take(simulated.rest_index)


def test_feedback_takes_the_router_past_the_best_fixed_model(tables, tmp_path):
    """The router gains on itself and on the best fixed model; costs and shares are those of the gateway's own log."""
    log, unseen = tables
    found = run_gateway_demo(log, unseen, folder=tmp_path, n_requests=450, n_rows=3)

    assert [row.n_feedback for row in found.rows] == [0, 150, 300, 450]
    assert found.rows[-1].value > found.rows[0].value
    assert 0 < found.rows[-1].gain < found.oracle_gain
    assert len(found.findings) == 2
    json.dumps(found.to_dict(), allow_nan=False)
    rounds = read_log(tmp_path / LOG)
    assert rounds.n_rounds == 450
    last = rounds.take(np.arange(300, 450))
    assert np.mean(last.cost_usd) == pytest.approx(found.rows[-1].cost_usd, rel=1e-9)
    served = [last.arms.names[t] for t in last.arm]
    assert {name: served.count(name) / 150 for name in unseen.arms.names} == found.rows[-1].shares
    assert not np.isnan(last.quality).any()
    # Each request cost what the table says that its prompt costs, to the precision of the usage.
    row = {prompt: place for place, prompt in enumerate(unseen.prompt)}
    told = [
        unseen.cost_usd[row[prompt], unseen.arms.index(name)] for prompt, name in zip(last.prompt, served, strict=True)
    ]
    np.testing.assert_allclose(last.cost_usd, told, atol=1e-6 * unseen.cost_usd.mean(axis=0).max(), rtol=0)


def test_the_trade_off_is_where_two_models_tie():
    """At the trade-off that is taken, two models are worth the same on average."""
    whole = table()
    quality = np.array([0.9, 0.6, 0.5]) * np.ones((len(whole), 1))
    cost_usd = np.array([1e-2, 1e-3, 0.0]) * np.ones((len(whole), 1))
    whole = type(whole)(
        query_id=whole.query_id, prompt=whole.prompt, arms=whole.arms, quality=quality, cost_usd=cost_usd
    )
    utility = TradeOff(telling_trade_off(whole)).utility(quality=quality[0], cost_usd=cost_usd[0])
    assert np.diff(np.sort(utility)).min() < 1e-12


def test_refuses_more_requests_than_prompts(tables, tmp_path):
    """No prompt is asked twice, nor one that is held out."""
    log, unseen = tables
    with pytest.raises(InvalidParameterError, match="n_requests"):
        run_gateway_demo(log, unseen, folder=tmp_path, n_requests=len(unseen))
