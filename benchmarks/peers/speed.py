"""CPU seconds and memory of a whole evaluation, by Pointsman and by its peers: `python -m benchmarks.peers.speed -h`.

The task: nuisances, scores, and twenty policies with one joint 95% interval, on the same log in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.peers.logs import BanditLog, large_log, policies
from benchmarks.peers.processes import cpu_seconds, medians, peak_mib
from pointsman.types import PerArm

N_ROUNDS = (20_000, 100_000)
N_FEATURES, N_ARMS, N_POLICIES = 384, 11, 20
N_FOLDS = 5
N_DRAWS = 1_000
"""Multiplier or bootstrap draws of an interval."""
LEVEL = 0.95
N_RUNS = 3

Propensities = Literal["logged", "estimated"]
Interval = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Lower and upper bounds of the policies' values."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the section of the report and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.speed", description=__doc__)
    add = parser.add_argument
    add("--rounds", nargs="+", type=int, default=list(N_ROUNDS), metavar="N", help="sizes of the log")
    add("--runs", type=int, default=N_RUNS, metavar="N", help="runs of which the median counts [3]")
    add("--only", nargs="+", choices=sorted(PIPELINES), default=sorted(PIPELINES), help="pipelines")
    add("--propensities", nargs="+", choices=("logged", "estimated"), default=["logged", "estimated"])
    add("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        json.dump(_measure(args.measure, n_rounds=args.rounds[0], propensities=args.propensities[0]), sys.stdout)
        return 0
    found = measure(sizes=args.rounds, n_runs=args.runs, pipelines=args.only, propensities=args.propensities)
    print("\n".join(section(found)))
    return 0


def measure(
    *,
    sizes: Sequence[int] = N_ROUNDS,
    n_runs: int = N_RUNS,
    pipelines: Sequence[str] | None = None,
    propensities: Sequence[str] = ("logged", "estimated"),
) -> list[dict[str, Any]]:
    """Return, for every size, kind of propensities and pipeline, the median of its runs."""
    found = []
    for n_rounds in sizes:
        for kind in propensities:
            for name in pipelines or list(PIPELINES):
                if (name, kind) in CANNOT:
                    continue
                print(f"speed: {name}, {n_rounds:,} rounds, {kind} propensities", file=sys.stderr, flush=True)
                options = ["--measure", name, "--rounds", str(n_rounds), "--propensities", kind]
                median = medians("benchmarks.peers.speed", options, n_runs=n_runs)
                found.append({"pipeline": name, "n_rounds": n_rounds, "propensities": kind, "n_runs": n_runs, **median})
    return found


def section(found: list[dict[str, Any]]) -> list[str]:
    """Return the section of the report."""
    lines = [
        "## Speed",
        "",
        f"Nuisances cross-fitted in {N_FOLDS} folds, scores, and {N_POLICIES} policies with one joint {LEVEL:.0%} "
        f"interval of {N_DRAWS:,} draws (Pointsman's need no pass over the rounds and are 20,000), on a synthetic log "
        f"of {N_FEATURES} features and {N_ARMS} arms; runs in fresh processes with one thread, of which the median "
        f"counts: {found[0]['n_runs']}. CPU seconds of the task alone, without drawing the log or importing. Memory is "
        "the process's peak, and what of it the log and the imported libraries took before.",
        "",
        "`numpy` is scikit-learn's `Ridge` per arm and fold, `LogisticRegression` where propensities are estimated, "
        "and a multiplier bootstrap by hand. obp's intervals are a percentile bootstrap a policy, at Bonferroni's "
        "level, for they are not joint. econml cannot take logged propensities; obp's "
        "are not calibrated, its calibration not running with a current scikit-learn. Peers' ridges have penalty 1, "
        "Pointsman chooses its own; econml and obp fit one slope for all arms, as they do by default.",
        "",
    ]
    for kind in ("logged", "estimated"):
        for n_rounds in sorted({each["n_rounds"] for each in found}):
            cell = [each for each in found if each["n_rounds"] == n_rounds and each["propensities"] == kind]
            if not cell:
                continue
            ours = next((each["cpu_seconds"] for each in cell if each["pipeline"] == "pointsman"), float("nan"))
            rows = [
                [
                    each["pipeline"],
                    f"{each['cpu_seconds']:.2f}",
                    f"{each['cpu_seconds'] / ours:.1f}",
                    f"{each['peak_mib']:,.0f}",
                    f"{each['before_mib']:,.0f}",
                    f"{each['half_width']:.4f}",
                ]
                for each in sorted(cell, key=lambda each: float(each["cpu_seconds"]))
            ]
            header = ["pipeline", "CPU seconds", "times Pointsman's", "peak MiB", "MiB before", "mean half-width"]
            lines += [f"### {n_rounds:,} rounds, {kind} propensities", "", *grid(header, rows)]
    return lines


def _measure(name: str, *, n_rounds: int, propensities: Propensities) -> dict[str, float]:
    log = large_log(n_rounds, n_features=N_FEATURES, n_arms=N_ARMS)
    targets = policies(log.context, n_arms=N_ARMS, n_policies=N_POLICIES)
    run = PIPELINES[name]()
    before, began = peak_mib(), cpu_seconds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, high = run(log, targets, propensities)
    seconds = cpu_seconds() - began
    assert (low < high).all(), f"{name} gave no intervals"
    return {
        "cpu_seconds": seconds,
        "before_mib": before,
        "peak_mib": peak_mib(),
        "half_width": float((high - low).mean()) / 2,
    }


Pipeline = Callable[[BanditLog, list[PerArm], Propensities], Interval]


def _pointsman() -> Pipeline:
    import sklearn.linear_model  # noqa: F401 - imported by the others before they are timed, too

    from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
    from pointsman.nuisance.propensity import estimate_propensities
    from pointsman.nuisance.ridge import PerArmRidge
    from pointsman.ope.estimators import dr
    from pointsman.ope.intervals import joint_intervals

    def run(log: BanditLog, targets: list[PerArm], propensities: Propensities) -> Interval:
        fold = assign_folds(log.arm.size, n_folds=N_FOLDS, seed=0)
        propensity = log.propensity
        if propensities == "estimated":
            propensity = estimate_propensities(
                context=log.context,
                arm=log.arm,
                n_arms=N_ARMS,
                eligible=np.ones(log.propensities.shape, dtype=np.bool_),
                fold=fold,
            ).of_logged_arm
        predicted = cross_fit_outcomes(
            PerArmRidge(), context=log.context, outcome=log.outcome, arm=log.arm, n_arms=N_ARMS, fold=fold
        )
        estimates = [
            dr(arm=log.arm, outcome=log.outcome, propensity=propensity, predicted=predicted, target_probs=target_probs)
            for target_probs in targets
        ]
        values = [estimate.value for estimate in estimates]
        band = joint_intervals(values, [estimate.influence for estimate in estimates], level=LEVEL)
        return band.low, band.high

    return run


def _numpy() -> Pipeline:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold

    def run(log: BanditLog, targets: list[PerArm], propensities: Propensities) -> Interval:
        predicted = np.empty(log.propensities.shape)
        propensity = log.propensity.copy()
        for train, test in KFold(N_FOLDS, shuffle=True, random_state=0).split(log.context):
            for t in range(N_ARMS):
                rows = train[log.arm[train] == t]
                predicted[test, t] = Ridge().fit(log.context[rows], log.outcome[rows]).predict(log.context[test])
            if propensities == "estimated":
                logit = LogisticRegression(max_iter=200).fit(log.context[train], log.arm[train])
                propensity[test] = logit.predict_proba(log.context[test])[np.arange(test.size), log.arm[test]]
        scores = predicted.copy()
        each = np.arange(log.arm.size)
        scores[each, log.arm] += (log.outcome - predicted[each, log.arm]) / propensity
        return _from_scores(scores, targets)

    return run


def _obp() -> Pipeline:
    from obp.ope import DoublyRobust, PropensityScoreEstimator, RegressionModel
    from sklearn.linear_model import LogisticRegression, Ridge

    def run(log: BanditLog, targets: list[PerArm], propensities: Propensities) -> Interval:
        propensity = log.propensity
        if propensities == "estimated":
            # Its calibration calls scikit-learn by a name that is gone.
            model = PropensityScoreEstimator(
                base_model=LogisticRegression(max_iter=200), n_actions=N_ARMS, calibration_cv=1
            )
            propensity = model.fit_predict(action=log.arm, context=log.context, n_folds=N_FOLDS, random_state=0)
        predicted = RegressionModel(n_actions=N_ARMS, base_model=Ridge()).fit_predict(
            context=log.context,
            action=log.arm,
            reward=log.outcome,
            pscore=propensity,
            n_folds=N_FOLDS,
            random_state=0,
        )
        bounds = []
        for target_probs in targets:
            interval = DoublyRobust().estimate_interval(
                reward=log.outcome,
                action=log.arm,
                pscore=propensity,
                action_dist=target_probs[:, :, None],
                estimated_rewards_by_reg_model=predicted,
                position=np.zeros(log.arm.size, dtype=np.int64),
                alpha=(1 - LEVEL) / len(targets),
                n_bootstrap_samples=N_DRAWS,
                random_state=0,
            )
            bounds.append([value for key, value in interval.items() if key != "mean"])
        low, high = np.sort(np.transpose(bounds), axis=0)
        return low, high

    return run


def _econml() -> Pipeline:
    from econml.dr import DRLearner
    from sklearn.linear_model import LogisticRegression, Ridge

    def run(log: BanditLog, targets: list[PerArm], propensities: Propensities) -> Interval:
        del propensities
        learner = DRLearner(
            model_propensity=LogisticRegression(max_iter=200), model_regression=Ridge(), cv=N_FOLDS, random_state=0
        )
        learner.fit(log.outcome, log.arm, W=log.context, cache_values=True)
        return _from_scores(np.reshape(learner._cached_values.nuisances[0], log.propensities.shape), targets)

    return run


def _doubleml() -> Pipeline:
    import doubleml
    from sklearn.linear_model import LogisticRegression, Ridge

    def run(log: BanditLog, targets: list[PerArm], propensities: Propensities) -> Interval:
        np.random.seed(0)  # noqa: NPY002 - it draws its folds from the global generator
        levels = [float(t) for t in range(N_ARMS)]
        apos = doubleml.DoubleMLAPOS(
            doubleml.DoubleMLData.from_arrays(log.context, log.outcome, log.arm.astype(float)),
            ml_g=Ridge(),
            ml_m=LogisticRegression(max_iter=200),
            treatment_levels=levels,
            n_folds=N_FOLDS,
        )
        known = {level: {"ml_m": log.propensities[:, t : t + 1]} for t, level in enumerate(levels)}
        apos.fit(external_predictions=known if propensities == "logged" else None)
        scores = np.column_stack([np.ravel(model.psi_elements["psi_b"]) for model in apos.modellist])
        return _from_scores(scores, targets)

    return run


def _from_scores(scores: PerArm, targets: list[PerArm]) -> Interval:
    """Return joint intervals of policies by a multiplier bootstrap, as one writes it by hand."""
    n_rounds = len(scores)
    values = np.column_stack([(target_probs * scores).sum(axis=1) for target_probs in targets])
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / np.sqrt(n_rounds)
    centred = (values - mean) / (error * n_rounds)
    rng = np.random.default_rng(0)
    largest = np.empty(N_DRAWS)
    for start in range(0, N_DRAWS, 100):
        drawn = rng.standard_normal((100, n_rounds)) @ centred
        largest[start : start + 100] = abs(drawn).max(axis=1)
    width = np.quantile(largest, LEVEL) * error
    return mean - width, mean + width


PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "pointsman": _pointsman,
    "numpy": _numpy,
    "obp": _obp,
    "econml": _econml,
    "doubleml": _doubleml,
}
CANNOT = {("econml", "logged")}


if __name__ == "__main__":
    sys.exit(main())
