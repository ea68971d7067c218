"""The default: Thompson sampling with separate quality and cost heads, partially pooled over arms."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pointsman.errors import InvalidParameterError
from pointsman.nuisance.blocks import Block, BlockRidge
from pointsman.online.base import ArmPrior, OnlinePolicy, Vector
from pointsman.online.cusum import Cusum, Drift
from pointsman.online.draw import best_probabilities, contrast_variances, explored, greatest
from pointsman.online.features import LEARN_AT, Components
from pointsman.online.posterior import LinearPosterior, Row
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, State, prefixed, under

Rule = Literal["thompson", "ucb"]

ONE = np.ones(1)

PRIOR_QUALITY = 0.7
"""What an answer is expected to be worth before any was seen: a little hope, so that every arm is tried."""
CONSTANT_VARIANCE = 0.05
"""Prior variance of what all arms have in common."""
SHARED_POWER, SPECIFIC_POWER = 0.25, 0.5
"""A slope's prior variance goes with its component's variance to this power times two, and of an arm's own slopes."""
LOG_SD = 1.0
"""Standard deviation of the normal prior on the logarithm of each variance that evidence chooses."""
SETTLING = 500
"""Outcomes after which exploration is down to 1 / sqrt(2) of what it was."""
RECONSIDER = 4
"""Variances are chosen anew each time that there are so many times as many outcomes."""
BEARABLE = 0.25
"""Gap of expected utilities at which an arm has half of the best arm's share of the floor."""
COST_COMPONENTS = 6
COST_VARIANCE = 0.5
"""Prior variance of a relative cost's mean, and of its part that goes with the prompt."""
COST_NOISE = 0.5
"""Variance of a relative cost about its expectation."""
LEAST_RELATIVE_COST = 0.02
"""No call is expected to cost less than this share of an arm's usual cost."""
LOG_ALARM, LEAST_AGAINST = 2.5, 5
"""Standard errors by which an arm's answers contradict a log, and how many there must be."""
KEPT_OF_LOG = 0.02
"""Share of the log's weight that is kept then."""
FORGET_EVERY = 64
"""Outcomes after which geometric forgetting is made up for, all at once."""
USUAL = 30
"""Outcomes that the prior's noise is worth beside evidence."""
KEPT_AT_ALARM = 0.1
"""Share of the certainty about an arm's own part that is kept when its quality, or its cost, has changed."""


@dataclass(frozen=True, kw_only=True)
class Variances:
    """What evidence chooses; the defaults are where its prior is centred.

    Attributes:
        shared: Variance over prompts of what all arms have in common about a prompt.
        arm: Variance over arms of their means.
        specific: Variance over prompts of an arm's own part.
        noise: Variance of a quality about its expectation.
    """

    shared: float = 0.1
    arm: float = 0.03
    specific: float = 0.03
    noise: float = 0.1


class Seen(NamedTuple):
    """A round that is kept until the components are settled."""

    context: Vector
    arm: int
    quality: float
    cost_usd: float
    weight: float


@dataclass(frozen=True)
class _Log:
    """What a log had said, held against the answers since.

    Attributes:
        posterior: As it was then; what is forgotten or loosened since is so here, too.
        variance: (n_arms,) of each arm's mean then.
        against: (n_arms, 2) sum of the answers less what the log expected, and how many.
        sums: (2,) of the outcomes' squares about what was expected before the first, and of their weights.
    """

    posterior: LinearPosterior
    variance: Vector
    against: NDArray[np.float64]
    sums: Vector

    def is_contradicted(self, row: Row, arm: int, quality: float, *, noise: float) -> bool:
        """Count an answer; return whether the arm's answers together contradict the log."""
        if arm >= self.variance.size:
            return False
        expected = sum(float(values @ self.posterior.mean[place]) for place, values in row)
        self.against[arm] += quality - expected, 1.0
        total, count = self.against[arm]
        return bool(
            count >= LEAST_AGAINST and abs(total) > LOG_ALARM * math.sqrt(count * noise + count**2 * self.variance[arm])
        )


class PooledThompson(OnlinePolicy):
    """Thompson sampling on q_t(x) = c + u(x) . w + b_t + v(x) . w_t, and a cost model of its own.

    u are the leading components of the context, v the first few of them. All arms share c and w, so that an answer of
    one says something of all; b_t and w_t are an arm's own. One Gaussian posterior holds all of it, exactly
    (`LinearPosterior`), under prior variances that evidence chooses (`Variances`, `BlockRidge`), and a second, smaller
    one relative cost:

        cost_t(x) = unit_t (1 + z(x) . k + d_t + z(x) . k_t).

    What all arms share cancels where they are compared. So the deviation that an arm is drawn with is that of
    independent utilities whose differences have the posterior's variances (`contrast_variances`), times

        exploration / sqrt(1 + n / 500)

    after n outcomes, and an arm is drawn with the probability that its utility is the largest (`best_probabilities`), a
    `floor` of it spread over all (`explored`): less to arms that are far behind, so that a dear arm costs little where
    cost counts. So every trade-off is served by what was learned at all of them, the propensity of each
    draw is exact, and the policy's own log can be evaluated off-policy.

    Every outcome moves the posterior at once. What was learned is forgotten geometrically (`memory`), towards the
    prior; and an arm whose answers have become worse or better than it was expected to be (`Cusum`) forgets most of its
    own part at once, and all are explored more again, as when an arm is new. An arm whose costs drift is repriced by
    the factor they have drifted by.

    Args:
        n_arms: Number of arms.
        n_features: Of the context.
        n_shared: Components in u.
        n_specific: Components in v.
        exploration: Factor on the posterior standard deviation to begin with: 1 is Thompson sampling.
        floor: Probability spread over the eligible arms, in [0, 1).
        rule: `thompson`, or `ucb`: the arm of highest mean plus deviation, each with all but the floor.
        memory: Outcomes after which what was learned counts half; infinity never forgets.
        alarm: CUSUM, in standard deviations, at which an arm is taken to have changed; infinity never.
        cost_usd: (n_arms,) expected cost of an answer by price lists, in USD; NaN, or None for all, where not known.
        components: The components, where the distribution of prompts is known beforehand; learned from the first
            contexts where None.

    References:
        Thompson (1933), Biometrika 25; Agrawal and Goyal (2013), ICML: linear contextual Thompson sampling; Page
        (1954), Biometrika 41: CUSUM; MacKay (1992), Neural Computation 4(3): evidence. The pooling, the contrasts and
        the exact propensities are this package's own.
    """

    name = "pooled-thompson"

    quality: LinearPosterior
    cost: LinearPosterior
    misfit: float
    """Sum of squared standardised residuals, each outcome predicted from those before it."""
    n_outcomes: float
    """Sum of the weights of the outcomes that the posterior holds."""

    def __init__(
        self,
        *,
        n_arms: int,
        n_features: int,
        n_shared: int = 32,
        n_specific: int = 12,
        exploration: float = 0.6,
        floor: float = 0.01,
        rule: Rule = "thompson",
        memory: float = math.inf,
        alarm: float = 10.0,
        cost_usd: ArrayLike | None = None,
        components: Components | None = None,
    ) -> None:
        for name, value, low, high in (
            ("exploration", exploration, 0, math.inf),
            ("floor", floor, 0, 1),
            ("memory", memory, 1, math.inf),
            ("alarm", alarm, 0, math.inf),
        ):
            if not low <= value <= high:
                raise InvalidParameterError(f"{name} must be in [{low}, {high}]; got {value}")
        if rule not in ("thompson", "ucb"):
            raise InvalidParameterError(f"rule must be 'thompson' or 'ucb'; got {rule!r}")
        self.n_arms, self.n_features = n_arms, n_features
        self.exploration, self.floor, self.rule = exploration, floor, rule
        self.memory, self.alarm = memory, alarm
        self.components = Components(n_features=n_features, n_components=n_shared) if components is None else components
        self.n_shared = self.components.n_components
        self.n_specific = min(n_specific, self.n_shared)
        self.n_cost = min(COST_COMPONENTS, self.n_specific)
        self.unit_usd = np.full(n_arms, np.nan) if cost_usd is None else np.array(cost_usd, dtype=np.float64)
        if self.unit_usd.shape != (n_arms,) or (self.unit_usd < 0).any() or np.isinf(self.unit_usd).any():
            raise InvalidParameterError(f"cost_usd must be {n_arms} finite numbers >= 0, or NaN; got {cost_usd!r}")
        self.cost_factor = np.ones(n_arms)
        self.surprises, self.cost_surprises = (Cusum(n_arms, alarm=alarm) for _ in range(2))
        self.variances = Variances()
        self.n_explored = 0.0
        self.reconsider_at = float(LEARN_AT[0] if self.components.is_settled else RECONSIDER * LEARN_AT[-1])
        self._priors: dict[int, ArmPrior] = {}
        self._seen: list[Seen] = []
        self._log: _Log | None = None
        self._start()

    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return the probabilities of the rule at this trade-off, above the floor."""
        return self.probabilities_and_gaps(context, trade_off, eligible)[0]

    def probabilities_and_gaps(
        self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]
    ) -> tuple[Vector, Vector]:
        """Return the probabilities, and how far each arm's expected utility is below that of the best eligible one.

        Their product, summed over the eligible arms, is what the draw is expected to give up: its regret.
        """
        mean, deviation = self.predict(context, trade_off, eligible)
        deviation *= self.exploration / math.sqrt(1 + self.n_explored / SETTLING)
        if self.rule == "ucb":
            best = greatest(mean + deviation, eligible)
        else:
            best = best_probabilities(mean, deviation, eligible)
        gap = mean[eligible].max() - mean
        return explored(best, eligible=eligible, floor=self.floor, gap=gap, bearable=BEARABLE), gap

    def predict(
        self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_] | None = None
    ) -> tuple[Vector, Vector]:
        """Return the posterior mean of every arm's utility, and the deviation by which eligible arms are told apart."""
        features = self._features(context)
        quality, cost_usd = self._expected(features)
        rate = trade_off.quality_per_usd
        doubt = None
        if rate > 0:
            known = np.isfinite(cost_usd)
            if np.count_nonzero(known) < known.size:
                # An arm whose cost is not known at all is taken to cost what the others do, more or less.
                typical = float(cost_usd[known].mean()) if known.any() else 0.0
                cost_usd = np.where(known, cost_usd, typical)
                doubt = np.where(known, 0.0, COST_VARIANCE * typical**2)
            if math.isinf(rate):
                return -cost_usd, np.zeros(self.n_arms) if doubt is None else np.sqrt(doubt)
            quality -= rate * cost_usd
        covariance = self._own_covariance(features)
        if doubt is not None:
            covariance[np.diag_indices(self.n_arms)] += rate**2 * doubt
        return quality, np.sqrt(contrast_variances(covariance, eligible))

    def expected(self, context: Vector) -> tuple[Vector, Vector]:
        """Return the posterior mean of every arm's quality, and of its cost in USD at today's prices.

        A cost is NaN where neither a price list nor an answer told any.
        """
        return self._expected(self._features(context))

    def update(
        self,
        context: Vector,
        arm: int,
        *,
        quality: float = math.nan,
        cost_usd: float = math.nan,
        trade_off: TradeOff | None = None,
        weight: float = 1.0,
    ) -> None:
        """Learn quality and cost, whichever is known, whatever the trade-off was."""
        del trade_off
        # A cost is learned, and remembered, at the price its arm had to begin with; one of a free arm says nothing.
        factor = self.cost_factor[arm]
        cost_usd = cost_usd / factor if factor > 0 else math.nan
        if not self.components.is_settled:
            self._remember(Seen(np.asarray(context, dtype=np.float64), arm, quality, cost_usd, weight))
        features = self._features(context)
        if not math.isnan(quality):
            self._learn_quality(self._row(features, arm), arm, quality, weight)
        if not math.isnan(cost_usd):
            self._learn_cost(features, arm, cost_usd)

    def revise(self, context: Vector, arm: int, *, before: float, after: float, weight: float = 1.0) -> None:
        """Learn that a quality, which was learned as `before`, is `after`: as if that had been said at once."""
        for i, seen in enumerate(self._seen):
            if seen.arm == arm and seen.quality == before and np.array_equal(seen.context, context):
                self._seen[i] = seen._replace(quality=after)
                break
        self.quality.revise(self._row(self._features(context), arm), after - before, weight=weight)

    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Take in a new arm; what is believed of it is learned as so many answers to the average prompt."""
        arm = self.n_arms
        self.n_arms += 1
        prior = ArmPrior(n_rounds=0) if prior is None else prior
        if prior.like is not None and not 0 <= prior.like < arm:
            raise InvalidParameterError(f"like must be one of the {arm} arms; got {prior.like}")
        self.unit_usd = np.append(self.unit_usd, np.nan if prior.cost_usd is None else prior.cost_usd)
        self.cost_factor = np.append(self.cost_factor, 1.0)
        self.surprises.add_arm()
        self.cost_surprises.add_arm()
        # Arms that are all alike say little of one that was never seen: it is as free as the first ones were.
        own = self._own_variance()
        own[0] = max(own[0], Variances().arm)
        self.quality.extend(own)
        self.cost.extend(self._own_cost_variance())
        self.n_explored *= KEPT_AT_ALARM
        self._priors[arm] = prior
        self._believe(arm, prior)
        return arm

    def set_price(self, arm: int, factor: float) -> None:
        """Take an arm's price to be so many times that at which its costs were learned: from the next request on."""
        if not (math.isfinite(factor) and factor >= 0):
            raise InvalidParameterError(f"factor must be a finite number >= 0; got {factor}")
        self.cost_factor[arm] = factor

    def learn_rounds(
        self,
        context: NDArray[np.float64],
        arm: NDArray[np.int64],
        *,
        quality: NDArray[np.float64],
        cost_usd: NDArray[np.float64],
        weight: NDArray[np.float64],
    ) -> None:
        """Learn many rounds at once, as a prior to what comes: components, then variances, then all of them.

        Args:
            context: (n, n_features).
            arm: (n,).
            quality: (n,), NaN where not known.
            cost_usd: (n,) at the prices of the beginning, NaN where not known.
            weight: (n,) of the qualities; the outcomes that they add up to are as good as explored.

        Raises:
            InvalidParameterError: The policy has learned already.
        """
        if self.n_explored or self._seen:
            raise InvalidParameterError("rounds can be learned at once only by a policy that has learned nothing yet")
        if not self.components.is_settled:
            self.components = Components.of(context, n_components=self.n_shared)
        self._learn_anew(context, arm, quality=quality, cost_usd=cost_usd, weight=weight)
        self.n_explored = float(weight[~np.isnan(quality)].sum())
        self.reconsider_at = RECONSIDER * max(self.n_explored, LEARN_AT[-1])

    def forget(self, kept: float) -> None:
        """Have all outcomes so far keep this share, in [0, 1], of their weight, and explore as if there were so few."""
        self.quality.forget(kept)
        if self._log is not None:
            self._log.posterior.forget(kept)
            self._log.sums[:] *= kept
        self.misfit *= kept
        self.n_outcomes *= kept
        self.n_explored *= kept
        self._seen = [each._replace(weight=each.weight * kept) for each in self._seen]
        self.n_since = 0

    def doubt_log(self, context: NDArray[np.float64]) -> None:
        """Watch from now on whether answers contradict what is expected now, which a log said of a world gone by.

        A log may be so sure that an arm is bad that nothing ever finds it good. So each arm's answers are held against
        the log's own predictions, kept as they are now,

            z_t = sum_i (y_i - phi_i . m) / sqrt(n s + n^2 v_t),

        v_t the variance of the log's mean of the arm, over `context`. Beyond 2.5 all but a fiftieth of the log is taken
        back; the answers since count in full. A false alarm costs what was right in the log until it is learned again.

        Args:
            context: (n, n_features) prompts like those of the log; the log is in the posterior already.
        """
        features = self._features(context).mean(axis=0)
        rows = [self._row(features, t) for t in range(self.n_arms)]
        variance = np.array([sum(v @ self.quality.spread(row)[place] for place, v in row) for row in rows])
        sums = np.array([self._total(), self.n_outcomes])
        self._log = _Log(copy.deepcopy(self.quality), variance, np.zeros((self.n_arms, 2)), sums)

    def recentre(self, context: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
        """Expect these qualities of every arm for these prompts, as surely as before.

        The posterior mean becomes the projection of `expected` on the features, its precision stays.

        Args:
            context: (n, n_features).
            expected: (n, n_arms) qualities.
        """
        features = self._features(context)
        u, own = features[:, self._of_shared], features[:, self._of_own]
        projection = self._prior()
        rows = np.zeros((len(context), projection.mean.size))
        rows[:, : u.shape[1]] = u
        for t in range(self.n_arms):
            start, stop = self._place(t)
            rows[:, start:stop] = own
            # A quality that is expected has no noise; a thousandth of that of an answer keeps the projection definite.
            projection.update_many(rows, expected[:, t], np.full(len(rows), 1000.0))
            rows[:, start:stop] = 0.0
        self.quality.recentre(projection.mean)

    def _features(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return [1, u | 1, v | 1, z] of one context, or of many."""
        return np.asarray(context.dot(self._map) + self._offset)

    def _expected(self, features: Vector) -> tuple[Vector, Vector]:
        shared, n_shared = self.quality.mean, self.n_shared + 1
        own = shared[n_shared:].reshape(self.n_arms, -1)
        quality = own.dot(features[self._of_own]) + features[self._of_shared].dot(shared[:n_shared])
        k, n_cost = features[self._of_cost], self.n_cost
        of_arms = self.cost.mean[n_cost:].reshape(self.n_arms, -1)
        relative = of_arms.dot(k) + (1 + k[1:].dot(self.cost.mean[:n_cost]))
        return quality, self.unit_usd * self.cost_factor * np.maximum(relative, LEAST_RELATIVE_COST)

    def _own_covariance(self, features: Vector) -> NDArray[np.float64]:
        """Return the posterior covariance of the arms' own parts of quality: what they share cancels in contrasts."""
        own, shared = features[self._of_own], self.n_shared + 1
        # Symmetric and column by column, so that its transpose is row by row: blocks of rows are views.
        of_arms = self.quality.covariance.T[shared:, shared:].reshape(self.n_arms, own.size, -1)
        return np.asarray(np.matmul(own, of_arms).reshape(self.n_arms, self.n_arms, own.size) @ own)

    def _learn_quality(self, row: Row, arm: int, quality: float, weight: float) -> None:
        expected, variance = self.quality.update(row, quality, weight=weight)
        residual = (quality - expected) / math.sqrt(variance + self.quality.noise / weight)
        self.n_explored += weight
        self.n_outcomes += weight
        self.misfit += residual**2
        if math.isfinite(self.alarm) and self.surprises.watch(arm, residual) is not None:
            self._loosen(arm)
        if self._log is not None and self._log.is_contradicted(row, arm, quality, noise=self.quality.noise):
            self._forget_log(self._log)
        if math.isfinite(self.memory):
            self.n_since += 1
            if self.n_since >= FORGET_EVERY:
                self.forget(0.5 ** (self.n_since / self.memory))
        if self.components.is_settled and self.n_outcomes >= self.reconsider_at:
            self._reconsider()

    def _learn_cost(self, features: Vector, arm: int, cost_usd: float, *, watched: bool = True) -> None:
        if not self.unit_usd[arm] > 0:
            self.unit_usd[arm] = cost_usd  # free, as far as is known, or what the first call that was not free cost
        unit = self.unit_usd[arm]
        if not unit > 0:
            return
        relative = cost_usd / unit - 1
        expected, variance = self.cost.update(self._cost_row(features, arm), relative)
        if watched and math.isfinite(self.alarm):
            residual = (relative - expected) / math.sqrt(variance + COST_NOISE)
            expected = max(1 + expected, LEAST_RELATIVE_COST)
            drift = self.cost_surprises.watch(arm, residual, seen=1 + relative, expected=expected)
            if drift is not None:
                self._reprice(arm, drift)

    def _loosen(self, arm: int) -> None:
        """Forget most of an arm's own part of quality, which has changed, and explore more."""
        own = np.arange(*self._place(arm))
        self.quality.loosen(own, KEPT_AT_ALARM)
        if self._log is not None and arm < self._log.variance.size:
            self._log.posterior.loosen(own, KEPT_AT_ALARM)
        self._seen = [
            each._replace(weight=each.weight * KEPT_AT_ALARM) if each.arm == arm else each for each in self._seen
        ]
        self.n_explored *= KEPT_AT_ALARM

    def _reprice(self, arm: int, drift: Drift) -> None:
        """Take an arm's costs to have been multiplied when they began to drift, and be less sure of the rest."""
        factor = max(drift.seen, LEAST_RELATIVE_COST * drift.n_outcomes) / drift.expected
        self.unit_usd[arm] *= factor
        start = self.n_cost + arm * (self.n_cost + 1)
        self.cost.loosen(np.arange(start, start + self.n_cost + 1), KEPT_AT_ALARM)
        mine = [i for i, each in enumerate(self._seen) if each.arm == arm and not math.isnan(each.cost_usd)]
        for i in mine[: -drift.n_outcomes]:
            self._seen[i] = self._seen[i]._replace(cost_usd=self._seen[i].cost_usd * factor)

    def _remember(self, seen: Seen) -> None:
        """Keep a round until the components are settled; learn them anew, and all rounds with them, when it is time."""
        if len(self._seen) == LEARN_AT[self.components.version]:
            context, arm, quality, cost_usd, weight = (np.array(each) for each in zip(*self._seen, strict=True))
            self.components.learn(context)
            known = ~np.isnan(cost_usd)
            total, count = (np.bincount(arm[known], weights=w, minlength=self.n_arms) for w in (cost_usd[known], None))
            self.unit_usd = np.where(count > 0, total / np.maximum(count, 1), self.unit_usd)
            self._learn_anew(context, arm, quality=quality, cost_usd=cost_usd, weight=weight)
            if self.components.is_settled:
                self._seen.clear()
                return
        self._seen.append(seen)

    def _learn_anew(
        self,
        context: NDArray[np.float64],
        arm: NDArray[np.int64],
        *,
        quality: NDArray[np.float64],
        cost_usd: NDArray[np.float64],
        weight: NDArray[np.float64],
    ) -> None:
        """Choose the variances by evidence on these rounds, and learn all of them under these."""
        self._start()
        features = self._features(context)
        known = np.flatnonzero(~np.isnan(quality))
        rows = np.zeros((known.size, self.quality.mean.size))
        for row, i in zip(rows, known, strict=True):
            for place, values in self._row(features[i], int(arm[i])):
                row[place] = values
        outcome = quality[known] - PRIOR_QUALITY
        if known.size:
            weighted = rows * weight[known][:, None]
            self.n_outcomes = float(weight[known].sum())
            self._choose(weighted.T @ rows, weighted.T @ outcome, total=float(weight[known] @ outcome**2))
        for t, prior in self._priors.items():
            self._believe(t, prior)
        for i in np.flatnonzero(~np.isnan(cost_usd)):
            self._learn_cost(features[i], int(arm[i]), float(cost_usd[i]), watched=False)

    def _believe(self, arm: int, prior: ArmPrior) -> None:
        """Learn what is believed of an arm as outcomes that nobody saw."""
        if prior.like is not None:
            # n answers to prompts like those so far, each coefficient's share of them, in which both arms did alike.
            (start, stop), (other, _) = self._place(arm), self._place(prior.like)
            share = np.concatenate([ONE, self._own_scale**2 * self.components.variance[: self.n_specific]])
            for j in range(stop - start):
                row: Row = [(slice(start + j, start + j + 1), ONE), (slice(other + j, other + j + 1), -ONE)]
                self.quality.update(row, 0.0, weight=prior.n_rounds * float(share[j]))
        if prior.quality is not None:
            self.quality.update(
                self._row(self._features(self.components.center), arm), prior.quality, weight=prior.n_rounds
            )

    def _reconsider(self) -> None:
        """Choose the variances anew by evidence on all outcomes, and take the posterior to them."""
        gram, cross = self.quality.moments()
        self._choose(gram, cross, total=self._total())
        self.reconsider_at = RECONSIDER * self.n_outcomes

    def _total(self) -> float:
        """Return the sum of squares of all outcomes about what was expected before the first."""
        return self.quality.noise * (self.misfit + self.quality.explained)

    def _forget_log(self, log: _Log) -> None:
        """Take back all but a share of what the log said; answers since count in full."""
        taken = 1 - KEPT_OF_LOG
        self._log = None
        gram, cross = self.quality.moments()
        known = log.posterior.mean.size  # arms that came since are none of its business
        for whole, part in zip((gram[:known, :known], cross[:known]), log.posterior.moments(), strict=True):
            whole -= taken * part
        total, n_outcomes = np.array([self._total(), self.n_outcomes]) - taken * log.sums
        self.n_outcomes = float(n_outcomes)
        self.n_explored = self.n_outcomes
        self._choose(gram, cross, total=float(total))
        self.reconsider_at = RECONSIDER * self.n_outcomes

    def _choose(self, gram: NDArray[np.float64], cross: Vector, *, total: float) -> None:
        """Choose the variances by evidence, and take the posterior to them.

        Args:
            gram: Second moments of the rows.
            cross: Of the rows with the outcomes.
            total: Of the outcomes, about what was expected before the first.
        """
        shared, width = self.n_shared + 1, self.n_specific + 1
        of_arm = shared + np.arange(self.n_arms) * width
        own = (of_arm[:, None] + np.arange(1, width)).ravel()
        order = np.concatenate([np.arange(shared), of_arm, own])
        center = Variances()
        ridge = BlockRidge(
            [
                Block(name="constant", n_columns=1, variance=CONSTANT_VARIANCE, log_sd=0.0),
                Block(name="shared", n_columns=self.n_shared, variance=center.shared / self.n_shared, log_sd=LOG_SD),
                Block(name="arm", n_columns=self.n_arms, variance=center.arm, log_sd=LOG_SD),
                Block(name="specific", n_columns=own.size, variance=center.specific / self.n_specific, log_sd=LOG_SD),
            ],
            noise=center.noise,
            noise_log_sd=LOG_SD,
        ).fit_moments(gram[np.ix_(order, order)], cross[order], total, self.n_outcomes)
        self.variances = Variances(
            shared=ridge.variance_["shared"] * self.n_shared,
            arm=ridge.variance_["arm"],
            specific=ridge.variance_["specific"] * self.n_specific,
            # A few outcomes that happen to agree say nothing of how far the next may be off.
            noise=(USUAL * center.noise + self.n_outcomes * ridge.noise_) / (USUAL + self.n_outcomes),
        )
        n_updates = self.quality.n_updates
        self.quality = self._prior()
        self.quality.add_moments(gram, cross, n_outcomes=n_updates)
        self.misfit = total / self.quality.noise - self.quality.explained

    def _start(self) -> None:
        """Know nothing but the prior."""
        self._map_features()
        self.quality = self._prior()
        shared = np.full(self.n_cost, COST_VARIANCE / self.n_cost)
        self.cost = LinearPosterior(
            np.concatenate([shared, np.tile(self._own_cost_variance(), self.n_arms)]), noise=COST_NOISE
        )
        self.misfit = 0.0
        self.n_outcomes = 0.0
        self.n_since = 0

    def _map_features(self) -> None:
        """Make of the components' axes, the scales of u and v and their constants one affine map of the context."""
        axes, variance = self.components.axes, self.components.variance
        # Shared slopes are flatter in the components than an arm's own: what sets one arm apart is taken to be coarse.
        shared = axes * _scale(variance, SHARED_POWER)
        self._own_scale = _scale(variance[: self.n_specific], SPECIFIC_POWER)
        own = axes[:, : self.n_specific] * self._own_scale
        one = np.zeros((len(axes), 1))
        self._map = np.hstack([one, shared, one, own, one, axes[:, : self.n_cost]])
        self._offset = -self.components.center @ self._map
        ends = np.cumsum([1 + self.n_shared, 1 + self.n_specific, 1 + self.n_cost]).tolist()
        self._of_shared, self._of_own, self._of_cost = map(slice, [0, *ends], ends)
        self._offset[[0, *ends[:2]]] = 1.0

    def _prior(self) -> LinearPosterior:
        # [c, u | b_1, v_1 | b_2, v_2 | ...]: what all arms share, then each arm's own, so that a row is two slices.
        shared = np.full(self.n_shared, self.variances.shared / self.n_shared)
        variance = np.concatenate([[CONSTANT_VARIANCE], shared, np.tile(self._own_variance(), self.n_arms)])
        prior_mean = np.zeros(variance.size)
        prior_mean[0] = PRIOR_QUALITY
        return LinearPosterior(variance, noise=self.variances.noise, prior_mean=prior_mean)

    def _own_variance(self) -> Vector:
        """Return the prior variance of an arm's own coefficients."""
        specific = np.full(self.n_specific, self.variances.specific / self.n_specific)
        return np.concatenate([[self.variances.arm], specific])

    def _own_cost_variance(self) -> Vector:
        """Return the prior variance of an arm's own coefficients of cost."""
        return np.concatenate([[COST_VARIANCE], np.full(self.n_cost, COST_VARIANCE / self.n_cost)])

    def _row(self, features: Vector, arm: int) -> Row:
        return [(self._of_shared, features[self._of_shared]), (slice(*self._place(arm)), features[self._of_own])]

    def _place(self, arm: int) -> tuple[int, int]:
        """Return where an arm's own coefficients begin and end."""
        start = self.n_shared + 1 + arm * (self.n_specific + 1)
        return start, start + self.n_specific + 1

    def _cost_row(self, features: Vector, arm: int) -> Row:
        k, n_cost = features[self._of_cost], self.n_cost
        start = n_cost + arm * (n_cost + 1)
        return [(slice(0, n_cost), k[1:]), (slice(start, start + n_cost + 1), k)]

    def state(self) -> tuple[State, Arrays]:
        """Return the settings and every array."""
        values: State = {
            "n_arms": self.n_arms,
            "n_features": self.n_features,
            "n_shared": self.n_shared,
            "n_specific": self.n_specific,
            "exploration": self.exploration,
            "floor": self.floor,
            "rule": self.rule,
            "memory": None if math.isinf(self.memory) else self.memory,
            "alarm": None if math.isinf(self.alarm) else self.alarm,
            "learned": {
                "variances": asdict(self.variances),
                "n_explored": self.n_explored,
                "n_since": self.n_since,
                "n_outcomes": self.n_outcomes,
                "misfit": self.misfit,
                "reconsider_at": self.reconsider_at,
                "priors": {str(arm): asdict(prior) for arm, prior in self._priors.items()},
            },
        }
        arrays: Arrays = {
            "unit_usd": self.unit_usd,
            "cost_factor": self.cost_factor,
            "surprises": self.surprises.state(),
            "cost_surprises": self.cost_surprises.state(),
            "seen_context": np.array([each.context for each in self._seen]).reshape(-1, self.n_features),
            "seen_outcome": np.array([each[1:] for each in self._seen], dtype=np.float64).reshape(-1, 4),
        }
        if self._log is not None:
            arrays |= {f"log.{name}": getattr(self._log, name) for name in ("variance", "against", "sums")}
            arrays |= prefixed("log.posterior.", self._log.posterior.state())
        for name, part in (("components", self.components), ("quality", self.quality), ("cost", self.cost)):
            arrays |= prefixed(f"{name}.", part.state())
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        learned = values["learned"]
        options = {name: value for name, value in values.items() if name != "learned"}
        for name in ("memory", "alarm"):
            options[name] = math.inf if options[name] is None else options[name]
        policy = cls(**options, components=Components.from_state(under("components.", arrays)))
        policy.variances = Variances(**learned["variances"])
        policy.n_explored, policy.n_since = float(learned["n_explored"]), int(learned["n_since"])
        policy.n_outcomes, policy.misfit = float(learned["n_outcomes"]), float(learned["misfit"])
        policy.reconsider_at = float(learned["reconsider_at"])
        policy._priors = {int(arm): ArmPrior(**prior) for arm, prior in learned["priors"].items()}
        policy.quality = LinearPosterior.from_state(under("quality.", arrays))
        policy.cost = LinearPosterior.from_state(under("cost.", arrays))
        policy.unit_usd, policy.cost_factor = arrays["unit_usd"].copy(), arrays["cost_factor"].copy()
        for name in ("surprises", "cost_surprises"):
            setattr(policy, name, Cusum.from_state(arrays[name], alarm=policy.alarm))
        if log := under("log.", arrays):
            posterior = LinearPosterior.from_state(under("posterior.", log))
            policy._log = _Log(posterior, log["variance"], log["against"].copy(), log["sums"].copy())
        policy._seen = [
            Seen(context, int(arm), float(quality), float(cost_usd), float(weight))
            for context, (arm, quality, cost_usd, weight) in zip(
                arrays["seen_context"], arrays["seen_outcome"], strict=True
            )
        ]
        return policy


def _scale(variance: Vector, power: float) -> Vector:
    """Return factors that take components of these variances to variances that go with theirs to 2 x power, mean 1."""
    raised = np.where(variance > 0, variance, 1.0) ** (2 * power) * (variance > 0)
    total = raised.sum()
    if not total > 0:
        return np.zeros(variance.size)
    return np.asarray(
        np.sqrt(np.divide(raised, variance, out=np.zeros_like(raised), where=variance > 0) * raised.size / total)
    )
