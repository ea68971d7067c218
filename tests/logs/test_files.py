"""Logs on disk: three formats, one content, one clear error for a bad file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman.errors import InvalidLogError
from pointsman.logs import LoggedRounds, read_log, read_table, replacing, write_log

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv")


def small_log() -> LoggedRounds:
    """Two rounds with every column of the format, and text that tries each format's syntax."""
    return LoggedRounds.from_columns(
        round_id=["001", "2"],
        prompt=['a "quoted", text\r\nof two lines', "  \u2028 \ufeff 猜\x00"],
        embedding=np.array([[0.1, -0.0], [1e-45, 3e38]], dtype=np.float32),
        model=["null", "b"],
        propensity=[0.1 + 0.2, None],
        quality=[5e-324, 1.0],
        cost_usd=[1e-17, None],
        quality_source=["gold", "judge"],
        latency_s=[1.0, None],
        tokens_in=[2**53, None],
        tokens_out=[0, 1],
        timestamp=["2026-01-02T03:04:05.678901Z", None],
        eligible_models=[["null", "b"], None],
        fallback=[False, True],
        session_id=["", None],
        router_version=["1.0", None],
        task=["1", "2"],
        n=[1, None],
        x=[1.0, 2.0],
        marks=[[1.5, None], []],
        empty=[None, None],
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_log_comes_back_bit_for_bit(tmp_path, suffix):
    """Every column, its type and every bit of every float survives; nothing else is left in the folder."""
    log = small_log()
    path = tmp_path / f"log{suffix}"
    write_log(log, path)
    back = read_log(path)

    assert back.table.schema == log.table.schema
    assert back.content_hash == log.content_hash
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
number = st.floats(0, allow_nan=False, allow_infinity=False)
extras = st.sampled_from(
    [
        st.none() | text,
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(),
        st.none() | st.booleans(),
        st.none() | st.sampled_from(["1", "2.5", "true", "null", '"x"', "[1]", "NaN", "-0"]),
        st.none() | st.lists(st.none() | text, max_size=2),
        st.none() | st.lists(st.none() | st.floats(allow_nan=False), max_size=2),
    ]
)


@st.composite
def logs(draw: st.DrawFn) -> LoggedRounds:
    """Any valid log of a few rounds."""
    n = draw(st.integers(1, 4))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    return LoggedRounds.from_columns(
        round_id=draw(st.lists(text.filter(bool), min_size=n, max_size=n, unique=True)),
        prompt=column(text),
        model=column(text.filter(bool)),
        propensity=column(st.none() | st.floats(0, 1, exclude_min=True)),
        quality=column(st.none() | st.floats(0, 1)),
        cost_usd=column(st.none() | number),
        quality_source=column(st.none() | text),
        tokens_in=column(st.none() | st.integers(0, 2**63 - 1)),
        timestamp=column(st.none() | st.datetimes()),
        fallback=column(st.none() | st.booleans()),
        session_id=column(st.none() | text),
        embedding=column(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2)),
        extra=column(draw(extras)),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs())
def test_any_log_comes_back_bit_for_bit(tmp_path, log):
    """The round trip is exact for every valid log, in every format."""
    for suffix in (".parquet", ".jsonl", ".csv"):
        write_log(log, tmp_path / f"log{suffix}")
        back = read_log(tmp_path / f"log{suffix}")
        assert back.table.schema == log.table.schema
        assert back.content_hash == log.content_hash


def test_a_log_longer_than_one_batch_comes_back(tmp_path):
    """Columns whose first 20,000 values look like another type keep theirs."""
    n = 20_001
    log = LoggedRounds.from_columns(
        round_id=np.arange(n),
        prompt=["p"] * n,
        model=["a"] * n,
        quality=[None] * (n - 1) + [0.5],
        eligible_models=[None] * (n - 1) + [["a", "b"]],
        score=[float(i) for i in range(n - 1)] + [0.5],
        note=[None] * (n - 1) + ["last"],
    )
    for suffix in SUFFIXES:
        write_log(log, tmp_path / f"log{suffix}")
        assert read_log(tmp_path / f"log{suffix}").content_hash == log.content_hash


HEADER = "round_id,prompt,model,propensity,quality\n"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"x", ["the suffix must be one of .parquet, .jsonl, .ndjson, .csv", "got '.txt'"]),
        ("a", b"x", ["the suffix must be one of", "got ''"]),
        ("a.csv", b"", ["the file is empty"]),
        ("a.jsonl", b"", ["the file is empty"]),
        ("a.jsonl", b"\n\n", ["the file is empty"]),
        ("a.parquet", b"", ["the file is empty"]),
        ("a.parquet", b"PAR1 no more than this PAR1", ["cannot be read as Parquet"]),
        ("a.csv", HEADER, ["a log must hold at least one round"]),
        ("a.csv", "\n\n", ["cannot be read as CSV"]),
        ("a.csv", HEADER + "1,x,m,0.5,1\n2,x,m,0.5\n", ["row 2: must have 5 cells", "got 4: '2,x,m,0.5'"]),
        ("a.csv", HEADER + '1,"x\ny",m,.5,1\n2,x,m,.5,1,\n', ["row 2: must have 5 cells", "got 6"]),
        ("a.csv", HEADER + '1,"x,m,0.5,1\n', ["every quotation mark must be closed"]),
        ("a.csv", HEADER.encode() + b"1,\xff,m,0.5,1\n", ["line 2: text must be UTF-8; got byte b'\\xff'"]),
        ("a.csv", HEADER + "1,x,m,0.5,1\n2,x,m,high,1\n", ["column 'propensity', row 2: must be a number; got 'high'"]),
        ("a.csv", HEADER + "1,x,m,0.5,1\n2,x,m,0.5,1.5\n", ["column 'quality', row 2: must be in [0, 1]", "got 1.5"]),
        (
            "a.csv",
            "round_id,prompt,model,quality,fallback\n1,x,m,1,maybe\n",
            ["row 1: must be true or false; got 'may"],
        ),
        (
            "a.csv",
            "round_id,prompt,model,quality,eligible_models\n1,x,m,1,m;n\n",
            ["column 'eligible_models', row 1: must be a JSON list; got 'm;n'"],
        ),
        (
            "a.csv",
            "round_id,prompt,model,quality,embedding\n1,x,m,1,[1]\n2,x,m,1,[[1]]\n",
            ["column 'embedding', row 2: must be a list of numbers; got [[1]]"],
        ),
        ("a.csv", "round_id,prompt,model,model,quality\n1,x,m,m,1\n", ["column names must be unique", "['model']"]),
        ("a.csv", ",round_id,prompt,model,quality\n0,1,x,m,1\n", ["every column must have a name"]),
        ("a.jsonl", '{"round_id": 1}\n\n{"round_id": \n', ["line 3: must be one JSON object", "got '{\"round_id\":'"]),
        ("a.jsonl", '{"round_id": 1}\n[1]\n', ["line 2: must be one JSON object; got '[1]'"]),
        ("a.jsonl", b'{"prompt": "\xff"}\n', ["line 1: text must be UTF-8; got byte b'\\xff'"]),
        (
            "a.jsonl",
            '{"quality": 1}\n{"quality": "good"}\n',
            ["column 'quality', row 2: must be a number", "got 'good'"],
        ),
        (
            "a.jsonl",
            '{"quality": "good"}\n{"quality": 1}\n',
            ["column 'quality', row 1: must be a number", "got 'good'"],
        ),
        (
            "a.jsonl",
            '{"task": "x"}\n{"task": 1}\n',
            ["column 'task', row 2: must be of one type with the values before it"],
        ),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "\\ud800"}\n', ["column 'prompt', row 2: must be text"]),
        ("a.jsonl", '{"n": 1}\n{"n": 99999999999999999999}\n', ["column 'n', row 2"]),
        ("a.jsonl", '{"prompt": "x"}\n', ["column 'round_id' is missing", "got columns ['prompt']"]),
        ("a.jsonl", "[" * 100_000, ["line 1: must be one JSON object"]),
    ],
)
def test_a_bad_file_gets_one_error_that_names_file_and_place(tmp_path, name, content, parts):
    """No traceback of a parser, no guess: the file, the place, the rule and the value."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidLogError) as broken:
        read_log(path)

    message = str(broken.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    """What is not there, or is no file, says so."""
    with pytest.raises(InvalidLogError, match="there is no such file"):
        read_log(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidLogError, match="must be a file; got a folder"):
        read_log(tmp_path / "folder.csv")
    with pytest.raises(InvalidLogError, match="must be a file; got a folder"):
        write_log(small_log(), tmp_path / "folder.csv")
    with pytest.raises(InvalidLogError, match=r"the folder '.*nowhere' does not exist"):
        write_log(small_log(), tmp_path / "nowhere" / "log.csv")
    with pytest.raises(InvalidLogError, match="the suffix must be one of"):
        write_log(small_log(), tmp_path / "log.xlsx")


def test_a_truncated_parquet_file_is_refused(tmp_path):
    """A log cut anywhere is not read as a shorter log."""
    log = small_log()
    write_log(log, tmp_path / "log.parquet")
    whole = (tmp_path / "log.parquet").read_bytes()
    for size in range(1, len(whole), 97):
        (tmp_path / "log.parquet").write_bytes(whole[:size])
        with pytest.raises(InvalidLogError, match="cannot be read as Parquet"):
            read_log(tmp_path / "log.parquet")


def test_a_parquet_file_with_a_broken_page_is_refused(tmp_path):
    """Damage inside a column is found when it is read, and named."""
    table = pa.table({"round_id": [str(i) for i in range(1000)]})
    pq.write_table(table, tmp_path / "log.parquet", compression="zstd", use_dictionary=False)
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    content[40:400] = bytes(360)
    (tmp_path / "log.parquet").write_bytes(content)
    with pytest.raises(InvalidLogError, match="cannot be read as Parquet"):
        read_log(tmp_path / "log.parquet")


def test_files_of_other_hands_are_read(tmp_path):
    """A byte-order mark, blank lines, Windows line ends, spaces, spelled-out nulls and true/false pass."""
    csv = "\ufeffround_id,prompt,model,propensity,quality,fallback\r\n007,,m, 0.5 ,NaN,True\r\n\r\n8,x,m,None,1,0\r\n"
    (tmp_path / "log.csv").write_text(csv.replace(",,", ',"",'), encoding="utf-8", newline="")
    log = read_log(tmp_path / "log.csv")
    assert log.round_id == ["007", "8"]
    assert log.prompt == ["", "x"]
    np.testing.assert_array_equal(log.propensity, [0.5, np.nan])
    np.testing.assert_array_equal(log.quality, [np.nan, 1.0])
    np.testing.assert_array_equal(log.fallback, [True, False])

    rows = [{"round_id": 1, "prompt": "x", "model": "m", "quality": 1}, {"round_id": 2, "prompt": "y", "model": "m"}]
    (tmp_path / "log.jsonl").write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    log = read_log(tmp_path / "log.jsonl")
    assert log.round_id == ["1", "2"]
    np.testing.assert_array_equal(log.quality, [1.0, np.nan])


def test_csv_cells_of_unnamed_columns_are_json_where_all_of_them_are(tmp_path):
    """Numbers stay numbers and labels stay labels, column by column."""
    (tmp_path / "t.csv").write_text('a,b,c,d,e\n1,x,0.5,"[1,2]",\n2,3,,,\n')
    assert read_table(tmp_path / "t.csv").to_pylist() == [
        {"a": 1, "b": "x", "c": 0.5, "d": [1, 2], "e": None},
        {"a": 2, "b": "3", "c": None, "d": None, "e": None},
    ]


def test_an_index_column_written_by_pandas_is_left_out(tmp_path):
    """Parquet's copy of a pandas index is no column of the log."""
    table = small_log().table.append_column("__index_level_0__", pa.array([5, 6]))
    pq.write_table(table, tmp_path / "log.parquet")
    assert read_log(tmp_path / "log.parquet").content_hash == small_log().content_hash


def fail_half_way(path: Path, failure: BaseException) -> None:
    """Write half a file, then fail."""
    with replacing(path) as file:
        file.write(b"half")
        raise failure


def test_an_exception_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    """A write that fails is as if it had never begun."""
    path = tmp_path / "log.csv"
    path.write_text("old")
    for failure, raised in (
        (RuntimeError("half way"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError("disk full"), InvalidLogError),
    ):
        with pytest.raises(raised):
            fail_half_way(path, failure)
        with pytest.raises(raised):
            fail_half_way(tmp_path / "new.csv", failure)

    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]


def test_a_process_killed_half_way_leaves_the_old_file(tmp_path):
    """After SIGKILL the name still holds the whole old file: a part never has it."""
    path = tmp_path / "log.csv"
    path.write_text("old")
    script = (
        "import os, signal, sys\n"
        "from pointsman.logs import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False, cwd=root)  # noqa: S603

    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert not [entry for entry in tmp_path.iterdir() if entry.name != "log.csv" and not entry.name.endswith(".part")]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    """The temporary file's mode is not what readers are left with."""
    (tmp_path / "plain").write_text("x")
    write_log(small_log(), tmp_path / "log.csv")
    assert (tmp_path / "log.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode
