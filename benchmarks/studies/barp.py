"""Does BaRP's dial move quality and cost together, and does it beat the largest model, and what else learns as much?"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command, map_logs
from benchmarks.tables import RESULTS, SHARED_DATA, encoded_table, table_specs
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.online.barp import BaRP, train
from pointsman.online.barp.policy import COST_SCALE_QUANTILE, Form
from pointsman.online.barp.training import Pulls
from pointsman.types import ArmIndex, Context, PerArm

N_SEEDS = 10
N_LEARNED = 1_500
"""Prompts learned from, at most."""
SHARE_TEST, SHARE_JUDGING = 0.4, 0.2
SHARE_TASKS = 0.3
"""Of the prompts, at least, in the tasks held out."""
COST_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SETTINGS: Mapping[Form, tuple[tuple[float, float], ...]] = {
    "bilinear": ((1e-3, 0.01), (1e-3, 0.03)),
    "mlp": ((3e-4, 0.1),),
}
"""Learning rate and beta tried, by form."""
EPOCHS = (1, 2, 5, 10, 15, 20)
"""After which training may stop."""
N_NEIGHBOURS = (8, 32, 128)

IN, OUT = "in distribution", "tasks held out"
CELLS = (("routerbench", IN), ("routerbench", OUT), ("llmrouter", IN), ("llmrouter", OUT), ("paretobandit", IN))
PULLS: Mapping[Pulls, str] = {"fresh": "a fresh pull every epoch", "once": "one pull a prompt"}
BARP = {(form, pulls): f"BaRP {form}, {words}" for form in SETTINGS for pulls, words in PULLS.items()}
LARGEST, SMALLEST, SINGLE, ORACLE = "largest model", "smallest model", "best single model", "oracle"
RIDGE = "ridge, one pull a prompt"


class Job(NamedTuple):
    """One split of one table."""

    table: str
    shift: str
    seed: int


class Dial(NamedTuple):
    """What a method gives on the test prompts at each of `COST_WEIGHTS`, and what it was told."""

    reward: NDArray[np.float64]
    quality: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    n_revealed: int
    setting: tuple[float, float, int] | None = None
    """Learning rate, beta and epochs that were chosen."""


class Found(NamedTuple):
    """Every method on one split."""

    job: Job
    dials: Mapping[str, Dial]


class Prompts(NamedTuple):
    """Prompts, and every arm's outcome."""

    context: Context
    quality: PerArm
    scaled: PerArm
    """min(c / tau, 1)."""
    cost_usd: PerArm

    def take(self, rows: NDArray[np.int64]) -> Prompts:
        """Return these prompts."""
        return Prompts(self.context[rows], self.quality[rows], self.scaled[rows], self.cost_usd[rows])


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return every method on every split."""
    cells, n_seeds = (CELLS[:1], 2) if options.quick else (CELLS, N_SEEDS)
    jobs = [Job(*cell, seed) for seed in range(n_seeds) for cell in cells]
    return report(map_logs(run, jobs, n_processes=options.n_processes, label="barp"))


def run(job: Job) -> Found:
    """Learn by every method and read its dial on prompts that none saw."""
    context, quality, cost_usd, task = _outcomes(job.table)
    rng = np.random.default_rng([job.seed, *job.table.encode(), job.shift == OUT])
    learning, judging, test = _split(task, shift=job.shift, rng=rng)
    n_arms = quality.shape[1]
    pulled = rng.integers(n_arms, size=learning.size)
    tau = float(np.quantile(cost_usd[learning, pulled], COST_SCALE_QUANTILE))
    every = Prompts(context, quality, np.minimum(cost_usd / tau, 1), cost_usd)
    learn, judge, tested = (every.take(rows) for rows in (learning, judging, test))
    dials = _references(learn, judge, tested, pulled=pulled)
    for (form, pulls), name in BARP.items():
        dials[name] = _barp(learn, judge, tested, form=form, pulls=pulls, tau=tau, seed=job.seed)
    return Found(job, dials)


def _barp(learn: Prompts, judge: Prompts, tested: Prompts, *, form: Form, pulls: Pulls, tau: float, seed: int) -> Dial:
    """Train at every setting, keep what earns most on the judging prompts, and read its dial."""
    best, chosen, setting = -math.inf, None, (0.0, 0.0, 0)

    def reveal(rows: NDArray[np.int64], arm: ArmIndex) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return learn.quality[rows, arm], learn.cost_usd[rows, arm]

    for learning_rate, entropy in SETTINGS[form]:
        policy = BaRP(
            n_arms=learn.quality.shape[1],
            n_features=learn.context.shape[1],
            form=form,
            learning_rate=learning_rate,
            entropy=entropy,
            cost_scale_usd=tau,
            seed=seed,
        )

        def keep(epoch: int, policy: BaRP = policy) -> None:
            nonlocal best, chosen, setting
            if epoch not in EPOCHS:
                return
            value = float(_dial(_arms(policy), judge).reward.mean())
            if value > best:
                best, chosen = value, BaRP.from_state(*policy.state())
                setting = policy.learning_rate, policy.entropy, epoch

        train(
            policy,
            learn.context,
            reveal,
            n_epochs=EPOCHS[-1],
            pulls=pulls,
            rng=np.random.default_rng([seed, 1]),
            after_epoch=keep,
        )
    assert chosen is not None
    n_revealed = (setting[-1] if pulls == "fresh" else 1) * len(learn.context)
    return _dial(_arms(chosen), tested, n_revealed=n_revealed)._replace(setting=setting)


Choose = Callable[[Context, float], ArmIndex]


def _arms(policy: BaRP) -> Choose:
    """Return the policy's most likely arms: the argmax at test."""
    return lambda context, w: policy.choice_probabilities(context, np.full(len(context), w)).argmax(axis=1)


def _dial(choose: Choose, prompts: Prompts, *, n_revealed: int = 0) -> Dial:
    row = np.arange(len(prompts.context))
    means = []
    for w in COST_WEIGHTS:
        arm = choose(prompts.context, w)
        quality, scaled = prompts.quality[row, arm], prompts.scaled[row, arm]
        means.append([((1 - w) * quality - w * scaled).mean(), quality.mean(), prompts.cost_usd[row, arm].mean()])
    reward, quality_, cost_usd = np.array(means).T
    return Dial(reward, quality_, cost_usd, n_revealed)


def _references(learn: Prompts, judge: Prompts, tested: Prompts, *, pulled: ArmIndex) -> dict[str, Dial]:
    n, n_arms = learn.quality.shape
    every, outcomes = np.ones((n, n_arms), dtype=np.bool_), np.hstack([learn.quality, learn.scaled])
    seen = np.eye(n_arms, dtype=np.bool_)[pulled]
    # Of equally dear models the better on the prompts learned from.
    dearest = np.lexsort((learn.quality.mean(axis=0), learn.cost_usd.mean(axis=0)))
    means = outcomes.mean(axis=0)

    def always(arm: int) -> Choose:
        return lambda context, _: np.full(len(context), arm)

    def by(predict: Callable[[Context], PerArm]) -> Choose:
        def choose(context: Context, w: float) -> ArmIndex:
            predicted = predict(context)
            return np.asarray(((1 - w) * predicted[:, :n_arms] - w * predicted[:, n_arms:]).argmax(axis=1))

        return choose

    def ridge(known: NDArray[np.bool_]) -> Choose:
        row, arm = np.nonzero(known)
        models = [
            PerArmRidge().fit(learn.context[row], outcome[row, arm], arm=arm, n_arms=n_arms)
            for outcome in (learn.quality, learn.scaled)
        ]
        return by(lambda context: np.hstack([model.predict(context) for model in models]))

    def nearest(known: NDArray[np.bool_]) -> Choose:
        tried = [by(_neighbours(learn, known, k)) for k in N_NEIGHBOURS]
        return max(tried, key=lambda choose: float(_dial(choose, judge).reward.mean()))

    one, full = n, n * n_arms
    return {
        LARGEST: _dial(always(int(dearest[-1])), tested),
        SMALLEST: _dial(always(int(learn.cost_usd.mean(axis=0).argmin())), tested),
        SINGLE: _dial(by(lambda context: np.tile(means, (len(context), 1))), tested, n_revealed=full),
        "kNN, one pull a prompt": _dial(nearest(seen), tested, n_revealed=one),
        RIDGE: _dial(ridge(seen), tested, n_revealed=one),
        "kNN, full feedback": _dial(nearest(every), tested, n_revealed=full),
        "ridge, full feedback": _dial(ridge(every), tested, n_revealed=full),
        ORACLE: _dial(by(lambda _: np.hstack([tested.quality, tested.scaled])), tested),
    }


def _neighbours(learn: Prompts, known: NDArray[np.bool_], k: int) -> Callable[[Context], PerArm]:
    """Return what predicts an arm's outcomes by their mean over the k nearest prompts, by cosine, where it is known."""
    unit = _unit(learn.context)

    def predict(context: Context) -> PerArm:
        likeness = _unit(context) @ unit.T
        columns = []
        for outcome in (learn.quality, learn.scaled):
            for t in range(known.shape[1]):
                rows = np.flatnonzero(known[:, t])
                near = np.argpartition(-likeness[:, rows], min(k, rows.size) - 1, axis=1)[:, :k]
                columns.append(outcome[rows, t][near].mean(axis=1))
        return np.column_stack(columns)

    return predict


def _unit(context: Context) -> NDArray[np.float64]:
    return np.asarray(context / np.maximum(np.linalg.norm(context, axis=1, keepdims=True), 1e-12))


def _split(
    task: NDArray[np.str_], *, shift: str, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the prompts to learn from, those to judge settings by, and those of the test."""
    if shift == OUT:
        names, sizes = np.unique(task, return_counts=True)
        order = rng.permutation(names.size)
        n_held = int(np.searchsorted(sizes[order].cumsum(), SHARE_TASKS * task.size)) + 1
        held = np.isin(task, names[order[:n_held]])
    else:
        held = rng.permutation(task.size) < SHARE_TEST * task.size
    rest = rng.permutation(np.flatnonzero(~held))
    n_judging = round(SHARE_JUDGING * rest.size)
    return rest[n_judging:][:N_LEARNED], rest[:n_judging], np.flatnonzero(held)


@lru_cache(maxsize=4)
def _outcomes(name: str) -> tuple[Context, PerArm, PerArm, NDArray[np.str_]]:
    """Return a table's context, quality, cost in USD, and task of each prompt."""
    encoded = encoded_table(table_specs([name])[0], folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite")
    table = encoded.table
    task = np.array(table.extra["task"].to_pylist(), dtype=np.str_)
    cost_usd = _list_cost(name, table.query_id, table.arms.names) if table.cost_usd is None else table.cost_usd
    return np.asarray(encoded.features, dtype=np.float64), table.quality, cost_usd, task


def _list_cost(name: str, query_id: Sequence[str], models: Sequence[str]) -> PerArm:
    """Return list price times estimated input tokens, in USD, of a table without costs; answers are not in it."""
    from pyarrow.parquet import read_table

    spec = table_specs([name])[0]
    assert spec.file is not None
    columns = ["query_id", "model", "tokens_in_est", "price_in"]
    rows = read_table(SHARED_DATA / spec.file, columns=columns).to_pydict()
    cost = {
        (query, model): tokens * price / 1e6
        for query, model, tokens, price in zip(*(rows[column] for column in columns), strict=True)
    }
    return np.array([[cost[query, model] for model in models] for query in query_id])


def report(found: Sequence[Found]) -> Report:
    """Return the report of what was found."""
    cells = list(dict.fromkeys((each.job.table, each.job.shift) for each in found))
    rises, n_rises, body = [], 0, []
    signs: dict[str, list[bool | None]] = {LARGEST: [], RIDGE: []}
    for cell in cells:
        dials = [each.dials for each in found if (each.job.table, each.job.shift) == cell]
        label = f"{cell[0]}, {cell[1]}"
        largest = np.array([each[LARGEST].quality[0] for each in dials])
        cost_of_largest = np.array([each[LARGEST].cost_usd[0] for each in dials])
        ridge = np.array([each[RIDGE].reward.mean() for each in dials])
        rows, dial_rows = [], []
        for name in dials[0]:
            quality = np.array([each[name].quality for each in dials])
            cost_usd = np.array([each[name].cost_usd for each in dials])
            reward = np.array([each[name].reward.mean() for each in dials])
            n_revealed = float(np.mean([each[name].n_revealed for each in dials]))
            rows.append(
                [
                    name,
                    f"{n_revealed:,.0f}" if n_revealed else "-",
                    _interval(100 * reward),
                    "-" if name == RIDGE else _interval(100 * (reward - ridge), sign=True),
                    _interval(100 * quality[:, 0]),
                    "-" if name == LARGEST else _interval(100 * (quality[:, 0] - largest), sign=True),
                    f"{100 * cost_usd[:, 0].mean() / cost_of_largest.mean():.0f}",
                ]
            )
            if name in BARP.values():
                steps = [
                    (
                        f"{what} from w_c = {COST_WEIGHTS[i]:g} to {COST_WEIGHTS[i + 1]:g}",
                        values[:, i + 1] - values[:, i],
                    )
                    for what, values in (("quality", quality), ("cost", cost_usd))
                    for i in range(len(COST_WEIGHTS) - 1)
                ]
                n_rises += sum(float(step.mean()) > 0 for _, step in steps)
                rises += [f"{name}, {what} on {label}" for what, step in steps if _sign(step) is True]
                signs[LARGEST].append(_sign(quality[:, 0] - largest))
                signs[RIDGE].append(_sign(reward - ridge))
                dial_rows.append(
                    [
                        name,
                        *(f"{100 * each:.1f}" for each in quality.mean(axis=0)),
                        *(f"{1000 * each:.3g}" for each in cost_usd.mean(axis=0)),
                        _settings([each[name].setting for each in dials]),
                    ]
                )
        body += [
            f"## {label[0].upper()}{label[1:]}",
            "",
            "BaRP at each w_c: quality x 100, USD per 1,000 prompts; the learning rates, betas and epochs chosen:",
            "",
        ]
        weights = [f"{w:g}" for w in COST_WEIGHTS]
        body += grid(["", *(f"quality {w}" for w in weights), *(f"USD {w}" for w in weights), "chosen"], dial_rows)
        body += grid(
            [
                "method",
                "revealed",
                "reward, mean over w",
                f"minus {RIDGE}",
                "quality at w_c = 0",
                "minus largest model",
                "cost at w_c = 0, % of largest's",
            ],
            rows,
        )
    n_barp = len(BARP) * len(cells)
    n_seeds = min(sum((each.job.table, each.job.shift) == cell for each in found) for cell in cells)
    return Report(
        name="barp",
        asked="As w_c goes from 0 to 1, do BaRP's quality and cost fall together, and how does it compare with the "
        "largest model and with what else learns from as much?",
        found=f"Of {8 * n_barp} steps between neighbouring w_c, quality or cost rises in the mean in {n_rises}, and by "
        f"more than its 95% interval in {len(rises)}. Again by more than the interval, BaRP's quality at w_c = 0 is "
        f"{_counts(signs[LARGEST])} against the {LARGEST}; its reward over all w is {_counts(signs[RIDGE])} against "
        f"{RIDGE}, which is told no more.",
        holds=not rises,
        body=[*_method(n_seeds), *([f"Rises: {'; '.join(rises)}.", ""] if rises else []), *body],
    )


def _method(n_seeds: int) -> list[str]:
    return [
        "r = w_q q - w_c min(c / tau, 1), tau the 95th percentile of the cost of one evenly drawn model on each prompt "
        f"learned from. {n_seeds} seeds, each with a split of its own; intervals are Student's, 95%, over seeds, and "
        "differences are paired by seed. In distribution 40% of the prompts are the test; out of distribution whole "
        f"tasks are, drawn until they hold {SHARE_TASKS:.0%} of the prompts. Of the other prompts a fifth is for "
        f"judging settings, and of the rest {N_LEARNED:,} at most are learned from, by every method. BaRP trains on w "
        "uniform on the simplex and takes the most likely arm at test. The bilinear form's learning rate and beta "
        f"(1e-3 with .01 or .03), and the epochs of both forms (up to {EPOCHS[-1]}), are those of highest mean reward "
        "on the judging prompts, where all outcomes are known: kind to BaRP, and not counted as revealed; k of kNN is "
        "chosen likewise. The mlp's 3e-4 with .1 was set beforehand, on a fifth of the prompts of a routerbench split "
        "of a seed of its own, near the best (3e-4, .15) of {1e-4, 3e-4} x {.01, .05, .15}; there the paper's rate, "
        "1e-4, with .01 took one model at all w for 50 epochs. `revealed` counts the outcomes that the chosen run was "
        "told.",
        "",
        "`a fresh pull every epoch`: each epoch reveals as many outcomes anew. `one pull a prompt`: the first epoch's "
        "pulls are learned from again at new preferences, by importance weights cut at 5. `largest` is the dearest "
        "model, of equally dear "
        "ones the better on the prompts learned from; `smallest` the cheapest. `ridge` is a regression of quality and "
        "of cost for each model, compared at w. Contexts are the default encoder's, not the paper's. llmrouter has no "
        "cost: it is list price times estimated input tokens, in three classes of price.",
        "",
    ]


def _counts(signs: Sequence[bool | None]) -> str:
    higher, lower = (sum(each is sign for each in signs) for sign in (True, False))
    return f"higher in {higher} and lower in {lower} of {len(signs)} cells"


def _settings(chosen: Sequence[tuple[float, float, int] | None]) -> str:
    pairs = Counter(f"{each[0]:g}/{each[1]:g}" for each in chosen if each is not None)
    epochs = [each[2] for each in chosen if each is not None]
    counts = ", ".join(f"{pair} x {count}" for pair, count in pairs.most_common())
    return f"{counts}; {min(epochs)}-{max(epochs)} epochs"


def _interval(values: NDArray[np.float64], *, sign: bool = False) -> str:
    mean = f"{values.mean():+.1f}" if sign else f"{values.mean():.1f}"
    return f"{mean} ± {_half(values):.1f}"


def _sign(values: NDArray[np.float64]) -> bool | None:
    """Return whether the mean is above zero, or below, by more than its interval; None where by less."""
    mean, half = float(values.mean()), _half(values)
    return mean > 0 if abs(mean) > half else None


def _half(values: NDArray[np.float64]) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size))


if __name__ == "__main__":
    sys.exit(main())
