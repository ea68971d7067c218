"""What changes while a stream runs: prices, qualities, arms, the prompts that come, and how late feedback is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.arms import ArmSet
from pointsman.errors import InvalidParameterError
from pointsman.online.base import ArmPrior


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """How a table's outcomes are to be read from one round until the next event.

    Attributes:
        start: Its first round.
        eligible: (n_arms,) arms that can be chosen.
        cost_factor: (n_arms,) what an arm costs over what the table says.
        quality_factor: (n_arms,) how good its answers are over what the table says.
        answers_as: (n_arms,) the arm whose quality in the table an arm's answers have.
    """

    start: int
    eligible: NDArray[np.bool_]
    cost_factor: NDArray[np.float64]
    quality_factor: NDArray[np.float64]
    answers_as: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happens to an arm.

    Attributes:
        at: The first round it holds in, counted from 0.
        arm: The arm's name.
    """

    at: int
    arm: str

    def __post_init__(self) -> None:
        if self.at < 0:
            raise InvalidParameterError(f"at of an event must be >= 0; got {self.at}")

    @property
    def turns(self) -> tuple[int, ...]:
        """Rounds at which the world becomes another."""
        return (self.at,)

    def alter(self, world: World, arms: ArmSet) -> World:
        """Return the world with this event in it, as it is from round `world.start`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PriceCut(Event):
    """An arm's calls cost `factor` times as much as until then; above one it is a rise.

    Attributes:
        factor: > 0.
        told: Whether the policy is told at once (`OnlinePolicy.set_price`), or sees it from its costs.
    """

    factor: float
    told: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise InvalidParameterError(f"factor of a price cut must be finite and > 0; got {self.factor}")

    def alter(self, world: World, arms: ArmSet) -> World:
        """Return the world with this event in it, as it is from round `world.start`."""
        if world.start < self.at:
            return world
        return replace(world, cost_factor=_times(world.cost_factor, arms.index(self.arm), self.factor))


@dataclass(frozen=True, kw_only=True)
class QualityRegression(Event):
    """An arm's answers change without a word: `factor` times as good, or those of another arm, and that one's its own.

    Attributes:
        factor: In [0, 1].
        swap_with: The arm that it changes places with in quality; none where None.
    """

    factor: float = 1.0
    swap_with: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.factor <= 1:
            raise InvalidParameterError(f"factor of a quality regression must be in [0, 1]; got {self.factor}")
        if self.factor == 1 and self.swap_with is None:
            raise InvalidParameterError("a quality regression needs a factor below 1 or an arm to swap with; got none")

    def alter(self, world: World, arms: ArmSet) -> World:
        """Return the world with this event in it, as it is from round `world.start`."""
        if world.start < self.at:
            return world
        arm, answers_as = arms.index(self.arm), world.answers_as.copy()
        if self.swap_with is not None:
            other = arms.index(self.swap_with)
            answers_as[[arm, other]] = answers_as[[other, arm]]
        return replace(world, quality_factor=_times(world.quality_factor, arm, self.factor), answers_as=answers_as)


@dataclass(frozen=True, kw_only=True)
class NewArm(Event):
    """An arm comes; the policy starts without it.

    Attributes:
        prior: What the policy is told of it (`OnlinePolicy.add_arm`); nothing where None. `prior.like` is named here:
        like: The arm whose answers its own are expected to resemble.
        scored: Of the rounds before, the last so many prompts it has answered, too; the policy learns their outcomes.
    """

    prior: ArmPrior | None = None
    like: str | None = None
    scored: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior is not None and self.prior.like is not None:
            raise InvalidParameterError(f"name the arm in like; got prior.like {self.prior.like}, a place")
        if not 0 <= self.scored <= self.at:
            raise InvalidParameterError(f"scored of a new arm must be in [0, at = {self.at}]; got {self.scored}")

    def alter(self, world: World, arms: ArmSet) -> World:
        """Return the world with this event in it, as it is from round `world.start`."""
        return world if world.start >= self.at else _without(world, arms.index(self.arm))

    def belief(self, arms: ArmSet) -> ArmPrior | None:
        """Return the prior, the arm it resembles by its place."""
        if self.like is None:
            return self.prior
        return replace(self.prior or ArmPrior(), like=arms.index(self.like))


@dataclass(frozen=True, kw_only=True)
class Outage(Event):
    """An arm cannot be chosen for a while.

    Attributes:
        until: The first round in which it can again.
    """

    until: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until <= self.at:
            raise InvalidParameterError(f"until of an outage must be > at = {self.at}; got {self.until}")

    @property
    def turns(self) -> tuple[int, ...]:
        """Rounds at which the world becomes another."""
        return (self.at, self.until)

    def alter(self, world: World, arms: ArmSet) -> World:
        """Return the world with this event in it, as it is from round `world.start`."""
        return _without(world, arms.index(self.arm)) if self.at <= world.start < self.until else world


@dataclass(frozen=True, kw_only=True)
class Retired(Event):
    """An arm is gone for good."""

    def alter(self, world: World, arms: ArmSet) -> World:
        """Return the world with this event in it, as it is from round `world.start`."""
        return _without(world, arms.index(self.arm)) if world.start >= self.at else world


@dataclass(frozen=True, kw_only=True)
class TrafficShift:
    """Other prompts come: until then of one half of the groups, from then on of the other.

    Attributes:
        at: The first round of the other half.
        by: A column of the table, such as `task`; or `cluster`, the two sides of the context's first component.
    """

    at: int
    by: str = "task"

    def __post_init__(self) -> None:
        if self.at <= 0:
            raise InvalidParameterError(f"at of a traffic shift must be > 0; got {self.at}")


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Qualities come late, or never; costs come at once.

    Attributes:
        mean_rounds: Rounds until a quality is known, on average; geometric.
        lost: Share of the qualities that never are, in [0, 1).
    """

    mean_rounds: float = 0.0
    lost: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean_rounds) and self.mean_rounds >= 0):
            raise InvalidParameterError(f"mean_rounds of a delay must be finite and >= 0; got {self.mean_rounds}")
        if not 0 <= self.lost < 1:
            raise InvalidParameterError(f"lost of a delay must be in [0, 1); got {self.lost}")


Scenario = Event | TrafficShift | Delay

SCENARIOS: dict[str, type[Scenario]] = {
    "price-cut": PriceCut,
    "quality-regression": QualityRegression,
    "new-arm": NewArm,
    "outage": Outage,
    "retired": Retired,
    "traffic-shift": TrafficShift,
    "delay": Delay,
}
"""Every scenario by its name on the command line."""


def parse_scenario(text: str) -> Scenario:
    """Return the scenario that a text such as `price-cut:at=1000,model=NAME,factor=0.1` stands for.

    Keys are the scenario's attributes, with `model` for `arm` and `-` for `_`; a new arm's prior is spelled out
    (`quality=.., cost-usd=.., n-rounds=..`).

    Raises:
        InvalidParameterError: There is no such scenario, it has no such key or lacks one, or a value breaks its rule.
    """
    name, _, listed = text.partition(":")
    if name not in SCENARIOS:
        raise InvalidParameterError(f"scenario must be one of {list(SCENARIOS)}; got {name!r}")
    scenario = SCENARIOS[name]
    rules = {_spelled(field.name): field for field in fields(scenario) if field.name != "prior"}
    believed = {_spelled(field.name): field for field in fields(ArmPrior) if field.name != "like"}
    known = rules | (believed if scenario is NewArm else {})
    given: dict[str, Any] = {}
    prior: dict[str, Any] = {}
    for option in listed.split(",") if listed else []:
        key, equals, value = option.partition("=")
        if not equals or key not in known:
            raise InvalidParameterError(f"{name} takes KEY=VALUE with a key of {list(known)}; got {option!r}")
        (given if key in rules else prior)[known[key].name] = _value(known[key], value, of=f"{key} of {name}")
    lacking = [key for key, field in rules.items() if field.default is MISSING and field.name not in given]
    if lacking:
        raise InvalidParameterError(f"{name} needs {' and '.join(f'{key}=' for key in lacking)}; got {text!r}")
    if prior:
        given["prior"] = ArmPrior(**prior)
    return scenario(**given)


def worlds(events: Sequence[Event], arms: ArmSet, *, shifts: Sequence[int] = ()) -> tuple[World, ...]:
    """Return the worlds that events make of a stream, in order; the first starts at round 0.

    Args:
        events: What happens to arms.
        arms: The arms.
        shifts: Rounds at which a world starts anyway, though it is that before.

    Raises:
        InvalidParameterError: An event names no arm, or leaves none eligible.
    """
    everything = np.ones(len(arms))
    found = []
    for start in sorted({0, *shifts, *(turn for event in events for turn in event.turns)}):
        world = World(
            start=start,
            eligible=np.ones(len(arms), dtype=np.bool_),
            cost_factor=everything,
            quality_factor=everything,
            answers_as=np.arange(len(arms)),
        )
        # In the order of time: what happens to an arm's answers after they changed places happens to those it has now.
        for event in sorted(events, key=lambda each: each.at):
            world = event.alter(world, arms)
        if not world.eligible.any():
            raise InvalidParameterError(f"events must leave an arm eligible; got none from round {start} on")
        found.append(world)
    return tuple(found)


def _times(factors: NDArray[np.float64], arm: int, factor: float) -> NDArray[np.float64]:
    product = factors.copy()
    product[arm] *= factor
    return product


def _without(world: World, arm: int) -> World:
    eligible = world.eligible.copy()
    eligible[arm] = False
    return replace(world, eligible=eligible)


def _spelled(name: str) -> str:
    return "model" if name == "arm" else name.replace("_", "-")


def _value(field: Field[Any], text: str, *, of: str) -> Any:
    kind = str(field.type).removesuffix(" | None")
    if kind == "str":
        return text
    if kind == "bool":
        if text not in ("yes", "no"):
            raise InvalidParameterError(f"{of} must be yes or no; got {text!r}")
        return text == "yes"
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        number = "a whole number" if kind == "int" else "a number"
        raise InvalidParameterError(f"{of} must be {number}; got {text!r}") from None
