"""Does a router lose less reference utility when real judges' labels are corrected by a few reference labels?"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.judges import SIZE, Z, holm
from benchmarks.studies.real_judges import JUDGES, judged_tables
from benchmarks.studies.routers import fitted
from benchmarks.studies.table import MonteCarlo, Options, Report, command, map_logs
from pointsman.errors import StatisticalWarning
from pointsman.logs import Labels, LoggedRounds, simulate
from pointsman.pipeline.rounds import default_trade_offs
from pointsman.trade_off import TradeOff

N_DRAWS, N_GOLD = 30, 100
DEFAULT = "hierarchical"
METHODS = (DEFAULT, "shift", "pooled", "judge-only", "gold-only")


class Job(NamedTuple):
    """One log, and one draw of its rounds with a reference label."""

    reference: str
    seed: int


class Found(NamedTuple):
    """What each method's router loses on held-out prompts."""

    job: Job
    loss: Mapping[str, NDArray[np.float64]]
    """In quality points of the reference, at each default trade-off, beside a router of all reference labels."""


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return the loss of every method's router."""
    jobs = [
        Job(reference, seed)
        for reference in (JUDGES[:1] if options.quick else JUDGES)
        for seed in range(3 if options.quick else N_DRAWS)
    ]
    return report(map_logs(run, jobs, n_processes=options.n_processes, label="judged routers"))


def run(job: Job) -> Found:
    """Fit every method's router on one log and value it on the prompts that no router saw."""
    tables = judged_tables()
    table, features = tables[job.reference].table, tables[job.reference].features
    assert table.cost_usd is not None
    drawn = simulate(table, logger="uniform", seed=job.seed)
    rounds = np.arange(drawn.log.n_rounds)
    said = {
        judge: tables[judge].table.quality[drawn.train_index, drawn.log.arm]
        for judge in JUDGES
        if judge != job.reference
    }
    known = np.zeros(rounds.size, dtype=np.bool_)
    known[np.random.default_rng([job.seed, 47]).choice(rounds.size, N_GOLD, replace=False)] = True
    trade_offs = [TradeOff(each) for each in default_trade_offs(table.cost_usd.mean(axis=0))]
    rest = drawn.rest_index
    quality, cost_usd = table.quality[rest], table.cost_usd[rest]

    def value(log: LoggedRounds, labels: Labels | None, correction: str = DEFAULT) -> NDArray[np.float64]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticalWarning)
            router = fitted(log, labels, features[drawn.train_index], correction=correction, seed=job.seed)
        place = [table.arms.names.index(name) for name in router.arms.names]
        return np.array(
            [
                (router.probabilities(features[rest], at) * at.utility(quality=quality, cost_usd=cost_usd)[:, place])
                .sum(axis=1)
                .mean()
                for at in trade_offs
            ]
        )

    unlabelled = drawn.log.with_columns(quality=np.full(rounds.size, np.nan))
    in_gold = drawn.log.with_columns(quality_source=["gold"] * rounds.size)
    judges_alone = labels_of(drawn.log, said)
    with_gold = labels_of(drawn.log, {**said, "gold": np.where(known, drawn.log.quality, np.nan)})
    best = value(in_gold, None)
    loss = {name: best - value(unlabelled, with_gold, name) for name in METHODS[:3]}
    loss["judge-only"] = best - value(unlabelled, judges_alone)
    loss["gold-only"] = best - value(in_gold.with_columns(quality=np.where(known, drawn.log.quality, np.nan)), None)
    return Found(job, loss)


def labels_of(log: LoggedRounds, said: Mapping[str, NDArray[np.float64]]) -> Labels:
    """Return what each source said of the log's rounds as one table; NaN is nothing."""
    round_id = log.table["round_id"].to_pylist()
    rows = [(round_id[i], labels[i], name) for name, labels in said.items() for i in np.flatnonzero(~np.isnan(labels))]
    names, quality, source = zip(*rows, strict=True)
    return Labels.from_columns(round_id=list(names), quality=list(quality), quality_source=list(source))


def report(found: Sequence[Found]) -> Report:
    """Return the report of what was found."""
    from scipy.stats import ttest_rel

    # One number a draw: the mean over trade-offs.
    loss = {
        (reference, name): 100 * np.array([each.loss[name].mean() for each in found if each.job.reference == reference])
        for reference in dict.fromkeys(each.job.reference for each in found)
        for name in METHODS
    }
    references = list(dict.fromkeys(reference for reference, _ in loss))
    others = METHODS[1:]
    p_values = {
        (reference, name): float(p)
        for reference in references
        for name, p in zip(
            others,
            holm(
                np.array(
                    [
                        ttest_rel(loss[reference, DEFAULT], loss[reference, name], alternative="less").pvalue
                        for name in others
                    ],
                    dtype=float,
                )
            ),
            strict=True,
        )
    }
    less = [key for key, p in p_values.items() if p < SIZE]
    pooled = {
        name: MonteCarlo.of(np.concatenate([loss[each, DEFAULT] - loss[each, name] for each in references]))
        for name in others
    }
    n_draws = min(each.size for each in loss.values())
    by_trade_off = {name: 100 * np.mean([each.loss[name] for each in found], axis=0) for name in METHODS}
    return Report(
        name="judged_routers",
        asked=f"Does a router of two judges' labels and {N_GOLD} reference labels, brought to gold units by "
        f"`{DEFAULT}`, lose less reference utility than one of shifted, pooled, judges' or reference labels alone?",
        found=f"Significantly less in {len(less)} of {len(p_values)} comparisons (paired over {n_draws} draws, Holm "
        "over methods). Over all references the difference in points x 100 is "
        + ", ".join(f"{_interval(each)} to {name}" for name, each in pooled.items())
        + ".",
        holds=len(less) == len(p_values),
        body=[
            "Table `paretobandit`, 2,000 prompts x 3 models that three judges scored; each judge in turn is the "
            "reference. Uniform logger, 60% of the prompts are logged. The two other judges scored every logged "
            f"answer, the reference {N_GOLD} of them, drawn at random. `judge-only` learns from the mean of the "
            "judges, `gold-only` from the reference labels alone; the others from all labels (`correction=`). Method "
            "`auto`. Loss is of reference utility on the other 40% of the prompts, every outcome known, beside a "
            "router of the reference's labels of all logged rounds, mean over the five default trade-offs, in quality "
            "points x 100. Draws share the table, so that intervals are about logs and labels, not about other "
            "prompts.",
            "",
            "Loss, with its 95% Monte Carlo interval:",
            "",
            *grid(
                ["reference", *METHODS],
                [[each, *(_interval(MonteCarlo.of(loss[each, name])) for name in METHODS)] for each in references],
            ),
            f"`{DEFAULT}` minus each other; * where it loses less with p < {SIZE:g}, one-sided, Holm over methods:",
            "",
            *grid(
                ["reference", *others],
                [
                    [
                        each,
                        *(
                            _interval(MonteCarlo.of(loss[each, DEFAULT] - loss[each, name]))
                            + ("*" if (each, name) in less else "")
                            for name in others
                        ),
                    ]
                    for each in references
                ],
            ),
            "Loss at each default trade-off, lambda x mean cost of the dearest arm, all references:",
            "",
            *grid(
                ["labels", "0", ".05", ".1", ".2", ".5"],
                [[name, *(f"{each:.2f}" for each in by_trade_off[name])] for name in METHODS],
            ),
        ],
    )


def _interval(each: MonteCarlo) -> str:
    return f"{each.value:+.2f} ± {Z * each.error:.2f}"


if __name__ == "__main__":
    sys.exit(main())
