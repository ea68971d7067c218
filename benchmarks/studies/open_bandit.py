"""Does the uniform log of the Open Bandit Dataset give the value that Thompson sampling had when it served?"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, bonferroni_z, command
from benchmarks.tables import SHARED_DATA
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope import Estimate, TrustedInterval, dr, ips, off_policy_bounds, snips, trusted_interval
from pointsman.types import ArmIndex, Context, PerArm, PerRound

CAMPAIGNS = ("all", "men", "women")
POSITIONS = (1, 2, 3)
ESTIMATORS = ("IPS", "SNIPS", "DR")
LEVEL = 0.95


class Rounds(NamedTuple):
    """Rounds of one policy in one campaign, by time."""

    item: ArmIndex
    position: ArmIndex
    click: PerRound
    propensity: PerRound
    context: Context


class Cell(NamedTuple):
    """One estimate of Thompson sampling's click rate."""

    estimate: Estimate
    interval: TrustedInterval
    bounded: tuple[float, float]
    """By betting that knows the largest weight."""
    on_policy: float
    on_policy_error: float

    def covers(self, interval: tuple[float, float] | None = None) -> bool:
        """Whether an interval, the one to print where None, holds the rate that was seen."""
        low, high = interval or (self.interval.low, self.interval.high)
        return low <= self.on_policy <= high

    @property
    def z(self) -> float:
        """The difference in standard errors of both."""
        return (self.estimate.value - self.on_policy) / math.hypot(self.estimate.standard_error, self.on_policy_error)


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return the estimates beside what Thompson sampling earned."""
    campaigns = CAMPAIGNS[1:2] if options.quick else CAMPAIGNS
    cells: dict[tuple[str, str, str], Cell] = {}
    sums = []
    for campaign in campaigns:
        path = SHARED_DATA / f"obd_small_{campaign}.parquet"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: the study needs the small Open Bandit Dataset")
        uniform, thompson = (_read(campaign, policy) for policy in ("random", "bts"))
        n_items = int(uniform.item.max()) + 1
        shares = _shares(thompson, n_items=n_items)
        sums.append([campaign, str(n_items), *(f"{total:.2f}" for total in _sums(thompson, n_items=n_items))])
        target = shares[uniform.position - 1]
        predicted = cross_fit_outcomes(
            PerArmRidge(),
            context=uniform.context,
            outcome=uniform.click,
            arm=uniform.item,
            n_arms=n_items,
            fold=assign_folds(uniform.item.size, n_folds=5, seed=0),
        )
        for position in (None, *POSITIONS):
            mine, theirs = (
                np.ones(rounds.item.size, dtype=np.bool_) if position is None else rounds.position == position
                for rounds in (uniform, thompson)
            )
            for name, cell in _cells(uniform, thompson.click[theirs], mine, target=target, predicted=predicted).items():
                cells[campaign, "all" if position is None else str(position), name] = cell
    return _report(cells, sums)


def _read(campaign: str, policy: str) -> Rounds:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(SHARED_DATA / f"obd_small_{campaign}.parquet")
    table = table.filter(pc.equal(table["behavior_policy"], policy)).sort_by("timestamp")
    features = [table[name].to_numpy() for name in table.column_names if name.startswith("user_feature")]
    indicators = [column == value for column in features for value in np.unique(column)[1:]]
    position = table["position"].to_numpy()
    context = np.column_stack([*indicators, position == 1, position == 2]).astype(np.float64)
    return Rounds(
        item=table["item_id"].to_numpy().astype(np.int64),
        position=position.astype(np.int64),
        click=table["click"].to_numpy().astype(np.float64),
        propensity=table["propensity_score"].to_numpy(),
        context=context,
    )


def _shares(rounds: Rounds, *, n_items: int) -> PerArm:
    """Return each item's share of the rounds of a position, (n_positions, n_items)."""
    return np.stack(
        [np.bincount(rounds.item[at], minlength=n_items) / at.sum() for at in (rounds.position == p for p in POSITIONS)]
    )


def _sums(rounds: Rounds, *, n_items: int) -> list[float]:
    """Return what mean propensities of the rounds served sum to in each position."""
    return [float(_mean_propensity(rounds, rounds.position == p, n_items=n_items).sum()) for p in POSITIONS]


def _mean_propensity(rounds: Rounds, at: NDArray[np.bool_], *, n_items: int) -> NDArray[np.float64]:
    served = np.bincount(rounds.item[at], minlength=n_items)
    total = np.bincount(rounds.item[at], weights=rounds.propensity[at], minlength=n_items)
    return np.asarray(total / np.maximum(served, 1))


def _cells(
    uniform: Rounds, clicks: PerRound, rows: NDArray[np.bool_], *, target: PerArm, predicted: PerArm
) -> dict[str, Cell]:
    logged: dict[str, Any] = {
        "arm": uniform.item[rows],
        "outcome": uniform.click[rows],
        "propensity": uniform.propensity[rows],
        "target_probs": target[rows],
    }
    bounded = off_policy_bounds(
        **logged,
        outcome_range=(0.0, 1.0),
        largest_weight=target.shape[1] * float(target.max()),
        level=LEVEL,
    )
    estimates = {"IPS": ips(**logged), "SNIPS": snips(**logged), "DR": dr(**logged, predicted=predicted[rows])}
    return {
        name: Cell(
            estimate=estimate,
            interval=trusted_interval(estimate, **logged, outcome_range=(0.0, 1.0), level=LEVEL),
            bounded=bounded,
            on_policy=float(clicks.mean()),
            on_policy_error=float(clicks.std(ddof=1)) / math.sqrt(clicks.size),
        )
        for name, estimate in estimates.items()
    }


def _report(cells: dict[tuple[str, str, str], Cell], sums: list[list[str]]) -> Report:
    whole = [cell for (_, position, _), cell in cells.items() if position == "all"]
    parts = [cell for (_, position, _), cell in cells.items() if position != "all"]
    rows = [
        [
            campaign,
            position,
            name,
            f"{1000 * cell.on_policy:.2f} ± {1000 * cell.on_policy_error:.2f}",
            f"{1000 * cell.estimate.value:.2f}",
            f"{cell.z:+.2f}",
            _interval(cell, cell.estimate.interval(LEVEL)),
            f"{_interval(cell, (cell.interval.low, cell.interval.high))}, {cell.interval.kind}",
            _interval(cell, cell.bounded),
        ]
        for (campaign, position, name), cell in cells.items()
    ]
    n_whole, n_parts = sum(cell.covers() for cell in whole), sum(cell.covers() for cell in parts)
    normal = [sum(cell.covers(cell.estimate.interval(LEVEL)) for cell in where) for where in (whole, parts)]
    worst = max(abs(cell.z) for cell in (*whole, *parts))
    return Report(
        name="open_bandit",
        asked="Does evaluating Thompson sampling from the uniform log of the Open Bandit Dataset cover what it earned "
        "when it served?",
        found=f"The 95% interval that is printed covers it in {n_whole} of {len(whole)} estimates of whole campaigns "
        f"and in {n_parts} of {len(parts)} by position; normal intervals, which the gate holds back where clicks are "
        f"so rare, would in {normal[0]} and {normal[1]}. The two rates are never more than {worst:.1f} standard "
        "errors apart.",
        holds=n_whole == len(whole) and normal[0] == len(whole) and worst < bonferroni_z(len(cells)),
        body=[
            "Saito, Aihara, Matsutani and Narita (2021), small version: 10,000 rounds of a uniform policy and 10,000 "
            "of Bernoulli Thompson sampling a campaign, from the same week and a random split of users, with true "
            "propensities; the outcome is a click. All figures are clicks per 1,000 rounds. *Earned* is Thompson "
            "sampling's own rate with its standard error, which z, the difference in standard errors, counts in and "
            "the intervals do not. *Printed* is the interval that `trusted_interval` gives, and of which kind; the "
            "last column is `off_policy_bounds` where it may know the largest weight, here the number of items times "
            "the target's largest share, as the log is uniform. A † marks an interval that misses. DR predicts "
            "clicks from user features and position, by cross-fitted ridges. The estimates of a row's campaign and "
            "position are from one log: the 36 are far from independent.",
            "",
            *grid(
                ["campaign", "position", "estimator", "earned", "estimate", "z", "normal", "printed", "weights known"],
                rows,
            ),
            "Thompson sampling's probabilities are needed for every item, and its log holds that of the one it served. "
            "They moved within minutes, so what it earned is the value of its time average, pi(item | position), which "
            "is each item's share of its rounds. The mean of the logged propensities of an item's rounds is not: an "
            "item is served more when it is likely, and such means sum to more than one:",
            "",
            *grid(["campaign", "items", *(f"sum, position {p}" for p in POSITIONS)], sums),
        ],
    )


def _interval(cell: Cell, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{1000 * low:.2f} to {1000 * high:.2f}{'' if cell.covers(interval) else ' †'}"


if __name__ == "__main__":
    sys.exit(main())
