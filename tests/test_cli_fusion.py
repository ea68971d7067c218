"""`pointsman fuse`: tables for people, JSON for machines, files, and errors of one line."""

from __future__ import annotations

import json

import pytest

from pointsman.logs import read_labels, write_labels, write_log, write_table
from pointsman.logs.columns import PREFERENCE_COLUMNS
from tests.pipeline.judged_logs import judged_log, votes
from tests.test_cli import ends_with_one_line, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log, labels and votes as files."""
    folder = tmp_path_factory.mktemp("fuse")
    log, labels = judged_log(n_prompts=300, n_gold=90)
    write_log(log, folder / "log.parquet")
    write_labels(labels, folder / "labels.csv")
    write_table(votes(n_votes=60).table, folder / "votes.parquet", types=PREFERENCE_COLUMNS)
    return folder


def test_help_has_an_example():
    """`--help` shows how the command is called."""
    result = run("fuse", "--help")
    assert result.exit_code == 0
    assert "Example: pointsman fuse" in result.output


def test_it_prints_for_people_and_writes_files(folder, tmp_path):
    """The finding, the bias of every judge, what to label next; labels that can be read; a page."""
    result = run(
        *("fuse", folder / "log.parquet", "--labels", folder / "labels.csv", "--preferences", folder / "votes.parquet"),
        *("--price", "judge=0.001", "--price", "gold=1", "--next", "3", "--two-models", "coder,dear"),
        *("--out", tmp_path / "fused.parquet", "--report", tmp_path / "page.html"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("cheap games judge")
    for told in (
        "thumbs",
        "users (votes)",
        "games the judge",
        "worth its price",
        "helps to decide between",
        "gold units",
    ):
        assert told in result.stdout, told
    assert read_labels(tmp_path / "fused.parquet").sources == ("fused",)
    assert "<title>Labels of judge, thumbs, users (votes)" in (tmp_path / "page.html").read_text()


def test_json_keys_are_the_fixed_ones(folder):
    """Acceptance checks read these; nothing else is printed."""
    found = json.loads(run("fuse", folder / "log.parquet", "--labels", folder / "labels.csv", "--json").stdout)
    assert set(found) >= {
        "bias",
        "agreement",
        "worth",
        "coverage",
        "next_rounds",
        "more",
        "gain",
        "warnings",
        "headline",
    }
    assert set(found["bias"][0]) >= {"judge", "by", "cell", "value", "ci_low", "ci_high", "n_gold", "differs", "gamed"}
    assert set(found["next_rounds"][0]) >= {"rank", "round_id", "model", "gain", "reason"}
    assert len(found["next_rounds"]) == 20
    assert found["judges"] == ["judge", "thumbs"]


def test_slices_and_correction_are_chosen(folder):
    """A column that the log does not have is no slice; another correction is told."""
    result = run(
        *("fuse", folder / "log.parquet", "--labels", folder / "labels.csv", "--slice", "nothing", "--next", "0"),
        *("--correction", "shift", "--json"),
    )
    found = json.loads(result.stdout)
    assert {row["by"] for row in found["bias"]} == {"overall", "arm"}
    assert found["correction"] == "shift"
    assert found["next_rounds"] == []


def test_no_gold_is_a_note_not_a_failure(folder):
    """The note says whose units these are."""
    result = run("fuse", folder / "log.parquet", "--labels", folder / "labels.csv", "--gold", "expert", "--next", "2")
    assert result.exit_code == 0, result.output
    assert "no label is of source expert" in result.stdout
    assert "note: quality was judged by" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--price", "judge"), "price must be SOURCE=USD"),
        (("--price", "judge=much"), "price must be SOURCE=USD"),
        (("--price", "nobody=1"), "price_usd must be of sources among"),
        (("--correction", "magic"), "correction must be among"),
        (("--two-models", "dear"), "two-models must be WEAK,STRONG"),
        (("--level", "95"), "level must be in"),
        (("--report", "/nowhere/page.html"), "path must lie in a folder that exists"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    """Exit code 2, and what to do instead."""
    result = run("fuse", folder / "log.parquet", "--labels", folder / "labels.csv", "--next", "1", *arguments)
    assert message in ends_with_one_line(result, 2)
