"""What is done already: one small file a unit, whole or not there, named by its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import pointsman
from benchmarks.units import FLOOR, LAMBDAS_SCALED, SHARE_LOGGED, Unit
from pointsman.logs import replacing

SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("logger", pa.string()),
        ("signal", pa.string()),
        ("strength", pa.float64()),
        ("propensity", pa.string()),
        ("seed", pa.int64()),
        ("method", pa.string()),
        ("lambda_scaled", pa.float64()),
        ("value", pa.float64()),
        ("quality", pa.float64()),
        ("cost_usd", pa.float64()),
        ("fit_s", pa.float64()),
        ("n_rounds", pa.int64()),
        ("sources", pa.string()),
    ]
)

_NO_NUMBERS = ("cli", "demo.py", "plots.py", "registry.py", "folder.py")


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Return a hash, in hex, of every source file that could move a number."""
    package, here = Path(pointsman.__file__).parent, Path(__file__).parent
    files = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in _NO_NUMBERS]
    digest = hashlib.sha256()
    for path in [*sorted(files), here / "units.py"]:
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Finished units in a folder.

    A row counts if today's sources made it; with `reuse` whoever made it, but for the methods in `redo`.

    Attributes:
        folder: Where the files are.
        reuse: Whether rows of other sources count.
        redo: Methods of which only rows of today's sources count.
    """

    folder: Path
    reuse: bool = False
    redo: frozenset[str] = frozenset()

    def path(self, unit: Unit, table_hash: str) -> Path:
        """Return the file of a unit: its name tells every setting and the table's content apart."""
        settings = [asdict(unit), table_hash, SHARE_LOGGED, FLOOR, LAMBDAS_SCALED]
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{unit.table}-{unit.logger}-{unit.signal}-{unit.propensity}-{unit.seed}-{key}.parquet"

    def rows(self, path: Path) -> list[dict[str, Any]]:
        """Return the rows of a unit that count."""
        if not path.is_file():
            return []
        rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist()
        today = source_hash()
        return [row for row in rows if row["sources"] == today or (self.reuse and row["method"] not in self.redo)]

    def unfinished(self, path: Path, methods: Sequence[str]) -> list[str]:
        """Return the methods a unit still lacks."""
        done: Collection[str] = {row["method"] for row in self.rows(path)}
        return [method for method in methods if method not in done]

    def add(self, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        """Write a unit's rows beside those it has already."""
        fresh = [{**row, "sources": source_hash()} for row in rows]
        replaced = {row["method"] for row in fresh}
        kept = [row for row in self.rows(path) if row["method"] not in replaced]
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            pq.write_table(pa.Table.from_pylist([*kept, *fresh], schema=SCHEMA), file)
