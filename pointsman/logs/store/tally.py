"""How many rounds a writer was given, kept where the death of its process does not reach."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_N_BYTES = 8
_SUFFIX = ".tally"


class Tally:
    """A number in a memory-mapped file: the kernel keeps it when the process is killed, and setting it calls no one.

    The file is locked while the writer lives; one that is there and not locked is a dead writer's.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._memory = mmap.mmap(file.fileno(), _N_BYTES)
        # One machine word, stored in one instruction: `struct` clears the bytes and then sets them one by one, and a
        # process killed in between left a zero, or half a number.
        self._count = memoryview(self._memory).cast("Q")

    @classmethod
    def make(cls, folder: Path, writer_id: str) -> Tally:
        """Make a writer's tally, at zero.

        Raises:
            OSError: The disk refuses.
        """
        folder.mkdir(exist_ok=True)
        path = folder / f"{writer_id}{_SUFFIX}"
        # It gets its name once it is locked and whole: a file that others see is never without a lock or a number.
        hidden = folder / f".{writer_id}"
        file = hidden.open("x+b", buffering=0)
        try:
            _lock(file)
            file.write(bytes(_N_BYTES))
            hidden.rename(path)
            return cls(path, file)
        except BaseException:
            file.close()
            hidden.unlink(missing_ok=True)
            raise

    def set(self, count: int) -> None:
        """Note the number of rounds given so far."""
        self._count[0] = count

    def close(self, *, is_settled: bool) -> None:
        """Let the file go; it stays for the next writer to count where not all is settled."""
        if is_settled:
            self._path.unlink(missing_ok=True)
        self._count.release()
        self._memory.close()
        self._file.close()


@contextmanager
def dead_tallies(folder: Path) -> Iterator[dict[str, int]]:
    """Return how many rounds each writer of the folder that died was given; they are forgotten if the block ends well.

    No other process sees the same ones meanwhile.
    """
    held: list[tuple[Path, BinaryIO]] = []
    counts: dict[str, int] = {}
    try:
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            with suppress(FileNotFoundError):
                file: BinaryIO = path.open("rb")
                held.append((path, file))
                with suppress(BlockingIOError):
                    _lock(file)
                    content = file.read(_N_BYTES)
                    if path.exists() and len(content) == _N_BYTES:
                        counts[path.stem] = int.from_bytes(content, sys.byteorder)
        yield counts
        for name in counts:
            (folder / f"{name}{_SUFFIX}").unlink(missing_ok=True)
    finally:
        for _, file in held:
            file.close()


def _lock(file: BinaryIO) -> None:
    import fcntl

    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def new_writer_id() -> str:
    """Return a name no other writer has."""
    return f"{os.getpid()}-{os.urandom(8).hex()}"
