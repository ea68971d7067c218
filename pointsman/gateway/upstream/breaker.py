"""A circuit breaker: a model that keeps failing is left alone for a while, then tried with one request."""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after so many failures in a row; while open the model is not eligible.

    After the cooldown one request is let through on trial: its success closes the breaker; until then the cooldown
    starts anew, twice as long.

    Args:
        threshold: Failures in a row that open it.
        cooldown_s: First cooldown, in seconds.
        max_cooldown_s: The longest, in seconds.
        clock: Returns seconds, monotone.
    """

    def __init__(
        self,
        *,
        threshold: int = 5,
        cooldown_s: float = 5.0,
        max_cooldown_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threshold = threshold
        self.cooldown_s = cooldown_s
        self.max_cooldown_s = max_cooldown_s
        self.clock = clock
        self.n_failures = 0
        self.n_trials = 0
        self.open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last requests failed, so that at most one in each cooldown is let through."""
        return self.open_until > 0

    @property
    def available(self) -> bool:
        """Whether a request may be sent now."""
        return self.open_until == 0 or self.clock() >= self.open_until

    @property
    def is_failing(self) -> bool:
        """Whether nothing may be sent now because of failures, rather than because the model asked for a rest."""
        return self.n_failures >= self.threshold and not self.available

    def attempt(self) -> None:
        """Note that a request is being sent: where it is a trial, the others wait for what comes of it."""
        if not (self.open_until and self.available):
            return
        if self.n_failures < self.threshold:  # It was only a rest.
            self.open_until = 0.0
        else:
            self.n_trials += 1
            self._open()

    def succeed(self) -> None:
        """Note an answer: the model is well."""
        self.n_failures = self.n_trials = 0
        self.open_until = 0.0

    def fail(self) -> None:
        """Note a failure of the model, not of the request. Those sent before it opened do not prolong the cooldown."""
        self.n_failures += 1
        if self.n_failures == self.threshold:
            self._open()

    def rest(self, seconds: float) -> None:
        """Send nothing for so many seconds, `max_cooldown_s` at most: the model asked for it."""
        self.open_until = max(self.open_until, self.clock() + min(seconds, self.max_cooldown_s))

    def _open(self) -> None:
        cooldown_s = min(self.cooldown_s * 2.0 ** min(self.n_trials, 30), self.max_cooldown_s)
        self.open_until = max(self.open_until, self.clock() + cooldown_s)
