"""How fast must nuisances be learned, and what does it cost to learn them on the rounds they are used on?"""

from __future__ import annotations

import math
import sys
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import MonteCarlo, Options, Report, bonferroni_z, command
from benchmarks.studies.worlds import Replications, World, overlap_world, replications
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.per_arm import PerArmRegressor
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope.estimators import dr
from pointsman.types import Context

EXPONENTS = (
    (0.5, 0.5),
    (0.4, 0.4),
    (0.3, 0.3),
    (0.25, 0.25),
    (0.2, 0.2),
    (0.1, 0.1),
    (0.5, 0.1),
    (0.1, 0.5),
    (0.4, 0.0),
)
"""Rates a of the outcome model and b of the propensities: errors are n^-a and n^-b."""
SIZES = (250, 1_000, 4_000, 16_000)
N_LOGS = 1_000
N_OVERFIT_LOGS = 400
LEVEL = 0.95
NORMAL_QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
OUTCOME_ERROR, PROPENSITY_ERROR = 1.5, 0.8
"""Sizes of the perturbations at n = 1; the second keeps propensities in (0, 1] at every n and b."""


class Perturbed(NamedTuple):
    """DR with perturbed nuisances at one size."""

    bias: MonteCarlo
    expected_bias: float
    standard_deviation: float
    coverage: float


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return bias and coverage by rate, and with and without cross-fitting."""
    sizes = SIZES[:2] if options.quick else SIZES
    n_logs = 200 if options.quick else N_LOGS
    world = overlap_world("good")
    by_size = [_perturbed(world, n_rounds=n_rounds, n_logs=n_logs) for n_rounds in sizes]
    found = {rates: [cells[rates] for cells in by_size] for rates in EXPONENTS}
    n_cells = len(EXPONENTS) * len(sizes)
    worst = max(abs(each.bias.z(each.expected_bias)) for cells in found.values() for each in cells)
    band = _band(n_logs)
    fast = [cells for (a, b), cells in found.items() if a + b > 0.5]
    slow = [cells for (a, b), cells in found.items() if a + b < 0.5]
    falls = all(_relative(cells[-1]) < _relative(cells[0]) for cells in fast)
    rises = all(_relative(cells[-1]) > _relative(cells[0]) for cells in slow)
    overfit_rows, overfit_holds, overfit_words = _overfit(world, options)
    missed = max(cells[-1].coverage for cells in slow)
    return Report(
        name="rates",
        asked="Is the bias of DR negligible exactly where the rates of its nuisances add to more than 1/2, and does "
        "learning them on the same rounds bias it?",
        found=f"Bias over standard deviation falls with n at all {len(fast)} pairs of rates above 1/2 and rises at all "
        f"{len(slow)} below ({'yes' if falls and rises else 'no'}), where coverage at n = {sizes[-1]:,} is at most "
        f"{missed:.1%}; bias is what the product of errors says, to {worst:.2f} standard errors. {overfit_words}",
        holds=falls and rises and worst < bonferroni_z(n_cells) and overfit_holds,
        body=[
            "## Nuisances perturbed by n^-a and n^-b",
            "",
            f"Outcome model mu + {OUTCOME_ERROR} n^-a h and propensities e / (1 + {PROPENSITY_ERROR} n^-b g), h and g "
            "bounded functions of prompt and arm that point the same way. The bias is then "
            f"{OUTCOME_ERROR * PROPENSITY_ERROR:.2f} n^-(a+b) E sum_t pi_t g h, to the digit; beside a standard "
            "deviation of order n^-1/2 it vanishes if and only if a + b > 1/2. Each cell: bias over standard "
            f"deviation, and coverage of the {LEVEL:.0%} normal interval over {n_logs:,} logs (chance alone: "
            f"{band[0]:.1%} to {band[1]:.1%} in 99 of 100). At (0.4, 0) the propensities stay wrong, and "
            "intervals miss in the end "
            "although each log's estimate converges.",
            "",
            *grid(
                ["a + b", "a", "b", *(f"n = {n:,}" for n in sizes)],
                [
                    [
                        f"{a + b:.2f}",
                        f"{a:g}",
                        f"{b:g}",
                        *(f"{each.bias.value / each.standard_deviation:+.2f}, {each.coverage:.1%}" for each in cells),
                    ]
                    for (a, b), cells in sorted(found.items(), key=lambda item: -sum(item[0]))
                ],
            ),
            "## Learned on the same rounds, and out of fold",
            "",
            "Outcome models that memorise their rounds: a ridge with more features than rounds and hardly a penalty, "
            "and the nearest neighbour. Propensities are the true ones. In sample the residuals are gone, so DR is the "
            "direct method; out of fold it is unbiased.",
            "",
            *overfit_rows,
        ],
    )


def _perturbed(world: World, *, n_rounds: int, n_logs: int) -> dict[tuple[float, float], Perturbed]:
    """Return DR at every pair of rates, all on the same logs."""
    target = world.targets[0]
    rank = np.linspace(-1, 1, world.n_arms)
    shape = np.tanh(world.context[:, :1] * rank + 0.5)
    nuisances = {
        (a, b): (
            world.mean + OUTCOME_ERROR * n_rounds**-a * shape,
            world.propensities / (1 + PROPENSITY_ERROR * n_rounds**-b * shape),
        )
        for a, b in EXPONENTS
    }
    parts: dict[tuple[float, float], list[Replications]] = {rates: [] for rates in EXPONENTS}
    n_block = max(1, 500_000 // n_rounds)
    for start in range(0, n_logs, n_block):
        drawn = world.draw(min(n_block, n_logs - start) * n_rounds, rng=np.random.default_rng([n_rounds, start]))
        target_probs = target[drawn.prompt]
        for rates, (predicted, believed) in nuisances.items():
            estimate = dr(
                arm=drawn.arm,
                outcome=drawn.outcome,
                propensity=believed[drawn.prompt, drawn.arm],
                predicted=predicted[drawn.prompt],
                target_probs=target_probs,
            )
            parts[rates].append(replications(estimate, n_rounds=n_rounds))
    found = {}
    for rates, (predicted, believed) in nuisances.items():
        error = np.concatenate([part.value for part in parts[rates]]) - world.value(target)
        half_width = NORMAL_QUANTILE * np.concatenate([part.standard_error for part in parts[rates]])
        gap = (1 - world.propensities / believed) * (predicted - world.mean)
        found[rates] = Perturbed(
            bias=MonteCarlo.of(error),
            expected_bias=float((target * gap).sum(axis=1).mean()),
            standard_deviation=float(error.std(ddof=1)),
            coverage=float((abs(error) <= half_width).mean()),
        )
    return found


def _relative(cell: Perturbed) -> float:
    return abs(cell.expected_bias) / cell.standard_deviation


def _band(n_logs: int) -> tuple[float, float]:
    half = NormalDist().inv_cdf(0.995) * math.sqrt(LEVEL * (1 - LEVEL) / n_logs)
    return LEVEL - half, LEVEL + half


def _overfit(world: World, options: Options) -> tuple[list[str], bool, str]:
    from sklearn.neighbors import KNeighborsRegressor

    n_logs = 50 if options.quick else N_OVERFIT_LOGS
    learners: dict[str, tuple[Any, int]] = {
        "ridge, 1.5 features a round and arm": (PerArmRidge(penalties=[1e-3]), 1),
        "nearest neighbour": (PerArmRegressor(KNeighborsRegressor(1)), 0),
    }
    rows: list[list[str]] = []
    own_z: list[float] = []
    crossed_z: list[float] = []
    crossed_coverage: list[float] = []
    for name, (learner, wide) in learners.items():
        for n_rounds in (200, 800):
            own, crossed = _in_sample_and_out(world, learner, wide=bool(wide), n_rounds=n_rounds, n_logs=n_logs)
            for where, (error, standard_error) in (("same rounds", own), ("cross-fitted", crossed)):
                mean = MonteCarlo.of(error)
                coverage = float((abs(error) <= NORMAL_QUANTILE * standard_error).mean())
                rows.append(
                    [
                        name,
                        f"{n_rounds:,}",
                        where,
                        f"{1000 * mean.value:+.1f} ± {1000 * mean.error:.1f}",
                        f"{mean.z():+.1f}",
                        f"{coverage:.1%}",
                    ]
                )
                (own_z if where == "same rounds" else crossed_z).append(abs(mean.z()))
                if where == "cross-fitted":
                    crossed_coverage.append(coverage)
    words = (
        f"Learned on the same rounds DR is biased by {min(own_z):.0f} Monte Carlo standard errors or more, "
        f"cross-fitted by {max(crossed_z):.1f} at most, with coverage of {min(crossed_coverage):.1%} or more."
    )
    header = ["outcome model", "rounds", "learned on", "bias x 1,000", "z", f"coverage of {LEVEL:.0%}"]
    return grid(header, rows), min(own_z) > 5 and max(crossed_z) < bonferroni_z(len(crossed_z)), words


def _in_sample_and_out(
    world: World, learner: Any, *, wide: bool, n_rounds: int, n_logs: int
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return errors and standard errors of DR, learned on the same rounds and cross-fitted."""
    target = world.targets[0]
    drawn = world.draw(n_logs * n_rounds, rng=np.random.default_rng([n_rounds, int(wide)]))
    own, crossed = (np.empty((drawn.arm.size, world.n_arms)) for _ in range(2))
    for j in range(n_logs):
        rows = slice(j * n_rounds, (j + 1) * n_rounds)
        context: Context = world.context[drawn.prompt[rows]]
        if wide:
            noise = np.random.default_rng([j, 5]).normal(size=(n_rounds, 3 * n_rounds // (2 * world.n_arms) - 5))
            context = np.column_stack([context, noise])
        arm, outcome = drawn.arm[rows], drawn.outcome[rows]
        own[rows] = learner.fit(context, outcome, arm=arm, n_arms=world.n_arms).predict(context)
        crossed[rows] = cross_fit_outcomes(
            learner,
            context=context,
            outcome=outcome,
            arm=arm,
            n_arms=world.n_arms,
            fold=assign_folds(n_rounds, n_folds=5, seed=j),
        )
    truth = world.value(target)
    found = []
    for predicted in (own, crossed):
        estimate = dr(
            arm=drawn.arm,
            outcome=drawn.outcome,
            propensity=world.propensity(drawn),
            predicted=predicted,
            target_probs=target[drawn.prompt],
        )
        value, error = replications(estimate, n_rounds=n_rounds)
        found.append((value - truth, error))
    return found[0], found[1]


if __name__ == "__main__":
    sys.exit(main())
