"""On real judges, are labels brought to gold units nearer to a reference than the judges', and than simpler ones?"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.real_judges import (
    JUDGES,
    LLMBAR_MODELS,
    PANDALM_JUDGES,
    VANILLA,
    llmbar,
    llmbar_judges,
    pandalm,
    paretobandit,
    unpaired,
)
from benchmarks.studies.table import MonteCarlo, Options, Report, command, map_logs
from pointsman.errors import StatisticalWarning
from pointsman.fusion import CORRECTIONS, JudgedRounds, make_correction

DESIGNS = ("paired", "unpaired")
PROMISED_AT, DEFAULT = 100, "hierarchical"
BEATEN = ("gold-only", "judge-only", "pooled", "shift")
"""Methods that the default is promised to beat."""
N_DRAWS = {30: 20, 100: 100, 300: 20, 1_000: 20}
SIZE = 0.05
"""Of the test: the rate of false discoveries in one cell, over methods."""
Z = 1.959964


class Job(NamedTuple):
    """One draw of rounds with a reference label."""

    setting: str
    design: str
    n_gold: int
    seed: int


class Found(NamedTuple):
    """Mean squared error of each method against the reference, on rounds without a reference label."""

    job: Job
    error: Mapping[str, float]


class Difference(NamedTuple):
    """Squared error of the default minus a method's, paired over draws."""

    mean: MonteCarlo
    p_value: float
    """One-sided, of the default being no better; Holm's over methods."""


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return errors of every method, setting by setting."""
    chosen = [settings()[0], settings()[-1]] if options.quick else settings()
    jobs = [
        Job(setting, design, n_gold, seed)
        for setting in chosen
        for design in DESIGNS
        for n_gold in (N_DRAWS if setting in _PARETOBANDIT and not options.quick else (PROMISED_AT,))
        for seed in range(3 if options.quick else N_DRAWS[n_gold])
    ]
    return report(map_logs(run, jobs, n_processes=options.n_processes, label="judges"))


def settings() -> list[str]:
    """Return every table, reference and choice of judges."""
    return [*_PARETOBANDIT, *_LLMBAR, *_PANDALM]


_PARETOBANDIT = {f"paretobandit, reference {judge}": judge for judge in JUDGES}
_LLMBAR = {
    **{f"LLMBar, {model}, every strategy": model for model in LLMBAR_MODELS},
    **{f"LLMBar, {model}, {VANILLA}": f"{model}/{VANILLA}" for model in LLMBAR_MODELS},
    f"LLMBar, six models, {VANILLA}": "",
}
_PANDALM = {
    "PandaLM, GPT-3.5 and PandaLM-7B": PANDALM_JUDGES,
    "PandaLM, GPT-3.5": PANDALM_JUDGES[:1],
    "PandaLM, PandaLM-7B": PANDALM_JUDGES[1:],
}


@lru_cache(maxsize=4)
def all_labelled(setting: str) -> JudgedRounds:
    """Return a setting's rounds with all labels of judges and reference."""
    if setting in _PARETOBANDIT:
        return paretobandit(_PARETOBANDIT[setting])
    if setting in _PANDALM:
        return pandalm(_PANDALM[setting])
    named = _LLMBAR[setting]
    if not named:
        return llmbar([f"{model}/{VANILLA}" for model in LLMBAR_MODELS])
    return llmbar([named] if "/" in named else llmbar_judges(named))


def run(job: Job) -> Found:
    """Draw the rounds with a reference label, correct all others by every method, and compare with the reference."""
    whole = all_labelled(job.setting)
    rng = np.random.default_rng([job.seed, job.n_gold, 31])
    has_gold = np.zeros(whole.n_rounds, dtype=np.bool_)
    has_gold[rng.choice(whole.n_rounds, job.n_gold, replace=False)] = True
    # Where judges scored all rounds, what is expected of them is the same in every draw, and is found once.
    rounds = whole.without_gold(~has_gold) if job.design == "paired" else unpaired(whole, has_gold)
    error: dict[str, float] = {}
    for name in CORRECTIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticalWarning)
            corrected = make_correction(name).fit(rounds).predict(rounds)
        error[name] = float(((corrected - whole.gold)[~has_gold] ** 2).mean())
    return Found(job, error)


def differences(found: Sequence[Found]) -> dict[str, Difference]:
    """Return the default minus every other method over the draws of one cell."""
    from scipy.stats import ttest_rel

    error = {name: np.array([each.error[name] for each in found]) for name in CORRECTIONS}
    others = [name for name in CORRECTIONS if name != DEFAULT]
    p_values = holm(
        np.array([ttest_rel(error[DEFAULT], error[name], alternative="less").pvalue for name in others], dtype=float)
    )
    return {
        name: Difference(MonteCarlo.of(error[DEFAULT] - error[name]), float(p))
        for name, p in zip(others, p_values, strict=True)
    }


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values that hold for all tests at once.

    References:
        Holm (1979), Scandinavian Journal of Statistics 6(2).
    """
    order = np.argsort(p_values)
    stepped = np.maximum.accumulate(p_values[order] * np.arange(p_values.size, 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def report(found: Sequence[Found]) -> Report:
    """Return the report of what was found."""
    cells: dict[tuple[str, str, int], list[Found]] = {}
    for each in found:
        cells.setdefault(each.job[:3], []).append(each)
    against = {cell: differences(draws) for cell, draws in cells.items()}
    compared = {
        (*cell, name): each[name] for cell, each in against.items() if cell[2] == PROMISED_AT for name in BEATEN
    }
    short = [key for key, each in compared.items() if each.p_value >= SIZE]
    return Report(
        name="judges",
        asked=f"With {PROMISED_AT} reference labels, are judges' labels corrected by `{DEFAULT}` nearer to the "
        "reference on the other rounds than gold-only, judge-only, pooled and constant-shift labels?",
        found="Significantly so, by a paired test over draws, Holm over methods, in "
        + " and ".join(_counted(compared, short, design=design) for design in DESIGNS)
        + ".",
        holds=not any(key[1] == "paired" for key in short),
        body=[
            "A round is a cell of `paretobandit` (2,000 prompts x 3 models that three LLM judges scored; each judge in "
            "turn is the reference, the other two are the judges), a pair of LLMBar (419; one arm; a label is the "
            "preference for response 1, the mean of both orders; gold as published) or a pair of PandaLM (999; the two "
            "models are the arm; gold is the majority of three people). Reference labels are of rounds drawn at "
            "random. `paired`: judges scored all rounds; `unpaired`: rounds with a reference label have no other. "
            f"Features are the default encoder's, of the prompt alone. {N_DRAWS[PROMISED_AT]} draws at {PROMISED_AT} "
            f"reference labels, {N_DRAWS[30]} elsewhere. Draws share the table, so that intervals and tests are about "
            "which rounds were labelled, not about other prompts. The verdict is on the paired design: where no round "
            "has both kinds of label, nothing tells whether a judge is right or guesses, so that it is believed but "
            "for its constants; of LLMBar's weak judges, wrong more often than not, that is worse than a constant.",
            "",
            "Mean squared error against the reference on rounds without a reference label, x 10,000:",
            "",
            *grid(
                ["rounds and judges", "design", "labels", *CORRECTIONS],
                [
                    [
                        cell[0],
                        cell[1],
                        f"{cell[2]:,}",
                        *_errors(draws),
                    ]
                    for cell, draws in cells.items()
                ],
            ),
            f"`{DEFAULT}` minus each other method at {PROMISED_AT} reference labels, x 10,000, with its 95% Monte "
            f"Carlo interval; * where it is nearer with p < {SIZE:g}, one-sided, Holm over methods; + where it is "
            "further and the interval excludes zero:",
            "",
            *grid(
                ["rounds and judges", "design", *(name for name in CORRECTIONS if name != DEFAULT)],
                [
                    [cell[0], cell[1], *(_difference(each) for each in by_method.values())]
                    for cell, by_method in against.items()
                    if cell[2] == PROMISED_AT
                ],
            ),
            *(
                [
                    "Comparisons with the four simple methods in which it is not nearer: "
                    + "; ".join(
                        f"{key[0]}, {key[1]}, {key[3]} ({_difference(compared[key])}, p {compared[key].p_value:.2g})"
                        for key in short
                    )
                    + "."
                ]
                if short
                else []
            ),
        ],
    )


_Key = tuple[str, str, int, str]


def _counted(compared: Mapping[_Key, Difference], short: Sequence[_Key], *, design: str) -> str:
    """Return in how many comparisons of one design the default is nearer, table by table."""
    parts = []
    for table in ("paretobandit", "LLMBar", "PandaLM"):
        mine = [key for key in compared if key[1] == design and key[0].startswith(table)]
        if mine:
            parts.append(f"{table} {len(mine) - sum(key in short for key in mine)} of {len(mine)}")
    return f"{', '.join(parts)} ({design})"


def _errors(draws: Sequence[Found]) -> list[str]:
    mean = {name: 1e4 * float(np.mean([each.error[name] for each in draws])) for name in CORRECTIONS}
    least = min(mean.values())
    return [f"**{value:.1f}**" if value == least else f"{value:.1f}" for value in mean.values()]


def _difference(each: Difference) -> str:
    mark = "*" if each.p_value < SIZE else "+" if each.mean.value > Z * each.mean.error else ""
    return f"{1e4 * each.mean.value:+.1f} ± {1e4 * Z * each.mean.error:.1f}{mark}"


if __name__ == "__main__":
    sys.exit(main())
