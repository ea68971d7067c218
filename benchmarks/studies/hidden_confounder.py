"""A log of real outcomes whose confounder is hidden: what the estimate says, and what the sensitivity report says."""

from __future__ import annotations

import sys
import warnings
from typing import NamedTuple

import numpy as np

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command
from benchmarks.tables import RESULTS, SHARED_DATA, EncodedTable, encoded_table, table_specs
from pointsman.errors import StatisticalWarning
from pointsman.logs import simulate
from pointsman.logs.simulate import logging_probabilities
from pointsman.ope import sharp_bounds
from pointsman.pipeline.evaluation.compare import difference
from pointsman.pipeline.evaluation.evidence import Evidence
from pointsman.pipeline.evaluation.targets import ALWAYS, fixed_decisions
from pointsman.pipeline.evaluation.trust import sensitivity
from pointsman.pipeline.learning import NuisanceModels
from pointsman.pipeline.rounds import prompt_groups
from pointsman.scores import make_scores
from pointsman.trade_off import TradeOff
from pointsman.types import PerArm

TABLE, SHARE, FLOOR = "routerbench", 0.6, 0.05
DEAR, CHEAP = "claude-v2", "mistralai/mistral-7b-chat"
"""The dear model seems the better one in the log, as it gets the prompts that any model answers well."""
STRENGTHS = (0.5, 1.0, 1.5)
N_LOGS = 40
LEVEL = 0.95


class Found(NamedTuple):
    """What one log says."""

    truth: float
    value: float
    low: float
    high: float
    flip_gamma: float
    true_gamma: float
    usual_gamma: float
    """What the odds ratio stays below for 95% of prompts."""
    bounds: tuple[float, float]
    """At the true Gamma, without sampling noise."""
    usual_bounds: tuple[float, float]
    """At the usual one."""


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return what logs of each strength say."""
    encoded = encoded_table(table_specs([TABLE])[0], folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite")
    n_logs, strengths = (2, STRENGTHS[1:2]) if options.quick else (N_LOGS, STRENGTHS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        return _report({each: [_of_log(encoded, each, seed) for seed in range(n_logs)] for each in strengths})


def _of_log(encoded: EncodedTable, strength: float, seed: int) -> Found:
    table, features = encoded.table, encoded.features
    drawn = simulate(table, logger="hidden", floor=FLOOR, share=SHARE, strength=strength, seed=seed, features=features)
    log, context = drawn.log, features[drawn.train_index]
    scores, estimate = make_scores(
        context=context,
        arm=log.arm,
        quality=log.quality,
        cost_usd=log.cost_usd,
        logged_propensity=log.propensity,
        eligible=log.eligible,
        outcome_model=NuisanceModels().outcome_or_default,
        propensity="estimated",
        seed=seed,
        groups=prompt_groups(log),
    )
    names = [f"{ALWAYS}{model}" for model in (DEAR, CHEAP)]
    at = TradeOff(0.0)
    evidence = Evidence(
        log=log,
        context=context,
        scores=scores,
        propensity_estimate=estimate,
        policies={name: fixed_decisions(name, log) for name in names},
        trade_offs=[at],
        level=LEVEL,
    )
    change, interval = difference(evidence, names[0], names[1], at, "utility")
    report = sensitivity(evidence, policy=names[0], against=names[1], trade_off=at)
    ratio = _odds_ratio(encoded, strength, seed)
    true_gamma, usual_gamma = float(ratio.max()), float(np.quantile(ratio.max(axis=1), 0.95))
    bounds, usual_bounds = (
        sharp_bounds(
            arm=scores.arm,
            outcome=scores.quality,
            propensity=scores.propensity,
            predicted=scores.predicted_quality,
            fold=scores.fold,
            target_probs=evidence.target_probs(names[0], at),
            against_probs=evidence.target_probs(names[1], at),
            gamma=gamma,
            outcome_range=(0.0, 1.0),
        )
        for gamma in (true_gamma, usual_gamma)
    )
    dear, cheap = (table.quality[:, table.arms.index(model)].mean() for model in (DEAR, CHEAP))
    return Found(
        truth=float(dear - cheap),
        value=change.value,
        low=interval["ci_low"],
        high=interval["ci_high"],
        flip_gamma=report["flip_gamma"],
        true_gamma=true_gamma,
        usual_gamma=usual_gamma,
        bounds=(bounds.low.value, bounds.high.value),
        usual_bounds=(usual_bounds.low.value, usual_bounds.high.value),
    )


def _odds_ratio(encoded: EncodedTable, strength: float, seed: int) -> PerArm:
    """Return the odds ratio, one or more, of the two models' true propensities and those given the features.

    The simulator's hidden signal goes with no feature, so that the propensity given the features is its mean over
    the table.
    """
    probabilities = logging_probabilities(
        encoded.table, logger="hidden", floor=FLOOR, strength=strength, seed=seed, features=encoded.features
    )[:, encoded.table.arms.indices([DEAR, CHEAP])]
    odds, odds_given = (p / (1 - p) for p in (probabilities, probabilities.mean(axis=0)))
    return np.asarray(np.exp(abs(np.log(odds / odds_given))))


def _report(found: dict[float, list[Found]]) -> Report:
    rows, covered, flagged, missed = [], [], [], []
    for strength, logs in found.items():
        misses = [not each.low <= each.truth <= each.high for each in logs]
        wrong = [each.low > 0 > each.truth for each in logs]
        in_time = [each.flip_gamma <= each.true_gamma for each in logs]
        inside = [each.bounds[0] <= each.truth <= each.bounds[1] for each in logs]
        usually = [each.usual_bounds[0] <= each.truth <= each.usual_bounds[1] for each in logs]
        covered += inside
        flagged += in_time
        missed.append(float(np.mean(misses)))
        gains = [each for each in logs if each.low > 0]
        rows.append(
            [
                f"{strength:g}",
                f"{np.mean([each.true_gamma for each in logs]):.1f}",
                f"{100 * logs[0].truth:+.1f}",
                f"{100 * np.mean([each.value for each in logs]):+.1f}",
                f"{100 * np.mean([each.high - each.low for each in logs]):.1f}",
                f"{np.mean(misses):.0%}",
                f"{np.mean(wrong):.0%}",
                f"{np.median([each.flip_gamma for each in gains]):.2f}" if gains else "-",
                f"{max(each.flip_gamma for each in gains):.2f}" if gains else "-",
                f"{np.mean(in_time):.0%}",
                " to ".join(f"{100 * np.mean([each.bounds[j] for each in logs]):+.0f}" for j in (0, 1)),
                f"{np.mean(inside):.0%}",
                f"{np.mean([each.usual_gamma for each in logs]):.1f}",
                " to ".join(f"{100 * np.mean([each.usual_bounds[j] for each in logs]):+.0f}" for j in (0, 1)),
                f"{np.mean(usually):.0%}",
            ]
        )
    n_logs = len(next(iter(found.values())))
    return Report(
        name="hidden_confounder",
        asked="On a log whose confounder is hidden, does the estimate miss, does the sensitivity report say from which "
        "Gamma on the conclusion does not hold, and do its bounds at the true Gamma contain the truth?",
        found=f"The interval misses in {min(missed):.0%} to {max(missed):.0%} of {n_logs} logs a strength; the Gamma "
        f"from which on the conclusion is open is below the true one in {np.mean(flagged):.0%}, and the bounds at the "
        f"true Gamma contain the truth in {np.mean(covered):.0%}.",
        holds=bool(np.mean(covered) >= LEVEL and np.mean(flagged) >= LEVEL and max(missed) > 0.5),
        body=[
            f"`simulate --logger hidden` on RouterBench (5-shot, {SHARE:.0%} of 3,150 prompts a log, floor {FLOOR}): "
            "dear models get the prompts that models answer well, by a signal that no feature shows; propensities "
            f"are estimated from the features. Always {DEAR} against always {CHEAP}, in quality, x 100. The true "
            "Gamma is the largest odds ratio, over all prompts and both models, between the simulator's propensity "
            "and that given the features, in which the hidden signal does not show. *Wrong*: the interval claims a "
            "gain where there is a loss. The flip is that of the report (`sharp_flip_gamma` with sampling noise), 1 "
            "where nothing was claimed; median and largest are over logs that claim a gain. Bounds are "
            "`sharp_bounds`, without sampling noise, at the true Gamma, which a few of the prompts set, and at what "
            "the odds ratio stays below for 95% of them.",
            "",
            *grid(
                [
                    "strength",
                    "true Gamma",
                    "truth",
                    "estimate",
                    "width",
                    "misses",
                    "wrong",
                    "median flip",
                    "largest flip",
                    "flip below true",
                    "bounds",
                    "contain",
                    "95% Gamma",
                    "bounds there",
                    "contain",
                ],
                rows,
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
