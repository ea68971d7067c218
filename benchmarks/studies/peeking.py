"""Do any-time intervals hold when looked at after every round, also where the logging policy learns? Do Wald's?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.bandits import FLOOR, MEANS, N_ARMS, Bandit, BanditLogs, run_bandit, value
from benchmarks.studies.table import Options, Report, command
from pointsman.ope import Estimate, dr
from pointsman.ope.sequences import AsymptoticSequence, OffPolicySequence, RunningInterval

LEVEL = 0.95
FIRST_LOOK, LATER_LOOK = 100, 500
N_ROUNDS, N_LOGS = 1_000, 1_000
N_GRID = 100
LOGGERS: tuple[Bandit, ...] = ("fixed", "epsilon-greedy", "thompson")
KINDS = ("betting", f"asymptotic from {FIRST_LOOK}", f"asymptotic from {LATER_LOOK}", "Wald")
JUDGED = (KINDS[0], KINDS[2])
"""Kinds that should hold."""

BEST = np.eye(N_ARMS)[MEANS.argmax(axis=1)]
FIRST, SECOND = (np.tile(np.eye(N_ARMS)[t], (len(MEANS), 1)) for t in (0, 1))
MOST_MISSES_Z = 3.0


class Cell(NamedTuple):
    """One kind of interval on one quantity, over all logs."""

    ever_missed: NDArray[np.bool_]
    missed_at_end: NDArray[np.bool_]
    width_at_end: NDArray[np.float64]


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return how often each kind of interval ever misses."""
    n_logs = 20 if options.quick else N_LOGS
    quantities = {"value of the best policy": (BEST, None), "difference of two equal arms": (FIRST, SECOND)}
    cells: dict[tuple[str, str, str], Cell] = {}
    for place, logger in enumerate(LOGGERS):
        logs = run_bandit(logger, n_logs=n_logs, n_rounds=N_ROUNDS, rng=np.random.default_rng([place, 3]))
        for quantity, (target, baseline) in quantities.items():
            truth = value(target) - (0.0 if baseline is None else value(baseline))
            scores = _scores(logs, target, baseline)
            ways: dict[str, Callable[[int], RunningInterval]] = {
                "betting": lambda j, t=target, b=baseline, of=logs: _betting(of, j, t, b),  # type: ignore[misc]
                KINDS[1]: lambda j, of=scores: _asymptotic(of[j], first_round=FIRST_LOOK),  # type: ignore[misc]
                KINDS[2]: lambda j, of=scores: _asymptotic(of[j], first_round=LATER_LOOK),  # type: ignore[misc]
                "Wald": lambda j, of=scores: _wald(of[j]),  # type: ignore[misc]
            }
            for kind, way in ways.items():
                cells[logger, quantity, kind] = _cell([way(j) for j in range(n_logs)], truth=truth)
    return _report(cells, n_logs=n_logs)


def _scores(logs: BanditLogs, target: NDArray[np.float64], baseline: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return (n_logs, n_rounds) doubly robust scores; predictions are from the rounds before."""
    estimate = _estimate(logs, target)
    if baseline is not None:
        estimate = estimate - _estimate(logs, baseline)
    scores = sum(term.numerator for term in estimate.terms)
    return np.reshape(scores, logs.arm.shape)


def _estimate(logs: BanditLogs, policy: NDArray[np.float64]) -> Estimate:
    return dr(
        arm=logs.arm.ravel(),
        outcome=logs.outcome.ravel(),
        propensity=logs.propensity.ravel(),
        predicted=logs.predicted.reshape(-1, N_ARMS),
        target_probs=policy[logs.state.ravel()],
    )


def _betting(
    logs: BanditLogs, j: int, target: NDArray[np.float64], baseline: NDArray[np.float64] | None
) -> RunningInterval:
    sequence = OffPolicySequence(
        outcome_range=(0.0, 1.0),
        difference=baseline is not None,
        largest_weight=1 / logs.least_propensity,
        level=LEVEL,
        n_grid=N_GRID,
    )
    return sequence.update(
        arm=logs.arm[j],
        outcome=logs.outcome[j],
        propensity=logs.propensity[j],
        target_probs=target[logs.state[j]],
        baseline_probs=None if baseline is None else baseline[logs.state[j]],
        predicted=logs.predicted[j],
    )


def _asymptotic(scores: NDArray[np.float64], *, first_round: int) -> RunningInterval:
    return AsymptoticSequence(tuned_to=N_ROUNDS, level=LEVEL, first_round=first_round).update(scores)


def _wald(scores: NDArray[np.float64]) -> RunningInterval:
    count = np.arange(1, scores.size + 1)
    mean = np.cumsum(scores) / count
    variance = np.maximum(np.cumsum(scores**2) / count - mean**2, 0.0) * count / np.maximum(count - 1, 1)
    radius = 1.959964 * np.sqrt(variance / count)
    return RunningInterval(mean - radius, mean + radius)


def _cell(intervals: Sequence[RunningInterval], *, truth: float) -> Cell:
    low, high = (np.stack(ends)[:, FIRST_LOOK - 1 :] for ends in zip(*intervals, strict=True))
    # The ends of the betting sequence are sums of steps of a grid.
    missed = np.asarray((low > truth + 1e-9) | (high < truth - 1e-9), dtype=np.bool_)
    return Cell(np.asarray(missed.any(axis=1)), missed[:, -1], high[:, -1] - low[:, -1])


def _report(cells: dict[tuple[str, str, str], Cell], *, n_logs: int) -> Report:
    ever = {key: float(cell.ever_missed.mean()) for key, cell in cells.items()}
    worst = {kind: max(rate for key, rate in ever.items() if key[-1] == kind) for kind in KINDS}
    least_wald = min(rate for key, rate in ever.items() if key[-1] == "Wald")
    allowed = 1 - LEVEL + MOST_MISSES_Z * np.sqrt(LEVEL * (1 - LEVEL) / n_logs)
    rows = [
        [
            logger,
            quantity,
            kind,
            f"{100 * cell.ever_missed.mean():.1f}",
            f"{100 * cell.missed_at_end.mean():.1f}",
            f"{100 * cell.width_at_end.mean():.1f}",
        ]
        for (logger, quantity, kind), cell in cells.items()
    ]
    return Report(
        name="peeking",
        asked="Do any-time 95% intervals hold when looked at after every round, also where the logging policy learns?",
        found=f"Looked at after each of rounds {FIRST_LOOK} to {N_ROUNDS:,}, some betting interval misses in at most "
        f"{worst[KINDS[0]]:.1%} of {n_logs:,} logs (5% is allowed); some asymptotic one in at most "
        f"{worst[KINDS[2]]:.1%} if the first look is at round {LATER_LOOK}, but {worst[KINDS[1]]:.1%} if it is at "
        f"{FIRST_LOOK}, too early for weights of 30; some Wald interval in {least_wald:.0%} to {worst['Wald']:.0%}.",
        holds=max(worst[kind] for kind in JUDGED) <= allowed < least_wald,
        body=[
            "Three arms, four kinds of prompt (`bandits.MEANS`). *fixed* draws arms evenly; *epsilon-greedy* and "
            f"*thompson* learn after every round and spread {FLOOR:.0%} over all arms, so that a weight is at most "
            f"{N_ARMS / FLOOR:.0f}; propensities are exact. *betting*: `OffPolicySequence`, which knows the largest "
            "weight. *asymptotic*: `AsymptoticSequence` of the doubly robust scores, tuned to the last round, with "
            f"its first look at round {FIRST_LOOK} (the default) or {LATER_LOOK}. *Wald*: the normal interval of the "
            "same scores. Predictions are the means of the rounds before. The difference is zero: an interval that "
            "misses it declares a winner that there is not. Misses in percent of logs, at any look and at the last; "
            "widths x 100 at the last.",
            "",
            *grid(["logger", "quantity", "interval", "ever misses", "misses at the end", "width at the end"], rows),
            "What looking at any time costs is in the last column: an interval half again as wide as Wald's.",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
