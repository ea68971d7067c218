"""The vector cache: nothing is embedded twice, and it never stands in the way."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from counting import CountingEncoder

from pointsman.encode.base import Encoder
from pointsman.encode.cache import CachedEncoder, default_cache_folder, default_cache_path
from pointsman.errors import CacheWarning, InvalidParameterError

PROMPTS = ["one", "two", "", "one", "half \ud800 a pair", "🙂"]


def test_a_text_is_encoded_once(counting: CountingEncoder, tmp_path: Path) -> None:
    """Neither a repeat in one call, nor a later call, nor a later process asks the encoder again."""
    cached = CachedEncoder(counting, tmp_path / "cache.sqlite")

    first = cached.encode(PROMPTS)
    assert counting.asked == list(dict.fromkeys(PROMPTS))
    second = cached.encode([*PROMPTS[::-1], "three"])
    again = CachedEncoder(counting, tmp_path / "cache.sqlite").encode(PROMPTS)

    assert counting.asked == [*dict.fromkeys(PROMPTS), "three"]
    bare = CountingEncoder().encode(PROMPTS)
    assert first.tobytes() == again.tobytes() == bare.tobytes() == second[:-1][::-1].tobytes()


def test_it_is_the_encoder_it_wraps(counting: CountingEncoder, tmp_path: Path) -> None:
    """Same contract, same description: a router does not depend on where vectors are kept."""
    cached = CachedEncoder(counting, tmp_path / "cache.sqlite")

    assert isinstance(cached, Encoder)
    assert cached.describe() == counting.describe()
    assert cached.encode([]).shape == (0, counting.n_features)
    with pytest.raises(InvalidParameterError, match="got one string"):
        cached.encode("one")


def test_encoders_do_not_share_vectors(tmp_path: Path) -> None:
    """Another fingerprint is another key in the same file."""
    first, second = CountingEncoder(name="a"), CountingEncoder(name="b", n_features=5)

    CachedEncoder(first, tmp_path / "cache.sqlite").encode(["one"])

    assert CachedEncoder(second, tmp_path / "cache.sqlite").encode(["one"]).shape == (1, 5)
    assert second.asked == ["one"]


def test_more_texts_than_fit_a_query(counting: CountingEncoder, tmp_path: Path) -> None:
    """Look-ups and commits go by chunks; the rows come back in order."""
    prompts = [f"prompt {i}" for i in range(1300)]
    cached = CachedEncoder(counting, tmp_path / "cache.sqlite")

    assert cached.encode(prompts).tobytes() == cached.encode(prompts).tobytes()
    assert len(counting.asked) == 1300


def test_an_interrupted_run_keeps_what_it_had(tmp_path: Path) -> None:
    """An encoder that fails after the first chunk loses only what it had not encoded."""

    class Failing(CountingEncoder):
        def encode(self, prompts):  # type: ignore[no-untyped-def]
            if "prompt 600" in prompts:
                raise ConnectionError
            return super().encode(prompts)

    prompts = [f"prompt {i}" for i in range(700)]
    with pytest.raises(ConnectionError):
        CachedEncoder(Failing(), tmp_path / "cache.sqlite").encode(prompts)

    counting = CountingEncoder()
    CachedEncoder(counting, tmp_path / "cache.sqlite").encode(prompts)
    assert counting.asked == prompts[512:]


@pytest.mark.parametrize("damage", ["garbage", "truncated", "overwritten", "no-table"])
def test_a_damaged_file_is_set_aside_and_begun_again(counting: CountingEncoder, tmp_path: Path, damage: str) -> None:
    """One warning, the right rows, the old file kept, and a cache that works from then on."""
    path = tmp_path / "cache.sqlite"
    prompts = [f"prompt {i}" for i in range(400)]
    cached = CachedEncoder(counting, path)
    rows = cached.encode(prompts)
    content = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"not a database at all" * 100)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        path.write_bytes(content[:1000] + b"\xff" * (len(content) - 1000))
    else:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("DROP TABLE vectors")

    with pytest.warns(CacheWarning, match="set aside as cache.sqlite.corrupt-1 and begun again"):
        assert cached.encode(prompts).tobytes() == rows.tobytes()
    asked = len(counting.asked)
    assert cached.encode(prompts).tobytes() == rows.tobytes()
    assert len(counting.asked) == asked
    assert (tmp_path / "cache.sqlite.corrupt-1").exists()


def test_a_flipped_bit_in_a_vector_is_noticed(counting: CountingEncoder, tmp_path: Path) -> None:
    """A row whose checksum fails, or of another length, is encoded again and replaced."""
    path = tmp_path / "cache.sqlite"
    cached = CachedEncoder(counting, path)
    rows = cached.encode(["one", "two", "three"])
    with contextlib.closing(sqlite3.connect(path)) as database:
        (first, blob), (second, _), _ = database.execute("SELECT text_sha256, vector FROM vectors").fetchall()
        flipped = bytes([blob[0] ^ 1]) + blob[1:]
        database.execute("UPDATE vectors SET vector = ? WHERE text_sha256 = ?", (flipped, first))
        database.execute("UPDATE vectors SET vector = ? WHERE text_sha256 = ?", (b"", second))
        database.commit()

    assert cached.encode(["one", "two", "three"]).tobytes() == rows.tobytes()
    assert len(counting.asked) == 5
    assert cached.encode(["one", "two", "three"]).tobytes() == rows.tobytes()
    assert len(counting.asked) == 5


def test_another_programs_database_is_left_alone(counting: CountingEncoder, tmp_path: Path) -> None:
    """It is neither written to nor set aside."""
    path = tmp_path / "theirs.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (x)")
        database.commit()
    before = path.read_bytes()

    with pytest.raises(InvalidParameterError, match="another program's database"):
        CachedEncoder(counting, path).encode(["one"])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["theirs.sqlite"]


def test_a_cache_of_a_newer_version_is_left_alone(counting: CountingEncoder, tmp_path: Path) -> None:
    """The error says to give another path."""
    path = tmp_path / "cache.sqlite"
    CachedEncoder(counting, path).encode(["one"])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")

    with pytest.raises(InvalidParameterError, match="newer pointsman"):
        CachedEncoder(counting, path).encode(["one"])


def test_a_place_that_cannot_be_written_only_warns(counting: CountingEncoder, tmp_path: Path) -> None:
    """A path through a file, and a folder in the cache's place: the rows come all the same."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    for path in (tmp_path / "file" / "cache.sqlite", tmp_path / "folder"):
        with pytest.warns(CacheWarning, match="cannot be used"):
            rows = CachedEncoder(counting, path).encode(["one"])
        assert rows.tobytes() == CountingEncoder().encode(["one"]).tobytes()


def test_threads_share_a_cache(tmp_path: Path) -> None:
    """Eight threads on one new file, no warning, and the rows of the encoder."""
    prompts = [f"prompt {i}" for i in range(50)]
    cached = CachedEncoder(CountingEncoder(), tmp_path / "cache.sqlite")
    rows: list[bytes] = []
    threads = [threading.Thread(target=lambda: rows.append(cached.encode(prompts).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert rows == [CountingEncoder().encode(prompts).tobytes()] * 8


def test_processes_share_a_cache(tmp_path: Path) -> None:
    """Four processes begin one new file at once, without a warning; afterwards it holds all they encoded."""
    script = (
        "import sys\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from counting import CountingEncoder\n"
        "from pointsman.encode.cache import CachedEncoder\n"
        "first = int(sys.argv[2])\n"
        "for start in range(first, first + 100, 10):\n"
        "    CachedEncoder(CountingEncoder(), sys.argv[1]).encode([str(i) for i in range(start, start + 20)])\n"
    )
    path = tmp_path / "cache.sqlite"
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", script, str(path), str(first)])  # noqa: S603
        for first in (0, 50, 100, 150)
    ]

    assert [process.wait() for process in running] == [0, 0, 0, 0]
    counting = CountingEncoder()
    CachedEncoder(counting, path).encode([str(i) for i in range(260)])
    assert counting.asked == []


def test_the_default_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """POINTSMAN_CACHE first, then an absolute XDG_CACHE_HOME, then ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("POINTSMAN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_folder() == tmp_path / "home" / ".cache" / "pointsman"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_folder() == tmp_path / "home" / ".cache" / "pointsman"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "pointsman"
    monkeypatch.setenv("POINTSMAN_CACHE", str(tmp_path / "own"))
    assert default_cache_path().parent == tmp_path / "own"

    CachedEncoder(CountingEncoder()).encode(["one"])
    assert default_cache_path().exists()


def test_rows_are_stored_in_float32(counting: CountingEncoder, tmp_path: Path) -> None:
    """Four bytes a feature, and the dtype of the contract on the way back."""
    path = tmp_path / "cache.sqlite"
    cached = CachedEncoder(counting, path)
    cached.encode(["one"])

    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT length(vector) FROM vectors").fetchall() == [(4 * counting.n_features,)]
    assert cached.encode(["one"]).dtype == np.float32
