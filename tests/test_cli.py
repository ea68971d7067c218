"""The command line: exact names and keys, exit codes 0, 1 and 2, and never a traceback."""

# ruff: noqa: S603, S607 - the processes started here are our own command
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pointsman import __version__
from pointsman.cli import app
from pointsman.logs import LoggedRounds, read_full_feedback, read_log, write_full_feedback, write_log
from tests.tables import small_logs, small_table

COMMANDS = (
    *("simulate", "fit", "evaluate", "fuse", "score", "power", "route", "replay"),
    *("init", "serve", "learn", "demo", "bench", "doctor"),
)


def run(*arguments: object) -> Result:
    """Run the command in this process."""
    with warnings.catch_warnings():
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, logs, a router and the truth, made by the library."""
    folder = tmp_path_factory.mktemp("cli")
    log, held_out, truth = small_logs()
    write_full_feedback(small_table(), folder / "table.parquet")
    write_log(log, folder / "log.parquet")
    write_log(held_out, folder / "held.parquet")
    write_full_feedback(truth, folder / "truth.parquet")
    result = run("fit", folder / "log.parquet", "--out", folder / "router", "--method", "direct")
    assert result.exit_code == 0, result.output
    return folder


def ends_with_one_line(result: Result, code: int) -> str:
    """Return the last line of standard error, after checking the exit code and that nothing was raised."""
    assert result.exit_code == code, result.output + repr(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command):
    """`--help` works and shows how the command is called."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: pointsman {command}" in result.output


def test_the_loop_runs_and_prints_for_people_and_machines(folder, tmp_path):
    """Simulate, fit, evaluate, score, route: a table without --json, only JSON with it."""
    log, router = tmp_path / "log.jsonl", tmp_path / "router"
    steps = [
        ("simulate", folder / "table.parquet", "--logger", "confounded", "--out", log, "--seed", "0"),
        ("fit", log, "--out", router, "--method", "direct", "--seed", "0"),
        ("evaluate", router, folder / "held.parquet", "--quality-per-usd", "0", "--quality-per-usd", "inf"),
        ("score", router, tmp_path / "log.truth.jsonl", "--quality-per-usd", "50"),
        ("route", router, "python loop", "--quality-per-usd", "50", "--models", "cheap,coder"),
    ]
    for step in steps:
        for_people = run(*step)
        assert for_people.exit_code == 0, for_people.output
        assert for_people.stdout.strip()
        for_machines = run(*step, "--json")
        assert for_machines.exit_code == 0, for_machines.output
        json.loads(for_machines.stdout)
    assert read_log(log).n_rounds + len(read_full_feedback(tmp_path / "log.truth.jsonl")) == 240


def test_json_keys_are_the_fixed_ones(folder):
    """Acceptance checks read these."""
    rows = json.loads(run("score", folder / "router", folder / "truth.parquet", "--json").stdout)["rows"]
    assert len(rows) == 5
    assert set(rows[0]) >= {
        "quality_per_usd",
        "value",
        "quality",
        "cost_usd",
        "oracle_value",
        "best_single_model",
        "best_single_value",
        "regret",
    }
    found = json.loads(run("evaluate", folder / "router", folder / "held.parquet", "--json").stdout)
    assert set(found) >= {"rows", "diagnostics", "headline", "comparisons", "frontier", "savings", "sensitivity"}
    assert {row["estimator"] for row in found["rows"]} >= {"dm", "ips", "snips", "dr"}
    assert set(found["rows"][0]) >= {"quality_per_usd", "estimator", "value", "ci_low", "ci_high", "ess"}
    route = json.loads(run("route", folder / "router", "soup", "--json").stdout)
    assert set(route) >= {"model", "propensity", "probabilities", "reasons", "quality_per_usd"}


def test_simulation_writes_the_true_propensities(folder, tmp_path):
    """Uniform logging of three models logs a third; the truth file's name can be chosen; the seed decides."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = run(
            *("simulate", folder / "table.parquet", "--logger", "uniform", "--share", ".5", "--seed", seed),
            *("--out", tmp_path / f"{name}.csv", "--truth", tmp_path / f"{name}-rest.csv"),
        )
        assert result.exit_code == 0, result.output
    assert np.allclose(read_log(tmp_path / "a.csv").propensity, 1 / 3)
    same = [(tmp_path / f"{name}.csv").read_bytes() for name in "abc"]
    assert same[0] == same[1] != same[2]
    assert (tmp_path / "a-rest.csv").exists()


def test_table_options_choose_columns_rows_and_models(folder, tmp_path):
    """A judge's column, a filter and a choice of models; no cost where none is wanted."""
    table = small_table().to_table().rename_columns(["query_id", "prompt", "model", "judge", "usd", "by", "task"])
    from pointsman.logs.files import write_table

    write_table(table.drop_columns(["by"]), tmp_path / "t.parquet")
    out = tmp_path / "log.parquet"
    options = ("--quality-column", "judge", "--cost-column", "usd", "--where", "task=code", "--models", "cheap,coder")
    result = run("simulate", tmp_path / "t.parquet", "--logger", "uniform", "--out", out, *options)
    assert result.exit_code == 0, result.output
    log = read_log(out)
    assert log.arms.names == ("cheap", "coder")
    assert set(log.quality_source) == {"judge"}
    router = tmp_path / "router"
    fitted = run("fit", out, "--out", router, "--method", "direct")
    assert fitted.exit_code == 0
    assert "note: quality was judged by judge" in fitted.stderr
    scored = run("score", router, tmp_path / "t.parquet", *options, "--quality-per-usd", "0")
    assert scored.exit_code == 0, scored.output
    missing = run("simulate", tmp_path / "t.parquet", "--logger", "uniform", "--out", out)
    assert "judge" in ends_with_one_line(missing, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("simulate", "{f}/none.parquet", "--logger", "uniform", "--out", "{t}/l.parquet"), "no such file"),
        (("simulate", "{f}/table.parquet", "--logger", "unheard", "--out", "{t}/l.parquet"), "logger"),
        (("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/l.txt"), "suffix"),
        (("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/no/l.parquet"), "does not exist"),
        (("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/l.parquet", "--share", "2"), "share"),
        (("simulate", "{f}/table.parquet", "--logger", "cheap", "--out", "{t}/l.parquet", "--floor", "2"), "floor"),
        (("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/l.parquet", "--seed", "-1"), "seed"),
        (
            ("simulate", "{f}/table.parquet", "--logger", "confounded", "--signal", "x", "--out", "{t}/l.parquet"),
            "signal",
        ),
        (("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/l.parquet", "--where", "x"), "where"),
        (("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/l.parquet", "--where", "x=1"), "where"),
        (
            ("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/l.parquet", "--models", "x"),
            "models must be among",
        ),
        (
            (
                "simulate",
                "{f}/table.parquet",
                "--logger",
                "uniform",
                "--out",
                "{t}/l.parquet",
                "--truth",
                "{t}/l.parquet",
            ),
            "another file",
        ),
        (
            ("simulate", "{f}/table.parquet", "--logger", "uniform", "--out", "{t}/l.txt", "--truth", "{t}/r.parquet"),
            "suffix",
        ),
        (("fit", "{f}/none.parquet", "--out", "{t}/r"), "no such file"),
        (("fit", "{f}/table.parquet", "--out", "{t}/r"), "round_id"),
        (("fit", "{f}/log.parquet", "--out", "{t}/r", "--method", "unheard"), "method"),
        (("fit", "{f}/log.parquet", "--out", "{t}/r", "--method", "always"), "arm"),
        (("fit", "{f}/log.parquet", "--out", "{t}/r", "--method", "direct", "--propensity", "x"), "propensity"),
        (("fit", "{f}/log.parquet", "--out", "{t}/r", "--method", "direct", "--encoder", "x"), "encoder"),
        (("fit", "{f}/log.parquet", "--out", "{f}/table.parquet", "--method", "direct"), "table.parquet"),
        (("fit", "{f}/log.parquet", "--out", "{t}/r", "--folds", "1"), "folds"),
        (("fit", "{f}/log.parquet"), "out"),
        (("evaluate", "{f}/router"), "router and a log"),
        (("evaluate", "{f}/router", "{f}/log.parquet"), "--cross-fit"),
        (("evaluate", "{f}/none", "{f}/held.parquet"), "does not exist"),
        (("evaluate", "{f}/router", "{f}/none.csv"), "no such file"),
        (("evaluate", "{f}/router", "{f}/held.parquet", "--quality-per-usd", "-1"), "quality_per_usd"),
        (("evaluate", "{f}/router", "{f}/held.parquet", "--quality-per-usd", "nan"), "quality_per_usd"),
        (("evaluate", "{f}/router", "{f}/held.parquet", "--quality-per-usd", "much"), "number"),
        (("evaluate", "{f}/router", "{f}/held.parquet", "--level", "1"), "level"),
        (("evaluate", "always unheard", "{f}/held.parquet"), "model must be one of"),
        (("evaluate", "{f}/router", "logging", "{f}/held.parquet", "--cross-fit"), "exactly one router"),
        (("score", "{f}/router", "{f}/none.parquet"), "no such file"),
        (("score", "{f}/log.parquet", "{f}/truth.parquet"), "not a folder"),
        (("score", "{f}", "{f}/truth.parquet"), "not a router"),
        (("score", "{f}/router", "{f}/truth.parquet", "--quality-column", "x"), "'x' is missing"),
        (("score", "{f}/router", "{f}/truth.parquet", "--cost-column", "none", "--quality-per-usd", "1"), "must be 0"),
        (("route", "{f}/router", "soup", "--models", "unheard"), "model must be one of"),
        (("route", "{f}/router", "soup", "--models", ","), "at least one"),
        (("route", "{f}/router", "soup", "--cost-weight", "2"), "cost_weight"),
        (("route", "{f}/router", "soup", "--cost-weight", ".5", "--quality-per-usd", "1"), "given once"),
        (("demo", "--table", "{f}/none.parquet", "--out", "{t}/d"), "no such file"),
        (("demo", "--table", "{f}/table.parquet", "--out", "{f}/table.parquet"), "exists"),
        (("unheard",), "unheard"),
        (("fit", "--unheard"), "unheard"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, arguments, says):
    """Every error names what is wrong; nothing is left behind."""
    result = run(*(argument.format(f=folder, t=tmp_path) for argument in arguments))
    ends_with_one_line(result, 2)
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["manifest", "arrays", "truncated", "newer"])
def test_a_tampered_router_is_refused(folder, tmp_path, how):
    """A changed, cut or newer folder gets one clear error from every command that reads routers."""
    router = tmp_path / "router"
    shutil.copytree(folder / "router", router)
    manifest, arrays = router / "manifest.json", router / "arrays.safetensors"
    if how == "manifest":
        manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    elif how == "arrays":
        arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    elif how == "truncated":
        arrays.write_bytes(arrays.read_bytes()[:-8])
    else:
        manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 99'))
    for arguments in (
        ("route", router, "soup"),
        ("score", router, folder / "truth.parquet"),
        ("evaluate", router, folder / "held.parquet"),
    ):
        assert str(router) in ends_with_one_line(run(*arguments), 2)


def test_nothing_to_say_is_exit_code_1(folder, tmp_path):
    """A deterministic log says nothing about another policy: that is no fault of the input."""
    held_out = read_log(folder / "held.parquet")
    write_log(held_out.with_columns(propensity=np.ones(held_out.n_rounds)), tmp_path / "sure.parquet")
    result = run("evaluate", folder / "router", tmp_path / "sure.parquet")
    assert "deterministic" in ends_with_one_line(result, 1)


def test_notes_are_one_line_each_and_not_repeated(folder, tmp_path):
    """Statistical doubts go to standard error, once; standard output stays JSON."""
    log = read_log(folder / "log.parquet")
    judged = ["judge"] * log.n_rounds
    write_log(log.with_columns(propensity=np.ones(log.n_rounds), quality_source=judged), tmp_path / "doubtful.parquet")
    result = run("fit", tmp_path / "doubtful.parquet", "--out", tmp_path / "r", "--method", "direct", "--json")
    assert result.exit_code == 0, result.output
    notes = result.stderr.strip().splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert len(notes) == len(set(notes)) == 2
    json.loads(result.stdout)


def test_rounds_left_out_are_said(folder, tmp_path):
    """Fallbacks, models without outcomes and training rounds are counted in print."""
    log, held_out = read_log(folder / "log.parquet"), read_log(folder / "held.parquet")
    names = np.array(log.arms.names)[log.arm]
    marked = log.with_columns(
        fallback=np.arange(log.n_rounds) < 7, quality=np.where(names == "dear", np.nan, log.quality)
    )
    write_log(marked, tmp_path / "marked.parquet")
    result = run("fit", tmp_path / "marked.parquet", "--out", tmp_path / "r", "--method", "direct")
    assert "7 rounds left out: fallbacks" in result.stdout
    assert "dear" in result.stdout
    write_log(LoggedRounds.concat([log, held_out]), tmp_path / "both.parquet")
    result = run("evaluate", folder / "router", tmp_path / "both.parquet", "--quality-per-usd", "0")
    assert f"{log.n_rounds} rounds left out: a router was fitted on them" in result.stdout
    crossed = run("evaluate", folder / "router", folder / "log.parquet", "--cross-fit", "--quality-per-usd", "0")
    assert crossed.exit_code == 0, crossed.output
    assert "cross-fitted" in crossed.stdout


def test_several_policies_stand_in_one_table(folder):
    """Routers and fixed policies side by side, the log last."""
    result = run(
        "evaluate", folder / "router", "always dear", "logging", folder / "held.parquet", "--quality-per-usd", "0"
    )
    assert result.exit_code == 0, result.output
    assert "always dear" in result.stdout


def test_fit_gives_the_same_bytes_twice(folder, tmp_path):
    """Another process, another folder: the same router."""
    command = [sys.executable, "-m", "pointsman.cli", "fit", str(folder / "log.parquet"), "--method", "direct"]
    done = subprocess.run([*command, "--out", str(tmp_path / "r")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("manifest.json", "arrays.safetensors"):
        assert (tmp_path / "r" / name).read_bytes() == (folder / "router" / name).read_bytes()


def test_the_installed_command_reports_errors_without_a_traceback(tmp_path):
    """The console script itself: a missing file is one line on standard error and exit code 2."""
    script = Path(sys.executable).with_name("pointsman")
    done = subprocess.run(
        [script, "fit", "nowhere.parquet", "--out", "r"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: nowhere.parquet")
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_error(folder):
    """A reader that stops early, such as `head`, sees no traceback."""
    script = Path(sys.executable).with_name("pointsman")
    command = f"'{script}' score '{folder / 'router'}' '{folder / 'truth.parquet'}' --json | head -c 5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_interrupting_leaves_nothing_half_written(folder, tmp_path):
    """Ctrl-C exits with 130 and one word."""
    code = (
        "import os, signal\n"
        "import pointsman.pipeline as pipeline\n"
        "from pointsman.cli import main\n"
        # A job in the background of a shell inherits SIGINT ignored, and Python then leaves it so.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupted(*args, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "pipeline.fit = interrupted\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", str(folder / "log.parquet"), "--out", str(tmp_path / "r")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert done.stderr.strip() == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_the_demo_prints_its_table_and_findings(folder, tmp_path):
    """On a table of one's own, for people and for machines."""
    pytest.importorskip("matplotlib")
    options = ("demo", "--table", folder / "table.parquet", "--out", tmp_path / "demo", "--method", "direct")
    result = run(*options)
    assert result.exit_code == 0, result.output
    for word in ("logging", "oracle", "direct", "utility", "cost_quality.png"):
        assert word in result.stdout
    state = json.loads(run(*options, "--json").stdout)
    assert set(state) == {"rows", "findings", "files", "warnings", "gateway"}


def test_doctor_says_what_is_there():
    """Versions, extras, methods and whether the encoder works."""
    state = json.loads(run("doctor", "--json").stdout)
    assert state["pointsman"] == __version__
    assert state["encoder"] == "ok"
    assert "direct" in state["methods"]
    assert run("doctor").exit_code == 0
    assert run("--version").stdout.strip() == __version__


def test_bench_outside_a_checkout_is_refused(tmp_path, monkeypatch):
    """Without the experiment there is nothing to run: exit code 1."""
    import pointsman.cli.whole as module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert "checkout" in ends_with_one_line(run("bench"), 1)


def test_bench_passes_its_options_and_exit_code_on(tmp_path, monkeypatch):
    """What follows `bench` reaches the experiment as it is."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "experiment.py").write_text("import sys\nsys.exit(len(sys.argv))\n")
    monkeypatch.chdir(tmp_path)
    assert run("bench", "--full", "--seeds", "3").exit_code == 4


@pytest.mark.parametrize(
    ("code", "barred"),
    [
        ("import pointsman", ("numpy", "pyarrow", "sklearn", "scipy", "typer", "torch")),
        ("import pointsman.cli", ("numpy", "pyarrow", "sklearn", "scipy", "torch", "matplotlib")),
    ],
)
def test_importing_brings_nothing_heavy_in(code, barred):
    """The face and the command line start without the libraries that take a second to import."""
    check = f"{code}, sys\nprint(*(set({barred!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_public_names_are_sorted_and_all_there():
    """Each name of `__all__` can be had, and no other."""
    import pointsman

    assert pointsman.__all__ == sorted(pointsman.__all__)
    assert all(getattr(pointsman, name) is not None for name in pointsman.__all__)
    assert set(pointsman.__all__) <= set(dir(pointsman))
    with pytest.raises(AttributeError, match="unheard"):
        _ = pointsman.unheard


def test_a_requirement_decides_the_exit_code(folder):
    """What is shown to hold exits with 0, what is not with 1; machines get every bound."""
    asked = ("evaluate", folder / "router", folder / "held.parquet", "--against", "logging", "--quality-per-usd", "0")

    met = run(*asked, "--require", "utility>=-1")
    missed = run(*asked, "--require", "utility>=-1", "--require", "quality>=0.9")
    rows = json.loads(run(*asked, "--require", "quality>=0.9", "--json").stdout)["requirements"]

    assert met.exit_code == 0, met.output
    assert "every requirement met" in met.stdout
    assert missed.exit_code == 1
    assert "1 of 2 requirements not met" in missed.stdout
    assert [row["met"] for row in rows] == [False]
    assert rows[0]["bound"] < 0.9


def test_an_evaluation_is_written_as_a_page(folder, tmp_path):
    """The page is there, whole, and its name is said."""
    page = tmp_path / "report.html"

    result = run("evaluate", folder / "router", folder / "held.parquet", "--report", page)

    assert result.exit_code == 0, result.output
    assert str(page.name) in result.stdout
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_the_table_shows_the_estimators_asked_for(folder):
    """DR alone by default, all of them with 'all', none that is unheard of."""
    asked = ("evaluate", folder / "router", folder / "held.parquet", "--quality-per-usd", "0")

    assert "snips" not in run(*asked).stdout
    assert "switch_dr" in run(*asked, "--estimator", "all").stdout
    unheard = run(*asked, "--estimator", "magic")
    assert unheard.exit_code == 2
    assert "estimator must be among" in unheard.stderr


def test_power_prints_for_people_and_machines(folder):
    """A row a share of exploration; JSON with the rounds needed."""
    asked = ("power", folder / "held.parquet", folder / "router", "--quality-per-usd", "50", "--effect", "0.02")

    for_people = run(*asked)
    found = json.loads(run(*asked, "--json").stdout)

    assert for_people.exit_code == 0, for_people.output
    assert "to tell direct from best-single" in for_people.stdout
    assert {row["exploration"] for row in found["rows"]} == {0.0, 0.05, 0.1, 0.2, 0.5, 1.0}
    assert all(row["n_needed"] >= 2 for row in found["rows"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{f}/router", "{f}/held.parquet", "--require", "utility>=0"), "one --against"),
        (("{f}/router", "{f}/held.parquet", "--against", "logging", "--require", "speed>=0"), "OUTCOME>=NUMBER"),
        (
            ("{f}/router", "{f}/held.parquet", "--against", "logging", "--require", "utility>=0", "--confidence", "1"),
            "confidence",
        ),
        (("{f}/router", "{f}/held.parquet", "--slice", "prompt"), "slices must be"),
    ],
)
def test_a_wrong_comparison_is_refused_in_one_line(folder, arguments, said):
    """Exit code 2 and the rule."""
    result = run("evaluate", *(argument.format(f=folder) for argument in arguments))

    assert result.exit_code == 2
    assert said in result.stderr
