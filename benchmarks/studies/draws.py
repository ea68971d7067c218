"""Are stated propensities those that arms are drawn by, and does a bandit's own log evaluate to the truth?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import holm
from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, bonferroni_z, command, map_logs
from benchmarks.tables import RESULTS, SHARED_DATA, EncodedTable, encoded_table, table_specs
from pointsman.online.bandit import PooledThompson
from pointsman.online.base import OnlinePolicy
from pointsman.online.baselines import EpsilonGreedy, LinThompson, LinUCB
from pointsman.ope import ips
from pointsman.ope.sequences import AsymptoticSequence, OffPolicySequence
from pointsman.trade_off import TradeOff
from pointsman.types import ArmIndex, PerArm, PerRound

TABLE = "routerbench"
Make = Callable[..., OnlinePolicy]
DRAWN: Mapping[str, Make] = {
    PooledThompson.name: PooledThompson,
    f"{PooledThompson.name}, ucb": lambda **shape: PooledThompson(rule="ucb", **shape),
    **{each.name: each for each in (EpsilonGreedy, LinUCB, LinThompson)},
}
"""Policies whose draws are counted."""
LOGGED: Mapping[str, Make] = {
    PooledThompson.name: PooledThompson,
    f"{PooledThompson.name}, floor 0.1": lambda **shape: PooledThompson(floor=0.1, **shape),
    f"{PooledThompson.name}, ucb, floor 0.1": lambda **shape: PooledThompson(rule="ucb", floor=0.1, **shape),
    LinThompson.name: LinThompson,
}
"""Policies whose logs are evaluated."""
TARGETS = ("best single arm", "evenly", "oracle")

N_LEARNED, N_CONTEXTS, N_DRAWS = 500, 10, 10_000
LEAST_EXPECTED = 5.0
"""Draws that a cell of a chi-square test expects at least; rarer arms share one."""
SIGNIFICANT = 0.01
N_ROUNDS, N_STREAMS = 300, 400
LEVEL, Z, MOST_MISSES_Z = 0.95, 1.959964, 3.0
FIRST_ROUND, N_GRID = 100, 200


class Counted(NamedTuple):
    """How often arms were drawn in one context.

    Attributes:
        p_value: Of a chi-square test of the frequencies against the stated probabilities.
        n_draws: Draws.
        n_strayed: Draws that stated another propensity than that of the first, or took an arm that was not eligible.
    """

    p_value: float
    n_draws: int
    n_strayed: int


class Covered(NamedTuple):
    """How one target's value was estimated from one stream.

    Attributes:
        error: Sum over rounds of weight times quality less the target's value for the prompt.
        variance: Of it, the sum of the rounds' variances given the rounds before: known, as all outcomes are.
        largest_weight: Largest weight of a round.
        by_martingale: Whether it lies within 1.96 times the root of that variance.
        by_wald: Whether the Wald interval of `ips` holds the target's value on the table.
        by_betting: Whether `OffPolicySequence` holds it after every round.
        by_asymptotic: Whether `AsymptoticSequence` does, from its first round on.
    """

    error: float
    variance: float
    largest_weight: float
    by_martingale: bool
    by_wald: bool
    by_betting: bool
    by_asymptotic: bool


class Log(NamedTuple):
    """A bandit's rounds on prompts drawn with replacement."""

    row: NDArray[np.int64]
    arm: ArmIndex
    probabilities: PerArm


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return how draws agree with propensities, and logs with the truth."""
    drawn = list(DRAWN)[:2] if options.quick else list(DRAWN)
    logged = [
        (policy, seed)
        for seed in range(10 if options.quick else N_STREAMS)
        for policy in (list(LOGGED)[:2] if options.quick else LOGGED)
    ]
    n_draws = N_DRAWS // 10 if options.quick else N_DRAWS
    counted = map_logs(count, [(policy, n_draws) for policy in drawn], n_processes=options.n_processes, label="draws")
    covered = map_logs(cover, logged, n_processes=options.n_processes, label="streams")
    by_policy: dict[str, list[dict[str, Covered]]] = {}
    for (policy, _), each in zip(logged, covered, strict=True):
        by_policy.setdefault(policy, []).append(each)
    return report(dict(zip(drawn, counted, strict=True)), by_policy)


def count(job: tuple[str, int]) -> list[Counted]:
    """Return how often a policy that has learned draws each arm, context by context, at trade-offs of all kinds.

    Every other context has three arms that are not eligible.
    """
    policy, n_draws = job
    encoded = _encoded()
    table = encoded.table
    assert table.cost_usd is not None
    n_arms = len(table.arms)
    rng = np.random.default_rng(71)
    learner = DRAWN[policy](n_arms=n_arms, n_features=encoded.features.shape[1])
    dearest = float(table.cost_usd.mean(axis=0).max())
    every = np.ones(n_arms, dtype=np.bool_)
    rows = rng.permutation(len(table))
    for row in rows[:N_LEARNED]:
        context, trade_off = np.asarray(encoded.features[row], dtype=np.float64), TradeOff(rng.random() / dearest)
        arm = learner.decide(context, trade_off, every, rng=rng).arm
        learner.update(
            context,
            arm,
            quality=float(table.quality[row, arm]),
            cost_usd=float(table.cost_usd[row, arm]),
            trade_off=trade_off,
        )
    counted = []
    for i, row in enumerate(rows[N_LEARNED : N_LEARNED + N_CONTEXTS]):
        eligible = every.copy()
        eligible[rng.choice(n_arms, 3 * (i % 2), replace=False)] = False
        trade_off = TradeOff(rng.random() / dearest)
        context = np.asarray(encoded.features[row], dtype=np.float64)
        counted.append(count_context(learner, context, trade_off, eligible, n_draws=n_draws, rng=rng))
    return counted


def count_context(
    policy: OnlinePolicy,
    context: NDArray[np.float64],
    trade_off: TradeOff,
    eligible: NDArray[np.bool_],
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> Counted:
    """Return how often a policy draws each arm in one context, beside the probabilities it states."""
    stated = policy.probabilities(context, trade_off, eligible)
    times = np.zeros(policy.n_arms)
    strayed = 0
    for _ in range(n_draws):
        choice = policy.decide(context, trade_off, eligible, rng=rng)
        times[choice.arm] += 1
        strayed += choice.propensity != stated[choice.arm] or not eligible[choice.arm]
    return Counted(chi_square(times, stated), n_draws, int(strayed))


def chi_square(times: NDArray[np.float64], stated: NDArray[np.float64]) -> float:
    """Return the p-value of Pearson's test; 0 where an arm was drawn that could not be.

    Args:
        times: (n_arms,) how often each arm was drawn.
        stated: (n_arms,) its probability.
    """
    from scipy.stats import chi2

    if times[stated == 0].any():
        return 0.0
    expected = times.sum() * stated
    order = np.argsort(expected)
    order = order[expected[order] > 0]
    # Rare arms share a cell, with as many of the next as it takes for that to be expected often enough.
    n_rare = int((expected[order] < LEAST_EXPECTED).sum())
    n_merged = max(n_rare, 1 + int(np.searchsorted(expected[order].cumsum(), LEAST_EXPECTED))) if n_rare else 1
    cells = [np.append(each[order[:n_merged]].sum(), each[order[n_merged:]]) for each in (expected, times)]
    if cells[0].size < 2:
        return 1.0
    statistic = float(((cells[1] - cells[0]) ** 2 / cells[0]).sum())
    return float(chi2.sf(statistic, cells[0].size - 1))


def cover(job: tuple[str, int]) -> dict[str, Covered]:
    """Return how IPS of a short stream's log, and intervals by it, hold the truth of every target."""
    policy, seed = job
    encoded = _encoded()
    quality = encoded.table.quality
    rng = np.random.default_rng([seed, list(LOGGED).index(policy), 73])
    learner = LOGGED[policy](n_arms=len(encoded.table.arms), n_features=encoded.features.shape[1])
    log = play(learner, encoded, rng=rng)
    return {target: covered(log, quality, target_probs(quality, target)) for target in TARGETS}


def play(policy: OnlinePolicy, encoded: EncodedTable, *, rng: np.random.Generator) -> Log:
    """Return the log of a policy that learns quality alone, and the probabilities of all its draws."""
    row = rng.integers(len(encoded.table), size=N_ROUNDS)
    arm, probabilities = np.empty(N_ROUNDS, dtype=np.int64), np.empty((N_ROUNDS, policy.n_arms))
    trade_off = TradeOff(0.0)
    for i, context in enumerate(np.asarray(encoded.features[row], dtype=np.float64)):
        choice = policy.decide(context, trade_off, rng=rng)
        arm[i], probabilities[i] = choice.arm, choice.probabilities
        policy.update(
            context, choice.arm, quality=float(encoded.table.quality[row[i], choice.arm]), trade_off=trade_off
        )
    return Log(row, arm, probabilities)


def target_probs(quality: PerArm, target: str) -> PerArm:
    """Return a target's probabilities for every prompt of the table."""
    n_prompts, n_arms = quality.shape
    if target == "evenly":
        return np.full(quality.shape, 1 / n_arms)
    best = np.full(n_prompts, quality.mean(axis=0).argmax()) if target == "best single arm" else quality.argmax(axis=1)
    return np.asarray(np.eye(n_arms)[best])


def covered(log: Log, quality: PerArm, target: PerArm) -> Covered:
    """Return how one target's value is held.

    Args:
        log: Of the bandit.
        quality: (n_prompts, n_arms) of the table.
        target: (n_prompts, n_arms) probabilities of the target.
    """
    rounds, probs, outcomes = np.arange(log.arm.size), target[log.row], quality[log.row]
    truth = float((target * quality).sum(axis=1).mean())
    propensity, outcome = log.probabilities[rounds, log.arm], outcomes[rounds, log.arm]
    estimate = ips(arm=log.arm, outcome=outcome, propensity=propensity, target_probs=probs)
    weight = probs[rounds, log.arm] / propensity
    worth = (probs * outcomes).sum(axis=1)
    error = float((weight * outcome - worth).sum())
    # Arms that the target never takes add nothing, however rarely they are drawn.
    squares = np.divide((probs * outcomes) ** 2, log.probabilities, out=np.zeros_like(probs), where=probs > 0)
    variance = float((squares.sum(axis=1) - worth**2).sum())
    betting = OffPolicySequence(outcome_range=(0.0, 1.0), level=LEVEL, n_grid=N_GRID)
    low, high = betting.update(arm=log.arm, outcome=outcome, propensity=propensity, target_probs=probs)
    asymptotic = AsymptoticSequence(tuned_to=N_ROUNDS, level=LEVEL, first_round=FIRST_ROUND)
    least, most = asymptotic.update(weight * outcome)
    return Covered(
        error=error,
        variance=variance,
        largest_weight=float(weight.max()),
        by_martingale=abs(error) <= Z * variance**0.5,
        by_wald=abs(estimate.value - truth) <= Z * estimate.standard_error,
        by_betting=_holds(low, high, truth),
        by_asymptotic=_holds(least, most, truth),
    )


def report(counted: Mapping[str, Sequence[Counted]], logs: Mapping[str, Sequence[Mapping[str, Covered]]]) -> Report:
    """Return the report of what was found."""
    adjusted = holm([each.p_value for contexts in counted.values() for each in contexts])
    n_draws = sum(each.n_draws for contexts in counted.values() for each in contexts)
    n_strayed = sum(each.n_strayed for contexts in counted.values() for each in contexts)
    cells = {
        (policy, target): [each[target] for each in streams] for policy, streams in logs.items() for target in TARGETS
    }
    z = {key: _z(each) for key, each in cells.items()}
    worst = max(abs(each) for each in z.values())
    n_streams = min(len(each) for each in cells.values())
    lowest = LEVEL - MOST_MISSES_Z * float(np.sqrt(LEVEL * (1 - LEVEL) / n_streams))
    share = {
        name: {key: float(np.mean([getattr(one, name) for one in each])) for key, each in cells.items()}
        for name in ("by_martingale", "by_wald", "by_betting", "by_asymptotic")
    }
    seldom = {name: min(each.values()) for name, each in share.items()}
    return Report(
        name="draws",
        asked="Are arms drawn with the propensities that are stated, and does IPS on a bandit's own log hold the "
        "truth?",
        found=f"Of {n_draws:,} draws of {len(counted)} policies {n_strayed} strayed from what was stated, and "
        f"frequencies differ from it in {sum(p < SIGNIFICANT for p in adjusted)} of {len(adjusted)} contexts at "
        f"p < {SIGNIFICANT:g} (Holm; least p {min(adjusted):.2g}). Over {n_streams} streams IPS is off by at most "
        f"{worst:.1f} standard errors in {len(z)} cells of policy and target; intervals by the martingale's known "
        f"variance cover in {seldom['by_martingale']:.1%} or more, betting at all rounds at once in "
        f"{seldom['by_betting']:.1%} or more, the asymptotic sequence in {seldom['by_asymptotic']:.1%} or more and "
        f"Wald's interval in {seldom['by_wald']:.1%} or more.",
        holds=min(adjusted) >= SIGNIFICANT
        and not n_strayed
        and worst < bonferroni_z(len(z))
        and min(seldom["by_martingale"], seldom["by_betting"]) >= lowest,
        body=[
            f"Table `{TABLE}`. Draws: each policy learns {N_LEARNED} rounds at trade-offs drawn evenly up to 1 / mean "
            f"cost of its dearest arm, then draws {n_draws // len(adjusted):,} times (`decide`) in each of "
            f"{N_CONTEXTS} other contexts, at trade-offs drawn alike; in every other context three arms are not "
            f"eligible. Pearson's test a context, arms expected less than {LEAST_EXPECTED:g} times in one cell. "
            "*Strayed*: a draw that stated another propensity than before, or took an arm that was not eligible.",
            "",
            *grid(
                ["policy", "draws", "contexts", "p < 0.05", "least p", "strayed"],
                [
                    [
                        policy,
                        f"{sum(each.n_draws for each in contexts):,}",
                        str(len(contexts)),
                        str(sum(each.p_value < 0.05 for each in contexts)),
                        f"{min(each.p_value for each in contexts):.3f}",
                        str(sum(each.n_strayed for each in contexts)),
                    ]
                    for policy, contexts in counted.items()
                ],
            ),
            f"Logs: {n_streams} streams of {N_ROUNDS} prompts a policy, drawn with replacement, quality alone; each "
            "policy starts cold. *z*: errors of IPS of all streams added up, over the root of the martingale's "
            "variance, which is known as the outcome of every arm is. *Martingale*: IPS lies within 1.96 roots of it "
            "from the target's value on the stream's prompts. *Wald*: the interval of `ips` holds its value on the "
            "table. *Betting*: `OffPolicySequence`, no bound on weights told, holds that after every round; "
            f"*asymptotic*: so does `AsymptoticSequence` from round {FIRST_ROUND} on, which is promised only where "
            "sums of so many rounds are nearly normal: not with weights of hundreds, nor is Wald's. The largest weight "
            "is the median over streams. It holds where no context differs, no draw strays, z is that of chance over "
            f"all cells (99%), and martingale and betting cover in {lowest:.1%} or more, which is {100 * LEVEL:g}% "
            f"less {MOST_MISSES_Z:g} standard errors.",
            "",
            *grid(
                ["policy", "target", "z", "martingale", "betting", "asymptotic", "Wald", "largest weight"],
                [
                    [
                        *key,
                        f"{z[key]:+.1f}",
                        *(
                            f"{share[name][key]:.1%}"
                            for name in ("by_martingale", "by_betting", "by_asymptotic", "by_wald")
                        ),
                        f"{np.median([one.largest_weight for one in each]):,.0f}",
                    ]
                    for key, each in cells.items()
                ],
            ),
        ],
    )


def _z(each: Sequence[Covered]) -> float:
    """Return how many standard errors the errors of all streams add up to, by the variances that are known."""
    return float(sum(one.error for one in each) / sum(one.variance for one in each) ** 0.5)


def _holds(low: PerRound, high: PerRound, truth: float) -> bool:
    return bool(((low - 1e-9 <= truth) & (truth <= high + 1e-9)).all())


def _encoded() -> EncodedTable:
    [spec] = table_specs([TABLE])
    return encoded_table(spec, folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite")


if __name__ == "__main__":
    sys.exit(main())
