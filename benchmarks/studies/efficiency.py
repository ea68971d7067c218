"""How near do the estimators come to the semiparametric bound on the variance, and are their standard errors right?"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, bonferroni_z, command, map_logs
from benchmarks.studies.worlds import OVERLAPS, Overlap, fourier_features, overlap_world
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope.estimators import dr, ips, sndr, snips

SIZES = (500, 2_000, 10_000)
N_LOGS = 1_000
CHUNK = 50
TRUE_MODEL = ("DR, true outcome model", "SNDR, true outcome model")
NAMES = ("IPS", "SNIPS", "DR, ridge", "SNDR, ridge", "DR, kernel", "SNDR, kernel", *TRUE_MODEL)
NEAR = 1.10
"""Variance over the bound that a learned model should reach where overlap is good and rounds are many."""


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return n times the variance of every estimator, over the bound."""
    sizes = SIZES[:2] if options.quick else SIZES
    n_logs = 100 if options.quick else N_LOGS
    jobs = [
        (overlap, n_rounds, first, min(CHUNK, n_logs - first))
        for overlap in OVERLAPS
        for n_rounds in sizes
        for first in range(0, n_logs, CHUNK)
    ]
    parts: dict[tuple[Overlap, int], list[NDArray[np.float64]]] = {}
    for job, found in zip(
        jobs, map_logs(_simulate, jobs, n_processes=options.n_processes, label="efficiency"), strict=True
    ):
        parts.setdefault(job[:2], []).append(found)
    rows, below, of_true, ratios = [], [], [], {}
    for (overlap, n_rounds), chunks in parts.items():
        values, errors = np.concatenate(chunks, axis=1)
        world = overlap_world(overlap)
        bound = world.bound(world.targets[0])
        for j, name in enumerate(NAMES):
            ratio, error = _variance_ratio(values[:, j], bound=bound / n_rounds)
            ratios[name, overlap, n_rounds] = ratio
            if not name.startswith("SN"):
                below.append((ratio - 1) / error)
            if name == TRUE_MODEL[0]:
                of_true.append((ratio - 1) / error)
            rows.append(
                [
                    overlap,
                    f"{n_rounds:,}",
                    name,
                    f"{ratio:.2f} ± {error:.2f}",
                    f"{np.sqrt((errors[:, j] ** 2).mean() / values[:, j].var(ddof=1)):.2f}",
                ]
            )
    z = bonferroni_z(len(below))
    last = sizes[-1]
    learned = min(ratios["DR, kernel", "good", last], ratios["DR, ridge", "good", last])
    return Report(
        name="efficiency",
        asked="How near does the variance come to the semiparametric bound?",
        found=f"DR with the true outcome model attains it (within {max(abs(each) for each in of_true):.1f} standard "
        f"errors in {len(of_true)} cells); with a learned one it is {learned:.2f} times the bound at {last:,} "
        "rounds of "
        f"good overlap, IPS {ratios['IPS', 'good', last]:.2f} times; no unbiased estimator lies below it by more than "
        f"noise (lowest z {min(below):+.1f}).",
        holds=max(abs(each) for each in of_true) < z and min(below) > -z and learned < NEAR,
        body=[
            f"Variance over {n_logs:,} logs, times n, over the bound E sum_t pi_t^2 sigma_t^2 / e_t + Var sum_t pi_t "
            "mu_t of the world (Hahn 1998), with its Monte Carlo standard error; and the root mean square of the "
            "estimated standard errors over the standard deviation of the estimates, which should be 1. Outcome models "
            "are cross-fitted on every log; propensities are known. SNIPS and SNDR may lie below the bound where few "
            "rounds carry the weight, at the price of a bias.",
            "",
            *grid(["overlap", "rounds", "estimator", "variance / bound", "standard error / deviation"], rows),
        ],
    )


def _simulate(job: tuple[Overlap, int, int, int]) -> NDArray[np.float64]:
    """Return (2, n_logs, n_estimators) values and standard errors."""
    overlap, n_rounds, first, n_logs = job
    world = overlap_world(overlap)
    contexts = {"ridge": world.context, "kernel": fourier_features(world.context)}
    found = np.empty((2, n_logs, len(NAMES)))
    for place, seed in enumerate(range(first, first + n_logs)):
        drawn = world.draw(n_rounds, rng=np.random.default_rng([seed, n_rounds, OVERLAPS.index(overlap), 9]))
        logged: dict[str, Any] = {
            "arm": drawn.arm,
            "outcome": drawn.outcome,
            "propensity": world.propensity(drawn),
            "target_probs": world.targets[0][drawn.prompt],
        }
        predictions = [
            cross_fit_outcomes(
                PerArmRidge(),
                context=context[drawn.prompt],
                outcome=drawn.outcome,
                arm=drawn.arm,
                n_arms=world.n_arms,
                fold=assign_folds(n_rounds, n_folds=5, seed=seed),
            )
            for context in contexts.values()
        ]
        estimates = [ips(**logged), snips(**logged)]
        for predicted in (*predictions, world.mean[drawn.prompt]):
            estimates += [dr(**logged, predicted=predicted), sndr(**logged, predicted=predicted)]
        found[0, place] = [estimate.value for estimate in estimates]
        found[1, place] = [estimate.standard_error for estimate in estimates]
    return found


def _variance_ratio(values: NDArray[np.float64], *, bound: float) -> tuple[float, float]:
    """Return the variance over the bound and its standard error, by the fourth moment."""
    squares = (values - values.mean()) ** 2
    return float(values.var(ddof=1)) / bound, float(squares.std(ddof=1)) / np.sqrt(values.size) / bound


if __name__ == "__main__":
    sys.exit(main())
