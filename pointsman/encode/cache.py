"""Vectors on disk, so that nothing is embedded twice."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import Encoder, check_prompts
from pointsman.errors import CacheWarning, InvalidParameterError
from pointsman.types import State

_Result = TypeVar("_Result")

_APPLICATION_ID: Final = 0x504D7665  # "PMve" in the file's header says whose file it is
_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS vectors (
  fingerprint TEXT NOT NULL,
  text_sha256 BLOB NOT NULL,
  vector BLOB NOT NULL,
  crc INTEGER NOT NULL,
  PRIMARY KEY (fingerprint, text_sha256)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""
_KEYS_A_QUERY: Final = 500
_PROMPTS_A_COMMIT: Final = 512
_LOCK_TIMEOUT_S: Final = 30.0
_ATTEMPTS: Final = 6


def default_cache_folder() -> Path:
    """Return the folder Pointsman caches in: `$POINTSMAN_CACHE`, else `$XDG_CACHE_HOME/pointsman` or `~/.cache/...`."""
    own = os.environ.get("POINTSMAN_CACHE")
    if own:
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    return base / "pointsman"


def default_cache_path() -> Path:
    """Return the file in `default_cache_folder` that holds the vectors of all encoders."""
    return default_cache_folder() / f"vectors-{_SCHEMA_VERSION}.sqlite"


class CachedEncoder:
    """An encoder that remembers: same vectors, same description, each text encoded once.

    Vectors are kept by the encoder's fingerprint and the text's sha256; the texts themselves are not kept. Threads and
    processes may share one file. The cache never stands in the way: a damaged file is set aside and begun again, and
    one that cannot be read or written is passed over, each with a `CacheWarning`.

    Args:
        encoder: What encodes the texts not met before.
        path: SQLite file, made when first written; `default_cache_path()` where None.
    """

    def __init__(self, encoder: Encoder, path: str | os.PathLike[str] | None = None) -> None:
        self.encoder = encoder
        self.path = default_cache_path() if path is None else Path(path)
        self.n_features = encoder.n_features

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return the context of each prompt, (n_prompts, n_features), as the encoder itself would.

        Raises:
            InvalidParameterError: `prompts` is not a list of strings, or `path` is another program's database.
        """
        checked = check_prompts(prompts)
        fingerprint = str(self.encoder.describe()["fingerprint"])
        keys = [_key(prompt) for prompt in checked]
        texts = dict(zip(keys, checked, strict=True))
        vectors = self._guarded(lambda database: self._found(database, fingerprint, list(texts))) or {}
        missing = [key for key in texts if key not in vectors]
        # What is paid for is kept at once: an interrupted run loses one chunk.
        for start in range(0, len(missing), _PROMPTS_A_COMMIT):
            chunk = missing[start : start + _PROMPTS_A_COMMIT]
            rows = np.asarray(self.encoder.encode([texts[key] for key in chunk]), dtype=np.float32)
            fresh = dict(zip(chunk, rows, strict=True))
            vectors.update(fresh)
            self._guarded(functools.partial(_keep, fingerprint=fingerprint, vectors=fresh))
        context = np.empty((len(keys), self.n_features), dtype=np.float32)
        for row, key in enumerate(keys):
            context[row] = vectors[key]
        return context

    def describe(self) -> State:
        """Return the description of the encoder within: where vectors are kept does not change them."""
        return self.encoder.describe()

    def __repr__(self) -> str:
        return f"CachedEncoder({self.encoder!r}, {str(self.path)!r})"

    def _found(
        self, database: sqlite3.Connection, fingerprint: str, keys: Sequence[bytes]
    ) -> dict[bytes, NDArray[np.float32]]:
        vectors: dict[bytes, NDArray[np.float32]] = {}
        for start in range(0, len(keys), _KEYS_A_QUERY):
            chunk = keys[start : start + _KEYS_A_QUERY]
            places = ",".join("?" * len(chunk))
            rows = database.execute(
                f"SELECT text_sha256, vector, crc FROM vectors WHERE fingerprint = ? AND text_sha256 IN ({places})",  # noqa: S608
                [fingerprint, *chunk],
            )
            for key, blob, crc in rows:
                # SQLite does not notice a flipped bit in a blob.
                if len(blob) == 4 * self.n_features and crc == _crc(fingerprint, key, blob):
                    vectors[key] = np.frombuffer(blob, dtype="<f4")
        return vectors

    def _guarded(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """Return what `work` does with the open cache, or None, with a warning, where the cache is of no use."""
        for attempt in range(_ATTEMPTS):
            try:
                with _opened(self.path) as database:
                    return work(database)
            except (sqlite3.Error, OSError) as error:
                if attempt == _ATTEMPTS - 1 or not (_is_corrupt(error) or _is_busy(error)):
                    self._warn(f"cannot be used ({error}); texts are encoded again")
                    return None
                if _is_corrupt(error):
                    self._set_aside(error)
                else:
                    # SQLite's own timeout does not cover the switch to WAL, which several processes may try at once.
                    time.sleep(0.02 * 2**attempt)
        return None

    def _set_aside(self, error: Exception) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists():
            number += 1
        # Another process may have done it first; at worst its new, nearly empty file is moved too.
        with contextlib.suppress(OSError):
            os.rename(self.path, aside)
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
        self._warn(f"is damaged ({error}); it was set aside as {aside.name} and begun again")

    def _warn(self, what: str) -> None:
        warnings.warn(f"the vector cache {self.path} {what}", CacheWarning, stacklevel=4)


def _key(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


def _crc(fingerprint: str, key: bytes, blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(key, zlib.crc32(fingerprint.encode())))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the cache for one piece of work: a connection must not cross a fork or, by default, a thread."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)) as database:
        owner = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if (owner, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
            n_tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            # Asked after the counting, for another process may be making the table right now.
            owner = database.execute("PRAGMA application_id").fetchone()[0]
            if n_tables and owner != _APPLICATION_ID:
                raise InvalidParameterError(
                    f"path of a vector cache must not be another program's database; got {path}"
                )
            if owner == _APPLICATION_ID and version > _SCHEMA_VERSION:
                raise InvalidParameterError(f"the vector cache {path} was made by a newer pointsman; give another path")
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_SCHEMA)
        database.execute("PRAGMA synchronous = NORMAL")
        yield database


def _keep(database: sqlite3.Connection, *, fingerprint: str, vectors: dict[bytes, NDArray[np.float32]]) -> None:
    blobs = {key: row.astype("<f4").tobytes() for key, row in vectors.items()}
    database.execute("BEGIN IMMEDIATE")
    # REPLACE, for a row whose checksum failed is still there.
    database.executemany(
        "REPLACE INTO vectors (fingerprint, text_sha256, vector, crc) VALUES (?, ?, ?, ?)",
        [(fingerprint, key, blob, _crc(fingerprint, key, blob)) for key, blob in blobs.items()],
    )
    database.execute("COMMIT")


def _is_corrupt(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    missing_table = code == sqlite3.SQLITE_ERROR and "no such" in str(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or missing_table


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
