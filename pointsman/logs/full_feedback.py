"""Full feedback: the outcome of every arm for every prompt, which is what a log never shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pointsman.arms import ArmSet
from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs.columns import FLOAT, FULL_FEEDBACK_COLUMNS, TEXT, check_names, invalid, plain, typed
from pointsman.logs.files import FilePath, read_table, write_table
from pointsman.types import PerArm

_KEYS = ("query_id", "prompt", "model")


@dataclass(frozen=True, kw_only=True, eq=False)
class FullFeedback:
    """A table of outcomes without a gap: every prompt answered by every arm.

    Attributes:
        query_id: Each prompt's name, unique.
        prompt: Each prompt.
        arms: The arms; an arm's place is its column in the arrays.
        quality: (n_prompts, n_arms) in [0, 1].
        cost_usd: (n_prompts, n_arms) in USD; None where the table has no cost.
        extra: Other columns that are constant within a prompt (`task`, ...), one row a prompt.
        quality_source: Who judged the quality: `gold`, or the judge's name.
        n_dropped: Prompts left out because an arm had no outcome for them.
        source: Where the table came from, as errors name it.
    """

    query_id: tuple[str, ...]
    prompt: tuple[str, ...]
    arms: ArmSet
    quality: PerArm
    cost_usd: PerArm | None
    extra: pa.Table = field(default_factory=lambda: pa.table({}))
    quality_source: str = "gold"
    n_dropped: int = 0
    source: str = "table"

    def __post_init__(self) -> None:
        shape = (len(self.query_id), len(self.arms))
        if shape[0] == 0:
            raise InvalidLogError(f"{self.source}: a table must hold at least one prompt; got none")
        if len(self.prompt) != shape[0] or (self.extra.num_columns and self.extra.num_rows != shape[0]):
            raise InvalidLogError(
                f"{self.source}: query_id, prompt and extra must be of one length; "
                f"got {shape[0]}, {len(self.prompt)} and {self.extra.num_rows}"
            )
        if len(set(self.query_id)) < shape[0]:
            raise InvalidLogError(f"{self.source}: query_id must be unique; name each prompt once")
        for name, values in (("quality", self.quality), ("cost_usd", self.cost_usd)):
            if values is None:
                continue
            if values.shape != shape:
                raise InvalidLogError(f"{self.source}: {name} must have shape {shape}; got {values.shape}")
            top = 1.0 if name == "quality" else np.finfo(np.float64).max
            broken = ~((values >= 0) & (values <= top))  # true for NaN as well
            if broken.any():
                raise InvalidLogError(
                    f"{self.source}: {name} must be {'in [0, 1]' if name == 'quality' else 'finite and not negative'}; "
                    f"got {values[broken][0]} for query_id {self.query_id[int(np.argmax(broken.any(axis=1)))]!r}"
                )

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return len(self.query_id)

    def __len__(self) -> int:
        return self.n_prompts

    def take(self, indices: ArrayLike) -> Self:
        """Return the prompts at these indices, in this order.

        Raises:
            InvalidParameterError: The indices are no integers, out of range or repeated, or there is none.
        """
        rows = np.asarray(indices)
        whole = rows.ndim == 1 and rows.size > 0 and np.issubdtype(rows.dtype, np.integer)
        if not whole or rows.min() < 0 or rows.max() >= len(self) or len(np.unique(rows)) < len(rows):
            raise InvalidParameterError(
                f"indices must be unique integers in [0, {len(self)}), at least one; got {rows}"
            )
        return type(self)(
            query_id=tuple(self.query_id[row] for row in rows),
            prompt=tuple(self.prompt[row] for row in rows),
            arms=self.arms,
            quality=self.quality[rows],
            cost_usd=None if self.cost_usd is None else self.cost_usd[rows],
            extra=self.extra.take(pa.array(rows)) if self.extra.num_columns else self.extra,
            quality_source=self.quality_source,
            n_dropped=self.n_dropped,
            source=self.source,
        )

    def to_table(self) -> pa.Table:
        """Return the long table: one row a prompt and arm, columns as `read_full_feedback` reads them by default.

        `quality` holds the quality whoever judged it; `quality_source` says who.
        """
        n_arms = len(self.arms)
        row = pa.array(np.repeat(np.arange(len(self)), n_arms))
        columns = {
            "query_id": pa.array(self.query_id, TEXT).take(row),
            "prompt": pa.array(self.prompt, TEXT).take(row),
            "model": pa.array(self.arms.names * len(self), TEXT),
            "quality": pa.array(self.quality.ravel(), FLOAT),
        }
        if self.cost_usd is not None:
            columns["cost_usd"] = pa.array(self.cost_usd.ravel(), FLOAT)
        columns["quality_source"] = pa.array([self.quality_source] * len(row), TEXT)
        columns |= {name: self.extra[name].combine_chunks().take(row) for name in self.extra.column_names}
        return pa.table(columns)


def read_full_feedback(
    path: FilePath,
    *,
    quality_column: str = "quality",
    cost_column: str | None = "cost_usd",
    models: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
) -> FullFeedback:
    """Return the full feedback in a .parquet, .jsonl, .ndjson or .csv file, one row a prompt and model.

    A prompt without an outcome for one of the models is dropped and counted in `n_dropped`.

    Args:
        path: A file with columns `query_id, prompt, model`, a quality and, where known, a cost.
        quality_column: The column to take as quality; a judge's column makes that judge the `quality_source`.
        cost_column: The column to take as cost in USD; None, or `cost_usd` where there is none, means no cost.
        models: The models to keep; by default all.
        where: Rows to keep: column to value, as in `{"shots": "5"}`; numbers are compared as numbers.

    Raises:
        InvalidLogError: The file cannot be read, breaks the format, or holds no prompt that every model answered.
        InvalidParameterError: `models`, `where` or `cost_column` names something the table does not have.
    """
    source = os.fspath(path)
    types = dict(FULL_FEEDBACK_COLUMNS) | dict.fromkeys(
        [quality_column, *([cost_column] if cost_column else [])], FLOAT
    )
    table = read_table(path, types=types)
    return pivot(
        table, source=source, quality_column=quality_column, cost_column=cost_column, models=models, where=where
    )


def write_full_feedback(table: FullFeedback, path: FilePath) -> None:
    """Write a table in the format its suffix names, whole or not at all; `read_full_feedback` returns it bit for bit.

    Raises:
        InvalidLogError: The suffix names no format, or the folder does not exist.
    """
    write_table(table.to_table(), path, types=FULL_FEEDBACK_COLUMNS)


def pivot(
    table: pa.Table,
    *,
    source: str = "table",
    quality_column: str = "quality",
    cost_column: str | None = "cost_usd",
    models: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
) -> FullFeedback:
    """Return the full feedback in a long Arrow table; otherwise as `read_full_feedback`."""
    check_names(table, source=source)
    for name in _KEYS:
        if name not in table.column_names:
            raise InvalidLogError(f"{source}: column {name!r} is missing; got columns {table.column_names}; add it")
    if quality_column not in table.column_names:
        raise InvalidLogError(
            f"{source}: column {quality_column!r} is missing; numeric columns within [0, 1]: "
            f"{_candidates(table) or 'none'}; name the one to use as the quality column"
        )
    if cost_column not in table.column_names:
        if cost_column not in (None, "cost_usd"):
            raise InvalidParameterError(
                f"cost_column must be one of {table.column_names} of {source}, or None; got {cost_column!r}"
            )
        cost_column = None

    row = _rows_kept(table, source=source, models=models, where=where or {})
    keys = {name: _key(table, name, row, source=source) for name in _KEYS}
    query, query_ids = _codes(keys["query_id"])
    arm_of_code, names = _codes(keys["model"])
    arms = ArmSet.named(names)
    arm = arms.indices(names)[arm_of_code]
    _reject_duplicates(query, arm, n_arms=len(arms), row=row, source=source, query_ids=query_ids, arms=arms)
    first = _first_rows(query)
    _check_prompts(keys["prompt"], query=query, first=first, row=row, source=source)

    quality = _outcome(table, quality_column, row=row, source=source, top=1.0)
    cost_usd = None if cost_column is None else _outcome(table, cost_column, row=row, source=source, top=None)
    if cost_usd is not None and np.isnan(cost_usd).all():
        cost_usd = None
    wide = {}
    for name, values in (("quality", quality), ("cost_usd", cost_usd)):
        if values is not None:
            wide[name] = np.full((len(query_ids), len(arms)), np.nan)
            wide[name][query, arm] = values
    missing = np.logical_or.reduce([np.isnan(values) for values in wide.values()])
    kept = np.flatnonzero(~missing.any(axis=1))
    if kept.size == 0:
        raise _nothing_left(missing, arms, source=source)

    extra = _constant_columns(
        table.take(pa.array(row)),
        skip={*_KEYS, quality_column, cost_column, "quality", "cost_usd", "quality_source"},
        query=query,
        first=first,
        kept=kept,
        source=source,
    )
    prompts = keys["prompt"].take(pa.array(first[kept])).to_pylist()
    return FullFeedback(
        query_id=tuple(query_ids[i] for i in kept),
        prompt=tuple(prompts),
        arms=arms,
        quality=wide["quality"][kept],
        cost_usd=wide["cost_usd"][kept] if "cost_usd" in wide else None,
        extra=extra,
        quality_source=_quality_source(table, quality_column, row=row, source=source),
        n_dropped=len(query_ids) - kept.size,
        source=source,
    )


def _rows_kept(
    table: pa.Table, *, source: str, models: Sequence[str] | None, where: Mapping[str, str]
) -> NDArray[np.int64]:
    kept = np.ones(table.num_rows, dtype=np.bool_)
    for name, value in where.items():
        if name not in table.column_names:
            raise InvalidParameterError(f"where must name one of the columns {table.column_names}; got {name!r}")
        column = plain(table[name], name=name, source=source)
        equal = _equals(column, value)
        if not equal.any():
            seen = pc.unique(column).to_pylist()[:10]
            raise InvalidParameterError(f"where must match some row: {name!r} is one of {seen}; got {value!r}")
        kept &= equal
    if models is not None:
        column = typed(table["model"], name="model", dtype=TEXT, source=source)
        unknown = sorted(set(models) - set(pc.unique(column).to_pylist()))
        if unknown or not models:
            seen = sorted(name for name in pc.unique(column).to_pylist() if name is not None)
            raise InvalidParameterError(f"models must be among {seen}, at least one; got {unknown or list(models)}")
        kept &= pc.is_in(column, pa.array(list(models), TEXT)).to_numpy(zero_copy_only=False)
    if not kept.any():
        raise InvalidLogError(
            f"{source}: a table must hold at least one row; got {table.num_rows} rows, none of them matching; widen it"
        )
    return np.flatnonzero(kept)


def _equals(column: pa.Array, value: str) -> NDArray[np.bool_]:
    wanted: object = value
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        try:
            wanted = float(value)
        except ValueError:
            return np.zeros(len(column), dtype=np.bool_)
    elif pa.types.is_boolean(column.type):
        wanted = str(value).lower() == "true"
    equal = pc.fill_null(pc.equal(column, pa.scalar(wanted)), False)
    return np.asarray(equal.to_numpy(zero_copy_only=False))


def _key(table: pa.Table, name: str, row: NDArray[np.int64], *, source: str) -> pa.Array:
    column = typed(table[name], name=name, dtype=TEXT, source=source).take(pa.array(row))
    if column.null_count:
        raise invalid(
            source=source,
            column=name,
            row=int(row[np.argmax(column.is_null())]),
            rule="must not be null",
            got=None,
            advice="fill it in, or drop the row",
        )
    return column


def _codes(column: pa.Array) -> tuple[NDArray[np.int64], list[str]]:
    """Return each row's place among the distinct values, and these in order of first appearance."""
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _first_rows(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row of each code; codes are numbered by first appearance."""
    return np.unique(code, return_index=True)[1]


def _reject_duplicates(
    query: NDArray[np.int64],
    arm: NDArray[np.int64],
    *,
    n_arms: int,
    row: NDArray[np.int64],
    source: str,
    query_ids: list[str],
    arms: ArmSet,
) -> None:
    cell = query * n_arms + arm
    first = _first_rows(np.unique(cell, return_inverse=True)[1])
    if first.size < cell.size:
        repeated = int(np.setdiff1d(np.arange(cell.size), first)[0])
        raise invalid(
            source=source,
            column="query_id",
            row=int(row[repeated]),
            rule=f"must have one row a model; model {arms.names[arm[repeated]]!r} has another already",
            got=query_ids[query[repeated]],
            advice="keep one of the rows, or choose among them with `where`",
        )


def _check_prompts(
    prompts: pa.Array, *, query: NDArray[np.int64], first: NDArray[np.int64], row: NDArray[np.int64], source: str
) -> None:
    code, _ = _codes(prompts)
    differing = code != code[first][query]
    if differing.any():
        at = int(np.argmax(differing))
        raise invalid(
            source=source,
            column="prompt",
            row=int(row[at]),
            rule=f"must be the same in every row of a query_id (row {int(row[first[query[at]]]) + 1} has another)",
            got=prompts[at].as_py(),
            advice="give each prompt a query_id of its own",
        )


def _outcome(
    table: pa.Table, name: str, *, row: NDArray[np.int64], source: str, top: float | None
) -> NDArray[np.float64]:
    column = typed(table[name], name=name, dtype=FLOAT, source=source)
    values = np.array(pc.fill_null(column, np.nan).to_numpy()[row])
    broken = (values < 0) | (np.isinf(values) if top is None else values > top)
    if broken.any():
        at = int(np.argmax(broken))
        raise invalid(
            source=source,
            column=name,
            row=int(row[at]),
            rule="must be finite and not negative" if top is None else "must be in [0, 1]",
            got=float(values[at]),
            advice="correct it" if top is None else "rescale the score to [0, 1]",
        )
    return values


def _nothing_left(missing: NDArray[np.bool_], arms: ArmSet, *, source: str) -> InvalidLogError:
    n_missing = missing.sum(axis=0)
    worst = sorted(zip(-n_missing, arms.names, strict=True))[:5]
    cells = ", ".join(f"{name} {-n}" for n, name in worst if n)
    return InvalidLogError(
        f"{source}: at least one prompt must have an outcome of every model; got {len(missing)} prompts, "
        f"each missing one; most missing: {cells}; choose `models` without these"
    )


def _constant_columns(
    table: pa.Table,
    *,
    skip: set[str | None],
    query: NDArray[np.int64],
    first: NDArray[np.int64],
    kept: NDArray[np.int64],
    source: str,
) -> pa.Table:
    """Return the columns of single values that do not vary within any kept prompt, one row a kept prompt.

    A column without values says nothing, and is left out.
    """
    among_kept = np.isin(query, kept)
    columns = {}
    for name in table.column_names:
        if name in skip:
            continue
        column = plain(table[name], name=name, source=source)
        if pa.types.is_large_list(column.type) or column.null_count == len(column):
            continue
        code = column.dictionary_encode(null_encoding="encode").indices.to_numpy()
        if (code == code[first][query])[among_kept].all():
            columns[name] = column.take(pa.array(first[kept]))
    return pa.table(columns)


def _quality_source(table: pa.Table, quality_column: str, *, row: NDArray[np.int64], source: str) -> str:
    if quality_column != "quality":
        return quality_column
    if "quality_source" not in table.column_names:
        return "gold"
    column = typed(table["quality_source"], name="quality_source", dtype=TEXT, source=source)
    seen = pc.unique(pc.fill_null(column, "gold").take(pa.array(row))).to_pylist()
    if len(seen) > 1:
        raise InvalidLogError(
            f"{source}: column 'quality_source' must name one source; got {sorted(seen)}; choose one with `where`"
        )
    return str(seen[0])


def _candidates(table: pa.Table) -> list[str]:
    names = []
    for name in table.column_names:
        kind = table[name].type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            bounds = pc.min_max(table[name])
            low, high = bounds["min"].as_py(), bounds["max"].as_py()
            if low is not None and low >= 0 and high <= 1 and not name.startswith("cost"):
                names.append(name)
    return names
