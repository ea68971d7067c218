"""`--labels`, `--gold` and `--correction` of `fit`, `evaluate` and `power`."""

from __future__ import annotations

import json

import pytest

from pointsman.logs import Labels, read_labels, write_labels, write_log
from tests.pipeline.judged_logs import judged_log
from tests.test_cli import ends_with_one_line, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two logs that a judge scored, gold labels of both, and a router fitted on the first."""
    folder = tmp_path_factory.mktemp("gold")
    for name, seed in (("log", 0), ("held", 1)):
        log, labels = judged_log(n_prompts=300, n_gold=100, seed=seed)
        if name == "held":
            log = log.with_columns(prompt=[f"{prompt} again" for prompt in log.prompt])
        write_log(log, folder / f"{name}.parquet")
        write_labels(labels, folder / f"{name}-labels.csv")
    result = run(
        *("fit", folder / "log.parquet", "--labels", folder / "log-labels.csv", "--out", folder / "router"),
        *("--method", "direct"),
    )
    assert result.exit_code == 0, result.output
    assert "judges' labels corrected by 100 gold ones: hierarchical" in result.stdout
    return folder


def gold_of(folder, name):
    """Return the arguments that name a log's labels."""
    return (folder / f"{name}.parquet", "--labels", folder / f"{name}-labels.csv")


def test_help_tells_of_labels():
    """Both commands say which columns a file of labels has, and whose labels are the truth."""
    for command in ("fit", "evaluate", "power"):
        said = run(command, "--help").output
        for option in ("--labels", "--gold", "--correction"):
            assert option in said, (command, option)


def test_fit_says_what_corrected_the_judge(folder, tmp_path):
    """In JSON: who judged, how many gold labels, and how; the option names another correction."""
    arguments = ("fit", *gold_of(folder, "log"), "--out", tmp_path / "r", "--method", "best-single", "--json")
    found = json.loads(run(*arguments).stdout)
    assert found["quality_sources"] == ["gold", "judge", "thumbs"]
    assert (found["n_gold"], found["correction"]) == (100, "hierarchical")
    assert json.loads(run(*arguments, "--correction", "arm-shift").stdout)["correction"] == "arm-shift"


def test_gold_changes_what_is_learned(folder, tmp_path):
    """The judge scores `cheap` 0.95 whatever it answers: by its word alone every prompt is sent there."""
    route = ("a contract clause in court", "--quality-per-usd", "0", "--json")
    by_judge = run("fit", folder / "log.parquet", "--out", tmp_path / "judge", "--method", "direct")
    assert "note: quality was judged by judge" in by_judge.stderr
    assert json.loads(run("route", tmp_path / "judge", *route).stdout)["model"] == "cheap"
    assert json.loads(run("route", folder / "router", *route).stdout)["model"] == "dear"


def test_evaluate_is_in_gold_units_end_to_end(folder):
    """The notes say so, the values are near gold's; without the file there is a note instead."""
    arguments = ("--quality-per-usd", "0", "--against", "always cheap", "--json")
    result = run("evaluate", folder / "router", *gold_of(folder, "held"), *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    notes = found["diagnostics"]
    assert (notes["n_gold"], notes["correction"]) == (100, "hierarchical")
    assert notes["labelling"]["kind"] == "estimated"
    row = next(row for row in found["rows"] if row["estimator"] == "dr" and row["policy"] != "always cheap")
    # What is chosen is right nine times in ten; by the judge it would be worth 0.2 + 0.7 x 0.9 or, gamed, 0.95.
    assert row["ci_low"] < 0.9 < row["ci_high"] + 0.05
    # Gold has `cheap` right four times in ten.
    assert found["comparisons"][0]["against"] == "always cheap"
    assert found["comparisons"][0]["ci_low"] > 0.3

    result = run("evaluate", folder / "router", folder / "held.parquet", *arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["diagnostics"]["correction"] is None
    assert "note: quality was judged by judge" in result.stderr


def test_cross_fitting_and_power_take_labels(folder):
    """The recipe is refitted with them; the sample size is told in gold units."""
    result = run(
        *("evaluate", folder / "router", *gold_of(folder, "log"), "--cross-fit", "--quality-per-usd", "0", "--json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["diagnostics"]["n_gold"] == 100
    result = run(
        *("power", folder / "held.parquet", folder / "router", *gold_of(folder, "held")[1:], "--quality-per-usd", "0"),
        *("--against", "always cheap", "--json"),
    )
    assert result.exit_code == 0, result.output


def test_another_source_may_be_gold(folder, tmp_path):
    """`--gold thumbs` makes the others judges, gold among them."""
    result = run(
        *("fit", *gold_of(folder, "log"), "--gold", "thumbs", "--out", tmp_path / "r", "--method", "best-single"),
        "--json",
    )
    assert json.loads(result.stdout)["n_gold"] == 147


def test_mistakes_are_one_line(folder, tmp_path):
    """A missing file, foreign rounds, an unknown correction, gold that meets no judge: exit code 2, and what to do."""
    out = ("--out", tmp_path / "r", "--method", "best-single")
    result = run("fit", folder / "log.parquet", "--labels", tmp_path / "none.csv", *out)
    assert "none.csv" in ends_with_one_line(result, 2)
    result = run("fit", *gold_of(folder, "log"), *out, "--correction", "magic")
    assert "correction must be among" in ends_with_one_line(result, 2)
    result = run("evaluate", folder / "router", *gold_of(folder, "held"), "--correction", "magic")
    assert "correction must be among" in ends_with_one_line(result, 2)
    labels = read_labels(folder / "log-labels.csv")
    foreign = Labels.from_columns(round_id=["nowhere"], quality=[1.0], quality_source=["gold"])
    write_labels(foreign, tmp_path / "foreign.csv")
    result = run("fit", folder / "log.parquet", "--labels", tmp_path / "foreign.csv", *out)
    assert "use the log's round_id" in ends_with_one_line(result, 2)
    result = run("fit", *gold_of(folder, "log"), *out, "--gold", "")
    assert "gold must name a source" in ends_with_one_line(result, 2)
    assert len(labels) == 247
