"""The report of the comparison: what every policy earns while it learns, and paired differences to the default."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import Mean
from benchmarks.markdown import grid
from benchmarks.online.streams import DEFAULT, DIALS, PEER, PEER_COLD_START, POLICIES, REFERENCES, Unit
from benchmarks.units import HINDSIGHT

MEASURES = {
    "earned": "earned over the pass",
    "held_out": "held out, as served at the end",
    "held_out_greedy": "held out, exploring no more",
}

_HOW = [
    "One pass, one pull a prompt: a policy sees the quality and the cost of the arm it chose, at once, and nothing "
    "else. All policies see the same prompts in the same order, the same 256 features, the same trade-offs and the "
    "same uniforms. A seed draws order, split (20% of the prompts are held out) and trade-offs. What is earned is "
    "the mean utility over the pass under the probabilities that each choice was drawn from.",
    "",
    "Dials: lambda in units of 1 / mean cost of the table's dearest arm; `random` draws a cost weight w for every "
    "request, uniform in [0, 1], lambda = w / ((1 - w) tau) with tau the 95th percentile of the table's costs, and "
    "utility is (1 - w) quality - w cost / tau. Tables without costs have lambda 0 alone. `demo` is what ships "
    "with ParetoBandit: the stream is its validation part, and its holdout is held out.",
    "",
    "References: the best single arm in hindsight, on the stream and on the prompts held out; a ridge per arm on "
    "the outcomes of every arm (out of fold on the stream); the oracle. No policy can know these.",
    "",
    f"`{PEER}` is paretobandit 0.1.1 through `BanditRouter.create`, `register_model`, `update_model_pricing`, "
    "`route`, `process_feedback` and `exploit`, in the best setting found on seeds that are not reported; "
    f"`{PEER_COLD_START}` is the setting its authors publish for a cold start. It is told what it cannot learn: "
    "every arm's true mean cost, and the components of the prompts held out (`benchmarks/online/paretobandit.py` "
    "says how, and why). Its probabilities are those of an argmax: its log has no overlap.",
    "",
]

_COLOURS = {
    DEFAULT: "#0072B2",
    "epsilon-greedy": "#009E73",
    "lin-ucb": "#CC79A7",
    "lin-thompson": "#56B4E9",
    "neural-linear": "#E69F00",
    "beta-thompson": "#999999",
    PEER: "#D55E00",
    PEER_COLD_START: "#D55E00",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A unit that is done and what it found."""

    unit: Unit
    measured: dict[str, Any]


Key = tuple[str, str]
"""A table and a dial."""


class Results:
    """What was found, by table and dial, policy and seed."""

    def __init__(self, found: Sequence[Found]) -> None:
        cells: dict[Key, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
        for each in found:
            unit = each.unit
            cells[unit.table, unit.dial][unit.policy][unit.seed] = each.measured
        self.cells = {key: dict(cells[key]) for key in sorted(cells, key=lambda key: (key[0], DIALS.index(key[1])))}
        self.tables = list(dict.fromkeys(each.unit.table for each in found))
        self.n_seeds = len({each.unit.seed for each in found})

    def dials(self, table: str) -> list[str]:
        """Return the dials of a table."""
        return [dial for of, dial in self.cells if of == table]

    def policies(self, table: str) -> list[str]:
        """Return the policies run on a table, references last."""
        run = {policy for (of, _), cell in self.cells.items() if of == table for policy in cell}
        return [policy for policy in (*POLICIES, *REFERENCES) if policy in run]

    def mean(self, key: Key, policy: str, measure: str) -> Mean:
        """Return a measure x 100, over seeds."""
        return Mean.of([100 * each[measure] for each in self.cells[key].get(policy, {}).values()])

    def lead(self, key: Key, policy: str, measure: str) -> NDArray[np.float64]:
        """Return the default's measure minus the policy's, x 100, seed by seed."""
        default, other = self.cells[key].get(DEFAULT, {}), self.cells[key].get(policy, {})
        seeds = sorted(default.keys() & other.keys())
        return np.array([100 * (default[seed][measure] - other[seed][measure]) for seed in seeds])

    def pooled_lead(self, policy: str, measure: str, keys: Sequence[Key]) -> Mean:
        """Return the lead averaged over tables and dials, seed by seed; each table counts alike."""
        by_table: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for key in keys:
            by_table[key[0]].append(self.lead(key, policy, measure))
        each = [lead for leads in by_table.values() for lead in leads]
        if not each or len({lead.size for lead in each}) != 1:
            return Mean.of([])
        return Mean.of(np.mean([np.mean(leads, axis=0) for leads in by_table.values()], axis=0))


def write_report(found: Sequence[Found], *, folder: Path) -> list[Path]:
    """Write `online.md` and `online.png`, and return where."""
    results = Results(found)
    lines = [
        "# Learning online: the default beside named baselines and ParetoBandit",
        "",
        *_verdict(results),
        *_HOW,
        *(line for table in results.tables for line in _table(results, table)),
    ]
    report = folder / "online.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [report, *_plot(results, folder / "online.png")]


def _verdict(results: Results) -> list[str]:
    keys = list(results.cells)
    others = [policy for policy in POLICIES if policy != DEFAULT and any(policy in results.cells[key] for key in keys)]
    rows = []
    for policy in (*others, HINDSIGHT):
        leads = [Mean.of(results.lead(key, policy, "earned")) for key in keys]
        ahead = sum(lead.value - lead.half_width > 0 for lead in leads)
        behind = sum(lead.value + lead.half_width < 0 for lead in leads)
        rows.append(
            [
                policy,
                *(_interval(results.pooled_lead(policy, measure, keys)) for measure in MEASURES),
                f"{ahead} / {behind} / {len(leads)}",
            ]
        )
    return [
        f"Utility x 100 that `{DEFAULT}` has more than each other policy: mean over tables (each counts alike) and "
        f"dials, paired by seed, with its 95% t-interval over {results.n_seeds} seeds. The last column counts tables "
        "and dials where the interval of what was earned lies above zero, lies below zero, and all.",
        "",
        *grid(["default minus", *MEASURES.values(), "ahead / behind / all"], rows),
    ]


def _table(results: Results, table: str) -> list[str]:
    dials = results.dials(table)
    policies = results.policies(table)
    lines = [f"## {table}", ""]
    for measure, title in MEASURES.items():
        rows = [
            [policy, *(_number(results.mean((table, dial), policy, measure).value) for dial in dials)]
            for policy in policies
        ]
        lines += [f"Utility x 100, {title}:", "", *grid(["policy", *(f"lambda {dial}" for dial in dials)], rows)]
    rows = [
        [policy, *(_interval(Mean.of(results.lead((table, dial), policy, "earned"))) for dial in dials)]
        for policy in policies
        if policy != DEFAULT
    ]
    return [
        *lines,
        f"`{DEFAULT}` minus each, earned, paired:",
        "",
        *grid(["default minus", *(f"lambda {dial}" for dial in dials)], rows),
    ]


def _plot(results: Results, path: Path) -> list[Path]:
    """Draw the cumulative regret to the best single arm in hindsight, one panel a table and two of its dials."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    keys = [key for key in results.cells if key[1] in (DIALS[0], DIALS[2]) and HINDSIGHT in results.cells[key]]
    if not keys:
        return []
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False, layout="constrained")
    labelled: dict[str, Any] = {}
    for axis, key in zip(axes.flat, keys, strict=False):
        best = results.cells[key][HINDSIGHT]
        for policy, colour in _COLOURS.items():
            runs = results.cells[key].get(policy, {})
            seeds = sorted(runs.keys() & best.keys())
            if not seeds:
                continue
            rounds = np.array(best[seeds[0]]["checkpoints"])
            regret = np.mean([np.subtract(best[seed]["curve"], runs[seed]["curve"]) for seed in seeds], axis=0)
            style = "--" if policy == PEER_COLD_START else "-"
            width = 2.4 if policy == DEFAULT else 1.3
            (labelled[policy],) = axis.plot(rounds, regret, style, color=colour, linewidth=width)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_title(f"{key[0]}, lambda {key[1]}", fontsize=10)
        axis.set_xlabel("round")
        axis.set_ylabel("regret to the best single arm")
    for axis in axes.flat[len(keys) :]:
        axis.axis("off")
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return [path]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _interval(mean: Mean) -> str:
    if math.isnan(mean.value):
        return ""
    return f"{mean.value:+.2f}" + ("" if math.isnan(mean.half_width) else f" ± {mean.half_width:.2f}")
