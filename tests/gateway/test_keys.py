"""Virtual keys: only hashes are kept, limits hold exactly, and what is reserved is settled once."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.gateway.errors import ApiError
from pointsman.gateway.keys import KeyRing, key_hash, make_key
from pointsman.gateway.settings.schema import KeySettings

NOON = datetime.datetime(2026, 10, 14, 12, tzinfo=datetime.UTC).timestamp()  # a Wednesday


class Clock:
    """A time that the test moves."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def __call__(self) -> float:
        """Return the time."""
        return self.at


class Log:
    """What a store would say was spent."""

    def __init__(self, **spent: float) -> None:
        self.spent, self.asked = spent, {}

    async def spent_usd(self, key_id: str, *, since: float) -> float:
        """Return what it was told, and remember what was asked."""
        self.asked[key_id] = since
        return self.spent.get(key_id, 0.0)


def ring_of(clock: Clock | None = None, **settings: object) -> KeyRing:
    """Return a ring of one key named `team`."""
    clock = clock or Clock()
    return KeyRing([KeySettings(id="team", sha256=key_hash("pm-key"), **settings)], now=clock, clock=clock)


def key_of(ring: KeyRing):
    """Return the only key of a ring."""
    (key,) = ring
    return key


def refusal(key, **asked: float) -> ApiError:
    """Return why a request is not admitted."""
    with pytest.raises(ApiError) as caught:
        key.admit(**asked)
    return caught.value


def test_a_key_is_found_by_its_bearer_header_alone():
    """The scheme's case does not matter; any other header is a 401 that does not repeat it."""
    key = make_key()
    assert key_hash(key) == hashlib.sha256(key.encode()).hexdigest()
    ring = KeyRing([KeySettings(id=f"k{i}", sha256=key_hash(make_key())) for i in range(50)])
    ring.update([KeySettings(id="mine", sha256=key_hash(key).upper()), KeySettings(id="b", sha256=key_hash("pm-b"))])
    for header in (f"Bearer {key}", f"bearer {key}".encode(), f"BEARER  {key} "):
        assert ring.identify(header).id == "mine"
    for header in (
        None,
        "",
        b"",
        key,
        f"Basic {key}",
        f"Bearer {key}x",
        f"Bearer {key[:-1]}",
        "Bearer \udcff",
        b"Bearer",
    ):
        with pytest.raises(ApiError) as caught:
            ring.identify(header)
        assert caught.value.status == 401
        assert key not in str(caught.value)
        assert key[:-1] not in repr(caught.value.headers)


def test_keys_are_random_and_long():
    """No two are alike, each holds 256 bits, and no attribute of a ring holds one."""
    keys = {make_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(len(key) >= 3 + 256 / 6 for key in keys)


def test_without_keys_everyone_passes():
    """A gateway without keys asks for none."""
    assert KeyRing().identify(None) is None
    assert KeyRing().identify("Bearer anything") is None


def test_models_outside_the_list_are_forbidden():
    """403 names the model and what may be used instead."""
    key = key_of(ring_of(models=("small", "mid")))
    key.require("small")
    with pytest.raises(ApiError, match=r"'large'.*\['mid', 'small'\]") as caught:
        key.require("large")
    assert (caught.value.status, caught.value.param) == (403, "model")
    key_of(ring_of()).require("anything")


def test_requests_per_minute_hold_over_any_minute(rng, seed):
    """Whenever requests come, at most a full bucket and what flows in meanwhile is admitted; Retry-After is exact."""
    clock, limit = Clock(), 30
    key = key_of(ring_of(clock, requests_per_minute=limit))
    admitted, retries = [], []
    for wait in rng.exponential(0.5, size=600):
        clock.at += wait
        try:
            key.admit()
        except ApiError as error:
            retries.append((error.status, int(error.headers["retry-after"])))
        else:
            admitted.append(clock.at)
    assert set(retries) <= {(429, 1), (429, 2)}  # one flows in every two seconds
    times = np.array(admitted)
    for i in range(len(times)):
        later = times[i:]
        # 1e-6: the clock near 1.8e9 s resolves 2e-7 s.
        assert np.all(np.arange(1, later.size + 1) <= limit + (later - times[i]) * limit / 60 + 1e-6)
    # It is used fully: offered twice what it admits, it admits all that flows in.
    assert len(times) >= limit + (clock.at - NOON) * limit / 60 - 3


def test_waiting_as_long_as_told_is_long_enough():
    """After Retry-After seconds the same request passes, of requests and of tokens."""
    for limits, asked in (({"requests_per_minute": 7}, {}), ({"tokens_per_minute": 900}, {"tokens": 400})):
        clock = Clock()
        key = key_of(ring_of(clock, **limits))
        for _ in range(50):
            try:
                key.admit(**asked)
            except ApiError as error:
                clock.at += int(error.headers["retry-after"])
                key.admit(**asked)


def test_tokens_are_settled_to_what_they_came_to():
    """An estimate too high is given back, one too low is owed."""
    clock = Clock()
    key = key_of(ring_of(clock, tokens_per_minute=1000))
    key.admit(tokens=1000).settle(cost_usd=0, tokens=100)
    key.admit(tokens=900).settle(cost_usd=0, tokens=1500)
    assert "1000 tokens per minute" in str(refusal(key, tokens=1))
    clock.at += 35.9  # 600 owed and 1 wanted, at 1000 / 60 a second
    assert refusal(key, tokens=1).headers["retry-after"] == "1"
    clock.at += 0.2
    key.admit(tokens=1)


def test_a_request_larger_than_a_minute_passes_an_unused_one():
    """Otherwise it could never pass, and Retry-After would lie."""
    clock = Clock()
    key = key_of(ring_of(clock, tokens_per_minute=1000))
    key.admit(tokens=5000)
    assert 240 <= int(refusal(key, tokens=10).headers["retry-after"]) <= 241


def test_nothing_is_taken_of_one_limit_where_another_refuses():
    """A refused request uses up neither requests, tokens nor money."""
    key = key_of(ring_of(requests_per_minute=2, tokens_per_minute=100, budget={"usd": 1}))
    key.admit(tokens=100, cost_usd=0.5)
    for _ in range(5):
        assert "tokens" in str(refusal(key, tokens=50, cost_usd=0.1))
    assert key.reserved_usd == 0.5
    key_again = key_of(ring_of(requests_per_minute=1, budget={"usd": 1}))
    for _ in range(5):
        assert refusal(key_again, cost_usd=2).code == "budget_exceeded"
    key_again.admit(cost_usd=1)


def test_a_budget_is_never_exceeded_by_requests_in_flight(rng, seed):
    """However admission, settling and giving up interleave, spent and reserved stay within the budget."""
    key = key_of(ring_of(budget={"usd": 1.0}))
    flying, spent, refused = [], 0.0, 0
    for _ in range(2000):
        if flying and rng.random() < 0.5:
            reservation = flying.pop(rng.integers(len(flying)))
            cost = reservation.cost_usd * rng.random()
            if rng.random() < 0.3:
                reservation.release()
            else:
                reservation.settle(cost_usd=cost)
                spent += cost
        else:
            try:
                flying.append(key.admit(cost_usd=rng.exponential(0.02)))
            except ApiError:
                refused += 1
        assert key.spent_usd + key.reserved_usd <= 1 + 1e-9
        assert key.spent_usd == pytest.approx(spent)
        assert key.reserved_usd == pytest.approx(sum(each.cost_usd for each in flying), abs=1e-9)
    assert refused


def test_the_error_names_the_budget():
    """Whose, how large, what is left, when it starts anew; clients are told not to try again at once."""
    clock = Clock()
    key = key_of(ring_of(clock, budget={"usd": 10, "period": "month"}))
    key.admit(cost_usd=9).settle(cost_usd=9.5)
    error = refusal(key, cost_usd=0.75)
    for told in ("'team'", "10 USD per month", "0.500000 USD left", "9.500000 spent", "0.750000", "2026-11-01T00:00Z"):
        assert told in str(error), told
    assert (error.status, error.code, error.headers["x-should-retry"]) == (429, "budget_exceeded", "false")
    assert int(error.headers["retry-after"]) == 17 * 86_400 + 43_200
    assert "retry-after" not in refusal(key_of(ring_of(budget={"usd": 0, "period": "total"})), cost_usd=1).headers


def test_free_models_pass_a_spent_budget():
    """A request that costs nothing is admitted whatever was spent."""
    key = key_of(ring_of(budget={"usd": 0.0}))
    assert key.remaining_usd == 0
    refusal(key, cost_usd=1e-9)
    key.admit(cost_usd=0.0)


def test_a_reservation_is_settled_once():
    """An unknown cost counts as estimated; leaving the block gives back only what was not settled."""
    key = key_of(ring_of(budget={"usd": 10}))
    with key.admit(cost_usd=1.0) as reservation:
        assert key.remaining_usd == 9
        reservation.settle(cost_usd=math.nan)
        reservation.settle(cost_usd=5.0)
    assert (key.spent_usd, key.reserved_usd) == (1.0, 0.0)
    with pytest.raises(KeyError), key.admit(cost_usd=2.0):
        raise KeyError("the upstream was never asked")
    assert (key.spent_usd, key.reserved_usd) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("day", "2026-10-14", "2026-10-15"),
        ("week", "2026-10-12", "2026-10-19"),
        ("month", "2026-10-01", "2026-11-01"),
    ],
)
def test_a_budget_starts_anew_at_midnight_utc(period, start, end):
    """Until a second before the end it is spent; then it is whole, and asks the log for the new period only."""
    clock = Clock()
    ring = ring_of(clock, budget={"usd": 1, "period": period})
    key = key_of(ring)
    log = Log()
    asyncio.run(ring.see_spending(log))
    assert log.asked["team"] == datetime.datetime.fromisoformat(f"{start}T00:00+00:00").timestamp()
    late = key.admit(cost_usd=0.25)
    key.admit(cost_usd=0.75).settle(cost_usd=0.75)
    ends = datetime.datetime.fromisoformat(f"{end}T00:00+00:00").timestamp()
    clock.at = ends - 1
    refusal(key, cost_usd=0.5)
    clock.at = ends
    assert key.remaining_usd == 1
    late.settle(cost_usd=0.25)  # of the old period, as in the log
    assert (key.spent_usd, key.reserved_usd) == (0, 0)
    asyncio.run(ring.see_spending(log))
    assert log.asked["team"] == ends


def test_a_total_budget_never_starts_anew():
    """A hundred years later it is as spent as before."""
    clock = Clock()
    key = key_of(ring_of(clock, budget={"usd": 1, "period": "total"}))
    key.admit(cost_usd=1).settle(cost_usd=1)
    clock.at += 100 * 365 * 86_400
    refusal(key, cost_usd=0.1)


def test_a_restart_does_not_refill_a_budget():
    """What the log says was spent counts; it never lowers what this process knows, for the log lags."""
    ring = ring_of(budget={"usd": 1})
    key = key_of(ring)
    asyncio.run(ring.see_spending(Log(team=0.9)))
    assert key.remaining_usd == pytest.approx(0.1)
    key.admit(cost_usd=0.05).settle(cost_usd=0.05)
    asyncio.run(ring.see_spending(Log(team=0.9)))
    assert key.spent_usd == pytest.approx(0.95)
    asyncio.run(ring.see_spending(Log(team=0.99)))  # another replica spent
    assert key.spent_usd == pytest.approx(0.99)


def test_other_settings_keep_what_was_used():
    """A key's money, requests and tokens stay used over a reload; a key that is gone is refused."""
    clock = Clock()
    ring = ring_of(clock, budget={"usd": 1}, requests_per_minute=10)
    key = ring.identify("Bearer pm-key")
    for _ in range(8):
        key.admit(cost_usd=0.1).settle(cost_usd=0.1)
    fewer = KeySettings(id="team", sha256=key_hash("pm-other"), budget={"usd": 2}, requests_per_minute=9)
    ring.update([fewer])
    assert ring.identify("Bearer pm-other") is key
    assert key.remaining_usd == pytest.approx(1.2)
    key.admit()
    refusal(key)
    with pytest.raises(ApiError):
        ring.identify("Bearer pm-key")


@pytest.mark.parametrize("asked", [{"tokens": -1}, {"cost_usd": -0.1}, {"cost_usd": math.nan}, {"cost_usd": math.inf}])
def test_estimates_must_be_numbers(asked):
    """An estimate of NaN would pass every comparison."""
    with pytest.raises(InvalidParameterError, match="must be >= 0 and finite"):
        key_of(ring_of(budget={"usd": 1})).admit(**asked)
