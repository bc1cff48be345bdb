"""Concurrency limit: as many scoring requests at once as can be answered in time; the others are refused at once.

A scorer that accepts more than it can answer answers all of them too late, and its memory grows without end. The limit
follows the lag of the event loop, which each request passes about three times: while the loop is late, the limit falls
by a third at a time; when the loop keeps up, it rises again (additive increase, multiplicative decrease: Chiu and Jain,
Computer Networks 17, 1989). A refused request costs a fifth of an answered one, since its body is not parsed; so at
three times the capacity there is time left for the others. Waiting for the online store does not delay the loop, so a
slow store causes no refusals.
"""

from __future__ import annotations

import asyncio
from typing import Final

from serving import metrics

CHECK_SECONDS: Final = 0.01
"""Between measurements of the event loop's lag."""
MIN_LIMIT: Final = 32
"""Lower bound of the limit, so that requests which arrive during a pause of the machine are not refused. With 64, a
turn of the loop took so long that under overload four of five answers came from the fallback, past the deadline."""
_RISE: Final = 2


class ConcurrencyLimiter:
    """Allows `max_in_flight` requests at once, fewer while the event loop is later than `max_lag_seconds`."""

    def __init__(self, max_in_flight: int, max_lag_seconds: float) -> None:
        self.limit = max_in_flight
        self.in_flight = 0
        self._max, self._max_lag = max_in_flight, max_lag_seconds

    @property
    def is_full(self) -> bool:
        """Whether one more request would exceed the limit."""
        return self.in_flight >= self.limit

    def acquire(self) -> None:
        """Count one more request."""
        self.in_flight += 1

    def release(self) -> None:
        """Count one request less."""
        self.in_flight -= 1

    def adjust(self, lag: float) -> None:
        """Set the limit after a timer that ran `lag` seconds late."""
        if lag > self._max_lag:
            self.limit = max(min(MIN_LIMIT, self._max), self.limit * 2 // 3)
        else:
            self.limit = min(self._max, self.limit + _RISE)
        metrics.EVENT_LOOP_LAG.set(lag)
        metrics.IN_FLIGHT_LIMIT.set(self.limit)

    async def watch(self) -> None:
        """Measure the lag of the running loop every `CHECK_SECONDS` until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + CHECK_SECONDS
            await asyncio.sleep(CHECK_SECONDS)
            self.adjust(loop.time() - due)
