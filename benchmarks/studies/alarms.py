"""Do errors, warnings and the gate fire where overlap is broken by design, and keep quiet where nothing is wrong?"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command
from benchmarks.studies.worlds import World, draw_arms, overlap_world
from pointsman.errors import OverlapError, StatisticalWarning
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.nuisance.propensity import estimate_propensities
from pointsman.ope import (
    check_balance,
    check_inverse_propensities,
    check_missingness,
    diagnose,
    gate,
    snips,
    trusted_interval,
)
from pointsman.ope.diagnostics import overlap_cells
from pointsman.ope.diagnostics.significance import FALSE_ALARM_RATE
from pointsman.ope.estimators import importance_weights
from pointsman.types import ArmIndex, Context, PerArm, PerRound

N_ROUNDS = 2_000
N_QUIET, N_BROKEN, N_ESTIMATED = 1_000, 300, 100
ALARMS = ("error", "no support", "deterministic", "mean weight", "tail", "slices", "1 / e", "balance", "missing")
MESSAGES = {
    "no support": "the logging policy was sure of another arm",
    "deterministic": "the log looks deterministic",
    "mean weight": "importance weights average",
    "tail": "have a heavy tail",
}
POWER = 0.95
"""Least share of the logs of a broken design in which one of its alarms goes off."""
MOST_FALSE = 7
"""Of 1,000 logs, for one alarm: at one in a thousand, more come once in a hundred thousand studies."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A log, a target policy, and its value.

    Attributes:
        context: Features.
        arm: Logged arm.
        outcome: Of it.
        propensity: What the log says, true or not.
        target_probs: The target policy.
        truth: Its value over the population.
        missing: Rounds whose outcome is not known.
    """

    context: Context
    arm: ArmIndex
    outcome: PerRound
    propensity: PerRound
    target_probs: PerArm
    truth: float
    missing: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Design:
    """A way to log, and which alarms it should set off; none where nothing is wrong.

    Attributes:
        name: What the table calls it.
        draw: Draws a log.
        expected: Alarms of which one at least should go off.
        n_logs: Logs to draw.
        has_truth: Whether coverage is asked for.
        judged: Whether the study's verdict counts it.
    """

    name: str
    draw: Callable[[np.random.Generator], Sample]
    expected: tuple[str, ...] = ()
    n_logs: int = N_BROKEN
    has_truth: bool = True
    judged: bool = True


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What happened over the logs of a design, as shares of them."""

    alarms: dict[str, float]
    any_expected: float
    closed: float
    normal_covers: float
    printed_covers: float
    n_logs: int


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return how often each alarm goes off in each design."""
    designs = _designs()
    if options.quick:
        designs = [replace(design, n_logs=20) for design in designs]
    return _report([(design, _counts(design, seed)) for seed, design in enumerate(designs)], quick=options.quick)


def _designs() -> list[Design]:
    good, moderate, bad = (overlap_world(overlap) for overlap in ("good", "moderate", "bad"))
    uniform = replace(good, propensities=np.full_like(good.mean, 1 / good.n_arms), least_propensity=1 / good.n_arms)
    served = good.targets[0].argmax(axis=1)
    never = _floored(np.where(np.arange(good.n_arms) == np.bincount(served).argmax(), 0.0, good.propensities))
    leader = np.eye(good.n_arms)[good.propensities.argmax(axis=1)]
    region = good.context[:, 0] > 1
    wanted = np.bincount(served[region]).argmax()
    barred = _floored(np.where(region[:, None] & (np.arange(good.n_arms) == wanted), 0.0, good.propensities))
    # A target that takes arms which the deterministic policy takes as well, on other prompts.
    dearest = np.zeros_like(good.targets[:1])
    dearest[..., -1] = 1.0
    return [
        Design(name="uniform logging", draw=_drawer(uniform), n_logs=N_QUIET),
        Design(name="good overlap", draw=_drawer(good), n_logs=N_QUIET),
        Design(name="moderate overlap", draw=_drawer(moderate), n_logs=N_QUIET, judged=False),
        Design(
            name="the target's main arm never logged",
            draw=_drawer(replace(good, propensities=never)),
            expected=("error",),
        ),
        Design(name="deterministic, as logged", draw=_drawer(replace(good, propensities=leader)), expected=("error",)),
        Design(
            name="deterministic, propensities estimated",
            draw=_estimated(replace(good, propensities=leader, targets=dearest)),
            expected=("deterministic",),
            n_logs=N_ESTIMATED,
        ),
        Design(
            name="an arm barred from a sixth of prompts",
            draw=_drawer(replace(good, propensities=barred)),
            expected=("mean weight", "slices", "1 / e"),
        ),
        Design(name="heavy tail, k = 0.67", draw=_heavy(2.0), expected=("tail", "gate")),
        Design(name="heavy tail, k = 0.8", draw=_heavy(4.0), expected=("tail", "gate")),
        Design(name="bad overlap, 300 rounds", draw=_drawer(bad, n_rounds=300), expected=("gate", "tail")),
        Design(name="good overlap, 80 rounds", draw=_drawer(good, n_rounds=80), expected=("gate",)),
        Design(
            name="confounded, said to be uniform",
            draw=_drawer(moderate, said=np.full_like(moderate.mean, 1 / moderate.n_arms)),
            expected=("mean weight", "1 / e", "balance"),
        ),
        Design(
            name="outcomes missing by prompt",
            draw=_drawer(good, missing_by_prompt=True),
            expected=("missing",),
            has_truth=False,
        ),
    ]


def _floored(weights: PerArm) -> PerArm:
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _drawer(
    world: World, *, n_rounds: int = N_ROUNDS, said: PerArm | None = None, missing_by_prompt: bool = False
) -> Callable[[np.random.Generator], Sample]:
    def draw(rng: np.random.Generator) -> Sample:
        drawn = world.draw(n_rounds, rng=rng)
        context = world.context[drawn.prompt]
        chance = 0.2 / (1 + np.exp(-context[:, 0])) if missing_by_prompt else np.full(n_rounds, 0.1)
        return Sample(
            context=context,
            arm=drawn.arm,
            outcome=drawn.outcome,
            propensity=world.propensity(drawn) if said is None else said[drawn.prompt, drawn.arm],
            target_probs=world.targets[0][drawn.prompt],
            truth=world.value(world.targets[0]),
            missing=rng.random(n_rounds) < chance,
        )

    return draw


def _estimated(world: World) -> Callable[[np.random.Generator], Sample]:
    draw_logged = _drawer(world)

    def draw(rng: np.random.Generator) -> Sample:
        sample = draw_logged(rng)
        estimate = estimate_propensities(
            context=sample.context,
            arm=sample.arm,
            n_arms=world.n_arms,
            fold=assign_folds(sample.arm.size, n_folds=5, seed=int(rng.integers(1 << 31))),
        )
        return replace(sample, propensity=estimate.of_logged_arm)

    return draw


def _heavy(power: float) -> Callable[[np.random.Generator], Sample]:
    """Return a log of two arms whose weights have a Pareto tail, k = power / (1 + power).

    The target always takes the arm that the logging policy takes with probability u^power, u ~ U(0, 1).
    """

    def draw(rng: np.random.Generator) -> Sample:
        chance = rng.random(N_ROUNDS) ** power
        probabilities = np.column_stack([chance, 1 - chance])
        arm = draw_arms(probabilities, rng=rng)
        # The prompts that the logging policy avoids are those that go well.
        mean = 0.8 - 0.6 * chance ** (1 / power)
        context = np.column_stack([chance ** (1 / power), rng.normal(size=N_ROUNDS)])
        return Sample(
            context=context,
            arm=arm,
            outcome=(rng.random(N_ROUNDS) < mean).astype(np.float64),
            propensity=probabilities[np.arange(N_ROUNDS), arm],
            target_probs=np.tile([1.0, 0.0], (N_ROUNDS, 1)),
            truth=0.5,
            missing=rng.random(N_ROUNDS) < 0.1,
        )

    return draw


def _counts(design: Design, seed: int) -> Counts:
    fired: list[set[str]] = []
    normal, printed = [], []
    for number in range(design.n_logs):
        rng = np.random.default_rng([seed, number])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticalWarning)
            sample = design.draw(rng)
        alarms = _alarms(sample)
        if "error" not in alarms and design.has_truth:
            covered = _covered(sample)
            normal.append(covered[0])
            printed.append(covered[1])
        fired.append(alarms)
    return Counts(
        alarms={name: float(np.mean([name in alarms for alarms in fired])) for name in ALARMS},
        any_expected=float(np.mean([bool(alarms & set(design.expected)) for alarms in fired])),
        closed=float(np.mean(["gate" in alarms for alarms in fired])),
        normal_covers=float(np.mean(normal)) if normal else np.nan,
        printed_covers=float(np.mean(printed)) if printed else np.nan,
        n_logs=design.n_logs,
    )


def _alarms(sample: Sample) -> set[str]:
    """Return the alarms that a log sets off; `gate` where it closes on the value by SNIPS."""
    n_arms = sample.target_probs.shape[1]
    fired: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            diagnose(arm=sample.arm, propensity=sample.propensity, target_probs=sample.target_probs)
        except OverlapError:
            return {"error"}
    fired |= {name for name, words in MESSAGES.items() if any(words in str(each.message) for each in caught)}
    region = np.where(sample.context[:, 0] > 1, "above", "below")
    checks: dict[str, Callable[[], object]] = {
        "slices": lambda: overlap_cells(
            arm=sample.arm, propensity=sample.propensity, target_probs=sample.target_probs, labels=region
        ),
        "1 / e": lambda: check_inverse_propensities(arm=sample.arm, propensity=sample.propensity, n_arms=n_arms),
        "balance": lambda: check_balance(
            context=sample.context, arm=sample.arm, propensity=sample.propensity, n_arms=n_arms
        ),
        "missing": lambda: check_missingness(
            missing=sample.missing, arm=sample.arm, context=sample.context, n_arms=n_arms
        ),
    }
    for name, check in checks.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check()
        if caught:
            fired.add(name)
    logged = _logged(sample)
    if gate(snips(**logged), weight=_weight(sample)).interval != "normal":
        fired.add("gate")
    return fired


def _covered(sample: Sample) -> tuple[bool, bool]:
    """Return whether the normal interval, and the one to print, hold the truth."""
    logged = _logged(sample)
    estimate = snips(**logged)
    low, high = estimate.interval()
    printed = trusted_interval(estimate, **logged, outcome_range=(0.0, 1.0))
    return low <= sample.truth <= high, printed.low <= sample.truth <= printed.high


def _logged(sample: Sample) -> dict[str, Any]:
    return {
        "arm": sample.arm,
        "outcome": sample.outcome,
        "propensity": sample.propensity,
        "target_probs": sample.target_probs,
    }


def _weight(sample: Sample) -> PerRound:
    return importance_weights(arm=sample.arm, propensity=sample.propensity, target_probs=sample.target_probs)


def _report(found: Sequence[tuple[Design, Counts]], *, quick: bool) -> Report:
    quiet = [(design, counts) for design, counts in found if design.judged and not design.expected]
    broken = [(design, counts) for design, counts in found if design.expected]
    worst_false = max(rate for _, counts in quiet for rate in counts.alarms.values())
    weakest = min(counts.any_expected for _, counts in broken)
    rows = [
        [
            design.name,
            f"{counts.n_logs:,}",
            *(_rate(counts.alarms[name], marked=name in design.expected) for name in ALARMS),
            _rate(counts.closed, marked="gate" in design.expected),
            _rate(counts.normal_covers),
            _rate(counts.printed_covers),
        ]
        for design, counts in found
    ]
    most = max(rate * counts.n_logs for _, counts in quiet for rate in counts.alarms.values())
    closed = max(counts.closed for _, counts in quiet)
    return Report(
        name="alarms",
        asked="Do errors, warnings and the gate fire where overlap is broken by design, and keep quiet elsewhere?",
        found=f"In each of {len(broken)} broken designs one of its alarms goes off in at least {weakest:.1%} of the "
        f"logs; on {len(quiet)} sound ones the noisiest alarm goes off in {worst_false:.1%} of "
        f"{quiet[0][1].n_logs:,} logs ({FALSE_ALARM_RATE:.1%} is meant), and the gate is shut in at most {closed:.1%}.",
        holds=weakest >= POWER and (quick or most <= MOST_FALSE),
        body=[
            f"Shares of logs, in percent, of {N_ROUNDS:,} rounds where nothing else is said (`worlds.overlap_world`; "
            "the target is the router without a price, its value is estimated by SNIPS). In bold the alarms of which "
            "one should go off. *error*: `OverlapError`, after which nothing else is asked. *no support*, "
            "*deterministic*, *mean weight*, *tail*: the warnings of `diagnose`. *slices*: `overlap_cells` by the "
            "side of one standard deviation of the first feature. *1 / e*: `check_inverse_propensities`. *balance*: "
            "`check_balance`. *missing*: `check_missingness`, a tenth of the outcomes being lost. *gate*: closed. "
            "Then the share of normal intervals that hold the truth, and of those that are printed. Moderate overlap "
            "lies in between and is not judged: weights reach 50, and what warns of them is right to. Barred: where "
            "the first feature is above one the logging policy never takes the arm the target mostly wants there; "
            "what it logs is right, and no estimate from logged rounds can repair it. Heavy tails: a weight has a "
            "Pareto tail with index k, so that for k above 1/2 its variance is infinite. Said to be uniform: the log "
            "claims 1/4 for a moderately confounded policy.",
            "",
            *grid(["design", "logs", *ALARMS, "gate", "normal covers", "printed covers"], rows),
        ],
    )


def _rate(share: float, *, marked: bool = False) -> str:
    if np.isnan(share):
        return "-"
    text = f"{100 * share:.1f}"
    return f"**{text}**" if marked else text


if __name__ == "__main__":
    sys.exit(main())
