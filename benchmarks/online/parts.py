"""What is done already: one small file a unit, of the sources that made it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pointsman
from benchmarks.online.streams import DEFAULT, HELD_OUT, PEER, PEER_COLD_START, REFERENCES, Unit
from pointsman.logs import replacing


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Finished units in a folder.

    Attributes:
        folder: Where the files are.
        reuse: Whether what other sources made counts, too.
    """

    folder: Path
    reuse: bool = False

    def path(self, unit: Unit, table_hash: str) -> Path:
        """Return the file of a unit: its name tells every setting and the table's content apart."""
        key = hashlib.sha256(json.dumps([asdict(unit), table_hash, HELD_OUT], sort_keys=True).encode()).hexdigest()
        return self.folder / f"online-{unit.table}-{unit.dial}-{unit.policy}-{unit.seed}-{key[:16]}.json"

    def read(self, path: Path, policy: str) -> dict[str, Any] | None:
        """Return what a unit found, or None where it is not done or does not count."""
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found if self.reuse or found["sources"] == source_hash(policy) else None

    def write(self, path: Path, found: dict[str, Any], *, sources: str) -> None:
        """Write what a unit found, and the hash of the sources it was begun with, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps({**found, "sources": sources}).encode())


@lru_cache(maxsize=32)
def source_hash(policy: str) -> str:
    """Return a hash, in hex, of the sources that could move a policy's numbers: one that is tuned runs anew alone."""
    here, online = Path(__file__).parent, Path(pointsman.__file__).parent / "online"
    files = [here / "streams.py", online / "replay" / "play.py", online / "replay" / "stream.py"]
    common = [online / f"{name}.py" for name in ("base", "draw", "posterior", "features")]
    if policy in (PEER, PEER_COLD_START):
        files.append(here / "paretobandit.py")
    elif policy == DEFAULT:
        files += [*common, *sorted(online.glob("bandit*")), *sorted(online.glob("bandit/*.py"))]
    elif policy not in REFERENCES:
        files += [*common, *sorted(online.glob("baselines/*.py"))]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
