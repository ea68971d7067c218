"""Columns of a log: their types, and how a column of a neighbouring type becomes one of these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError

# Large types: a million prompts pass the 2 GiB that 32-bit offsets can address.
TEXT = pa.large_string()
FLOAT = pa.float64()
COUNT = pa.int64()
FLAG = pa.bool_()
TIMESTAMP = pa.timestamp("us", tz="UTC")
TEXTS = pa.large_list(TEXT)
VECTOR = pa.large_list(pa.float32())

LOG_COLUMNS: Mapping[str, pa.DataType] = {
    "round_id": TEXT,
    "prompt": TEXT,
    "embedding": VECTOR,
    "model": TEXT,
    "propensity": FLOAT,
    "quality": FLOAT,
    "cost_usd": FLOAT,
    "quality_source": TEXT,
    "latency_s": FLOAT,
    "tokens_in": COUNT,
    "tokens_out": COUNT,
    "timestamp": TIMESTAMP,
    "eligible_models": TEXTS,
    "fallback": FLAG,
    "session_id": TEXT,
    "router_version": TEXT,
}
"""The log format: every column it names, in order, with its type."""

FULL_FEEDBACK_COLUMNS: Mapping[str, pa.DataType] = {
    "query_id": TEXT,
    "prompt": TEXT,
    "model": TEXT,
    "quality": FLOAT,
    "cost_usd": FLOAT,
    "quality_source": TEXT,
}
"""The columns of a full-feedback table that have a fixed type."""

LABEL_COLUMNS: Mapping[str, pa.DataType] = {
    "round_id": TEXT,
    "quality": FLOAT,
    "quality_source": TEXT,
    "gold_propensity": FLOAT,
}
"""The columns of a table of labels that have a fixed type."""

PREFERENCE_COLUMNS: Mapping[str, pa.DataType] = {
    "pair_id": TEXT,
    "prompt": TEXT,
    "model_a": TEXT,
    "model_b": TEXT,
    "response_a": TEXT,
    "response_b": TEXT,
    "preference": FLOAT,
    "source": TEXT,
    "n_votes": COUNT,
}
"""The columns of a table of preferences that have a fixed type."""

_RULES: Mapping[pa.DataType, str] = {
    TEXT: "must be text",
    FLOAT: "must be a number",
    COUNT: "must be a whole number",
    FLAG: "must be true or false",
    TIMESTAMP: "must be a timestamp (ISO 8601 where it is text)",
    TEXTS: "must be a list of text",
    VECTOR: "must be a list of numbers",
}


def invalid(*, source: str, column: str, row: int, rule: str, got: object, advice: str) -> InvalidLogError:
    """Return the one error a bad cell gets.

    Args:
        source: The file, or what stands for it.
        column: The column's name.
        row: Place of the cell, counted from 0; the message counts data rows from 1.
        rule: What the cell must be.
        got: The cell's value.
        advice: What to do about it.
    """
    shown = repr(got)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    value = "null" if got is None else shown
    return InvalidLogError(f"{source}: column {column!r}, row {row + 1}: {rule}; got {value}; {advice}")


def check_names(table: pa.Table, *, source: str) -> None:
    """Raise InvalidLogError unless every column has a name of its own."""
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidLogError(f"{source}: column names must be unique; got {repeated} more than once; rename one")
    if "" in names:
        raise InvalidLogError(
            f"{source}: every column must have a name; column {names.index('') + 1} has none; name or drop it"
        )


def check_present(table: pa.Table, required: Mapping[str, str], *, source: str) -> None:
    """Raise InvalidLogError unless the table has every required column, each given with what it means."""
    for name, meaning in required.items():
        if name not in table.column_names:
            raise InvalidLogError(
                f"{source}: column {name!r} is missing ({meaning}); got columns {table.column_names}; add or rename one"
            )


def check_cells(column: pa.Array, valid: pa.Array, *, name: str, source: str, rule: str, advice: str) -> None:
    """Raise InvalidLogError at the first row where `valid` is false; a null is valid."""
    broken = pc.fill_null(pc.invert(valid), False)
    if pc.any(broken).as_py():
        row = int(np.argmax(broken))
        raise invalid(source=source, column=name, row=row, rule=rule, got=column[row].as_py(), advice=advice)


def check_filled(column: pa.Array, *, name: str, source: str, advice: str) -> None:
    """Raise InvalidLogError where a text is null or empty."""
    filled = pc.fill_null(pc.not_equal(column, ""), False)
    check_cells(column, filled, name=name, source=source, rule="must not be null or empty", advice=advice)


def check_unit(column: pa.Array, *, name: str, source: str, advice: str) -> None:
    """Raise InvalidLogError where a number is null or outside [0, 1]."""
    inside = pc.fill_null(pc.and_(pc.greater_equal(column, 0.0), pc.less_equal(column, 1.0)), False)
    check_cells(column, inside, name=name, source=source, rule="must be in [0, 1]", advice=advice)


def normalised(
    table: pa.Table, types: Mapping[str, pa.DataType], *, required: Mapping[str, str], source: str
) -> pa.Table:
    """Return the table with a format's columns first, in its order and types, then the others as `plain` makes them.

    Args:
        table: The table as read.
        types: The format's columns; those the table lacks are left out.
        required: Those it must have, each with what it means.
        source: What errors call the table.

    Raises:
        InvalidLogError: A required column is missing, there is no row, or a cell cannot be read as its type.
    """
    check_names(table, source=source)
    check_present(table, required, source=source)
    if table.num_rows == 0:
        raise InvalidLogError(f"{source}: a table must hold at least one row; got none; add some first")
    names = table.column_names
    columns = {
        name: typed(table[name], name=name, dtype=dtype, source=source)
        for name, dtype in types.items()
        if name in names
    }
    columns |= {name: plain(table[name], name=name, source=source) for name in names if name not in types}
    return pa.table(columns)


def as_table(columns: Mapping[str, object], *, source: str) -> pa.Table:
    """Return columns given as lists or arrays as a table.

    Raises:
        InvalidLogError: A column holds values of several types, or the columns differ in length.
    """
    arrays = {name: as_array(values, name=name, source=source) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidLogError(f"{source}: columns must be of one length; got {lengths}")
    return pa.table(arrays)


def as_array(values: Any, *, name: str, source: str) -> pa.Array | pa.ChunkedArray:
    """Return a column given as a list or an array; the rows of a matrix become lists.

    Raises:
        InvalidLogError: The values are of several types.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as mixed:
        raise InvalidLogError(f"{source}: column {name!r} must hold values of one type; {mixed}") from None


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, no longer writeable."""
    array.flags.writeable = False
    return array


def typed(column: pa.ChunkedArray, *, name: str, dtype: pa.DataType, source: str) -> pa.Array:
    """Return the column in one of the log's types, in one chunk, with NaN as null.

    Accepted besides the type itself: whole numbers as identifiers, any numeric type as a number, true and false as a
    quality or preference of 1 and 0, ISO 8601 text and naive time stamps (taken as UTC) as time stamps,
    dictionary-encoded columns.

    Raises:
        InvalidLogError: A cell cannot be read as that type.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    given = column.type
    if column.null_count == len(column):
        return pa.nulls(len(column), dtype)
    if not _accepts(dtype, given, name=name):
        row = int(np.argmax(pc.is_valid(column).to_numpy()))
        raise _wrong_type(column, row, name=name, dtype=dtype, source=source)
    if dtype.equals(TEXT):
        return _text(column, name=name, source=source)
    if dtype.equals(TIMESTAMP):
        return _timestamp(column, name=name, source=source)
    if dtype.equals(FLOAT):
        return _without_nan(one_chunk(column.cast(FLOAT, safe=False)))
    if dtype.equals(COUNT):
        return _count(column, name=name, source=source)
    if dtype.equals(VECTOR):
        return one_chunk(column.cast(VECTOR, safe=False))
    return one_chunk(column.cast(dtype))


def plain(column: pa.ChunkedArray, *, name: str, source: str) -> pa.Array:
    """Return a column the format does not name as text, whole numbers, numbers, true/false, or a list of one of these.

    These types mean the same in Parquet, JSON lines and CSV, so that a column survives each. Dates and times become
    ISO 8601 text, anything nested deeper becomes JSON text, NaN becomes null and a column without values becomes text.

    Raises:
        InvalidLogError: The column holds something that has no such form.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    given = column.type
    if column.null_count == len(column):
        return pa.nulls(len(column), TEXT)
    if _is_text(given):
        return _text(column, name=name, source=source)
    if pa.types.is_boolean(given):
        return one_chunk(column)
    if pa.types.is_integer(given):
        try:
            return one_chunk(column.cast(COUNT))
        except pa.ArrowInvalid:  # past 2^63: an identifier, whose digits must not be rounded
            return one_chunk(column.cast(TEXT))
    if _is_number(given):
        numbers = _without_nan(one_chunk(column.cast(FLOAT, safe=False)))
        return numbers if numbers.null_count < len(numbers) else pa.nulls(len(numbers), TEXT)
    if _is_list(given):
        lists = one_chunk(column.cast(pa.large_list(given.value_type)))
        values = plain(pa.chunked_array([pc.list_flatten(lists)]), name=name, source=source)
        if not _is_list(values.type):
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
            offsets = pa.array(np.append(0, lengths.cumsum()), pa.int64())
            return pa.LargeListArray.from_arrays(offsets, values, mask=lists.is_null())
    try:
        return pa.array([_as_text(value) for value in column.to_pylist()], TEXT)
    except TypeError:
        raise InvalidLogError(
            f"{source}: column {name!r} must hold text, numbers, true/false, times or lists; got {given}; drop it"
        ) from None


def _accepts(dtype: pa.DataType, given: pa.DataType, *, name: str) -> bool:
    if dtype.equals(TEXT):
        return _is_text(given) or (name.endswith(("_id", "_version")) and pa.types.is_integer(given))
    if dtype.equals(FLOAT):
        return _is_number(given) or (name in ("quality", "preference") and pa.types.is_boolean(given))
    if dtype.equals(COUNT):
        return _is_number(given)
    if dtype.equals(TIMESTAMP):
        return pa.types.is_timestamp(given) or _is_text(given)
    if dtype.equals(TEXTS):
        return _is_list(given) and (_is_text(given.value_type) or pa.types.is_null(given.value_type))
    if dtype.equals(VECTOR):
        return _is_list(given) and (_is_number(given.value_type) or pa.types.is_null(given.value_type))
    return bool(pa.types.is_boolean(given))


def _is_text(given: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(given)
        or pa.types.is_large_string(given)
        or pa.types.is_string_view(given)
        or pa.types.is_binary(given)
        or pa.types.is_large_binary(given)
    )


def _is_number(given: pa.DataType) -> bool:
    return bool(pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given))


def _is_list(given: pa.DataType) -> bool:
    return bool(pa.types.is_list(given) or pa.types.is_large_list(given) or pa.types.is_fixed_size_list(given))


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return the column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _wrong_type(column: pa.ChunkedArray, row: int, *, name: str, dtype: pa.DataType, source: str) -> InvalidLogError:
    return invalid(
        source=source,
        column=name,
        row=row,
        rule=_RULES[dtype],
        got=column[row].as_py(),
        advice=f"the column is of type {column.type}; write it as {dtype}, null where it is not known",
    )


def _without_nan(array: pa.Array) -> pa.Array:
    nan = pc.is_nan(array)
    return pc.if_else(nan, None, array) if pc.any(nan).as_py() else array


def _text(column: pa.ChunkedArray, *, name: str, source: str) -> pa.Array:
    # Files are read without a check of their text, and a cast from text to text makes none.
    binary = column.cast(pa.large_binary()) if not pa.types.is_integer(column.type) else column
    try:
        return one_chunk(binary.cast(TEXT))
    except pa.ArrowInvalid:
        for row, value in enumerate(binary.to_pylist()):
            if value is not None and value != value.decode(errors="ignore").encode():
                raise invalid(
                    source=source,
                    column=name,
                    row=row,
                    rule="text must be UTF-8",
                    got=value,
                    advice="write the file in UTF-8",
                ) from None
        raise


def _timestamp(column: pa.ChunkedArray, *, name: str, source: str) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        # Through whole microseconds: a naive stamp is then UTC, and no time-zone database is asked for.
        microseconds = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
        return one_chunk(microseconds.cast(TIMESTAMP))
    moments: list[datetime | None] = []
    for row, text in enumerate(column.to_pylist()):
        try:
            moment = None if text is None else datetime.fromisoformat(text)
        except ValueError:
            raise _wrong_type(column, row, name=name, dtype=TIMESTAMP, source=source) from None
        moments.append(moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment)
    return pa.array(moments, TIMESTAMP)


def _count(column: pa.ChunkedArray, *, name: str, source: str) -> pa.Array:
    if pa.types.is_integer(column.type):
        return one_chunk(column.cast(COUNT))
    numbers = _without_nan(one_chunk(column.cast(FLOAT, safe=False)))
    broken = pc.fill_null(pc.or_(pc.not_equal(numbers, pc.floor(numbers)), pc.greater(pc.abs(numbers), 2.0**53)), False)
    if pc.any(broken).as_py():
        raise _wrong_type(column, int(np.argmax(broken)), name=name, dtype=COUNT, source=source)
    return numbers.cast(COUNT)


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return json.dumps(value, ensure_ascii=False)
