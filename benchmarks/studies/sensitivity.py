"""Do sensitivity bounds contain the truth at the true strength of hidden confounding, and miss it below?"""

from __future__ import annotations

import sys
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command
from benchmarks.studies.worlds import draw_arms
from pointsman.ope import Bounds, sensitivity_bounds, sharp_bounds, snips

Confounder = Literal["worst", "half as bad"]

CONFOUNDERS: tuple[Confounder, ...] = ("worst", "half as bad")
GAMMAS = (1.5, 2.0, 3.0)
SIZES = (2_000, 10_000)
N_LOGS, N_RESAMPLES = 200, 100
LEVEL = 0.95
PART = 0.4
"""Strength below the true one: 1 + PART (gamma - 1)."""
NOMINAL = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.25, 0.5, 0.25]])
"""(n_states, n_arms) propensities that the log knows."""
CALLED = np.array([0, 1, 2])
"""Arm that the target calls in each state."""


class Log(NamedTuple):
    """What a log with a hidden confounder shows, and what it hides."""

    shown: dict[str, Any]
    truth: float


class Cell(NamedTuple):
    """Shares of logs."""

    point: float
    stabilised: float
    sharp: float
    stabilised_below: float
    sharp_below: float
    width: float
    sharp_width: float


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return how often intervals of bounds hold the truth."""
    n_logs, sizes = (10, SIZES[:1]) if options.quick else (N_LOGS, SIZES)
    cells = {
        (confounder, gamma, n_rounds): _cell(confounder, gamma, n_rounds, n_logs=n_logs)
        for confounder in CONFOUNDERS
        for gamma in GAMMAS
        for n_rounds in sizes
    }
    return _report(cells, n_logs=n_logs)


def draw(confounder: Confounder, *, gamma: float, n_rounds: int, rng: np.random.Generator) -> Log:
    """Return a log whose hidden confounder u reaches gamma everywhere.

    For the arm that the target calls, of nominal propensity e, the true inverse propensity is 1 + (1 / e - 1) gamma
    where u = 1 and 1 + (1 / e - 1) / gamma elsewhere; P(u = 1) is what makes the propensity e on average. Its outcome
    is u where the confounder is the worst there is; else it is drawn with probability 1/4 + u / 2.
    """
    e = NOMINAL[np.arange(CALLED.size), CALLED]
    if_bad, if_good = (1 / (1 + (1 / e - 1) * ratio) for ratio in (1 / gamma, gamma))
    good_share = (if_bad - e) / (if_bad - if_good)
    state = rng.integers(CALLED.size, size=n_rounds)
    u = rng.random(n_rounds) < good_share[state]
    of_called = np.where(u, if_good[state], if_bad[state])
    propensities = NOMINAL[state] * ((1 - of_called) / (1 - e[state]))[:, None]
    propensities[np.arange(n_rounds), CALLED[state]] = of_called
    arm = draw_arms(propensities, rng=rng)
    chance = u.astype(np.float64) if confounder == "worst" else 0.25 + 0.5 * u
    share = good_share if confounder == "worst" else 0.25 + 0.5 * good_share
    outcome = rng.random(n_rounds) < np.where(arm == CALLED[state], chance, 0.5)
    shown = {
        "arm": arm,
        "outcome": outcome.astype(np.float64),
        "propensity": NOMINAL[state, arm],
        "target_probs": np.eye(NOMINAL.shape[1])[CALLED[state]],
    }
    return Log(shown, float(share.mean()))


def _cell(confounder: Confounder, gamma: float, n_rounds: int, *, n_logs: int) -> Cell:
    below = 1 + PART * (gamma - 1)
    found: list[list[float]] = []
    for number in range(n_logs):
        rng = np.random.default_rng([number, n_rounds, round(10 * gamma), CONFOUNDERS.index(confounder)])
        log = draw(confounder, gamma=gamma, n_rounds=n_rounds, rng=rng)
        low, high = snips(**log.shown).interval(LEVEL)
        bounds = sensitivity_bounds(
            **log.shown, gamma=(below, gamma), n_resamples=N_RESAMPLES, level=LEVEL, seed=number
        )
        predicted = np.full(log.shown["target_probs"].shape, 0.5)
        sharp: list[Bounds] = [
            sharp_bounds(
                **log.shown,
                predicted=predicted,
                gamma=each,
                fold=np.arange(n_rounds) % 2,
                outcome_range=(0.0, 1.0),
            )
            for each in (below, gamma)
        ]
        ends = [each.interval(LEVEL) for each in sharp]
        found.append(
            [
                low <= log.truth <= high,
                bounds.ci_low[1] <= log.truth <= bounds.ci_high[1],
                ends[1][0] <= log.truth <= ends[1][1],
                bounds.ci_low[0] <= log.truth <= bounds.ci_high[0],
                ends[0][0] <= log.truth <= ends[0][1],
                bounds.high[1] - bounds.low[1],
                sharp[1].high.value - sharp[1].low.value,
            ]
        )
    means: NDArray[np.float64] = np.array(found, dtype=np.float64).mean(axis=0)
    return Cell(*(float(mean) for mean in means))


def _report(cells: dict[tuple[Confounder, float, int], Cell], *, n_logs: int) -> Report:
    worst = {key: cell for key, cell in cells.items() if key[0] == "worst"}
    largest = max(n_rounds for _, _, n_rounds in worst)
    long_logs = [cell for (_, _, n_rounds), cell in worst.items() if n_rounds == largest]
    at = min(min(cell.stabilised, cell.sharp) for cell in cells.values())
    beneath = max(max(cell.stabilised_below, cell.sharp_below) for cell in long_logs)
    point = max(cell.point for cell in long_logs)
    # The truth is one end of the bounds, which an interval for both ends holds 97.5% of the time.
    allowed = LEVEL - 3 * np.sqrt(LEVEL * (1 - LEVEL) / n_logs)
    return Report(
        name="sensitivity",
        asked="Do the intervals of sensitivity bounds contain the truth at the true Gamma, and miss it below?",
        found=f"At the true Gamma they hold it in at least {at:.1%} of {n_logs} logs a cell; where the confounder does "
        f"its worst, at 1 + {PART} (Gamma - 1), in at most {beneath:.1%} of the logs of {largest:,} rounds, and the "
        f"interval without hidden confounding in at most {point:.1%}.",
        holds=at >= allowed and beneath < 0.1 and point < 0.1,
        body=[
            "Three states, three arms, propensities of 0.2 to 0.6 as the log knows them. A hidden confounder u "
            "multiplies the odds of the arm that the target calls by exactly Gamma, up or down, in every round. The "
            "worst there is decides that arm's outcome, so that the truth is the upper bound itself; half as bad, it "
            "moves the outcome's chance from 1/4 to 3/4, and the truth lies well within. Percent of logs whose 95% "
            "interval holds the truth: SNIPS as if nothing were hidden; `sensitivity_bounds` (percentiles of "
            f"{N_RESAMPLES} resamples) and `sharp_bounds` at Gamma, and below it. Widths are those of the bounds at "
            "Gamma, without noise.",
            "",
            *grid(
                [
                    "confounder",
                    "Gamma",
                    "rounds",
                    "SNIPS",
                    "stabilised",
                    "sharp",
                    "stabilised, below",
                    "sharp, below",
                    "stabilised width",
                    "sharp width",
                ],
                [
                    [
                        confounder,
                        f"{gamma:g}",
                        f"{n_rounds:,}",
                        *(f"{100 * share:.1f}" for share in cell[:5]),
                        *(f"{width:.3f}" for width in cell[5:]),
                    ]
                    for (confounder, gamma, n_rounds), cell in cells.items()
                ],
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
