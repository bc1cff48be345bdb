"""Whether the online store is worth asking: a breaker that opens when it stops answering in time, and closes when it does again.

While it is open nobody asks: payments are answered by the fallback at once instead of each waiting for its deadline. A probe of the
connection's own finds out when the store is well; no payment is spent on that (Nygard, Release It!, "Circuit Breaker").

Unanswered requests fill a bucket and answered ones empty it, so a store that misses more than it answers opens the breaker and an
odd slow answer does not. A breaker that opens again soon after it closed wants more answered probes the next time, up to eight.
"""

from __future__ import annotations

from typing import Final

MAX_MISSED: Final = 5
"""How far unanswered requests may get ahead of answered ones."""
MAX_PROBES: Final = 8
SOON: Final = 5.0


class Breaker:
    """Clocks are passed in: seconds, monotonic.

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
        """A request got its answer in time."""
        if self._bucket:
            self._bucket -= 1

    def missed(self, now: float) -> None:
        """A request got none."""
        self._bucket += 1
        if self._bucket >= MAX_MISSED:
            self.open(now)

    def open(self, now: float) -> None:
        """Stop asking; at once when the connection itself is gone."""
        if self.is_open:
            return
        self.is_open = True
        self._wanted = min(2 * self._wanted, MAX_PROBES) if now - self._closed_at < SOON else 1
        self._good = 0

    def probed(self, in_time: bool, now: float) -> bool:
        """Whether this probe closed it."""
        self._good = self._good + 1 if in_time else 0
        if self._good < self._wanted:
            return False
        self.is_open, self._bucket, self._closed_at = False, 0, now
        return True
