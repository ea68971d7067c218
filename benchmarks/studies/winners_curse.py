"""How much better does the best of many policies look on the log it was chosen on than it is?"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import MonteCarlo, Options, Report, command
from benchmarks.studies.worlds import World, overlap_world
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope import joint_intervals
from pointsman.scores import pseudo_outcomes

N_POLICIES = (1, 5, 20, 100)
N_ROUNDS = 1_000
N_LOGS = 500
LEVEL, Z = 0.95, 1.959964
N_BAND_DRAWS = 500


class Found(NamedTuple):
    """Of the policy that looked best on one log."""

    in_sample: float
    """Estimate on that log, less the truth."""
    held_out: float
    """Estimate on another, less the truth."""
    in_sample_covers: bool
    band_covers: bool
    held_out_covers: bool
    promised: float
    """Estimate on that log."""


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return the optimism of the best of several policies."""
    n_logs = 30 if options.quick else N_LOGS
    world = overlap_world("good")
    policies = _policies(world)
    truths = np.array([float(world.mean[np.arange(len(chosen)), chosen].mean()) for chosen in policies])
    found: dict[int, list[Found]] = {m: [] for m in N_POLICIES}
    for seed in range(n_logs):
        chosen_on, held_out = (_scores(world, policies, seed=seed, part=part) for part in (0, 1))
        for m in N_POLICIES:
            found[m].append(_best(chosen_on[:m], held_out[:m], truths[:m], seed=seed))
    return _report(found, truths, n_logs=n_logs)


def _policies(world: World) -> NDArray[np.int64]:
    """Return (n_policies, n_prompts) arms by random linear rules, all much alike in value."""
    rng = np.random.default_rng([0, 8])
    rules = rng.normal(size=(max(N_POLICIES), world.context.shape[1], world.n_arms))
    return np.stack([(world.context @ rule).argmax(axis=1) for rule in rules])


def _scores(world: World, policies: NDArray[np.int64], *, seed: int, part: int) -> NDArray[np.float64]:
    """Return (n_policies, n_rounds) doubly robust scores on a log of its own, with cross-fitted predictions."""
    drawn = world.draw(N_ROUNDS, rng=np.random.default_rng([seed, part, 88]))
    predicted = cross_fit_outcomes(
        PerArmRidge(),
        context=world.context[drawn.prompt],
        outcome=drawn.outcome,
        arm=drawn.arm,
        n_arms=world.n_arms,
        fold=assign_folds(N_ROUNDS, n_folds=5, seed=seed),
    )
    scores = pseudo_outcomes(
        arm=drawn.arm, outcome=drawn.outcome, propensity=world.propensity(drawn), predicted=predicted
    )
    return np.asarray(scores[np.arange(N_ROUNDS), policies[:, drawn.prompt]])


def _best(
    chosen_on: NDArray[np.float64], held_out: NDArray[np.float64], truths: NDArray[np.float64], *, seed: int
) -> Found:
    values = chosen_on.mean(axis=1)
    best = int(values.argmax())
    truth = truths[best]
    other = held_out[best].mean()
    radius, other_radius = (Z * each[best].std(ddof=1) / np.sqrt(N_ROUNDS) for each in (chosen_on, held_out))
    band = joint_intervals(values, chosen_on - values[:, None], level=LEVEL, n_draws=N_BAND_DRAWS, seed=seed)
    return Found(
        in_sample=float(values[best] - truth),
        held_out=float(other - truth),
        in_sample_covers=bool(abs(values[best] - truth) <= radius),
        band_covers=bool(band.low[best] <= truth <= band.high[best]),
        held_out_covers=bool(abs(other - truth) <= other_radius),
        promised=float(values[best]),
    )


def _report(found: dict[int, list[Found]], truths: NDArray[np.float64], *, n_logs: int) -> Report:
    rows, honest = [], []
    for m, logs in found.items():
        optimism, held_out = (
            MonteCarlo.of(np.array([getattr(each, name) for each in logs])) for name in ("in_sample", "held_out")
        )
        honest.append(abs(held_out.z()))
        rows.append(
            [
                f"{m}",
                f"{100 * truths[:m].max():.1f}",
                f"{100 * np.mean([each.promised for each in logs]):.1f}",
                f"{100 * np.mean([each.promised - each.in_sample for each in logs]):.1f}",
                f"{100 * optimism.value:+.2f} ± {100 * optimism.error:.2f}",
                f"{100 * held_out.value:+.2f} ± {100 * held_out.error:.2f}",
                *(
                    f"{100 * np.mean([getattr(each, name) for each in logs]):.1f}"
                    for name in ("in_sample_covers", "band_covers", "held_out_covers")
                ),
            ]
        )
    most = max(found)
    curse = MonteCarlo.of(np.array([each.in_sample for each in found[most]]))
    band, out = (float(np.mean([getattr(each, n) for each in found[most]])) for n in ("band_covers", "held_out_covers"))
    alone = float(np.mean([each.in_sample_covers for each in found[most]]))
    least = LEVEL - 3 * np.sqrt(LEVEL * (1 - LEVEL) / n_logs)
    return Report(
        name="winners_curse",
        asked="Is the value of the best of many policies honest on held-out rounds, where on the log it was chosen on "
        "it is not?",
        found=f"The best of {most} policies looks {100 * curse.value:.1f} points better than it is on its own log, and "
        f"its interval there covers in {alone:.0%} of {n_logs} logs; on held-out rounds the mean error is at most "
        f"{max(honest):.1f} standard errors and the interval covers in {out:.0%}, and the band over all policies does "
        f"in {band:.0%} even on its own log.",
        holds=max(honest) < 3.5 and curse.z() > 5 and min(band, out) >= least,
        body=[
            f"Logs of {N_ROUNDS:,} rounds (`worlds.overlap_world`, good overlap); random linear policies, valued by DR "
            "with cross-fitted ridges; the one of highest estimate is chosen, and estimated again on another log of "
            "the same size. x 100: the best policy's true value, what the chosen one promises and what it is worth, "
            "mean errors with their Monte Carlo standard errors. Coverage of the chosen one's true value, in percent, "
            "by its own 95% interval on the log it was chosen on, by its place in the simultaneous band over all "
            "(`joint_intervals`), and by its interval on the held-out log.",
            "",
            *grid(
                [
                    "policies",
                    "best",
                    "promised",
                    "worth",
                    "error in sample",
                    "error held out",
                    "in-sample interval",
                    "band",
                    "held-out interval",
                ],
                rows,
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
