"""Full feedback: a long table becomes a matrix without a gap, or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs import FullFeedback, read_full_feedback, write_full_feedback, write_table
from pointsman.logs.full_feedback import pivot


def long_table(**changed: Any) -> pa.Table:
    """Two prompts, two models; a column given as None is left out."""
    columns = {
        "query_id": ["q2", "q1", "q2", "q1"],
        "prompt": ["two", "one", "two", "one"],
        "model": ["b", "b", "a", "a"],
        "quality": [0.0, 0.25, 0.5, 1.0],
        "cost_usd": [1e-3, 2e-3, 3e-3, 4e-3],
        "task": ["code", "maths", "code", "maths"],
        "shots": [5, 0, 5, 0],
        "price_in": [0.1, 0.1, 0.9, 0.9],
    } | changed
    return pa.table({name: values for name, values in columns.items() if values is not None})


def test_rows_become_a_matrix_by_prompt_and_arm():
    """Prompts stand in order of first appearance, arms sorted; what varies within a prompt is left out of extra."""
    table = pivot(long_table())

    assert table.query_id == ("q2", "q1")
    assert table.prompt == ("two", "one")
    assert table.arms.names == ("a", "b")
    np.testing.assert_array_equal(table.quality, [[0.5, 0.0], [1.0, 0.25]])
    np.testing.assert_array_equal(table.cost_usd, [[3e-3, 1e-3], [4e-3, 2e-3]])
    assert table.extra.to_pydict() == {"task": ["code", "maths"], "shots": [5, 0]}
    assert (table.quality_source, table.n_dropped, len(table)) == ("gold", 0, 2)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("cost_usd", [[1e-3, 2e-3, 0.1 + 0.2, 5e-324], None, [None] * 4])
@pytest.mark.parametrize("ids", [["q2", "q1", "q2", "q1"], ["02", "1", "02", "1"]])
def test_a_table_comes_back_bit_for_bit(tmp_path, suffix, cost_usd, ids):
    """What is written is what is read: arrays, labels, and the judge's name."""
    table = pivot(
        long_table(query_id=ids, cost_usd=cost_usd, quality=None, judge=[0.0, 0.1, 0.3, 1.0]), quality_column="judge"
    )
    path = tmp_path / f"table{suffix}"
    write_full_feedback(table, path)
    back = read_full_feedback(path)

    assert (back.query_id, back.prompt, back.arms) == (table.query_id, table.prompt, table.arms)
    assert back.quality_source == "judge"
    assert back.quality.tobytes() == table.quality.tobytes()
    assert (back.cost_usd is None) == (cost_usd is None or cost_usd[0] is None)
    if table.cost_usd is not None and back.cost_usd is not None:
        assert back.cost_usd.tobytes() == table.cost_usd.tobytes()
    assert back.extra.equals(table.extra)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_prompts_with_a_missing_cell_are_dropped_and_counted():
    """A null, a NaN, an absent row or an unknown cost each drop that prompt and no other."""
    assert pivot(long_table(quality=[None, 0.25, 0.5, 1.0])).query_id == ("q1",)
    assert pivot(long_table(quality=[0.0, np.nan, 0.5, 1.0])).query_id == ("q2",)
    assert pivot(long_table(cost_usd=[1.0, 1.0, None, 1.0])).query_id == ("q1",)
    without_a_row = pivot(long_table().slice(1))
    assert without_a_row.query_id == ("q1",)
    assert without_a_row.n_dropped == 1
    np.testing.assert_array_equal(without_a_row.quality, [[1.0, 0.25]])


def test_where_nothing_is_complete_the_error_names_the_models_to_leave_out():
    """The models with most missing cells come first, with counts; choosing models mends it."""
    table = long_table(quality=[None, None, 0.5, 1.0])
    with pytest.raises(InvalidLogError, match=r"most missing: b 2; choose `models` without these"):
        pivot(table)
    assert pivot(table, models=["a"]).quality.tolist() == [[0.5], [1.0]]


def test_where_keeps_matching_rows():
    """Text, numbers and truth values are compared as what they are."""
    table = long_table(flag=[True, False, True, False])
    for where in ({"task": "code"}, {"shots": "5"}, {"shots": "5.0"}, {"flag": "true"}, {"task": "code", "shots": "5"}):
        assert pivot(table, where=where).query_id == ("q2",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"where": {"shot": "5"}}, "where must name one of the columns"),
        ({"where": {"shots": "3"}}, r"'shots' is one of \[5, 0\]; got '3'"),
        ({"where": {"shots": "five"}}, "got 'five'"),
        ({"models": ["a", "c"]}, r"models must be among \['a', 'b'\], at least one; got \['c'\]"),
        ({"models": []}, "at least one"),
        ({"cost_column": "price"}, "cost_column must be one of"),
    ],
)
def test_what_the_table_has_not_cannot_be_asked_for(asked, message):
    """A name or value that matches nothing is an error, with what there is."""
    with pytest.raises(InvalidParameterError, match=message):
        pivot(long_table(), **asked)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query_id": None}, "column 'query_id' is missing"),
        ({"model": ["b", "b", "b", "a"]}, "column 'query_id', row 3: must have one row a model; model 'b'.*got 'q2'"),
        ({"prompt": ["two", "one", "due", "one"]}, r"column 'prompt', row 3: .*\(row 1 has another\); got 'due'"),
        ({"prompt": ["two", "one", None, "one"]}, "column 'prompt', row 3: must not be null"),
        ({"quality": [0.0, 0.25, 0.5, 85.0]}, r"column 'quality', row 4: must be in \[0, 1\]; got 85.0"),
        ({"quality": ["a", "b", "c", "d"]}, "column 'quality', row 1: must be a number; got 'a'"),
        ({"cost_usd": [0.0, -1.0, 0.5, 1.0]}, "column 'cost_usd', row 2: must be finite and not negative; got -1.0"),
        ({"cost_usd": [0.0, np.inf, 0.5, 1.0]}, "column 'cost_usd', row 2"),
        ({"quality_source": ["gold", "judge", "gold", "gold"]}, r"must name one source; got \['gold', 'judge'\]"),
        ({"quality": None, "judge": [0.0, 0.1, 0.2, 1.0]}, r"'quality' is missing; .*\['price_in', 'judge'\]"),
    ],
)
def test_a_bad_table_gets_one_error_that_names_the_place(changed, message):
    """Source, column, row as in the file, rule and value."""
    with pytest.raises(InvalidLogError, match=r"^t\.csv: .*" + message):
        pivot(long_table(**changed), source="t.csv")


def test_rows_are_numbered_as_in_the_file_after_where():
    """A filter does not shift the rows that errors name."""
    with pytest.raises(InvalidLogError, match="row 4"):
        pivot(long_table(quality=[9.0, 0.25, 9.0, 9.0]), where={"task": "maths"})


def test_take_keeps_arms_and_extra():
    """A part of a table is a table; indices that make none are refused."""
    table = pivot(long_table())
    part = table.take([1])
    assert (part.query_id, part.prompt, part.extra["task"].to_pylist()) == (("q1",), ("one",), ["maths"])
    np.testing.assert_array_equal(part.cost_usd, table.cost_usd[1:])
    for indices in ([], [2], [-1], [0, 0], [0.5]):
        with pytest.raises(InvalidParameterError, match="indices must be unique integers"):
            table.take(indices)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quality": np.zeros((2, 3))}, r"quality must have shape \(2, 2\)"),
        ({"quality": np.full((2, 2), np.nan)}, r"quality must be in \[0, 1\]; got nan for query_id 'q2'"),
        ({"cost_usd": np.array([[0.0, 0.0], [-1.0, 0.0]])}, "cost_usd must be finite .* query_id 'q1'"),
        ({"query_id": ("q", "q")}, "query_id must be unique"),
        ({"prompt": ("one",)}, "must be of one length"),
        ({"query_id": ()}, "at least one prompt"),
    ],
)
def test_a_table_built_by_hand_is_checked(changed, message):
    """The constructor keeps the promise of the class."""
    table = pivot(long_table())
    fields = {name: getattr(table, name) for name in ("query_id", "prompt", "arms", "quality", "cost_usd", "extra")}
    with pytest.raises(InvalidLogError, match=message):
        FullFeedback(**(fields | changed))


def test_csv_tables_take_types_from_the_named_columns(tmp_path):
    """A judge's column is a number, an identifier stays text, whatever they look like."""
    table = long_table(query_id=["002", "1", "002", "1"], quality=None, judge=[0.0, 0.1, 0.2, 1.0])
    write_table(table, tmp_path / "t.csv", types=dict.fromkeys(["query_id"], pa.large_string()))
    read = read_full_feedback(tmp_path / "t.csv", quality_column="judge", cost_column="price_in")
    assert read.query_id == ("002", "1")
    np.testing.assert_array_equal(read.cost_usd, [[0.9, 0.1], [0.9, 0.1]])


@pytest.mark.data
def test_routerbench_is_read(shared_data):
    """Five-shot prompts of eleven models, those with a missing quality dropped; costs are real."""
    table = read_full_feedback(shared_data / "routerbench_subset.parquet", where={"shots": "5"})
    assert (len(table) + table.n_dropped, len(table.arms)) == (3164, 11)
    assert 0 < table.n_dropped <= 104
    assert table.cost_usd is not None
    assert {"task", "shots"} <= set(table.extra.column_names)


@pytest.mark.data
def test_paretobandit_is_read_by_its_judge(shared_data):
    """Without gold labels the judge is asked for by name; 3 models answer all prompts, 4 answer 3,559."""
    path = shared_data / "paretobandit.parquet"
    with pytest.raises(
        InvalidLogError, match=r"\['judge_deepseek_r1', 'judge_gpt_4_1_mini', 'judge_claude_3_7_sonnet'"
    ):
        read_full_feedback(path)
    table = read_full_feedback(path, quality_column="judge_deepseek_r1")
    assert (len(table), table.n_dropped, table.quality_source) == (3559, 1463, "judge_deepseek_r1")
    three = [name for name in table.arms.names if name != "google/gemini-2.5-flash"]
    assert len(read_full_feedback(path, quality_column="judge_deepseek_r1", models=three)) == 5022


@pytest.mark.data
def test_llmrouter_is_read_without_cost(shared_data):
    """A table without a cost column has none, rather than zero."""
    table = read_full_feedback(shared_data / "llmrouter.parquet")
    assert (len(table), len(table.arms), table.cost_usd) == (6108, 9, None)
