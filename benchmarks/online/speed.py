"""Time of deciding and learning, beside ParetoBandit and a plain LinUCB: `python -m benchmarks.online.speed --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.tables import RESULTS
from pointsman.arms import ArmSet
from pointsman.logs import FullFeedback
from pointsman.online.base import Vector
from pointsman.trade_off import TradeOff
from pointsman.types import Context

N_ARMS, N_FEATURES, N_DIRECTIONS = 11, 256, 24
N_PROMPTS = 20_000
N_WARM, N_TIMED = 2_200, 5_000
"""The default learns its components anew until round 2,048, which only the longest round shows."""
N_REPLAYED = 1_000_000
N_TURN = 100
"""Rounds that a contestant decides and learns before it is the next one's turn."""
TRADE_OFF = TradeOff(20.0)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something that decides and learns.

    Attributes:
        name: What the report calls it.
        decide: Returns an arm for a context, and what `update` needs besides.
        update: Learns the quality and the cost of the answer.
    """

    name: str
    decide: Callable[[Vector], tuple[int, Any]]
    update: Callable[[Vector, int, Any, float, float], object]


class ShermanMorrisonLinUCB:
    """LinUCB as it is written everywhere: an inverse and a coefficient vector an arm, rank-one updates, argmax.

    Args:
        n_arms: Number of arms.
        n_columns: Of the vectors it is given.
        alpha: Exploration.
    """

    def __init__(self, *, n_arms: int, n_columns: int, alpha: float = 0.5) -> None:
        self.inverse = np.tile(np.eye(n_columns), (n_arms, 1, 1))
        self.shift = np.zeros((n_arms, n_columns))
        self.coefficients = np.zeros((n_arms, n_columns))
        self.alpha = alpha

    def decide(self, x: Vector) -> int:
        """Return the arm of the highest upper bound."""
        variance = ((self.inverse @ x) * x).sum(axis=1)
        return int((self.coefficients @ x + self.alpha * np.sqrt(variance)).argmax())

    def update(self, x: Vector, arm: int, reward: float) -> None:
        """Learn a reward."""
        gain = self.inverse[arm] @ x
        self.inverse[arm] -= np.outer(gain, gain) / (1 + x @ gain)
        self.shift[arm] += reward * x
        self.coefficients[arm] = self.inverse[arm] @ self.shift[arm]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write `online-speed.md`, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online.speed", description=__doc__)
    add = parser.add_argument
    add("--timed", type=int, default=N_TIMED, metavar="N", help="rounds timed, after warming up [5,000]")
    add("--replayed", type=int, default=N_REPLAYED, metavar="N", help="rounds replayed for memory [1,000,000]; 0: none")
    add("--out", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the results")
    add("--measure", choices=sorted(_MEASURES), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        json.dump(_MEASURES[args.measure](args), sys.stdout)
        return 0
    # For the processes started below; this one computes nothing.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        text = _report(args)
    except subprocess.CalledProcessError as failed:
        print(f"error: {' '.join(failed.cmd)} failed:\n{failed.stderr}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "online-speed.md"
    path.write_text(text, encoding="utf-8")
    print(f"written: {path}", file=sys.stderr)
    return 0


def synthetic_table(n_prompts: int, *, rng: np.random.Generator) -> tuple[FullFeedback, Context]:
    """Return a table and its contexts: on the unit sphere and mostly in few directions, an arm's own line in each.

    Dearer arms are better on average; quality is binary.
    """
    directions = rng.standard_normal((N_DIRECTIONS, N_FEATURES)) / np.sqrt(N_FEATURES)
    context = rng.standard_normal((n_prompts, N_DIRECTIONS)) @ directions
    context += 0.3 / np.sqrt(N_FEATURES) * rng.standard_normal(context.shape)
    context /= np.linalg.norm(context, axis=1, keepdims=True)
    slopes = 2.0 * rng.standard_normal((N_FEATURES, N_ARMS))
    expected = 1 / (1 + np.exp(-(0.8 * np.linspace(-1, 1, N_ARMS) + context @ slopes)))
    table = FullFeedback(
        query_id=tuple(map(str, range(n_prompts))),
        prompt=tuple(map(str, range(n_prompts))),
        arms=ArmSet.named([f"model-{arm:02d}" for arm in range(N_ARMS)]),
        quality=(rng.random(expected.shape) < expected).astype(np.float64),
        cost_usd=np.logspace(-4.5, -2, N_ARMS) * np.exp(0.3 * rng.standard_normal(expected.shape)),
    )
    return table, context.astype(np.float32)


def contestants(cost_usd: Vector, context: Context) -> list[Contestant]:
    """Return the default, ParetoBandit and plain LinUCB, for contexts of the same size."""
    return [_default(), *_paretobandits(cost_usd, context), _plain()]


def timed(
    racing: Sequence[Contestant], table: FullFeedback, context: Context, *, n_rounds: int, n_turn: int
) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Return nanoseconds of every decision and update, contestant by contestant, in one run.

    All decide and learn the same `n_turn` rounds in turn, each on its own choices; who goes first changes from turn to
    turn. With turns of one round each finds its state driven from the processor's caches by the others'. It is the
    thread's CPU time, in which whatever else runs on the machine hardly shows.
    """
    quality, cost_usd = table.quality, table.cost_usd
    assert cost_usd is not None
    spent = {each.name: {part: np.zeros(n_rounds, dtype=np.int64) for part in ("decide", "update")} for each in racing}
    contexts = np.asarray(context, dtype=np.float64)
    clock = time.thread_time_ns
    for turn, start in enumerate(range(0, n_rounds, n_turn)):
        for place in range(len(racing)):
            each = racing[(turn + place) % len(racing)]
            decide, update = spent[each.name]["decide"], spent[each.name]["update"]
            for i in range(start, min(start + n_turn, n_rounds)):
                row = i % len(contexts)
                began = clock()
                arm, token = each.decide(contexts[row])
                decided = clock()
                each.update(contexts[row], arm, token, float(quality[row, arm]), float(cost_usd[row, arm]))
                learned = clock()
                decide[i], update[i] = decided - began, learned - decided
    return spent


def _default() -> Contestant:
    from pointsman.online.bandit import PooledThompson

    policy = PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES)
    rng = np.random.default_rng(0)
    eligible = np.ones(N_ARMS, dtype=np.bool_)
    return Contestant(
        name="pooled-thompson",
        decide=lambda x: (policy.decide(x, TRADE_OFF, eligible, rng=rng).arm, None),
        update=lambda x, arm, _, quality, cost_usd: policy.update(x, arm, quality=quality, cost_usd=cost_usd),
    )


def _paretobandits(cost_usd: Vector, context: Context) -> list[Contestant]:
    from pareto_bandit import BanditRouter, FeatureService

    from benchmarks.online.paretobandit import COLD_START, ParetoBandit

    whole = BanditRouter.create(
        model_registry={str(arm): {"blended_cost_per_m": float(1e6 * cost)} for arm, cost in enumerate(cost_usd)},
        priors="none",
        feature_service=FeatureService.for_precomputed(N_FEATURES + 1),
        bandit_seed=0,
    )
    few = ParetoBandit(cost_usd=cost_usd, context=context, setting=COLD_START, seed=0)

    def racing(name: str, router: BanditRouter, prepare: Callable[[Vector], Vector]) -> Contestant:
        def decide(x: Vector) -> tuple[int, str]:
            model, log = router.route(prepare(x), input_tokens=1)
            return int(model), log.request_id

        return Contestant(
            name=name,
            decide=decide,
            update=lambda _, __, request, quality, ___: router.process_feedback(request, quality),
        )

    return [
        racing(f"paretobandit, {N_FEATURES} features", whole, lambda x: np.append(x, 1.0)),
        racing("paretobandit, 25 components of them", few.router, few.features),
    ]


def _plain() -> Contestant:
    plain = ShermanMorrisonLinUCB(n_arms=N_ARMS, n_columns=N_FEATURES + 1)
    rate = TRADE_OFF.quality_per_usd
    return Contestant(
        name="plain LinUCB, numpy",
        decide=lambda x: (plain.decide(np.append(x, 1.0)), None),
        update=lambda x, arm, _, quality, cost_usd: plain.update(np.append(x, 1.0), arm, quality - rate * cost_usd),
    )


def _measure_rounds(args: argparse.Namespace) -> dict[str, Any]:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    table, context = synthetic_table(N_PROMPTS, rng=np.random.default_rng(0))
    assert table.cost_usd is not None
    found: dict[str, Any] = {}
    for n_turn in (N_TURN, 1):
        racing = contestants(table.cost_usd.mean(axis=0), context)
        for name, parts in timed(racing, table, context, n_rounds=N_WARM + args.timed, n_turn=n_turn).items():
            parts["both"] = parts["decide"] + parts["update"]
            found.setdefault(name, {})[str(n_turn)] = {
                part: [*np.percentile(ns[N_WARM:] / 1e3, [50, 99]).tolist(), float(ns.max() / 1e3)]
                for part, ns in parts.items()
            }
    return found


def _measure_replay(args: argparse.Namespace) -> dict[str, Any]:
    from pointsman.online.bandit import PooledThompson
    from pointsman.online.replay import replay, stream

    table, context = synthetic_table(N_PROMPTS, rng=np.random.default_rng(0))
    before = _peak_mib()
    requests = stream(table, context, trade_off=TRADE_OFF, n_rounds=args.replayed, rng=np.random.default_rng(1))
    policy = PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES)
    began = time.process_time()
    replayed = replay(policy, requests, seed=0)
    seconds = time.process_time() - began
    utility = replayed.expected_utility
    return {
        "cpu_seconds": seconds,
        "before_mib": before,
        "peak_mib": _peak_mib(),
        "first": float(utility[: utility.size // 10].mean()),
        "last": float(utility[-(utility.size // 10) :].mean()),
    }


_MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rounds": _measure_rounds,
    "replay": _measure_replay,
}


def _report(args: argparse.Namespace) -> str:
    found = _measured("rounds", args)
    rows = [
        [
            name,
            *(f"{value:,.0f}" for part in ("decide", "update", "both") for value in turns[str(N_TURN)][part]),
            f"{turns['1']['both'][0]:,.0f}",
        ]
        for name, turns in found.items()
    ]
    header = [f"{part} {what}" for part in ("decide", "update", "both") for what in ("p50", "p99", "longest")]
    header.append("both p50, caches cold")
    lines = [
        "# Speed of learning online",
        "",
        f"Microseconds of CPU time on one core ({platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, numpy {np.__version__}, one BLAS thread), {N_ARMS} arms, contexts of "
        f"{N_FEATURES} features that are ready: no encoder. One process, one run, in turns of {N_TURN} rounds: "
        f"{N_WARM:,} rounds to warm up, then {args.timed:,} timed; the longest is of all rounds. The last column is of "
        "turns of one round, in which each finds the processor's caches full of the others. The default serves "
        "any trade-off, learns cost, and returns the exact probability of its draw; the others return an argmax. Plain "
        "LinUCB learns the utility at one trade-off.",
        "",
        *grid(["", *header], rows),
    ]
    if args.replayed:
        replayed = _measured("replay", args)
        lines += [
            f"{args.replayed:,} rounds of the default replayed (`pointsman.online.replay`, {N_PROMPTS:,} prompts, pass "
            f"after pass): {replayed['cpu_seconds']:,.0f} CPU-s, "
            f"{1e6 * replayed['cpu_seconds'] / args.replayed:,.0f} us a round; peak memory "
            f"{replayed['peak_mib']:,.0f} MiB, {replayed['before_mib']:,.0f} of them before it began. Mean utility of "
            f"the first tenth {100 * replayed['first']:.1f}, of the last {100 * replayed['last']:.1f} (x 100).",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _measured(measure: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.online.speed", "--measure", measure]
    command += ["--timed", str(args.timed), "--replayed", str(args.replayed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ourselves
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    sys.exit(main())
