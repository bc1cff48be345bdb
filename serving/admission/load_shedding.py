"""How many requests may be inside at once, so that those that are get their answer in time, and the rest are told so at once.

A scorer that takes in more than it can answer answers everybody too late and grows without end. The limit follows the event loop: while
it lags behind (each request passes it about three times), the limit falls by a third at a time; when it keeps up, the limit rises again.
Who is turned away costs a fifth of who is answered, since nobody looks into what was sent: at three times what the scorer takes, that is what leaves
time for the others.
Waiting for the online store is no work: a store that answers late does not make the loop late, and turns nobody away.
Additive increase, multiplicative decrease: Chiu and Jain, Computer Networks 17 (1989).
"""

from __future__ import annotations

import asyncio
from typing import Final

from serving import metrics

CHECK_SECONDS: Final = 0.01
MIN_LIMIT: Final = 32
"""However late the loop is: what gathers during a pause of the machine must not be turned away. With 64, a turn of the loop took so long
that four of five answers under overload were the fallback's, past the deadline."""
_RISE: Final = 2


class ConcurrencyLimiter:
    """`most` requests inside at once; fewer while the event loop is more than `max_lag_seconds` behind."""

    def __init__(self, max_in_flight: int, max_lag_seconds: float) -> None:
        self.limit = max_in_flight
        self.in_flight = 0
        self._max, self._max_lag = max_in_flight, max_lag_seconds

    @property
    def is_full(self) -> bool:
        """Whether one more request would exceed the limit."""
        return self.in_flight >= self.limit

    def acquire(self) -> None:
        """One more is inside, until it leaves."""
        self.in_flight += 1

    def release(self) -> None:
        """One less."""
        self.in_flight -= 1

    def adjust(self, behind: float) -> None:
        """The loop was so many seconds late."""
        if behind > self._max_lag:
            self.limit = max(min(MIN_LIMIT, self._max), self.limit * 2 // 3)
        else:
            self.limit = min(self._max, self.limit + _RISE)
        metrics.EVENT_LOOP_LAG.set(behind)
        metrics.IN_FLIGHT_LIMIT.set(self.limit)

    async def watch(self) -> None:
        """Measure the loop; for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + CHECK_SECONDS
            await asyncio.sleep(CHECK_SECONDS)
            self.adjust(loop.time() - due)
