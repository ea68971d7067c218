"""Rounds of a store in the log format, at once or as a stream."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pointsman.errors import InvalidLogError, StatisticalWarning
from pointsman.logs.columns import LABEL_COLUMNS, LOG_COLUMNS, TEXT, TIMESTAMP
from pointsman.logs.files import FilePath, replacing
from pointsman.logs.labels import Labels
from pointsman.logs.rounds import LoggedRounds
from pointsman.logs.store.records import GOLD, Row, listed

if TYPE_CHECKING:
    from pointsman.logs.store.base import Snapshot

_EXTRA = {"chosen_model": TEXT, "policy": TEXT, "outcome": TEXT, "quality_per_usd": pa.float64(), "key_id": TEXT}
_IN_RANGE = "r.decided_at >= ? AND r.decided_at < ?"
_COUNTS = f"""
    SELECT COUNT(*), COUNT(r.prompt), COUNT(r.context), MIN(length(r.context)), MAX(length(r.context))
    FROM rounds r WHERE {_IN_RANGE}
"""  # noqa: S608 - a constant
_ROUNDS = f"""
    SELECT r.round_id, {{seen}}, COALESCE(r.served_model, r.model) AS model,
        CASE WHEN r.fallback THEN NULL ELSE r.propensity END AS propensity, f.quality, r.cost_usd,
        f.source AS quality_source, r.latency_s, r.tokens_in, r.tokens_out, r.decided_at AS timestamp,
        r.eligible AS eligible_models, r.fallback, r.session_id, r.router_version, r.model AS chosen_model, r.policy,
        r.outcome, r.quality_per_usd, r.key_id
    FROM rounds r LEFT JOIN feedback f ON f.seq = (
        SELECT l.seq FROM feedback l WHERE l.round_id = r.round_id AND l.quality IS NOT NULL
        ORDER BY (l.source = '{GOLD}') DESC, l.seq DESC LIMIT 1
    )
    WHERE {_IN_RANGE} AND {{seen}} IS NOT NULL ORDER BY r.decided_at, r.round_id
"""  # noqa: S608 - constants
_LABELS = f"""
    SELECT f.round_id, f.quality, f.source FROM feedback f JOIN rounds r ON r.round_id = f.round_id
    WHERE {_IN_RANGE} AND f.quality IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM feedback l
        WHERE l.round_id = f.round_id AND l.source = f.source AND l.seq > f.seq AND l.quality IS NOT NULL
    )
    ORDER BY f.seq
"""  # noqa: S608 - a constant


def log(snapshot: Snapshot, start: float, end: float, *, store: str) -> LoggedRounds:
    """Return the rounds of a range of time; see `RoundStore.log`."""
    return LoggedRounds.from_table(pa.concat_tables(_tables(snapshot, start, end, store=store)), source=store)


def write_parquet(snapshot: Snapshot, path: FilePath, start: float, end: float, *, store: str) -> int:
    """Write the rounds of a range of time to a file; see `RoundStore.export_log`."""
    import pyarrow.parquet as pq

    if Path(path).suffix.lower() != ".parquet":
        raise InvalidLogError(f"{path}: the suffix must be .parquet; got {Path(path).suffix!r}; rename the file")
    n_rounds = 0
    with replacing(path) as file:
        writer = None
        for table in _tables(snapshot, start, end, store=store):
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            n_rounds += len(table)
        assert writer is not None  # noqa: S101 - a range without rounds has raised
        writer.close()
    return n_rounds


def labels(snapshot: Snapshot, start: float, end: float, *, store: str) -> Labels:
    """Return the labels of the rounds of a range of time; see `RoundStore.labels`."""
    names = ("round_id", "quality", "quality_source")
    parts = [_columns(rows, names) for rows in snapshot.stream(_LABELS, start, end)]
    columns = {name: [value for part in parts for value in part[name]] for name in names}
    table = pa.table({name: pa.array(values, LABEL_COLUMNS[name]) for name, values in columns.items()})
    return Labels.from_table(table, source=f"labels of {store}")


def _tables(snapshot: Snapshot, start: float, end: float, *, store: str) -> Iterator[pa.Table]:
    n_rounds, n_prompts, n_contexts, shortest, longest = snapshot.fetch(_COUNTS, start, end)[0]
    has_prompts = n_prompts >= n_contexts
    n_left_out = n_rounds - max(n_prompts, n_contexts)
    if n_left_out == n_rounds:
        raise InvalidLogError(
            f"{store}: a log needs rounds with a prompt or a context; got {n_rounds} rounds in "
            f"[{start:.0f}, {end:.0f}), none with either; choose another range"
        )
    if not has_prompts and shortest != longest:
        raise InvalidLogError(
            f"{store}: contexts must be of one size; got {shortest // 4} and {longest // 4} numbers in "
            f"[{start:.0f}, {end:.0f}), by several encoders; choose a range in which there was one"
        )
    if n_left_out:
        kind = "prompt" if has_prompts else "context"
        warnings.warn(
            f"{store}: {n_left_out} of {n_rounds} rounds have no {kind}, and are left out",
            StatisticalWarning,
            stacklevel=2,
        )
    seen = "prompt" if has_prompts else "embedding"
    names = ["round_id", seen, *(name for name in LOG_COLUMNS if name not in ("round_id", "prompt", "embedding"))]
    sql = _ROUNDS.format(seen="r.prompt" if has_prompts else "r.context")
    for rows in snapshot.stream(sql, start, end):
        yield _table(_columns(rows, [*names, *_EXTRA]))


def _columns(rows: Sequence[Row], names: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _table(columns: dict[str, Any]) -> pa.Table:
    served, eligible = columns["model"], columns["eligible_models"]
    columns["eligible_models"] = [_with_served(names, model) for names, model in zip(eligible, served, strict=True)]
    columns["fallback"] = [bool(fell_back) for fell_back in columns["fallback"]]
    if "embedding" in columns:
        values = np.frombuffer(b"".join(columns["embedding"]), dtype="<f4")
        ends = np.cumsum([0, *(len(context) // 4 for context in columns["embedding"])])
        columns["embedding"] = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(values))
    microseconds = np.round(np.array(columns["timestamp"]) * 1e6).astype(np.int64)
    columns["timestamp"] = pa.array(microseconds).cast(TIMESTAMP)
    types = {**LOG_COLUMNS, **_EXTRA}
    return pa.table(
        {
            name: values if isinstance(values, pa.Array) else pa.array(values, types[name])
            for name, values in columns.items()
        }
    )


@lru_cache(maxsize=4096)
def _with_served(eligible: str, served: str) -> list[str] | None:
    """Return the models that could have served: one that stood in was eligible for that, if for nothing else."""
    names = listed(eligible)
    if not names:
        return None
    return list(names) if served in names else [*names, served]
