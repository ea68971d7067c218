"""Do intervals cover as they claim, and how wide are they: values, differences and joint bands, by overlap and size?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command, map_logs
from benchmarks.studies.worlds import OVERLAPS, Drawn, Overlap, World, fourier_features, overlap_world
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope.diagnostics import gate
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.estimators import dr, ips, sndr, snips
from pointsman.ope.intervals import joint_intervals, off_policy_bounds
from pointsman.types import Context, PerArm, PerRound

SIZES = (500, 2_000, 10_000, 50_000)
LEVELS = (0.90, 0.95)
N_LOGS = 1_000
N_FOLDS = 5
CHUNK = {500: 250, 2_000: 125, 10_000: 50, 50_000: 10}
"""Logs a job."""
N_FINITE = {500: 1_000, 2_000: 1_000, 10_000: 1_000, 50_000: 250}
"""Logs of a cell on which finite-sample intervals are computed where the gate is closed."""
KERNEL_UP_TO = 10_000
"""Rounds up to which the kernel's ridge is fitted."""

VALUE_OF, AGAINST = 0, 10
"""The policy whose value is asked for, and the one it is compared with."""
JUDGED = (0, 10, 19)
"""Policies whose gates must all be open for a band: the ends and the middle of the dial."""
N_BAND_DRAWS = 2_000

LEAST_JUDGED = 100
"""Logs with an open, or closed, gate below which a cell is not judged."""
POINTWISE, FAMILY = 0.01, 0.01
"""Chance that one cell is marked though all is well; that any cell of a table fails the study."""

ESTIMATORS = ("IPS", "SNIPS", "DR ridge", "SNDR ridge", "DR kernel", "SNDR kernel")
PROMISED = ESTIMATORS[1:]
"""Estimators whose intervals the verdict is on: IPS is shown beside them."""
QUANTITIES = ("value", "difference", "band over 20")
FINITE = ("none", "ridge")
"""Outcome models behind finite-sample intervals."""
GATED = "DR ridge"
"""Estimator whose gate they follow."""


class Job(NamedTuple):
    """Some logs of a cell."""

    overlap: Overlap
    n_rounds: int
    first: int
    n_logs: int


class Key(NamedTuple):
    """What an interval is of."""

    estimator: str
    quantity: str


class Found(NamedTuple):
    """Intervals on several logs, one entry a log."""

    covered: NDArray[np.bool_]
    """(n_logs, n_levels)"""
    width: NDArray[np.float64]
    """(n_logs,) at the last level."""
    is_open: NDArray[np.bool_]


class Results(NamedTuple):
    """All that a job, or a cell, found; finite-sample intervals by outcome model, on the logs with a closed gate."""

    normal: dict[Key, Found]
    finite: dict[Key, Found]


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return coverage and width in every cell."""
    sizes = SIZES[:2] if options.quick else SIZES
    n_logs = 50 if options.quick else N_LOGS
    jobs = [
        Job(overlap, n_rounds, first, min(CHUNK[n_rounds], n_logs - first))
        for n_rounds in reversed(sizes)
        for overlap in OVERLAPS
        for first in range(0, n_logs, CHUNK[n_rounds])
    ]
    cells: dict[tuple[Overlap, int], list[Results]] = {}
    for job, results in zip(
        jobs, map_logs(simulate, jobs, n_processes=options.n_processes, label="coverage"), strict=True
    ):
        cells.setdefault((job.overlap, job.n_rounds), []).append(results)
    order = [(overlap, n_rounds) for overlap in OVERLAPS for n_rounds in sizes]
    return _report({cell: _joined(cells[cell]) for cell in order}, n_logs=n_logs)


def simulate(job: Job) -> Results:
    """Draw logs and return what their intervals did."""
    return _stacked([_of_log(job, seed) for seed in range(job.first, job.first + job.n_logs)])


class _Log(NamedTuple):
    """What one log did, by key: covered at each level, width, open."""

    normal: dict[Key, tuple[list[bool], float, bool]]
    finite: dict[Key, tuple[list[bool], float, bool]]


def _of_log(job: Job, seed: int) -> _Log:
    world, kernel_context, targets, truths = _world(job.overlap)
    rng = np.random.default_rng([seed, job.n_rounds, OVERLAPS.index(job.overlap)])
    drawn = world.draw(job.n_rounds, rng=rng)
    propensity = world.propensity(drawn)
    fold = assign_folds(job.n_rounds, n_folds=N_FOLDS, seed=seed)
    contexts = {"ridge": world.context}
    if job.n_rounds <= KERNEL_UP_TO:
        contexts["kernel"] = kernel_context
    predicted = {name: _cross_fitted(world, context, drawn, fold=fold) for name, context in contexts.items()}
    of_prompt = targets[drawn.prompt]
    weights = of_prompt[np.arange(job.n_rounds), :, drawn.arm].T / propensity
    normal: dict[Key, tuple[list[bool], float, bool]] = {}
    for name, estimates in _estimates(of_prompt, weights, drawn, predicted=predicted):
        if seed == job.first:
            _check(name, estimates[VALUE_OF], world=world, drawn=drawn, predicted=predicted)
        value, gap = estimates[VALUE_OF], estimates[VALUE_OF] - estimates[AGAINST]
        gap_weight = weights[VALUE_OF] - weights[AGAINST]
        gap_truth = truths[VALUE_OF] - truths[AGAINST]
        opens = {j: _is_open(estimates[j], weight=weights[j]) for j in JUDGED}
        normal[Key(name, "value")] = _normal(value, truths[VALUE_OF], is_open=opens[VALUE_OF])
        normal[Key(name, "difference")] = _normal(
            gap, gap_truth, is_open=_is_open(gap, weight=gap_weight, mean_weight=0.0)
        )
        normal[Key(name, "band over 20")] = _band(estimates, truths, is_open=all(opens.values()), seed=seed)
    finite: dict[Key, tuple[list[bool], float, bool]] = {}
    if seed < N_FINITE[job.n_rounds]:
        for model in FINITE:
            for quantity, truth in (("value", truths[VALUE_OF]), ("difference", truths[VALUE_OF] - truths[AGAINST])):
                if not normal[Key(GATED, quantity)][2]:
                    low, high = off_policy_bounds(
                        arm=drawn.arm,
                        outcome=drawn.outcome,
                        propensity=propensity,
                        target_probs=of_prompt[:, VALUE_OF],
                        baseline_probs=None if quantity == "value" else of_prompt[:, AGAINST],
                        predicted=predicted.get(model),
                        outcome_range=(0.0, 1.0),
                        largest_weight=1 / world.least_propensity if model in predicted else np.inf,
                        level=LEVELS[-1],
                    )
                    finite[Key(model, quantity)] = ([low <= truth <= high], high - low, False)
    return _Log(normal, finite)


@lru_cache(maxsize=3)
def _world(overlap: Overlap) -> tuple[World, Context, NDArray[np.float64], list[float]]:
    """Return a world, its kernel features, its targets as (n_prompts, n_policies, n_arms), and their values."""
    world = overlap_world(overlap)
    targets = np.ascontiguousarray(world.targets.transpose(1, 0, 2))
    return world, fourier_features(world.context), targets, [world.value(target) for target in world.targets]


def _cross_fitted(world: World, context: Context, drawn: Drawn, *, fold: NDArray[np.int64]) -> PerArm:
    return cross_fit_outcomes(
        PerArmRidge(),
        context=context[drawn.prompt],
        outcome=drawn.outcome,
        arm=drawn.arm,
        n_arms=world.n_arms,
        fold=fold,
    )


def _estimates(
    of_prompt: NDArray[np.float64], weights: NDArray[np.float64], drawn: Drawn, *, predicted: dict[str, PerArm]
) -> Iterator[tuple[str, list[Estimate]]]:
    """Yield every estimator by name, for all policies: their terms for twenty policies cost little more than for one.

    That they are those of `pointsman.ope.estimators` is checked on the first log of every job.
    """
    ones = np.ones(drawn.arm.size)
    weighted = weights * drawn.outcome
    yield "IPS", [_estimate((a, ones)) for a in weighted]
    yield "SNIPS", [_estimate((a, w)) for a, w in zip(weighted, weights, strict=True)]
    for model, mu in predicted.items():
        expected = np.einsum("npt,nt->pn", of_prompt, mu)
        corrections = weights * (drawn.outcome - mu[np.arange(drawn.arm.size), drawn.arm])
        yield f"DR {model}", [_estimate((a, ones)) for a in expected + corrections]
        yield (
            f"SNDR {model}",
            [_estimate((a, ones), (b, w)) for a, b, w in zip(expected, corrections, weights, strict=True)],
        )


def _estimate(*terms: tuple[PerRound, PerRound]) -> Estimate:
    return Estimate(name="", terms=tuple(Ratio(*term) for term in terms))


def _check(name: str, ours: Estimate, *, world: World, drawn: Drawn, predicted: dict[str, PerArm]) -> None:
    """Raise unless an estimate is what the package's estimator returns."""
    logged: dict[str, Any] = {
        "arm": drawn.arm,
        "outcome": drawn.outcome,
        "propensity": world.propensity(drawn),
        "target_probs": world.targets[VALUE_OF][drawn.prompt],
    }
    kind, _, model = name.partition(" ")
    if model:
        logged["predicted"] = predicted[model]
    estimators: dict[str, Callable[..., Estimate]] = {"IPS": ips, "SNIPS": snips, "DR": dr, "SNDR": sndr}
    theirs = estimators[kind](**logged)
    np.testing.assert_allclose([ours.value, ours.standard_error], [theirs.value, theirs.standard_error], rtol=1e-10)


def _is_open(estimate: Estimate, *, weight: PerRound, mean_weight: float = 1.0) -> bool:
    return gate(estimate, weight=weight, mean_weight=mean_weight).interval == "normal"


def _normal(estimate: Estimate, truth: float, *, is_open: bool) -> tuple[list[bool], float, bool]:
    intervals = [estimate.interval(level) for level in LEVELS]
    low, high = intervals[-1]
    return [low <= truth <= high for low, high in intervals], high - low, is_open


def _band(
    estimates: Sequence[Estimate], truths: Sequence[float], *, is_open: bool, seed: int
) -> tuple[list[bool], float, bool]:
    values = [estimate.value for estimate in estimates]
    influences = np.stack([estimate.influence for estimate in estimates])
    bands = [joint_intervals(values, influences, level=level, n_draws=N_BAND_DRAWS, seed=seed) for level in LEVELS]
    covered = [bool(np.all((band.low <= truths) & (truths <= band.high))) for band in bands]
    return covered, float((bands[-1].high - bands[-1].low).mean()), is_open


def _stacked(logs: Sequence[_Log]) -> Results:
    def stack(found: Sequence[dict[Key, tuple[list[bool], float, bool]]]) -> dict[Key, Found]:
        keys = dict.fromkeys(key for each in found for key in each)
        arranged = {key: [each[key] for each in found if key in each] for key in keys}
        return {key: Found(*(np.array(column) for column in zip(*rows, strict=True))) for key, rows in arranged.items()}

    return Results(stack([log.normal for log in logs]), stack([log.finite for log in logs]))


def _joined(parts: Sequence[Results]) -> Results:
    def join(found: Sequence[dict[Key, Found]]) -> dict[Key, Found]:
        keys = dict.fromkeys(key for each in found for key in each)
        return {
            key: Found(
                *(np.concatenate(column) for column in zip(*(each[key] for each in found if key in each), strict=True))
            )
            for key in keys
        }

    return Results(join([part.normal for part in parts]), join([part.finite for part in parts]))


class Judged(NamedTuple):
    """Coverage of one kind of interval on some logs of a cell."""

    share: float
    n_logs: int
    p_low: float
    """Chance of coverage as low as this were it at its level."""
    p_high: float
    """Chance of coverage as high."""

    @classmethod
    def of(cls, covered: NDArray[np.bool_], *, level: float) -> Judged:
        """Return coverage beside its level, by the exact binomial."""
        from scipy.stats import binom

        n_logs, count = covered.size, int(covered.sum())
        if n_logs == 0:
            return cls(np.nan, 0, 1.0, 1.0)
        return cls(
            count / n_logs,
            n_logs,
            float(binom.cdf(count, n_logs, level)),
            float(binom.sf(count - 1, n_logs, level)),
        )

    @property
    def p(self) -> float:
        """Chance of coverage as far off, to either side."""
        return 2 * min(self.p_low, self.p_high)

    def __str__(self) -> str:
        if self.n_logs == 0:
            return "-"
        mark = "" if self.p >= POINTWISE else "↓" if self.p_low < self.p_high else "↑"
        return f"{100 * self.share:.1f}{mark}"


def _report(cells: dict[tuple[Overlap, int], Results], *, n_logs: int) -> Report:
    tables: list[str] = []
    judged: dict[bool, list[tuple[Judged, str]]] = {True: [], False: []}
    for quantity in QUANTITIES:
        rows = []
        for (overlap, n_rounds), results in cells.items():
            for name in ESTIMATORS:
                found = results.normal.get(Key(name, quantity))
                if found is None:
                    continue
                texts = []
                for j, level in enumerate(LEVELS):
                    where_open = Judged.of(found.covered[found.is_open, j], level=level)
                    texts += [str(Judged.of(found.covered[:, j], level=level)), str(where_open)]
                    if where_open.n_logs >= LEAST_JUDGED:
                        where = f"{quantity}, {name}, {overlap} overlap, {n_rounds:,} rounds, {level:.0%}"
                        judged[name in PROMISED].append((where_open, where))
                rows.append(
                    [overlap, f"{n_rounds:,}", name, f"{found.is_open.mean():.0%}", *texts, f"{found.width.mean():.4f}"]
                )
        header = ["overlap", "rounds", "estimator", "gate open"]
        header += [text for level in LEVELS for text in (f"{level:.0%}: all", "open")]
        title = {"value": "Values", "difference": "Paired differences", "band over 20": "Bands over 20 policies"}
        tables += [f"## {title[quantity]}", "", *grid([*header, f"width at {LEVELS[-1]:.0%}"], rows)]
    finite_rows, finite = _finite(cells)
    n_promised = len(judged[True])
    misses = [f"{where}: {each} of {each.n_logs:,}" for each, where in judged[True] if each.p < FAMILY / n_promised]
    marked = sum(each.p < POINTWISE for each, _ in judged[True])
    by_ips = [f"{where}: {each} of {each.n_logs:,}" for each, where in judged[False] if each.p < FAMILY / n_promised]
    too_low = [f"{where}: {each} of {each.n_logs:,}" for each, where in finite if each.p_low < FAMILY / len(finite)]
    least = min((each.share for each, _ in finite), default=np.nan)
    told = f"IPS misses in {len(by_ips)} of {len(judged[False])} such cells; " if by_ips else ""
    failing = [*misses, *too_low]
    return Report(
        name="coverage",
        asked="Do 90% and 95% intervals of SNIPS, DR and SNDR cover as they claim where the gate is open, and "
        "finite-sample ones where it is closed?",
        found=f"Of {n_promised} cells with an open gate {marked} lie outside the {1 - POINTWISE:.0%} binomial band of "
        f"their logs ({n_logs:,} at most), where chance alone gives {POINTWISE * n_promised:.1f}, and {len(misses)} "
        f"outside the band for all cells at once; {told}finite-sample intervals cover at least {least:.1%} where the "
        f"gate is closed. Without the gate normal intervals miss: {_worst(cells)}.",
        holds=not failing,
        body=[
            "Logs of `worlds.overlap_world`: four models, yes-or-no outcomes that are not linear in five features, "
            "confounded logging with known propensities of at least 0.1, 0.02 and 0.002; the targets are greedy "
            "routers at twenty trade-offs, the value that of the first and the difference that to the eleventh. "
            f"*ridge* and *kernel* (ridge on random Fourier features; up to {KERNEL_UP_TO:,} rounds) are cross-fitted "
            f"in {N_FOLDS} folds on every log; IPS and SNIPS are DR and SNDR without an outcome model. Coverage in "
            "percent, over all logs and over those with an open gate; ↓ and ↑ mark coverage that lies outside the "
            f"{1 - POINTWISE:.0%} binomial band of that many logs ({_band_text(n_logs)} of {n_logs:,} at 95%). The "
            "gate of a band is open where it is for the first, the eleventh and the last policy. Cells in which fewer "
            f"than {LEAST_JUDGED} logs have an open (or closed) gate are shown, not judged.",
            "",
            *(
                ["## Where it misses", "", *(f"- {text}" for text in [*failing, *by_ips]), ""]
                if failing or by_ips
                else []
            ),
            *tables,
            "## Where the gate is closed",
            "",
            f"{LEVELS[-1]:.0%} finite-sample intervals (`off_policy_bounds`) on the logs whose gate is closed: without "
            "an outcome model or a bound on the weights, which is what an evaluation prints, and with the cross-fitted "
            f"ridge and the least propensity known. The gate is that of {GATED}, and so is the normal interval beside. "
            "*as reported* is the coverage of both together: normal where the gate is open, finite-sample where not. "
            f"At 50,000 rounds the first {N_FINITE[50_000]} logs. They may cover more often than they claim.",
            "",
            *finite_rows,
        ],
    )


def _finite(
    cells: dict[tuple[Overlap, int], Results],
) -> tuple[list[str], list[tuple[Judged, str]]]:
    """Return the table of finite-sample intervals, and the judged cells."""
    rows, judged = [], []
    level = LEVELS[-1]
    for (overlap, n_rounds), results in cells.items():
        for model in FINITE:
            for quantity in QUANTITIES[:2]:
                found = results.finite.get(Key(model, quantity))
                if found is None:
                    continue
                normal = results.normal[Key(GATED, quantity)]
                ran = slice(None, N_FINITE[n_rounds])
                is_open, normal_covered = normal.is_open[ran], normal.covered[ran, -1]
                mixed = normal_covered.copy()
                mixed[~is_open] = found.covered[:, 0]
                closed = Judged.of(found.covered[:, 0], level=level)
                shown = Judged.of(mixed, level=level)
                if closed.n_logs >= LEAST_JUDGED:
                    where = f"finite-sample {quantity}, {model}, {overlap} overlap, {n_rounds:,} rounds"
                    judged.append((closed, where))
                rows.append(
                    [
                        overlap,
                        f"{n_rounds:,}",
                        quantity,
                        model,
                        f"{closed.n_logs} of {is_open.size}",
                        f"{100 * normal_covered[~is_open].mean():.1f}",
                        str(closed).rstrip("↑"),
                        f"{normal.width[ran][~is_open].mean():.3f}",
                        f"{found.width.mean():.3f}",
                        f"{100 * shown.share:.1f}",
                    ]
                )
    header = ["overlap", "rounds", "of", "outcome model", "closed", "normal covers", "finite-sample covers"]
    return grid([*header, "normal width", "finite-sample width", "as reported"], rows), judged


def _worst(cells: dict[tuple[Overlap, int], Results]) -> str:
    """Return the lowest coverage at the last level where the gate is not asked, in words."""
    shares = [
        (float(found.covered[:, -1].mean()), key, cell)
        for cell, results in cells.items()
        for key, found in results.normal.items()
    ]
    share, key, (overlap, n_rounds) = min(shares, key=lambda each: each[0])
    kind = "a band" if key.quantity.startswith("band") else f"a {key.quantity}"
    where = f"at {n_rounds:,} rounds of {overlap} overlap"
    return f"{share:.1%} in place of {LEVELS[-1]:.0%} for {kind} by {key.estimator} {where}"


def _band_text(n_logs: int) -> str:
    from scipy.stats import binom

    low, high = (100 * binom.ppf(p, n_logs, LEVELS[-1]) / n_logs for p in (POINTWISE / 2, 1 - POINTWISE / 2))
    return f"{low:.1f} to {high:.1f}"


if __name__ == "__main__":
    sys.exit(main())
