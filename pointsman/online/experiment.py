"""A new policy against the current one on live traffic, watched at any time, and stopped as soon as it is clear."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.base import Vector
from pointsman.online.draw import draw
from pointsman.ope.sequences import AsymptoticSequence, OffPolicySequence
from pointsman.trade_off import TradeOff
from pointsman.types import PerArm, PerRound, State

Verdict: TypeAlias = Literal["running", "better", "worse", "equivalent"]
Which: TypeAlias = Literal["current", "new"]
Kind: TypeAlias = Literal["betting", "asymptotic"]
Missing: TypeAlias = Literal["dropped", "worst"]

FIRST_ROUND = 500
"""Rounds before which the asymptotic sequence has no interval; see `AsymptoticSequence`."""
FIRST_ADAPTED = 100
"""Rounds after which the share of an adaptive split leaves where it started."""
UNLIKE_Z = 4.0
"""Standard errors between the two policies' shares of missing outcomes from which on they are called unlike."""


class Split(NamedTuple):
    """Which policy serves a request.

    Attributes:
        round: Number of the request, for `observe`.
        which: The policy that serves it.
        propensity: The probability that it was this policy.
    """

    round: int
    which: Which
    propensity: float


class Mixed(NamedTuple):
    """The arm that serves a request, drawn from both policies' probabilities.

    Attributes:
        round: Number of the request, for `observe`.
        arm: The arm that serves it.
        propensity: The probability that it was this arm.
        probabilities: (n_arms,) that of all arms.
    """

    round: int
    arm: int
    propensity: float
    probabilities: Vector


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an experiment says so far.

    Attributes:
        verdict: `better` and `worse` are of the new policy; `equivalent` says that both are within the margin.
        estimate: New minus current, in the unit of the outcome; NaN before the first outcome.
        low: Lower end of the confidence sequence; -inf where it has none yet.
        high: Upper end.
        n_rounds: Rounds that the interval is of.
        n_waiting: Rounds whose outcome, or that of a round before, may still come.
        n_missing: Rounds whose outcome never came.
        n_late: Outcomes that came after their round had been given up; they do not count.
        n_clipped: Outcomes whose cost was cut off at `most_cost_usd`.
        share: Share of the next request's traffic to the new policy.
        is_missing_alike: False where outcomes of one policy are missing clearly more often than those of the other, so
            that dropping them may be unfair to one.
    """

    verdict: Verdict
    estimate: float
    low: float
    high: float
    n_rounds: int
    n_waiting: int
    n_missing: int
    n_late: int
    n_clipped: int
    share: float
    is_missing_alike: bool


@dataclass(kw_only=True)
class _Round:
    """A round that waits for its outcome: NaN while unknown, and where it `is_known` to be missing."""

    arm: int
    propensity: float
    new: list[float]
    current: list[float]
    outcome: float = math.nan
    is_known: bool = False


class Experiment:
    """Confidence sequence of a new policy's mean outcome minus the current one's, from a live split.

    Of every request, `decide` says which policy serves it, with known probability; or `mix` draws an arm from share new
    + (1 - share) current, where both policies' probabilities are known, and learns nothing from requests on which they
    agree, but loses nothing there either: the interval then depends on how much the policies differ, and is never wider
    than that of a split but by chance. The arm's answer comes back to `observe`.

    The outcome is the trade-off's utility, quality - lambda min(cost, most_cost_usd), so at lambda = 0 quality, and at
    infinite lambda minus the cost. It lies in [-lambda most_cost_usd, 1], which is what the betting sequence needs to
    hold at every number of rounds (`OffPolicySequence`, an end each, running means as predictions); what is compared is
    the cost so cut off, and `Finding` counts how often it was. The asymptotic sequence needs no bound on costs, but
    FIRST_ROUND rounds, and holds as rounds accumulate (`AsymptoticSequence`).

    The experiment stops by itself, once and for all: `better` when the lower end exceeds the margin, `worse` when the
    upper end is below minus the margin, `equivalent` when both ends are within it. The chance that it ever stops with a
    wrong verdict is at most 1 - level, however often it is looked at. From then on `decide` gives all requests to the
    new policy if that is better, else to the current one.

    Rounds count in the order they were decided, whatever order outcomes come in: fast answers must not count first. A
    round waits for at most `max_waiting` later ones, and is missing then. Missing rounds are dropped, which is fair
    where they are missing whatever their outcome would have been; or taken at worst, which holds whatever the reason,
    and costs as much width as rounds are missing.

    Policies may learn meanwhile: what is estimated is then the difference of the means that they have over the rounds,
    to which the betting sequence applies if that difference is one and the same, the asymptotic one in any case.

    Args:
        trade_off: What the outcome is.
        most_cost_usd: Where costs are cut off, > 0; may be infinite for the asymptotic sequence.
        margin: Difference of outcomes that is worth a verdict, >= 0; with 0 nothing is ever equivalent.
        share: Share of traffic to the new policy, to begin with.
        least_share: What either policy keeps at least, in (0, 0.5].
        is_adaptive: Whether traffic moves to the policy that seems better, by the probability that it is: then fewer
            requests are served worse, and the verdict takes more of them.
        level: Least probability that the confidence sequence never misses.
        kind: Of the sequence.
        missing: What is made of rounds without an outcome; `worst` takes the betting sequence.
        max_waiting: Rounds that are waited for.
        tuned_to: Number of rounds at which the interval should be tightest; a wide range where None, 10,000 for the
            asymptotic sequence.
        n_grid: Steps of the betting sequence's grid over what is possible; time and state grow with it.

    References:
        Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro (2024), ACM/IMS Journal of Data Science 1(3); Howard,
        Ramdas, McAuliffe and Sekhon (2021), Annals of Statistics 49(2), for stopping at will.
    """

    def __init__(
        self,
        *,
        trade_off: TradeOff,
        most_cost_usd: float = math.inf,
        margin: float = 0.0,
        share: float = 0.5,
        least_share: float = 0.1,
        is_adaptive: bool = False,
        level: float = 0.95,
        kind: Kind = "betting",
        missing: Missing = "dropped",
        max_waiting: int = 1_000,
        tuned_to: int | None = None,
        n_grid: int = 1_000,
    ) -> None:
        if not 0 < least_share <= 0.5:
            raise InvalidParameterError(f"least_share must be in (0, 0.5]; got {least_share}")
        if not (math.isfinite(margin) and margin >= 0):
            raise InvalidParameterError(f"margin must be finite and >= 0; got {margin}")
        if not most_cost_usd > 0:
            raise InvalidParameterError(f"most_cost_usd must be > 0; got {most_cost_usd}")
        if max_waiting < 1:
            raise InvalidParameterError(f"max_waiting must be at least 1; got {max_waiting}")
        for name, value, known in (("kind", kind, get_args(Kind)), ("missing", missing, get_args(Missing))):
            if value not in known:
                raise InvalidParameterError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        if kind == "betting" and trade_off.quality_per_usd > 0 and math.isinf(most_cost_usd):
            raise InvalidParameterError(
                "most_cost_usd must be finite for a betting sequence where cost counts; got inf: state where costs are "
                "cut off, or take kind='asymptotic'"
            )
        if kind == "asymptotic" and missing == "worst":
            raise InvalidParameterError("missing must be 'dropped' for an asymptotic sequence; got 'worst'")
        self.trade_off, self.most_cost_usd, self.margin = trade_off, most_cost_usd, margin
        self.least_share, self.is_adaptive, self.level = least_share, is_adaptive, level
        self.kind, self.missing, self.max_waiting, self.tuned_to, self.n_grid = (
            kind,
            missing,
            max_waiting,
            tuned_to,
            n_grid,
        )
        self.share = self._checked_share(share)
        self.verdict: Verdict = "running"
        self._waiting: OrderedDict[int, _Round] = OrderedDict()
        self._next = 0
        self._interval = (-math.inf, math.inf)
        self._n, self._mean, self._squares = 0, 0.0, 0.0
        # By arm: outcomes and their sum, for predictions; by whether the new policy is likelier: rounds and missing.
        self._counts: list[float] = []
        self._sums: list[float] = []
        self._decided, self._missed = [0, 0], [0, 0]
        self._n_late = self._n_clipped = 0
        self._sequences: dict[str, Any] = self._started()

    @property
    def outcome_range(self) -> tuple[float, float]:
        """Lowest and highest outcome that can occur."""
        rate, most = self.trade_off.quality_per_usd, self.most_cost_usd
        if math.isinf(rate):
            return -most, 0.0
        return (0.0 if rate == 0 else -rate * most), 1.0

    def decide(self, *, rng: np.random.Generator, share: float | None = None) -> Split:
        """Return which policy serves the next request.

        Args:
            rng: For the draw.
            share: Probability of the new policy, where the caller adapts it: from earlier rounds alone.
        """
        drawn = self.mix(np.array([0.0, 1.0]), np.array([1.0, 0.0]), rng=rng, share=share)
        return Split(drawn.round, ("current", "new")[drawn.arm], drawn.propensity)

    def mix(self, new: Vector, current: Vector, *, rng: np.random.Generator, share: float | None = None) -> Mixed:
        """Return an arm for the next request, drawn from share new + (1 - share) current.

        Args:
            new: (n_arms,) the new policy's probabilities.
            current: (n_arms,) those of the current one.
            rng: For the draw.
            share: As for `decide`.
        """
        if self.verdict == "running":
            part = self.share if share is None else self._checked_share(share)
        else:
            part = float(self.verdict == "better")
        probabilities = part * new + (1 - part) * current
        arm = draw(probabilities, rng)
        propensity = float(probabilities[arm])
        number = self._next
        self._next += 1
        if self.verdict == "running":
            self._waiting[number] = _Round(
                arm=arm, propensity=propensity, new=[float(p) for p in new], current=[float(p) for p in current]
            )
            if len(self._waiting) > self.max_waiting:
                next(iter(self._waiting.values())).is_known = True
                self._settle()
        return Mixed(number, arm, propensity, probabilities)

    def observe(self, number: int, *, quality: float = math.nan, cost_usd: float = math.nan) -> Verdict:
        """Take in a round's outcome, and return the verdict.

        Args:
            number: The round's, from `decide` or `mix`.
            quality: In [0, 1]; NaN where it will never be known.
            cost_usd: NaN where it will never be known.

        Raises:
            InvalidParameterError: The quality lies outside [0, 1], the cost is negative or infinite, or there never was
                such a round.
        """
        if not 0 <= number < self._next:
            raise InvalidParameterError(f"number must be that of a round that was decided; got {number}")
        if quality < 0 or quality > 1:
            raise InvalidParameterError(f"quality must be in [0, 1], or NaN; got {quality}")
        if cost_usd < 0 or math.isinf(cost_usd):
            raise InvalidParameterError(f"cost_usd must be finite and >= 0, or NaN; got {cost_usd}")
        waiting = self._waiting.get(number)
        if waiting is None or waiting.is_known:
            self._n_late += self.verdict == "running"
            return self.verdict
        waiting.is_known = True
        cost = min(cost_usd, self.most_cost_usd) if cost_usd == cost_usd else math.nan
        self._n_clipped += cost < cost_usd and self.trade_off.quality_per_usd > 0
        waiting.outcome = float(self.trade_off.utility(quality=np.array(quality), cost_usd=np.array(cost)))
        self._settle()
        return self.verdict

    def report(self) -> Finding:
        """Return what the experiment says so far."""
        return Finding(
            verdict=self.verdict,
            estimate=self._mean if self._n else math.nan,
            low=self._interval[0],
            high=self._interval[1],
            n_rounds=self._n,
            n_waiting=len(self._waiting),
            n_missing=sum(self._missed),
            n_late=self._n_late,
            n_clipped=self._n_clipped,
            share=self.share if self.verdict == "running" else float(self.verdict == "better"),
            is_missing_alike=self._is_missing_alike(),
        )

    def _checked_share(self, share: float) -> float:
        if not self.least_share <= share <= 1 - self.least_share:
            raise InvalidParameterError(
                f"share must be in [least_share, 1 - least_share] = [{self.least_share}, {1 - self.least_share}]; "
                f"got {share}"
            )
        return share

    def _started(self) -> dict[str, Any]:
        if self.kind == "asymptotic":
            tuned_to = 10_000 if self.tuned_to is None else self.tuned_to
            return {"both": AsymptoticSequence(tuned_to=tuned_to, level=self.level, first_round=FIRST_ROUND)}
        # Each end has half of the error, and its own reading of what is missing.
        return {
            side: OffPolicySequence(
                outcome_range=self.outcome_range,
                difference=True,
                largest_weight=1 / self.least_share,
                level=(1 + self.level) / 2,
                side=side,
                tuned_to=self.tuned_to,
                n_grid=self.n_grid,
            )
            for side in get_args(Literal["lower", "upper"])
        }

    def _settle(self) -> None:
        """Add all rounds up to the first that is still unknown to the sequences; stop where they say so."""
        settled: list[_Round] = []
        while self._waiting:
            number, first = next(iter(self._waiting.items()))
            if not first.is_known:
                break
            settled.append(self._waiting.pop(number))
        for each in settled:
            side = int(each.new[each.arm] > each.current[each.arm])
            self._decided[side] += 1
            self._missed[side] += math.isnan(each.outcome)
        if self.missing == "dropped":
            settled = [each for each in settled if not math.isnan(each.outcome)]
        if not settled or self.verdict != "running":
            return
        n_arms = max(len(self._counts), *(len(each.new) for each in settled))
        self._counts += [0.0] * (n_arms - len(self._counts))
        self._sums += [0.0] * (n_arms - len(self._sums))
        batch = _Batch.of(settled, n_arms=n_arms)
        predicted = self._predicted()
        low, high = self._extended(batch, predicted)
        stop = self._first_verdict(low, high)
        n_used = low.size if stop is None else stop + 1
        self._interval = (float(low[n_used - 1]), float(high[n_used - 1]))
        self._learn(batch, predicted, n_used)
        if self.verdict != "running":
            self._waiting.clear()
        elif self.is_adaptive and self._n >= FIRST_ADAPTED:
            self.share = self._adapted_share()

    def _predicted(self) -> Vector:
        """Return every arm's mean outcome so far, (n_arms,); that of all where it has none."""
        counts, sums = np.array(self._counts), np.array(self._sums)
        middle = sum(self.outcome_range) / 2 if math.isfinite(self.outcome_range[0]) else 0.0
        overall = float(sums.sum() / counts.sum()) if counts.sum() else middle
        return np.where(counts > 0, sums / np.maximum(counts, 1), overall)

    def _extended(self, batch: _Batch, predicted: Vector) -> tuple[PerRound, PerRound]:
        """Return the interval after each round of a batch."""
        if self.kind == "asymptotic":
            running = self._sequences["both"].update(batch.scores(predicted, batch.outcome))
            return running.low, running.high
        lowest, highest = self.outcome_range
        ahead = batch.change[np.arange(batch.arm.size), batch.arm] > 0
        ends = {}
        for side, of_new, of_current in (("lower", lowest, highest), ("upper", highest, lowest)):
            at_worst = np.where(ahead, of_new, of_current)
            ends[side] = self._sequences[side].update(
                arm=batch.arm,
                outcome=np.where(np.isnan(batch.outcome), at_worst, batch.outcome),
                propensity=batch.propensity,
                target_probs=batch.new,
                baseline_probs=batch.current,
                predicted=np.tile(predicted, (batch.arm.size, 1)),
            )
        return ends["lower"].low, ends["upper"].high

    def _first_verdict(self, low: PerRound, high: PerRound) -> int | None:
        """Take the first verdict that the intervals allow; return its place among them."""
        verdicts: tuple[tuple[Verdict, NDArray[np.bool_]], ...] = (
            ("better", low > self.margin),
            ("worse", high < -self.margin),
            ("equivalent", (low > -self.margin) & (high < self.margin)),
        )
        reached = [(int(holds.argmax()), verdict) for verdict, holds in verdicts if holds.any()]
        if not reached:
            return None
        place, self.verdict = min(reached)
        return place

    def _learn(self, batch: _Batch, predicted: Vector, n_used: int) -> None:
        """Update what predictions and the share go by."""
        known = ~np.isnan(batch.outcome)
        known[n_used:] = False
        for arm, outcome in zip(batch.arm[known], batch.outcome[known], strict=True):
            self._counts[arm] += 1
            self._sums[arm] += float(outcome)
        for score in batch.scores(predicted, batch.outcome)[known]:
            self._n += 1
            moved = float(score) - self._mean
            self._mean += moved / self._n
            self._squares += moved * (float(score) - self._mean)

    def _adapted_share(self) -> float:
        """Return the probability that the new policy is the better one, a normal posterior's, within bounds."""
        error = math.sqrt(self._squares / max(self._n - 1, 1) / self._n)
        share = 0.5 * (1 + math.erf(self._mean / error / math.sqrt(2))) if error > 0 else self.share
        return min(max(share, self.least_share), 1 - self.least_share)

    def _is_missing_alike(self) -> bool:
        (n_0, n_1), (m_0, m_1) = self._decided, self._missed
        if not (n_0 and n_1):
            return True
        share = (m_0 + m_1) / (n_0 + n_1)
        error = math.sqrt(share * (1 - share) * (1 / n_0 + 1 / n_1))
        return abs(m_0 / n_0 - m_1 / n_1) <= UNLIKE_Z * error

    def state(self) -> State:
        """Return what `from_state` makes it again from, JSON-ready; infinities as None, NaN too."""
        rate = self.trade_off.quality_per_usd
        return {
            "options": {
                "most_cost_usd": _json(self.most_cost_usd),
                "margin": self.margin,
                "share": self.share,
                "least_share": self.least_share,
                "is_adaptive": self.is_adaptive,
                "level": self.level,
                "kind": self.kind,
                "missing": self.missing,
                "max_waiting": self.max_waiting,
                "tuned_to": self.tuned_to,
                "n_grid": self.n_grid,
            },
            "quality_per_usd": _json(rate),
            "verdict": self.verdict,
            "waiting": [
                [number, asdict(each) | {"outcome": _json(each.outcome)}] for number, each in self._waiting.items()
            ],
            "next": self._next,
            "interval": [_json(end) for end in self._interval],
            "moments": [self._n, self._mean, self._squares],
            "arms": [self._counts, self._sums],
            "missing": [self._decided, self._missed, self._n_late, self._n_clipped],
            "sequences": {name: sequence.state() for name, sequence in self._sequences.items()},
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the experiment as it was."""
        rate, options = state["quality_per_usd"], dict(state["options"])
        options["most_cost_usd"] = _or(options["most_cost_usd"], math.inf)
        experiment = cls(trade_off=TradeOff(_or(rate, math.inf)), **options)
        experiment.verdict = state["verdict"]
        experiment._waiting = OrderedDict(
            (number, _Round(**each | {"outcome": _or(each["outcome"], math.nan)})) for number, each in state["waiting"]
        )
        experiment._next = state["next"]
        low, high = state["interval"]
        experiment._interval = (_or(low, -math.inf), _or(high, math.inf))
        experiment._n, experiment._mean, experiment._squares = state["moments"]
        experiment._counts, experiment._sums = (list(numbers) for numbers in state["arms"])
        decided, missed, experiment._n_late, experiment._n_clipped = state["missing"]
        experiment._decided, experiment._missed = list(decided), list(missed)
        kind = AsymptoticSequence if experiment.kind == "asymptotic" else OffPolicySequence
        experiment._sequences = {name: kind.from_state(each) for name, each in state["sequences"].items()}
        return experiment


class _Batch(NamedTuple):
    """Rounds as arrays: (n,) and (n, n_arms)."""

    arm: NDArray[np.int64]
    propensity: PerRound
    new: PerArm
    current: PerArm
    outcome: PerRound

    @classmethod
    def of(cls, rounds: Sequence[_Round], *, n_arms: int) -> _Batch:
        """Return rounds as arrays; arms that came later have no probability in earlier ones."""
        new, current = np.zeros((len(rounds), n_arms)), np.zeros((len(rounds), n_arms))
        for i, each in enumerate(rounds):
            new[i, : len(each.new)], current[i, : len(each.current)] = each.new, each.current
        return cls(
            np.array([each.arm for each in rounds], dtype=np.int64),
            np.array([each.propensity for each in rounds]),
            new,
            current,
            np.array([each.outcome for each in rounds]),
        )

    @property
    def change(self) -> PerArm:
        """New minus current probability of every arm."""
        return self.new - self.current

    def scores(self, predicted: Vector, outcome: PerRound) -> PerRound:
        """Return the doubly robust score of the difference; NaN where the outcome is."""
        rows = np.arange(self.arm.size)
        weight = self.change[rows, self.arm] / self.propensity
        return np.asarray(self.change @ predicted + weight * (outcome - predicted[self.arm]))


def _json(number: float) -> float | None:
    """Return a number, None for one that JSON does not know."""
    return number if math.isfinite(number) else None


def _or(number: float | None, otherwise: float) -> float:
    return otherwise if number is None else number
