"""The (key, time) pairs that features are asked for, sorted by key and time.

This is the order in which windows slide along a history.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feature_repo.windows.arrays import Ints
from feature_repo.windows.history.dense_ids import UNKNOWN, DenseIds, KeyIds
from feature_repo.windows.history.order import by_key_and_time


class SortedQueries(NamedTuple):
    """Queries sorted by key and time."""

    rows: Ints
    """int64 [n]: the row of the result that each query fills."""
    keys: DenseIds
    """int32 [n]; 0 is the first key of the group."""
    times: Ints
    """int64 [n], us."""

    def where(self, mask: npt.NDArray[np.bool_]) -> SortedQueries:
        """Return the queries of which `mask` (bool [n]) is true."""
        return SortedQueries(self.rows[mask], self.keys[mask], self.times[mask])


class Queries:
    """Queries by the hashes of their keys (int64 [n, 2]) and their times (int64 [n], UTC us); `has_key` is bool [n]."""

    def __init__(self, keys: Ints, times: Ints, has_key: npt.NDArray[np.bool_] | None = None) -> None:
        self._key_ids = KeyIds()
        ids = self._key_ids.add(keys)
        if has_key is not None:
            ids[~has_key] = UNKNOWN
        self.n = len(times)
        """Number of queries, including those without a key."""
        rows, self.starts = by_key_and_time(ids, len(self._key_ids), times)
        """Where each key starts among the sorted queries (int64 [keys + 1])."""
        self.sorted = SortedQueries(rows, ids[rows], times[rows])
        """The queries that have a key."""

    @property
    def n_keys(self) -> int:
        """Number of distinct keys."""
        return len(self._key_ids)

    def key_ids(self, hashes: Ints) -> DenseIds:
        """Return the dense ids of keys (int64 [n, 2]), `UNKNOWN` for keys that no query asks for."""
        return self._key_ids.find(hashes)
