"""Circuit breaker of the online store: opens when the store stops answering in time, closes when it does again.

While it is open, the fallback answers payments at once instead of each waiting for its deadline. A probe of the
connection finds out when the store answers again; no payment is spent on that (Nygard, Release It!, "Circuit Breaker").

Unanswered requests fill a bucket and answered ones empty it, so a store that misses more than it answers opens the
breaker and an occasional slow answer does not. A breaker that opens again soon after it closed needs more good probes
the next time, up to eight.
"""

from __future__ import annotations

from typing import Final

MAX_MISSED: Final = 5
"""Unanswered requests, less answered ones, that open the breaker."""
MAX_PROBES: Final = 8
"""Maximum number of good probes in a row that close the breaker."""
SOON: Final = 5.0
"""Seconds after closing within which opening again doubles the number of good probes needed."""


class Breaker:
    """Open or closed; `now` is in seconds of a monotonic clock.

    >>> breaker = Breaker()
    >>> for _ in range(5): breaker.missed(now=0.0)
    >>> breaker.is_open
    True
    >>> breaker.probed(True, now=0.5), breaker.is_open
    (True, False)
    """

    def __init__(self) -> None:
        self.is_open = False
        self._bucket = 0
        self._wanted = self._good = 0
        self._closed_at = float("-inf")

    def answered(self) -> None:
        """Count a request that was answered in time."""
        if self._bucket:
            self._bucket -= 1

    def missed(self, now: float) -> None:
        """Count a request that was not answered in time; may open the breaker."""
        self._bucket += 1
        if self._bucket >= MAX_MISSED:
            self.open(now)

    def open(self, now: float) -> None:
        """Open the breaker, for example because the connection was lost."""
        if self.is_open:
            return
        self.is_open = True
        self._wanted = min(2 * self._wanted, MAX_PROBES) if now - self._closed_at < SOON else 1
        self._good = 0

    def probed(self, in_time: bool, now: float) -> bool:
        """Count a probe; return whether it closed the breaker."""
        self._good = self._good + 1 if in_time else 0
        if self._good < self._wanted:
            return False
        self.is_open, self._bucket, self._closed_at = False, 0, now
        return True
