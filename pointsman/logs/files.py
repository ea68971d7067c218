"""Logs on disk: Parquet, JSON lines and CSV, read with one clear error and written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pointsman.errors import InvalidLogError
from pointsman.logs.columns import COUNT, FLAG, FLOAT, LOG_COLUMNS, TEXT, TEXTS, TIMESTAMP, VECTOR, invalid
from pointsman.logs.rounds import LoggedRounds

FilePath: TypeAlias = str | os.PathLike[str]

_FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_ROWS_AT_A_TIME = 20_000
_LARGEST_ROW_BYTES = 1 << 28
_UNKNOWN_NUMBERS = pa.array(["", "nan", "NaN", "NA", "null", "None"], TEXT)
_KINDS = {
    TEXT: "text",
    FLOAT: "a number",
    FLAG: "true or false",
    TEXTS: "a list of text",
    VECTOR: "a list of numbers",
}

# How a cell may be spelled: a count also as 12.0.
_CELL_TYPES = {FLOAT: (FLOAT,), COUNT: (COUNT, FLOAT), FLAG: (FLAG,)}


def read_log(path: FilePath) -> LoggedRounds:
    """Return the log in a .parquet, .jsonl, .ndjson or .csv file, validated.

    In CSV, `eligible_models` and `embedding` are JSON lists in a cell, and an empty cell is null.

    Raises:
        InvalidLogError: The file cannot be read or breaks the log format; the message names the file and the place.
    """
    return LoggedRounds.from_table(read_table(path, types=LOG_COLUMNS), source=os.fspath(path))


def write_log(rounds: LoggedRounds, path: FilePath) -> None:
    """Write a log in the format its suffix names, whole or not at all; `read_log` returns it bit for bit.

    Raises:
        InvalidLogError: The suffix names no format, or the folder does not exist.
    """
    write_table(rounds.table, path, types=LOG_COLUMNS)


def read_table(path: FilePath, *, types: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """Return the table in a .parquet, .jsonl, .ndjson or .csv file, its columns not yet validated.

    Args:
        path: The file.
        types: Types of the columns that have a fixed one. CSV needs them, since its cells are all text: a column not
            named here is read as JSON where every cell of it is JSON, and as text where not.

    Raises:
        InvalidLogError: The file is missing, a folder, empty, of an unknown format, or cannot be parsed; the message
            names the file and the place.
    """
    source = Path(path)
    kind = _format(source)
    if not source.exists():
        raise InvalidLogError(f"{path}: there is no such file; check the path")
    if not source.is_file():
        raise InvalidLogError(f"{path}: must be a file; got a folder or a device; name one file")
    if source.stat().st_size == 0:
        raise InvalidLogError(f"{path}: the file is empty; write at least one row")
    try:
        if kind == "parquet":
            return _read_parquet(source)
        if kind == "jsonl":
            return _read_jsonl(source)
        return _read_csv(source, types or {})
    except OSError as unreadable:
        raise InvalidLogError(f"{path}: cannot be read: {unreadable}; check its permissions and its disk") from None


def write_table(table: pa.Table, path: FilePath, *, types: Mapping[str, pa.DataType] | None = None) -> None:
    """Write a table of the log's column types in the format its suffix names, whole or not at all.

    Args:
        table: Columns of the types that `columns.typed` and `columns.plain` return.
        path: The file.
        types: The types that `read_table` will be given.

    Raises:
        InvalidLogError: The suffix names no format, or the folder does not exist.
    """
    kind = _format(Path(path))
    with replacing(path) as file:
        if kind == "parquet":
            _write_parquet(table, file)
        elif kind == "jsonl":
            _write_jsonl(table, file)
        else:
            _write_csv(table, file, types or {})


@contextmanager
def replacing(path: FilePath) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once the block has ended well; after an error nothing has changed.

    What is written goes to a hidden file beside it first, so that a reader, or a crash half way, sees the old file or
    the new one and never a part.

    Raises:
        InvalidLogError: The folder does not exist, `path` is one, or the disk refuses.
    """
    target = Path(path)
    if target.is_dir():
        raise InvalidLogError(f"{path}: must be a file; got a folder; name the file to write")
    if not target.parent.is_dir():
        raise InvalidLogError(f"{path}: the folder {str(target.parent)!r} does not exist; make it first")
    part = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as refused:
        raise InvalidLogError(f"{path}: cannot be written: {refused}; check its permissions and its disk") from None
    finally:
        part.unlink(missing_ok=True)


def _format(path: Path) -> str:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise InvalidLogError(
            f"{path}: the suffix must be one of {', '.join(_FORMATS)}; got {path.suffix!r}; rename or convert the file"
        ) from None


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as corrupt:
        raise InvalidLogError(f"{path}: cannot be read as Parquet: {_one_line(corrupt)}; write it anew") from None
    kept = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]
    return table.select(kept).replace_schema_metadata(None) if len(set(kept)) == len(kept) else table


def _write_parquet(table: pa.Table, file: BinaryIO) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file, compression="zstd", row_group_size=1 << 17)


def _read_jsonl(path: Path) -> pa.Table:
    tables: list[pa.Table] = []
    n_rows = 0
    with path.open("rb") as file:
        lines = _json_lines(file, path)
        while rows := list(islice(lines, _ROWS_AT_A_TIME)):
            names = dict.fromkeys(name for row in rows for name in row)
            columns = {
                name: _array([row.get(name) for row in rows], path=path, name=name, first_row=n_rows) for name in names
            }
            tables.append(pa.table(columns))
            n_rows += len(rows)
    if not tables:
        raise InvalidLogError(f"{path}: the file is empty; write at least one row")
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as mixed:
        raise InvalidLogError(f"{path}: a column must hold one kind of value: {_one_line(mixed)}; split it") from None


def _json_lines(file: BinaryIO, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as broken:
            raise _not_utf8(path, number, line[broken.start : broken.start + 1]) from None
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as broken:
            raise InvalidLogError(
                f"{path}: line {number}: must be one JSON object; {_one_line(broken)}; got {_shown(text)}; correct it"
            ) from None
        if not isinstance(row, dict):
            raise InvalidLogError(
                f"{path}: line {number}: must be one JSON object; got {_shown(text)}; write one object a line"
            )
        yield row


def _array(values: list[Any], *, path: Path, name: str, first_row: int) -> pa.Array:
    named = LOG_COLUMNS.get(name)
    dtype = {TIMESTAMP: TEXT, COUNT: FLOAT}.get(named, named)
    for wanted in (None, dtype):
        array = _try_array(values, wanted)
        if array is not None:
            return array
    row = _first_misfit(len(values), lambda n_rows: _try_array(values[:n_rows], dtype) is not None)
    raise invalid(
        source=str(path),
        column=name,
        row=first_row + row,
        rule=f"must be {_KINDS[dtype]}" if dtype else "must be of one type with the values before it",
        got=values[row],
        advice="write values of one type in a column (Unicode text, whole numbers below 2^63), or null",
    )


def _try_array(values: list[Any], dtype: pa.DataType | None) -> pa.Array | None:
    try:
        return pa.array(values, dtype)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _write_jsonl(table: pa.Table, file: BinaryIO) -> None:
    for batch in _for_text(table).to_batches(max_chunksize=_ROWS_AT_A_TIME):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
        file.write("".join(lines).encode())


def _read_csv(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    import pyarrow.csv as pv

    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as broken:
        line = content.count(b"\n", 0, broken.start) + 1
        raise _not_utf8(path, line, content[broken.start : broken.start + 1]) from None
    if content.count(b'"') % 2:
        raise InvalidLogError(
            f"{path}: every quotation mark must be closed; got an odd number of them; "
            'the file is cut short, or a mark inside a cell is not doubled ("")'
        )
    ragged: list[Any] = []

    def stop(row: Any) -> str:
        ragged.append(row)
        return "error"

    lines = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))
    header = next((cells for cells in lines if cells), [])
    # Rows are numbered only on one thread, and a cell may hold a whole document with its line breaks.
    reading = pv.ReadOptions(use_threads=False, block_size=min(len(content) + 1, _LARGEST_ROW_BYTES))
    parsing = pv.ParseOptions(newlines_in_values=True, invalid_row_handler=stop)
    try:
        converting = pv.ConvertOptions(
            column_types=dict.fromkeys(header, TEXT),
            strings_can_be_null=True,
            null_values=[""],
            quoted_strings_can_be_null=False,
        )
        table = pv.read_csv(
            io.BytesIO(content), read_options=reading, parse_options=parsing, convert_options=converting
        )
    except pa.ArrowException as broken:
        if ragged:
            row = ragged[0]
            raise InvalidLogError(
                f"{path}: row {row.number - 1}: must have {row.expected_columns} cells, as the header has; "
                f"got {row.actual_columns}: {_shown(row.text)}; quote cells that hold commas"
            ) from None
        raise InvalidLogError(f"{path}: cannot be read as CSV: {_one_line(broken)}; correct it") from None
    return pa.table(
        [
            _from_cells(column, path=path, name=name, dtype=types.get(name))
            for name, column in zip(table.column_names, table.columns, strict=True)
        ],
        names=table.column_names,
    )


def _from_cells(cells: pa.ChunkedArray, *, path: Path, name: str, dtype: pa.DataType | None) -> pa.Array:
    """Return the column that CSV cells spell: text and times as they are, the rest parsed."""
    cells = cells.combine_chunks()
    if dtype is None:
        values = _from_json(cells.to_pylist())
        return cells if values is None else values
    if dtype in (TEXT, TIMESTAMP):
        return cells
    if dtype in (FLOAT, COUNT, FLAG):
        trimmed = pc.utf8_trim_whitespace(cells)
        known = pc.if_else(pc.is_in(trimmed, _UNKNOWN_NUMBERS), None, trimmed)
        return _parsed(known, _CELL_TYPES[dtype], path=path, name=name)
    values = []
    for row, cell in enumerate(cells.to_pylist()):
        try:
            value = None if cell is None else json.loads(cell)
        except (ValueError, RecursionError):
            value = cell
        if value is not None and not isinstance(value, list):
            raise invalid(
                source=str(path),
                column=name,
                row=row,
                rule="must be a JSON list",
                got=cell,
                advice='write it as in ["a", "b"] or [0.1, 0.2]',
            )
        values.append(value)
    return _array(values, path=path, name=name, first_row=0)


def _parsed(cells: pa.Array, dtypes: Sequence[pa.DataType], *, path: Path, name: str) -> pa.Array:
    for dtype in dtypes:
        array = _try_cast(cells, dtype)
        if array is not None:
            return array
    row = _first_misfit(len(cells), lambda n_rows: _try_cast(cells.slice(0, n_rows), dtypes[-1]) is not None)
    raise invalid(
        source=str(path),
        column=name,
        row=row,
        rule=f"must be {_KINDS[dtypes[-1]]}",
        got=cells[row].as_py(),
        advice="correct the cell, or leave it empty where it is not known",
    )


def _try_cast(cells: pa.Array, dtype: pa.DataType) -> pa.Array | None:
    try:
        return cells.cast(dtype)
    except pa.ArrowInvalid:
        return None


def _first_misfit(n_rows: int, fits: Callable[[int], bool]) -> int:
    """Return the first row that does not go with those before it, given whether the first so many rows do."""
    low, high = 0, n_rows - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(middle + 1) else (low, middle)
    return low


def _from_json(cells: list[str | None]) -> pa.Array | None:
    """Return the values of cells that are all JSON and of one type; None where they are just text."""
    try:
        values = [None if cell is None else json.loads(cell) for cell in cells]
    except (ValueError, RecursionError):
        return None
    return _try_array(values, None)


def _write_csv(table: pa.Table, file: BinaryIO, types: Mapping[str, pa.DataType]) -> None:
    import pyarrow.csv as pv

    columns = {name: _to_cells(table[name], dtype=types.get(name)) for name in table.column_names}
    pv.write_csv(pa.table(columns), file)


def _to_cells(column: pa.ChunkedArray, *, dtype: pa.DataType | None) -> pa.ChunkedArray | pa.Array:
    """Return the column as CSV may hold it, so that `_from_cells` gives it back."""
    if dtype in (TEXT, FLOAT, COUNT, FLAG):
        return column
    if dtype == TIMESTAMP:
        return _iso_text(column)
    values = column.to_pylist()
    if column.type == TEXT and _from_json(values) is None:
        return column
    return pa.array([None if value is None else json.dumps(value, ensure_ascii=False) for value in values], TEXT)


def _for_text(table: pa.Table) -> pa.Table:
    """Return the table with its time stamps as ISO 8601 text."""
    for place, field in enumerate(table.schema):
        if field.type == TIMESTAMP:
            table = table.set_column(place, field.name, _iso_text(table[place]))
    return table


def _iso_text(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if moment is None else moment.isoformat() for moment in column.to_pylist()], TEXT)


def _not_utf8(path: Path, line: int, byte: bytes) -> InvalidLogError:
    return InvalidLogError(f"{path}: line {line}: text must be UTF-8; got byte {byte!r}; write the file in UTF-8")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
