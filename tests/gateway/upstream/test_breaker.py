"""Tests of the circuit breaker."""

from __future__ import annotations

from pointsman.gateway.upstream import CircuitBreaker


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def failing(clock: Clock, n: int = 3) -> CircuitBreaker:
    """A breaker after so many failures, that opens after three."""
    breaker = CircuitBreaker(threshold=3, cooldown_s=10, max_cooldown_s=35, clock=clock)
    for _ in range(n):
        breaker.attempt()
        breaker.fail()
    return breaker


def test_opens_after_failures_in_a_row_only():
    """A success in between starts the count anew."""
    clock = Clock()
    breaker = failing(clock, 2)
    breaker.succeed()
    breaker.fail()
    breaker.fail()
    assert breaker.available
    breaker.fail()
    assert not breaker.available
    assert breaker.is_failing


def test_lets_one_request_try_in_each_cooldown():
    """After the cooldown the first one is let through, and the others wait for what comes of it."""
    clock = Clock()
    breaker = failing(clock)
    clock.now += 9.9
    assert not breaker.available
    clock.now += 0.2
    assert breaker.available
    breaker.attempt()
    assert not breaker.available
    breaker.succeed()
    assert breaker.available
    assert not breaker.is_open


def test_cooldowns_double_up_to_the_longest():
    """10, 20, and then 35 s rather than 40."""
    clock = Clock()
    breaker = failing(clock)
    for expected in (10, 20, 35, 35):
        assert breaker.open_until - clock.now == expected
        clock.now = breaker.open_until
        breaker.attempt()
        breaker.fail()


def test_failures_of_requests_in_flight_prolong_nothing():
    """Sixty-four requests that fail at once are one reason to wait ten seconds, not six doublings of it."""
    clock = Clock()
    breaker = failing(clock, 64)
    assert breaker.open_until - clock.now == 10


def test_rests_when_asked_without_counting_as_failing():
    """A rate limit closes the model to the router for as long as it says, the longest cooldown at most."""
    clock = Clock()
    breaker = failing(clock, 1)
    breaker.rest(20)
    assert not breaker.available
    assert not breaker.is_failing
    breaker.attempt()
    assert not breaker.available
    clock.now += 20
    breaker.attempt()
    assert breaker.available
    breaker.rest(1e9)
    assert breaker.open_until == clock.now + 35
