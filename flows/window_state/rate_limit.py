"""Limit the bytes per second of large states, so that small states do not wait behind them.

An exact state is written whole, whatever changed in it, and that of a busy key has tens of kilobytes. Written in every
turn, the states of a few dozen such keys would keep the server busy, and every other key would wait. So large states
queue: a part goes on folding until its time has come, and then writes each of its large states once. Small states are
never delayed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from flows.blocks import Int64s, Mask

LARGE_BYTES: Final = 4_096
"""States of a key larger than this are delayed."""
BYTES_A_SECOND: Final = 100e6
"""About a third of what one core of the server takes in states of this size (`docs/performance.md`)."""


class ByteRateLimiter:
    """The queue of all parts of a process. Times are seconds of a monotonic clock.

    >>> limiter = ByteRateLimiter(1000.0)
    >>> limiter.reserve(500, now=7.0), limiter.reserve(500, now=7.1), limiter.reserve(500, now=9.0)
    (7.0, 7.5, 9.0)
    """

    def __init__(self, bytes_a_second: float = BYTES_A_SECOND) -> None:
        self._rate = bytes_a_second
        self._free_at = 0.0

    def reserve(self, n_bytes: int, now: float) -> float:
        """The time at which `n_bytes` may be sent."""
        at = max(now, self._free_at)
        self._free_at = at + n_bytes / self._rate
        return at


class LargeStates:
    """The large states of one part that wait. `due`: when they may be sent, None while none wait."""

    def __init__(self, limiter: ByteRateLimiter) -> None:
        self._limiter = limiter
        self.due: float | None = None
        self._oldest_us = 0

    def delay(self, sizes: Int64s, oldest_us: int, now: float) -> tuple[Mask, int]:
        """Which of the changed states, by their sizes in bytes, are not to be sent yet.

        `oldest_us`: when the oldest event folded since the last call was accepted, 0 for none. Also returned: the same
        of the events in the states that are to be sent now.
        """
        large = sizes > LARGE_BYTES
        if not large.any():
            self.due = None
            return large, oldest_us
        if self.due is None:
            self.due = self._limiter.reserve(int(sizes[large].sum()), now)
            self._oldest_us = oldest_us
        if now < self.due:
            return large, oldest_us
        self.due = None
        return np.zeros(len(sizes), np.bool_), min(filter(None, (self._oldest_us, oldest_us)), default=0)
