"""A policy replayed on a stream: it decides, sees what came of its choice, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pointsman.errors import InvalidParameterError
from pointsman.logs import LoggedRounds
from pointsman.online.base import OnlinePolicy
from pointsman.online.replay.scenarios import NewArm, PriceCut, World
from pointsman.online.replay.stream import NEVER, Stream
from pointsman.ope import TrueValue, score_policy
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, Context, Eligible, PerArm, PerRound

Progress = Callable[[int, float], None]
"""Told, now and then, how many rounds are done and the mean utility so far."""


class Pacer(Protocol):
    """What keeps spending to a budget by moving the trade-off."""

    def trade_off(self, base: TradeOff) -> TradeOff:
        """Return the trade-off to decide at, where a request asks for `base`."""

    def observe(self, cost_usd: float) -> None:
        """Learn what the request cost; NaN where that is not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """What a policy chose on a stream, and what came of it.

    Attributes:
        policy: Its name.
        stream: The stream.
        arm: (n_rounds,) arm chosen.
        propensity: (n_rounds,) the probability it was drawn with.
        quality: (n_rounds,) quality of its answer, whether the policy got to know it or not.
        cost_usd: (n_rounds,) its cost; zero where the table has none.
        utility: (n_rounds,) utility at the trade-off that was asked for, times the round's scale.
        expected_utility: (n_rounds,) the same under the policy's probabilities: without the luck of the draw.
        quality_per_usd: (n_rounds,) lambda of the decision: what was asked for, or what a pacer made of it.
        scored_cost_usd: What new arms' scored prompts cost, which is not in `cost_usd`.
    """

    policy: str
    stream: Stream
    arm: ArmIndex
    propensity: PerRound
    quality: PerRound
    cost_usd: PerRound
    utility: PerRound
    expected_utility: PerRound
    quality_per_usd: PerRound
    scored_cost_usd: float

    @property
    def regret(self) -> PerRound:
        """Utility lost to the oracle up to each round, its own included."""
        return np.asarray((self.stream.oracle.utility - self.utility).cumsum())

    @property
    def regret_to_best_fixed(self) -> PerRound:
        """Utility lost to the best single arm in hindsight up to each round; negative where more was gained."""
        return np.asarray((self.stream.best_fixed.utility - self.utility).cumsum())

    @property
    def spend_usd(self) -> PerRound:
        """What was spent up to each round."""
        return np.asarray(self.cost_usd.cumsum())

    @property
    def shares(self) -> PerRound:
        """(n_arms,) share of the rounds that each arm answered."""
        return np.asarray(np.bincount(self.arm, minlength=len(self.stream.arms)) / self.arm.size)

    def to_log(
        self, *, start: datetime | None = None, seconds_per_round: float = 1.0, embeddings: bool = False
    ) -> LoggedRounds:
        """Return the log that the policy would have left: what it saw, with the propensities it drew by.

        A quality that had not arrived by the end is null. Extra columns of the table are kept, and
        `quality_per_usd` is the trade-off of each decision.

        Args:
            start: When the first round was; no time stamps where None.
            seconds_per_round: Time between rounds.
            embeddings: Whether rounds hold their context rather than their prompt.
        """
        stream, table = self.stream, self.stream.table
        n = stream.n_rounds
        row = pa.array(stream.row)
        names = pa.array(stream.arms.names, pa.large_string())
        arrives = np.arange(n) + stream.delay
        known = (stream.delay != NEVER) & (arrives < n)
        columns: dict[str, Any] = {
            "round_id": [f"{self.policy}-{i}" for i in range(n)],
            "model": names.take(pa.array(self.arm)),
            "propensity": self.propensity,
            "quality": np.where(known, self.quality, np.nan),
            "cost_usd": pa.nulls(n, pa.float64()) if table.cost_usd is None else self.cost_usd,
            "quality_source": [table.quality_source] * n,
        }
        if embeddings:
            columns["embedding"] = np.asarray(stream.context[stream.row], dtype=np.float32)
        else:
            columns["prompt"] = pa.array(table.prompt, pa.large_string()).take(row)
        if any(not world.eligible.all() for world in stream.worlds):
            ends = [*(world.start for world in stream.worlds[1:]), n]
            lists = [names.filter(pa.array(world.eligible)).to_pylist() for world in stream.worlds]
            counts = [end - world.start for world, end in zip(stream.worlds, ends, strict=True)]
            columns["eligible_models"] = pa.array(lists).take(pa.array(np.repeat(np.arange(len(lists)), counts)))
        if start is not None:
            columns["timestamp"] = [start + timedelta(seconds=i * seconds_per_round) for i in range(n)]
        kept = [name for name in table.extra.column_names if name not in columns]
        columns |= {name: table.extra[name].combine_chunks().take(row) for name in kept}
        # A trade-off of infinity, cost only, has no place in JSON lines.
        columns["quality_per_usd"] = np.where(np.isinf(self.quality_per_usd), np.nan, self.quality_per_usd)
        return LoggedRounds.from_columns(source=f"log of {self.policy}", arms=stream.arms, **columns)


def replay(
    policy: OnlinePolicy,
    stream: Stream,
    *,
    seed: int,
    pacer: Pacer | None = None,
    progress: Progress | None = None,
) -> Replayed:
    """Let a policy decide every round of a stream, and learn from what came of it.

    Round by round: events happen, qualities that are due arrive, the policy decides by one uniform of its own
    generator, the cost of its choice is known at once and the quality after the round's delay. Policies replayed with
    one seed on one stream see the same prompts and the same uniforms, so that their difference is theirs alone.

    Args:
        policy: With the arms that the stream starts with; it has learned when this returns.
        stream: The requests.
        seed: Of the uniforms.
        pacer: Asked for the trade-off of each decision, and told its cost. Utility is measured at the request's own.
        progress: Told how far it is.

    Raises:
        InvalidParameterError: The policy has another number of arms or features than the stream.
    """
    if (policy.n_arms, policy.n_features) != (stream.n_arms_at_start, stream.n_features):
        raise InvalidParameterError(
            f"policy must have {stream.n_arms_at_start} arms and {stream.n_features} features, as the stream starts; "
            f"got {policy.n_arms} and {policy.n_features}"
        )
    return _Run(policy, stream, pacer=pacer).finish(np.random.default_rng(seed), progress)


def policy_value(
    policy: OnlinePolicy,
    *,
    context: Context,
    quality: PerArm,
    cost_usd: PerArm | None,
    trade_off: TradeOff,
    eligible: Eligible | None = None,
    greedy: bool = False,
) -> TrueValue:
    """Return the true value of a policy as it now stands, on prompts of full feedback; it learns nothing from them.

    Args:
        policy: The policy.
        context: (n_prompts, n_features).
        quality: (n_prompts, n_arms) of every arm.
        cost_usd: (n_prompts, n_arms) of every arm; None where there is none.
        trade_off: Of all requests.
        eligible: (n_prompts, n_arms); all arms where None. Oracle and best single arm are those of all arms.
        greedy: Always choose the likeliest arm, and so explore no more; else the mean under the probabilities.
    """
    allowed = np.ones(quality.shape, dtype=np.bool_) if eligible is None else eligible
    probabilities = np.empty(quality.shape)
    for i, mask in enumerate(allowed):
        probabilities[i] = policy.probabilities(np.asarray(context[i], dtype=np.float64), trade_off, mask)
    if greedy:
        probabilities = np.eye(quality.shape[1])[probabilities.argmax(axis=1)]
    cost = np.full_like(quality, np.nan) if cost_usd is None else cost_usd
    return score_policy(quality=quality, cost_usd=cost, target_probs=probabilities, trade_off=trade_off)


class _Run:
    """One policy on its way through one stream."""

    def __init__(self, policy: OnlinePolicy, stream: Stream, *, pacer: Pacer | None) -> None:
        self.policy, self.stream, self.pacer = policy, stream, pacer
        n = stream.n_rounds
        self.arm = np.empty(n, dtype=np.int64)
        self.propensity, self.expected_utility, self.quality_per_usd = (np.empty(n) for _ in range(3))
        self.quality, self.cost_usd, self.utility = (np.empty(n) for _ in range(3))
        # Rounds whose quality is on its way, by the round before which it arrives.
        self.due: dict[int, list[int]] = {}
        # What a policy takes for an arm's first price is the one at which it came to know it.
        self.first_price = stream.worlds[0].cost_factor.copy()
        self.scored_cost_usd = 0.0

    def finish(self, rng: np.random.Generator, progress: Progress | None) -> Replayed:
        """Play all rounds."""
        stream, policy = self.stream, self.policy
        has_cost = stream.table.cost_usd is not None
        total = 0.0
        for chunk in stream.chunks():
            if chunk.rounds.start == chunk.world.start:
                self._happen(chunk.world)
            eligible = chunk.world.eligible[: policy.n_arms]
            contexts = stream.contexts(chunk.rounds)
            for j, i in enumerate(range(chunk.rounds.start, chunk.rounds.stop)):
                for earlier in self.due.pop(i, ()):
                    self._learn_late(earlier)
                trade_off = self._trade_off(i)
                choice = policy.decide(contexts[j], trade_off, eligible, rng=rng)
                arm = choice.arm
                quality, cost_usd = float(chunk.quality[j, arm]), float(chunk.cost_usd[j, arm])
                self.arm[i], self.propensity[i] = arm, choice.propensity
                self.quality[i], self.cost_usd[i], self.utility[i] = quality, cost_usd, chunk.utility[j, arm]
                self.expected_utility[i] = choice.probabilities @ chunk.utility[j, : policy.n_arms]
                self.quality_per_usd[i] = trade_off.quality_per_usd
                if self.pacer is not None:
                    self.pacer.observe(cost_usd if has_cost else math.nan)
                delay = int(stream.delay[i])
                if delay > 0:
                    self.due.setdefault(i + delay, []).append(i)
                if delay == 0 or has_cost:
                    policy.update(
                        contexts[j],
                        arm,
                        quality=quality if delay == 0 else math.nan,
                        cost_usd=cost_usd if has_cost else math.nan,
                        trade_off=trade_off,
                    )
            total += float(self.utility[chunk.rounds].sum())
            if progress is not None:
                progress(chunk.rounds.stop, total / chunk.rounds.stop)
        return Replayed(
            policy=policy.name,
            stream=stream,
            arm=self.arm,
            propensity=self.propensity,
            quality=self.quality,
            cost_usd=self.cost_usd,
            utility=self.utility,
            expected_utility=self.expected_utility,
            quality_per_usd=self.quality_per_usd,
            scored_cost_usd=self.scored_cost_usd,
        )

    def _trade_off(self, i: int) -> TradeOff:
        asked = TradeOff(float(self.stream.quality_per_usd[i]))
        return asked if self.pacer is None else self.pacer.trade_off(asked)

    def _learn_late(self, i: int) -> None:
        self.policy.update(
            self.stream.contexts(slice(i, i + 1))[0],
            int(self.arm[i]),
            quality=float(self.quality[i]),
            trade_off=TradeOff(float(self.quality_per_usd[i])),
        )

    def _happen(self, world: World) -> None:
        """Tell the policy what it is to know of the events that the world starts with."""
        policy, stream = self.policy, self.stream
        now = [event for event in stream.events if event.at == world.start]
        for event in now:
            if isinstance(event, NewArm):
                arm = policy.add_arm(event.belief(stream.arms))
                self.first_price[arm] = world.cost_factor[arm]
                self._learn_scored(arm, world, n_scored=event.scored)
        for event in now:
            arm = stream.arms.index(event.arm)
            if isinstance(event, PriceCut) and event.told and arm < policy.n_arms:
                policy.set_price(arm, float(world.cost_factor[arm] / self.first_price[arm]))

    def _learn_scored(self, arm: int, world: World, *, n_scored: int) -> None:
        rounds = slice(world.start - n_scored, world.start)
        scored = self.stream.look_up(rounds, world)
        contexts = self.stream.contexts(rounds)
        has_cost = self.stream.table.cost_usd is not None
        for j, i in enumerate(range(rounds.start, rounds.stop)):
            cost_usd = float(scored.cost_usd[j, arm])
            self.policy.update(
                contexts[j],
                arm,
                quality=float(scored.quality[j, arm]),
                cost_usd=cost_usd if has_cost else math.nan,
                trade_off=TradeOff(float(self.stream.quality_per_usd[i])),
            )
            self.scored_cost_usd += cost_usd
