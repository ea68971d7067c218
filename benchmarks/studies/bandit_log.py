"""Does the log of a bandit that learns as it goes evaluate to the truth, its own and that of other policies?"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.bandits import FLOOR, MEANS, N_ARMS, N_STATES, Bandit, BanditLogs, run_bandit, value
from benchmarks.studies.table import MonteCarlo, Options, Report, bonferroni_z, command
from benchmarks.studies.worlds import replications
from pointsman.ope import Estimate, dr, ips, snips
from pointsman.ope.sequences import AsymptoticSequence, OffPolicySequence

LEVEL = 0.95
N_ROUNDS, N_LOGS, N_BETTING = 1_000, 2_000, 300
N_FOLDS = 5
N_GRID = 200
LOGGERS: tuple[Bandit, ...] = ("epsilon-greedy", "thompson", "thompson, fading floor")
BEST = np.eye(N_ARMS)[MEANS.argmax(axis=1)]
TARGETS = {
    "best policy": BEST,
    "always the third arm": np.tile(np.eye(N_ARMS)[2], (N_STATES, 1)),
    "evenly": np.full_like(MEANS, 1 / N_ARMS),
}
OWN = "the bandit itself"
UNBIASED = ("IPS", "DR, rounds before")
MOST_MISSES_Z = 3.0


class Row(NamedTuple):
    """One estimator or interval of one target on the logs of one bandit."""

    logger: str
    target: str
    name: str
    bias: MonteCarlo | None
    covered: float
    width: float
    n_logs: int


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return bias, coverage and width."""
    n_logs, n_betting = (100, 5) if options.quick else (N_LOGS, N_BETTING)
    rows: list[Row] = []
    own: list[tuple[str, MonteCarlo, float, float]] = []
    for place, logger in enumerate(LOGGERS):
        logs = run_bandit(logger, n_logs=n_logs, n_rounds=N_ROUNDS, rng=np.random.default_rng([place, 13]))
        own.append((logger, *_own(logs)))
        cross_fitted = _cross_fitted(logs, rng=np.random.default_rng([place, 14]))
        for target, policy in TARGETS.items():
            truth = value(policy)
            estimates = _estimates(logs, policy, cross_fitted=cross_fitted)
            for name, estimate in estimates.items():
                found = replications(estimate, n_rounds=N_ROUNDS)
                radius = 1.959964 * found.standard_error
                rows.append(
                    Row(
                        logger,
                        target,
                        name,
                        MonteCarlo.of(found.value - truth),
                        float((abs(found.value - truth) <= radius).mean()),
                        float(2 * radius.mean()),
                        n_logs,
                    )
                )
            scores = estimates["DR, rounds before"].terms[0].numerator.reshape(logs.arm.shape)
            rows.append(_asymptotic(logger, target, scores, truth=truth))
            if target == "best policy":
                rows.append(_betting(logger, target, logs, policy, n_logs=n_betting))
    return _report(rows, own)


def _own(logs: BanditLogs) -> tuple[MonteCarlo, float, float]:
    """Return the error of the mean outcome, its coverage by Wald, and how far IPS of the log's own choices is from it.

    The truth is what the policies that were run were worth on the prompts that came, which differs from log to log.
    """
    worth = np.einsum("lta,lta->lt", logs.probabilities, MEANS[logs.state]).mean(axis=1)
    mean = logs.outcome.mean(axis=1)
    error = logs.outcome.std(axis=1, ddof=1) / np.sqrt(N_ROUNDS)
    # Each round's target is what served: then the weight 1 / e times e is one.
    own = ips(
        arm=logs.arm.ravel(),
        outcome=logs.outcome.ravel(),
        propensity=logs.propensity.ravel(),
        target_probs=logs.probabilities.reshape(-1, N_ARMS),
    )
    identity = float(abs(replications(own, n_rounds=N_ROUNDS).value - mean).max())
    return MonteCarlo.of(mean - worth), float((abs(mean - worth) <= 1.959964 * error).mean()), identity


def _estimates(
    logs: BanditLogs, policy: NDArray[np.float64], *, cross_fitted: NDArray[np.float64]
) -> dict[str, Estimate]:
    logged: dict[str, Any] = {
        "arm": logs.arm.ravel(),
        "outcome": logs.outcome.ravel(),
        "propensity": logs.propensity.ravel(),
        "target_probs": policy[logs.state.ravel()],
    }
    return {
        "IPS": ips(**logged),
        "SNIPS": snips(**logged),
        "DR, rounds before": dr(**logged, predicted=logs.predicted.reshape(-1, N_ARMS)),
        "DR, cross-fitted": dr(**logged, predicted=cross_fitted),
    }


def _cross_fitted(logs: BanditLogs, *, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (n_logs * n_rounds, n_arms) means of the other folds' rounds of the same state and arm."""
    n_logs, n_rounds = logs.arm.shape
    fold = rng.permuted(np.tile(np.arange(n_rounds) % N_FOLDS, (n_logs, 1)), axis=1)
    cell = ((np.arange(n_logs)[:, None] * N_FOLDS + fold) * N_STATES + logs.state) * N_ARMS + logs.arm
    size = n_logs * N_FOLDS * N_STATES * N_ARMS
    shape = (n_logs, N_FOLDS, N_STATES, N_ARMS)
    total = np.bincount(cell.ravel(), weights=logs.outcome.ravel(), minlength=size).reshape(shape)
    count = np.bincount(cell.ravel(), minlength=size).reshape(shape)
    others = total.sum(axis=1, keepdims=True) - total + 1
    mean = others / (count.sum(axis=1, keepdims=True) - count + 2)
    return np.asarray(mean[np.arange(n_logs)[:, None], fold, logs.state].reshape(-1, N_ARMS))


def _asymptotic(logger: str, target: str, scores: NDArray[np.float64], *, truth: float) -> Row:
    ends = np.array([_last_asymptotic(each) for each in scores])
    return Row(
        logger,
        target,
        "asymptotic sequence",
        None,
        float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()),
        float((ends[:, 1] - ends[:, 0]).mean()),
        len(ends),
    )


def _last_asymptotic(scores: NDArray[np.float64]) -> tuple[float, float]:
    sequence = AsymptoticSequence(tuned_to=N_ROUNDS, level=LEVEL)
    sequence.update(scores)
    return sequence.interval


def _betting(logger: str, target: str, logs: BanditLogs, policy: NDArray[np.float64], *, n_logs: int) -> Row:
    truth, covered, width = value(policy), [], []
    for j in range(n_logs):
        sequence = OffPolicySequence(
            outcome_range=(0.0, 1.0), largest_weight=1 / logs.least_propensity, level=LEVEL, n_grid=N_GRID
        )
        sequence.update(
            arm=logs.arm[j],
            outcome=logs.outcome[j],
            propensity=logs.propensity[j],
            target_probs=policy[logs.state[j]],
            predicted=logs.predicted[j],
        )
        low, high = sequence.interval
        covered.append(low - 1e-9 <= truth <= high + 1e-9)
        width.append(high - low)
    return Row(logger, target, "betting sequence", None, float(np.mean(covered)), float(np.mean(width)), n_logs)


def _report(rows: list[Row], own: list[tuple[str, MonteCarlo, float, float]]) -> Report:
    unbiased = [row.bias.z() for row in rows if row.bias is not None and row.name in UNBIASED]
    unbiased += [bias.z() for _, bias, _, _ in own]
    worst = max(abs(z) for z in unbiased)
    any_time = [row for row in rows if row.name.endswith("sequence")]
    wald = [row for row in rows if not row.name.endswith("sequence")]
    least = min(any_time, key=lambda row: row.covered)
    fits = all(row.covered >= LEVEL - MOST_MISSES_Z * np.sqrt(LEVEL * (1 - LEVEL) / row.n_logs) for row in any_time)
    lowest = min(wald, key=lambda row: row.covered)
    return Report(
        name="bandit_log",
        asked="Does the log of a bandit that learns as it goes, with exact propensities, evaluate to the truth?",
        found=f"Of its own decisions IPS is the mean outcome to {max(gap for *_, gap in own):.0e}; of other policies "
        f"IPS and DR are unbiased (largest |z| {worst:.1f} over {len(unbiased)} cells). Any-time intervals cover in "
        f"{least.covered:.1%} or more of the logs; Wald's falls to {lowest.covered:.1%} ({lowest.name}, "
        f"{lowest.target}, {lowest.logger}).",
        holds=worst < bonferroni_z(len(unbiased)) and fits,
        body=[
            f"{rows[0].n_logs:,} logs of {N_ROUNDS:,} rounds a bandit, {any_time[0].n_logs:,} for the asymptotic "
            f"sequence and {next(row.n_logs for row in any_time if row.name == 'betting sequence'):,} for betting. "
            f"Three arms, four kinds of prompt (`bandits.MEANS`); every arm keeps a {FLOOR / N_ARMS:.3f} chance, or "
            "min(0.1, 1 / sqrt(t)) / 3 where the floor fades. Propensities are those given all rounds before. The "
            "bandit's own worth is the mean of what its decisions were worth, round by round; its interval is "
            "Wald's, and its truth differs from log to log.",
            "",
            *grid(
                ["bandit", "target", "mean error x 1,000", "z", "Wald covers", "IPS off the mean"],
                [
                    [
                        logger,
                        OWN,
                        f"{1000 * bias.value:+.2f} ± {1000 * bias.error:.2f}",
                        f"{bias.z():+.1f}",
                        f"{covered:.1%}",
                        f"{gap:.0e}",
                    ]
                    for logger, bias, covered, gap in own
                ],
            ),
            "Other policies. *Rounds before*: predictions are means of the rounds before each, so that a score's "
            "mean given the past is the truth. *Cross-fitted*: of the other folds' rounds, later ones among them; "
            "the letter of the proof is broken, as choices of later rounds depend on earlier outcomes. Intervals of "
            "estimators are Wald's; the sequences hold at all rounds at once (`AsymptoticSequence` of the DR scores, "
            "`OffPolicySequence` with the largest weight known), and are taken at the last.",
            "",
            *grid(
                ["bandit", "target", "estimator or interval", "mean error x 1,000", "z", "covers", "width x 100"],
                [
                    [
                        row.logger,
                        row.target,
                        row.name,
                        "" if row.bias is None else f"{1000 * row.bias.value:+.2f} ± {1000 * row.bias.error:.2f}",
                        "" if row.bias is None else f"{row.bias.z():+.1f}",
                        f"{row.covered:.1%}",
                        f"{100 * row.width:.1f}",
                    ]
                    for row in rows
                ],
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
