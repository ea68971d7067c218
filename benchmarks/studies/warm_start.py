"""Is a thousand logged rounds a head start for the bandit, and how soon is a misleading one forgotten?"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import Mean
from benchmarks.markdown import grid
from benchmarks.studies.routers import fitted
from benchmarks.studies.table import Options, Report, command, map_logs
from benchmarks.tables import RESULTS, SHARED_DATA, encoded_table, table_specs
from pointsman.errors import StatisticalWarning
from pointsman.logs import FullFeedback, simulate
from pointsman.online.bandit import PooledThompson
from pointsman.online.replay import QualityRegression, replay, stream
from pointsman.online.warm_start import warm_start
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerRound

Start = Literal["cold", "uniform", "confounded"]
World = Literal["as logged", "misleading"]

DIALS: Mapping[str, tuple[float, ...]] = {
    "routerbench": (0.0, 0.1),
    "llmrouter": (0.0,),
    "routerdc": (0.0,),
    "paretobandit": (0.0,),
}
"""Dials of each table: lambda in units of 1 / mean cost of its dearest arm."""
LOGGERS: tuple[Start, ...] = ("uniform", "confounded")
N_LOGGED, N_SEEDS = 1_000, 10
HORIZONS = (100, 300, 500, 1_000, 1_500)
FIFTH = 5
"""The rank of the arm that the log's best one changes places with; the last where a table has fewer."""
WINDOW, FORGOTTEN_BY = 100, 500


class Job(NamedTuple):
    """One draw of a log, and of a stream of the prompts that are not in it."""

    table: str
    seed: int


class Key(NamedTuple):
    """What was run, but for the seed."""

    table: str
    dial: float
    world: World
    start: Start


Curves = Mapping[Key, NDArray[np.float64]]
"""Utility x 100 of every round, (n_seeds, n_rounds), under the probabilities of each draw."""


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return what warm starts earn above cold ones."""
    tables = list(DIALS)[-1:] if options.quick else list(DIALS)
    jobs = [Job(table, seed) for seed in range(2 if options.quick else N_SEEDS) for table in tables]
    found = map_logs(run, jobs, n_processes=options.n_processes, label="warm start")
    curves: dict[Key, list[PerRound]] = {}
    for each in found:
        for key, utility in each.items():
            curves.setdefault(key, []).append(utility)
    return report({key: np.array(each) for key, each in curves.items()})


def run(job: Job) -> dict[Key, PerRound]:
    """Return the utility of every round of cold and warm starts, in a world as logged and in one that is not.

    All of them see the same prompts and the same uniforms.
    """
    [spec] = table_specs([job.table])
    encoded = encoded_table(spec, folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite")
    table, features = encoded.table, encoded.features
    bandits = {start: _bandit(table, features, start, seed=job.seed) for start in LOGGERS}
    rest = simulate(table, logger="uniform", share=N_LOGGED / len(table), seed=job.seed).rest_index
    found: dict[Key, PerRound] = {}
    for dial in DIALS[job.table]:
        trade_off = TradeOff(dial / _dearest(table))
        best, fifth = swapped(table, trade_off)
        worlds: dict[World, list[QualityRegression]] = {
            "as logged": [],
            "misleading": [QualityRegression(at=0, arm=best, swap_with=fifth)],
        }
        for world, scenarios in worlds.items():
            requests = stream(
                table.take(rest),
                features[rest],
                trade_off=trade_off,
                scenarios=scenarios,
                n_rounds=HORIZONS[-1],
                rng=np.random.default_rng([job.seed, 61]),
            )
            starts: dict[Start, PooledThompson] = {
                "cold": PooledThompson(n_arms=len(table.arms), n_features=features.shape[1]),
                **{start: PooledThompson.from_state(*bandit.state()) for start, bandit in bandits.items()},
            }
            for start, bandit in starts.items():
                played = replay(bandit, requests, seed=job.seed)
                found[Key(job.table, dial, world, start)] = 100 * played.expected_utility
    return found


def swapped(table: FullFeedback, trade_off: TradeOff) -> tuple[str, str]:
    """Return the arm of the highest mean utility, and that of the fifth highest or the last."""
    order = np.argsort(-_mean_utility(table, trade_off))
    return table.arms.names[order[0]], table.arms.names[order[min(FIFTH, order.size) - 1]]


def rounds_until_level(difference: NDArray[np.float64]) -> int | None:
    """Return the first round at whose end the last `WINDOW` bring no less, on average over seeds; None if never.

    Args:
        difference: (n_seeds, n_rounds) utility less that of the cold start.
    """
    moving = np.convolve(difference.mean(axis=0), np.full(WINDOW, 1 / WINDOW), mode="valid")
    level = np.flatnonzero(moving >= 0)
    return int(level[0]) + WINDOW if level.size else None


def report(curves: Curves) -> Report:
    """Return the report of what was found."""
    ahead = {key: curves[key] - curves[key._replace(start="cold")] for key in curves if key.start != "cold"}
    straight = {key: each for key, each in ahead.items() if key.world == "as logged"}
    misled = {key: each for key, each in ahead.items() if key.world == "misleading"}
    gains = {key: [Mean.of(each[:, :h].mean(axis=1)) for h in HORIZONS] for key, each in straight.items()}
    over_tables = {start: _over_tables(straight, start) for start in LOGGERS}
    cells = [gain for each in gains.values() for gain in each]
    surely_ahead = sum(gain.value - gain.half_width > 0 for gain in cells)
    surely_behind = sum(gain.value + gain.half_width < 0 for gain in cells)
    until = {key: rounds_until_level(each) for key, each in misled.items()}
    late = [key for key, rounds in until.items() if rounds is None or rounds > FORGOTTEN_BY]
    after = {key: Mean.of(each[:, FORGOTTEN_BY:].mean(axis=1)) for key, each in misled.items()}
    lasting = [key for key, each in after.items() if each.value + each.half_width < 0]
    pooled = [gain for each in over_tables.values() for gain in each]
    n_seeds = min(len(each) for each in ahead.values())
    return Report(
        name="warm_start",
        asked=f"Does a bandit that starts from {N_LOGGED:,} logged rounds earn more than a cold one at every horizon, "
        f"and is a misleading start forgotten within {FORGOTTEN_BY} rounds?",
        found=f"Ahead of the cold start by its 95% interval in {surely_ahead} of {len(cells)} cells of table, dial, "
        f"logger and horizon, behind by it in {surely_behind}, and behind in the mean in "
        f"{sum(gain.value <= 0 for gain in cells)}; over tables the lead falls from "
        f"{min(each[0].value for each in over_tables.values()):+.1f} points or more in the first {HORIZONS[0]} rounds "
        f"to {min(each[-1].value for each in over_tables.values()):+.2f} or more a round over {HORIZONS[-1]:,}. "
        f"Misled, the start is level with the cold one within {FORGOTTEN_BY} rounds in {len(until) - len(late)} of "
        f"{len(until)} cells, and after them still behind it by its interval in {len(lasting)}.",
        holds=all(gain.value > 0 for gain in cells)
        and all(gain.value - gain.half_width > 0 for gain in pooled)
        and not late
        and not lasting,
        body=[
            f"{n_seeds} seeds; each draws a log of {N_LOGGED:,} prompts, their arms by the `uniform` or the "
            f"`confounded` logger of `simulate`, and a stream of {HORIZONS[-1]:,} other prompts. A router is fitted on "
            "the log (`fit`, method `auto`), and `online.warm_start.warm_start` has `pooled-thompson` begin with both; "
            "the cold start is the same bandit. All see the same prompts and the same uniforms. Dials: lambda in units "
            "of 1 / mean cost of the table's dearest arm. Utility is x 100, expected under the probabilities of each "
            "draw; intervals are Student's, 95%, of differences paired by seed. It holds where every cell's mean lies "
            "above zero, the interval over tables does at every horizon, and every misleading start is level with the "
            f"cold one within {FORGOTTEN_BY} rounds and not surely behind it after them.",
            "",
            "Warm minus cold, mean utility a round over the first rounds of the stream; over tables each dial counts "
            "alike:",
            "",
            *grid(
                ["table", "dial", "logger", *(f"{h:,} rounds" for h in HORIZONS)],
                [
                    *(
                        [key.table, f"{key.dial:g}", key.start, *(_interval(gain) for gain in each)]
                        for key, each in gains.items()
                    ),
                    *(
                        ["all", "all", start, *(_interval(gain) for gain in each)]
                        for start, each in over_tables.items()
                    ),
                ],
            ),
            "Misleading: from the first round of the stream on, the arm of the table's highest mean utility and that "
            f"of the {FIFTH}th (the last of four on `paretobandit`) have each other's qualities. *Level*: the first "
            f"round at whose end the last {WINDOW} bring no less than the cold start's, on average over seeds, "
            f"{WINDOW} at the earliest. The cold start explores in the first rounds, so that being level with it there "
            "is not yet to have forgotten: what comes after tells. Differences are a round; *total* is their sum over "
            "the stream.",
            "",
            *grid(
                [
                    "table",
                    "dial",
                    "logger",
                    "level after",
                    f"rounds 1 to {WINDOW}",
                    f"rounds {FORGOTTEN_BY - WINDOW + 1} to {FORGOTTEN_BY}",
                    f"rounds {FORGOTTEN_BY + 1} to {HORIZONS[-1]:,}",
                    "total",
                ],
                [
                    [
                        key.table,
                        f"{key.dial:g}",
                        key.start,
                        "never" if until[key] is None else f"{until[key]:,}",
                        _interval(Mean.of(each[:, :WINDOW].mean(axis=1))),
                        _interval(Mean.of(each[:, FORGOTTEN_BY - WINDOW : FORGOTTEN_BY].mean(axis=1))),
                        _interval(after[key]),
                        _interval(Mean.of(each.sum(axis=1)), digits=0),
                    ]
                    for key, each in misled.items()
                ],
            ),
        ],
    )


def _bandit(table: FullFeedback, features: Context, start: Start, *, seed: int) -> PooledThompson:
    """Return the bandit as a log of this logger, and the router fitted on it, have it begin."""
    assert start != "cold"
    drawn = simulate(table, logger=start, share=N_LOGGED / len(table), seed=seed, features=features)
    context = features[drawn.train_index]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        router = fitted(drawn.log, None, context, correction="hierarchical", seed=seed, gold=table.quality_source)
    assert router.arms.names == table.arms.names
    return warm_start(
        PooledThompson(n_arms=len(table.arms), n_features=features.shape[1]),
        router.policy,
        context,
        drawn.log.arm,
        quality=drawn.log.quality,
        cost_usd=drawn.log.cost_usd,
    )


def _over_tables(straight: Curves, start: Start) -> list[Mean]:
    mean = np.mean([each for key, each in straight.items() if key.start == start], axis=0)
    return [Mean.of(mean[:, :h].mean(axis=1)) for h in HORIZONS]


def _dearest(table: FullFeedback) -> float:
    return 1.0 if table.cost_usd is None else float(table.cost_usd.mean(axis=0).max())


def _mean_utility(table: FullFeedback, trade_off: TradeOff) -> NDArray[np.float64]:
    cost_usd = np.zeros_like(table.quality) if table.cost_usd is None else table.cost_usd
    return np.asarray(trade_off.utility(quality=table.quality, cost_usd=cost_usd).mean(axis=0))


def _interval(each: Mean, *, digits: int = 2) -> str:
    return f"{each.value:+.{digits}f} ± {each.half_width:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
