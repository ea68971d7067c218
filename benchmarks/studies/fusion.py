"""Is a value from a few gold labels and many of a biased judge never worse than from the gold labels alone?"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command
from benchmarks.studies.worlds import overlap_world
from pointsman.ope import Estimate, dr, prediction_powered, wald

N_GOLD = (50, 100, 500)
N_JUDGED = 2_000
N_LOGS = 2_000
JUDGES = ("none but noise", "biased by arm", "biased and noisy", "good")
WORSE_Z = 3.0


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return root mean square errors of both estimates, judge by judge."""
    n_logs = 100 if options.quick else N_LOGS
    world = overlap_world("good")
    target = world.targets[0]
    truth = world.value(target)
    rows: list[list[str]] = []
    excess: list[float] = []
    coverage: list[float] = []
    for judge in JUDGES:
        for n_gold in N_GOLD:
            errors = np.zeros((n_logs, 3))
            covered = np.zeros((n_logs, 2))
            for seed in range(n_logs):
                rng = np.random.default_rng([seed, n_gold, JUDGES.index(judge), 12])
                drawn = world.draw(n_gold + N_JUDGED, rng=rng)
                judged = _judged(judge, outcome=drawn.outcome, arm=drawn.arm, rng=rng)
                logged = {
                    "arm": drawn.arm,
                    "propensity": world.propensity(drawn),
                    "target_probs": target[drawn.prompt],
                    "predicted": np.full((drawn.arm.size, world.n_arms), 0.5),
                }
                gold, judged_gold, judged_rest = (
                    _estimate(logged, outcome, part)
                    for outcome, part in (
                        (drawn.outcome, slice(n_gold)),
                        (judged, slice(n_gold)),
                        (judged, slice(n_gold, None)),
                    )
                )
                fused = prediction_powered(gold=gold, judged_gold=judged_gold, judged_rest=judged_rest)
                errors[seed] = [each.value - truth for each in (gold, judged_rest, fused)]
                for j, each in enumerate((gold, fused)):
                    low, high = wald(each.value, standard_error=each.standard_error)
                    covered[seed, j] = low <= truth <= high
            squares = errors**2
            change = squares[:, 2] - squares[:, 0]
            z = float(change.mean() / (change.std(ddof=1) / np.sqrt(n_logs)))
            excess.append(z)
            coverage.append(float(covered[:, 1].mean()))
            rmse = np.sqrt(squares.mean(axis=0))
            rows.append(
                [
                    judge,
                    f"{n_gold:,}",
                    *(f"{100 * each:.2f}" for each in rmse),
                    f"{rmse[2] / rmse[0]:.2f}",
                    f"{z:+.1f}",
                    *(f"{100 * each:.1f}" for each in covered.mean(axis=0)),
                ]
            )
    worst = max(excess)
    return Report(
        name="fusion",
        asked="Is a value from a few gold labels and many of a biased judge never worse than from gold alone?",
        found=(
            f"The mean square error is larger by at most {worst:+.1f} standard errors in {len(rows)} cells "
            f"({WORSE_Z:g} are allowed); intervals cover in {100 * min(coverage):.1f}% or more of the logs."
        ),
        holds=worst < WORSE_Z,
        body=[
            f"{n_logs:,} logs a cell of `worlds.overlap_world('good')`: {N_JUDGED:,} rounds with the judge's label "
            "only, and some, drawn at random, with gold too. The value is that of a greedy router, by DR with a "
            "constant prediction; `ope.prediction_powered` takes as much of the judge as lowers the variance. Errors x "
            "100. This fuses labels at the level of one value; labels corrected round by round are not part of it.",
            "",
            *grid(
                [
                    "judge",
                    "gold labels",
                    "gold only",
                    "judge only",
                    "fused",
                    "fused / gold",
                    "z",
                    "gold covers",
                    "fused covers",
                ],
                rows,
            ),
        ],
    )


def _judged(judge: str, *, outcome: Any, arm: Any, rng: np.random.Generator) -> Any:
    noise = rng.normal(size=outcome.size)
    if judge == "none but noise":
        return 0.5 + 0.3 * noise
    shift = np.array([-0.3, 0.2, 0.0, 0.1])[arm]
    if judge == "biased by arm":
        return outcome + shift
    if judge == "biased and noisy":
        return 0.5 * outcome + shift + 0.4 * noise
    return outcome + 0.05 * noise


def _estimate(logged: dict[str, Any], outcome: Any, rows: slice) -> Estimate:
    return dr(outcome=outcome[rows], **{name: values[rows] for name, values in logged.items()})


if __name__ == "__main__":
    sys.exit(main())
