"""One unit of work: a stream of real prompts, one policy that learns from one pull a prompt, and what it then knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.online.paretobandit import BEST, COLD_START, ParetoBandit
from benchmarks.tables import EncodedTable
from benchmarks.units import CEILING, HINDSIGHT, LAMBDAS_SCALED, ORACLE
from pointsman.logs import FullFeedback
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.online.bandit import PooledThompson
from pointsman.online.base import OnlinePolicy
from pointsman.online.baselines import BASELINES
from pointsman.online.replay import Stream, replay, stream
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerArm, PerRound

HELD_OUT = 0.2
RANDOM = "random"
"""The dial at which every request brings a cost weight of its own, uniform in [0, 1]."""
DIALS = (*map(str, LAMBDAS_SCALED), RANDOM)
"""Dials: lambda in units of 1 / mean cost of the table's dearest arm, or `RANDOM`."""
SHIPPED_STREAM = "val-"
"""How the names of prompts begin in the part of ParetoBandit's own files that is the stream."""
N_CHECKPOINTS = 50
N_FOLDS = 10

DEFAULT = PooledThompson.name
PEER, PEER_COLD_START = ParetoBandit.name, "paretobandit-cold-start"
POLICIES = (DEFAULT, *BASELINES, PEER, PEER_COLD_START)
REFERENCES = (HINDSIGHT, CEILING, ORACLE)
"""What no policy can know: the best arm of all prompts of the stream (and of those held out), a ridge per arm on every
arm's outcomes, and the best arm of each prompt."""


@dataclass(frozen=True, kw_only=True, order=True)
class Unit:
    """What is replayed.

    Attributes:
        seed: Of the split, the order, the trade-offs and the draws. First, so that a run cut short is balanced.
        table: Name of the table.
        dial: One of `DIALS`.
        policy: One of `POLICIES` or `REFERENCES`.
    """

    seed: int
    table: str
    dial: str
    policy: str

    def __str__(self) -> str:
        return f"{self.table} lambda {self.dial} {self.policy} seed {self.seed}"


def dials_of(table: FullFeedback) -> tuple[str, ...]:
    """Return the dials a table can be judged at: quality alone where it has no cost."""
    return DIALS[:1] if table.cost_usd is None else DIALS


def split(encoded: EncodedTable, dial: str, *, seed: int) -> tuple[Stream, Stream]:
    """Return the stream of a seed and the prompts held out from it; the dial moves no prompt.

    ParetoBandit's own files are split as they ship: its validation part is the stream, its holdout is held out.
    """
    table = encoded.table
    dearest = 1.0 if table.cost_usd is None else float(table.cost_usd.mean(axis=0).max())
    whole = stream(
        table,
        encoded.features,
        trade_off=TradeOff(0.0 if dial == RANDOM else float(dial) / dearest),
        random_trade_off=dial == RANDOM,
        rng=np.random.default_rng(seed),
    )
    is_held_out = np.arange(len(table)) < round(HELD_OUT * len(table))
    if table.query_id[0].startswith(SHIPPED_STREAM):
        is_held_out = ~np.array([name.startswith(SHIPPED_STREAM) for name in table.query_id])[whole.row]
    return _part(whole, ~is_held_out), _part(whole, is_held_out)


def make_policy(name: str, learned: Stream, held_out: Stream, *, seed: int) -> OnlinePolicy:
    """Return a policy that has learned nothing.

    ParetoBandit, which cannot learn them, is told every arm's true mean cost and the components of the prompts held
    out (not their outcomes).
    """
    n_arms, n_features = len(learned.arms), learned.n_features
    if name in (PEER, PEER_COLD_START):
        cost_usd = learned.table.cost_usd
        return ParetoBandit(
            cost_usd=np.zeros(n_arms) if cost_usd is None else cost_usd.mean(axis=0),
            context=held_out.contexts(slice(None)),
            setting=COLD_START if name == PEER_COLD_START else BEST,
            seed=seed,
        )
    if name == DEFAULT:
        return PooledThompson(n_arms=n_arms, n_features=n_features)
    return BASELINES[name](n_arms=n_arms, n_features=n_features)  # type: ignore[call-arg]  # as every policy is made


def run_unit(unit: Unit, encoded: EncodedTable) -> dict[str, Any]:
    """Return what a policy or a reference earns, every policy seeing the same prompts and the same uniforms.

    Returns:
        `earned`, mean utility over the stream under the probabilities of each draw; `curve`, its sum up to each of
        `checkpoints`; `held_out`, mean utility of the probabilities it ends with on prompts it never saw;
        `held_out_greedy`, that of always taking its likeliest arm; of policies also `quality`, `cost_usd` and
        `seconds`, those of the stream.
    """
    with threadpool_limits(1):
        learned, held_out = split(encoded, unit.dial, seed=unit.seed)
        if unit.policy in REFERENCES:
            return _reference(unit.policy, learned, held_out)
        policy = make_policy(unit.policy, learned, held_out, seed=unit.seed)
        began = time.perf_counter()
        replayed = replay(policy, learned, seed=unit.seed)
        seconds = time.perf_counter() - began
        utility = _utility(held_out)
        probabilities = _ends_with(policy, held_out)
        return {
            **_earned(replayed.expected_utility),
            "held_out": float((probabilities * utility).sum(axis=1).mean()),
            "held_out_greedy": float(_chosen(utility, probabilities).mean()),
            "quality": float(replayed.quality.mean()),
            "cost_usd": float(replayed.cost_usd.mean()),
            "seconds": seconds,
        }


def _part(whole: Stream, rounds: NDArray[np.bool_]) -> Stream:
    return replace(
        whole,
        row=whole.row[rounds],
        quality_per_usd=whole.quality_per_usd[rounds],
        utility_scale=whole.utility_scale[rounds],
        delay=whole.delay[rounds],
    )


def _utility(requests: Stream) -> PerArm:
    return np.concatenate([chunk.utility for chunk in requests.chunks()])


def _ends_with(policy: OnlinePolicy, requests: Stream) -> PerArm:
    every_arm = np.ones(policy.n_arms, dtype=np.bool_)
    pairs = zip(requests.contexts(slice(None)), requests.quality_per_usd, strict=True)
    return np.array([policy.probabilities(context, TradeOff(float(rate)), every_arm) for context, rate in pairs])


def _reference(name: str, learned: Stream, held_out: Stream) -> dict[str, Any]:
    utility, best = _utility(learned), _utility(held_out)
    scores: dict[str, Callable[[], tuple[PerArm, PerArm]]] = {
        HINDSIGHT: lambda: (
            np.tile(utility.mean(axis=0), (len(utility), 1)),
            np.tile(best.mean(axis=0), (len(best), 1)),
        ),
        CEILING: lambda: (_out_of_fold(learned), _ridge(learned, np.arange(learned.n_rounds), held_out)),
        ORACLE: lambda: (utility, best),
    }
    on_stream, on_held_out = scores[name]()
    value = float(_chosen(best, on_held_out).mean())
    return {**_earned(_chosen(utility, on_stream)), "held_out": value, "held_out_greedy": value}


def _out_of_fold(requests: Stream) -> PerArm:
    """Return utilities predicted from full feedback, each tenth of the stream from the others."""
    fold = np.arange(requests.n_rounds) % N_FOLDS
    predicted = np.empty((requests.n_rounds, len(requests.arms)))
    for each in range(N_FOLDS):
        mine = fold == each
        predicted[mine] = _ridge(requests, np.flatnonzero(~mine), requests)[mine]
    return predicted


def _ridge(learned: Stream, rounds: NDArray[np.int64], asked: Stream) -> PerArm:
    rows, table = learned.row[rounds], learned.table
    contexts = learned.contexts(slice(None))[rounds], asked.contexts(slice(None))
    quality = _predicted(table.quality[rows], *contexts)
    if table.cost_usd is None:
        return quality
    return np.asarray(quality - asked.quality_per_usd[:, None] * _predicted(table.cost_usd[rows], *contexts))


def _predicted(outcomes: PerArm, context: Context, asked: Context) -> PerArm:
    only = np.zeros(len(context), dtype=np.int64)
    fitted = [PerArmRidge().fit(context, column, arm=only, n_arms=1) for column in outcomes.T]
    return np.column_stack([model.predict(asked)[:, 0] for model in fitted])


def _earned(utility: PerRound) -> dict[str, Any]:
    n = utility.size
    at = np.unique(np.linspace(n / N_CHECKPOINTS, n, N_CHECKPOINTS).round().astype(np.int64))
    return {"earned": float(utility.mean()), "checkpoints": at.tolist(), "curve": utility.cumsum()[at - 1].tolist()}


def _chosen(utility: PerArm, score: PerArm) -> PerRound:
    return np.asarray(utility[np.arange(len(utility)), score.argmax(axis=1)])
