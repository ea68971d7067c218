"""`pointsman replay`: a table for people, JSON for machines, a folder of results, and errors of one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pointsman.logs import read_log, write_full_feedback, write_log
from pointsman.online.replay import stream
from tests.tables import small_table
from tests.test_cli import ends_with_one_line, run

POLICIES = ("--policy", "epsilon-greedy:floor=0.2", "--policy", "beta-thompson")
TABLE = small_table(n_prompts=120)
N = len(TABLE)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The small table as a file."""
    path = tmp_path_factory.mktemp("replay") / "table.parquet"
    write_full_feedback(TABLE, path)
    return path


def test_help_has_an_example():
    """`--help` shows how the command is called."""
    result = run("replay", "--help")
    assert result.exit_code == 0
    assert "Example: pointsman replay" in result.output


def test_it_prints_policies_above_references(table):
    """Utility with its interval, the paired difference, quality, cost, regret, and each model's share."""
    scenario = ("--scenario", "price-cut:at=60,model=dear,factor=0.1")
    result = run("replay", table, *POLICIES, "--seeds", "2", *scenario)
    assert result.exit_code == 0, result.output
    for told in (
        *("minus epsilon-greedy:floor=0.2", "beta-thompson", "USD per 1,000", "over the best model"),
        *("always dear", "uniform", "best model in hindsight", "oracle", "something changes at rounds 60"),
    ):
        assert told in result.stdout, told
    assert result.stdout.index("beta-thompson") < result.stdout.index("oracle")


def test_json_holds_every_row(table):
    """The same streams give the same numbers; nothing else is printed."""
    arguments = ("replay", table, *POLICIES, "--seeds", "2", "--quality-per-usd", "20", "--json")
    found = json.loads(run(*arguments).stdout)
    assert found == json.loads(run(*arguments).stdout)
    assert (found["n_rounds"], found["seeds"], found["quality_per_usd"]) == (N, [0, 1], 20.0)
    rows = {row["policy"]: row for row in found["rows"]}
    assert [name for name, row in rows.items() if not row["reference"]] == ["epsilon-greedy:floor=0.2", "beta-thompson"]
    dear = TABLE.arms.index("dear")
    always = (TABLE.quality - 20 * TABLE.cost_usd)[:, dear].mean()
    assert rows["always dear"]["utility"] == pytest.approx(always)
    assert rows["oracle"]["utility"] >= max(row["utility"] for row in rows.values())
    assert len(rows["beta-thompson"]["utilities"]) == 2


def test_a_folder_keeps_results_curves_and_logs(table, tmp_path):
    """JSON as printed, a plot, and for each policy a log that `evaluate` reads and finds the truth in."""
    out = tmp_path / "deep" / "out"
    result = run(
        "replay", table, "--policy", "epsilon-greedy:floor=0.6", "--seeds", "2", "--rounds", 4 * N, "--out", out
    )
    assert result.exit_code == 0, result.output
    told = json.loads((out / "replay.json").read_text())
    assert told["n_rounds"] == 4 * N
    assert (out / "replay.png").stat().st_size > 10_000
    log = read_log(out / "epsilon-greedy-floor-0.6.log.parquet")
    first = stream(TABLE, np.zeros((N, 1)), n_rounds=4 * N, rng=np.random.default_rng(0))
    assert log.prompt == [TABLE.prompt[row] for row in first.row]
    write_log(log, tmp_path / "log.parquet")
    result = run(
        *("evaluate", "always dear", tmp_path / "log.parquet", "--against", "logging", "--quality-per-usd", "0"),
        *("--estimator", "ips", "--json"),
    )
    assert result.exit_code == 0, result.output
    (row,) = [r for r in json.loads(result.stdout)["rows"] if r["policy"] == "always dear" and r["estimator"] == "ips"]
    truth = TABLE.quality[:, TABLE.arms.index("dear")].mean()
    # Propensities are at least 0.2, so a term's standard deviation is under 2 of quality 0.9: a tenth at 480 rounds.
    assert abs(row["value"] - truth) < 5 * 2 * truth / np.sqrt(4 * N)


def test_random_trade_offs_and_a_budget(table):
    """Each says so in the output; a budget below what is spent without lowers spending."""
    free = json.loads(run("replay", table, *POLICIES, "--seeds", "2", "--random-trade-off", "--json").stdout)
    assert free["random_trade_off"]
    assert free["quality_per_usd"] is None
    common = ("replay", table, *POLICIES, "--seeds", "2", "--rounds", 5 * N, "--quality-per-usd", "0", "--json")
    unbound, bound = (
        json.loads(run(*common, *budget).stdout)["rows"][0]["cost_usd"] for budget in ((), ("--budget", "0.0005"))
    )
    assert unbound > 0.0015
    assert bound < 0.001


def test_a_table_without_cost_is_played_for_quality(tmp_path):
    """Costs are dashes, and the trade-off is zero."""
    write_full_feedback(small_table(n_prompts=60, with_cost=False, source="judge"), tmp_path / "table.csv")
    result = run("replay", tmp_path / "table.csv", "--policy", "beta-thompson", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert "quality is as judged by judge" in result.stdout
    assert "utility is quality - 0 cost_usd" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "magic"), "policy must be one of"),
        (("--policy", "epsilon-greedy:floor"), "must be KEY=VALUE"),
        (("--policy", "epsilon-greedy:colour=1"), "options of 'epsilon-greedy' must be among"),
        (("--policy", "epsilon-greedy:floor=2"), "floor must be in"),
        (("--policy", "epsilon-greedy", "--scenario", "flood:at=1"), "scenario must be one of"),
        (("--policy", "epsilon-greedy", "--scenario", "retired:at=9999,model=dear"), "at of a scenario must be <"),
        (("--policy", "epsilon-greedy", "--scenario", "retired:at=9,model=nobody"), "model must be one of"),
        (("--policy", "epsilon-greedy", "--quality-per-usd", "-1"), "quality_per_usd must be >= 0"),
        (("--quality-per-usd", "1", "--random-trade-off"), "got both"),
    ],
)
def test_mistakes_are_one_line(table, arguments, message):
    """Exit code 2, and what to do instead."""
    result = run("replay", table, "--seeds", "1", "--rounds", "20", *arguments)
    assert message in ends_with_one_line(result, 2)


def test_a_budget_without_costs_is_refused(tmp_path):
    """There is nothing to hold."""
    write_full_feedback(small_table(n_prompts=60, with_cost=False), tmp_path / "table.csv")
    result = run("replay", tmp_path / "table.csv", "--policy", "beta-thompson", "--budget", "0.1")
    assert "--budget needs a table with costs" in ends_with_one_line(result, 2)
