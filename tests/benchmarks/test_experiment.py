"""The experiment, end to end on a small synthetic table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pointsman as pm
from benchmarks import experiment
from benchmarks.intervals import Mean, holm, ratio
from benchmarks.parts import Parts
from benchmarks.tables import encoded_table, table_specs
from benchmarks.units import LAMBDAS_SCALED, REFERENCES, Unit, draw, run_unit, trade_offs
from pointsman.arms import ArmSet
from pointsman.logs import FullFeedback, write_full_feedback

TOPICS = {"code": ("python", "loop", "bug", "array"), "cooking": ("onion", "oven", "soup", "salt")}
METHODS = ("best-single", "direct")
N_UNITS = 2 * 2 * 2  # uniform and confounded, true and estimated propensities, two seeds


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one table, under the name of a real one: `coder` is good at code, `cook` at cooking."""
    rng = np.random.default_rng(0)
    tasks = rng.choice(list(TOPICS), 150)
    good = {"code": (0.9, 0.2, 0.95), "cooking": (0.2, 0.9, 0.95)}
    quality = np.clip(np.array([good[task] for task in tasks]) + 0.05 * rng.standard_normal((150, 3)), 0, 1)
    table = FullFeedback(
        query_id=tuple(f"q{place}" for place in range(150)),
        prompt=tuple(f"{' '.join(rng.choice(TOPICS[task], 3))} number {place}" for place, task in enumerate(tasks)),
        arms=ArmSet.named(("a-coder", "b-cook", "c-dear")),
        quality=quality,
        cost_usd=np.array([1e-4, 2e-4, 3e-3]) * np.exp(0.1 * rng.standard_normal((150, 1))),
        extra=pa.table({"task": tasks.tolist(), "shots": [5] * 150}),
    )
    folder = tmp_path_factory.mktemp("tables")
    write_full_feedback(table, folder / "routerbench_subset.parquet")
    return folder


def bench(tables: Path, out: Path, *options: str) -> int:
    """Run the experiment in this process and return its exit code."""
    common = ["--tables", "routerbench", "--data", str(tables), "--out", str(out), "--jobs", "1", "--seeds", "2"]
    return experiment.main([*common, "--methods", *METHODS, *options])


def test_the_experiment_runs_and_resumes(tables: Path, tmp_path: Path):
    """A run writes rows, report and plot; the next recomputes only what is not there."""
    assert bench(tables, tmp_path) == 0

    rows = pq.read_table(tmp_path / "experiment.parquet").to_pylist()
    assert len(rows) == N_UNITS * (len(METHODS) + len(REFERENCES)) * len(LAMBDAS_SCALED)
    assert {row["n_rounds"] for row in rows} == {90}
    report = (tmp_path / "experiment.md").read_text(encoding="utf-8")
    assert "routerbench, pc, S = 1, estimated propensities" in report
    assert (tmp_path / "experiment.png").read_bytes().startswith(b"\x89PNG")

    parts = sorted((tmp_path / "parts").glob("*.parquet"))
    assert len(parts) == N_UNITS
    written = {part: part.stat().st_mtime_ns for part in parts}
    assert bench(tables, tmp_path) == 0
    assert {part: part.stat().st_mtime_ns for part in parts} == written

    before = pq.read_table(parts[3]).drop_columns("fit_s")
    parts[3].unlink()
    assert bench(tables, tmp_path) == 0
    assert {part for part in parts if part.stat().st_mtime_ns != written[part]} == {parts[3]}
    assert pq.read_table(parts[3]).drop_columns("fit_s").equals(before)


def test_values_are_those_of_fit_and_score(tables: Path, tmp_path: Path):
    """Each method's value is that of the router `fit` learns from the same log, by `score`."""
    spec = table_specs(["routerbench"])[0]
    encoded = encoded_table(spec, folder=tables, vectors=tmp_path / "vectors.sqlite")
    for propensity in ("logged", "estimated"):
        unit = Unit(seed=3, table=spec.name, logger="confounded", signal="pc", strength=1.0, propensity=propensity)
        rows = run_unit(unit, encoded, [*METHODS, *REFERENCES])
        simulated = draw(unit, encoded)
        lambdas = [trade_off.quality_per_usd for _, trade_off in trade_offs(encoded.table)]
        for method in METHODS:
            router = pm.fit(simulated.log, method=method, seed=unit.seed, propensity=propensity)
            true = pm.score(router, simulated.rest, quality_per_usd=lambdas).rows
            for name, key in (
                (method, "value"),
                ("oracle", "oracle_value"),
                ("best-single-hindsight", "best_single_value"),
            ):
                found = [row["value"] for row in rows if row["method"] == name]
                assert found == pytest.approx([row[key] for row in true], abs=1e-12)


def test_a_method_too_many_is_added_to_the_parts(tables: Path, tmp_path: Path):
    """A method asked for later is computed alone and stands beside the others."""
    assert bench(tables, tmp_path, "--signals", "--propensities", "logged", "--seeds", "1") == 0
    (part,) = (tmp_path / "parts").glob("*.parquet")
    first = pq.read_table(part).to_pylist()

    assert bench(tables, tmp_path, "--signals", "--propensities", "logged", "--seeds", "1", "--methods", "knn") == 0

    rows = pq.read_table(part).to_pylist()
    assert rows[: len(first)] == first
    assert {row["method"] for row in rows[len(first) :]} == {"knn"}


def test_rows_of_other_sources_count_only_where_reused(tables: Path, tmp_path: Path):
    """Changed sources make a unit run again; with reuse it is kept, but for the methods to redo."""
    assert bench(tables, tmp_path, "--signals", "--propensities", "logged", "--seeds", "1") == 0
    (path,) = (tmp_path / "parts").glob("*.parquet")
    table = pq.read_table(path)
    old = table.set_column(table.schema.get_field_index("sources"), "sources", pa.array(["old"] * len(table)))
    pq.write_table(old, path)

    assert Parts(folder=path.parent).unfinished(path, METHODS) == list(METHODS)
    assert Parts(folder=path.parent, reuse=True).unfinished(path, METHODS) == []
    assert Parts(folder=path.parent, reuse=True, redo=frozenset({"direct"})).unfinished(path, METHODS) == ["direct"]


def test_workers_agree_with_this_process(tables: Path, tmp_path: Path):
    """Two processes give the rows that one gives."""
    options = ("--signals", "--propensities", "logged")
    assert bench(tables, tmp_path / "one", *options) == 0
    assert bench(tables, tmp_path / "two", *options, "--jobs", "2") == 0

    one, two = (
        pq.read_table(tmp_path / name / "experiment.parquet").drop_columns("fit_s").to_pylist()
        for name in ("one", "two")
    )
    # One thread either way, but another start of BLAS may order a sum otherwise.
    assert [row["value"] for row in one] == pytest.approx([row["value"] for row in two], abs=1e-9)


def test_absent_tables_and_methods_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Where no table is, each is named, and the one inside the package paretobandit is taken."""
    assert experiment.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path), "--report-only"]) == 1

    said = capsys.readouterr().err
    assert "table routerbench is skipped" in said
    assert "the one inside the package paretobandit takes their place" in said


def test_intervals_are_those_of_textbooks():
    """The t-interval of 1, 2, 3, 4 and Holm's steps are known; a ratio of equals is one without doubt."""
    mean = Mean.of([1.0, 2.0, 3.0, 4.0])
    assert (mean.value, mean.half_width) == pytest.approx((2.5, 3.18245 * np.sqrt(5 / 3) / 2), rel=1e-5)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    share = ratio(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert (share.value, share.half_width) == (1.0, 0.0)
    assert np.isnan(Mean.of([1.0]).half_width)
