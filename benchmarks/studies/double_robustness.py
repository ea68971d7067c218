"""Is one right nuisance enough, of those given and of those learned, and what do two wrong ones cost?"""

from __future__ import annotations

import sys
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import MonteCarlo, Options, Report, command
from benchmarks.studies.worlds import World, overlap_world, replications
from pointsman.errors import CalibrationWarning
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.propensity import estimate_propensities
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope.estimate import Estimate
from pointsman.ope.estimators import dm, dr, ips, sndr
from pointsman.types import PerArm

N_REPLICATIONS = 4_000
N_ROUNDS = 1_000
N_LEARNED = {1_000: 400, 4_000: 400, 16_000: 100}
"""Rounds of a log whose nuisances are learned, and how many logs of them."""
ALLOWED_Z = 3.0

Nuisance = Literal["right", "wrong"]
BOTH: tuple[Nuisance, ...] = ("right", "wrong")


class Cell(NamedTuple):
    """One of the four, and an estimator."""

    propensity: Nuisance
    outcome_model: Nuisance
    estimator: str


NAMES = ("DM", "IPS", "DR", "SNDR")
WRONG = Cell("wrong", "wrong", "DR")
ONE_RIGHT = [Cell(p, m, "DR") for p in BOTH for m in BOTH if "right" in (p, m)]


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return the bias in every cell of the two-by-two table."""
    world = overlap_world("good")
    given, expected = _given(world, n_replications=400 if options.quick else N_REPLICATIONS)
    sizes = {500: 20, 4_000: 20} if options.quick else N_LEARNED
    learned = {n: _learned(_linear_world(world), n_rounds=n, n_replications=count) for n, count in sizes.items()}
    first, last = (learned[n] for n in (min(sizes), max(sizes)))
    single = [given[cell].z() for cell in ONE_RIGHT]
    formula = given[WRONG].z(expected)
    # Learned nuisances are right in the limit only, so their bias has to go, beside that of two wrong ones.
    gone = {cell: abs(last[cell].z()) < ALLOWED_Z or _share(first, last, cell) < 0.5 for cell in ONE_RIGHT}
    holds = max(abs(z) for z in single) < ALLOWED_Z and abs(formula) < ALLOWED_Z and given[WRONG].z() > 10
    holds = holds and all(gone.values()) and _share(first, last, WRONG) > 0.5 and abs(last[WRONG].z()) > 10
    largest = max((last[cell] for cell in ONE_RIGHT), key=lambda each: abs(each.value))
    return Report(
        name="double_robustness",
        asked="Is DR unbiased where the propensities or the outcome model are right, and biased where both are wrong?",
        found=f"Given nuisances: at most {max(abs(z) for z in single):.2f} Monte Carlo standard errors where one is "
        f"right; with both wrong {given[WRONG].value:+.4f}, where the formula says {expected:+.4f} ({formula:+.2f} "
        f"standard errors off). Learned: where one is right the bias goes as rounds accumulate, to "
        f"{largest.value:+.4f} "
        f"± {largest.error:.4f} at most at {max(sizes):,}; with both wrong it stays, {first[WRONG].value:+.4f} at "
        f"{min(sizes):,} and {last[WRONG].value:+.4f} at {max(sizes):,}.",
        holds=holds,
        body=[
            "## Given nuisances",
            "",
            f"Bias x 1,000 over {400 if options.quick else N_REPLICATIONS:,} logs of {N_ROUNDS:,} rounds, with its "
            "Monte Carlo standard error. Right: the truth of the world with good overlap. Wrong: every arm equally "
            "likely, and the mean outcome of each arm where it was logged. With both wrong DR has the bias "
            f"E sum_t pi_t (1 - e_t / e'_t) (mu'_t - mu_t) = {1000 * expected:+.2f}.",
            "",
            *_table(given),
            "## Learned nuisances",
            "",
            "The same in a world in which outcomes are linear in the context and the logging policy is a logit of it. "
            "Right: the propensity model and the ridge, cross-fitted, on the whole context. Wrong: both without its "
            "first feature, which drives the logging policy and the outcome. A right model that is learned is right in "
            "the limit: the ridge shrinks its slopes, and where the propensities are wrong DR keeps what is left of "
            "that: at 4,000 rounds still about half of one log's standard deviation.",
            "",
            *(
                line
                for n_rounds, found in learned.items()
                for line in [f"### {n_rounds:,} rounds, {sizes[n_rounds]:,} logs", "", *_table(found)]
            ),
        ],
    )


def _share(first: dict[Cell, MonteCarlo], last: dict[Cell, MonteCarlo], cell: Cell) -> float:
    """Return what of the bias at the smallest size is left at the largest."""
    return abs(last[cell].value / first[cell].value)


def _table(found: dict[Cell, MonteCarlo]) -> list[str]:
    rows = []
    for propensity in BOTH:
        for outcome_model in BOTH:
            cells = [found[Cell(propensity, outcome_model, name)] for name in NAMES]
            texts = [f"{1000 * each.value:+.2f} ± {1000 * each.error:.2f}" for each in cells]
            rows.append([f"propensities {propensity}, outcome model {outcome_model}", *texts])
    return grid(["", *NAMES], rows)


def _given(world: World, *, n_replications: int) -> tuple[dict[Cell, MonteCarlo], float]:
    target = world.targets[0]
    drawn = world.draw(n_replications * N_ROUNDS, rng=np.random.default_rng(3))
    by_arm = (world.propensities * world.mean).mean(axis=0) / world.propensities.mean(axis=0)
    propensities = {"right": world.propensities, "wrong": np.full_like(world.propensities, 1 / world.n_arms)}
    predictions = {"right": world.mean, "wrong": np.tile(by_arm, (len(world.mean), 1))}
    found: dict[Cell, MonteCarlo] = {}
    for p in BOTH:
        for m in BOTH:
            estimates = _estimates(
                arm=drawn.arm,
                outcome=drawn.outcome,
                propensity=propensities[p][drawn.prompt, drawn.arm],
                predicted=predictions[m][drawn.prompt],
                target_probs=target[drawn.prompt],
            )
            for name, estimate in estimates.items():
                values = replications(estimate, n_rounds=N_ROUNDS).value
                found[Cell(p, m, name)] = MonteCarlo.of(values - world.value(target))
    error = (1 - world.propensities / propensities["wrong"]) * (predictions["wrong"] - world.mean)
    return found, float((target * error).sum(axis=1).mean())


def _linear_world(world: World) -> World:
    """Return a world of the same prompts and targets whose nuisances the package's linear learners can learn."""
    rank = np.linspace(-1, 1, world.n_arms)
    x = np.clip(world.context, -2, 2)
    leaning = np.exp(0.8 * x[:, :1] * rank)
    return World(
        context=x,
        mean=0.5 + 0.05 * rank + 0.1 * x[:, :1] * rank + 0.03 * x[:, 1:2] * rank[::-1] + 0.04 * x[:, 2:3],
        propensities=leaning / leaning.sum(axis=1, keepdims=True),
        least_propensity=0.0,
        targets=world.targets,
    )


def _learned(world: World, *, n_rounds: int, n_replications: int) -> dict[Cell, MonteCarlo]:
    target = world.targets[0]
    truth = world.value(target)
    errors: dict[Cell, list[float]] = {}
    for seed in range(n_replications):
        drawn = world.draw(n_rounds, rng=np.random.default_rng([seed, n_rounds]))
        fold = assign_folds(n_rounds, n_folds=5, seed=seed)
        propensities: dict[str, NDArray[np.float64]] = {}
        predictions: dict[str, PerArm] = {}
        for which, features in (("right", slice(None)), ("wrong", slice(1, None))):
            context = world.context[drawn.prompt][:, features]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                estimate = estimate_propensities(context=context, arm=drawn.arm, n_arms=world.n_arms, fold=fold)
            propensities[which] = estimate.of_logged_arm
            predictions[which] = cross_fit_outcomes(
                PerArmRidge(),
                context=context,
                outcome=drawn.outcome,
                arm=drawn.arm,
                n_arms=world.n_arms,
                fold=fold,
            )
        for p in BOTH:
            for m in BOTH:
                estimates = _estimates(
                    arm=drawn.arm,
                    outcome=drawn.outcome,
                    propensity=propensities[p],
                    predicted=predictions[m],
                    target_probs=target[drawn.prompt],
                )
                for name, found in estimates.items():
                    errors.setdefault(Cell(p, m, name), []).append(found.value - truth)
    return {cell: MonteCarlo.of(np.array(each)) for cell, each in errors.items()}


def _estimates(**logged: Any) -> dict[str, Estimate]:
    plain = {name: value for name, value in logged.items() if name != "predicted"}
    return {
        "DM": dm(predicted=logged["predicted"], target_probs=logged["target_probs"]),
        "IPS": ips(**plain),
        "DR": dr(**logged),
        "SNDR": sndr(**logged),
    }


if __name__ == "__main__":
    sys.exit(main())
