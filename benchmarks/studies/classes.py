"""How do the estimators do on classification data turned into logs, under friendly and adversarial loggers?"""

from __future__ import annotations

import math
import sys
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import MonteCarlo, Options, Report, bonferroni_z, command, map_logs
from benchmarks.studies.worlds import CLASS_LOGGERS, ClassLogger, World, class_world
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope.diagnostics import gate
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import dm, dr, importance_weights, ips, sndr, snips
from pointsman.ope.selection import tuned

DATA = ("digits", "breast cancer", "wine")
N_LOGS = 1_000
N_ROUNDS = 1_000
CHUNK = 50
LEVEL = 0.95
LEAST_JUDGED = 100
FAMILY = 0.01
"""Chance that any judged cell fails though all is well."""

UNBIASED = ("IPS", "DR")
WITH_INTERVAL = ("IPS", "SNIPS", "DR", "SNDR")
NAMES = ("DM", *WITH_INTERVAL, "switch-DR", "DRos")


class Cell(NamedTuple):
    """Where logs come from."""

    data: str
    logger: ClassLogger


class Job(NamedTuple):
    """Some logs of a cell."""

    cell: Cell
    first: int
    n_logs: int


class Found(NamedTuple):
    """What the estimators did on several logs; (n_logs, n_estimators) each, and (n_logs,) for the log itself."""

    error: NDArray[np.float64]
    covered: NDArray[np.bool_]
    width: NDArray[np.float64]
    is_open: NDArray[np.bool_]
    effective: NDArray[np.float64]


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return bias, root mean square error, coverage and width by data set and logger."""
    n_logs = 50 if options.quick else N_LOGS
    cells = [Cell(data, logger) for data in (DATA[1:] if options.quick else DATA) for logger in CLASS_LOGGERS]
    jobs = [Job(cell, first, min(CHUNK, n_logs - first)) for cell in cells for first in range(0, n_logs, CHUNK)]
    parts: dict[Cell, list[Found]] = {cell: [] for cell in cells}
    for job, done in zip(jobs, map_logs(simulate, jobs, n_processes=options.n_processes, label="classes"), strict=True):
        parts[job.cell].append(done)
    by_cell = {cell: Found(*(np.concatenate(x) for x in zip(*found, strict=True))) for cell, found in parts.items()}
    bias_z = {
        (cell, name): MonteCarlo.of(found.error[:, NAMES.index(name)]).z()
        for cell, found in by_cell.items()
        for name in UNBIASED
    }
    worst_z = max(abs(z) for z in bias_z.values())
    misses, n_judged = _misses(by_cell)
    gains = [_rms(found, "DR") / _rms(found, "IPS") for found in by_cell.values()]
    rms_dm = [_rms(found, "DM") / _rms(found, "DR") for found in by_cell.values()]
    return Report(
        name="classes",
        asked="On classification data turned into logs, are IPS and DR unbiased and their intervals right, whoever "
        "logs?",
        found=f"The largest mean error of IPS and DR is {worst_z:.2f} Monte Carlo standard errors over {len(bias_z)} "
        f"cells; of {n_judged} cells with an open gate {len(misses)} miss the binomial band of their {n_logs:,} logs "
        f"(for all at once); DR's root mean square error is {min(gains):.2f} to {max(gains):.2f} times that of "
        "IPS, and "
        f"the direct method's {min(rms_dm):.1f} to {max(rms_dm):.1f} times that of DR.",
        holds=worst_z < bonferroni_z(len(bias_z)) and not misses,
        body=[
            f"Logs of {N_ROUNDS:,} rounds, drawn with replacement from the rows that neither the target's nor the "
            "logger's classifier learned from (`worlds.class_world`; Dudik et al. 2014), so that the truth is a mean "
            "over them. An arm is a class and its outcome whether it is the row's. The target plays a logit's "
            "class nine "
            "times in ten; the friendly logger plays a weaker logit's class with probability 0.7 to 0.9, the "
            "adversarial one avoids it as often. Outcome model: cross-fitted ridge per arm. switch-DR and DRos "
            "are tuned "
            f"on each log. Errors x 100; coverage of the {LEVEL:.0%} normal interval in percent, over all logs "
            "and over "
            "those with an open gate (↓ and ↑: outside the 99% binomial band). DM has no interval, and those of "
            "switch-DR and DRos are widened by their bias bound.",
            "",
            *(["## Where it misses", "", *(f"- {text}" for text in misses), ""] if misses else []),
            *(line for cell, found in by_cell.items() for line in _table(cell, found)),
        ],
    )


def simulate(job: Job) -> Found:
    """Draw logs and return what the estimators did on them."""
    world = _world(job.cell)
    target = world.targets[0]
    truth = world.value(target)
    shape = (job.n_logs, len(NAMES))
    error, covered, width, is_open = (
        np.empty(shape),
        np.zeros(shape, bool),
        np.full(shape, np.nan),
        np.zeros(shape, bool),
    )
    effective = np.empty(job.n_logs)
    for place, seed in enumerate(range(job.first, job.first + job.n_logs)):
        drawn = world.draw(N_ROUNDS, rng=np.random.default_rng([seed, CLASS_LOGGERS.index(job.cell.logger), 11]))
        logged: dict[str, Any] = {
            "arm": drawn.arm,
            "outcome": drawn.outcome,
            "propensity": world.propensity(drawn),
            "target_probs": target[drawn.prompt],
        }
        predicted = cross_fit_outcomes(
            PerArmRidge(),
            context=world.context[drawn.prompt],
            outcome=drawn.outcome,
            arm=drawn.arm,
            n_arms=world.n_arms,
            # Rounds of one row share a fold, as repeats of one prompt do.
            fold=assign_folds(N_ROUNDS, n_folds=5, seed=seed, groups=drawn.prompt),
        )
        weight = importance_weights(arm=drawn.arm, propensity=logged["propensity"], target_probs=logged["target_probs"])
        effective[place] = weight.sum() ** 2 / (weight**2).sum()
        estimates: list[Estimate] = [
            dm(predicted=predicted, target_probs=logged["target_probs"]),
            ips(**logged),
            snips(**logged),
            dr(**logged, predicted=predicted),
            sndr(**logged, predicted=predicted),
            tuned("switch_dr", **logged, predicted=predicted),
            tuned("dros", **logged, predicted=predicted),
        ]
        for j, estimate in enumerate(estimates):
            low, high = estimate.interval(LEVEL)
            error[place, j] = estimate.value - truth
            covered[place, j] = low <= truth <= high
            width[place, j] = high - low
            is_open[place, j] = gate(estimate, weight=weight).interval == "normal"
    return Found(error, covered, width, is_open, effective)


@lru_cache(maxsize=1)
def _world(cell: Cell) -> World:
    from sklearn import datasets

    load = {"digits": datasets.load_digits, "breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}
    context, label = load[cell.data](return_X_y=True)
    spread = context.std(axis=0)
    context = (context - context.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the logits may stop before they converge: they are what they are
        return class_world(context=context, label=label, logger=cell.logger, rng=np.random.default_rng(0))


def _rms(found: Found, name: str) -> float:
    return math.sqrt(float((found.error[:, NAMES.index(name)] ** 2).mean()))


def _misses(by_cell: dict[Cell, Found]) -> tuple[list[str], int]:
    """Return the cells outside their band where the gate is open, in words, and how many were judged."""
    chances = []
    for cell, found in by_cell.items():
        for name in WITH_INTERVAL:
            j = NAMES.index(name)
            some = found.covered[found.is_open[:, j], j]
            if some.size >= LEAST_JUDGED:
                text = f"{cell.data}, {cell.logger} logger, {name}: {100 * some.mean():.1f}% of {some.size:,}"
                chances.append((_chance(some), text))
    return [text for chance, text in chances if chance < FAMILY / len(chances)], len(chances)


def _chance(covered: NDArray[np.bool_]) -> float:
    """Return the chance of coverage as far from its level, by the exact binomial: twice the smaller tail."""
    from scipy.stats import binom

    count, n_logs = int(covered.sum()), covered.size
    return 2 * min(float(binom.cdf(count, n_logs, LEVEL)), float(binom.sf(count - 1, n_logs, LEVEL)))


def _share(covered: NDArray[np.bool_]) -> str:
    if covered.size == 0:
        return "-"
    mark = "" if _chance(covered) >= 0.01 else "↓" if covered.mean() < LEVEL else "↑"
    return f"{100 * covered.mean():.1f}{mark}"


def _table(cell: Cell, found: Found) -> list[str]:
    world = _world(cell)
    rows = []
    for j, name in enumerate(NAMES):
        mean = MonteCarlo.of(found.error[:, j])
        cells = ["-"] * 4
        if name != "DM":
            some = found.covered[found.is_open[:, j], j]
            of_open = [f"{found.is_open[:, j].mean():.0%}", _share(some)] if name in WITH_INTERVAL else ["-", "-"]
            every = _share(found.covered[:, j]).rstrip("" if name in WITH_INTERVAL else "↑")
            cells = [every, *of_open, f"{100 * found.width[:, j].mean():.1f}"]
        bias = f"{100 * mean.value:+.2f} ± {100 * mean.error:.2f}"
        rows.append([name, bias, f"{100 * _rms(found, name):.2f}", *cells])
    return [
        f"## {cell.data.capitalize()}, {cell.logger} logger",
        "",
        f"{len(world.mean):,} rows, {world.n_arms} classes; value {100 * world.value(world.targets[0]):.1f}, of the "
        f"logging policy {100 * world.value(world.propensities):.1f}; effective sample size "
        f"{found.effective.mean():,.0f} of {N_ROUNDS:,}, largest weight "
        f"{(world.targets[0] / world.propensities).max():.1f}.",
        "",
        *grid(["estimator", "bias", "root mean square error", "covers", "gate open", "covers if open", "width"], rows),
    ]


if __name__ == "__main__":
    sys.exit(main())
