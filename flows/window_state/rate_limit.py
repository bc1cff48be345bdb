"""When large states may leave for the online store: one after the other, at a rate the server takes beside its other work.

An exact state is written whole, whatever changed in it, and a busy key's has tens of kilobytes. Written in every turn, the states of a
few dozen such keys keep the server busy with bytes, and every other key waits behind them. So they queue: whose turn it is not yet goes
on folding, and what has gathered is written once. Small states never wait.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from flows.blocks import Int64s, Mask

LARGE_BYTES: Final = 4_096
"""States of a key larger than this wait for their turn."""
BYTES_A_SECOND: Final = 100e6
"""About a third of what one core of the server takes in states of this size (`docs/performance.md`)."""


class Pace:
    """The queue of all parts of a process. Times are seconds of a clock that only goes forward.

    >>> pace = Pace(1000.0)
    >>> pace.reserve(500, now=7.0), pace.reserve(500, now=7.1), pace.reserve(500, now=9.0)
    (7.0, 7.5, 9.0)
    """

    def __init__(self, bytes_a_second: float = BYTES_A_SECOND) -> None:
        self._rate = bytes_a_second
        self._free_at = 0.0

    def reserve(self, n_bytes: int, now: float) -> float:
        """When so many bytes may be sent."""
        at = max(now, self._free_at)
        self._free_at = at + n_bytes / self._rate
        return at


class Turn:
    """One part's place in the queue."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.at: float | None = None
        """When its large states may leave; None while none wait."""
        self._oldest_us = 0

    def waits(self, sizes: Int64s, oldest_us: int, now: float) -> tuple[Mask, int]:
        """Which states, by their sizes, have to wait; and when the oldest event in those that leave was accepted.

        `oldest_us` says it of the events folded since the last call, 0 for none.
        """
        large = sizes > LARGE_BYTES
        if not large.any():
            self.at = None
            return large, oldest_us
        if self.at is None:
            self.at = self._pace.reserve(int(sizes[large].sum()), now)
            self._oldest_us = oldest_us
        if now < self.at:
            return large, oldest_us
        self.at = None
        return np.zeros(len(sizes), np.bool_), min(filter(None, (self._oldest_us, oldest_us)), default=0)
