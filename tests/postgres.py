"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_BINARIES = ("initdb", "postgres", "pg_ctl")


class Server:
    """A PostgreSQL server in a folder of its own, on a free port; run as another user where the tests run as root."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries = binaries
        self.folder = folder
        self.port = _free_port()
        self.user = _unprivileged() if os.getuid() == 0 else None
        self._schemas = itertools.count()
        if self.user is not None:
            os.chown(folder, self.user, -1)
        made = ["-D", str(folder / "data"), "-U", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-sync"]
        self._run("initdb", *made, "--locale", "C")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run(
            "pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-o", options, "-l", str(self.folder / "log")
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop it, its clients with it; `immediate` is as after a power cut."""
        self._run("pg_ctl", "stop", "-w", "-D", str(self.folder / "data"), "-m", mode)

    def new_schema(self) -> str:
        """Make an empty schema, for one store; return its URL. A database each would take most of the tests' time."""
        import asyncpg

        name = f"test_{next(self._schemas)}"
        url = f"postgresql://postgres:planted-password@127.0.0.1:{self.port}/postgres"

        async def make() -> None:
            connection = await asyncpg.connect(url)
            try:
                await connection.execute(f"CREATE SCHEMA {name}")
            finally:
                await connection.close()

        asyncio.run(make())
        return f"{url}?search_path={name}"

    def _run(self, name: str, *arguments: str) -> None:
        # The server inherits what pg_ctl writes to: a pipe would stay open with it.
        with (self.folder.parent / f"{name}.out").open("w+b") as out:
            done = subprocess.run(  # noqa: S603 - found by `_installed`
                [self.binaries / name, *arguments], user=self.user, stdout=out, stderr=out, cwd=self.folder
            )
            out.seek(0)
            assert done.returncode == 0, out.read().decode()


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server that runs while the block does; the test is skipped where PostgreSQL is not installed."""
    pytest.importorskip("asyncpg", reason="asyncpg is not installed: pip install 'pointsman[postgres]'")
    binaries = _installed()
    if binaries is None:
        pytest.skip("PostgreSQL's initdb, postgres and pg_ctl are not installed: apt install postgresql")
    # Not under pytest's folders, which only this user may enter.
    folder = Path(tempfile.mkdtemp(prefix="pointsman-postgres-"))
    try:
        folder.chmod(0o755)
        inside = folder / "server"
        inside.mkdir()
        server = Server(binaries, inside)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder)


def _installed() -> Path | None:
    folders = [
        Path("/usr/bin"),
        Path("/usr/local/bin"),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
    ]
    return next((folder for folder in folders if all((folder / name).exists() for name in _BINARIES)), None)


def _unprivileged() -> int:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody to run it")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
