"""How often does a live experiment, looked at every round, tell equal policies apart, and how soon unequal ones?"""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple, get_args

import numpy as np

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command, map_logs
from pointsman.online.experiment import Experiment, Kind, Verdict
from pointsman.trade_off import TradeOff

Way = Literal["split", "adaptive split", "mix", "adaptive mix"]

N_ROUNDS, LATE = 10_000, 100
CHANCE, DIFFERENT = 0.6, 0.3
"""Probability that the current policy's answer is good, and that the new one would have chosen another arm."""
EFFECTS = (-0.1, -0.05, 0.05, 0.1)
N_NULL, N_EFFECT = 200, 40
TUNED_TO, N_GRID = 2_000, 250
LEVEL, MOST_MISSES_Z = 0.95, 3.0
LEAST_SHARE = 0.1


class Cell(NamedTuple):
    """What varies: how requests are shared, the sequence, and how much better the new policy is."""

    way: Way
    kind: Kind
    effect: float


class Outcome(NamedTuple):
    """How one experiment ended.

    Attributes:
        verdict: At the end.
        n_rounds: Rounds until then, at most `N_ROUNDS`.
        n_worse: Requests that got the worse policy's arm where both differ, before the verdict.
    """

    verdict: Verdict
    n_rounds: int
    n_worse: int


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return false alarms and stopping times."""
    ways: tuple[Way, ...] = get_args(Way)
    null = [Cell(way, "betting", 0.0) for way in ways] + [Cell("adaptive mix", "asymptotic", 0.0)]
    cells = null + [cell._replace(effect=effect) for cell in null for effect in EFFECTS]
    sizes = {cell: 4 if options.quick else (N_EFFECT if cell.effect else N_NULL) for cell in cells}
    jobs = [(cell, seed) for cell in cells for seed in range(sizes[cell])]
    ended = map_logs(watch, jobs, n_processes=options.n_processes, label="live experiment")
    found = {cell: [end for job, end in zip(jobs, ended, strict=True) if job[0] == cell] for cell in cells}
    return _report(found)


def watch(job: tuple[Cell, int]) -> Outcome:
    """Return how an experiment ends that is looked at after every round; outcomes come in a hundred rounds late."""
    cell, seed = job
    rng = np.random.default_rng([seed, int(1_000 * cell.effect) + 500, get_args(Way).index(cell.way)])
    trial = Experiment(
        trade_off=TradeOff(0.0),
        least_share=LEAST_SHARE,
        is_adaptive=cell.way.startswith("adaptive"),
        level=LEVEL,
        kind=cell.kind,
        tuned_to=TUNED_TO,
        n_grid=N_GRID,
    )
    arms = np.eye(2)
    waiting: list[tuple[int, float]] = []
    n_worse = 0
    for _ in range(N_ROUNDS):
        differ = int(rng.random() < DIFFERENT)
        if cell.way.endswith("mix"):
            number, arm, _, _ = trial.mix(arms[differ], arms[0], rng=rng)
        else:
            number, which, _ = trial.decide(rng=rng)
            arm = differ if which == "new" else 0
        # Arms differ by what makes the policies differ by the effect.
        quality = float(rng.random() < CHANCE + arm * cell.effect / DIFFERENT)
        n_worse += differ and (arm == 1) == (cell.effect < 0)
        waiting.append((number, quality))
        if len(waiting) == LATE:
            # Last first, so that all of them settle at once: every round is looked at all the same.
            while waiting:
                late, outcome = waiting.pop()
                trial.observe(late, quality=outcome)
            if trial.verdict != "running":
                return Outcome(trial.verdict, trial.report().n_rounds, n_worse)
    return Outcome(trial.verdict, N_ROUNDS, n_worse)


def planned(effect: float) -> int:
    """Return the rounds that a split needs to see an effect with power 0.8 at 5%, its size known beforehand."""
    variance = 2 * (CHANCE * (1 - CHANCE) + (CHANCE + effect) * (1 - CHANCE - effect))
    return int(np.ceil((1.959964 + 0.841621) ** 2 * variance / effect**2))


def _report(found: dict[Cell, list[Outcome]]) -> Report:
    alarms = {
        cell: float(np.mean([end.verdict != "running" for end in ends]))
        for cell, ends in found.items()
        if not cell.effect
    }
    right = {cell: "better" if cell.effect > 0 else "worse" for cell in found if cell.effect}
    wrong = {
        cell: float(np.mean([end.verdict not in ("running", right[cell]) for end in found[cell]])) for cell in right
    }
    n_null = min(len(found[cell]) for cell in alarms)
    allowed = 1 - LEVEL + MOST_MISSES_Z * float(np.sqrt(LEVEL * (1 - LEVEL) / n_null))
    rows = []
    for cell, ends in found.items():
        stopped = np.array([end.verdict != "running" for end in ends])
        rows.append(
            [
                cell.way,
                cell.kind,
                f"{100 * cell.effect:+.0f}",
                str(len(ends)),
                f"{100 * stopped.mean():.1f}",
                f"{100 * (wrong[cell] if cell.effect else alarms[cell]):.1f}",
                f"{np.median([end.n_rounds for end in ends]):,.0f}" if cell.effect else "",
                f"{np.median([end.n_worse for end in ends]):,.0f}" if cell.effect else "",
                f"{planned(cell.effect):,}" if cell.effect else "",
            ]
        )
    typical = {
        way: float(np.median([end.n_rounds for end in found[Cell(way, "betting", 0.05)]])) for way in get_args(Way)
    }
    return Report(
        name="live_experiment",
        asked="How often does a live experiment that is looked at after every round tell equal policies apart, and how "
        "soon unequal ones?",
        found=f"Over {N_ROUNDS:,} rounds equal policies are told apart in at most {max(alarms.values()):.1%} of "
        f"{n_null} experiments (5% is allowed), unequal ones the wrong way in at most {max(wrong.values()):.1%}. A "
        f"policy that is 5 points better is called so after {typical['split']:,.0f} rounds of a split, "
        f"{typical['mix']:,.0f} where arms are drawn from both policies' probabilities (medians); a test planned for "
        f"exactly that size and one look takes {planned(0.05):,}.",
        holds=max(alarms.values()) <= allowed and max(wrong.values()) <= allowed,
        body=[
            f"Qualities are one or zero; the current policy's answers are good with probability {CHANCE:g}, and the "
            f"new one takes another arm on {DIFFERENT:.0%} of requests. *split*: each request goes to either policy "
            "with probability 1/2; *adaptive*: to the new one with the probability that it is the better one, from "
            f"{LEAST_SHARE:g} to {1 - LEAST_SHARE:g}; *mix*: the arm is drawn from both policies' probabilities "
            f"(`Experiment.mix`). Sequences are tuned to {TUNED_TO:,} rounds, and every round is looked at, though "
            f"outcomes come in {LATE} rounds late and last first. *stopped*: experiments with a verdict, in percent; "
            "*wrong*: with a false one; *rounds*: median until the verdict; *worse*: median requests until then on "
            "which policies differ and the worse one's arm served; *planned*: rounds of a split for power 0.8 at 5%, "
            "the size known beforehand and looked at once. Effects in points of quality.",
            "",
            *grid(["way", "sequence", "effect", "experiments", "stopped", "wrong", "rounds", "worse", "planned"], rows),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
