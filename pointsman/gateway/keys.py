"""Virtual keys: who may ask for which models, how often, and for how much money."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Protocol, Self

from pointsman.errors import InvalidParameterError
from pointsman.gateway.errors import ApiError
from pointsman.gateway.settings.schema import KeySettings, Period

_PREFIX: Final = "pm-"
_INDEXED_BYTES: Final = 8
_MAX_KEY_BYTES: Final = 1024


def make_key() -> str:
    """Return a new key of 256 random bits, from the system's generator; it is kept nowhere."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal: all that is kept of it.

    A key has 256 random bits, so there is nothing to guess that a salt or a slow hash would protect.
    """
    return hashlib.sha256(key.encode()).hexdigest()


class SpendLog(Protocol):
    """Where spending survives a restart, and where replicas see each other's: the store of rounds."""

    async def spent_usd(self, key_id: str, *, since: float) -> float:
        """Return the summed cost of a key's rounds decided since then (Unix seconds), in USD; unknown costs count 0."""


class Reservation:
    """What one admitted request holds of its key's limits until it is settled.

    As a context manager it gives back on leaving what was not settled: a request that never reached a model costs
    nothing.

    Attributes:
        cost_usd: What is held of the budget, in USD.
        tokens: What is held of the tokens per minute.
    """

    __slots__ = ("_key", "_period_start", "cost_usd", "tokens")

    def __init__(self, key: Key, *, tokens: int, cost_usd: float, period_start: float) -> None:
        self._key: Key | None = key
        self._period_start = period_start
        self.tokens, self.cost_usd = tokens, cost_usd

    def settle(self, *, cost_usd: float, tokens: int | None = None) -> None:
        """Replace what was held by what it came to; once settled, nothing more happens.

        Args:
            cost_usd: What the request cost, in USD; NaN where not known, and what was held counts as spent.
            tokens: Tokens of input and output; what was held where None.
        """
        key, self._key = self._key, None
        if key is not None:
            key._settle(
                held_usd=self.cost_usd,
                cost_usd=self.cost_usd if math.isnan(cost_usd) else cost_usd,
                more_tokens=0 if tokens is None else tokens - self.tokens,
                period_start=self._period_start,
            )

    def release(self) -> None:
        """Give back all that is held."""
        self.settle(cost_usd=0.0, tokens=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Key:
    """One key's rights, and what it has used of them. All calls come from the event loop's thread.

    Attributes:
        id: Its name in logs, metrics and errors.
        models: Models it may use; all where None.
        spent_usd: Settled in this period, in USD.
        reserved_usd: Held by requests in flight, in USD.
    """

    def __init__(self, settings: KeySettings, *, now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._now, self._clock = now, clock
        self.spent_usd = self.reserved_usd = 0.0
        self._requests: _Bucket | None = None
        self._tokens: _Bucket | None = None
        self._start = self._end = -math.inf
        self.take_over(settings)

    def take_over(self, settings: KeySettings) -> None:
        """Follow other settings; what was used stays used, unless the budget's period is another."""
        self.id = settings.id
        self.models = None if settings.models is None else frozenset(settings.models)
        self._budget = settings.budget
        self._requests = _resized(self._requests, settings.requests_per_minute, self._clock())
        self._tokens = _resized(self._tokens, settings.tokens_per_minute, self._clock())
        start, end = _period(self.period, self._now())
        if start != self._start:
            self.spent_usd = self.reserved_usd = 0.0
        self._start, self._end = start, end

    @property
    def period(self) -> Period:
        """When the budget starts anew; `total` where there is none."""
        return "total" if self._budget is None else self._budget.period

    @property
    def budget_usd(self) -> float:
        """USD per period; infinite where there is no budget."""
        return math.inf if self._budget is None else self._budget.usd

    @property
    def remaining_usd(self) -> float:
        """USD that can still be reserved in this period, at least 0: what one more request may cost at most."""
        self._roll()
        return max(self.budget_usd - self.spent_usd - self.reserved_usd, 0.0)

    def require(self, model: str) -> None:
        """Raise unless the key may use a model.

        Raises:
            ApiError: 403, with the models it may use.
        """
        if self.models is not None and model not in self.models:
            raise ApiError(
                403,
                f"key {self.id!r} may not use model {model!r}; it may use {sorted(self.models)}",
                param="model",
                code="model_not_allowed",
            )

    def admit(self, *, tokens: int = 0, cost_usd: float = 0.0) -> Reservation:
        """Hold a request's share of all limits, or of none where one of them is reached.

        The budget is never exceeded as long as estimates are not: reservations count as spent until they are settled.
        A request that costs nothing passes a spent budget. One of more tokens than a minute allows passes when the
        minute is unused, and is paid off before the next.

        Args:
            tokens: Estimate of input and output, >= 0.
            cost_usd: Estimate of what it costs, >= 0 and finite, in USD; best an upper bound.

        Raises:
            ApiError: 429, which names the limit, with `retry-after` in seconds; after a spent budget also
                `x-should-retry: false`, which OpenAI's clients obey.
            InvalidParameterError: An estimate is negative or not finite.
        """
        if not (tokens >= 0 and math.isfinite(cost_usd) and cost_usd >= 0):
            raise InvalidParameterError(f"tokens and cost_usd must be >= 0 and finite; got {tokens} and {cost_usd}")
        if cost_usd > self.remaining_usd:
            raise self._budget_error(cost_usd)
        now = self._clock()
        for bucket, n, what in ((self._requests, 1, "requests"), (self._tokens, tokens, "tokens")):
            if bucket is not None and (wait_s := bucket.wait_s(n, now)) > 0:
                retry_s = math.ceil(wait_s)
                raise ApiError(
                    429,
                    f"key {self.id!r} may send {bucket.capacity:.0f} {what} per minute; try again in {retry_s} s",
                    code="rate_limit_exceeded",
                    headers={"retry-after": str(retry_s)},
                )
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)
        self.reserved_usd += cost_usd
        return Reservation(self, tokens=tokens, cost_usd=cost_usd, period_start=self._start)

    def _settle(self, *, held_usd: float, cost_usd: float, more_tokens: int, period_start: float) -> None:
        self._roll()
        # A request belongs to the period it was admitted in, as its round does in the log.
        if period_start == self._start:
            self.reserved_usd = max(self.reserved_usd - held_usd, 0.0)
            self.spent_usd += cost_usd
        if self._tokens is not None:
            self._tokens.take(more_tokens)

    def _roll(self) -> None:
        now = self._now()
        if now >= self._end:
            self._start, self._end = _period(self.period, now)
            self.spent_usd = self.reserved_usd = 0.0

    async def _see(self, log: SpendLog) -> None:
        self._roll()
        start = self._start
        logged = await log.spent_usd(self.id, since=start)
        if start == self._start:
            # The log lags behind this process, and holds what other replicas spent: the larger is nearer to the truth.
            self.spent_usd = max(self.spent_usd, logged)

    def _budget_error(self, cost_usd: float) -> ApiError:
        headers = {"x-should-retry": "false"}
        period, until = "in total", ""
        if self.period != "total":
            period = f"per {self.period}"
            until = f"; it starts anew at {datetime.datetime.fromtimestamp(self._end, tz=datetime.UTC):%Y-%m-%dT%H:%MZ}"
            headers["retry-after"] = str(max(math.ceil(self._end - self._now()), 1))
        return ApiError(
            429,
            f"the budget of key {self.id!r}, {self.budget_usd:g} USD {period}, has {self.remaining_usd:.6f} USD left "
            f"({self.spent_usd:.6f} spent, {self.reserved_usd:.6f} in flight), and this request may cost "
            f"{cost_usd:.6f} USD{until}",
            code="budget_exceeded",
            headers=headers,
        )


class KeyRing:
    """All keys of a gateway; without any, everyone may use everything.

    Memory is that of the keys: requests leave nothing behind.

    Args:
        keys: Settings of the keys.
        now: The time in Unix seconds, which periods follow.
        clock: A clock that only runs forward, in seconds, which rates follow.
    """

    def __init__(
        self,
        keys: Iterable[KeySettings] = (),
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now, self._clock = now, clock
        self._keys: dict[str, Key] = {}
        self._by_hash: dict[bytes, list[tuple[bytes, Key]]] = {}
        self.update(keys)

    def update(self, keys: Iterable[KeySettings]) -> None:
        """Follow other settings: keys of the same id keep what they used, others are refused.

        A budget that was not there before, or has another period, starts at 0: call `see_spending` thereafter.
        """
        known: dict[str, Key] = {}
        by_hash: dict[bytes, list[tuple[bytes, Key]]] = {}
        for settings in keys:
            key = self._keys.get(settings.id)
            if key is None:
                key = Key(settings, now=self._now, clock=self._clock)
            else:
                key.take_over(settings)
            known[settings.id] = key
            digest = bytes.fromhex(settings.sha256)
            by_hash.setdefault(digest[:_INDEXED_BYTES], []).append((digest, key))
        self._keys, self._by_hash = known, by_hash

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def identify(self, authorization: str | bytes | None) -> Key | None:
        """Return the key in an `Authorization: Bearer` header; None where the gateway has no keys.

        Raises:
            ApiError: 401; there is no such header, or no such key. The header is in no error.
        """
        if not self._keys:
            return None
        if isinstance(authorization, str):
            authorization = authorization.encode("utf-8", "surrogateescape")
        scheme, _, given = (authorization or b"").partition(b" ")
        given = given.strip()
        if scheme.lower() == b"bearer" and given and len(given) <= _MAX_KEY_BYTES:
            digest = hashlib.sha256(given).digest()
            # Whoever times the look-up learns of hashes, from which no key follows.
            for known, key in self._by_hash.get(digest[:_INDEXED_BYTES], ()):
                if hmac.compare_digest(known, digest):
                    return key
        raise ApiError(
            401,
            "the Authorization header must hold a key of this gateway, as Bearer KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )

    async def see_spending(self, log: SpendLog) -> None:
        """Take over what the log says was spent: at the start, or now and then where replicas share a log.

        What other replicas have in flight or not yet written is not seen: a shared budget can be exceeded by what they
        spend between two looks.
        """
        for key in list(self):
            if math.isfinite(key.budget_usd):
                await key._see(log)


class _Bucket:
    """A token bucket: `capacity` a minute, all at once where unused."""

    __slots__ = ("at", "capacity", "level")

    def __init__(self, capacity: int, now: float) -> None:
        self.capacity, self.level, self.at = float(capacity), float(capacity), now

    def wait_s(self, n: int, now: float) -> float:
        """Return the seconds until `n` can be taken; a full bucket gives any number."""
        per_s = self.capacity / 60
        self.level = min(self.level + (now - self.at) * per_s, self.capacity)
        self.at = now
        # Refilling in small steps rounds: a billionth of a request is no reason to wait.
        return max(min(n, self.capacity) - self.level - 1e-9, 0.0) / per_s

    def take(self, n: int) -> None:
        self.level -= n


def _resized(bucket: _Bucket | None, capacity: int | None, now: float) -> _Bucket | None:
    if capacity is None:
        return None
    if bucket is None:
        return _Bucket(capacity, now)
    bucket.wait_s(0, now)
    used = bucket.capacity - bucket.level
    bucket.capacity = float(capacity)
    bucket.level = capacity - used
    return bucket


def _period(period: Period, now: float) -> tuple[float, float]:
    """Return when the period that holds a time starts and ends, in Unix seconds."""
    if period == "total":
        return 0.0, math.inf
    midnight = datetime.datetime.fromtimestamp(now, tz=datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        start = midnight
        end = start + datetime.timedelta(days=1)
    elif period == "week":
        start = midnight - datetime.timedelta(days=midnight.weekday())
        end = start + datetime.timedelta(days=7)
    else:
        start = midnight.replace(day=1)
        end = (start + datetime.timedelta(days=32)).replace(day=1)
    return start.timestamp(), end.timestamp()
