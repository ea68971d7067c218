"""Versions of routers: which there are, which one decides, and how it came to be so.

    registry/
      registry.json        the role of each version, what is noted of it, and what happened; replaced whole
      versions/<version>/  routers; a version is named by its content's hash, and never changes
      learned/<version>/   what became of a version that goes on learning; replaced whole each time
      learner.json         how the gateway's learner does (`gateway.learn.status`)

Any number of processes read, at any time; those that write wait for each other. Nothing here needs a database.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.registry import load_router, save_router
from pointsman.router import Prompt, Router
from pointsman.trade_off import TradeOff
from pointsman.types import State

FORMAT: Final = "pointsman-registry"
FORMAT_VERSION: Final = 1
REGISTRY: Final = "registry.json"
VERSIONS: Final = "versions"
LEARNED: Final = "learned"
LOCK: Final = ".lock"
STAGED: Final = ".pointsman-"
"""How the names of folders begin that are not complete yet, or no more."""
HASH_LENGTH: Final = 12
MOST_EVENTS: Final = 1000

Role = Literal["current", "previous", "pinned", "shadow", "canary"]
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that was done to a registry.

    Attributes:
        at: Unix time, in s.
        what: `add`, `promote`, `roll back`, `pin`, `unpin`, `shadow`, `canary`, `remove`, `refit`.
        version: Of what; None where of none.
        why: In words.
    """

    at: float
    what: str
    version: str | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Version:
    """What is noted of a version.

    Attributes:
        added_at: Unix time, in s.
        why: Where it is from.
        prices_usd: What a usual call of each model cost by the prices it learned under; empty where not known.
    """

    added_at: float
    why: str = ""
    prices_usd: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which version does what, and what happened.

    Attributes:
        current: The one that was promoted, and goes on learning.
        previous: The one that was before it: what a roll-back returns to.
        pinned: Decides whatever is promoted, as it was added: it does not learn.
        shadow: Decides as well, and is only logged.
        canary: Decides a share of the requests.
        versions: All there are, the oldest first.
        history: What was done, the newest last; the oldest of more than `MOST_EVENTS` are forgotten.
    """

    current: str | None = None
    previous: str | None = None
    pinned: str | None = None
    shadow: str | None = None
    canary: str | None = None
    versions: Mapping[str, Version] = field(default_factory=dict)
    history: tuple[Event, ...] = ()

    @property
    def deciding(self) -> str | None:
        """The version that decides: the pinned one, else the current one."""
        return self.pinned or self.current

    def of(self, version: str) -> list[str]:
        """Return the roles of a version."""
        names: tuple[Role, ...] = ("current", "previous", "pinned", "shadow", "canary")
        return [name for name in names if getattr(self, name) == version]

    def after(self, what: str, version: str | None, *, why: str = "", **changed: Any) -> Roles:
        """Return the roles with something changed, and the event in the history."""
        event = Event(at=time.time(), what=what, version=version, why=why)
        return dataclasses.replace(self, history=(*self.history, event)[-MOST_EVENTS:], **changed)


class Registry:
    """A folder of versioned routers.

    Args:
        folder: Made when the first router is added.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        # Gateways ask every second, and a long history takes milliseconds to read.
        self._read: tuple[tuple[int, int, int] | None, Roles] = (None, Roles())

    def roles(self) -> Roles:
        """Return which version does what; no version does anything where the folder is not there yet.

        Raises:
            InvalidRouterError: The folder is no registry, or of a newer version's.
        """
        path = self.folder / REGISTRY
        # Taken before reading: what is written meanwhile is read the next time.
        stamp = _stamp(path)
        if stamp is None or stamp != self._read[0]:
            self._read = stamp, self._roles(path)
        return self._read[1]

    @staticmethod
    def _roles(path: Path) -> Roles:
        try:
            stored = json.loads(path.read_bytes())
        except FileNotFoundError:
            return Roles()
        except (OSError, ValueError) as error:
            raise InvalidRouterError(f"{path} cannot be read as a registry: {error}") from None
        try:
            if stored.pop("format") != FORMAT or stored.pop("format_version") > FORMAT_VERSION:
                raise InvalidRouterError(f"{path} must be a {FORMAT} of format_version <= {FORMAT_VERSION}")
            versions = {name: Version(**noted) for name, noted in stored.pop("versions").items()}
            history = tuple(Event(**event) for event in stored.pop("history"))
            return Roles(versions=versions, history=history, **stored)
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidRouterError(f"{path} is no registry ({error!r}); restore the file") from None

    def stamp(self) -> Stamp:
        """Return what differs once a version, a role or what a version has learned is another."""
        roles = self.roles()
        learned = [self.folder / LEARNED / name / "manifest.json" for name in (roles.current, roles.canary) if name]
        return tuple(_stamp(path) for path in (self.folder / REGISTRY, *learned))

    def resolve(self, version: str) -> str:
        """Return the version that a name, or the beginning of one, stands for.

        Raises:
            InvalidParameterError: None does, or several.
        """
        names = [name for name in self.roles().versions if name.startswith(version)] if version else []
        if len(names) != 1:
            known = list(self.roles().versions)
            raise InvalidParameterError(f"version must name one of {known}, or begin one name alone; got {version!r}")
        return names[0]

    def load(self, version: str, *, learned: bool = True) -> Router:
        """Return the router of a version.

        Args:
            version: Its name.
            learned: As it has learned since, where it has; else as it was added.

        Raises:
            InvalidRouterError: The router is not there, or not whole.
        """
        state = self.folder / LEARNED / version
        if learned and state.exists():
            return load_router(state)
        return load_router(self.folder / VERSIONS / version)

    def add(self, router: Router, *, why: str = "", prices_usd: Mapping[str, float] | None = None) -> str:
        """Keep a router, and return its version; one that is there already is there once.

        Args:
            router: Any.
            why: Where it is from.
            prices_usd: What a usual call of each model costs at the prices it learned under, in USD.
        """
        with self._writing() as roles:
            home = self.folder / VERSIONS
            staged = home / f"{STAGED}{secrets.token_hex(8)}"
            version = save_router(router, staged)[:HASH_LENGTH]
            if version in roles.versions:
                shutil.rmtree(staged)
                return version
            # What stands there unnamed is what a killed writer has left, and may be half of a router.
            shutil.rmtree(home / version, ignore_errors=True)
            os.rename(staged, home / version)
            _sync(home)
            noted = Version(added_at=time.time(), why=why, prices_usd=dict(prices_usd or {}))
            self._write(roles.after("add", version, why=why, versions={**roles.versions, version: noted}))
        return version

    def keep_learned(self, version: str, router: Router) -> None:
        """Keep what became of a version that goes on learning; one that is replaced meanwhile is whole until then."""
        with self._writing():
            save_router(router, self.folder / LEARNED / version)

    def promote(self, version: str, *, why: str = "") -> str:
        """Have a version decide from now on, unless another one is pinned; return its whole name."""
        with self._writing() as roles:
            version = self.resolve(version)
            if version != roles.current:
                freed = {role: None for role in ("shadow", "canary") if getattr(roles, role) == version}
                self._write(roles.after("promote", version, why=why, current=version, previous=roles.current, **freed))
        return version

    def roll_back(self, *, why: str = "") -> str:
        """Exchange the current version for the previous one, and return that: a second time undoes the first.

        Raises:
            InvalidParameterError: There is no previous one.
        """
        with self._writing() as roles:
            if roles.previous is None:
                raise InvalidParameterError("there must be a previous version to roll back to; got none: promote one")
            self._write(
                roles.after("roll back", roles.previous, why=why, current=roles.previous, previous=roles.current)
            )
            return roles.previous

    def pin(self, version: str | None, *, why: str = "") -> str | None:
        """Have a version decide as it was added, whatever is promoted or learned; None lets the current one again."""
        return self._assign("pinned", "unpin" if version is None else "pin", version, why)

    def shadow(self, version: str | None, *, why: str = "") -> str | None:
        """Have a version decide as well, and be only logged; none where None."""
        return self._assign("shadow", "shadow", version, why)

    def canary(self, version: str | None, *, why: str = "") -> str | None:
        """Have a version decide a share of the requests; none where None."""
        return self._assign("canary", "canary", version, why)

    def remove(self, version: str, *, why: str = "") -> str:
        """Delete a version, and what it has learned; return its whole name. Rounds that name it keep its name only.

        Raises:
            InvalidParameterError: It has a role.
        """
        with self._writing() as roles:
            version = self.resolve(version)
            if roles.of(version):
                raise InvalidParameterError(
                    f"version must have no role to be removed; {version} is {roles.of(version)}"
                )
            left = {name: noted for name, noted in roles.versions.items() if name != version}
            self._write(roles.after("remove", version, why=why, versions=left))
            for home in (VERSIONS, LEARNED):
                shutil.rmtree(self.folder / home / version, ignore_errors=True)
        return version

    def note(self, what: str, version: str | None, *, why: str) -> None:
        """Write into the history what changed no role."""
        with self._writing() as roles:
            self._write(roles.after(what, version, why=why))

    def diff(self, a: str, b: str, *, prompts: Sequence[Prompt] = (), trade_off: TradeOff | None = None) -> State:
        """Return in what two versions differ, as they stand now.

        Args:
            a: One.
            b: The other.
            prompts: Prompts to ask both about.
            trade_off: At which they are asked; each router's own where None.

        Returns:
            `versions`, `methods`, `n_rounds` (trained on), `models` (`both`, `only_a`, `only_b`), `mean_quality` (by
            model, predicted of the training prompts), `n_prompts`, and `share_differs`: mean total variation of their
            probabilities, that is, the share of decisions that differ however alike both draw; None without prompts.
        """
        names = [self.resolve(a), self.resolve(b)]
        first, second = (self.load(name) for name in names)
        models = [each.arms.names for each in (first, second)]
        every = sorted({*models[0], *models[1]})
        return {
            "versions": names,
            "methods": [each.facts.method for each in (first, second)],
            "n_rounds": [each.facts.n_rounds for each in (first, second)],
            "models": {
                "both": [name for name in every if name in models[0] and name in models[1]],
                "only_a": [name for name in every if name not in models[1]],
                "only_b": [name for name in every if name not in models[0]],
            },
            "mean_quality": {name: [each.facts.mean_quality.get(name) for each in (first, second)] for name in every},
            "n_prompts": len(prompts),
            "share_differs": None if not prompts else _distance(first, second, every, prompts, trade_off),
        }

    def sweep(self) -> None:
        """Remove what writers that were killed have left."""
        with self._writing():
            for home in (VERSIONS, LEARNED):
                for left in (self.folder / home).glob(f"{STAGED}*"):
                    shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[bool]:
        """Hold a role that one process at a time may have; yield False where another has it. A killed one lets go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f".{name}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    def _assign(self, role: Role, what: str, version: str | None, why: str) -> str | None:
        with self._writing() as roles:
            version = None if version is None else self.resolve(version)
            if getattr(roles, role) != version:
                self._write(roles.after(what, version, why=why, **{role: version}))
        return version

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Roles]:
        """Wait until no one else writes, and keep it so."""
        for home in (VERSIONS, LEARNED):
            (self.folder / home).mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield self.roles()

    def _write(self, roles: Roles) -> None:
        stored = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(roles)}
        staged = self.folder / f"{STAGED}{REGISTRY}"
        with open(staged, "w", encoding="utf-8") as file:
            json.dump(stored, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, self.folder / REGISTRY)
        _sync(self.folder)

    def __repr__(self) -> str:
        return f"Registry({str(self.folder)!r})"


def _distance(
    first: Router, second: Router, every: Sequence[str], prompts: Sequence[Prompt], trade_off: TradeOff | None
) -> float:
    tables = []
    for router in (first, second):
        table = np.zeros((len(prompts), len(every)))
        asked = router.default_trade_off if trade_off is None else trade_off
        columns = [every.index(name) for name in router.arms.names]
        table[:, columns] = router.probabilities(router.context(prompts), asked)
        tables.append(table)
    return float(abs(tables[0] - tables[1]).sum(axis=1).mean() / 2)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
