"""How many gold labels of an arm that games the judge does it take until the router leaves it alone?"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.real_judges import VECTORS
from benchmarks.studies.routers import fitted
from benchmarks.studies.table import Options, Report, command, map_logs
from benchmarks.tables import SHARED_DATA, EncodedTable, encoded_table, table_specs
from pointsman.errors import StatisticalWarning
from pointsman.logs import Labels, LoggedRounds, simulate
from pointsman.pipeline.rounds import default_trade_offs
from pointsman.trade_off import TradeOff

TABLE, GAMER = "routerbench", "WizardLM/WizardLM-13B-V1.2"
TRUE_QUALITY, JUDGED_QUALITY = 0.05, 0.95
"""Of every answer of the arm that games the judge."""
SHIFT, NOISE = 0.1, 0.1
"""What the judge adds to the quality of every other answer, and the standard deviation of its noise."""
OTHERS_GOLD = 30
"""Gold labels of every other arm."""
N_GOLD = (0, 3, 5, 10, 30)
N_SEEDS = 10
DESIGNS = ("paired", "unpaired")
CORRECTED = ("hierarchical", "arm-shift", "r-learner", "dr-learner")
JUDGE_ONLY, DEFAULT = "judge-only", "hierarchical"
MOST_TRAFFIC, PROMISED_AT = 0.01, 30


class Job(NamedTuple):
    """One log, one way of labelling it, and what is made of the labels."""

    seed: int
    design: str
    n_gold: int
    method: str


class Found(NamedTuple):
    """Share of held-out traffic that the router sends to the arm, at each default trade-off."""

    job: Job
    share: NDArray[np.float64]


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return the share of traffic that goes to the arm."""
    seeds = range(1 if options.quick else N_SEEDS)
    jobs = [
        Job(seed, design, n_gold, method)
        for seed in seeds
        for design in DESIGNS
        for n_gold in (N_GOLD[-1:] if options.quick else N_GOLD)
        for method in CORRECTED
    ]
    jobs += [Job(seed, "-", 0, JUDGE_ONLY) for seed in seeds]
    return report(map_logs(run, jobs, n_processes=options.n_processes, label="gamed"))


def run(job: Job) -> Found:
    """Label a log, fit a router, and see where it sends the prompts it never saw."""
    encoded = gamed_table()
    table = encoded.table
    drawn = simulate(table, logger="uniform", seed=job.seed)
    log, labels = labelled(drawn.log, job, rng=np.random.default_rng([job.seed, 43]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        router = fitted(log, labels, encoded.features[drawn.train_index], correction=job.method, seed=job.seed)
    assert table.cost_usd is not None
    place = router.arms.names.index(GAMER)
    held_out = encoded.features[drawn.rest_index]
    trade_offs = default_trade_offs(table.cost_usd.mean(axis=0))
    return Found(
        job, np.array([router.probabilities(held_out, TradeOff(each))[:, place].mean() for each in trade_offs])
    )


def labelled(log: LoggedRounds, job: Job, *, rng: np.random.Generator) -> tuple[LoggedRounds, Labels | None]:
    """Return a log of gold outcomes as judged, and the gold labels beside it where they are beside the judge's."""
    own = log.arm == log.arms.names.index(GAMER)
    judged = np.clip(log.quality + SHIFT + NOISE * rng.normal(size=log.n_rounds), 0, 1)
    judged[own] = JUDGED_QUALITY
    if job.method == JUDGE_ONLY:
        return log.with_columns(quality=judged, quality_source=["judge"] * log.n_rounds), None
    has_gold = np.zeros(log.n_rounds, dtype=np.bool_)
    for t in range(len(log.arms)):
        rows = rng.permutation(np.flatnonzero(log.arm == t))
        # Permuted whole, so that a few gold labels are among the more.
        has_gold[rows[: job.n_gold if own[rows[0]] else OTHERS_GOLD]] = True
    if job.design == "unpaired":
        source = np.where(has_gold, "gold", "judge").tolist()
        return log.with_columns(quality=np.where(has_gold, log.quality, judged), quality_source=source), None
    rows = np.flatnonzero(has_gold)
    labels = Labels.from_columns(
        round_id=log.table["round_id"].take(rows), quality=log.quality[rows], quality_source=["gold"] * rows.size
    )
    return log.with_columns(quality=judged, quality_source=["judge"] * log.n_rounds), labels


@lru_cache(maxsize=1)
def gamed_table() -> EncodedTable:
    """Return the table with the one arm's quality as it is in truth."""
    encoded = encoded_table(table_specs([TABLE])[0], folder=SHARED_DATA, vectors=VECTORS)
    quality = encoded.table.quality.copy()
    quality[:, encoded.table.arms.names.index(GAMER)] = TRUE_QUALITY
    return EncodedTable(table=replace(encoded.table, quality=quality), features=encoded.features)


def report(found: Sequence[Found]) -> Report:
    """Return the report of what was found."""
    cells: dict[tuple[str, str, int], list[NDArray[np.float64]]] = {}
    for each in found:
        cells.setdefault((each.job.method, each.job.design, each.job.n_gold), []).append(each.share)
    shares = {cell: np.array(logs) for cell, logs in cells.items()}
    promised = {cell: share for cell, share in shares.items() if cell[0] == DEFAULT and cell[2] == PROMISED_AT}
    most = {cell[1]: float(share.max()) for cell, share in promised.items()}
    enough = {design: _enough(shares, design) for design in most}
    judge_only = shares[JUDGE_ONLY, "-", 0]
    return Report(
        name="gamed",
        asked=f"Of an arm whose judge says {JUDGED_QUALITY:g} and gold {TRUE_QUALITY:g} of every answer, do "
        f"{PROMISED_AT} gold labels keep the router's share of traffic under {MOST_TRAFFIC:.0%} at every default "
        "trade-off?",
        found=f"The largest share of {len(judge_only)} logs is "
        + ", ".join(f"{share:.2%} ({design})" for design, share in most.items())
        + f" with `{DEFAULT}`, under {MOST_TRAFFIC:.0%} in every log from "
        + ", ".join(f"{n} gold labels ({design})" for design, n in enough.items())
        + f"; judge-only sends {judge_only.mean(axis=0).min():.0%} to {judge_only.mean(axis=0).max():.0%}.",
        holds=all(share < MOST_TRAFFIC for share in most.values()),
        body=[
            f"RouterBench subset, 5-shot: the answers of {GAMER} are given quality {TRUE_QUALITY:g}, and the judge "
            f"says {JUDGED_QUALITY:g} of each. Of others it says gold + {SHIFT:g} + {NOISE:g} noise, clipped. Uniform "
            f"logger, 60% of the prompts; the judge scored every round, gold labels are of {OTHERS_GOLD} rounds of "
            "every other arm, drawn at random, and of a few of this one. `paired`: the judge scored rounds with a gold "
            "label, too; `unpaired`: it did not. Method `auto`, as `fit` has it. Shares are of the prompts held out, "
            f"at lambda {{0, .05, .1, .2, .5}} / mean cost of the dearest arm: mean over {len(judge_only)} logs, and "
            "largest in parentheses.",
            "",
            *grid(
                ["labels", "design", "gold of the arm", "0", ".05", ".1", ".2", ".5"],
                [
                    [method, design, str(n_gold), *(_share(column) for column in share.T)]
                    for (method, design, n_gold), share in sorted(shares.items(), key=_place)
                ],
            ),
        ],
    )


def _enough(shares: dict[tuple[str, str, int], NDArray[np.float64]], design: str) -> int | str:
    """Return the fewest gold labels from which on the default is under the promised share everywhere."""
    enough: int | str = "more"
    for n_gold in sorted({cell[2] for cell in shares if cell[:2] == (DEFAULT, design)}, reverse=True):
        if shares[DEFAULT, design, n_gold].max() >= MOST_TRAFFIC:
            break
        enough = n_gold
    return enough


def _place(item: tuple[tuple[str, str, int], NDArray[np.float64]]) -> tuple[str, int, int]:
    (method, design, n_gold), _ = item
    return design, [*CORRECTED, JUDGE_ONLY].index(method), n_gold


def _share(column: NDArray[np.float64]) -> str:
    return f"{100 * column.mean():.1f} ({100 * column.max():.1f})"


if __name__ == "__main__":
    sys.exit(main())
