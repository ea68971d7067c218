"""The demo runs the whole loop, offline, and tells the truth about it."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

from pointsman.demo import WORTH_SAYING, example_table, run_demo
from pointsman.errors import MissingDependencyError
from pointsman.logs import read_full_feedback, read_log
from pointsman.pipeline import score
from pointsman.registry import load_router
from tests.tables import small_table

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The demo on a small table, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return run_demo(small_table(n_prompts=400), out=out, method="direct", seed=0), out


def test_everything_it_names_is_written_and_can_be_read(ran):
    """Log, held-out log, truth, two routers, report, PNG and SVG."""
    report, out = ran
    names = {path.name for path in report.files}
    assert names == {
        "log.parquet",
        "held_out.parquet",
        "truth.parquet",
        "router",
        "router_estimated_propensities",
        "report.html",
        "cost_quality.png",
        "cost_quality.svg",
    }
    assert {path.name for path in out.iterdir()} == names
    log, held_out = read_log(out / "log.parquet"), read_log(out / "held_out.parquet")
    assert not set(log.identity) & set(held_out.identity)
    assert load_router(out / "router").facts.propensities == "logged"
    assert load_router(out / "router_estimated_propensities").facts.propensities == "estimated"


def test_its_table_is_what_score_says(ran):
    """The truth in the table is the truth on the prompts that no router has seen."""
    report, out = ran
    router, truth = load_router(out / "router"), read_full_feedback(out / "truth.parquet")
    lambdas = sorted({row.quality_per_usd for row in report.rows})
    for true in score(router, truth, quality_per_usd=lambdas).rows:
        (row,) = [
            row for row in report.rows if (row.policy, row.quality_per_usd) == ("direct", true["quality_per_usd"])
        ]
        assert row.value == pytest.approx(true["value"], rel=1e-12)


def test_utility_is_quality_minus_lambda_cost(ran):
    """Every row's parts agree with its utility, and the oracle is the best of each trade-off."""
    report, _ = ran
    for row in report.rows:
        assert row.value == pytest.approx(row.quality - row.quality_per_usd * row.cost_usd, rel=1e-9)
    for value in {row.quality_per_usd for row in report.rows}:
        here = {row.policy: row.value for row in report.rows if row.quality_per_usd == value}
        unseen = {name: utility for name, utility in here.items() if name != "logging"}  # measured on other prompts
        assert max(unseen, key=unseen.get) == "oracle"


def test_it_says_so_where_nothing_is_to_be_gained(tmp_path):
    """One model is best for every prompt: no finding claims a gain."""
    table = small_table(n_prompts=300)
    quality = np.tile([0.2, 0.3, 0.95], (300, 1)) + 0.01 * np.random.default_rng(0).standard_normal((300, 3))
    same = type(table)(
        query_id=table.query_id,
        prompt=table.prompt,
        arms=table.arms,
        quality=quality,
        cost_usd=np.tile([2e-4, 3e-4, 1e-4], (300, 1)),
    )
    report = run_demo(same, out=tmp_path / "demo", method="direct")
    assert not any("beats" in finding or "loses" in finding for finding in report.findings)
    assert sum("nothing to be gained over always calling dear" in finding for finding in report.findings) == 4
    assert WORTH_SAYING > 0


def test_a_table_without_cost_is_shown_at_quality_only(tmp_path):
    """One trade-off, no plot, no word of money."""
    report = run_demo(small_table(with_cost=False), out=tmp_path / "demo", method="direct")
    assert {row.quality_per_usd for row in report.rows} == {0.0}
    assert not any(path.suffix == ".png" for path in report.files)
    assert not any("USD" in finding for finding in report.findings)
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_same_seed_gives_the_same_report(ran, tmp_path):
    """Rows and findings, to the last digit."""
    again = run_demo(small_table(n_prompts=400), out=tmp_path / "out", method="direct", seed=0)
    assert again.rows[0] == ran[0].rows[0]
    assert again.findings == ran[0].findings


@pytest.fixture
def not_imported(monkeypatch):
    """No test before has imported the package that the example ships in."""
    for name in [name for name in sys.modules if name.split(".")[0] == "pareto_bandit"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("not_imported")
def test_the_example_is_real_and_complete():
    """3,609 prompts of three models, with costs, judged by a model; the package itself is not imported."""
    if importlib.util.find_spec("pareto_bandit") is None:
        pytest.skip("paretobandit is not installed: the [demo] extra")
    table = example_table()
    assert (len(table), len(table.arms)) == (3609, 3)
    assert table.cost_usd.min() > 0
    assert table.quality_source != "gold"
    assert "pareto_bandit" not in sys.modules


@pytest.mark.usefixtures("not_imported")
def test_a_missing_package_names_the_extra(monkeypatch):
    """Without the package the demo says what to install."""
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingDependencyError, match=r"pointsman\[demo\]"):
        example_table()
