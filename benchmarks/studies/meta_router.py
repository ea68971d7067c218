"""Does the two-model Meta-Router order the ways to use few gold and many biased labels as its paper does?

The pair is the dearest model of the RouterBench subset (5-shot) and `claude-instant-v1`; gold is the table's quality,
right or wrong. Between the dearest and most of the cheap ones there is next to nothing that these features tell, not
even to a router that knows all gold; with this one there is. The judge is made: of each model's answer it says

    judge_t = clip(gold_t + shift_t + bias tanh(v_t . z(x)) + noise, 0, 1),    shift = -0.15 strong, +0.05 weak

with z the first principal components of the prompt's features, standardised, which are of what kind a prompt is, and
v_t a direction drawn anew for each model and each draw: so every draw has another judge, with a bias of its own that is
smooth in the prompt. The order is promised of the judge `biased`, whose bias was set so that a router of its labels
alone reaches about half of what all gold reaches, as in the paper's figure. `mild` is a better one, beside it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import FOLDER, MonteCarlo, Options, Report, command, map_logs
from benchmarks.tables import RESULTS, SHARED_DATA, encoded_table, table_specs
from pointsman.errors import OverlapWarning
from pointsman.fusion.gain import efficiency_gain
from pointsman.fusion.meta_router import meta_router
from pointsman.logs import replacing
from pointsman.types import Context, PerRound

TABLE, WEAK = "routerbench", "claude-instant-v1"
PROMISED_AT = 100
N_JUDGED = 1_000
"""Prompts with the judge's label only; as many more are the pool that gold labels are drawn from, the rest held out."""
N_DRAWS = {50: 30, 100: 100, 500: 30, 1_000: 30}
N_MILD_DRAWS = 20
N_COMPONENTS = 50
SHIFT = {"strong": -0.15, "weak": 0.05}
Z = 1.959964
SHARES = np.linspace(0, 1, 51)

METHODS = {
    "all-gold": ("all-gold", "as-coded"),
    "r as coded": ("r", "as-coded"),
    "r as written": ("r", "as-written"),
    "dr as coded": ("dr", "as-coded"),
    "dr as written": ("dr", "as-written"),
    "pooled": ("pooled", "as-coded"),
    "judge-only": ("judge-only", "as-coded"),
    "gold-only": ("gold-only", "as-coded"),
}
CORRECTED = ("r as written", "dr as written")
AS_THEY_ARE = ("pooled", "judge-only")
PROMISED = (
    *(("all-gold", each) for each in CORRECTED),
    *((each, other) for each in CORRECTED for other in AS_THEY_ARE),
    *((other, "gold-only") for other in AS_THEY_ARE),
)
"""Pairs of which the first is to be better, at `PROMISED_AT`."""
NO_WORSE = (("r as written", "r as coded"), ("dr as written", "dr as coded"))


class Judge(NamedTuple):
    """How a judge errs: size of the bias, standard deviation of the noise, components that the bias follows."""

    bias: float
    noise: float
    n_axes: int


JUDGES = {"biased": Judge(0.3, 0.5, 2), "mild": Judge(0.15, 0.3, 4)}


class Job(NamedTuple):
    """One draw of prompts, gold labels and judge."""

    judge: str
    seed: int
    n_gold: int
    methods: tuple[str, ...]


class Found(NamedTuple):
    """Of one method, on the held-out prompts of one draw."""

    judge: str
    method: str
    n_gold: int
    area: float
    largest: float
    curve: NDArray[np.float64]
    """Gain at `SHARES`."""
    agreement: float
    """Correlation of the judge's gain with gold's."""


class Pair(NamedTuple):
    """Every prompt of the table: principal components, and the quality of both models."""

    components: Context
    strong: PerRound
    weak: PerRound
    names: tuple[str, str]


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return areas under the efficiency-gain curve."""
    every = tuple(METHODS)
    # The forms as coded are the costliest by far, and nothing is promised of them elsewhere.
    rest = tuple(method for method in METHODS if not method.endswith("as coded"))
    jobs = [
        Job("biased", seed, n, every if n == PROMISED_AT else rest)
        for n, n_draws in ({PROMISED_AT: 3} if options.quick else N_DRAWS).items()
        for seed in range(n_draws)
    ]
    jobs += [Job("mild", seed, PROMISED_AT, rest) for seed in range(2 if options.quick else N_MILD_DRAWS)]
    found = [
        each for draw in map_logs(run, jobs, n_processes=options.n_processes, label="meta-router") for each in draw
    ]
    if not options.quick:
        plot(found, FOLDER / "meta_router.svg")
    return report(found)


def run(job: Job) -> list[Found]:
    """Learn every method's router from the same prompts, and draw its curve on the others."""
    world = pair()
    rng = np.random.default_rng([job.seed, 29])
    order = rng.permutation(world.strong.size)
    judged, pool, held_out = np.split(order, [N_JUDGED, N_JUDGED + max(N_DRAWS)])
    gold = world.strong - world.weak
    judge = judge_gain(world, JUDGES[job.judge], rng=rng)
    agreement = float(np.corrcoef(judge, gold)[0, 1])
    rows = np.concatenate([pool[: job.n_gold], judged])
    is_gold = np.arange(rows.size) < job.n_gold
    found: list[Found] = []
    for method in job.methods:
        name, variant = METHODS[method]
        known = np.ones_like(is_gold) if name == "all-gold" else is_gold
        router = meta_router(name, variant=variant, n_components=None, seed=job.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverlapWarning)
            router.fit(world.components[rows], np.where(known, gold[rows], judge[rows]), known)
        curve = efficiency_gain(predicted=router.predict(world.components[held_out]), gain=gold[held_out])
        found.append(Found(job.judge, method, job.n_gold, curve.area(), curve.largest, curve.at(SHARES), agreement))
    return found


def judge_gain(world: Pair, judge: Judge, *, rng: np.random.Generator) -> PerRound:
    """Return the gain of strong over weak for every prompt, as a judge with a bias of its own sees it."""
    axes = world.components[:, : judge.n_axes] / world.components[:, : judge.n_axes].std(axis=0)
    said = {}
    for model, quality in (("strong", world.strong), ("weak", world.weak)):
        direction = rng.normal(size=judge.n_axes)
        bias = SHIFT[model] + judge.bias * np.tanh(axes @ (direction / np.linalg.norm(direction)))
        said[model] = np.clip(quality + bias + judge.noise * rng.normal(size=quality.size), 0, 1)
    return np.asarray(said["strong"] - said["weak"])


@lru_cache(maxsize=1)
def pair() -> Pair:
    """Return the two models on every prompt."""
    from sklearn.decomposition import PCA

    encoded = encoded_table(table_specs([TABLE])[0], folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite")
    table = encoded.table
    assert table.cost_usd is not None
    strong = int(table.cost_usd.mean(axis=0).argmax())
    weak = int(table.arms.indices([WEAK])[0])
    return Pair(
        # Of all prompts: components know no label, and are then found once.
        components=np.asarray(PCA(N_COMPONENTS, svd_solver="full").fit_transform(encoded.features)),
        strong=table.quality[:, strong],
        weak=table.quality[:, weak],
        names=(table.arms.names[strong], table.arms.names[weak]),
    )


def report(found: Sequence[Found]) -> Report:
    """Return the report of what was found."""
    world = pair()
    cells: dict[tuple[str, int, str], list[Found]] = {}
    for each in found:
        cells.setdefault((each.judge, each.n_gold, each.method), []).append(each)
    areas = {cell: 100 * np.array([each.area for each in draws]) for cell, draws in cells.items()}
    columns = list(dict.fromkeys((judge, n) for judge, n, _ in cells))

    def difference(first: str, second: str, judge: str = "biased") -> MonteCarlo:
        return MonteCarlo.of(areas[judge, PROMISED_AT, first] - areas[judge, PROMISED_AT, second])

    ordered = {names: difference(*names) for names in PROMISED}
    no_worse = {names: difference(*names) for names in NO_WORSE}
    n_ordered = sum(each.value > Z * each.error for each in ordered.values())
    n_no_worse = sum(each.value > -Z * each.error for each in no_worse.values())
    coded = {
        (each, other): difference(each, other)
        for each in ("r as coded", "dr as coded")
        for other in (*AS_THEY_ARE, "gold-only")
    }
    mild = {(each, other): difference(each, other, "mild") for each in CORRECTED for other in AS_THEY_ARE}
    promised = {method: float(areas["biased", PROMISED_AT, method].mean()) for method in METHODS}
    largest = {
        method: 100 * float(np.mean([each.largest for each in cells["biased", PROMISED_AT, method]]))
        for method in METHODS
    }
    return Report(
        name="meta_router",
        asked=f"With {PROMISED_AT} gold labels and {N_JUDGED:,} of a biased judge, is the order all-gold > R, DR > "
        "pooled, judge-only > gold-only, and is cross-fitting with the known propensity no worse than as coded?",
        found=f"Areas under the efficiency-gain curve, x 100: {_listed(promised)}. Of {len(ordered)} promised "
        f"differences {n_ordered} are above zero with 95% confidence; as written is no worse than as coded in "
        f"{n_no_worse} of {len(no_worse)}. With the mild judge, R and DR as written minus pooled: "
        + " and ".join(f"{mild[each, 'pooled'].value:+.2f}" for each in CORRECTED)
        + ".",
        holds=n_ordered == len(ordered) and n_no_worse == len(no_worse),
        body=[
            f"RouterBench subset, 5-shot: {world.strong.size:,} prompts; {world.names[0]} is right in "
            f"{world.strong.mean():.1%} of them, {world.names[1]} in {world.weak.mean():.1%}. Each draw splits the "
            f"prompts at random: {N_JUDGED:,} with the judge's label, {max(N_DRAWS):,} that gold labels are drawn "
            "from, the rest held out. The judge says clip(gold + shift + bias tanh(v . z) + noise, 0, 1) of each "
            f"answer: shift {SHIFT['strong']:+g} for the strong model and {SHIFT['weak']:+g} for the weak one, z the "
            "first standardised principal components of the prompt's features, v a direction drawn for each model and "
            f"draw. {' '.join(_described(name, found) for name in JUDGES)} The bias of the first was set by what "
            "`judge-only` and `all-gold` reach alone: about half, as in the paper. Features are the default "
            f"encoder's, {N_COMPONENTS} components; forests are those of `fusion.meta_router`. `all-gold` has gold "
            "labels of all those prompts. The forms as coded take most of the time and ran where something is "
            "promised of them.",
            "",
            "Area under the curve over shares 0.2 to 0.8, in quality points a prompt x 100, mean over draws with its "
            "95% Monte Carlo interval; draws share the table, so that intervals are about splits, gold labels and "
            "judges and not about prompts of another table.",
            "",
            *grid(
                ["method", *(f"{judge}, {n:,} gold, {len(cells[judge, n, 'pooled'])} draws" for judge, n in columns)],
                [[method, *(_mean(areas.get((*column, method))) for column in columns)] for method in METHODS],
            ),
            f"Paired differences at {PROMISED_AT} gold labels, the first minus the second, x 100:",
            "",
            *grid(
                ["difference", "judge", "promised", "mean", "95% interval"],
                [
                    [f"{first} - {second}", judge, promise, f"{each.value:+.3f}", _interval(each)]
                    for judge, promise, differences in (
                        ("biased", "above 0", ordered),
                        ("biased", "not below 0", no_worse),
                        ("biased", "-", coded),
                        ("mild", "-", mild),
                    )
                    for (first, second), each in differences.items()
                ],
            ),
            f"Largest gain at {PROMISED_AT} gold labels, x 100: {_listed(largest)}.",
            "",
            "![Gain over random routing at each share of traffic to the strong model](meta_router.svg)",
        ],
    )


_STYLES = {
    "all-gold": ("#000000", "-"),
    "r as written": ("#0072B2", "-"),
    "r as coded": ("#0072B2", ":"),
    "dr as written": ("#009E73", "-"),
    "dr as coded": ("#009E73", ":"),
    "pooled": ("#D55E00", "-"),
    "judge-only": ("#D55E00", "--"),
    "gold-only": ("#595959", "-."),
}


def plot(found: Sequence[Found], path: Path) -> None:
    """Draw every method's mean curve at the promised number of gold labels."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, (colour, style) in _STYLES.items():
        curves = [each.curve for each in found if each[:3] == ("biased", method, PROMISED_AT)]
        axes.plot(SHARES, 100 * np.mean(curves, axis=0), color=colour, linestyle=style, linewidth=1.8, label=method)
    axes.axhline(0, color="#595959", linewidth=0.8)
    axes.set_xlabel("share of traffic to the strong model")
    axes.set_ylabel("quality gained over random routing, points x 100")
    axes.set_title(f"{PROMISED_AT} gold labels, {N_JUDGED:,} of a biased judge", loc="left", fontsize=11)
    axes.grid(visible=True, color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    # A date and random ids would make every file another.
    with rc_context({"svg.hashsalt": "pointsman"}), replacing(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _described(name: str, found: Sequence[Found]) -> str:
    judge = JUDGES[name]
    agreement = np.mean([each.agreement for each in found if each.judge == name])
    return (
        f"`{name}`: bias {judge.bias:g} over {judge.n_axes} components, noise {judge.noise:g}; its gains correlate "
        f"with gold's by {agreement:.2f}."
    )


def _listed(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:.2f}" for name, number in numbers.items())


def _mean(area: NDArray[np.float64] | None) -> str:
    if area is None:
        return "-"
    found = MonteCarlo.of(area)
    return f"{found.value:.2f} ± {Z * found.error:.2f}"


def _interval(found: MonteCarlo) -> str:
    return f"{found.value - Z * found.error:+.3f} to {found.value + Z * found.error:+.3f}"


if __name__ == "__main__":
    sys.exit(main())
