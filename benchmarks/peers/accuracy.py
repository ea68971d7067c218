"""Errors of policy values, paired on the same logs: `python -m benchmarks.peers.accuracy --help`."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.peers.logs import LOGGERS, BanditLog, Logger, bandit_from_classes

N_REPLICATIONS = 200
N_FOLDS = 5
N_PEER_FOLDS = 3
"""Folds of obp's regression, as in its own examples."""

OURS, THEIRS = "pointsman", "obp"
SHOWN = (f"{OURS} dr", f"{OURS} sndr", f"{OURS} chosen, unbiased", f"{OURS} chosen, all")
"""Estimators set beside obp's best."""

LAMBDAS = [10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10000.0, math.inf]
"""Candidates of obp's tuned estimators, as in its own examples."""
SUB_GAUSSIAN_LAMBDAS = [0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0]

N_RESAMPLES = 2_000

Errors = dict[str, NDArray[np.float64]]
"""Error of every method in every replication."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Where logs come from.

    Attributes:
        name: What the report calls it.
        draw: Draws the log of a replication.
    """

    name: str
    draw: Callable[[int], BanditLog]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the section of the report and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.accuracy", description=__doc__)
    parser.add_argument("--replications", type=int, default=N_REPLICATIONS, metavar="N", help="logs a world [200]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes [1]")
    args = parser.parse_args(argv)
    print("\n".join(section(measure(n_replications=args.replications, n_processes=args.jobs))))
    return 0


def worlds() -> list[World]:
    """Return obp's synthetic worlds and classification data under three loggers."""
    synthetic = [
        World(name=f"obp synthetic, beta {beta:g}, {n_rounds:,} rounds", draw=_SyntheticDraw(beta, n_rounds))
        for beta in (1.0, -3.0)
        for n_rounds in (1_000, 5_000)
    ]
    classes = [
        World(name=f"{data}, {logger} logger", draw=_ClassDraw(data, logger))
        for data in ("digits", "breast cancer")
        for logger in LOGGERS
    ]
    return [*synthetic, *classes]


def measure(*, n_replications: int, n_processes: int = 1) -> dict[str, Errors]:
    """Return the errors of every method in every world."""
    found: dict[str, Errors] = {}
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        for world in worlds():
            print(f"accuracy: {world.name}", file=sys.stderr, flush=True)
            rows = list(pool.map(_errors, [world] * n_replications, range(n_replications), chunksize=5))
            found[world.name] = {method: np.array([row[method] for row in rows]) for method in rows[0]}
    return found


def section(errors: dict[str, Errors]) -> list[str]:
    """Return the section of the report."""
    names = list(errors)
    methods = list(errors[names[0]])
    n_replications = len(next(iter(errors[names[0]].values())))
    verdicts = []
    for name in names:
        best = {side: _best(errors[name], side) for side in (THEIRS, OURS)}
        ratios = [_ratio(errors[name][method], errors[name][best[THEIRS]]) for method in (best[OURS], *SHOWN)]
        cells = [f"{value:.2f} ({low:.2f} to {high:.2f})" for value, low, high in ratios]
        verdicts.append([name, f"`{best[THEIRS]}`", f"`{best[OURS]}`", *cells])
    least = {name: min(_root_mean_square(each)[0] for each in errors[name].values()) for name in names}
    regret = {
        method: [_root_mean_square(errors[name][method])[0] / least[name] for name in names] for method in methods
    }
    overall = [
        [f"`{method}`", f"{float(np.exp(np.log(regret[method]).mean())):.2f}", f"{max(regret[method]):.2f}"]
        for method in sorted(methods, key=lambda method: float(np.log(regret[method]).mean()))
    ]
    rows = [
        [f"`{method}`", *(f"{100 * value:.2f} ± {100 * half:.2f}" for value, half in found)]
        for method in methods
        for found in [[_root_mean_square(errors[name][method]) for name in names]]
    ]
    return [
        "## Accuracy",
        "",
        f"{n_replications} logs a world, the same for every method. Pointsman cross-fits its default outcome model "
        f"in {N_FOLDS} folds; obp its `RegressionModel` on scikit-learn's logistic regression in {N_PEER_FOLDS}, as in "
        "its examples. Both know the true propensities. Tuned estimators choose their hyper-parameter from the log, "
        "obp's among the candidates of its examples; `chosen` is Pointsman's `least_mse_bound` of its estimators, with "
        "or without those that leave weight out.",
        "",
        "Ratio of mean squared errors, Pointsman's over that of obp's best estimator, which is picked in hindsight for "
        "every world, with 95% paired bootstrap intervals. Below one is better.",
        "",
        *grid(
            ["world", "obp's best", "Pointsman's best", "best", *(f"`{name.split(' ', 1)[1]}`" for name in SHOWN)],
            verdicts,
        ),
        "Nobody knows beforehand which estimator is the best of a world: root mean squared error over that of the best "
        "of all methods in the same world, its geometric mean over worlds and its worst.",
        "",
        *grid(["method", "mean", "worst"], overall),
        "Root mean squared error x 100, with half the width of a 95% interval.",
        "",
        *grid(["method", *names], rows),
    ]


@dataclass(frozen=True)
class _SyntheticDraw:
    """obp's `SyntheticBanditDataset`, another world each time; the target is a softmax with errors of its own."""

    beta: float
    n_rounds: int

    def __call__(self, seed: int) -> BanditLog:
        from obp.dataset import SyntheticBanditDataset, logistic_reward_function

        dataset = SyntheticBanditDataset(
            n_actions=10,
            dim_context=5,
            reward_type="binary",
            reward_function=logistic_reward_function,
            beta=self.beta,
            random_state=seed,
        )
        rng = np.random.default_rng([seed, 1])
        slopes = rng.standard_normal((5, 10))

        def target(context: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
            logits = 4 * expected + 0.5 * context @ slopes
            weight = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(weight / weight.sum(axis=1, keepdims=True))

        feedback = dataset.obtain_batch_bandit_feedback(n_rounds=self.n_rounds)
        population = rng.standard_normal((100_000, 5))  # its contexts are standard normal
        expected = dataset.calc_expected_reward(population)
        return BanditLog(
            context=feedback["context"],
            arm=feedback["action"].astype(np.int64),
            outcome=feedback["reward"].astype(np.float64),
            propensities=feedback["pi_b"][:, :, 0],
            target_probs=target(feedback["context"], feedback["expected_reward"]),
            truth=float((target(population, expected) * expected).sum(axis=1).mean()),
        )


@dataclass(frozen=True)
class _ClassDraw:
    """A table of scikit-learn as bandit feedback."""

    data: str
    logger: Logger

    def __call__(self, seed: int) -> BanditLog:
        from sklearn.datasets import load_breast_cancer, load_digits

        context, label = (load_digits if self.data == "digits" else load_breast_cancer)(return_X_y=True)
        spread = context.std(axis=0)
        return bandit_from_classes(
            context=(context - context.mean(axis=0)) / np.where(spread > 0, spread, 1),
            label=label.astype(np.int64),
            logger=self.logger,
            rng=np.random.default_rng([seed, 2]),
        )


def _errors(world: World, seed: int) -> dict[str, float]:
    from threadpoolctl import threadpool_limits

    log = world.draw(seed)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = {
            **{f"{OURS} {name}": value for name, value in _our_values(log, seed).items()},
            **{f"{THEIRS} {name}": value for name, value in _their_values(log, seed).items()},
        }
    return {method: value - log.truth for method, value in values.items()}


def _our_values(log: BanditLog, seed: int) -> dict[str, float]:
    from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
    from pointsman.ope.estimators import dm, dr, ips, sndr, snips
    from pointsman.ope.selection import least_mse_bound, tuned
    from pointsman.pipeline.learning import NuisanceModels

    n_rounds, n_arms = log.target_probs.shape
    predicted = cross_fit_outcomes(
        NuisanceModels().outcome_or_default,
        context=log.context,
        outcome=log.outcome,
        arm=log.arm,
        n_arms=n_arms,
        fold=assign_folds(n_rounds, n_folds=N_FOLDS, seed=seed),
    )
    weighting: dict[str, Any] = {
        "arm": log.arm,
        "outcome": log.outcome,
        "propensity": log.propensity,
        "target_probs": log.target_probs,
    }
    inputs = {**weighting, "predicted": predicted}
    estimates = {
        "dm": dm(predicted=predicted, target_probs=log.target_probs),
        "ips": ips(**weighting),
        "snips": snips(**weighting),
        "dr": dr(**inputs),
        "sndr": sndr(**inputs),
    }
    for rule in ("least_mse_bound", "slope"):
        estimates[f"clipped_ips {rule}"] = tuned("clipped_ips", **weighting, rule=rule)
        estimates[f"switch_dr {rule}"] = tuned("switch_dr", **inputs, rule=rule)
        estimates[f"dros {rule}"] = tuned("dros", **inputs, rule=rule)
    unbiased = [estimates[name] for name in ("snips", "sndr", "dr")]
    shrunk = [estimates[f"{name} least_mse_bound"] for name in ("switch_dr", "dros")]
    estimates |= {"chosen, unbiased": least_mse_bound(unbiased), "chosen, all": least_mse_bound([*unbiased, *shrunk])}
    return {name: estimate.value for name, estimate in estimates.items()}


def _their_values(log: BanditLog, seed: int) -> dict[str, float]:
    import obp.ope as peer
    from sklearn.linear_model import LogisticRegression

    n_arms = log.target_probs.shape[1]
    predicted = peer.RegressionModel(
        n_actions=n_arms, base_model=LogisticRegression(max_iter=1000, random_state=seed)
    ).fit_predict(
        context=log.context,
        action=log.arm,
        reward=log.outcome.astype(np.int64),
        pscore=log.propensity,
        n_folds=N_PEER_FOLDS,
        random_state=seed,
    )
    estimators: dict[str, Any] = {
        "DirectMethod": peer.DirectMethod(),
        "IPW": peer.InverseProbabilityWeighting(),
        "SNIPW": peer.SelfNormalizedInverseProbabilityWeighting(),
        "DoublyRobust": peer.DoublyRobust(),
        "SNDR": peer.SelfNormalizedDoublyRobust(),
    }
    for method in ("slope", "mse"):
        estimators |= {
            f"IPWTuning {method}": peer.InverseProbabilityWeightingTuning(lambdas=[*LAMBDAS], tuning_method=method),
            f"DRTuning {method}": peer.DoublyRobustTuning(lambdas=[*LAMBDAS], tuning_method=method),
            f"SwitchDRTuning {method}": peer.SwitchDoublyRobustTuning(lambdas=[*LAMBDAS], tuning_method=method),
            f"DRosTuning {method}": peer.DoublyRobustWithShrinkageTuning(lambdas=[*LAMBDAS], tuning_method=method),
            f"SubGaussianDRTuning {method}": peer.SubGaussianDoublyRobustTuning(
                lambdas=[*SUB_GAUSSIAN_LAMBDAS], tuning_method=method
            ),
        }
    return {
        name: float(
            estimator.estimate_policy_value(
                reward=log.outcome,
                action=log.arm,
                pscore=log.propensity,
                action_dist=log.target_probs[:, :, None],
                estimated_rewards_by_reg_model=predicted,
                position=np.zeros(log.arm.size, dtype=np.int64),
            )
        )
        for name, estimator in estimators.items()
    }


def _best(errors: Errors, side: str) -> str:
    return min((name for name in errors if name.startswith(side)), key=lambda name: float((errors[name] ** 2).mean()))


def _root_mean_square(errors: NDArray[np.float64]) -> tuple[float, float]:
    """Return the root mean square with half its 95% interval, by the delta method."""
    squares = errors**2
    value = math.sqrt(float(squares.mean()))
    if value == 0 or errors.size < 2:
        return value, 0.0
    return value, 1.96 * float(squares.std(ddof=1)) / math.sqrt(errors.size) / (2 * value)


def _ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the ratio of mean squared errors with its 95% paired bootstrap interval."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, ours.size, (N_RESAMPLES, ours.size))
    ratios = (ours**2)[rows].mean(axis=1) / (theirs**2)[rows].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float((ours**2).mean() / (theirs**2).mean()), float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
