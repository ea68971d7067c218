"""What a judge is like beside gold: its bias and where it differs, its agreement, and what its labels are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.fusion.base import JudgedRounds
from pointsman.fusion.fuse import COMMON, LEAST_GOLD
from pointsman.nuisance.blocks import Block, BlockRidge
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.types import ArmIndex, PerRound

Basis: TypeAlias = Literal["paired", "expected"]
"""How judge and gold are compared: on the rounds that have both labels, or by what the judge is expected to say."""

GAMED_VARIANCE = 0.1
"""A judge hardly varies on an arm where its variance is under a tenth of that within the other arms."""

LEAST_SCORES = 20
"""Scores of a judge on an arm before that is asked: of as many, normal ones vary by under a tenth of their true
variance less than once in 10^6 (the chi-square on 19 degrees at 10^-6 is 0.119 of its mean), so chance flags no arm."""

PLUS = 4
"""Prompts that an interval is widened by, after Agresti and Coull's "add four"."""

N_FOLDS = 5
"""Folds in which gold is predicted from one judge, to tell what its labels are worth."""


@dataclass(frozen=True, kw_only=True)
class Bias:
    """E[judge - gold] over the judged rounds of a cell.

    Attributes:
        judge: Whose.
        by: What the cell is cut by: "overall", "arm", or the name of a slice's column.
        cell: The arm, or the slice's label; empty for "overall".
        value: In quality points, in [-1, 1]; above zero the judge is too kind. NaN where no gold label is in the cell.
        standard_error: Of `value`; NaN where gold labels of fewer than two prompts are in the cell.
        ci_low: Lower end of the interval.
        ci_high: Upper end.
        n_gold: Gold labels the value rests on.
        n_judged: The judge's labels in the cell.
        basis: How judge and gold were compared.
        p_value: Of the cell's bias being the judge's overall one, adjusted by Holm over all cells of the judge; NaN
            for "overall" and where there is no standard error.
        differs: Whether `p_value` is under one minus the level.
        gamed: Of an arm: whether the judge scores it far above gold while hardly varying; see `judge_biases`.
    """

    judge: str
    by: str
    cell: str
    value: float
    standard_error: float
    ci_low: float
    ci_high: float
    n_gold: int
    n_judged: int
    basis: Basis
    p_value: float
    differs: bool
    gamed: bool


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well a judge's labels go with gold, on the rounds that have both, each weighing one over rho.

    Attributes:
        judge: Whose.
        n_pairs: Rounds with both labels; all that follows is NaN where there are fewer than two.
        correlation: Pearson's; NaN where either does not vary. A constant has none.
        rank_correlation: Spearman's.
        absolute_difference: Mean of |judge - gold|.
        constant_absolute_difference: The same of the best constant, the median gold label.
        rmse: Root of the mean of (judge - gold)^2.
        constant_rmse: The same of the best constant, the mean gold label.
        auc: Where gold is 0 or 1: the chance that a good answer scores above a bad one, ties half; 0.5 for a constant.
            NaN elsewhere.
    """

    judge: str
    n_pairs: int
    correlation: float
    rank_correlation: float
    absolute_difference: float
    constant_absolute_difference: float
    rmse: float
    constant_rmse: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Rounds that a judge scored alike, and what gold says of them.

    Attributes:
        judge: Whose.
        low: Least of its scores in the bin.
        high: Largest.
        judged: Their mean.
        gold: Mean gold label.
        ci_low: Lower end of its interval.
        ci_high: Upper end.
        n_pairs: Rounds.
    """

    judge: str
    low: float
    high: float
    judged: float
    gold: float
    ci_low: float
    ci_high: float
    n_pairs: int


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a judge's labels are worth in gold labels, for estimating the mean gold label of the labelled rounds.

    Attributes:
        judge: Whose.
        n_judged: Its labels.
        n_gold: Gold labels there are.
        standard_error: Of the mean, with this judge's labels.
        gold_only_standard_error: The same without.
        replaced: Gold labels that all its labels replace: what as many more would have narrowed as much, >= 0.
        ci_low: Lower end of the interval.
        ci_high: Upper end.
        per_thousand: The same for 1,000 of its labels: 1,000 replaced / n_judged.
        usd_per_gold_label: What the judge's labels cost for each gold label they replace, in USD; infinite where they
            replace none, NaN where their price is not known.
        worth_its_price: Whether that is less than a gold label costs; None where a price is not known.
    """

    judge: str
    n_judged: int
    n_gold: int
    standard_error: float
    gold_only_standard_error: float
    replaced: float
    ci_low: float
    ci_high: float
    per_thousand: float
    usd_per_gold_label: float
    worth_its_price: bool | None


def judge_biases(
    rounds: JudgedRounds,
    *,
    probability: PerRound,
    slices: Mapping[str, Sequence[str]] | None = None,
    level: float = 0.95,
) -> tuple[Bias, ...]:
    """Return each judge's bias overall, by arm and by slice.

    Where the judge scored rounds with gold labels about as often as others, its bias in a cell is a mean over the
    rounds that have both, R whether gold is known and w = R / rho,

        b = sum_i w_i (judge_i - gold_i) / sum_i w_i                                                ("paired")

    and elsewhere, with p what the judge would be expected to say (`JudgedRounds.expected`),

        b = sum_i w_i (p_i - gold_i) / sum_i w_i + mean over what it scored of (judge_i - p_i)      ("expected")

    which is doubly robust: p need not be right if the judge's rounds are as good as drawn at random. Standard errors
    are those of the influence function, summed by prompt, times (G / (G - 1))^1/2 for G prompts, widened as if four of
    them lay off by the judge's overall spread: else a few equal differences would claim certainty. Intervals are
    Student's, on the effective number of prompts minus one.

    A cell differs where Holm's test of b minus the judge's overall bias rejects. An arm is gamed where its bias, and
    the excess of it over that of the other arms, are each, with confidence `level`, more than the standard deviation of
    the judge's scores within other arms, and its variance on the arm is under `GAMED_VARIANCE` of theirs: whatever the
    arm answers gets more than what the judge otherwise gives a better answer.

    Args:
        rounds: The rounds with their labels.
        probability: (n_rounds,) rho, the probability of a gold label, in (0, 1].
        slices: For each column to slice by, a label of each round.
        level: Coverage of the intervals, in (0, 1).

    Raises:
        InvalidParameterError: `level` or a probability is outside its range, or a slice is not one label a round.

    References:
        Holm (1979), Scandinavian Journal of Statistics 6(2); Hajek (1971): the ratio of weighted sums; Liang and
        Zeger (1986), Biometrika 73(1): sums by cluster; Agresti and Coull (1998), The American Statistician 52(2): four
        more. The rule for gamed arms is this package's own.
    """
    _check(rounds, probability, level)
    cuts: list[tuple[str, str, NDArray[np.bool_]]] = []
    if rounds.n_arms > 1:
        cuts += [("arm", name, rounds.arm == t) for t, name in enumerate(rounds.arms)]
    for column, labels in (slices or {}).items():
        values = np.asarray(labels, dtype=object)
        if values.shape != (rounds.n_rounds,):
            raise InvalidParameterError(f"slices must hold one label a round; {column!r} has shape {values.shape}")
        known = [value for value in dict.fromkeys(labels) if value is not None]
        cuts += [(column, str(value), values == value) for value in sorted(known)]
    return tuple(row for j in range(rounds.n_judges) for row in _of_judge(rounds, j, probability, cuts, level=level))


def agreements(rounds: JudgedRounds, *, probability: PerRound) -> tuple[Agreement, ...]:
    """Return each judge's agreement with gold.

    Args:
        rounds: The rounds with their labels.
        probability: (n_rounds,) rho, the probability of a gold label, in (0, 1].
    """
    _check(rounds, probability, 0.5)
    found = []
    for j, name in enumerate(rounds.judges):
        both = rounds.has_gold & ~np.isnan(rounds.judged[:, j])
        judged, gold, weight = rounds.judged[both, j], rounds.gold[both], 1 / probability[both]
        known = judged.size >= 2
        weight = weight / weight.sum()
        mean = float(weight @ gold)
        found.append(
            Agreement(
                judge=name,
                n_pairs=judged.size,
                correlation=_correlation(judged, gold, weight),
                rank_correlation=_correlation(_ranks(judged, weight), _ranks(gold, weight), weight),
                absolute_difference=float(weight @ abs(judged - gold)) if known else math.nan,
                constant_absolute_difference=float(weight @ abs(gold - _median(gold, weight))) if known else math.nan,
                rmse=math.sqrt(weight @ (judged - gold) ** 2) if known else math.nan,
                constant_rmse=math.sqrt(weight @ (gold - mean) ** 2) if known else math.nan,
                auc=_auc(judged, gold, weight),
            )
        )
    return tuple(found)


def calibration_curves(
    rounds: JudgedRounds, *, probability: PerRound, n_bins: int = 10, level: float = 0.95
) -> tuple[CalibrationBin, ...]:
    """Return the mean gold label of what each judge scored alike, in bins of about equal numbers of rounds.

    Equal scores share a bin, so a judge with few different scores has fewer bins. Intervals as in `judge_biases`.

    Args:
        rounds: The rounds with their labels.
        probability: (n_rounds,) rho, the probability of a gold label, in (0, 1].
        n_bins: Bins of a judge at most.
        level: Coverage of the intervals, in (0, 1).
    """
    _check(rounds, probability, level)
    found = []
    for j, name in enumerate(rounds.judges):
        rows = np.flatnonzero(rounds.has_gold & ~np.isnan(rounds.judged[:, j]))
        if rows.size < 2:
            continue
        judged, gold, weight = rounds.judged[rows, j], rounds.gold[rows], 1 / probability[rows]
        edges = np.unique(np.quantile(judged, np.linspace(0, 1, n_bins + 1)[1:-1], method="higher"))
        place = np.searchsorted(edges, judged, side="right")
        spread = float(((gold - np.average(gold, weights=weight)) ** 2).mean())
        for k in np.unique(place):
            mine = place == k
            estimate = _ratio(gold[mine], weight[mine], rounds.group[rows[mine]], spread=spread)
            low, high = estimate.interval(level)
            found.append(
                CalibrationBin(
                    judge=name,
                    low=float(judged[mine].min()),
                    high=float(judged[mine].max()),
                    judged=float(np.average(judged[mine], weights=weight[mine])),
                    gold=estimate.value,
                    ci_low=max(low, 0.0),
                    ci_high=min(high, 1.0),
                    n_pairs=int(mine.sum()),
                )
            )
    return tuple(found)


def judge_worth(
    rounds: JudgedRounds,
    *,
    probability: PerRound,
    price_usd: Mapping[str, float] | None = None,
    gold: str = "gold",
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Worth, ...]:
    """Return what each judge's labels alone are worth: how many gold labels they replace, and at what price.

    With m the gold label expected by arm and judge (a regression with partially pooled arms and slopes, out of fold by
    prompt) and m0 the same by arm alone, the mean gold label is estimated by the mean of m + R / rho (gold - m), whose
    variance is V, against V0 with m0. Variances go as one over the number of gold labels, so the judge's labels stand
    for n (V0 / V - 1) of them. The interval is that of log(V0 / V), by its influence function. Where a judge said
    nothing of a round, it is taken to have said what it would be expected to say.

    Args:
        rounds: The rounds with their labels; at least one judge's.
        probability: (n_rounds,) rho, the probability of a gold label, in (0, 1].
        price_usd: Price of one label of each source, in USD.
        gold: Name of the gold source in `price_usd`.
        level: Coverage of the intervals, in (0, 1).
        seed: Draws the folds.

    Raises:
        InvalidParameterError: There are gold labels of fewer than two prompts, or a price is negative.

    References:
        Angelopoulos, Duchi and Zrnic (2023), arXiv 2311.01453: effective sample size of a judge; the comparison with
        arms' means, and in USD, is this package's own.
    """
    _check(rounds, probability, level)
    prices = dict(price_usd or {})
    for source, price in prices.items():
        if not price >= 0:
            raise InvalidParameterError(f"price_usd of {source!r} must be >= 0, in USD a label; got {price}")
    labelled = np.flatnonzero(rounds.has_gold | rounds.is_judged)
    some, rho = rounds.take(labelled), probability[labelled]
    without = _influence(some, rho, None, seed=seed)
    found = []
    for j, name in enumerate(rounds.judges):
        said = ~np.isnan(some.judged[:, j])
        heard = np.where(said & _scored_alike(some, j), some.judged[:, j], some.expected[:, j])
        squares, squares_without = (
            np.bincount(_codes(some.group), weights=each) ** 2
            for each in (_influence(some, rho, heard, seed=seed), without)
        )
        total, total_without = float(squares.sum()), float(squares_without.sum())
        n_gold, n_judged = int(some.has_gold.sum()), int(said.sum())
        log_ratio = math.log(total_without / total) if min(total, total_without) > 0 else 0.0
        error = math.sqrt(float(((squares_without / total_without - squares / total) ** 2).sum())) if total > 0 else 0.0
        low, middle, high = (
            n_gold * max(math.expm1(log_ratio + z * error), 0.0) for z in (-_normal(level), 0.0, _normal(level))
        )
        spent = prices.get(name, math.nan) * n_judged
        of_each = spent / middle if middle > 0 else (math.inf if spent == spent else math.nan)
        known = not math.isnan(of_each) and gold in prices
        found.append(
            Worth(
                judge=name,
                n_judged=n_judged,
                n_gold=n_gold,
                standard_error=math.sqrt(total) / labelled.size,
                gold_only_standard_error=math.sqrt(total_without) / labelled.size,
                replaced=middle,
                ci_low=low,
                ci_high=high,
                per_thousand=1000 * middle / n_judged if n_judged else 0.0,
                usd_per_gold_label=of_each,
                worth_its_price=of_each < prices[gold] if known else None,
            )
        )
    return tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Estimate:
    """A mean with its influence: psi of each row, which sums to zero, and the variance added for prompts not seen."""

    value: float
    rows: NDArray[np.int64]
    influence: PerRound
    n_effective: float
    slack: float
    standard_error: float

    def interval(self, level: float) -> tuple[float, float]:
        from scipy.stats import t

        if math.isnan(self.standard_error):
            return math.nan, math.nan
        aside = float(t.ppf((1 + level) / 2, max(self.n_effective - 1, 1.0))) * self.standard_error
        return self.value - aside, self.value + aside


def _ratio(
    value: PerRound,
    weight: PerRound,
    group: NDArray[np.int64],
    *,
    spread: float,
    rows: NDArray[np.int64] | None = None,
) -> _Estimate:
    """Return the weighted mean of some rows."""
    total = float(weight.sum())
    mean = float(weight @ value) / total
    influence = weight * (value - mean) / total
    by_prompt = np.bincount(_codes(group), weights=weight)
    slack = PLUS * spread / by_prompt.size**2
    return _Estimate(
        value=mean,
        rows=np.arange(value.size) if rows is None else rows,
        influence=influence,
        n_effective=total**2 / float(by_prompt @ by_prompt),
        slack=slack,
        standard_error=_error(influence, group, slack=slack),
    )


def _error(influence: PerRound, group: NDArray[np.int64], *, slack: float) -> float:
    """Return the standard error of what has this influence, summed by prompt."""
    sums = np.bincount(_codes(group), weights=influence)
    if sums.size < 2:
        return math.nan
    return math.sqrt(float(sums @ sums) * sums.size / (sums.size - 1) + slack)


def _of_judge(
    rounds: JudgedRounds,
    j: int,
    probability: PerRound,
    cuts: list[tuple[str, str, NDArray[np.bool_]]],
    *,
    level: float,
) -> Iterator[Bias]:
    from scipy.stats import t

    said = ~np.isnan(rounds.judged[:, j])
    basis: Basis = "paired" if _scored_alike(rounds, j) else "expected"
    compared = rounds.has_gold & said if basis == "paired" else rounds.has_gold
    difference = (rounds.judged[:, j] if basis == "paired" else rounds.expected[:, j]) - rounds.gold
    surprise = rounds.judged[:, j] - rounds.expected[:, j]
    spread = float(difference[compared].var()) if compared.any() else math.nan

    def estimate(cell: NDArray[np.bool_]) -> _Estimate | None:
        rows = np.flatnonzero(cell & compared)
        if rows.size == 0:
            return None
        found = _ratio(difference[rows], 1 / probability[rows], rounds.group[rows], spread=spread, rows=rows)
        if basis == "paired":
            return found
        scored = np.flatnonzero(cell & said)
        if scored.size == 0:
            return None
        center = float(surprise[scored].mean())
        both = np.concatenate([rows, scored])
        influence = np.concatenate([found.influence, (surprise[scored] - center) / scored.size])
        many = np.unique(rounds.group[rows]).size > 1
        return _Estimate(
            value=found.value + center,
            rows=both,
            influence=influence,
            n_effective=found.n_effective,
            slack=found.slack,
            standard_error=_error(influence, rounds.group[both], slack=found.slack) if many else math.nan,
        )

    overall = estimate(np.ones(rounds.n_rounds, dtype=np.bool_))
    cells = [("overall", "", np.ones(rounds.n_rounds, dtype=np.bool_)), *cuts]
    estimates = [overall, *(estimate(cell) for _, _, cell in cuts)]
    p_values = np.full(len(cells), np.nan)
    for k, found in enumerate(estimates):
        if k == 0 or found is None or overall is None or math.isnan(found.standard_error):
            continue
        rows = np.concatenate([found.rows, overall.rows])
        influence = np.concatenate([found.influence, -overall.influence])
        apart = found.value - overall.value
        # Of the cell's own share nothing is left in the difference, so neither is its slack.
        inside = float((1 / probability[cells[k][2] & compared]).sum() / (1 / probability[compared]).sum())
        if inside < 1:
            error = _error(influence, rounds.group[rows], slack=found.slack * (1 - inside) ** 2)
            p_values[k] = 2 * float(t.sf(abs(apart) / error, max(found.n_effective - 1, 1.0))) if error > 0 else 1.0
    p_values = _holm(p_values)
    for k, ((by, name, cell), found) in enumerate(zip(cells, estimates, strict=True)):
        low, high = (math.nan, math.nan) if found is None else found.interval(level)
        yield Bias(
            judge=rounds.judges[j],
            by=by,
            cell=name,
            value=math.nan if found is None else found.value,
            standard_error=math.nan if found is None else found.standard_error,
            ci_low=max(low, -1.0) if low == low else low,
            ci_high=min(high, 1.0) if high == high else high,
            n_gold=int((cell & compared).sum()),
            n_judged=int((cell & said).sum()),
            basis=basis,
            p_value=float(p_values[k]),
            differs=bool(p_values[k] < 1 - level),
            gamed=by == "arm"
            and found is not None
            and _is_gamed(rounds, j, cell, own=found, others=estimate(~cell), level=level),
        )


def _is_gamed(
    rounds: JudgedRounds,
    j: int,
    of_arm: NDArray[np.bool_],
    *,
    own: _Estimate,
    others: _Estimate | None,
    level: float,
) -> bool:
    said = ~np.isnan(rounds.judged[:, j])
    scores = rounds.judged[of_arm & said, j]
    elsewhere = _within_arms(rounds.judged[~of_arm & said, j], rounds.arm[~of_arm & said])
    if others is None or scores.size < LEAST_SCORES or math.isnan(own.standard_error + others.standard_error):
        return False
    from scipy.stats import t

    quantile = float(t.ppf(level, max(min(own.n_effective, others.n_effective) - 1, 1.0)))
    above_gold = own.value - quantile * own.standard_error
    above_others = own.value - others.value - quantile * math.hypot(own.standard_error, others.standard_error)
    return bool(
        min(above_gold, above_others) > math.sqrt(elsewhere) and scores.var(ddof=1) < GAMED_VARIANCE * elsewhere
    )


def _within_arms(scores: PerRound, arm: ArmIndex) -> float:
    """Return the variance of scores about their arm's mean."""
    if scores.size == 0:
        return 0.0
    _, code, count = np.unique(arm, return_inverse=True, return_counts=True)
    mean = np.bincount(code, weights=scores) / count
    return float(((scores - mean[code]) ** 2).sum() / max(scores.size - count.size, 1))


def _influence(rounds: JudgedRounds, probability: PerRound, heard: PerRound | None, *, seed: int) -> PerRound:
    """Return (m + R / rho (gold - m)) minus its mean, m by arm and, where given, by what was heard of the judge."""
    has_gold = rounds.has_gold
    rows = np.flatnonzero(has_gold)
    n_folds = min(N_FOLDS, np.unique(rounds.group[rows]).size)
    if n_folds < 2:
        raise InvalidParameterError("gold must hold labels of at least two prompts; got fewer: have more labelled")
    own = (rounds.arm[:, None] == np.arange(rounds.n_arms)).astype(np.float64)
    design = [np.ones((rounds.n_rounds, 1)), own]
    blocks = [
        Block(name="constant", n_columns=1, variance=1.0, log_sd=0.0),
        Block(name="arm", n_columns=rounds.n_arms, variance=0.01),
    ]
    if heard is not None:
        level = (heard - heard.mean())[:, None]
        design += [level, own * level]
        blocks += [
            Block(name="judge", n_columns=1, variance=1.0, log_sd=0.0),
            Block(name="judge by arm", n_columns=rounds.n_arms, variance=0.01),
        ]
    features = np.hstack(design)
    fold = np.full(rounds.n_rounds, -1)
    fold[rows] = assign_folds(rows.size, n_folds=n_folds, seed=seed, groups=rounds.group[rows])
    expected = np.zeros(rounds.n_rounds)
    for k in range(n_folds):
        taught = rows[fold[rows] != k]
        fitted = BlockRidge(blocks, noise=0.05).fit([(features[taught], rounds.gold[taught])])
        predicted = fitted.predict(features)
        expected[fold == k] = predicted[fold == k]
        expected[~has_gold] += predicted[~has_gold] / n_folds
    gap = np.where(has_gold, (rounds.gold - expected) / probability, 0.0)
    # Hajek's centring: that the weights do not average one in this sample is no variance of the mean.
    offset = gap.sum() / np.where(has_gold, 1 / probability, 0.0).sum()
    return np.asarray(expected - expected.mean() + np.where(has_gold, gap - offset / probability, 0.0))


def _scored_alike(rounds: JudgedRounds, j: int) -> bool:
    """Return whether the judge scored gold rounds about as often as others, as `fuse` asks before it uses its words."""
    said, has_gold = ~np.isnan(rounds.judged[:, j]), rounds.has_gold
    n_pairs, n_others = int((said & has_gold).sum()), int((~has_gold).sum())
    among_others = float(said[~has_gold].mean()) if n_others else 0.0
    return n_pairs >= LEAST_GOLD and n_pairs / has_gold.sum() >= COMMON * among_others


def _check(rounds: JudgedRounds, probability: PerRound, level: float) -> None:
    if not 0 < level < 1:
        raise InvalidParameterError(f"level must be in (0, 1), such as 0.95; got {level}")
    if probability.shape != (rounds.n_rounds,):
        raise InvalidParameterError(f"probability must be one a round, {rounds.n_rounds}; got {probability.shape}")
    outside = ~((probability > 0) & (probability <= 1))
    if outside.any():
        raise InvalidParameterError(f"probability must be in (0, 1]; got {probability[outside][0]}")


def _holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Holm's adjusted p values; NaN stays and counts for nothing."""
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known])]
    stepped = p_values[order] * (known.size - np.arange(known.size))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def _codes(group: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(np.unique(group, return_inverse=True)[1])


def _normal(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def _correlation(a: PerRound, b: PerRound, weight: PerRound) -> float:
    if a.size < 2:
        return math.nan
    x, y = a - weight @ a, b - weight @ b
    scale = math.sqrt(float(weight @ x**2) * float(weight @ y**2))
    # A constant differs from its own mean by rounding, which correlates with anything.
    return float(weight @ (x * y)) / scale if min(np.ptp(a), np.ptp(b)) > 0 and scale > 0 else math.nan


def _ranks(values: PerRound, weight: PerRound) -> PerRound:
    """Return the weight below each value plus half of that at it: midranks where weights are equal."""
    _, code = np.unique(values, return_inverse=True)
    at = np.bincount(code, weights=weight) if code.size else np.empty(0)
    return np.asarray((np.cumsum(at) - at / 2)[code])


def _median(values: PerRound, weight: PerRound) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weight[order]), 0.5)])


def _auc(judged: PerRound, gold: PerRound, weight: PerRound) -> float:
    good, bad = gold == 1, gold == 0
    if not (good | bad).all() or not good.any() or not bad.any():
        return math.nan
    scores, code = np.unique(judged, return_inverse=True)
    of_good = np.bincount(code[good], weights=weight[good], minlength=scores.size)
    of_bad = np.bincount(code[bad], weights=weight[bad], minlength=scores.size)
    return float(of_good @ (np.cumsum(of_bad) - of_bad / 2)) / (float(of_good.sum()) * float(of_bad.sum()))
