"""How does regret fall with the log, where gaps shrink with it and where they stay?"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import MonteCarlo, Options, Report, command
from benchmarks.studies.worlds import softmax
from pointsman.errors import StatisticalWarning
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.policies import make
from pointsman.scores import make_scores
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerArm

Kind = Literal["shrinking gaps", "fixed world"]

KINDS: tuple[Kind, ...] = ("shrinking gaps", "fixed world")
SIZES = (500, 2_000, 8_000)
N_LOGS = {"direct": 200, "rm-softmax": 100, "auto": 40}
"""Logs a size, by method."""
N_STATES, N_ARMS, N_FEATURES, N_SCORED = 8, 4, 4, 20_000
PROMISED = -0.5
"""Slope in logarithms: of the hardest problems, and the flattest of any other."""
ALLOWED_Z = 3.0


class Problem(NamedTuple):
    """Prompts to learn from and prompts to be scored on."""

    context: Context
    mean: PerArm
    scored_context: Context
    scored_mean: PerArm


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return regret by method and size."""
    regrets: dict[tuple[Kind, str], list[MonteCarlo]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        for kind in KINDS:
            for method, n_logs in N_LOGS.items():
                regrets[kind, method] = [
                    MonteCarlo.of(
                        np.array(
                            [
                                _regret(kind, method, n_rounds=n_rounds, seed=seed)
                                for seed in range(n_logs // 20 if options.quick else n_logs)
                            ]
                        )
                    )
                    for n_rounds in SIZES[: 2 if options.quick else None]
                ]
    return _report(regrets)


def _regret(kind: Kind, method: str, *, n_rounds: int, seed: int) -> float:
    """Return what the best decisions earn above the method's."""
    rng = np.random.default_rng([seed, n_rounds, KINDS.index(kind)])
    problem = _shrinking(n_rounds, rng) if kind == "shrinking gaps" else _fixed(n_rounds, rng)
    # Leans by what drives the outcome, too.
    propensities = 0.1 / N_ARMS + 0.9 * softmax(problem.context[:, :1] * np.linspace(-1, 1, N_ARMS))
    arm = (rng.random((n_rounds, 1)) >= propensities.cumsum(axis=1)).sum(axis=1).clip(max=N_ARMS - 1)
    row = np.arange(n_rounds)
    scores, _ = make_scores(
        context=problem.context,
        arm=arm,
        quality=(rng.random(n_rounds) < problem.mean[row, arm]).astype(np.float64),
        cost_usd=np.full(n_rounds, np.nan),
        logged_propensity=propensities[row, arm],
        eligible=np.ones((n_rounds, N_ARMS), dtype=np.bool_),
        outcome_model=PerArmRidge(),
        propensity="logged",
        seed=seed,
    )
    policy = make(method, seed=seed).fit(problem.context, scores)
    chosen = policy.probabilities(problem.scored_context, TradeOff(0.0))
    return float((problem.scored_mean.max(axis=1) - (chosen * problem.scored_mean).sum(axis=1)).mean())


def _shrinking(n_rounds: int, rng: np.random.Generator) -> Problem:
    """Return eight states whose arms differ by about what the log can just not tell: the hardest problems."""
    spread = 0.5 * np.sqrt(N_STATES * N_ARMS / n_rounds)
    mean = 0.5 + spread * rng.normal(size=(N_STATES, N_ARMS))
    state = rng.integers(N_STATES, size=n_rounds)
    every: NDArray[np.float64] = np.eye(N_STATES)
    return Problem(every[state], np.clip(mean, 0, 1)[state], every, np.clip(mean, 0, 1))


def _fixed(n_rounds: int, rng: np.random.Generator) -> Problem:
    """Return prompts whose arms' outcomes are linear in the features; the slopes are the same at every size."""
    slopes = np.random.default_rng(5).uniform(-0.11, 0.11, size=(N_FEATURES, N_ARMS))
    context, scored = (rng.uniform(-1, 1, size=(size, N_FEATURES)) for size in (n_rounds, N_SCORED))
    return Problem(context, 0.5 + context @ slopes, scored, 0.5 + scored @ slopes)


def _report(regrets: dict[tuple[Kind, str], list[MonteCarlo]]) -> Report:
    slopes: dict[tuple[Kind, str], tuple[float, float]] = {}
    rows = []
    for (kind, method), means in regrets.items():
        sizes = SIZES[: len(means)]
        slopes[kind, method] = slope, error = _slope(sizes, means)
        rows.append(
            [
                kind,
                method,
                *(f"{100 * mean.value:.2f} ± {196 * mean.error:.2f}" for mean in means),
                *(f"{mean.value * n**0.5:.2f}" for mean, n in zip(means, sizes, strict=True)),
                f"{slope:+.2f} ± {1.96 * error:.2f}",
            ]
        )
    by_kind = {
        kind: " to ".join(
            f"{end:+.2f}" for end in _ends([slope for (each, _), (slope, _) in slopes.items() if each == kind])
        )
        for kind in KINDS
    }
    sizes = SIZES[: len(next(iter(regrets.values())))]
    return Report(
        name="regret",
        asked="Does regret fall with the number of logged rounds as n^-1/2, or faster where the gaps between models "
        "stay?",
        found=f"Where gaps shrink with the log the slope in logarithms is {by_kind['shrinking gaps']} over "
        f"{len(N_LOGS)} methods; in a fixed world, {by_kind['fixed world']}.",
        holds=all(
            slope - PROMISED <= ALLOWED_Z * error and (kind == "fixed world" or PROMISED - slope <= ALLOWED_Z * error)
            for (kind, _), (slope, error) in slopes.items()
        ),
        body=[
            "Regret x 100 with half the width of its 95% interval over logs (the slope likewise), and regret times "
            f"the root of n. Shrinking gaps: {N_STATES} states, {N_ARMS} arms, their means normal about 1/2 with the "
            "standard error of one arm's mean in one state, new at each log: no method can do better than a constant "
            "over the root of n. Fixed world: four features, outcomes linear in them, the logging policy leaning by "
            "the first; near-ties are rare, and regret may fall as 1 / n. Propensities are known. What regret does "
            "on a real table, where no feature shows all, is in `../growth.md`: there the excess over the best that "
            "features allow falls with slopes of -0.4 to -0.5.",
            "",
            *grid(
                ["world", "method", *(f"n = {n:,}" for n in sizes), *(f"x root of {n:,}" for n in sizes), "slope"],
                rows,
            ),
        ],
    )


def _slope(sizes: Sequence[int], means: Sequence[MonteCarlo]) -> tuple[float, float]:
    """Return the slope of log regret on log rounds by least squares, and its Monte Carlo standard error."""
    centred = np.log(sizes) - np.log(sizes).mean()
    part = centred / (centred**2).sum()
    slope = part @ np.log([mean.value for mean in means])
    return float(slope), float(np.sqrt(part**2 @ np.array([(mean.error / mean.value) ** 2 for mean in means])))


def _ends(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


if __name__ == "__main__":
    sys.exit(main())
