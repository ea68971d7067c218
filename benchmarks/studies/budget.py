"""Does the pacer hold a budget, through price changes too, and is what it buys at least what ParetoBandit's buys?"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import MonteCarlo, Options, Report, command, map_logs
from benchmarks.tables import RESULTS, SHARED_DATA, encoded_table, missing, table_specs
from pointsman.errors import MissingDependencyError
from pointsman.online.bandit import PooledThompson
from pointsman.online.budget import Pacer
from pointsman.online.features import Components
from pointsman.trade_off import TradeOff

World = Literal["synthetic", "routerbench"]
Level = Literal["low", "middle", "high", "above all", "below all"]
Prices = Literal["steady", "x 10, told", "x 10, not told", "/ 10, told", "/ 10, not told"]
System = Literal["pointsman", "paretobandit", "paretobandit, its cost penalty"]

N_ROUNDS, N_SEEDS = 2_000, 10
N_FEATURES = 25
SHARES: dict[Level, float] = {"low": 0.4, "middle": 0.55, "high": 0.7}
"""Budgets, as shares of the way from the cheapest arm's mean cost to the dearest's, in logs."""
ABOVE, BELOW = 2.0, 0.5
"""A budget above all is so many times the dearest arm's mean cost, and never binds; one below all so many times the
cheapest's, and cannot be held."""
CHANGE = 10.0
TOKENS = 600
"""What the peer takes an answer to have; its prices are those at which so many cost what the arm does."""
STEADY_SLACK, CHANGED_SLACK = 0.004, 0.02
"""What may be owed after all rounds, over the budget of all, beside one call of the dearest arm: root mean square over
seeds. What is left to be spent counts as well at steady prices, and where a price has risen; after it has fallen, less
is wanted than the budget allows."""
WORSE_Z = 2.0
"""Standard errors by which the peer's quality may be ahead in a cell before it counts as better."""


class Cell(NamedTuple):
    """What varies: where, at which budget, and what prices do half way."""

    world: World
    level: Level
    prices: Prices


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Prompts in their order and the outcomes of all arms.

    Attributes:
        context: (n_rounds, N_FEATURES) whitened leading components.
        quality: (n_rounds, n_arms).
        cost_usd: (n_rounds, n_arms) at the prices of the beginning.
    """

    context: NDArray[np.float64]
    quality: NDArray[np.float64]
    cost_usd: NDArray[np.float64]

    def budget_usd(self, level: Level) -> float:
        """Return the budget of a request at a level."""
        mean = self.cost_usd.mean(axis=0)
        low, high = float(mean.min()), float(mean.max())
        if level in SHARES:
            return float(low ** (1 - SHARES[level]) * high ** SHARES[level])
        return ABOVE * high if level == "above all" else BELOW * low


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A stream, its prices and a budget.

    Attributes:
        stream: The stream.
        cost_usd: (n_rounds, n_arms) at the prices of each round.
        factor: (n_rounds,) price of the dearest arm, over that of the beginning.
        told: The arm whose price systems are told; None where they have to find out.
        budget_usd: Of a request.
        seed: Of what systems draw.
    """

    stream: Stream
    cost_usd: NDArray[np.float64]
    factor: NDArray[np.float64]
    told: int | None
    budget_usd: float
    seed: int

    def changes(self, i: int) -> bool:
        """Return whether systems are told of a new price before this round."""
        return self.told is not None and i > 0 and self.factor[i] != self.factor[i - 1]

    def judged(self, arms: NDArray[np.int64], *, debt_usd: float = 0.0, flagged: bool = False) -> Run:
        """Return what it is to have chosen these arms."""
        rows = np.arange(arms.size)
        relative = self.cost_usd[rows, arms] / self.budget_usd
        return Run(
            spend=float(relative.mean()),
            quality=float(self.stream.quality[rows, arms].mean()),
            most_debt=float(np.cumsum(relative - 1).max()),
            debt=debt_usd / (N_ROUNDS * self.budget_usd),
            call=float(self.cost_usd[N_ROUNDS // 2 :].mean(axis=0).max()) / (N_ROUNDS * self.budget_usd),
            flagged=flagged,
        )


class Run(NamedTuple):
    """What one system made of one stream."""

    spend: float
    """Mean, over the budget."""
    quality: float
    most_debt: float
    """Largest sum of what was spent over the budget so far, in budgets of one request."""
    debt: float = 0.0
    """What the pacer still owes, or has to its credit, at the end, over all that was allowed."""
    call: float = 0.0
    """What a call of the dearest arm costs at the end, over all that was allowed."""
    flagged: bool = False
    """Whether the pacer says that the budget cannot be held."""


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return how closely budgets are held, and what is bought with them."""
    reason = missing(table_specs(["routerbench"])[0], SHARED_DATA)
    if reason is not None:
        raise FileNotFoundError(reason)
    worlds: tuple[World, ...] = get_args(World)
    changes: tuple[Prices, ...] = get_args(Prices)[1:]
    cells = [
        *(Cell(world, level, "steady") for world in worlds for level in get_args(Level)),
        *(Cell(world, "middle", prices) for world in worlds for prices in changes),
    ]
    n_seeds = 2 if options.quick else N_SEEDS
    if options.quick:
        cells = cells[1:2]
    jobs = [(cell, seed) for cell in cells for seed in range(n_seeds)]
    runs = map_logs(_run, jobs, n_processes=options.n_processes, label="budget")
    found = {cell: [run for job, run in zip(jobs, runs, strict=True) if job[0] == cell] for cell in cells}
    return _report(found, n_seeds=n_seeds)


def stream(world: World, *, seed: int) -> Stream:
    """Return a synthetic world's stream, or a table's prompts in an order of this seed."""
    rng = np.random.default_rng([seed, 41])
    if world == "synthetic":
        return _synthetic(rng)
    context, quality, cost_usd = _table()
    rows = rng.permutation(context.shape[0])[:N_ROUNDS]
    return Stream(context=context[rows], quality=quality[rows], cost_usd=cost_usd[rows])


def _synthetic(rng: np.random.Generator, *, n_arms: int = 6) -> Stream:
    """Return prompts that are hard or easy, short or long, and arms whose costs go up a hundredfold with skill."""
    context = rng.normal(size=(N_ROUNDS, N_FEATURES))
    skill = np.linspace(-0.3, 2.2, n_arms) + 0.3 * rng.normal(size=n_arms)
    own = 0.5 * rng.normal(size=(N_FEATURES, n_arms)) / math.sqrt(N_FEATURES)
    chance = 1 / (1 + np.exp(-(skill - 1.6 * context[:, [0]] + context @ own)))
    length = 0.5 * context[:, [1]] + 0.4 * rng.normal(size=(N_ROUNDS, n_arms))
    quality = (rng.random(chance.shape) < chance).astype(np.float64)
    return Stream(context=context, quality=quality, cost_usd=np.geomspace(1e-4, 1e-2, n_arms) * np.exp(length))


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    encoded = encoded_table(
        table_specs(["routerbench"])[0], folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite", show_progress=True
    )
    components = Components.of(encoded.features, n_components=N_FEATURES)(
        np.asarray(encoded.features, dtype=np.float64)
    )
    assert encoded.table.cost_usd is not None
    return components / components.std(axis=0), encoded.table.quality, encoded.table.cost_usd


def _run(job: tuple[Cell, int]) -> dict[System, Run]:
    cell, seed = job
    problem = pose(cell, seed=seed)
    return {
        "pointsman": _pointsman(problem),
        "paretobandit": _paretobandit(problem, cost_penalty=0.0),
        "paretobandit, its cost penalty": _paretobandit(problem, cost_penalty=0.3),
    }


def pose(cell: Cell, *, seed: int) -> Problem:
    """Return the problem of a cell and seed."""
    drawn = stream(cell.world, seed=seed)
    factor = np.ones(N_ROUNDS)
    if cell.prices != "steady":
        factor[N_ROUNDS // 2 :] = CHANGE if cell.prices.startswith("x") else 1 / CHANGE
    dearest = int(drawn.cost_usd.mean(axis=0).argmax())
    cost_usd = drawn.cost_usd.copy()
    cost_usd[:, dearest] *= factor
    return Problem(
        stream=drawn,
        cost_usd=cost_usd,
        factor=factor,
        told=None if cell.prices.endswith("not told") else dearest,
        budget_usd=drawn.budget_usd(cell.level),
        seed=seed,
    )


def _pointsman(problem: Problem) -> Run:
    rng = np.random.default_rng([problem.seed, 42])
    context, quality, cost_usd = problem.stream.context, problem.stream.quality, problem.cost_usd
    policy = PooledThompson(n_arms=cost_usd.shape[1], n_features=N_FEATURES)
    pacer = Pacer(budget_usd_per_request=problem.budget_usd)
    arms = np.empty(N_ROUNDS, dtype=np.int64)
    for i in range(N_ROUNDS):
        if problem.told is not None and problem.changes(i):
            policy.set_price(problem.told, float(problem.factor[i]))
        arm = arms[i] = policy.decide(context[i], pacer.trade_off(TradeOff(0.0)), rng=rng).arm
        policy.update(context[i], int(arm), quality=float(quality[i, arm]), cost_usd=float(cost_usd[i, arm]))
        pacer.observe(float(cost_usd[i, arm]))
    report = pacer.report()
    # Credit of a pacer that does not bind is no miss: less is wanted than the budget allows.
    debt_usd = report.debt_usd if report.quality_per_usd > 0 else max(report.debt_usd, 0.0)
    return problem.judged(arms, debt_usd=debt_usd, flagged=not report.is_held)


def _paretobandit(problem: Problem, *, cost_penalty: float) -> Run:
    try:
        from pareto_bandit.budget_pacer import BudgetPacer
        from pareto_bandit.feature_service import FeatureService
        from pareto_bandit.router import BanditRouter
    except ImportError as error:
        raise MissingDependencyError("the study needs paretobandit: pip install 'pointsman[demo]'") from error
    price = problem.stream.cost_usd.mean(axis=0) / TOKENS * 1e6
    router = BanditRouter.create(
        model_registry={
            str(t): {"input_cost_per_m": float(each), "output_cost_per_m": float(each)} for t, each in enumerate(price)
        },
        feature_service=FeatureService.for_precomputed(N_FEATURES + 1),
        priors="none",
        cost_penalty=cost_penalty,
        budget_pacer=BudgetPacer(problem.budget_usd),
        bandit_seed=problem.seed,
    )
    arms = np.empty(N_ROUNDS, dtype=np.int64)
    for i in range(N_ROUNDS):
        if problem.told is not None and problem.changes(i):
            changed = float(price[problem.told] * problem.factor[i])
            router.update_model_pricing(str(problem.told), input_cost_per_m=changed, output_cost_per_m=changed)
        name, log = router.route(np.append(problem.stream.context[i], 1.0))
        arm = arms[i] = int(name)
        log.cost_usd = float(problem.cost_usd[i, arm])
        router.process_feedback(log.request_id, float(problem.stream.quality[i, arm]))
    return problem.judged(arms)


def _report(found: dict[Cell, list[dict[System, Run]]], *, n_seeds: int) -> Report:
    systems: tuple[System, ...] = get_args(System)
    rows = []
    for cell, runs in found.items():
        for system in systems:
            mine = [run[system] for run in runs]
            ahead = _ahead(runs, system)
            rows.append(
                [
                    cell.world,
                    cell.level,
                    cell.prices,
                    system,
                    f"{100 * _off(mine).mean():+.2f}",
                    f"{100 * _rms(mine):.2f}",
                    f"{100 * _owed(mine):.2f} ({100 * mine[0].call:.2f})" if system.startswith("pointsman") else "",
                    f"{max(run.most_debt for run in mine):.0f}",
                    f"{100 * np.mean([run.quality for run in mine]):.2f}",
                    "" if system == "pointsman" else f"{100 * ahead.value:+.2f} +- {100 * ahead.error:.2f}",
                ]
            )
    bound = {cell: runs for cell, runs in found.items() if cell.level in SHARES}
    ours = {cell: [run["pointsman"] for run in runs] for cell, runs in bound.items()}
    beside = {cell: _owed(runs) - float(np.mean([run.call for run in runs])) for cell, runs in ours.items()}
    steady = [beside[cell] for cell in bound if cell.prices == "steady"]
    risen = [beside[cell] for cell in bound if cell.prices.startswith("x")]
    fallen = [max(run.debt for run in ours[cell]) for cell in bound if cell.prices.startswith("/")]
    wanted = [float(_off(ours[cell]).mean()) for cell in bound if cell.prices.startswith("/")]
    off = {
        system: [
            float(_off([run[system] for run in runs]).mean()) for cell, runs in bound.items() if cell.prices == "steady"
        ]
        for system in systems
    }
    over, under = ({system: pick(each) for system, each in off.items()} for pick in (max, min))
    behind = [
        cell
        for cell, runs in bound.items()
        # A peer that overspends buys with what it was not given.
        if any(
            _ahead(runs, system).z() < -WORSE_Z and np.mean([run[system].spend for run in runs]) <= 1 + CHANGED_SLACK
            for system in systems[1:]
        )
    ]
    flagged = [run["pointsman"].flagged for cell, runs in found.items() if cell.level == "below all" for run in runs]
    false_flags = [
        run["pointsman"].flagged for cell, runs in found.items() if cell.level != "below all" for run in runs
    ]
    return Report(
        name="budget",
        asked="Does the pacer hold a budget, through price changes too, and buy at least what ParetoBandit's does?",
        found=f"After {N_ROUNDS:,} rounds at steady prices the default owes, or has left, at most {max(steady):.2%} of "
        f"the budget and one call of the dearest arm (root mean square over {n_seeds} seeds, worst of {len(steady)} "
        f"cells), after a tenfold rise of that arm's price {max(risen, default=math.nan):.2%}; after a tenfold fall it "
        f"owes at most {max(fallen, default=math.nan):.2%} in any run, and spends {min(wanted, default=math.nan):+.1%} "
        f"to {max(wanted, default=math.nan):+.1%} off the budget, as less is wanted. Mean spend at steady prices is "
        f"{under['pointsman']:+.1%} to {over['pointsman']:+.1%} off, ParetoBandit's {under['paretobandit']:+.1%} to "
        f"{over['paretobandit']:+.1%}. Quality is behind ParetoBandit's by more than {WORSE_Z:g} standard errors, "
        f"where that kept to its budget, in {len(behind)} of {len(bound)} cells.",
        holds=max(steady) <= STEADY_SLACK
        and max([*risen, *fallen], default=0.0) <= CHANGED_SLACK
        and not behind
        and all(flagged)
        and not any(false_flags),
        body=[
            f"Streams of {N_ROUNDS:,} prompts, {N_FEATURES} whitened components. *synthetic*: six arms of costs a "
            "hundredfold apart, new for every seed; *routerbench*: eleven arms and their real costs, prompts in an "
            f"order of the seed. *budget*: {', '.join(f'{share:g}' for share in SHARES.values())} of the way, in logs, "
            "from the cheapest arm's mean cost to the dearest's; "
            f"*above all* is {ABOVE:g} times the dearest's, *below all* {BELOW:g} times the cheapest's. The "
            "price of the dearest arm changes half way, and systems are told, or find out from costs. *pointsman*: "
            "`PooledThompson` and `Pacer`, defaults, base trade-off quality only, no price known beforehand. "
            "*paretobandit* 0.1.1: `BanditRouter` and `BudgetPacer` through their public names, defaults, no priors, "
            "prices known, with its static cost penalty at 0, as quality is all that is wanted within the budget, and "
            "at its default 0.3. Both learn from the same prompts in the same order.",
            "",
            "*off*: mean spend minus budget, in percent of the budget, mean and root mean square over seeds; it is "
            "below where less is wanted than the budget allows. *owed*: debt or credit that the pacer still has to "
            "work off, in percent of all that was allowed, root mean square, and in brackets a call of the dearest "
            "arm; *debt*: the most that had ever been overspent so far, in budgets of one request; quality x 100; "
            "*ahead*: Pointsman's quality minus this system's, x 100, paired by seed.",
            "",
            *grid(["world", "budget", "prices", "system", "off", "rms off", "owed", "debt", "quality", "ahead"], rows),
            f"A budget below all was flagged as one that cannot be held in {sum(flagged)} of {len(flagged)} runs, any "
            f"other in {sum(false_flags)} of {len(false_flags)}.",
        ],
    )


def _off(runs: list[Run]) -> NDArray[np.float64]:
    return np.array([run.spend - 1 for run in runs])


def _rms(runs: list[Run]) -> float:
    return float(np.sqrt(np.square(_off(runs)).mean()))


def _owed(runs: list[Run]) -> float:
    return float(np.sqrt(np.mean([run.debt**2 for run in runs])))


def _ahead(runs: list[dict[System, Run]], system: System) -> MonteCarlo:
    """Return by how much Pointsman's quality exceeds a system's, paired by seed."""
    return MonteCarlo.of(np.array([run["pointsman"].quality - run[system].quality for run in runs]))


if __name__ == "__main__":
    sys.exit(main())
