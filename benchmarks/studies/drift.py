"""How soon do online policies follow a price cut, a silent regression, a new best arm and an outage?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import Mean, ratio
from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command, map_logs
from benchmarks.tables import RESULTS, SHARED_DATA, EncodedTable, encoded_table, table_specs
from pointsman.online.bandit import PooledThompson
from pointsman.online.base import ArmPrior, OnlinePolicy
from pointsman.online.baselines import EpsilonGreedy, LinThompson
from pointsman.online.replay import (
    NewArm,
    Outage,
    PriceCut,
    QualityRegression,
    Replayed,
    Scenario,
    Stream,
    replay,
    stream,
)
from pointsman.trade_off import TradeOff
from pointsman.types import PerRound

TABLES = ("routerbench", "paretobandit", "llmrouter")
POLICIES: Mapping[str, Callable[..., OnlinePolicy]] = {
    each.name: each for each in (PooledThompson, EpsilonGreedy, LinThompson)
}
DEFAULT = PooledThompson.name
N_SEEDS = 10
AT, N_ROUNDS = 1_000, 2_000
WINDOW, LEADING = 50, 200
"""Rounds that a moving mean is over, and rounds before the event by which the leading arm is told."""
PRICED_DIAL, PRICE_FACTOR = 0.2, 0.02
"""Where prices matter: lambda in units of 1 / mean cost of the dearest arm, and what it then costs over its price."""
REGRESSED_TO, REGAINED_WITHIN = 0.4, 200
FINAL, ADOPTED_WITHIN = 500, 150
OUTAGE = 200
LEAST_BENEFIT = 0.9
"""Share of what a policy earns that knew the price all along, which is all of it."""


class Job(NamedTuple):
    """One policy on the streams of one seed."""

    table: str
    policy: str
    seed: int


class Found(NamedTuple):
    """What a policy did; utility x 100 a round.

    Attributes:
        cut: Mean utility and the dearest arm's share over the `WINDOW` rounds after the price cut, by what was known
            of it: `told` at the event, seen from costs (`untold`), `known` from the first round on, or, with the price
            as it was, `no cut`; empty on a table without costs.
        mixed: The same where every other request asks for quality alone, over the priced ones of 2 `WINDOW` rounds.
        lost: (N_ROUNDS - AT,) utility lost to the stream without the regression.
        at_stake: (N_ROUNDS - AT,) what would be lost if no choice changed.
        share: (N_ROUNDS - AT,) whether the new arm was chosen; by whether a prior was told of it.
        share_of_old: The share of that arm in the last rounds where it was there from the first round on.
        n_masked: Requests sent to the arm during its outage.
        outage: Utility over the first `WINDOW` rounds of the outage less that of a policy that never had the arm.
        back: Share of the arm over the `WINDOW` rounds before the outage, and over those after it.
    """

    cut: Mapping[str, tuple[float, float]]
    mixed: Mapping[str, tuple[float, float]]
    lost: NDArray[np.float64]
    at_stake: NDArray[np.float64]
    share: Mapping[bool, NDArray[np.float64]]
    share_of_old: float
    n_masked: int
    outage: float
    back: tuple[float, float]


def main() -> int:
    """Run the study."""
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return how soon each policy follows."""
    tables = TABLES[1:2] if options.quick else TABLES
    policies = [DEFAULT] if options.quick else list(POLICIES)
    seeds = range(2 if options.quick else N_SEEDS)
    jobs = [Job(table, policy, seed) for seed in seeds for table in tables for policy in policies]
    found = map_logs(run, jobs, n_processes=options.n_processes, label="drift")
    return report(dict(zip(jobs, found, strict=True)))


def run(job: Job) -> Found:
    """Replay a policy through every event, and through the same stream without it."""
    [spec] = table_specs([job.table])
    encoded = encoded_table(spec, folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite")
    names, after = encoded.table.arms.names, slice(AT, None)
    quiet = play(job, encoded, [])
    lead = int(np.bincount(quiet.arm[AT - LEADING : AT]).argmax())
    regressed = play(job, encoded, [QualityRegression(at=AT, arm=names[lead], factor=REGRESSED_TO)])
    mean = encoded.table.quality.mean(axis=0)
    best = int(mean.argmax())
    prior = ArmPrior(
        quality=float(mean[best]),
        cost_usd=None if encoded.table.cost_usd is None else float(encoded.table.cost_usd[:, best].mean()),
    )
    come = {
        told: play(job, encoded, [NewArm(at=AT, arm=names[best], prior=prior if told else None)])
        for told in (False, True)
    }
    outage = Outage(at=AT, arm=names[lead], until=AT + OUTAGE)
    out = play(job, encoded, [outage], n_rounds=AT + OUTAGE + WINDOW)
    never = play(job, encoded, [Outage(at=0, arm=names[lead], until=AT + OUTAGE)], n_rounds=AT + OUTAGE + 1)
    first = slice(AT, AT + WINDOW)
    return Found(
        cut=_price_cut(job, encoded),
        mixed=_price_cut(job, encoded, mixed=True),
        lost=100 * (quiet.expected_utility - regressed.expected_utility)[after],
        at_stake=100 * ((1 - REGRESSED_TO) * quiet.quality * (quiet.arm == lead))[after],
        # The arm that comes stands last in its stream.
        share={told: (each.arm == len(names) - 1)[after].astype(np.float64) for told, each in come.items()},
        share_of_old=float((quiet.arm == best)[-FINAL:].mean()),
        n_masked=int((out.arm[AT : AT + OUTAGE] == lead).sum()),
        outage=float(100 * (out.expected_utility[first] - never.expected_utility[first]).mean()),
        back=(float((out.arm[AT - WINDOW : AT] == lead).mean()), float((out.arm[-WINDOW:] == lead).mean())),
    )


def play(
    job: Job,
    encoded: EncodedTable,
    scenarios: Sequence[Scenario],
    *,
    dial: float | PerRound = 0.0,
    n_rounds: int = N_ROUNDS,
) -> Replayed:
    """Replay a fresh policy; prompts and uniforms are those of the seed, whatever happens."""
    table = encoded.table
    dearest = 1.0 if table.cost_usd is None else float(table.cost_usd.mean(axis=0).max())
    requests = stream(
        table,
        encoded.features,
        trade_off=TradeOff(dial / dearest) if isinstance(dial, float) else dial / dearest,
        scenarios=scenarios,
        n_rounds=n_rounds,
        rng=np.random.default_rng([job.seed, 67]),
    )
    return replay(make(job.policy, requests), requests, seed=job.seed)


def make(policy: str, requests: Stream) -> OnlinePolicy:
    """Return a policy that has learned nothing, with its defaults."""
    return POLICIES[policy](n_arms=requests.n_arms_at_start, n_features=requests.n_features)


def rounds_until(share: NDArray[np.float64], *, whole: NDArray[np.float64] | float, at_most: bool = False) -> int:
    """Return the rounds at whose end the last `WINDOW` first make more than half of the whole, or at most half of it.

    Args:
        share: (n,) what is followed, round by round.
        whole: (n,) what would be all of it, or one number.
        at_most: Wait for it to fall to half rather than to exceed it.

    Returns:
        At least `WINDOW`; n where it never does.
    """
    kernel = np.full(WINDOW, 1 / WINDOW)
    moving = np.convolve(share, kernel, mode="valid")
    half = np.convolve(np.broadcast_to(whole, share.shape), kernel, mode="valid") / 2
    reached = np.flatnonzero(moving <= half if at_most else moving > half)
    return int(reached[0]) + WINDOW if reached.size else share.size


def _price_cut(job: Job, encoded: EncodedTable, *, mixed: bool = False) -> dict[str, tuple[float, float]]:
    if encoded.table.cost_usd is None:
        return {}
    dearest = int(encoded.table.cost_usd.mean(axis=0).argmax())
    name = encoded.table.arms.names[dearest]
    ways: dict[str, list[Scenario]] = {
        "told": [PriceCut(at=AT, arm=name, factor=PRICE_FACTOR)],
        "untold": [PriceCut(at=AT, arm=name, factor=PRICE_FACTOR, told=False)],
        "known": [PriceCut(at=0, arm=name, factor=PRICE_FACTOR)],
        "no cut": [],
    }
    every = 2 if mixed else 1
    dial = np.zeros(AT + every * WINDOW)
    dial[::every] = PRICED_DIAL
    priced = slice(AT, None, every)
    found = {}
    for way, scenarios in ways.items():
        played = play(job, encoded, scenarios, dial=dial, n_rounds=dial.size)
        utility = 100 * played.expected_utility[priced].mean()
        found[way] = float(utility), float((played.arm[priced] == dearest).mean())
    return found


def report(found: Mapping[Job, Found]) -> Report:
    """Return the report of what was found."""
    cells: dict[tuple[str, str], list[Found]] = {}
    for job, each in found.items():
        cells.setdefault((job.table, job.policy), []).append(each)
    cut = {key: _cut([each.cut for each in seeds]) for key, seeds in cells.items() if seeds[0].cut}
    mixed = {key: _cut([each.mixed for each in cells[key]]) for key in cut}
    regained = {
        key: [rounds_until(each.lost, whole=each.at_stake, at_most=True) for each in seeds]
        for key, seeds in cells.items()
    }
    adopted = {
        (*key, told): [rounds_until(each.share[told], whole=each.share[told][-FINAL:].mean()) for each in seeds]
        for key, seeds in cells.items()
        for told in (False, True)
    }
    n_masked = sum(each.n_masked for each in found.values())
    apart = [key for key in cut if key[1] == DEFAULT and _surely_below(_against_known(cells[key], "told"))]
    benefit, of_mixed = (
        _cut([pick(each) for key, seeds in cells.items() if key[1] == DEFAULT and key in cut for each in seeds])
        for pick in (attrgetter("cut"), attrgetter("mixed"))
    )
    slowest = max(float(np.mean(each)) for key, each in regained.items() if key[1] == DEFAULT)
    latest = max(float(np.mean(each)) for key, each in adopted.items() if key[1] == DEFAULT)
    n_seeds = min(len(each) for each in cells.values())
    return Report(
        name="drift",
        asked="Does the bandit follow a price cut it is told of on the next request, regain half of what a silent "
        f"regression costs within {REGAINED_WITHIN} rounds, take up a new best arm within {ADOPTED_WITHIN}, and send "
        "nothing to an arm that is out?",
        found=f"In the {WINDOW} rounds after the cut it earns {benefit.value:.0%} ± {benefit.half_width:.0%} of what "
        "knowing the price all along brings over all tables, and is told apart from that policy on "
        f"{len(apart)} of {sum(key[1] == DEFAULT for key in cut)} tables; {of_mixed.value:.0%} ± "
        f"{of_mixed.half_width:.0%} where every other request asks for quality alone, so that the dear arm was known; "
        "half of the loss is regained after "
        f"{slowest:,.0f} rounds on the slowest table, the new arm has over half of its final share after {latest:,.0f} "
        f"on the slowest (means over seeds); {n_masked} requests of any policy went to an arm that was out.",
        holds=benefit.value >= LEAST_BENEFIT
        and not apart
        and slowest <= REGAINED_WITHIN
        and latest <= ADOPTED_WITHIN
        and not n_masked,
        body=[
            f"{n_seeds} seeds, each an order of the table's prompts; all runs of a seed see the same prompts and the "
            f"same uniforms, and every policy has its defaults and starts cold. Events come after {AT:,} rounds. "
            "Utility is x 100, expected under the probabilities of each draw; intervals are Student's, 95%, over "
            "seeds, paired where two runs are compared. It holds where the default's benefit of the cut is "
            f"{LEAST_BENEFIT:.0%} or more over all tables and on none surely less than all of it, and where its means "
            "over seeds keep the other promises on every table.",
            "",
            f"Price cut: the dearest arm costs {PRICE_FACTOR:g} of its price, lambda {PRICED_DIAL:g} in units of 1 / "
            f"its mean cost before. Over the {WINDOW} rounds after: the share of these rounds that the arm answers, "
            "and utility less that of the same policy with the price cut from the first round on. *Benefit*: utility "
            "above the run without a cut, over that of the policy that knew all along; *mixed*: that of the priced "
            f"requests, over {2 * WINDOW} rounds, where every other request asks for quality alone.",
            "",
            *grid(
                [
                    "table",
                    "policy",
                    "share, no cut",
                    "told",
                    "untold",
                    "known",
                    "told minus known",
                    "untold minus known",
                    "benefit, told",
                    "mixed",
                ],
                [
                    [
                        *key,
                        *(
                            f"{100 * _cuts(seeds, way)[:, 1].mean():.0f}%"
                            for way in ("no cut", "told", "untold", "known")
                        ),
                        *(_interval(_against_known(seeds, way), signed=True) for way in ("told", "untold")),
                        *(f"{100 * each[key].value:.0f}% ± {100 * each[key].half_width:.0f}" for each in (cut, mixed)),
                    ]
                    for key, seeds in cells.items()
                    if key in cut
                ],
            ),
            f"Regression: the arm that the policy chose most over the last {LEADING} rounds gives {REGRESSED_TO:g} of "
            "its quality from then on, and nobody says so. *At stake*: what that costs a round if no choice changes; "
            f"*lost*: utility less than on the stream without it. Rounds until the last {WINDOW} lose half of what was "
            f"at stake in them or less, {WINDOW} at the earliest and {N_ROUNDS - AT:,} where never; *slowest* is of "
            "the seeds.",
            "",
            *grid(
                [
                    "table",
                    "policy",
                    "at stake",
                    f"lost, rounds 1 to {WINDOW}",
                    f"rounds {REGAINED_WITHIN - WINDOW + 1} to {REGAINED_WITHIN}",
                    f"last {FINAL}",
                    "rounds until half is regained",
                    "slowest",
                ],
                [
                    [
                        *key,
                        f"{np.mean([each.at_stake for each in seeds]):.1f}",
                        *(
                            _interval(Mean.of(np.array([each.lost[rounds].mean() for each in seeds])))
                            for rounds in (
                                slice(WINDOW),
                                slice(REGAINED_WITHIN - WINDOW, REGAINED_WITHIN),
                                slice(-FINAL, None),
                            )
                        ),
                        _interval(Mean.of(np.array(regained[key])), digits=0),
                        f"{max(regained[key]):,}",
                    ]
                    for key, seeds in cells.items()
                ],
            ),
            "New arm: the table's best arm comes; *with a prior*, its true mean quality and cost are told, worth "
            f"{ArmPrior().n_rounds:g} answers (`ArmPrior`). Its share of the last {FINAL} rounds, beside that where it "
            f"was there from the start, and rounds until its share of the last {WINDOW} exceeds half of its own final "
            "one.",
            "",
            *grid(
                [
                    "table",
                    "policy",
                    "prior",
                    "final share",
                    "share, there from the start",
                    f"share, rounds {ADOPTED_WITHIN - WINDOW + 1} to {ADOPTED_WITHIN}",
                    "rounds until over half",
                    "slowest",
                ],
                [
                    [
                        *key,
                        "with" if told else "without",
                        _percent(np.array([each.share[told][-FINAL:].mean() for each in seeds])),
                        _percent(np.array([each.share_of_old for each in seeds])),
                        _percent(
                            np.array(
                                [each.share[told][ADOPTED_WITHIN - WINDOW : ADOPTED_WITHIN].mean() for each in seeds]
                            )
                        ),
                        _interval(Mean.of(np.array(adopted[*key, told])), digits=0),
                        f"{max(adopted[*key, told]):,}",
                    ]
                    for key, seeds in cells.items()
                    for told in (False, True)
                ],
            ),
            f"Outage: the policy's leading arm cannot be chosen for {OUTAGE} rounds. Utility over the first {WINDOW} "
            "of them less that of the same policy which never had the arm, and the arm's share before and after.",
            "",
            *grid(
                [
                    "table",
                    "policy",
                    "requests sent to it",
                    "outage minus never there",
                    f"share, {WINDOW} rounds before",
                    f"{WINDOW} rounds after",
                ],
                [
                    [
                        *key,
                        str(sum(each.n_masked for each in seeds)),
                        _interval(Mean.of(np.array([each.outage for each in seeds])), signed=True),
                        *(_percent(np.array([each.back[i] for each in seeds])) for i in range(2)),
                    ]
                    for key, seeds in cells.items()
                ],
            ),
        ],
    )


def _cuts(seeds: Sequence[Found], way: str) -> NDArray[np.float64]:
    """Return (n_seeds, 2) utility and share."""
    return np.array([each.cut[way] for each in seeds])


def _cut(seeds: Sequence[Mapping[str, tuple[float, float]]]) -> Mean:
    told, known, none = (np.array([each[way][0] for each in seeds]) for way in ("told", "known", "no cut"))
    return ratio(told - none, known - none)


def _against_known(seeds: Sequence[Found], way: str) -> Mean:
    return Mean.of(_cuts(seeds, way)[:, 0] - _cuts(seeds, "known")[:, 0])


def _surely_below(gap: Mean) -> bool:
    return gap.value + gap.half_width < 0


def _percent(shares: NDArray[np.float64]) -> str:
    return f"{_interval(Mean.of(100 * shares), digits=0)}%"


def _interval(each: Mean, *, digits: int = 1, signed: bool = False) -> str:
    return f"{each.value:{'+' if signed else ''},.{digits}f} ± {each.half_width:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
