"""The evaluation as the sections read it: JSON, checked where it is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pointsman.errors import InvalidParameterError
from pointsman.types import State


def number(row: Mapping[str, Any], key: str) -> float | None:
    """Return a number of a row: None where it is missing, null or NaN; "inf" is infinity.

    Raises:
        InvalidParameterError: It is neither a number nor one of these.
    """
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        if value in ("inf", "-inf"):
            return float(value)
        raise InvalidParameterError(f'evaluation: {key} must be a number, null or "inf"; got {str(value)[:60]!r}')
    return None if math.isnan(value) else float(value)


def string(row: Mapping[str, Any], key: str) -> str:
    """Return a text of a row; empty where it is missing or null."""
    value = row.get(key)
    return "" if value is None else str(value)


def texts(row: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of texts of a row; empty where it is missing or null."""
    return [str(each) for each in _listed(row, key)]


def floats(row: Mapping[str, Any], key: str) -> list[float]:
    """Return a list of finite numbers of a row; empty where it is missing, null, or one of them is not known."""
    read = [number({key: each}, key) for each in _listed(row, key)]
    known = [each for each in read if each is not None and math.isfinite(each)]
    return known if len(known) == len(read) else []


def rows(row: Mapping[str, Any], key: str) -> list[State]:
    """Return a list of rows; empty where it is missing or null.

    Raises:
        InvalidParameterError: It is no list of objects.
    """
    found = _listed(row, key)
    for each in found:
        if not isinstance(each, dict):
            raise InvalidParameterError(f"evaluation: {key} must be a list of objects; got {str(each)[:60]!r} in it")
    return found


def distinct(values: Iterable[str]) -> list[str]:
    """Return values once each, in the order they came."""
    return list(dict.fromkeys(values))


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation, and what the reader wants to see first in it.

    Attributes:
        state: The evaluation, as `pointsman.report.render` describes it.
    """

    state: State
    headline: State = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.state, dict):
            raise InvalidParameterError(f"evaluation must be an object; got {type(self.state).__name__}")
        headline = self.state.get("headline") or {}
        if not isinstance(headline, dict):
            raise InvalidParameterError(f"evaluation: headline must be an object; got {str(headline)[:60]!r}")
        object.__setattr__(self, "headline", headline)

    def rows(self, key: str) -> list[State]:
        """Return one of its lists."""
        return rows(self.state, key)

    @property
    def confidence(self) -> float:
        """Coverage of the intervals, in (0, 1).

        Raises:
            InvalidParameterError: It lies elsewhere.
        """
        level = number(self.state, "level")
        if level is not None and not 0 < level < 1:
            raise InvalidParameterError(f"evaluation: level must be in (0, 1), such as 0.95; got {level}")
        return 0.95 if level is None else level

    @property
    def level(self) -> str:
        """Coverage of the intervals, such as "95%"."""
        return f"{100 * self.confidence:.4g}%"

    @property
    def policy(self) -> str:
        """The policy the verdict is about."""
        named = string(self.headline, "policy")
        if named:
            return named
        routers = [string(row, "name") for row in self.rows("policies") if row.get("kind") == "router"]
        return routers[0] if routers else ""

    @property
    def against(self) -> str:
        """What it is compared with."""
        return string(self.headline, "against")

    @property
    def quality_per_usd(self) -> float | None:
        """The trade-off of the verdict."""
        return number(self.headline, "quality_per_usd")

    def kind(self, policy: str) -> str:
        """Return "router", "always" or "logging"; "router" for a policy that is not listed."""
        for row in self.rows("policies"):
            if row.get("name") == policy:
                return string(row, "kind")
        return "always" if policy.startswith("always ") else "logging" if policy == "logging" else "router"

    def slot(self, policy: str) -> int:
        """Return which colour and shape a policy has in every plot."""
        listed = distinct(string(row, "name") for row in self.rows("policies"))
        routers_first = sorted(listed, key=lambda name: self.kind(name) != "router")
        return routers_first.index(policy) if policy in routers_first else len(routers_first)

    def is_headline(self, row: State) -> bool:
        """Return whether a row is about the policies and the trade-off of the verdict."""
        return (
            string(row, "policy") == self.policy
            and row.get("against", self.against) in (self.against, None)
            and number(row, "quality_per_usd") in (self.quality_per_usd, None)
        )

    def trade_offs(self, found: Iterable[State]) -> list[float]:
        """Return the trade-offs of some rows, ascending."""
        return sorted({at for row in found if (at := number(row, "quality_per_usd")) is not None})

    def groups(self, found: list[State], *keys: str) -> Iterator[tuple[tuple[str, ...], list[State]]]:
        """Yield rows that agree in some keys, in the order they came, those of the verdict first."""
        named: dict[tuple[str, ...], list[State]] = {}
        for row in found:
            named.setdefault(tuple(string(row, key) for key in keys), []).append(row)
        yield from sorted(named.items(), key=lambda each: not any(self.is_headline(row) for row in each[1]))


def _listed(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InvalidParameterError(f"evaluation: {key} must be a list; got {str(value)[:60]!r}")
    return list(value)
