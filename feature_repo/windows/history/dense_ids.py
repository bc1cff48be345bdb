"""Dense ids for hashes: the same hash, the same id; 0, 1, 2, ... in the order in which the hashes first occur.

Hash tables with open addressing. They grow with the number of distinct hashes, not of rows, so that they stay in the
CPU cache.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Ints

DenseIds = npt.NDArray[np.int32]

UNKNOWN: Final = -1
"""The id of a hash that is not known."""
_FIRST_SIZE: Final = 1024


class KeyIds:
    """The dense ids of some keys, found by the keys' 128-bit hashes (int64 [n, 2])."""

    def __init__(self) -> None:
        self._table: DenseIds = np.full(_FIRST_SIZE, UNKNOWN, np.int32)
        self._known: Ints = np.empty((_FIRST_SIZE // 2, 2), np.int64)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, hashes: Ints) -> DenseIds:
        """Return the id of every hash, int32 [n]; an unknown hash gets the next id."""
        ids = np.empty(len(hashes), np.int32)
        done = 0
        while True:
            done, self._n = _add(self._table, self._known, self._n, hashes, done, ids)
            if done == len(hashes):
                return ids
            grown = np.empty((4 * self._n, 2), np.int64)
            grown[: self._n] = self._known
            self._known = grown
            self._table = np.full(8 * self._n, UNKNOWN, np.int32)
            _enter(self._table, grown, self._n)

    def find(self, hashes: Ints) -> DenseIds:
        """Return the id of every hash, int32 [n]; `UNKNOWN` for hashes that were not added."""
        return _find(self._table, self._known, hashes)


@kernel(inline="always")
def _place(table: Any, known: Any, high: int, low: int) -> Any:
    """Return where in the table a hash is, or would be entered."""
    mask = len(table) - 1
    at = low & mask
    while table[at] != UNKNOWN and (known[table[at], 0] != high or known[table[at], 1] != low):
        at = (at + 1) & mask
    return at


@kernel
def _add(table: DenseIds, known: Ints, n: int, hashes: Ints, done: int, ids: DenseIds) -> tuple[int, int]:
    """Write the ids of the hashes from `done` on, until `known` is full.

    Returns where it stopped, and how many are known.
    """
    for i in range(done, len(hashes)):
        at = _place(table, known, hashes[i, 0], hashes[i, 1])
        if table[at] == UNKNOWN:
            if n == len(known):
                return i, n
            known[n, 0], known[n, 1] = hashes[i, 0], hashes[i, 1]
            table[at] = n
            n += 1
        ids[i] = table[at]
    return len(hashes), n


@kernel
def _enter(table: DenseIds, known: Ints, n: int) -> None:
    for i in range(n):
        table[_place(table, known, known[i, 0], known[i, 1])] = i


@kernel
def _find(table: DenseIds, known: Ints, hashes: Ints) -> DenseIds:
    ids = np.empty(len(hashes), np.int32)
    for i in range(len(hashes)):
        ids[i] = table[_place(table, known, hashes[i, 0], hashes[i, 1])]
    return ids


def value_ids(hashes: Ints, ids: Ints) -> int:
    """Write 1, 2, ... for every distinct hash to `ids`, 0 for the hash 0 (null). Returns the largest id plus one."""
    size = _FIRST_SIZE
    while True:
        table = np.zeros((size, 2), np.int64)
        n = _value_ids(table, hashes, ids)
        if n:
            return int(n)
        size *= 8


@kernel
def _value_ids(table: Ints, hashes: Ints, ids: Ints) -> int:
    """Return what `value_ids` returns, or 0 if the table of (hash, id) pairs, 0 for a free place, is too small."""
    mask = len(table) - 1
    n = 1
    for i in range(len(hashes)):
        value = hashes[i]
        if value == 0:
            ids[i] = 0
            continue
        at = value & mask
        while table[at, 0] != 0 and table[at, 0] != value:
            at = (at + 1) & mask
        if table[at, 0] == 0:
            if 2 * n > len(table):
                return 0
            table[at, 0], table[at, 1] = value, n
            n += 1
        ids[i] = table[at, 1]
    return n
