"""The order of a history: by key, then by time, then by id.

A log is in time order already, or nearly: so that is looked at first, and what is left to do is to deal the rows out to their
keys, in one pass. Times out of order are sorted by merging the runs that are there (Timsort).
"""

from __future__ import annotations

import numba as nb
import numpy as np

from feature_repo.windows.columns import Ints
from feature_repo.windows.history.dense_ids import UNKNOWN, Numbers


def by_key_and_time(numbers: Numbers, n_keys: int, times: Ints) -> tuple[Ints, Ints]:
    """Rows in order, without those of no number, and where each key starts among them (int64 [keys + 1]).

    Rows of one key and time stay in the order given.
    """
    order = np.arange(len(times)) if _is_sorted(times) else np.argsort(times, kind="stable")
    return _deal(order, numbers, n_keys)


@nb.njit(cache=True)
def _is_sorted(times: Ints) -> bool:
    i = 1
    while i < len(times) and times[i - 1] <= times[i]:
        i += 1
    return i >= len(times)


@nb.njit(cache=True)
def _deal(order: Ints, numbers: Numbers, n_keys: int) -> tuple[Ints, Ints]:
    """A counting sort by key that keeps the order within it."""
    starts = np.zeros(n_keys + 1, np.int64)
    for i in range(len(numbers)):
        if numbers[i] != UNKNOWN:
            starts[numbers[i] + 1] += 1
    for key in range(n_keys):
        starts[key + 1] += starts[key]
    place = starts[:-1].copy()
    dealt = np.empty(starts[n_keys], np.int64)
    for i in range(len(order)):
        row = order[i]
        key = numbers[row]
        if key != UNKNOWN:
            dealt[place[key]] = row
            place[key] += 1
    return dealt, starts


@nb.njit(cache=True)
def has_ties(times: Ints, starts: Ints) -> bool:
    """Whether two neighbours of one key have the same time."""
    for key in range(len(starts) - 1):
        for i in range(starts[key] + 1, starts[key + 1]):
            if times[i] == times[i - 1]:
                return True
    return False


@nb.njit(cache=True)
def order_ties(order: Ints, times: Ints, starts: Ints, ids: Ints) -> None:
    """Bring rows of one key and time into the order of their ids (int64 [., 2], by row); `times` are in the order of `order`."""
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
