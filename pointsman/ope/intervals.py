"""Intervals for an estimate: asymptotic ones, and bounds that hold for every number of rounds.

`wald`, `bootstrap` and `joint_intervals` read an estimate's terms or influence, and hold as rounds accumulate.
`empirical_bernstein`, `betting` and `off_policy_bounds` hold at any number of rounds, one-sided too, on conditions that
each states.

Betting. For a mean m on trial, start with a capital of 1 and stake a part of it on every round:

    K_t(m) = prod_{i <= t} (1 + b_i (X_i - m)),    0 <= b_i <= BOLDNESS / (m - lowest possible X_i)

with b_i fixed before round i is seen. At the true mean the capital is a martingale that stays positive, so it ever
reaches 1 / alpha with probability at most alpha (Ville); every m it is reached at lies below the mean, at level alpha.
K_t(m) falls in m, so these m are an interval, and bisection finds its end. Values need no upper bound: this is what
makes it fit importance weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.types import ArmIndex, PerArm, PerRound

Side: TypeAlias = Literal["two-sided", "lower", "upper"]
"""Which ends an interval has; a one-sided one spends all of 1 - level on its end."""

BOLDNESS = 0.75
"""Largest part of the capital that one round may take (Waudby-Smith and Ramdas propose 1/2 or 3/4)."""

PRIOR_VARIANCE = 1.0
"""Added to the sum of squares that bets go by, in squared units: 4 rounds of the largest variance that values in a
range of one unit can have. With less, the first rounds are bet on too boldly while large weights have yet to come."""

N_BISECTIONS = 45
"""Halvings of the range of a bound: to 3e-14 of it."""

N_CONTROL_SHARES = 11
"""Shares of the control that bets choose from: 0, 0.1, ..., 1."""


def wald(
    value: float, *, standard_error: float, level: float = 0.95, degrees_of_freedom: float = math.inf
) -> tuple[float, float]:
    """Return the normal interval value -+ z standard_error, z the (1 + level) / 2 quantile of the standard normal.

    With finite `degrees_of_freedom`, of Student's t with so many. Its coverage tends to `level` as rounds accumulate,
    if the estimate is unbiased and no few rounds dominate it.

    Raises:
        InvalidParameterError: `level` lies outside (0, 1).
    """
    check_level(level)
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    if math.isfinite(degrees_of_freedom):
        from scipy.special import stdtrit

        quantile = float(stdtrit(degrees_of_freedom, (1 + level) / 2))
    half_width = quantile * standard_error
    return value - half_width, value + half_width


def bootstrap(
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    *,
    level: float = 0.95,
    n_resamples: int = 2_000,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bootstrap interval of sum_j sum_i(a_ij) / sum_i(b_ij).

    Every round counts a Poisson(1) number of times in a resample. Given their total the counts are the multinomial
    ones of drawing rounds with replacement, and the total cancels in a ratio; independent counts come from a table,
    and a resample is a row of a matrix product, several times faster than drawing indices. Memory does not grow with
    `n_resamples`. The table's probabilities are multiples of 2^-16; its mean and variance are 1 exactly.

    Args:
        numerators: (n_terms, n_rounds) a_ij.
        denominators: (n_terms, n_rounds) b_ij; all ones where the term is a mean.
        level: Coverage it tends to.
        n_resamples: Resamples.
        method: `"percentile"`, or `"bca"`, which corrects for bias and skewness by moving the quantiles.
        seed: Of the counts.

    Returns:
        Low and high; NaN where a denominator is zero, in the rounds or in a resample: too few rounds carry weight.

    Raises:
        InvalidParameterError: `level` or `n_resamples` breaks its rule, or shapes differ.

    References:
        Efron (1979), Annals of Statistics 7(1), and (1987), JASA 82(397): BCa; Hanley and MacGibbon (2006), Computer
        Methods and Programs in Biomedicine 83(1): Poisson counts.
    """
    check_level(level)
    if numerators.ndim != 2 or numerators.shape != denominators.shape or numerators.shape[1] < 1:
        raise InvalidParameterError(
            "numerators and denominators must both be (n_terms, n_rounds) with at least one round; "
            f"got {numerators.shape} and {denominators.shape}"
        )
    if n_resamples < 2:
        raise InvalidParameterError(f"n_resamples must be at least 2; got {n_resamples}")
    if method not in ("percentile", "bca"):
        raise InvalidParameterError(f"method must be 'percentile' or 'bca'; got {method!r}")
    total = denominators.sum(axis=1)
    if (total == 0).any():
        return math.nan, math.nan
    n_terms, n_rounds = numerators.shape
    ratio = numerators.sum(axis=1) / total
    # Deviations from the ratio keep their digits in single precision, whatever the outcome's level.
    deviation = numerators - ratio[:, None] * denominators
    scale = np.abs(deviation).max() or 1.0
    sums = _resampled_sums(
        np.concatenate([deviation / scale, denominators * (n_rounds / total)[:, None]]), n_resamples, seed=seed
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = (sums[:, :n_terms] / sums[:, n_terms:] * (scale * n_rounds / total)).sum(axis=1)
    if not np.isfinite(moves).all():
        return math.nan, math.nan
    probability = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        probability = bca_quantiles(probability, moves=moves, influence=(deviation / total[:, None]).sum(axis=0))
    low, high = np.quantile(moves, probability)
    value = math.fsum(ratio)
    return value + float(low), value + float(high)


def _resampled_sums(columns: NDArray[np.float64], n_resamples: int, *, seed: int) -> NDArray[np.float64]:
    """Return (n_resamples, n_columns) sums over rounds of (n_columns, n_rounds), each round counted Poisson times."""
    n_columns, n_rounds = columns.shape
    table = _poisson_table()
    bits = np.random.SFC64(seed)
    sums = np.zeros((n_resamples, n_columns))
    # Blocks of 2^20 counts stay in the cache, from the bits to the product.
    n_block_rounds = min(1 << 15, n_rounds + -n_rounds % 4)
    n_block_rows = max(1, (1 << 20) // n_block_rounds)
    counts = np.empty(n_block_rows * n_block_rounds, dtype=np.float32)
    for start in range(0, n_rounds, n_block_rounds):
        block = columns[:, start : start + n_block_rounds].T.astype(np.float32)
        for row in range(0, n_resamples, n_block_rows):
            n_rows = min(n_block_rows, n_resamples - row)
            drawn = bits.random_raw(n_rows * n_block_rounds // 4).view(np.uint16)
            np.take(table, drawn, out=counts[: drawn.size], mode="clip")
            sums[row : row + n_rows] += counts[: drawn.size].reshape(n_rows, n_block_rounds)[:, : len(block)] @ block
    return sums


def _poisson_table() -> NDArray[np.float32]:
    """Return 2^16 counts that occur as often as Poisson(1) gives them, mean and variance exactly 1."""
    size = 1 << 16
    occurrences = np.array([round(size / math.e / math.factorial(count)) for count in range(9)])
    count = np.arange(9)
    # The three smallest counts make up for rounding in E N (N - 1) = E N = 1.
    occurrences[2] = (size - (count * (count - 1) * occurrences)[3:].sum()) // 2
    occurrences[1] = size - (count * occurrences)[2:].sum()
    occurrences[0] = size - occurrences[1:].sum()
    return np.repeat(count.astype(np.float32), occurrences)


def bca_quantiles(
    probability: NDArray[np.float64], *, moves: NDArray[np.float64], influence: PerRound
) -> NDArray[np.float64]:
    """Return the probabilities at which BCa reads the resampled `moves` from the estimate, in place of these."""
    normal = NormalDist()
    below = np.clip((moves < 0).mean() + (moves == 0).mean() / 2, 0.5 / moves.size, 1 - 0.5 / moves.size)
    bias = normal.inv_cdf(float(below))
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = np.array([bias + normal.inv_cdf(p) for p in probability])
    # The correction turns over where the skewness is beyond what it can correct: all of the tail is then taken.
    stretch = np.maximum(1 - acceleration * shifted, 1e-9)
    return np.array([normal.cdf(z) for z in bias + shifted / stretch])


class JointIntervals(NamedTuple):
    """Intervals that hold all at once."""

    low: NDArray[np.float64]
    """(n_estimates,)"""
    high: NDArray[np.float64]
    """(n_estimates,)"""
    critical_value: float
    """Standard errors from an estimate to its end, the same for all."""


def joint_intervals(
    values: NDArray[np.float64] | Sequence[float],
    influences: NDArray[np.float64] | Sequence[PerRound],
    *,
    level: float = 0.95,
    side: Side = "two-sided",
    n_draws: int = 20_000,
    seed: int = 0,
) -> JointIntervals:
    """Return intervals that all hold at once with probability `level`, for estimates on the same rounds.

    Each is value -+ c standard_error, c the `level` quantile of the largest |z_j| (of the largest z_j, one-sided), z
    normal with the correlations of the influences. The Gaussian multiplier bootstrap draws the same law round by
    round; here the rounds are read once, for M^2 n products, and a draw costs M. c is at least one estimate's own
    quantile; estimates that move together cost less than Bonferroni's.

    An estimate that does not vary is its own interval and no part of the band; so is NaN for one that is not known.

    Args:
        values: (n_estimates,) the estimates.
        influences: (n_estimates, n_rounds) their influences.
        level: Coverage of all at once that it tends to.
        side: Which ends; the other is infinite.
        n_draws: Draws for c.
        seed: Of the draws.

    Raises:
        InvalidParameterError: `level`, `side` or `n_draws` breaks its rule, or shapes do not fit.

    References:
        Chernozhukov, Chetverikov and Kato (2013), Annals of Statistics 41(6).
    """
    tail = tail_of(level, side)
    value = np.asarray(values, dtype=np.float64)
    influence = np.asarray(influences, dtype=np.float64)
    if value.ndim != 1 or influence.ndim != 2 or len(influence) != value.size or influence.shape[1] < 2:
        raise InvalidParameterError(
            "values must be (n_estimates,) and influences (n_estimates, n_rounds) with at least two rounds; "
            f"got {value.shape} and {influence.shape}"
        )
    if n_draws < 1:
        raise InvalidParameterError(f"n_draws must be at least 1; got {n_draws}")
    n_rounds = influence.shape[1]
    mean = influence.mean(axis=1)
    covariance = (influence @ influence.T - n_rounds * np.outer(mean, mean)) / (n_rounds - 1)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    # Rounding errors of a constant have no correlation worth a name.
    varies = spread > 16 * np.finfo(np.float64).eps * np.maximum(1.0, np.abs(value))
    critical_value = _largest_normal(
        covariance[np.ix_(varies, varies)] / np.outer(spread[varies], spread[varies]),
        level=level,
        tail=tail,
        two_sided=side == "two-sided",
        n_draws=n_draws,
        seed=seed,
    )
    half_width = np.where(varies, critical_value * spread / math.sqrt(n_rounds), np.where(np.isnan(spread), np.nan, 0))
    low = np.full(value.size, -np.inf) if side == "upper" else value - half_width
    high = np.full(value.size, np.inf) if side == "lower" else value + half_width
    return JointIntervals(low, high, critical_value)


def _largest_normal(
    correlation: NDArray[np.float64], *, level: float, tail: float, two_sided: bool, n_draws: int, seed: int
) -> float:
    """Return the `level` quantile of max |z| or max z, z ~ N(0, correlation), at least that of one z."""
    own = -NormalDist().inv_cdf(tail)
    n_estimates = len(correlation)
    if n_estimates < 2:
        return own
    eigenvalues, vectors = np.linalg.eigh(correlation)
    root = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))).T
    rng = np.random.default_rng(seed)
    largest = np.empty(n_draws)
    n_block = max(1, (1 << 20) // n_estimates)
    for start in range(0, n_draws, n_block):
        drawn = rng.standard_normal((min(n_block, n_draws - start), n_estimates)) @ root
        largest[start : start + len(drawn)] = (np.abs(drawn) if two_sided else drawn).max(axis=1)
    return max(own, float(np.quantile(largest, level)))


def empirical_bernstein(
    values: PerRound, *, low: float, high: float, level: float = 0.95, side: Side = "two-sided"
) -> tuple[float, float]:
    """Return bounds of the mean of independent values in [low, high], valid at every number of rounds.

        mean -+ ( sqrt(2 v ln(2 / a) / n) + 7 (high - low) ln(2 / a) / (3 (n - 1)) ),    v the sample variance

    with a = 1 - level for one side and half of it for each of two. In closed form, and wider than `betting`. Values
    may have different means: it then bounds their average.

    Args:
        values: Independent values.
        low: Smallest value that can occur, known beforehand; finite.
        high: Largest value that can occur, known beforehand; finite.
        level: Least coverage.
        side: Which ends; the other end is `low` or `high`.

    Raises:
        InvalidParameterError: A value lies outside [low, high], or an argument breaks its rule.

    References:
        Maurer and Pontil (2009), COLT, theorem 4.
    """
    tail = tail_of(level, side)
    check_values(values, low=low, high=high)
    if not math.isfinite(high - low):
        raise InvalidParameterError(
            f"low and high must be finite for empirical_bernstein; got {low} and {high}; "
            "betting takes values without an upper bound for a lower end, and the other way round"
        )
    if values.size < 2:
        return low, high
    log_term = math.log(2 / tail)
    half_width = math.sqrt(2 * float(values.var(ddof=1)) * log_term / values.size)
    half_width += 7 * (high - low) * log_term / (3 * (values.size - 1))
    mean = float(values.mean())
    return (
        low if side == "upper" else max(low, mean - half_width),
        high if side == "lower" else min(high, mean + half_width),
    )


def betting(
    values: PerRound,
    *,
    low: float,
    high: float,
    level: float = 0.95,
    side: Side = "two-sided",
    unit: float | None = None,
) -> tuple[float, float]:
    """Return bounds of the mean by betting, valid at every number of rounds: see the module.

    It holds where, given the rounds before, every value has the same mean: independent draws in the order of the log
    or shuffled, or the rounds of an adaptive log in their order. It does not where rows were sorted by what they hold.
    A lower end needs `low` only and an upper end `high` only, so `high` may be infinite with side="lower" and `low`
    with side="upper".

    Bets are sqrt(2 ln(1 / a) / (v_i n)), v_i the variance of the rounds before i, with a = 1 - level for one side and
    half of it for each of two.

    Args:
        values: The values, in order.
        low: Smallest value that can occur, known beforehand.
        high: Largest value that can occur, known beforehand.
        level: Least coverage.
        side: Which ends; the other end is `low` or `high`.
        unit: How much values vary, roughly, by what is known beforehand; high - low where None, 1 where that is
            infinite. The bound holds whatever it is, and is tighter where it is about right.

    Raises:
        InvalidParameterError: A value lies outside [low, high], or an argument breaks its rule.

    References:
        Waudby-Smith and Ramdas (2024), JRSSB 86(1): the hedged capital, whose two sides are these.
    """
    log_threshold = -math.log(tail_of(level, side))
    check_values(values, low=low, high=high)
    if (side != "upper" and not math.isfinite(low)) or (side != "lower" and not math.isfinite(high)):
        raise InvalidParameterError(
            f"low must be finite for a lower end and high for an upper one; got {low} and {high} with side = {side!r}"
        )
    if unit is None:
        unit = high - low if math.isfinite(high - low) else 1.0
    elif not 0 < unit < math.inf:
        raise InvalidParameterError(f"unit must be positive and finite; got {unit}")
    lower, upper = low, high
    if side != "upper":
        lower = capital_bound(Wager(values, low, unit), highest_mean=high, log_threshold=log_threshold)
    if side != "lower":
        upper = -capital_bound(Wager(-values, -high, unit), highest_mean=-low, log_threshold=log_threshold)
    return lower, upper


def off_policy_bounds(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    target_probs: PerArm,
    baseline_probs: PerArm | None = None,
    predicted: PerArm | None = None,
    outcome_range: tuple[float, float],
    largest_weight: float = math.inf,
    level: float = 0.95,
    side: Side = "two-sided",
) -> tuple[float, float]:
    """Return bounds of a policy's value, or of the difference of two, valid at every number of rounds.

    By betting (see the module) on the terms of `off_policy_wagers`. Where `largest_weight` is infinite nothing is asked
    of the weights but that they are right. Where it is finite, a control of mean zero takes off variance, as far as the
    bets can afford its lowest value, -largest_weight: a share of it between 0 (IPS) and 1 (DR) that is chosen before
    each round from the rounds before.

    It holds where
    - propensities are those the logging policy drew by, not estimates; they may depend on the rounds before (an
      adaptive logging policy), and may be zero where `largest_weight` is infinite: no overlap then makes the bounds
      wide, not wrong;
    - every round's outcomes have the same mean given the rounds before, as prompts drawn independently do;
    - rounds are in the order of the log, or in random order if the logging policy did not adapt; not sorted;
    - outcomes lie in `outcome_range`, and weights below `largest_weight`, by what is known before looking;
    - policies and predictions come from other rounds, or from the rounds before. Predictions that were cross-fitted on
      these very rounds break the letter of it, as round i then has a say in the predictions of others.

    Args:
        arm: Logged arm.
        outcome: Realised outcome of the logged arm; no NaN.
        propensity: Probability of the logged arm, in (0, 1].
        target_probs: Target policy's probability of every arm.
        baseline_probs: Probabilities of the policy that is subtracted; None for the target's value itself.
        predicted: Predicted outcome of every arm, cut off at `outcome_range`; counts only where `largest_weight` is
            finite; a constant where None.
        outcome_range: Lowest and highest outcome that can occur.
        largest_weight: Bound on target_probs / propensity (and on baseline_probs / propensity), known beforehand: a
            logging policy that gives every arm at least p has 1 / p.
        level: Least coverage.
        side: Which ends; the other is that of what is possible.

    Returns:
        Low and high, in the unit of the outcome.

    Raises:
        InvalidParameterError: An outcome lies outside its range, a weight exceeds `largest_weight`, or an argument
            breaks its rule.

    References:
        Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro (2024), ACM/IMS Journal of Data Science 1(3);
        Karampatziakis, Mineiro and Ramdas (2021), ICML. The gain of a difference and the choice of the share are ours.
    """
    log_threshold = -math.log(tail_of(level, side))
    wagers = off_policy_wagers(
        arm=arm,
        outcome=outcome,
        propensity=propensity,
        target_probs=target_probs,
        baseline_probs=baseline_probs,
        predicted=predicted,
        outcome_range=outcome_range,
        largest_weight=largest_weight,
    )
    lowest, highest = outcome_range
    unit = highest - lowest
    start, end = (lowest, highest) if baseline_probs is None else (0.0, 0.0)
    bounds = [
        wager.floor if side == other else capital_bound(wager, highest_mean=1.0, log_threshold=log_threshold)
        for wager, other in zip(wagers, ("upper", "lower"), strict=True)
    ]
    return start + unit * bounds[0], end - unit * bounds[1]


def gain_on_logging_bounds(
    *,
    weight: PerRound,
    outcome: PerRound,
    outcome_range: tuple[float, float],
    level: float = 0.95,
) -> tuple[float, float]:
    """Return bounds of what a policy gains on the one that wrote the log, valid at every number of rounds.

    With outcomes y scaled to [0, 1], by betting on

        (w - 1) y          mean V - V_log, at least -1, for the lower end,
        (w - 1) (1 - y)    mean V_log - V, at least -1, for the upper,

    as weights average one. It holds on the conditions of `off_policy_bounds`, and where no decision of the policy is
    without support.

    Args:
        weight: Importance weight of each round.
        outcome: Realised outcome of the logged arm; no NaN.
        outcome_range: Lowest and highest outcome that can occur.
        level: Least coverage.

    Raises:
        InvalidParameterError: An outcome lies outside its range, or `level` outside (0, 1).
    """
    check_ranges(outcome_range=outcome_range, largest_weight=math.inf)
    lowest, highest = outcome_range
    check_values(outcome, low=lowest, high=highest, name="outcome")
    check_level(level)
    scaled = (outcome - lowest) / (highest - lowest)
    one_sided = (1 + level) / 2
    low, _ = betting((weight - 1) * scaled, low=-1.0, high=math.inf, level=one_sided, side="lower")
    high, _ = betting((weight - 1) * (1 - scaled), low=-1.0, high=math.inf, level=one_sided, side="lower")
    return (highest - lowest) * low, -(highest - lowest) * high


class Wager(NamedTuple):
    """What is bet on: rounds whose common mean is asked for, from below.

    gain - s control has the mean of the gain for every share s in [0, 1], and is at least floor - s largest_control.
    """

    gain: PerRound
    """Values of the mean asked for."""
    floor: float
    """Smallest gain that can occur."""
    unit: float = 1.0
    """How much gains vary, roughly."""
    control: PerRound | None = None
    """Values of mean zero; None where there are none."""
    largest_control: float = math.inf
    """Bound on the control where the gain is at its floor; infinite where the control cannot be used."""


def off_policy_wagers(
    *,
    arm: ArmIndex,
    outcome: PerRound,
    propensity: PerRound,
    target_probs: PerArm,
    baseline_probs: PerArm | None = None,
    predicted: PerArm | None = None,
    outcome_range: tuple[float, float],
    largest_weight: float = math.inf,
) -> tuple[Wager, Wager]:
    """Return what to bet on for a lower end and, mirrored, for an upper end; outcomes scaled to [0, 1].

    With D = pi - pi_0 the difference of the policies' probabilities (pi_0 = 0 for a value), d = D / e at the logged
    arm, y the scaled outcome, mu its prediction, and + and - the positive and negative parts:

        gain    = d+ y  + d- (1 - y)  - sum_t D_t-                               mean V - V_0, at least -1 (a value: 0)
        control = d+ mu + d- (1 - mu) - sum_t ( D_t+ mu_t + D_t- (1 - mu_t) )    mean 0, at most largest_weight

    d y = d+ y + d- (1 - y) - d-, and the mean of d- given x is sum_t D_t-, known whatever the propensities: so a
    difference of unbounded weights is bounded below, and rounds on which the policies agree do not count. gain less
    the whole control is the doubly robust score of the difference. The upper end is the lower end of 1 - y, or of
    pi_0 - pi. Decisions that the logging policy never takes lower the mean of the gain, so that bounds without a
    control still hold, and are wider.

    Arguments and errors as for `off_policy_bounds`.
    """
    check_ranges(outcome_range=outcome_range, largest_weight=largest_weight)
    lowest, highest = outcome_range
    check_values(outcome, low=lowest, high=highest, name="outcome")
    invalid = ~((propensity > 0) & (propensity <= 1))
    if invalid.any():
        raise InvalidParameterError(f"propensity must be in (0, 1]; got {propensity[invalid][0]}")
    rows = np.arange(arm.size)
    for probs in (target_probs, baseline_probs):
        largest = 0.0 if probs is None else float((probs[rows, arm] / propensity).max())
        # Propensities that were stored in single precision give weights that are off by as much.
        if largest > largest_weight * (1 + 1e-6):
            raise InvalidParameterError(
                f"largest_weight must bound every weight; got {largest_weight} and a weight of {largest:.6g}; "
                "give the reciprocal of the smallest propensity the logging policy allows, or leave it infinite"
            )
    unit = (outcome - lowest) / (highest - lowest)
    change = target_probs if baseline_probs is None else target_probs - baseline_probs
    if predicted is None:
        # The control is then the weight itself, less its mean: all outcomes alike.
        mu = np.broadcast_to(np.float64(1.0 if baseline_probs is None else 0.5), change.shape)
    else:
        mu = np.clip((predicted - lowest) / (highest - lowest), 0.0, 1.0)
    if baseline_probs is None:
        ends = ((change, unit, mu, 0.0), (change, 1 - unit, mu if predicted is None else 1 - mu, 0.0))
    else:
        ends = ((change, unit, mu, -1.0), (-change, unit, mu, -1.0))
    lower, upper = (
        _wager(change, rows, arm, unit, mu, propensity, floor=floor, largest_weight=largest_weight)
        for change, unit, mu, floor in ends
    )
    return lower, upper


def _wager(
    change: PerArm,
    rows: NDArray[np.int64],
    arm: ArmIndex,
    unit: PerRound,
    mu: PerArm,
    propensity: PerRound,
    *,
    floor: float,
    largest_weight: float,
) -> Wager:
    own = change[rows, arm] / propensity
    up, down = np.maximum(own, 0.0), np.maximum(-own, 0.0)
    falls = np.maximum(-change, 0.0)
    gain = up * unit + down * (1 - unit) - falls.sum(axis=1)
    if math.isinf(largest_weight):
        return Wager(gain, floor)
    # An arm that neither policy moves needs no prediction.
    expected = np.where(change != 0, np.where(change > 0, change * mu, -change * (1 - mu)), 0.0).sum(axis=1)
    at_arm = np.where(own > 0, up * mu[rows, arm], np.where(own < 0, down * (1 - mu[rows, arm]), 0.0))
    return Wager(gain, floor, control=at_arm - expected, largest_control=largest_weight)


class Bets(NamedTuple):
    """One round each: what is bet on, how low it can be, and how much is bet on each unit above the mean on trial."""

    payoff: PerRound
    lowest: PerRound
    size: PerRound

    def log_growth(self, mean: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log(1 + b (payoff - mean)), b the size or what `BOLDNESS` allows at this mean, if that is less.

        Falls in `mean`: a bet that is cut to BOLDNESS / (mean - lowest) grows by 1 - BOLDNESS + BOLDNESS (payoff -
        lowest) / (mean - lowest), which does. Broadcasts; means above `lowest`.
        """
        # A mean at the lowest value leaves nothing to lose, so that nothing limits the bet.
        with np.errstate(divide="ignore"):
            limit = BOLDNESS / (mean - self.lowest)
        return np.log1p(np.minimum(self.size, limit) * (self.payoff - mean))

    def on_grid(self, means: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
        """Return (n_rows, n_means) log growth in some rounds at several means."""
        column = Bets(*(part[rows, None] for part in self))
        return column.log_growth(means)


def place_bets(
    wager: Wager, *, log_threshold: float, horizon: int, moments: NDArray[np.float64]
) -> tuple[Bets, NDArray[np.float64]]:
    """Return bets that depend on the rounds before each only, and the moments after the last.

    Betting b on every round, with v the variance of gain - s control, the capital reaches exp(L) after T rounds at
    means that are L / (b T) + b v / 2 or more below the true one. b = sqrt(2 L / (v T)), or as much as can be afforded
    at share s, and s itself minimise that distance, with v of the rounds before and T the horizon. From the horizon on
    T is i ln(1 + i) / ln(1 + horizon) in round i, so that bets shrink slowly enough for the bound to reach the mean.

    Args:
        wager: What is bet on.
        log_threshold: L, the log of the capital that rejects a mean.
        horizon: Rounds after which the bound should be tightest.
        moments: (6,) number of rounds before and sums of gain - floor, its square, control, its square, their product;
            zeros at the beginning.
    """
    gain = wager.gain - wager.floor
    usable = wager.control is not None and math.isfinite(wager.largest_control)
    control = wager.control if usable and wager.control is not None else np.zeros(gain.size)
    steps = np.stack([np.ones(gain.size), gain, gain**2, control, control**2, gain * control])
    sums = np.cumsum(np.concatenate([moments[:, None], steps], axis=1), axis=1)
    n_before, *totals = sums[:, :-1]
    known = np.maximum(n_before, 1.0)
    mean, square, control_mean, control_square, product = (total / known for total in totals)
    variance = np.maximum(square - mean**2, 0.0)
    control_variance = np.maximum(control_square - control_mean**2, 0.0)
    covariance = product - mean * control_mean
    position = n_before + 1
    clock = np.where(position <= horizon, float(horizon), position * np.log1p(position) / math.log1p(horizon))
    size, share = np.zeros(gain.size), np.zeros(gain.size)
    least = np.full(gain.size, np.inf)
    for candidate in np.linspace(0.0, 1.0, N_CONTROL_SHARES) if usable else (0.0,):
        left = variance - 2 * candidate * covariance + candidate**2 * control_variance
        left = (PRIOR_VARIANCE * wager.unit**2 + n_before * np.maximum(left, 0.0)) / position
        wish = np.sqrt(2 * log_threshold / (left * clock))
        with np.errstate(divide="ignore"):
            bet = np.minimum(wish, BOLDNESS / (mean + (candidate * wager.largest_control if usable else 0.0)))
        distance = log_threshold / (bet * clock) + bet * left / 2
        better = distance < least
        least[better], size[better], share[better] = distance[better], wish[better], candidate
    lowest = wager.floor - (share * wager.largest_control if usable else np.zeros(gain.size))
    return Bets(wager.gain - share * control, lowest, size), sums[:, -1]


def capital_bound(wager: Wager, *, highest_mean: float, log_threshold: float) -> float:
    """Return the largest mean at which the capital has ever reached the threshold, the floor where there is none."""
    bets, _ = place_bets(wager, log_threshold=log_threshold, horizon=wager.gain.size, moments=np.zeros(6))
    # No bet on means that no round exceeds is ever won.
    low, high = wager.floor, min(highest_mean, float(bets.payoff.max()))
    if not high > low:
        return low
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        if np.cumsum(bets.log_growth(middle)).max() >= log_threshold:
            low = middle
        else:
            high = middle
    return low


def check_level(level: float) -> None:
    """Raise unless the level is a probability other than 0 and 1.

    Raises:
        InvalidParameterError: `level` lies outside (0, 1).
    """
    if not 0 < level < 1:
        raise InvalidParameterError(f"level must be in (0, 1); got {level}")


def tail_of(level: float, side: Side) -> float:
    """Return the error probability of one end.

    Raises:
        InvalidParameterError: `level` lies outside (0, 1), or there is no such side.
    """
    check_level(level)
    if side not in get_args(Side):
        raise InvalidParameterError(f"side must be one of {', '.join(get_args(Side))}; got {side!r}")
    return (1 - level) / 2 if side == "two-sided" else 1 - level


def check_ranges(*, outcome_range: tuple[float, float], largest_weight: float) -> None:
    """Raise unless outcomes have a range and weights can be as large as is said.

    Raises:
        InvalidParameterError: They do not.
    """
    lowest, highest = outcome_range
    if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
        raise InvalidParameterError(f"outcome_range must be finite and increasing; got {outcome_range}")
    if not largest_weight > 0:
        raise InvalidParameterError(f"largest_weight must be positive; got {largest_weight}")


def check_values(values: PerRound, *, low: float, high: float, name: str = "values") -> None:
    """Raise unless there are values and all lie in [low, high].

    Raises:
        InvalidParameterError: They do not.
    """
    if values.ndim != 1 or values.size == 0:
        raise InvalidParameterError(f"{name} must be (n_rounds,) with at least one round; got {values.shape}")
    if not low < high:
        raise InvalidParameterError(f"low must be below high; got {low} and {high}")
    outside = ~((values >= low) & (values <= high))  # true for NaN as well
    if outside.any():
        raise InvalidParameterError(
            f"{name} must lie in [{low}, {high}]; got {values[outside][0]} in row {int(outside.argmax())}"
        )
