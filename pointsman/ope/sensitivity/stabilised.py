"""Bounds of self-normalised values, every round taking the r that hurts most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError, OverlapError
from pointsman.ope.sensitivity.gamma import check_gamma, check_largest, flips
from pointsman.ope.sensitivity.manski import Range, gain_of, manski_bounds
from pointsman.types import ArmIndex, PerArm, PerRound

Normalise: TypeAlias = Literal["all", "arm"]
"""Over which rounds weights average one: all that count for a policy, or those of each arm apart."""

_BATCH_ENTRIES = 2_000_000
"""Numbers in the largest array of a batch of resamples."""

_INFINITE_GAMMA = 1e12
"""Beyond this, bounds are those of infinity to about double precision."""


@dataclass(frozen=True, kw_only=True)
class SensitivityBounds:
    """What the value could be, by the strength of hidden confounding.

    Attributes:
        gamma: (n_gammas,) largest odds ratio between true and logged propensity.
        low: (n_gammas,) least value compatible with the log, in the unit of the outcome.
        high: (n_gammas,) greatest.
        ci_low: (n_gammas,) lower end of the interval for [low, high]; NaN without resamples, or where one of them lacks
            a group's rounds.
        ci_high: (n_gammas,) upper end.
    """

    gamma: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]


def sensitivity_bounds(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    target_probs: PerArm,
    against_probs: PerArm | None = None,
    gamma: float | Sequence[float] = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0),
    normalise: Normalise = "all",
    outcome_range: Range | None = None,
    n_resamples: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> SensitivityBounds:
    """Bound a policy's self-normalised value, or its gain on another policy, under hidden confounding.

    With d_t(x) = pi(t | x), less the other policy's where there is one, and rounds in groups g by the sign of d_{t_i}
    (and by arm),

        bound = sum_g M_g ext_r sum_{i in g} d_i h_i y_i / sum_{i in g} |d_i| h_i,   h_i = 1 + (1 / e_i - 1) r_i,

    M_g the mean over all rounds of what the group's arms carry of |d|. Groups share no round, so each ratio is at its
    extreme apart; there r_i is gamma for all outcomes beyond some threshold and 1 / gamma for the others, so a sort
    and a scan over thresholds find it exactly, in O(n log n). At gamma = 1 the value is that of `snips` where
    `normalise` is "all" and there is no other policy.

    Args:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        against_probs: The other policy's, for the difference target - other.
        gamma: At least 1; infinity only with an `outcome_range`.
        normalise: "arm" uses that the weights of every arm average one, not only those of all arms together: bounds
            are tighter where arms differ in outcome, and noisier where an arm has few rounds.
        outcome_range: Where given, Manski's bounds cut off what lies beyond them.
        n_resamples: Bootstrap resamples for the interval; none for 0.
        level: Coverage of the interval, by percentiles: (1 - level) / 2 of the resampled bounds lie beyond each end.
        seed: Draws the resamples.

    Raises:
        InvalidParameterError: A gamma is less than 1, or infinite without an outcome range; `n_resamples` is less than
            0; `level` lies outside (0, 1); `normalise` is unknown.
        OverlapError: No round of the log shows what comes of a group's decisions.

    References:
        Tan (2006), JASA 101(476): the model; Zhao, Small and Bhattacharya (2019), JRSS B 81(4): bounds and interval.
    """
    gammas = np.atleast_1d(np.asarray(gamma, dtype=np.float64))
    check_gamma(gammas, outcome_range=outcome_range)
    bounded = np.minimum(gammas, _INFINITE_GAMMA)
    _check_resamples(n_resamples, level=level)
    groups = _Groups.of(
        arm=arm,
        outcome=outcome,
        propensity=propensity,
        target_probs=target_probs,
        against_probs=against_probs,
        normalise=normalise,
        outcome_range=outcome_range,
    )
    point = groups.scans(None)
    low, high = (np.concatenate([ends(point, value) for value in bounded]) for ends in (_lowest, _highest))
    ci_low, ci_high = np.full((2, gammas.size), np.nan)
    if n_resamples:
        batches = [
            [(_lowest(scans, value), _highest(scans, value)) for value in bounded]
            for scans in groups.resampled(n_resamples, seed=seed)
        ]
        lows, highs = np.concatenate([np.array(batch) for batch in batches], axis=2).transpose(1, 0, 2)
        beyond = _n_beyond(n_resamples, level=level)
        ci_low, ci_high = np.sort(lows, axis=1)[:, beyond], np.sort(highs, axis=1)[:, -1 - beyond]
    return SensitivityBounds(gamma=gammas, low=low, high=high, ci_low=ci_low, ci_high=ci_high)


def flip_gamma(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    target_probs: PerArm,
    against_probs: PerArm | None = None,
    normalise: Normalise = "all",
    outcome_range: Range | None = None,
    n_resamples: int = 0,
    level: float = 0.95,
    seed: int = 0,
    largest: float = 1_000.0,
) -> float:
    """Return the gamma from which on the value, or the gain on another policy, may be zero or less.

    Found by bisection on log gamma, to a relative error under 1e-6; a lower bound falls as gamma grows. With resamples
    it is the lower end of the bootstrap interval that reaches zero: each resample has its own such gamma, and the
    lower end is positive as long as no more than (1 - level) / 2 of them are passed. Arguments as for
    `sensitivity_bounds`.

    Returns:
        1 where the lower bound (or limit) is not positive even without hidden confounding; infinity where it is still
        positive at `largest`.

    Raises:
        InvalidParameterError: As for `sensitivity_bounds`, or `largest` is not a finite number above 1.
        OverlapError: As for `sensitivity_bounds`.
    """
    _check_resamples(n_resamples, level=level)
    check_largest(largest)
    groups = _Groups.of(
        arm=arm,
        outcome=outcome,
        propensity=propensity,
        target_probs=target_probs,
        against_probs=against_probs,
        normalise=normalise,
        outcome_range=outcome_range,
    )
    if n_resamples == 0:
        return float(_flips(groups.scans(None), largest=largest)[0])
    found = np.concatenate([_flips(scans, largest=largest) for scans in groups.resampled(n_resamples, seed=seed)])
    return float(np.sort(found)[_n_beyond(n_resamples, level=level)])


class _Scan(NamedTuple):
    """Sums of one group over its rounds, from the greatest outcome down; one row a resample.

    Attributes:
        mass: (n_resamples, 1) M_g.
        fixed: (n_resamples, 1) sum of |d|.
        fixed_outcome: (n_resamples, 1) sum of |d| y.
        odds: (n_resamples, n + 1) sum of |d| (1 / e - 1) over the first 0, 1, ..., n rounds.
        odds_outcome: (n_resamples, n + 1) the same of |d| (1 / e - 1) y.
    """

    mass: NDArray[np.float64]
    fixed: NDArray[np.float64]
    fixed_outcome: NDArray[np.float64]
    odds: NDArray[np.float64]
    odds_outcome: NDArray[np.float64]

    def extreme(self, gamma: NDArray[np.float64], *, greatest: bool) -> NDArray[np.float64]:
        """Return (n_resamples,) M_g times the extreme ratio, for one gamma or one a resample."""
        large = np.reshape(gamma, (-1, 1))
        first, rest = (large, 1 / large) if greatest else (1 / large, large)
        numerator = self.fixed_outcome + rest * self.odds_outcome[:, -1:] + (first - rest) * self.odds_outcome
        denominator = self.fixed + rest * self.odds[:, -1:] + (first - rest) * self.odds
        with np.errstate(invalid="ignore"):  # a resample may hold no round of the group
            ratio = numerator / denominator
        return np.asarray(self.mass[:, 0] * (ratio.max(axis=1) if greatest else ratio.min(axis=1)))


class _Scans(NamedTuple):
    """All groups' scans, with the sign of what each carries, and Manski's bounds (infinite without a range)."""

    gained: list[_Scan]
    lost: list[_Scan]
    manski: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Rounds whose weights average one, from the greatest outcome down, and what their arms carry in every round."""

    rows: NDArray[np.int64]
    weight: PerRound
    outcome: PerRound
    odds: PerRound
    carried: PerRound

    def scan(self, counts: NDArray[np.float64] | None) -> _Scan:
        own = self.weight[None] if counts is None else counts[:, self.rows] * self.weight
        mass = self.carried.mean(keepdims=True) if counts is None else counts @ self.carried / self.carried.size
        odds = np.cumsum(np.pad(own * self.odds, ((0, 0), (1, 0))), axis=1)
        odds_outcome = np.cumsum(np.pad(own * (self.odds * self.outcome), ((0, 0), (1, 0))), axis=1)
        return _Scan(
            mass=mass[:, None],
            fixed=own.sum(axis=1, keepdims=True),
            fixed_outcome=(own * self.outcome).sum(axis=1, keepdims=True),
            odds=odds,
            odds_outcome=odds_outcome,
        )


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """The rounds by group."""

    n_rounds: int
    gained: list[_Group]
    lost: list[_Group]
    manski: tuple[PerRound, PerRound] | None

    @classmethod
    def of(
        cls,
        *,
        arm: ArmIndex,
        outcome: PerRound,
        propensity: PerRound,
        target_probs: PerArm,
        against_probs: PerArm | None,
        normalise: Normalise,
        outcome_range: Range | None,
    ) -> _Groups:
        if normalise not in ("all", "arm"):
            raise InvalidParameterError(f"normalise must be 'all' or 'arm'; got {normalise!r}")
        gain = gain_of(target_probs, against_probs)
        every = np.arange(gain.shape[1])
        arms = [every] if normalise == "all" else [every[t : t + 1] for t in every]

        def groups(part: PerArm) -> list[_Group]:
            found: list[_Group] = []
            own = part[np.arange(arm.size), arm]
            for columns in arms:
                carried = part[:, columns].sum(axis=1)
                rows = np.flatnonzero(np.isin(arm, columns) & (own > 0))
                if rows.size == 0:
                    if carried.sum() > 1:
                        raise OverlapError(
                            f"a policy takes {carried.sum():.0f} decisions for arms {columns.tolist()} and no round of "
                            "this log shows what comes of them; leave them out, or log with exploration"
                        )
                    continue
                rows = rows[np.argsort(-outcome[rows], kind="stable")]
                found.append(
                    _Group(
                        rows=rows,
                        weight=own[rows],
                        outcome=outcome[rows],
                        odds=1 / propensity[rows] - 1,
                        carried=carried,
                    )
                )
            return found

        manski = None
        if outcome_range is not None:
            limits = manski_bounds(
                arm=arm,
                outcome=outcome,
                target_probs=target_probs,
                against_probs=against_probs,
                outcome_range=outcome_range,
            )
            manski = limits.low.terms[0].numerator, limits.high.terms[0].numerator
        return cls(
            n_rounds=arm.size,
            gained=groups(np.maximum(gain, 0.0)),
            lost=groups(np.maximum(-gain, 0.0)),
            manski=manski,
        )

    def scans(self, counts: NDArray[np.float64] | None) -> _Scans:
        n_resamples = 1 if counts is None else len(counts)
        limits = np.tile([[-np.inf], [np.inf]], (1, n_resamples))
        if self.manski is not None:
            limits = np.array(
                [
                    score.mean(keepdims=True) if counts is None else counts @ score / self.n_rounds
                    for score in self.manski
                ]
            )
        return _Scans(
            gained=[group.scan(counts) for group in self.gained],
            lost=[group.scan(counts) for group in self.lost],
            manski=limits,
        )

    def resampled(self, n_resamples: int, *, seed: int) -> Iterator[_Scans]:
        """Yield the scans of resamples of the rounds, in batches that bound memory."""
        rng = np.random.default_rng(seed)
        size = max(1, _BATCH_ENTRIES // self.n_rounds)
        share = np.full(self.n_rounds, 1 / self.n_rounds)
        for start in range(0, n_resamples, size):
            counts = rng.multinomial(self.n_rounds, share, size=min(size, n_resamples - start)).astype(np.float64)
            yield self.scans(counts)


def _lowest(scans: _Scans, gamma: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower bound in each resample.

    Manski's bound of a sample may lie above its self-normalised value, and then does not count.
    """
    value = np.atleast_1d(np.asarray(gamma, dtype=np.float64))
    value_itself = _total(scans, np.ones(1), gained_greatest=False)
    free = _total(scans, value, gained_greatest=False)
    return np.asarray(np.maximum(free, np.minimum(scans.manski[0], value_itself)))


def _highest(scans: _Scans, gamma: float | NDArray[np.float64]) -> NDArray[np.float64]:
    value = np.atleast_1d(np.asarray(gamma, dtype=np.float64))
    value_itself = _total(scans, np.ones(1), gained_greatest=True)
    free = _total(scans, value, gained_greatest=True)
    return np.asarray(np.minimum(free, np.maximum(scans.manski[1], value_itself)))


def _total(scans: _Scans, gamma: NDArray[np.float64], *, gained_greatest: bool) -> NDArray[np.float64]:
    total = np.zeros(scans.manski.shape[1])
    for scan in scans.gained:
        total += scan.extreme(gamma, greatest=gained_greatest)
    for scan in scans.lost:
        total -= scan.extreme(gamma, greatest=not gained_greatest)
    return total


def _n_beyond(n_resamples: int, *, level: float) -> int:
    """Return how many resamples lie beyond each end of a percentile interval."""
    return int((1 - level) / 2 * n_resamples)


def _flips(scans: _Scans, *, largest: float) -> NDArray[np.float64]:
    return flips(lambda gamma: _lowest(scans, gamma), n_resamples=scans.manski.shape[1], largest=largest)


def _check_resamples(n_resamples: int, *, level: float) -> None:
    if n_resamples < 0:
        raise InvalidParameterError(f"n_resamples must be at least 0; got {n_resamples}")
    if not 0 < level < 1:
        raise InvalidParameterError(f"level must be in (0, 1); got {level}")
