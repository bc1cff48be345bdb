"""The order of a history: by key, then by time, then by id.

A log is in time order or nearly so. That is checked first; then one pass distributes the rows to their keys (a
counting sort). Times out of order are sorted by numpy's stable sort, Timsort, which merges the sorted runs.
"""

from __future__ import annotations

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Ints
from feature_repo.windows.history.dense_ids import UNKNOWN, DenseIds


def by_key_and_time(keys: DenseIds, n_keys: int, times: Ints) -> tuple[Ints, Ints]:
    """Return the rows of known keys in order, and where each key starts among them (int64 [keys + 1]).

    `keys` are dense ids below `n_keys`. Rows of the same key and time stay in the order given.
    """
    order = np.arange(len(times)) if _is_sorted(times) else np.argsort(times, kind="stable")
    return _distribute(order, keys, n_keys)


@kernel
def _is_sorted(times: Ints) -> bool:
    i = 1
    while i < len(times) and times[i - 1] <= times[i]:
        i += 1
    return i >= len(times)


@kernel
def _distribute(order: Ints, keys: DenseIds, n_keys: int) -> tuple[Ints, Ints]:
    """Counting sort by key that keeps the order within a key."""
    starts = np.zeros(n_keys + 1, np.int64)
    for i in range(len(keys)):
        if keys[i] != UNKNOWN:
            starts[keys[i] + 1] += 1
    for key in range(n_keys):
        starts[key + 1] += starts[key]
    place = starts[:-1].copy()
    rows = np.empty(starts[n_keys], np.int64)
    for i in range(len(order)):
        row = order[i]
        key = keys[row]
        if key != UNKNOWN:
            rows[place[key]] = row
            place[key] += 1
    return rows, starts


@kernel
def has_ties(times: Ints, starts: Ints) -> bool:
    """Return whether two consecutive rows of one key have the same time."""
    for key in range(len(starts) - 1):
        for i in range(starts[key] + 1, starts[key + 1]):
            if times[i] == times[i - 1]:
                return True
    return False


@kernel
def order_ties(order: Ints, times: Ints, starts: Ints, ids: Ints) -> None:
    """Sort rows of the same key and time by their ids (int64 [rows, 2], in row order).

    `times` are in the order of `order`.
    """
    for key in range(len(starts) - 1):
        first = starts[key]
        for i in range(starts[key] + 1, starts[key + 1] + 1):
            if i < starts[key + 1] and times[i] == times[first]:
                continue
            if i - first > 1:
                tied = order[first:i]
                by_low = tied[np.argsort(ids[tied, 1], kind="mergesort")]
                tied[:] = by_low[np.argsort(ids[by_low, 0], kind="mergesort")]
            first = i
