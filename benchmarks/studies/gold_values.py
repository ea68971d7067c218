"""Do intervals of a policy's value in gold units cover where 5% of labels are gold and 95% a biased judge's?"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.coverage import Judged
from benchmarks.studies.table import Options, Report, command, map_logs
from benchmarks.studies.worlds import Drawn, Overlap, World, overlap_world
from pointsman.errors import StatisticalWarning
from pointsman.fusion import JudgedRounds, fuse, make_correction
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope import Estimate, GoldLabels, estimate_value
from pointsman.ope.trusted import TrustedIntervals, degrees_of_freedom
from pointsman.scores import Scores, make_scores
from pointsman.types import PerRound

Kind = Literal["binary", "continuous"]
Design = Literal["paired", "unpaired"]

KINDS: tuple[Kind, ...] = get_args(Kind)
DESIGNS: tuple[Design, ...] = get_args(Design)
CELL_OVERLAPS: tuple[Overlap, ...] = ("good", "moderate")
N_ROUNDS = (2_000, 10_000)
N_LOGS = 500
GOLD_SHARE = 0.05
LEVEL = 0.95
NARROWER = 0.3
SHIFT = np.array([-0.15, 0.05, 0.2, -0.3])
"""The judge's bias, by arm; there is one of the prompt besides."""
TARGET = 4
"""Which of the world's policies is evaluated: a greedy router that uses all arms."""


class Cell(NamedTuple):
    """What logs are like."""

    n_rounds: int
    kind: Kind
    design: Design
    overlap: Overlap


class Job(NamedTuple):
    """Some logs of a cell."""

    cell: Cell
    seeds: range


class Interval(NamedTuple):
    """An interval, whether it covers the truth, and its estimate's error."""

    covered: bool
    width: float
    error: float


class Found(NamedTuple):
    """The intervals from one log."""

    cell: Cell
    printed: Interval
    """Of the fused labels, as an evaluation prints it."""
    normal: Interval
    """Of the fused labels, by Student's t, whatever the gate says."""
    gold_only: Interval
    """Of the gold rounds alone, by Student's t, whatever the gate says."""
    gold_printed: Interval
    """Of the gold rounds alone, as an evaluation prints it."""
    judge_only: Interval
    """Of the judge's labels as they are."""
    gate_is_open: bool


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return coverage and width, cell by cell."""
    n_logs, size = (6, 3) if options.quick else (N_LOGS, 25)
    cells = [
        Cell(n, kind, design, overlap)
        for n in (N_ROUNDS[:1] if options.quick else N_ROUNDS)
        for kind in (KINDS[:1] if options.quick else KINDS)
        for design in DESIGNS
        for overlap in (CELL_OVERLAPS[:1] if options.quick else CELL_OVERLAPS)
    ]
    jobs = [Job(cell, range(start, start + size)) for cell in cells for start in range(0, n_logs, size)]
    found = map_logs(run, jobs, n_processes=options.n_processes, label="gold values")
    return report([log for logs in found for log in logs])


def run(job: Job) -> list[Found]:
    """Estimate one policy's value from some logs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        return [_run(job.cell, seed) for seed in job.seeds]


def _run(cell: Cell, seed: int) -> Found:
    world, target = _world(cell.overlap)
    rng = np.random.default_rng([seed, cell.n_rounds, KINDS.index(cell.kind), CELL_OVERLAPS.index(cell.overlap), 37])
    drawn = world.draw(cell.n_rounds, rng=rng)
    gold = drawn.outcome if cell.kind == "binary" else shaded(world, drawn, rng=rng)
    judged = judge_labels(world, drawn, gold, kind=cell.kind, rng=rng)
    has_gold = rng.random(cell.n_rounds) < GOLD_SHARE
    known = np.where(has_gold, gold, np.nan)
    context = world.context[drawn.prompt]
    fused = fuse(
        JudgedRounds(
            context=context,
            arm=drawn.arm,
            judged=np.where(has_gold & (cell.design == "unpaired"), np.nan, judged)[:, None],
            gold=known,
            group=drawn.prompt,
            arms=[str(t) for t in range(world.n_arms)],
            judges=["judge"],
        ),
        make_correction(),
        seed=seed,
    )
    truth = world.value(target)
    every = np.arange(cell.n_rounds)
    scores = _scores(world, drawn, fused.quality, rows=every, weight=fused.weight, seed=seed)
    value = _value(scores, fused.pseudo_quality, target[drawn.prompt])
    trusted = _trusted(
        scores,
        fused.pseudo_quality,
        target[drawn.prompt],
        gold=GoldLabels(weight=np.where(has_gold, 1 / fused.labelling.probability, 0.0), outcome=known),
    ).of(value)
    labelled = np.flatnonzero(has_gold)
    alone = _scores(world, drawn, gold, rows=labelled, weight=None, seed=seed)
    probs = target[drawn.prompt[labelled]]
    gold_value = _value(alone, gold[labelled], probs)
    gold_trusted = _trusted(alone, gold[labelled], probs).of(gold_value)
    by_judge = _scores(world, drawn, judged, rows=every, weight=None, seed=seed)
    judge_value = _value(by_judge, judged, target[drawn.prompt])
    return Found(
        cell=cell,
        printed=_interval((trusted.low, trusted.high), value, truth),
        normal=_interval(value.interval(LEVEL, degrees_of_freedom=degrees_of_freedom(value)), value, truth),
        gold_only=_interval(
            gold_value.interval(LEVEL, degrees_of_freedom=degrees_of_freedom(gold_value)), gold_value, truth
        ),
        gold_printed=_interval((gold_trusted.low, gold_trusted.high), gold_value, truth),
        judge_only=_interval(judge_value.interval(LEVEL), judge_value, truth),
        gate_is_open=trusted.kind == "normal",
    )


def shaded(world: World, drawn: Drawn, *, rng: np.random.Generator) -> PerRound:
    """Return outcomes between zero and one with the world's means: beta, as twenty draws would scatter them."""
    mean = world.mean[drawn.prompt, drawn.arm]
    return rng.beta(20 * mean, 20 * (1 - mean))


def judge_labels(world: World, drawn: Drawn, gold: PerRound, *, kind: Kind, rng: np.random.Generator) -> PerRound:
    """Return what a judge says: a shade of right or wrong, or gold itself, plus biases of arm and prompt, plus noise.

    clip( 0.6 gold + 0.4 mean + shift_arm + 0.15 tanh(v_arm . x) + 0.1 noise, 0, 1 ) of a gold label that is right or
    wrong, with gold in the place of the first two terms where it has shades itself.
    """
    mean = world.mean[drawn.prompt, drawn.arm]
    direction = np.random.default_rng(41).normal(size=(world.n_arms, world.context.shape[1]))
    along = (world.context[drawn.prompt] * direction[drawn.arm]).sum(axis=1) / np.sqrt(world.context.shape[1])
    seen = 0.6 * gold + 0.4 * mean if kind == "binary" else gold
    bias = SHIFT[drawn.arm] + 0.15 * np.tanh(along)
    return np.asarray(np.clip(seen + bias + 0.1 * rng.normal(size=gold.size), 0, 1))


def report(found: Sequence[Found]) -> Report:
    """Return the report of what was found."""
    cells: dict[Cell, list[Found]] = {}
    for log in found:
        cells.setdefault(log.cell, []).append(log)
    judged = {cell: _judged([log.printed for log in logs]) for cell, logs in cells.items()}
    narrower = {cell: 1 - _ratio(logs) for cell, logs in cells.items()}
    under = [cell for cell, each in judged.items() if str(each).endswith("↓")]
    over = [cell for cell, each in judged.items() if str(each).endswith("↑")]
    by_design = {design: [narrower[cell] for cell in cells if cell.design == design] for design in DESIGNS}
    n_logs = max(len(logs) for logs in cells.values())
    return Report(
        name="gold_values",
        asked="Do 95% intervals of a policy's value in gold units cover from 5% gold labels and 95% of a biased judge, "
        f"and are they at least {NARROWER:.0%} narrower than from the gold labels alone where the judge scored the "
        "gold rounds, too?",
        found=f"Coverage is {min(each.share for each in judged.values()):.1%} to "
        f"{max(each.share for each in judged.values()):.1%} in {len(cells)} cells of {n_logs} logs: {len(under)} below "
        f"the 99% band around 95%, {len(over)} above it. Paired, intervals are "
        f"{_range(by_design['paired'])} narrower than gold-only's; unpaired, {_range(by_design['unpaired'])}.",
        holds=not under and min(by_design["paired"], default=0.0) >= NARROWER,
        body=[
            "Logs of `worlds.overlap_world`: 4 arms, 5 features, 20,000 prompts of known means, confounded logging. "
            "Gold is right or wrong (binary) or a beta with the same mean (continuous). The judge says 0.6 gold + 0.4 "
            "mean (of continuous gold, gold itself) plus a bias by arm (-0.15, 0.05, 0.2, -0.3), one of arm and prompt "
            "(0.15 tanh(v . x)) and noise of 0.1, clipped. Each round is given a gold label with probability 5%, which "
            "the correction does not know; `paired`: the judge scored those rounds, too; `unpaired`: it did not. "
            "Labels are fused (`fuse`, `hierarchical`), nuisances cross-fitted, the value of a greedy router estimated "
            "by DR, and its interval is that of `TrustedIntervals`, as in `evaluate`: Student's t where the gate is "
            "open, finite-sample bounds from the gold labels where it is closed. Coverage in percent; ↓ or ↑ where it "
            "is outside the 99% binomial band. Widths x 100 are means. The first ones are as printed; the others of "
            "Student's t on every log, whatever the gate says, which makes fused and gold-only comparable. Gold only "
            "is DR on the gold rounds alone; as printed, it has a gate of its own. Judge only is in the judge's units.",
            "",
            *grid(
                [
                    "rounds",
                    "gold",
                    "judge",
                    "overlap",
                    "covers",
                    "width",
                    "gate open",
                    "t covers",
                    "t width",
                    "bias",
                    "gold only covers",
                    "t width",
                    "narrower",
                    "gold only printed covers",
                    "width",
                    "judge only covers",
                    "width",
                ],
                [
                    [
                        f"{cell.n_rounds:,}",
                        cell.kind,
                        cell.design,
                        cell.overlap,
                        str(judged[cell]),
                        _width([log.printed for log in logs]),
                        f"{np.mean([log.gate_is_open for log in logs]):.0%}",
                        str(_judged([log.normal for log in logs])),
                        _width([log.normal for log in logs]),
                        f"{100 * np.mean([log.normal.error for log in logs]):+.2f}",
                        str(_judged([log.gold_only for log in logs])),
                        _width([log.gold_only for log in logs]),
                        f"{narrower[cell]:.0%}",
                        str(_judged([log.gold_printed for log in logs])),
                        _width([log.gold_printed for log in logs]),
                        str(_judged([log.judge_only for log in logs])),
                        _width([log.judge_only for log in logs]),
                    ]
                    for cell, logs in cells.items()
                ],
            ),
            "A judge that scores no gold round shows how its labels vary with prompt and arm, but never how a gold "
            "label goes with its own on one answer. Only E[judge | prompt, arm] is then of use: it sharpens "
            "E[gold | prompt, arm], while the scatter of gold about that mean, over the 5%, stays. No regular estimate "
            "can do better (the semiparametric bound), so that little is gained where the outcome models are good "
            "already. A paired judge explains that scatter.",
        ],
    )


@lru_cache(maxsize=2)
def _world(overlap: Overlap) -> tuple[World, NDArray[np.float64]]:
    world = overlap_world(overlap)
    return world, world.targets[TARGET]


def _scores(
    world: World, drawn: Drawn, quality: PerRound, *, rows: NDArray[np.int64], weight: PerRound | None, seed: int
) -> Scores:
    scores, _ = make_scores(
        context=world.context[drawn.prompt[rows]],
        arm=drawn.arm[rows],
        quality=quality[rows],
        quality_weight=None if weight is None else weight[rows],
        cost_usd=np.full(rows.size, np.nan),
        logged_propensity=world.propensity(drawn)[rows],
        eligible=np.ones((rows.size, world.n_arms), dtype=np.bool_),
        outcome_model=PerArmRidge(),
        seed=seed,
        groups=drawn.prompt[rows],
    )
    return scores


def _value(scores: Scores, outcome: PerRound, target_probs: NDArray[np.float64]) -> Estimate:
    return estimate_value(
        "dr",
        arm=scores.arm,
        outcome=outcome,
        propensity=scores.propensity,
        predicted=scores.predicted_quality,
        target_probs=target_probs,
    )


def _trusted(
    scores: Scores, outcome: PerRound, target_probs: NDArray[np.float64], *, gold: GoldLabels | None = None
) -> TrustedIntervals:
    return TrustedIntervals(
        arm=scores.arm,
        outcome=outcome,
        propensity=scores.propensity,
        target_probs=target_probs,
        outcome_range=(0.0, 1.0),
        level=LEVEL,
        predicted=scores.predicted_quality,
        gold=gold,
    )


def _interval(ends: tuple[float, float], estimate: Estimate, truth: float) -> Interval:
    low, high = ends
    return Interval(covered=low <= truth <= high, width=high - low, error=estimate.value - truth)


def _judged(intervals: Sequence[Interval]) -> Judged:
    return Judged.of(np.array([each.covered for each in intervals]), level=LEVEL)


def _width(intervals: Sequence[Interval]) -> str:
    return f"{100 * np.mean([each.width for each in intervals]):.1f}"


def _ratio(logs: Sequence[Found]) -> float:
    return float(np.mean([log.normal.width for log in logs]) / np.mean([log.gold_only.width for log in logs]))


def _range(shares: Sequence[float]) -> str:
    return f"{min(shares):.0%} to {max(shares):.0%}" if shares else "-"


if __name__ == "__main__":
    sys.exit(main())
