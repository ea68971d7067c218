"""Do the identities between estimators hold exactly, up to rounding, on random logs?"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command
from benchmarks.studies.worlds import draw_arms, stretch
from pointsman.ope.estimate import Estimate, merge
from pointsman.ope.estimators import clipped_ips, dm, dr, dros, importance_weights, ips, sndr, snips, switch_dr
from pointsman.ope.intervals import joint_intervals
from pointsman.scores import pseudo_outcomes
from pointsman.types import ArmIndex, PerArm, PerRound

N_LOGS = 1_000
ALLOWED = 1e-14
"""Times the scale of the log: 45 units in the last place, for sums of at most 2,000 rounded terms, added pairwise."""


class RandomLog(NamedTuple):
    """A log of no particular world: any numbers will do for an identity."""

    arm: ArmIndex
    outcome: PerRound
    propensities: PerArm
    predicted: PerArm
    target_probs: PerArm
    other_probs: PerArm

    @property
    def propensity(self) -> PerRound:
        """Probability of the logged arm."""
        return np.asarray(self.propensities[np.arange(self.arm.size), self.arm])

    @property
    def scale(self) -> float:
        """About the largest term a round has in an estimate."""
        weight = importance_weights(arm=self.arm, propensity=self.propensity, target_probs=self.target_probs)
        return float((1 + weight.max()) * max(abs(self.outcome).max(), abs(self.predicted).max()))


class Deviation(NamedTuple):
    """How far two sides of an identity are apart on one log, in units of its scale."""

    identity: str
    size: float


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return the largest deviation of every identity over random logs."""
    n_logs = 50 if options.quick else N_LOGS
    largest: dict[str, float] = {}
    for seed in range(n_logs):
        log, rng = random_log(seed), np.random.default_rng([seed, 1])
        for identity, size in deviations(log, rng=rng):
            # NaN is larger than anything.
            largest[identity] = max(largest.get(identity, 0.0), math.inf if math.isnan(size) else size)
    worst = max(largest, key=lambda name: largest[name])
    return Report(
        name="identities",
        asked="Do the identities between estimators hold exactly, up to rounding?",
        found=f"Over {n_logs:,} random logs the largest deviation of {len(largest)} identities is {largest[worst]:.1e} "
        f"of the log's scale (*{worst}*); {ALLOWED:.0e} is allowed.",
        holds=largest[worst] <= ALLOWED,
        body=[
            "Logs of 2 to 2,000 rounds, 2 to 12 arms, outcomes of either sign between 1e-3 and 1e4 in size, "
            "propensities down to 1e-4. Values, influences and standard errors are compared. A deviation is divided by "
            "the log's scale: one plus the largest weight, times the largest outcome or prediction.",
            "",
            *grid(["identity", "largest deviation"], [[name, f"{size:.1e}"] for name, size in largest.items()]),
        ],
    )


def random_log(seed: int) -> RandomLog:
    """Return a log of random size and scale."""
    rng = np.random.default_rng(seed)
    n_rounds = int(2 ** rng.uniform(1, 11))
    n_arms = int(rng.integers(2, 13))
    unit = 10 ** rng.uniform(-3, 4)
    sharpness = 10 ** rng.uniform(-0.5, 0.5)
    propensities = np.maximum(rng.dirichlet(np.full(n_arms, sharpness), n_rounds), 1e-4)
    propensities /= propensities.sum(axis=1, keepdims=True)
    return RandomLog(
        arm=draw_arms(propensities, rng=rng),
        outcome=unit * rng.normal(size=n_rounds),
        propensities=propensities,
        predicted=unit * rng.normal(size=(n_rounds, n_arms)),
        target_probs=rng.dirichlet(np.full(n_arms, 1.0), n_rounds),
        other_probs=rng.dirichlet(np.full(n_arms, 0.3), n_rounds),
    )


def deviations(log: RandomLog, *, rng: np.random.Generator) -> Iterator[Deviation]:
    """Yield every identity with its deviation on a log."""
    scale = log.scale
    for identity, ours, theirs in _pairs(log, rng=rng):
        yield Deviation(identity, float(np.abs(np.asarray(ours) - np.asarray(theirs)).max()) / scale)


Numbers = NDArray[np.float64] | float


def _pairs(log: RandomLog, *, rng: np.random.Generator) -> Iterator[tuple[str, Numbers, Numbers]]:
    """Yield identities with both of their sides."""
    arm, outcome, propensity, predicted = log.arm, log.outcome, log.propensity, log.predicted
    target = log.target_probs
    n_rounds, n_arms = predicted.shape
    logged: dict[str, Any] = {"arm": arm, "outcome": outcome, "propensity": propensity, "target_probs": target}
    known: dict[str, Any] = {**logged, "predicted": predicted}
    zero = np.zeros_like(predicted)

    on_policy = {**logged, "target_probs": log.propensities}
    constant = np.full_like(predicted, rng.normal() * abs(outcome).max())
    yield "target = logging policy: IPS is the mean outcome", _all(ips(**on_policy)), _mean(outcome)
    yield "target = logging policy: SNIPS is the mean outcome", _all(snips(**on_policy)), _mean(outcome)
    yield (
        "target = logging policy: DR with a constant model is the mean outcome",
        _all(dr(**on_policy, predicted=constant)),
        _mean(outcome),
    )
    yield "zero outcome model: DR is IPS", _all(dr(**logged, predicted=zero)), _all(ips(**logged))
    yield "zero outcome model: SNDR is SNIPS", _all(sndr(**logged, predicted=zero)), _all(snips(**logged))

    perfect = {**known, "outcome": predicted[np.arange(n_rounds), arm]}
    other_propensity = rng.uniform(1e-4, 1, n_rounds)
    plain = _all(dm(predicted=predicted, target_probs=target))
    yield "perfect outcome model: DR is DM whatever the propensities", _all(dr(**perfect)), plain
    yield (
        "perfect outcome model: DR is DM at other propensities",
        _all(dr(**{**perfect, "propensity": other_propensity})),
        plain,
    )
    yield "perfect outcome model: SNDR is DM", _all(sndr(**perfect)), plain

    full = _all(dr(**known))
    yield "switch-DR at 0 is DM", _all(switch_dr(**known, threshold=0.0)), plain
    yield "switch-DR at infinity is DR", _all(switch_dr(**known, threshold=math.inf)), full
    yield "switch-DR above the largest weight is DR", _all(switch_dr(**known, threshold=1e4)), full
    yield "DRos at 0 is DM", _all(dros(**known, shrinkage=0.0)), plain
    yield "DRos at infinity is DR", _all(dros(**known, shrinkage=math.inf)), full
    yield "DRos at 1e24 is DR", _all(dros(**known, shrinkage=1e24)), full
    yield "clipped IPS at infinity is IPS", _all(clipped_ips(**logged, max_weight=math.inf)), _all(ips(**logged))
    yield (
        "clipped IPS and what it omits make IPS",
        _with_omitted(clipped_ips(**logged, max_weight=1.5)),
        ips(**logged).value,
    )
    yield "DRos and what it omits make DR", _with_omitted(dros(**known, shrinkage=2.0)), dr(**known).value
    yield "switch-DR and what it omits make DR", _with_omitted(switch_dr(**known, threshold=1.5)), dr(**known).value

    shift = float(rng.normal() * abs(outcome).max())
    yield (
        "SNIPS moves with a constant added to outcomes",
        _moved(snips(**{**logged, "outcome": outcome + shift}), by=-shift),
        _all(snips(**logged)),
    )
    for name, estimator in (("DR", dr), ("SNDR", sndr)):
        yield (
            f"{name} moves with a constant added to outcomes and predictions",
            _moved(estimator(**{**known, "outcome": outcome + shift, "predicted": predicted + shift}), by=-shift),
            _all(estimator(**known)),
        )

    rows, columns = rng.permutation(n_rounds), rng.permutation(n_arms)
    renamed = np.argsort(columns)[arm]
    for name, estimator in (("DR", dr), ("SNDR", sndr)):
        estimate = estimator(**known)
        shuffled = estimator(**{key: value[rows] for key, value in known.items()})
        yield f"{name} does not see the order of rounds", _summary(shuffled), _summary(estimate)
        columnwise = {"target_probs": target[:, columns], "predicted": predicted[:, columns], "arm": renamed}
        yield f"{name} does not see the order of arms", _all(estimator(**{**known, **columnwise})), _all(estimate)

    cut = int(rng.integers(1, n_rounds))
    for name, estimate in (
        ("IPS", ips(**logged)),
        ("SNIPS", snips(**logged)),
        ("DR", dr(**known)),
        ("SNDR", sndr(**known)),
        ("DRos", dros(**known, shrinkage=2.0)),
    ):
        shards = [stretch(estimate, slice(None, cut)), stretch(estimate, slice(cut, None))]
        one_pass = np.append(_summary(estimate), estimate.bias_bound)
        together = merge(shards)
        yield f"{name}: shards merged whole are one pass", np.append(_summary(together), together.bias_bound), one_pass
        added = shards[0].sums() + shards[1].sums()
        moments = np.array([added.value, added.standard_error, added.bias_bound])
        yield f"{name}: shards added as moments are one pass", moments, one_pass

    second = {**known, "target_probs": log.other_probs}
    half = {**known, "target_probs": (target + log.other_probs) / 2}
    yield "DR is linear in the policy", _all(dr(**half)), _all(0.5 * dr(**known) + 0.5 * dr(**second))
    gap = {**known, "target_probs": target - log.other_probs}
    weighted = _difference_of_scores(gap)
    yield "DR of a difference is the difference of DRs", _all(dr(**known) - dr(**second)), weighted
    unit = abs(outcome).max()
    cost, predicted_cost = unit * rng.normal(size=n_rounds), unit * rng.normal(size=(n_rounds, n_arms))
    of_cost = {**known, "outcome": cost, "predicted": predicted_cost}
    of_utility = {**known, "outcome": outcome - 0.3 * cost, "predicted": predicted - 0.3 * predicted_cost}
    for name, estimator in (("DR", dr), ("SNDR", sndr)):
        parts = estimator(**known) - 0.3 * estimator(**of_cost)
        yield (
            f"{name} of utility is that of quality less lambda times that of cost",
            _all(estimator(**of_utility)),
            _all(parts),
        )
    scores = pseudo_outcomes(arm=arm, outcome=outcome, propensity=propensity, predicted=predicted)
    yield "DR averages pseudo-outcomes by the target", dr(**known).value, float((target * scores).sum(axis=1).mean())

    estimate = sndr(**known)
    joint = joint_intervals([estimate.value], estimate.influence[None], level=0.9)
    yield (
        "a band over one estimate is its normal interval",
        np.array([joint.low[0], joint.high[0]]),
        np.array(estimate.interval(0.9)),
    )


def _all(estimate: Estimate) -> NDArray[np.float64]:
    return np.concatenate([[estimate.value, estimate.standard_error], estimate.influence])


def _summary(estimate: Estimate) -> NDArray[np.float64]:
    return np.array([estimate.value, estimate.standard_error])


def _mean(outcome: PerRound) -> NDArray[np.float64]:
    influence = outcome - outcome.mean()
    return np.concatenate([[outcome.mean(), influence.std(ddof=1) / math.sqrt(outcome.size)], influence])


def _moved(estimate: Estimate, *, by: float) -> NDArray[np.float64]:
    found = _all(estimate)
    found[0] += by
    return found


def _with_omitted(estimate: Estimate) -> float:
    assert estimate.omitted is not None
    return estimate.value + float(estimate.omitted.mean())


def _difference_of_scores(gap: dict[str, Any]) -> NDArray[np.float64]:
    """Return value, standard error and influence of mean_i sum_t D_t G_i(t), from pseudo-outcomes."""
    change = gap.pop("target_probs")
    return _mean((change * pseudo_outcomes(**gap)).sum(axis=1))


if __name__ == "__main__":
    sys.exit(main())
