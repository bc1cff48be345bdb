"""A set of slots whose states changed: a bit per slot, not an object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.blocks import Int64s


class DirtySlots:
    """A set of slots.

    >>> dirty = DirtySlots()
    >>> dirty.add(np.array([5, 2, 5]))
    >>> len(dirty), dirty.take(), len(dirty)
    (2, array([2, 5]), 0)
    """

    def __init__(self) -> None:
        self._is_in: npt.NDArray[np.bool_] = np.zeros(64, np.bool_)
        self._pieces: list[Int64s] = []
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, slots: Int64s) -> None:
        """Add slots: int64[n] in any order, with duplicates or without."""
        if not len(slots):
            return
        most = int(slots.max()) + 1
        if most > len(self._is_in):
            self._is_in = np.concatenate([self._is_in, np.zeros(most, np.bool_)])
        new = np.sort(
            slots[~self._is_in[slots]]
        )  # np.unique would hash them, which takes three times as long
        if len(new):
            new = new[np.concatenate([[True], new[1:] != new[:-1]])]
            self._is_in[new] = True
            self._pieces.append(new)
            self._n += len(new)

    def all(self) -> Int64s:
        """The slots, ascending: int64[n]."""
        if len(self._pieces) > 1:
            self._pieces = [np.sort(np.concatenate(self._pieces))]
        return self._pieces[0] if self._pieces else np.empty(0, np.int64)

    def take(self) -> Int64s:
        """The slots, ascending: int64[n]; the set is empty afterwards."""
        slots = self.all()
        self._is_in[slots] = False
        self._pieces, self._n = [], 0
        return slots
