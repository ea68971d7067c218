"""A table of full feedback as a stream of requests, the same for every policy that is replayed on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman.arms import ArmSet
from pointsman.errors import InvalidParameterError
from pointsman.logs import FullFeedback
from pointsman.online.features import Components
from pointsman.online.replay.scenarios import Delay, Event, NewArm, Scenario, TrafficShift, World, worlds
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, Context, PerArm, PerRound

CHUNK = 1024
"""Rounds whose outcomes are looked up at a time: a stream costs memory a round, not memory a round and arm."""

Kind = TypeVar("Kind")

QUALITY_ONLY = TradeOff(0.0)

NEVER = -1
"""The delay of a quality that never arrives."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive rounds of one world, and all that could come of them.

    Attributes:
        world: The world they are in.
        rounds: Where they are in the stream.
        quality: (n, n_arms) quality of every arm's answer.
        cost_usd: (n, n_arms) its cost; zero where the table has none.
        utility: (n, n_arms) its utility at the round's trade-off, times the round's scale.
    """

    world: World
    rounds: slice
    quality: PerArm
    cost_usd: PerArm
    utility: PerArm


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """What came of one arm a round.

    Attributes:
        arm: (n_rounds,) the arms.
        quality: (n_rounds,) quality of their answers.
        cost_usd: (n_rounds,) their cost.
        utility: (n_rounds,) their utility at the round's trade-off, times the round's scale.
    """

    arm: ArmIndex
    quality: PerRound
    cost_usd: PerRound
    utility: PerRound


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedArms:
    """What every arm is worth to whoever always chooses it, one row a world.

    Attributes:
        utility: (n_worlds, n_arms) mean over the world's rounds; NaN where the arm is not eligible.
        quality: (n_worlds, n_arms) mean quality.
        cost_usd: (n_worlds, n_arms) mean cost.
        n_rounds: (n_worlds,) rounds in each.
    """

    utility: PerArm
    quality: PerArm
    cost_usd: PerArm
    n_rounds: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Requests in their order: which prompt, at what trade-off, in which world, and when its quality is known.

    Nothing is copied but a few numbers a round; outcomes are looked up in the table chunk by chunk.

    Attributes:
        table: The outcome of every arm for every prompt; arms that come later stand last, in the order they come.
        context: (n_prompts, n_features) of the table's prompts.
        row: (n_rounds,) each round's prompt, its place in the table.
        quality_per_usd: (n_rounds,) each round's trade-off.
        utility_scale: (n_rounds,) what a round's utility is multiplied by: 1; with random cost weights w it is 1 - w,
            so that it is (1 - w) quality - w cost / tau, and no round outweighs all others.
        delay: (n_rounds,) rounds until the quality is known, 0 at once; `NEVER` where it never is.
        events: What happens to arms.
        worlds: What events make of the table, in order; a traffic shift starts another, too.
    """

    table: FullFeedback
    context: Context
    row: NDArray[np.int64]
    quality_per_usd: PerRound
    utility_scale: PerRound
    delay: NDArray[np.int64]
    events: tuple[Event, ...]
    worlds: tuple[World, ...]

    @property
    def n_rounds(self) -> int:
        """Number of rounds."""
        return int(self.row.size)

    @property
    def turns(self) -> tuple[int, ...]:
        """Rounds at which something changes."""
        return tuple(world.start for world in self.worlds[1:])

    @property
    def n_features(self) -> int:
        """Of the context."""
        return int(self.context.shape[1])

    @property
    def arms(self) -> ArmSet:
        """All arms, those that come later last."""
        return self.table.arms

    @property
    def n_arms_at_start(self) -> int:
        """Arms that a policy starts with."""
        return len(self.arms) - sum(isinstance(event, NewArm) for event in self.events)

    def contexts(self, rounds: slice) -> NDArray[np.float64]:
        """Return the contexts of these rounds, (n, n_features)."""
        return np.asarray(self.context[self.row[rounds]], dtype=np.float64)

    def look_up(self, rounds: slice, world: World) -> Chunk:
        """Return these rounds with all outcomes that they have in a world."""
        row = self.row[rounds]
        quality = self.table.quality[row][:, world.answers_as] * world.quality_factor
        cost_usd = np.zeros_like(quality)
        if self.table.cost_usd is not None:
            cost_usd = self.table.cost_usd[row] * world.cost_factor
        utility = _utility(quality, cost_usd, self.quality_per_usd[rounds]) * self.utility_scale[rounds, None]
        return Chunk(world=world, rounds=rounds, quality=quality, cost_usd=cost_usd, utility=utility)

    def chunks(self) -> Iterator[Chunk]:
        """Yield all rounds with all outcomes, in order, each chunk in one world."""
        for world, end in zip(self.worlds, self._ends(), strict=True):
            for start in range(world.start, end, CHUNK):
                yield self.look_up(slice(start, min(start + CHUNK, end)), world)

    def outcomes(self, arm: ArmIndex) -> Outcomes:
        """Return what comes of these arms, one a round."""
        quality, cost_usd, utility = (np.empty(self.n_rounds) for _ in range(3))
        for chunk in self.chunks():
            cell = np.arange(len(chunk.quality)), arm[chunk.rounds]
            quality[chunk.rounds] = chunk.quality[cell]
            cost_usd[chunk.rounds] = chunk.cost_usd[cell]
            utility[chunk.rounds] = chunk.utility[cell]
        return Outcomes(arm=arm, quality=quality, cost_usd=cost_usd, utility=utility)

    @cached_property
    def oracle(self) -> Outcomes:
        """The eligible arm of highest utility in every round; of equals the cheapest."""
        arm = np.empty(self.n_rounds, dtype=np.int64)
        for chunk in self.chunks():
            utility = np.where(chunk.world.eligible, chunk.utility, -np.inf)
            best = utility == utility.max(axis=1, keepdims=True)
            arm[chunk.rounds] = np.where(best, chunk.cost_usd, np.inf).argmin(axis=1)
        return self.outcomes(arm)

    @cached_property
    def fixed_arms(self) -> FixedArms:
        """What always choosing an arm brings, world by world."""
        shape = (len(self.worlds), len(self.arms))
        utility, quality, cost_usd = (np.zeros(shape) for _ in range(3))
        place = {world.start: i for i, world in enumerate(self.worlds)}
        for chunk in self.chunks():
            i = place[chunk.world.start]
            utility[i] += chunk.utility.sum(axis=0)
            quality[i] += chunk.quality.sum(axis=0)
            cost_usd[i] += chunk.cost_usd.sum(axis=0)
        n_rounds = np.diff([world.start for world in self.worlds], append=self.n_rounds)
        eligible = np.array([world.eligible for world in self.worlds])
        means = (np.where(eligible, total / n_rounds[:, None], np.nan) for total in (utility, quality, cost_usd))
        return FixedArms(**dict(zip(("utility", "quality", "cost_usd"), means, strict=True)), n_rounds=n_rounds)

    @cached_property
    def best_fixed(self) -> Outcomes:
        """The best single arm in hindsight: in every world, and at every trade-off, that of the highest mean utility.

        argmax over eligible t of mean_i a_i(t) - lambda mean_i c_i(t), the means over the world's rounds. Where prices,
        qualities or arms change it changes with them, which no one arm could: a harder opponent than any.
        """
        arm = np.empty(self.n_rounds, dtype=np.int64)
        means = self.fixed_arms
        for i, (world, end) in enumerate(zip(self.worlds, self._ends(), strict=True)):
            eligible = np.flatnonzero(world.eligible)
            quality, cost_usd = means.quality[i, eligible], means.cost_usd[i, eligible]
            for start in range(world.start, end, CHUNK):
                rounds = slice(start, min(start + CHUNK, end))
                value = _utility(quality[None], cost_usd[None], self.quality_per_usd[rounds])
                arm[rounds] = eligible[value.argmax(axis=1)]
        return self.outcomes(arm)

    def _ends(self) -> list[int]:
        return [*(world.start for world in self.worlds[1:]), self.n_rounds]


def stream(
    table: FullFeedback,
    context: Context,
    *,
    trade_off: TradeOff | PerRound = QUALITY_ONLY,
    random_trade_off: bool = False,
    scenarios: Sequence[Scenario] = (),
    n_rounds: int | None = None,
    rng: np.random.Generator,
) -> Stream:
    """Return a table's prompts as a stream, in a random order.

    Order, trade-offs and delays are drawn apart: a scenario more leaves what has nothing to do with it as it was.

    Args:
        table: The outcome of every arm for every prompt.
        context: (n_prompts, n_features) of its prompts.
        trade_off: That of all rounds, or (n_rounds,) each round's lambda.
        random_trade_off: Draw each round's cost weight w evenly from [0, 1) instead: lambda = w / ((1 - w) tau) with
            tau the 95th percentile of the table's costs, and utility is scaled by 1 - w.
        scenarios: What changes, and when; at most one traffic shift and one delay.
        n_rounds: How many; by default one pass over the table. More are further passes, each in an order of its own.
        rng: What all of it is drawn from.

    Raises:
        InvalidParameterError: Context and table differ in length, a trade-off needs a cost that the table does not
            have, or a scenario does not fit the stream.
    """
    if context.ndim != 2 or len(context) != len(table):
        raise InvalidParameterError(f"context must have a row for each of {len(table)} prompts; got {context.shape}")
    n_rounds = len(table) if n_rounds is None else n_rounds
    if n_rounds < 1:
        raise InvalidParameterError(f"n_rounds must be >= 1; got {n_rounds}")
    events = tuple(each for each in scenarios if isinstance(each, Event))
    shift = _only([each for each in scenarios if isinstance(each, TrafficShift)])
    delay = _only([each for each in scenarios if isinstance(each, Delay)])
    last = max((each.at for each in scenarios if not isinstance(each, Delay)), default=0)
    if last >= n_rounds:
        raise InvalidParameterError(f"at of a scenario must be < {n_rounds}, the rounds there are; got {last}")
    table = _new_arms_last(table, events)
    order, rates, lags, halves = rng.spawn(4)

    if random_trade_off:
        if table.cost_usd is None or not (scale := float(np.quantile(table.cost_usd, 0.95))) > 0:
            raise InvalidParameterError("random trade-offs need a table with costs; got none")
        weight = rates.random(n_rounds)
        quality_per_usd, utility_scale = weight / ((1 - weight) * scale), 1 - weight
    else:
        given = trade_off.quality_per_usd if isinstance(trade_off, TradeOff) else np.asarray(trade_off)
        if np.shape(given) not in ((), (n_rounds,)) or not np.all(given >= 0):
            raise InvalidParameterError(f"trade_off must be one, or {n_rounds} numbers >= 0, one a round; got {given}")
        # One number for all rounds takes the place of one.
        quality_per_usd, utility_scale = np.broadcast_to(given, n_rounds), np.broadcast_to(1.0, n_rounds)
    if table.cost_usd is None and quality_per_usd.any():
        raise InvalidParameterError("trade_off must be 0 on a table without cost_usd; name the table's cost column")
    shifts = () if shift is None else (shift.at,)
    return Stream(
        table=table,
        context=context,
        row=_order(table, context, shift, n_rounds, order, halves),
        quality_per_usd=quality_per_usd,
        utility_scale=utility_scale,
        delay=_delays(delay, n_rounds, lags),
        events=tuple(sorted(events, key=lambda event: event.at)),
        worlds=tuple(world for world in worlds(events, table.arms, shifts=shifts) if world.start < n_rounds),
    )


def _only(scenarios: list[Kind]) -> Kind | None:
    if len(scenarios) > 1:
        raise InvalidParameterError(f"scenarios must hold at most one of its kind; got {scenarios}")
    return scenarios[0] if scenarios else None


def _new_arms_last(table: FullFeedback, events: Sequence[Event]) -> FullFeedback:
    """Return the table with new arms as its last columns: an arm's place is then the policy's, whenever it came."""
    arms = table.arms
    come = sorted((event for event in events if isinstance(event, NewArm)), key=lambda event: event.at)
    new = [arms.index(event.arm) for event in come]
    if len(set(new)) < len(new) or len(new) == len(arms):
        raise InvalidParameterError(f"an arm can be new once, and not all can; got {[event.arm for event in come]}")
    order = [*(arm for arm in range(len(arms)) if arm not in new), *new]
    if order == list(range(len(arms))):
        return table
    return replace(
        table,
        arms=ArmSet(tuple(arms.arms[arm] for arm in order)),
        quality=table.quality[:, order],
        cost_usd=None if table.cost_usd is None else table.cost_usd[:, order],
    )


def _order(
    table: FullFeedback,
    context: Context,
    shift: TrafficShift | None,
    n_rounds: int,
    rng: np.random.Generator,
    halves: np.random.Generator,
) -> NDArray[np.int64]:
    if shift is None:
        return _passes(np.arange(len(table)), n_rounds, rng)
    before = _half(table, context, by=shift.by, rng=halves)
    first = _passes(np.flatnonzero(before), shift.at, rng)
    return np.concatenate([first, _passes(np.flatnonzero(~before), n_rounds - shift.at, rng)])


def _passes(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    n_passes = -(-count // rows.size)
    return np.concatenate([rng.permutation(rows) for _ in range(n_passes)])[:count]


def _half(table: FullFeedback, context: Context, *, by: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which prompts come before a shift: whole groups drawn at random, some half of all prompts."""
    if by == "cluster":
        along = Components.of(context, n_components=1)(np.asarray(context, dtype=np.float64))[:, 0]
        below = along < np.median(along)
        if not below.any():
            raise InvalidParameterError("a traffic shift by cluster needs contexts that differ; got one side only")
        return np.asarray(below)
    if by not in table.extra.column_names:
        known = [*table.extra.column_names, "cluster"]
        raise InvalidParameterError(f"a traffic shift must be by one of {known}; got {by!r}")
    label = np.array([str(each) for each in table.extra[by].to_pylist()])
    labels, group, sizes = np.unique(label, return_inverse=True, return_counts=True)
    if labels.size < 2:
        raise InvalidParameterError(f"a traffic shift needs two groups; column {by!r} has {labels.tolist()}")
    drawn = rng.permutation(labels.size)
    # As many whole groups as come nearest to half, and not all.
    taken = 1 + int(np.abs(sizes[drawn].cumsum()[:-1] - len(table) / 2).argmin())
    return np.isin(group, drawn[:taken])


def _delays(delay: Delay | None, n_rounds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if delay is None:
        return np.broadcast_to(np.int64(0), n_rounds)
    rounds = rng.geometric(1 / (1 + delay.mean_rounds), n_rounds) - 1
    return np.where(rng.random(n_rounds) < delay.lost, NEVER, rounds)


def _utility(quality: PerArm, cost_usd: PerArm, quality_per_usd: PerRound) -> PerArm:
    """Return utilities at each round's trade-off; -cost_usd where only cost counts, as `TradeOff.utility`."""
    only_cost = np.isinf(quality_per_usd)[:, None]
    rate = np.where(only_cost, 0.0, quality_per_usd[:, None])
    return np.where(only_cost, -cost_usd, quality - rate * cost_usd)
