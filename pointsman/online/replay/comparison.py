"""Several policies on the same streams, beside what no policy needs to learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.base import OnlinePolicy
from pointsman.online.replay.play import Pacer, Progress, Replayed, replay
from pointsman.online.replay.stream import Outcomes, Stream
from pointsman.types import PerRound, State

POINTS = 400
"""Rounds at which a curve is kept."""

BEST, ORACLE, UNIFORM = "best model in hindsight", "oracle", "uniform"

Make = Callable[[Stream, int], OnlinePolicy]
"""Makes a policy that has learned nothing, for a stream and a seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """What a policy lost and spent as rounds went by.

    Attributes:
        label: Its name.
        rounds: (n_points,) rounds done.
        regret: (n_seeds, n_points) cumulative regret to the best model in hindsight.
        spend_usd: (n_seeds, n_points) cumulative cost.
    """

    label: str
    rounds: NDArray[np.int64]
    regret: NDArray[np.float64]
    spend_usd: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Policies on the same streams, one stream a seed.

    Attributes:
        rows: One a policy, then one a reference: `policy, reference, utility, ci_low, ci_high, quality, cost_usd,
            regret, regret_to_best, difference, difference_low, difference_high, shares, utilities`. All are means a
            round, over seeds; regret is to the oracle; difference is utility minus that of the first policy, paired by
            seed; intervals are Student's over seeds, NaN for one seed; `utilities` is each seed's.
        curves: One a policy, then those of the best model in hindsight and the oracle.
        seeds: The seeds.
        n_rounds: Rounds of each stream.
        turns: Rounds at which something changes.
    """

    rows: list[State]
    curves: list[Curve]
    seeds: tuple[int, ...]
    n_rounds: int
    turns: tuple[int, ...]


def compare(
    streams: Callable[[int], Stream],
    policies: Mapping[str, Make],
    *,
    seeds: Sequence[int],
    pacer: Callable[[], Pacer] | None = None,
    level: float = 0.95,
    progress: Callable[[str, int, float], None] | None = None,
    done: Callable[[str, int, Replayed], None] | None = None,
) -> Comparison:
    """Return how policies fare on one stream a seed, the same for all of them, uniforms included.

    Args:
        streams: Makes the stream of a seed; all of one length, over the same arms.
        policies: What makes each, by the name it goes by; the others are compared with the first.
        seeds: One stream each.
        pacer: Makes a pacer for each policy and stream; none where None.
        level: Coverage of the intervals, in (0, 1).
        progress: Told the policy's name, its rounds done over all seeds, and the mean utility so far on this one.
        done: Given each finished replay, with its policy's name and seed.

    Raises:
        InvalidParameterError: There is no policy or no seed, or a name is one of a reference.
    """
    if not policies or not seeds:
        raise InvalidParameterError(f"compare needs policies and seeds; got {list(policies)} and {list(seeds)}")
    if not 0 < level < 1:
        raise InvalidParameterError(f"level must be in (0, 1); got {level}")
    measures: dict[str, list[State]] = {}
    curves: dict[str, list[tuple[PerRound, PerRound]]] = {}
    for k, seed in enumerate(seeds):
        requests = streams(seed)
        at = _points(requests.n_rounds)
        references = _references(requests)
        if taken := sorted(references.keys() & policies.keys()):
            raise InvalidParameterError(f"names of policies must not be those of references; got {taken}")
        for label, make in policies.items():
            tell = None if progress is None else _onward(progress, label, before=k * requests.n_rounds)
            paced = None if pacer is None else pacer()
            found = replay(make(requests, seed), requests, seed=seed, pacer=paced, progress=tell)
            measures.setdefault(label, []).append(_measure(found, found.shares, requests))
            curves.setdefault(label, []).append((found.regret_to_best_fixed[at], found.spend_usd[at]))
            if done is not None:
                done(label, seed, found)
        for label, each in references.items():
            measures.setdefault(label, []).append(each)
        for label, known in ((BEST, requests.best_fixed), (ORACLE, requests.oracle)):
            regret = (requests.best_fixed.utility - known.utility).cumsum()
            curves.setdefault(label, []).append((regret[at], known.cost_usd.cumsum()[at]))
    first = np.array([each["utility"] for each in measures[next(iter(policies))]])
    return Comparison(
        rows=[
            _row(label, each, first=first, level=level, reference=label not in policies)
            for label, each in measures.items()
        ],
        curves=[
            Curve(
                label=label,
                rounds=at + 1,
                regret=np.array([regret for regret, _ in each]),
                spend_usd=np.array([spend for _, spend in each]),
            )
            for label, each in curves.items()
        ],
        seeds=tuple(seeds),
        n_rounds=requests.n_rounds,
        turns=requests.turns,
    )


def _onward(progress: Callable[[str, int, float], None], label: str, *, before: int) -> Progress:
    return lambda n_done, utility: progress(label, before + n_done, utility)


def _points(n_rounds: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n_rounds - 1, min(POINTS, n_rounds)).round().astype(np.int64))


def _measure(outcomes: Replayed | Outcomes, shares: NDArray[np.float64], requests: Stream) -> State:
    """Return what one seed gave, in means a round."""
    return _means(
        utility=outcomes.utility.mean(),
        quality=outcomes.quality.mean(),
        cost_usd=outcomes.cost_usd.mean(),
        shares=shares,
        requests=requests,
    )


def _means(*, utility: float, quality: float, cost_usd: float, shares: NDArray[np.float64], requests: Stream) -> State:
    return {
        "utility": float(utility),
        "quality": float(quality),
        "cost_usd": float(cost_usd),
        "regret": float(requests.oracle.utility.mean() - utility),
        "regret_to_best": float(requests.best_fixed.utility.mean() - utility),
        "shares": dict(zip(requests.arms.names, (float(share) for share in shares), strict=True)),
    }


def _references(requests: Stream) -> dict[str, State]:
    """Return what always one arm brings, where it is eligible all along, a uniform choice, the best arm, the oracle."""
    fixed, n_arms = requests.fixed_arms, len(requests.arms)
    weight = fixed.n_rounds / requests.n_rounds
    eligible = np.array([world.eligible for world in requests.worlds])
    chances = {f"always {name}": np.eye(n_arms)[arm] * eligible for arm, name in enumerate(requests.arms.names)}
    chances[UNIFORM] = eligible / eligible.sum(axis=1, keepdims=True)
    found = {
        label: _means(
            **{
                name: float(weight @ (chance * np.nan_to_num(getattr(fixed, name))).sum(axis=1))
                for name in ("utility", "quality", "cost_usd")
            },
            shares=weight @ chance,
            requests=requests,
        )
        for label, chance in chances.items()
        if (chance.sum(axis=1) > 0).all()
    }
    for label, known in ((BEST, requests.best_fixed), (ORACLE, requests.oracle)):
        found[label] = _measure(known, np.bincount(known.arm, minlength=n_arms) / requests.n_rounds, requests)
    return found


def _row(label: str, seeds: Sequence[State], *, first: NDArray[np.float64], level: float, reference: bool) -> State:
    def mean(name: str) -> float:
        return float(np.mean([seed[name] for seed in seeds]))

    utilities = np.array([seed["utility"] for seed in seeds])
    low, high = _interval(utilities, level=level)
    difference_low, difference_high = _interval(utilities - first, level=level)
    return {
        "policy": label,
        "reference": reference,
        "utility": mean("utility"),
        "ci_low": low,
        "ci_high": high,
        "quality": mean("quality"),
        "cost_usd": mean("cost_usd"),
        "regret": mean("regret"),
        "regret_to_best": mean("regret_to_best"),
        "difference": float((utilities - first).mean()),
        "difference_low": difference_low,
        "difference_high": difference_high,
        "shares": {name: float(np.mean([seed["shares"][name] for seed in seeds])) for name in seeds[0]["shares"]},
        "utilities": utilities.tolist(),
    }


def _interval(values: NDArray[np.float64], *, level: float) -> tuple[float, float]:
    """Return Student's interval of the mean; NaN for one value."""
    from scipy.stats import t

    if values.size < 2:
        return math.nan, math.nan
    half = float(t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size))
    return float(values.mean()) - half, float(values.mean()) + half
