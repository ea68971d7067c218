"""The tables of full feedback that the studies draw their logs from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pointsman.demo import example_table
from pointsman.encode import default_encoder, encode_with_progress
from pointsman.encode.cache import CachedEncoder
from pointsman.errors import InvalidParameterError
from pointsman.logs import FullFeedback, read_full_feedback
from pointsman.types import Context

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """Where a table is and how it is read.

    Attributes:
        name: What the results call it.
        file: Its file, absolute or in the folder of tables; the table inside the package paretobandit where None.
        quality_column: The column taken as quality.
        cost_column: The column taken as cost in USD; a table without it is judged at lambda = 0 alone.
        where: Rows kept: column and value.
        models: Models kept; all where None.
    """

    name: str
    file: str | None
    quality_column: str = "quality"
    cost_column: str = "cost_usd"
    where: tuple[tuple[str, str], ...] = ()
    models: tuple[str, ...] | None = None


TABLES = (
    TableSpec(name="routerbench", file="routerbench_subset.parquet", where=(("shots", "5"),)),
    TableSpec(name="paretobandit", file="paretobandit.parquet", quality_column="judge_deepseek_r1"),
    TableSpec(name="llmrouter", file="llmrouter.parquet"),
    TableSpec(name="routerdc", file="routerdc_7x7b.parquet"),
    TableSpec(name="routellm", file="routellm.parquet", cost_column="cost_usd_est"),
    TableSpec(name="demo", file=None),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTable:
    """A table and the context of its prompts.

    Attributes:
        table: The outcome of every arm for every prompt.
        features: (n_prompts, n_features) from the default encoder.
    """

    table: FullFeedback
    features: Context

    @property
    def content_hash(self) -> str:
        """Hash, in hex, of every outcome, prompt and feature."""
        digest = hashlib.sha256()
        for text in (*self.table.arms.names, *self.table.query_id, *self.table.prompt):
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        arrays = [self.table.quality, self.table.cost_usd, self.features]
        for array in arrays:
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(str(self.table.extra.to_pydict().get("task")).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def table_specs(names: Sequence[str]) -> list[TableSpec]:
    """Return the tables of these names, in this order.

    Raises:
        InvalidParameterError: There is no such table.
    """
    known = {spec.name: spec for spec in TABLES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidParameterError(f"tables must be among {list(known)}; got {unknown}")
    return [known[name] for name in names]


def missing(spec: TableSpec, folder: Path) -> str | None:
    """Return why a table cannot be read, or None where it can."""
    if spec.file is None or (folder / spec.file).is_file():
        return None
    return f"table {spec.name} is skipped: {folder / spec.file} does not exist"


def read_table(spec: TableSpec, *, folder: Path) -> FullFeedback:
    """Return a table from its file in the folder, or from the package it ships in."""
    if spec.file is None:
        return example_table()
    return read_full_feedback(
        folder / spec.file,
        quality_column=spec.quality_column,
        cost_column=spec.cost_column,
        models=spec.models,
        where=dict(spec.where),
    )


@lru_cache(maxsize=8)
def encoded_table(spec: TableSpec, *, folder: Path, vectors: Path, show_progress: bool = False) -> EncodedTable:
    """Return a table with its features; each prompt is encoded once, whatever process asks.

    Args:
        spec: The table.
        folder: Folder its file is in.
        vectors: The cache of vectors, made when first used.
        show_progress: Whether to show a bar while prompts are encoded.
    """
    table = read_table(spec, folder=folder)
    encoder = CachedEncoder(default_encoder(), vectors)
    return EncodedTable(table=table, features=encode_with_progress(encoder, table.prompt, show=show_progress))
