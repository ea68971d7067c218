"""A file of settings that may change while the gateway runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeAlias

from pointsman.gateway.settings.load import InvalidSettingsError, load_settings
from pointsman.gateway.settings.schema import Settings

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]

NEED_RESTART: Final = (
    "server",
    "store.url",
    "store.queue_size",
    "limits.max_connections",
    "limits.read_timeout_s",
    "telemetry",
)
"""What a running gateway cannot take over."""


class SettingsFile:
    """Settings that follow their file: a good one is taken over, a bad one leaves the old in force and says why.

    Attributes:
        path: The file.
        settings: The settings in force.
        error: Why the file's present content is not in force; None where it is.

    Raises:
        InvalidSettingsError: The file is wrong to begin with.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.error: InvalidSettingsError | None = None
        # Taken before reading: what is written meanwhile is seen as a change.
        stamp = self._stamp(None)
        self.settings = load_settings(self.path)
        self._started = self.settings
        self._seen = stamp[:1] + self._stamp(self.settings)[1:]

    def changed(self) -> bool:
        """Return whether the file, or its price file, is another than when last looked at."""
        return self._stamp(self.settings) != self._seen

    def reload(self) -> bool:
        """Read the file again, and return whether its content is in force now."""
        self._seen = self._stamp(self.settings)
        try:
            settings = load_settings(self.path)
        except InvalidSettingsError as error:
            self.error = error
            return False
        self.error = None
        self.settings = settings
        self._seen = self._seen[:1] + self._stamp(settings)[1:]
        return True

    @property
    def need_restart(self) -> tuple[str, ...]:
        """What differs from the settings at the start that a running gateway cannot take over."""
        return tuple(name for name in NEED_RESTART if _value(self._started, name) != _value(self.settings, name))

    async def watch(self, *, interval_s: float = 2.0) -> AsyncIterator[SettingsFile]:
        """Yield this whenever the file has changed: with its `settings` in force, or with an `error`."""
        while True:
            await asyncio.sleep(interval_s)
            if self.changed():
                # Reading and checking may take tens of milliseconds: not in the event loop.
                await asyncio.to_thread(self.reload)
                yield self

    def _stamp(self, settings: Settings | None) -> Stamp:
        files = [self.path, None if settings is None else settings.prices.file]
        return tuple(None if file is None else _stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _value(settings: Settings, name: str) -> object:
    value: object = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
