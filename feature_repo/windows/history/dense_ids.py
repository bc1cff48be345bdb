"""Small whole numbers for hashes: the same hash, the same number; 0, 1, 2, ... in the order they are first met.

Open addressing; the tables grow with the number of different hashes, not of rows, so that they stay in the cache.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Ints

Numbers = npt.NDArray[np.int32]

UNKNOWN: Final = -1
_FIRST: Final = 1024


class KeyNumbers:
    """The numbers of some keys, by their 128-bit hashes (int64 [n, 2])."""

    def __init__(self) -> None:
        self._table: Numbers = np.full(_FIRST, UNKNOWN, np.int32)
        self._known: Ints = np.empty((_FIRST // 2, 2), np.int64)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, hashes: Ints) -> Numbers:
        """The number of every hash; new ones get the next."""
        numbers = np.empty(len(hashes), np.int32)
        done = 0
        while True:
            done, self._n = _number(self._table, self._known, self._n, hashes, done, numbers)
            if done == len(hashes):
                return numbers
            grown = np.empty((4 * self._n, 2), np.int64)
            grown[: self._n] = self._known
            self._known = grown
            self._table = np.full(8 * self._n, UNKNOWN, np.int32)
            _enter(self._table, grown, self._n)

    def find(self, hashes: Ints) -> Numbers:
        """The number of every hash, `UNKNOWN` for those that have none."""
        return _find(self._table, self._known, hashes)


@nb.njit(cache=True, inline="always")
def _place(table: Any, known: Any, high: int, low: int) -> Any:
    """Where in the table a hash stands or would stand."""
    mask = len(table) - 1
    at = low & mask
    while table[at] != UNKNOWN and (known[table[at], 0] != high or known[table[at], 1] != low):
        at = (at + 1) & mask
    return at


@nb.njit(cache=True)
def _number(
    table: Numbers, known: Ints, n: int, hashes: Ints, done: int, numbers: Numbers
) -> tuple[int, int]:
    """Number the hashes from `done` on, until `known` is full. Returns where it stopped, and how many are known."""
    for i in range(done, len(hashes)):
        at = _place(table, known, hashes[i, 0], hashes[i, 1])
        if table[at] == UNKNOWN:
            if n == len(known):
                return i, n
            known[n, 0], known[n, 1] = hashes[i, 0], hashes[i, 1]
            table[at] = n
            n += 1
        numbers[i] = table[at]
    return len(hashes), n


@nb.njit(cache=True)
def _enter(table: Numbers, known: Ints, n: int) -> None:
    for i in range(n):
        table[_place(table, known, known[i, 0], known[i, 1])] = i


@nb.njit(cache=True)
def _find(table: Numbers, known: Ints, hashes: Ints) -> Numbers:
    numbers = np.empty(len(hashes), np.int32)
    for i in range(len(hashes)):
        numbers[i] = table[_place(table, known, hashes[i, 0], hashes[i, 1])]
    return numbers


def number_values(hashes: Ints, numbers: Ints) -> int:
    """Fill `numbers`: 1, 2, ... for every different 64-bit hash; 0 (null) stays 0. Returns one more than the largest number."""
    size = _FIRST
    while True:
        table = np.zeros((size, 2), np.int64)
        n = _number_values(table, hashes, numbers)
        if n:
            return int(n)
        size *= 8


@nb.njit(cache=True)
def _number_values(table: Ints, hashes: Ints, numbers: Ints) -> int:
    """0 if the table, of (hash, number) with 0 for a free place, is too small."""
    mask = len(table) - 1
    n = 1
    for i in range(len(hashes)):
        value = hashes[i]
        if value == 0:
            numbers[i] = 0
            continue
        at = value & mask
        while table[at, 0] != 0 and table[at, 0] != value:
            at = (at + 1) & mask
        if table[at, 0] == 0:
            if 2 * n > len(table):
                return 0
            table[at, 0], table[at, 1] = value, n
            n += 1
        numbers[i] = table[at, 1]
    return n
