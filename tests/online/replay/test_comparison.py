"""Comparisons: the same streams for all, and references that need no learning."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online.replay import NewArm, Outage, compare, replay, stream
from pointsman.trade_off import TradeOff
from tests.online.replay.means import Means
from tests.tables import small_table

TABLE = small_table()
CONTEXT = np.random.default_rng(1).normal(size=(len(TABLE), 4))
TRADE_OFF = TradeOff(20.0)


def streams(seed, *, scenarios=()):
    """A stream a seed."""
    return stream(TABLE, CONTEXT, trade_off=TRADE_OFF, scenarios=scenarios, rng=np.random.default_rng(seed))


def means(requests, seed, *, floor):
    """A fresh policy."""
    return Means(n_arms=requests.n_arms_at_start, n_features=requests.n_features, floor=floor)


POLICIES = {"little": partial(means, floor=0.1), "much": partial(means, floor=0.8)}


def compared(**options):
    """Both policies on three seeds."""
    return compare(streams, POLICIES, seeds=(3, 4, 5), **options)


def test_rows_are_the_replays_means():
    """Each policy's are those of its own replays, each seed's apart; differences are paired with the first's."""
    found = compared()
    rows = {row["policy"]: row for row in found.rows}
    for label, make in POLICIES.items():
        replays = [replay(make(streams(seed), seed), streams(seed), seed=seed) for seed in (3, 4, 5)]
        row = rows[label]
        assert row["utilities"] == pytest.approx([each.utility.mean() for each in replays])
        assert row["quality"] == pytest.approx(np.mean([each.quality.mean() for each in replays]))
        assert row["cost_usd"] == pytest.approx(np.mean([each.cost_usd.mean() for each in replays]))
        assert row["regret"] == pytest.approx(np.mean([each.regret[-1] for each in replays]) / len(TABLE))
        assert row["shares"]["dear"] == pytest.approx(np.mean([each.shares[2] for each in replays]))
        assert not row["reference"]
    paired = np.array(rows["much"]["utilities"]) - rows["little"]["utilities"]
    assert rows["much"]["difference"] == pytest.approx(paired.mean())
    # Student's 97.5% point at two degrees of freedom.
    half = 4.302653 * paired.std(ddof=1) / math.sqrt(3)
    assert rows["much"]["difference_low"] == pytest.approx(paired.mean() - half)
    assert rows["little"]["difference"] == rows["little"]["difference_high"] == 0


def test_references_are_the_tables():
    """Always one model, uniform, best and oracle, over one pass: the table's own means."""
    rows = {row["policy"]: row for row in compared().rows}
    utility = TABLE.quality - TRADE_OFF.quality_per_usd * TABLE.cost_usd
    for arm, name in enumerate(TABLE.arms.names):
        assert rows[f"always {name}"]["utility"] == pytest.approx(utility[:, arm].mean())
        assert rows[f"always {name}"]["shares"][name] == 1
    assert rows["uniform"]["utility"] == pytest.approx(utility.mean())
    assert rows["best model in hindsight"]["utility"] == pytest.approx(utility.mean(axis=0).max())
    assert rows["best model in hindsight"]["regret_to_best"] == pytest.approx(0)
    assert rows["oracle"]["utility"] == pytest.approx(utility.max(axis=1).mean())
    assert rows["oracle"]["regret"] == pytest.approx(0)
    assert all(row["reference"] for name, row in rows.items() if name not in POLICIES)


def test_a_model_that_was_out_is_no_reference():
    """Who was not there all along could not have been chosen always; uniform is over those that were there."""
    made = partial(streams, scenarios=(Outage(at=60, until=120, arm="dear"), NewArm(at=120, arm="coder")))
    rows = {row["policy"]: row for row in compare(made, POLICIES, seeds=(0,)).rows}
    assert "always cheap" in rows
    assert not {"always dear", "always coder"} & rows.keys()
    uniform = rows["uniform"]["shares"]
    # 60 rounds of two arms, 60 of one, 120 of three.
    assert uniform["cheap"] == pytest.approx((60 / 2 + 60 + 120 / 3) / 240)
    assert uniform["coder"] == pytest.approx(120 / 3 / 240)
    assert math.isnan(rows["little"]["ci_low"])


def test_curves_end_where_the_rows_do():
    """Regret to the best model and spend, each seed's, from the first round to the last."""
    found = compared()
    rows = {row["policy"]: row for row in found.rows}
    assert [curve.label for curve in found.curves] == ["little", "much", "best model in hindsight", "oracle"]
    for curve in found.curves:
        assert (curve.rounds[0], curve.rounds[-1]) == (1, len(TABLE))
        row = rows[curve.label]
        assert curve.regret[:, -1].mean() / len(TABLE) == pytest.approx(row["regret_to_best"], abs=1e-12)
        assert curve.spend_usd[:, -1].mean() / len(TABLE) == pytest.approx(row["cost_usd"])


def test_progress_and_replays_are_handed_over():
    """Rounds are counted over all seeds; every replay is given once."""
    told, given = [], []
    found = compared(
        progress=lambda label, n_done, _: told.append((label, n_done)),
        done=lambda label, seed, each: given.append((label, seed, each.policy)),
    )
    assert max(n for label, n in told if label == "much") == 3 * found.n_rounds
    assert given == [(label, seed, "means") for seed in (3, 4, 5) for label in POLICIES]


@pytest.mark.parametrize(
    ("policies", "seeds", "level", "message"),
    [
        ({}, (0,), 0.95, "needs policies"),
        (POLICIES, (), 0.95, "and seeds"),
        (POLICIES, (0,), 1.0, "level"),
        ({"oracle": POLICIES["much"]}, (0,), 0.95, "names of policies"),
    ],
)
def test_what_cannot_be_compared_is_refused(policies, seeds, level, message):
    """Each rule has its error."""
    with pytest.raises(InvalidParameterError, match=message):
        compare(streams, policies, seeds=seeds, level=level)
