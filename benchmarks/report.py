"""The report of the experiment: what each method achieves, and whether the default keeps its promises."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import Mean, holm, ratio
from benchmarks.markdown import grid as grid
from benchmarks.units import CEILING, HINDSIGHT, LAMBDAS_SCALED, ORACLE, REFERENCES

AUTO = "auto"
BELOW_HINDSIGHT = -0.5
"""Utility points (of 100) that the default may lie under the best single model in hindsight, at worst."""

SHARES_PROMISED = {"uniform": 0.65, "confounded": 0.50}
"""Share of the gap between the best single model and full-feedback ridge to be closed, by logger."""

ALPHA = 0.05


class Condition(NamedTuple):
    """What was logged and how: all of a cell but the trade-off."""

    table: str
    logger: str
    signal: str
    strength: float
    propensity: str

    def __str__(self) -> str:
        logger = "uniform" if self.logger == "uniform" else f"{self.signal}, S = {self.strength:g}"
        return f"{self.table}, {logger}, {'true' if self.propensity == 'logged' else 'estimated'} propensities"


class Cell(NamedTuple):
    """A condition at one trade-off, in units of 1 / mean cost of the dearest arm."""

    condition: Condition
    lambda_scaled: float

    def __str__(self) -> str:
        return f"{self.condition}, lambda {self.lambda_scaled:g}"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Utility x 100 by cell, method and seed.

    Attributes:
        values: Cell -> method -> seed -> utility x 100.
        fit_s: Table -> method -> mean seconds of a fit.
    """

    values: dict[Cell, dict[str, dict[int, float]]]
    fit_s: dict[str, dict[str, float]]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Results:
        """Return the rows of parts, arranged."""
        values: dict[Cell, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            condition = Condition(row["table"], row["logger"], row["signal"], row["strength"], row["propensity"])
            values[Cell(condition, row["lambda_scaled"])][row["method"]][row["seed"]] = 100 * row["value"]
            seconds[row["table"]][row["method"]].append(row["fit_s"])
        ordered = {cell: dict(values[cell]) for cell in sorted(values, key=_cell_order)}
        means = {
            table: {name: float(np.mean(each)) for name, each in found.items()} for table, found in seconds.items()
        }
        return cls(values=ordered, fit_s=means)

    @property
    def methods(self) -> list[str]:
        """Methods seen, references last."""
        seen = dict.fromkeys(method for found in self.values.values() for method in found)
        return [name for name in seen if name not in REFERENCES] + [name for name in REFERENCES if name in seen]

    @property
    def learned(self) -> list[str]:
        """Methods that learned from one-arm logs."""
        return [name for name in self.methods if name not in REFERENCES]

    def where(self, keep: Callable[[Cell], bool]) -> Results:
        """Return the cells that are kept."""
        return Results(values={cell: found for cell, found in self.values.items() if keep(cell)}, fit_s=self.fit_s)

    def of_table(self, table: str) -> Results:
        """Return the cells of one table."""
        return self.where(lambda cell: cell.condition.table == table)

    def of_logger(self, table: str, signal: str, strength: float) -> Results:
        """Return the cells of one table and logger."""
        return self.of_table(table).where(
            lambda cell: (cell.condition.signal, cell.condition.strength) == (signal, strength)
        )

    def difference(self, cell: Cell, method: str, other: str) -> dict[int, float]:
        """Return method minus other on the seeds both have."""
        found = self.values[cell]
        ours, theirs = found.get(method, {}), found.get(other, {})
        return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}

    def mean_difference(self, method: str, other: str) -> Mean:
        """Return method minus other, the mean over cells, over the seeds that have every cell."""
        by_cell = [self.difference(cell, method, other) for cell in self.values]
        by_cell = [each for each in by_cell if each]
        seeds = set.intersection(*(set(each) for each in by_cell)) if by_cell else set()
        return Mean.of([float(np.mean([each[seed] for each in by_cell])) for seed in sorted(seeds)])

    def total(self, conditions: Sequence[Condition], method: str, other: str) -> NDArray[np.float64]:
        """Return method minus other summed over lambda > 0 and conditions, one number a seed that has them all."""
        cells = [cell for cell in self.values if cell.condition in set(conditions) and cell.lambda_scaled > 0]
        by_cell = [self.difference(cell, method, other) for cell in cells]
        seeds = set.intersection(*(set(each) for each in by_cell)) if by_cell else set()
        return np.array([sum(each[seed] for each in by_cell) for seed in sorted(seeds)])

    @property
    def conditions(self) -> list[Condition]:
        """Conditions, each once."""
        return list(dict.fromkeys(cell.condition for cell in self.values))


def write_report(rows: Sequence[dict[str, Any]], *, folder: Path, wanted: int, done: int) -> list[Path]:
    """Write `experiment.md` and `experiment.png` and return their paths.

    Args:
        rows: Rows of parts.
        folder: Where to write.
        wanted: Units asked for.
        done: Units whose rows these are.
    """
    results = Results.of(rows)
    promised = results.where(lambda cell: cell.condition.strength <= 1)
    stronger = results.where(lambda cell: cell.condition.strength > 1)
    figure = folder / "experiment.png"
    lines = [
        "# The experiment",
        "",
        *_preamble(results, wanted=wanted, done=done),
        "",
        "![Utility against the best single model in hindsight](experiment.png)",
        "",
        *_verdicts(promised, title="What was promised: uniform logging and confounded logging with S = 1"),
        *(_verdicts(stronger, title="Stronger confounding: S > 1") if stronger.values else []),
        "## Every condition",
        "",
        "Utility x 100, and the paired difference to the best single model in hindsight with half the width of its "
        "95% interval over seeds. lambda is in units of 1 / mean cost of the table's dearest model.",
        "",
    ]
    for condition in results.conditions:
        lines += _condition_table(results, condition)
    lines += _seconds(results)
    write_plot(promised if promised.values else results, figure)
    report = folder / "experiment.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [report, figure]


def signed(mean: Mean, *, digits: int = 2) -> str:
    """Return a difference as text: `+1.23 ± 0.45`."""
    if math.isnan(mean.value):
        return "-"
    half = "" if math.isnan(mean.half_width) else f" ± {mean.half_width:.{digits}f}"
    return f"{mean.value:+.{digits}f}{half}"


def _percent(mean: Mean) -> str:
    if math.isnan(mean.value):
        return "-"
    return f"{mean.value:.0%}" + ("" if math.isnan(mean.half_width) else f" ± {100 * mean.half_width:.0f}")


def _cell_order(cell: Cell) -> tuple[Any, ...]:
    condition = cell.condition
    place = {"none": 0, "pc": 1, "length": 2, "task": 3}
    return (condition.table, condition.strength, place[condition.signal], condition.propensity != "logged", cell[1])


def _preamble(results: Results, *, wanted: int, done: int) -> list[str]:
    seeds = {seed for found in results.values.values() for by_seed in found.values() for seed in by_seed}
    tables = list(dict.fromkeys(condition.table for condition in results.conditions))
    return [
        f"{done} of {wanted} units, seeds {min(seeds)} to {max(seeds)}, tables {', '.join(tables)}. A unit is one "
        "one-arm log of 60% of a table's prompts; every method learns from the same log, features, cross-fitted "
        "outcome models and propensities, and is scored on the true outcomes of the other 40%. Confounded loggers have "
        "a floor of 0.05.",
        "",
        f"`{HINDSIGHT}` is the best model on the scored prompts themselves, `{CEILING}` a ridge per model that saw "
        f"every model's outcome of the logged prompts, `{ORACLE}` the best model of each prompt. Utilities are x 100. "
        "Intervals are t-intervals over seeds: seeds draw splits and logs from one table, so they say how far the "
        "figures depend on the draw, not how they would move on another table.",
    ]


def _verdicts(results: Results, *, title: str) -> list[str]:
    lines = [f"## {title}", ""]
    if AUTO not in results.methods:
        return [*lines, f"`{AUTO}` was not among the methods.", ""]
    return [*lines, *_worst(results), *_shares(results), *_against(results), *_better(results)]


def _worst(results: Results) -> list[str]:
    if HINDSIGHT not in results.methods:
        return []
    differences = {
        cell: Mean.of(list(found.values()))
        for cell in results.values
        if (found := results.difference(cell, AUTO, HINDSIGHT))
    }
    if not differences:
        return []
    ordered = sorted(differences, key=lambda cell: differences[cell].value)
    worst = differences[ordered[0]].value
    under = sum(each.value < BELOW_HINDSIGHT for each in differences.values())
    verdict = "holds" if under == 0 else f"fails in {under} cells"
    lines = [
        f"### `{AUTO}` against the best single model in hindsight",
        "",
        f"Worst of {len(ordered)} cells: **{worst:+.2f}** ({ordered[0]}). Never more than {-BELOW_HINDSIGHT:g} under "
        f"it, on average over seeds: **{verdict}**. The five worst cells:",
        "",
    ]
    return lines + grid(["cell", "difference"], [[str(cell), signed(differences[cell])] for cell in ordered[:5]])


def _shares(results: Results) -> list[str]:
    priced = [
        table for table in _tables(results) if any(c.condition.table == table and c[1] > 0 for c in results.values)
    ]
    if HINDSIGHT not in results.methods or CEILING not in results.methods or not priced:
        return []
    lines = [
        "### Share of the gap closed",
        "",
        f"Gain over the best single model in hindsight, as a share of the gain of `{CEILING}`, both summed over "
        "lambda > 0; none where the ceiling itself gains nothing.",
        "",
    ]
    for table in sorted(priced, key=lambda name: (name != "routerbench", name)):
        rows = []
        conditions = [condition for condition in results.conditions if condition.table == table]
        for propensity in dict.fromkeys(condition.propensity for condition in conditions):
            mine = [condition for condition in conditions if condition.propensity == propensity]
            rows += [[_short(each), *_share_cells(results, [each])] for each in mine]
            confounded = [each for each in mine if each.logger == "confounded"]
            if len(confounded) > 1:
                label = f"**confounded, all, {'true' if propensity == 'logged' else 'estimated'}**"
                rows.append([label, *_share_cells(results, confounded)])
        header = [table, *results.learned, f"gain of {CEILING}"]
        lines += grid(header, rows)
        if table == "routerbench":
            wanted = ", ".join(f"{share:.0%} under {logger}" for logger, share in SHARES_PROMISED.items())
            lines += [f"Promised of `{AUTO}` on this table: {wanted} logging.", ""]
    return lines


def _share_cells(results: Results, conditions: Sequence[Condition]) -> list[str]:
    cells = []
    for method in results.learned:
        gain, ceiling = (results.total(conditions, each, HINDSIGHT) for each in (method, CEILING))
        comparable = gain.size and gain.size == ceiling.size and ceiling.mean() > 0
        cells.append(_percent(ratio(gain, ceiling)) if comparable else "-")
    return [*cells, signed(Mean.of(results.total(conditions, CEILING, HINDSIGHT) / len(conditions)))]


def _against(results: Results) -> list[str]:
    tables = _tables(results)
    rows = []
    for method in results.methods:
        if method == AUTO:
            continue
        by_table = [results.of_table(table) for table in tables]
        rows.append(
            [
                method,
                f"**{signed(results.mean_difference(AUTO, method))}**",
                *(signed(each.mean_difference(AUTO, method)) for each in by_table),
            ]
        )
    return [
        f"### `{AUTO}` minus each method",
        "",
        "Utility x 100, mean over all cells, and over those of each table.",
        "",
        *grid([f"{AUTO} minus", "everything", *tables], rows),
    ]


def _better(results: Results) -> list[str]:
    tested: list[tuple[str, Cell, Mean]] = []
    for method in results.learned:
        for cell in results.values:
            found = Mean.of(list(results.difference(cell, method, AUTO).values())) if method != AUTO else None
            if found is not None and not math.isnan(found.p_value):
                tested.append((method, cell, found))
    if not tested:
        return []
    adjusted = holm([found.p_value for _, _, found in tested])
    better = [
        (method, cell, found, corrected)
        for (method, cell, found), corrected in zip(tested, adjusted, strict=True)
        if found.value > 0 and found.p_value < ALPHA
    ]
    surely = sum(corrected < ALPHA for *_, corrected in better)
    lines = [
        f"### Where a method is significantly better than `{AUTO}`",
        "",
        f"{len(tested)} comparisons (method x cell), paired t-tests over seeds, two-sided at {ALPHA:.0%}: a method is "
        f"better in {len(better)} without correction ({len(tested) * ALPHA / 2:.0f} would be expected if all were "
        f"equal), in **{surely}** with Holm's correction over all of them.",
        "",
    ]
    if better:
        better.sort(key=lambda each: each[2].p_value)
        rows = [
            [method, str(cell), signed(found), f"{found.p_value:.2g}", f"{corrected:.2g}"]
            for method, cell, found, corrected in better
        ]
        lines += grid(["method", "cell", f"minus {AUTO}", "p", "p, Holm"], rows)
    return lines


def _condition_table(results: Results, condition: Condition) -> list[str]:
    cells = [Cell(condition, scaled) for scaled in LAMBDAS_SCALED if Cell(condition, scaled) in results.values]
    methods = [name for name in results.methods if any(results.values[cell].get(name) for cell in cells)]
    rows = []
    for method in methods:
        row = [method]
        for cell in cells:
            values = list(results.values[cell].get(method, {}).values())
            text = f"{np.mean(values):.1f}" if values else "-"
            if method != HINDSIGHT:
                text += f" ({signed(Mean.of(list(results.difference(cell, method, HINDSIGHT).values())))})"
            row.append(text)
        rows.append(row)
    n_seeds = max(len(by_seed) for cell in cells for by_seed in results.values[cell].values())
    header = [f"{n_seeds} seeds", *(f"lambda = {cell.lambda_scaled:g}" for cell in cells)]
    return [f"### {condition}", "", *grid(header, rows)]


def _seconds(results: Results) -> list[str]:
    tables = list(results.fit_s)
    rows = [
        [method, *(f"{results.fit_s[table].get(method, math.nan):.2f}" for table in tables)]
        for method in results.methods
        if method not in (HINDSIGHT, ORACLE)
    ]
    return [
        "## Seconds of a fit",
        "",
        "Mean, on one thread, without the nuisances, which all methods share.",
        "",
        *grid(["method", *tables], rows),
    ]


def _tables(results: Results) -> list[str]:
    return list(dict.fromkeys(condition.table for condition in results.conditions))


def _short(condition: Condition) -> str:
    return str(condition).removeprefix(f"{condition.table}, ").removesuffix(" propensities")


_COLOURS = {"none": "#000000", "pc": "#0072B2", "length": "#D55E00", "task": "#009E73"}
_MARKERS = {"none": "o", "pc": "s", "length": "^", "task": "D"}


def write_plot(results: Results, path: Path) -> None:
    """Write the main result as a PNG: each method against the best single model in hindsight, by table and logger.

    A dot is the mean over trade-offs; its bar the 95% interval over seeds. True propensities, where there are both.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter

    if any(condition.propensity == "logged" for condition in results.conditions):
        results = results.where(lambda cell: cell.condition.propensity == "logged")
    tables = _tables(results)
    methods = [name for name in results.methods if name not in (HINDSIGHT, ORACLE)]
    order = sorted(methods, key=lambda name: (name != CEILING, -results.mean_difference(name, HINDSIGHT).value))
    figure = Figure(figsize=(2.2 + 2.6 * len(tables), 1.9 + 0.42 * len(order)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, table in zip(panels, tables, strict=True):
        loggers = sorted(
            {(c.strength, c.signal) for c in results.conditions if c.table == table},
            key=lambda each: (each[0], list(_COLOURS).index(each[1])),
        )
        reach = 1.0
        for place, (strength, signal) in enumerate(loggers):
            mine = results.of_logger(table, signal, strength)
            means = [mine.mean_difference(name, HINDSIGHT) for name in order]
            offset = (place - (len(loggers) - 1) / 2) * min(0.17, 0.7 / len(loggers))
            label = "uniform logger" if signal == "none" else f"confounded by {signal}"
            label += f", S = {strength:g}" if signal != "none" and len({s for s, _ in loggers}) > 2 else ""
            handles[label] = axes.errorbar(
                [each.value for each in means],
                np.arange(len(order)) + offset,
                xerr=[0.0 if math.isnan(each.half_width) else each.half_width for each in means],
                fmt=_MARKERS[signal],
                color=_COLOURS[signal],
                markersize=4.5,
                elinewidth=1.2,
            )
            reach = max([reach, *(abs(each.value) for each in means if not math.isnan(each.value))])
        axes.axvline(0, color="#595959", linewidth=0.9, zorder=0)
        axes.set_xscale("symlog", linthresh=1.0)
        ticks = [tick for tick in (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50) if abs(tick) <= 1.5 * reach]
        shown = {-50, -10, -3, -1, 0, 1, 3, 10, 50}
        axes.xaxis.set_major_locator(FixedLocator([t for t in [*ticks, -3, 3] if t in shown and abs(t) <= 1.5 * reach]))
        axes.xaxis.set_minor_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.set_title(table, loc="left", fontsize=11)
        axes.grid(visible=True, which="major", axis="x", color="#dddddd", linewidth=0.7)
        for row in range(0, len(order), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=-1)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(np.arange(len(order)), order)
    panels[0].set_ylim(len(order) - 0.5, -0.5)
    figure.supxlabel(
        "utility x 100 minus the best single model in hindsight, mean over trade-offs (symlog scale)", fontsize=9
    )
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Software": None})
