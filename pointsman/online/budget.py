"""A budget held over an open-ended stream: the trade-off is moved, no request is dropped.

`Pacer` holds one budget, a USD amount a request or a day; `Budgets` one for every key, such as a user or a team.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Self

from pointsman.errors import InvalidParameterError
from pointsman.trade_off import TradeOff
from pointsman.types import State

DAY_S = 86_400.0

STEP = 0.1
"""By how many e-folds one request of typical deviation from the budget moves lambda. A step of a is felt after some
1 / a requests: a larger one holds spend more closely, and spends it less well."""
REPAY = 0.5
"""Share of the budget that a request is asked to save, at most, while a debt is repaid; or to add, while credit is."""
BAND = 2.0
"""Debt, in requests of typical deviation and over STEP, from which on all of REPAY is asked."""
CREDIT = 5.0
"""Most credit that is kept, in bands; what else was not spent lapses."""
START = 0.1
"""lambda times the budget of a request to begin with: a tenth of a point of quality for the whole of it."""
LEAST, MOST = 1e-4, 1e3
"""lambda times the budget of a request at which it stands for zero, and for infinity: the cheapest arm."""
NEARLY = 10.0
"""Factor on lambda within which it counts as infinite when it is judged whether a budget can be held."""
MEMORY = 100.0
"""Requests over which the deviation of costs is averaged."""
N_CHEAPEST = 30.0
"""Requests over which that is judged."""
LEAST_ELAPSED_DAYS = 600 / DAY_S
"""Time over which the first requests of a budget a day are taken to have come, at least."""
DAILY_BAND, DAILY_CREDIT = 0.1, 0.25
"""Band and credit of a budget a day, in days: how far spend may be ahead of or behind the clock, as traffic has its
hours."""
N_RATES = 10
"""Requests among whose lambdas a pacer that goes on from a log looks for its own."""
N_BLOCKS = 64
"""Most blocks that the history is summarised in."""


@dataclass(kw_only=True)
class Block:
    """Some consecutive requests of a pacer's history.

    Attributes:
        n_requests: Requests whose trade-off was asked for.
        n_bound: Those of them in which the pacer raised lambda.
        spend_usd: What was spent meanwhile.
        allowed_usd: What the budget allowed meanwhile.
        quality_per_usd: Largest finite lambda that was asked for; zero where there was none.
    """

    n_requests: int = 0
    n_bound: int = 0
    spend_usd: float = 0.0
    allowed_usd: float = 0.0
    quality_per_usd: float = 0.0

    def __add__(self, other: Block) -> Block:
        """Return both as one."""
        return Block(
            n_requests=self.n_requests + other.n_requests,
            n_bound=self.n_bound + other.n_bound,
            spend_usd=self.spend_usd + other.spend_usd,
            allowed_usd=self.allowed_usd + other.allowed_usd,
            quality_per_usd=max(self.quality_per_usd, other.quality_per_usd),
        )


@dataclass(frozen=True, slots=True)
class PacedRequest:
    """A request that a pacer has seen.

    Attributes:
        at: When it was decided, in s.
        cost_usd: What it cost; NaN where that is not known.
        quality_per_usd: The lambda it was decided at; NaN where at none.
    """

    at: float
    cost_usd: float
    quality_per_usd: float


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """What a pacer did so far.

    Attributes:
        n_requests: Requests whose trade-off was asked for.
        n_unknown: Requests whose cost never became known; they are taken to have cost what the others do.
        spend_usd: Known costs.
        allowed_usd: What the budget allowed: of as many requests as have a known cost, or of the time that passed.
        target_usd: What a request may cost on average now.
        debt_usd: What is still to be saved; negative where there is credit to be spent.
        lapsed_usd: Credit that was not wanted and is not kept: where the budget was held throughout and all costs are
            known, spend_usd - allowed_usd is the debt less this.
        share_bound: Share of requests in which the pacer raised lambda.
        quality_per_usd: The pacer's lambda now; zero where it does not bind, infinite where it asks for the cheapest.
        is_held: False while even the cheapest arms cost more than the budget: raise it, or add a cheaper arm.
        history: All of it, in at most `N_BLOCKS` blocks of requests, the oldest first.
    """

    n_requests: int
    n_unknown: int
    spend_usd: float
    allowed_usd: float
    target_usd: float
    debt_usd: float
    lapsed_usd: float
    share_bound: float
    quality_per_usd: float
    is_held: bool
    history: tuple[Block, ...]


class Pacer:
    """Holds mean spend at a budget, or below, by a lambda of its own.

    With c_t the cost of a request over the budget u of one, and d_t the debt: all c - 1 so far,

        log(lambda u) <- log(lambda u) + (a / m) (c_t - r_t),     r_t = 1 - REPAY clip(d_t (a / m) / BAND, -1, 1)

    is dual ascent, multiplicative as lambda has no unit, on the constraint that requests cost r: the budget, less what
    repays the debt. a is STEP, and m the root mean square of c - 1 over the last requests, at least 1, so that a dear
    call does not throw lambda off. Summed up, it is a proportional-integral controller of the debt, so spend settles at
    the budget itself, not only near it. The higher of the pacer's lambda and the request's own is used.

    lambda is fixed before the arm is drawn, by costs of earlier requests alone, so propensities stay those that the
    policy says. It needs no dither where spend jumps in lambda: costs move it to and fro across the jump, as often as
    makes the mean right.

    While m is steady and lambda finite, the debt is below log(MOST / LEAST) m / a and one band, in budgets, whatever
    the policy and prices do: every budget overspent raises log(lambda u) by a / m. Credit is kept up to CREDIT bands (a
    quarter of a day's budget), so that in any stretch of requests spend is over the budget by no more than both. At
    infinite lambda the cheapest arm is asked for; where that costs more than the budget, too, the budget cannot be
    held, the debt stands still, and `report` says so.

    A cost may come late, or as NaN where it is never known. With a budget a day, requests are taken to come as often as
    in the last day or so, and the debt is that against the clock.

    Args:
        budget_usd_per_request: What requests may cost on average, > 0; or
        budget_usd_per_day: what a day may cost.

    References:
        Balseiro and Gur (2019), Management Science 65(9): adaptive pacing; Agrawal and Devanur (2014), EC:
        bandits with knapsacks. The repayment and the step's unit are this package's own.
    """

    def __init__(self, *, budget_usd_per_request: float | None = None, budget_usd_per_day: float | None = None) -> None:
        budgets = (budget_usd_per_request, budget_usd_per_day)
        given = [budget for budget in budgets if budget is not None]
        if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
            raise InvalidParameterError(
                "one of budget_usd_per_request and budget_usd_per_day must be given, finite and > 0; "
                f"got {budget_usd_per_request} and {budget_usd_per_day}"
            )
        self.budget_usd_per_request, self.budget_usd_per_day = budgets
        self._log = math.log(START)
        self._debt_usd = self._lapsed_usd = 0.0
        self._square = 1.0
        self._recent_usd = math.nan
        self._cheapest, self._n_cheapest = 0.0, 0.0
        self._began: float | None = None
        self._seen = 0.0
        self._recent_requests = 0.0
        self._n_unknown = 0
        self._block_size = 1
        self._history: list[Block] = []

    def trade_off(self, base: TradeOff, *, now: float | None = None, counted: bool = True) -> TradeOff:
        """Return the trade-off to decide the next request at: this one, or a higher lambda where the budget needs it.

        Args:
            base: The request's own.
            now: Seconds, of any clock; of the machine's where None. Counts with a budget a day only.
            counted: Whether there is such a request; otherwise it is only asked what would be decided.
        """
        if self.budget_usd_per_day is not None:
            self._pass(time.time() if now is None else now, n_requests=int(counted))
        ours = self.quality_per_usd
        bound = ours > base.quality_per_usd
        rate = ours if bound else base.quality_per_usd
        if counted:
            self._record(Block(n_requests=1, n_bound=int(bound), quality_per_usd=rate if math.isfinite(rate) else 0.0))
        return TradeOff(rate) if bound else base

    def observe(self, cost_usd: float, *, now: float | None = None) -> None:
        """Take in what a request cost, NaN where it will never be known.

        Raises:
            InvalidParameterError: The cost is negative or infinite.
        """
        if cost_usd < 0 or math.isinf(cost_usd):
            raise InvalidParameterError(f"cost_usd must be finite and >= 0, or NaN; got {cost_usd}")
        unit = self.target_usd
        if math.isnan(cost_usd):
            self._n_unknown += 1
            # A request's budget is not counted either then; a day's goes by the clock, so the call must be.
            if self.budget_usd_per_day is not None and not math.isnan(self._recent_usd):
                self._debt_usd += self._recent_usd
            return
        if self.budget_usd_per_day is not None:
            self._pass(time.time() if now is None else now, n_requests=0)
        self._recent_usd = (
            cost_usd if math.isnan(self._recent_usd) else self._recent_usd + (cost_usd - self._recent_usd) / MEMORY
        )
        allowed = 0.0 if self.budget_usd_per_day is not None else unit
        self._last.spend_usd += cost_usd
        self._last.allowed_usd += allowed
        relative = cost_usd / unit
        self._square += ((relative - 1) ** 2 - self._square) / MEMORY
        # Asked for before this cost is in: it is the debt that the decision could have known of.
        asked = 1 - REPAY * min(max(self._debt_usd / self._band_usd, -1.0), 1.0)
        self._watch_cheapest(relative)
        self._owe(cost_usd - allowed)
        moved = self._log + self._step * (relative - asked)
        self._log = min(max(moved, math.log(LEAST)), math.log(MOST))

    def resume(self, requests: Iterable[PacedRequest], *, now: float) -> None:
        """Go on where the log says that an earlier pacer was.

        Costs are taken in as they came: of the same budget, rate and debt are those of a pacer that saw them. A request
        is decided at the higher of the pacer's lambda and its own, so the lowest of the last few is taken. Of the debt
        at most one band is taken over: more is seldom this budget's, but of a time when it was another. `report` tells
        of what follows.

        Args:
            requests: What was decided lately, the oldest first.
            now: Seconds, of the requests' clock.

        Raises:
            InvalidParameterError: A cost is negative or infinite.
        """
        rates: deque[float] = deque(maxlen=N_RATES)
        for each in requests:
            if self.budget_usd_per_day is not None:
                self._pass(each.at)
            if not math.isnan(each.quality_per_usd):
                rates.append(each.quality_per_usd)
                self._log = math.log(min(max(min(rates) * self.target_usd, LEAST), MOST))
            self.observe(each.cost_usd, now=each.at)
        if self.budget_usd_per_day is not None and self._began is not None:
            self._pass(now, n_requests=0)
        self._debt_usd = min(self._debt_usd, self._band_usd)
        self._lapsed_usd, self._n_unknown = 0.0, 0
        self._history.clear()

    @property
    def quality_per_usd(self) -> float:
        """The pacer's lambda: zero where it does not bind, infinite where it asks for the cheapest arm."""
        if self._log <= math.log(LEAST):
            return 0.0
        return math.inf if self._log >= math.log(MOST) else math.exp(self._log) / self.target_usd

    @property
    def target_usd(self) -> float:
        """What a request may cost on average: the budget, or a day's over the requests that a day is taken to have."""
        if self.budget_usd_per_request is not None:
            return self.budget_usd_per_request
        assert self.budget_usd_per_day is not None  # noqa: S101 - one of both, as the constructor checks
        return self.budget_usd_per_day / self._requests_per_day

    @property
    def is_held(self) -> bool:
        """False while even the cheapest arms cost more than the budget."""
        return not (self._n_cheapest >= N_CHEAPEST and self._cheapest > 1)

    def report(self) -> Pacing:
        """Return what the pacer did so far."""
        total = sum(self._history, Block())
        return Pacing(
            n_requests=total.n_requests,
            n_unknown=self._n_unknown,
            spend_usd=total.spend_usd,
            allowed_usd=total.allowed_usd,
            target_usd=self.target_usd,
            debt_usd=self._debt_usd,
            lapsed_usd=self._lapsed_usd,
            share_bound=total.n_bound / max(total.n_requests, 1),
            quality_per_usd=self.quality_per_usd,
            is_held=self.is_held,
            history=tuple(Block(**asdict(block)) for block in self._history),
        )

    def state(self) -> State:
        """Return what `from_state` makes it again from, JSON-ready."""
        return {
            "budget_usd_per_request": self.budget_usd_per_request,
            "budget_usd_per_day": self.budget_usd_per_day,
            "log": self._log,
            "debt_usd": [self._debt_usd, self._lapsed_usd],
            "square": self._square,
            "recent_usd": None if math.isnan(self._recent_usd) else self._recent_usd,
            "cheapest": [self._cheapest, self._n_cheapest],
            "clock": [self._began, self._seen, self._recent_requests],
            "n_unknown": self._n_unknown,
            "block_size": self._block_size,
            "history": [asdict(block) for block in self._history],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the pacer as it was."""
        pacer = cls(
            budget_usd_per_request=state["budget_usd_per_request"], budget_usd_per_day=state["budget_usd_per_day"]
        )
        pacer._log, pacer._square = state["log"], state["square"]
        pacer._debt_usd, pacer._lapsed_usd = state["debt_usd"]
        pacer._recent_usd = math.nan if state["recent_usd"] is None else state["recent_usd"]
        pacer._cheapest, pacer._n_cheapest = state["cheapest"]
        pacer._began, pacer._seen, pacer._recent_requests = state["clock"]
        pacer._n_unknown, pacer._block_size = state["n_unknown"], state["block_size"]
        pacer._history = [Block(**block) for block in state["history"]]
        return pacer

    @property
    def _step(self) -> float:
        return STEP / max(math.sqrt(self._square), 1.0)

    @property
    def _band_usd(self) -> float:
        """Debt from which on all of REPAY is asked."""
        band = BAND / self._step
        if self.budget_usd_per_day is not None:
            band = max(band, DAILY_BAND * self._requests_per_day)
        return band * self.target_usd

    @property
    def _credit_usd(self) -> float:
        """Most that is kept of what was not spent."""
        if self.budget_usd_per_day is not None:
            return DAILY_CREDIT * self.budget_usd_per_day
        return CREDIT * self._band_usd

    @property
    def _requests_per_day(self) -> float:
        elapsed = 0.0 if self._began is None else (self._seen - self._began) / DAY_S
        # Requests, and the time they came in, both weighted by exp(-age in days).
        return max(self._recent_requests, 1.0) / max(-math.expm1(-elapsed), LEAST_ELAPSED_DAYS)

    @property
    def _last(self) -> Block:
        if not self._history:
            self._history.append(Block())
        return self._history[-1]

    def _pass(self, now: float, *, n_requests: int = 1) -> None:
        """Let a day's budget accrue up to now."""
        assert self.budget_usd_per_day is not None  # noqa: S101 - who calls has checked
        if self._began is None:
            self._began = self._seen = now
        passed = max(now - self._seen, 0.0) / DAY_S
        self._seen = max(now, self._seen)
        self._recent_requests = self._recent_requests * math.exp(-passed) + n_requests
        accrued = passed * self.budget_usd_per_day
        self._last.allowed_usd += accrued
        self._owe(-accrued)

    def _owe(self, more_usd: float) -> None:
        """Add to the debt, unless the budget cannot be held; credit beyond what is kept lapses."""
        if self.is_held:
            self._debt_usd += more_usd
            lapsed = max(-self._credit_usd - self._debt_usd, 0.0)
            self._debt_usd += lapsed
            self._lapsed_usd += lapsed

    def _watch_cheapest(self, relative: float) -> None:
        """Follow what requests cost while the cheapest arms are asked for, or nearly."""
        if self._log < math.log(MOST / NEARLY):
            self._cheapest, self._n_cheapest = 0.0, 0.0
            return
        self._n_cheapest += 1
        self._cheapest += (relative - self._cheapest) / min(self._n_cheapest, N_CHEAPEST)

    def _record(self, request: Block) -> None:
        """Add a request to the history; pairs of blocks become one where there are too many."""
        if self._last.n_requests < self._block_size:
            self._history[-1] = self._last + request
            return
        if len(self._history) == N_BLOCKS:
            pairs = zip(self._history[::2], self._history[1::2], strict=True)
            self._history = [first + second for first, second in pairs]
            self._block_size *= 2
        self._history.append(request)


class Budgets:
    """One pacer for every key: its own budget, or the default one.

    Keys with a budget of their own are kept. Of the others at most `max_keys` are: the one not seen for longest is
    forgotten first, its debt or credit with it, which is at most what `Pacer` says.

    Args:
        budget_usd_per_request: Default budget of a key; or
        budget_usd_per_day: default budget of a key and day. Without either, keys without a budget are not paced.
        max_keys: Most keys that are kept without a budget of their own, >= 1.
    """

    def __init__(
        self,
        *,
        budget_usd_per_request: float | None = None,
        budget_usd_per_day: float | None = None,
        max_keys: int = 10_000,
    ) -> None:
        if max_keys < 1:
            raise InvalidParameterError(f"max_keys must be at least 1; got {max_keys}")
        self._default = {"budget_usd_per_request": budget_usd_per_request, "budget_usd_per_day": budget_usd_per_day}
        if any(budget is not None for budget in self._default.values()):
            Pacer(**self._default)
        self.max_keys = max_keys
        self._own: dict[str, Pacer] = {}
        self._others: OrderedDict[str, Pacer] = OrderedDict()

    def set(
        self, key: str, *, budget_usd_per_request: float | None = None, budget_usd_per_day: float | None = None
    ) -> None:
        """Give a key a budget of its own, from now on, without debt."""
        self._own[key] = Pacer(budget_usd_per_request=budget_usd_per_request, budget_usd_per_day=budget_usd_per_day)
        self._others.pop(key, None)

    def unset(self, key: str) -> None:
        """Take a key's own budget away: the default one holds."""
        self._own.pop(key, None)

    def pacer(self, key: str) -> Pacer | None:
        """Return the pacer of a key, a new one where it has none; None where it has no budget."""
        if key in self._own:
            return self._own[key]
        if all(budget is None for budget in self._default.values()):
            return None
        if key in self._others:
            self._others.move_to_end(key)
            return self._others[key]
        while len(self._others) >= self.max_keys:
            self._others.popitem(last=False)
        pacer = self._others[key] = Pacer(**self._default)
        return pacer

    def trade_off(self, key: str, base: TradeOff, *, now: float | None = None) -> TradeOff:
        """Return the trade-off to decide the key's next request at; see `Pacer.trade_off`."""
        pacer = self.pacer(key)
        return base if pacer is None else pacer.trade_off(base, now=now)

    def observe(self, key: str, cost_usd: float, *, now: float | None = None) -> None:
        """Take in what a key's request cost; see `Pacer.observe`."""
        pacer = self.pacer(key)
        if pacer is not None:
            pacer.observe(cost_usd, now=now)

    def report(self) -> dict[str, Pacing]:
        """Return what the pacer of every key that is kept did so far."""
        return {key: pacer.report() for key, pacer in (*self._own.items(), *self._others.items())}

    def state(self) -> State:
        """Return what `from_state` makes it again from, JSON-ready."""
        return {
            "default": self._default,
            "max_keys": self.max_keys,
            "own": {key: pacer.state() for key, pacer in self._own.items()},
            "others": [[key, pacer.state()] for key, pacer in self._others.items()],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the budgets as they were."""
        budgets = cls(**state["default"], max_keys=state["max_keys"])
        budgets._own = {key: Pacer.from_state(pacer) for key, pacer in state["own"].items()}
        budgets._others = OrderedDict((key, Pacer.from_state(pacer)) for key, pacer in state["others"])
        return budgets
