"""Quantiles of sorted rows asked for from a sorted history: the counts of a window's buckets, kept up as it slides along.

As `sketch`, whose state has a row per hop and bucket: a window of whole hops holds the same values, so the counts are the same.
"""

from __future__ import annotations

from typing import Final

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.functions import COUNT
from feature_repo.windows.history.dense_ids import Numbers
from feature_repo.windows.kernels.sketch import LARGEST_BUCKET, bucket_of, value_of

_GROUP: Final = 64
"""Buckets counted together, so that a rank is found in the sums first."""
_GROUPS: Final = 2 * LARGEST_BUCKET // _GROUP + 1
_NONE: Final = -1


@nb.njit(cache=True)
def slide_sketch(
    event_times: Ints,
    starts: Ints,
    values: Floats,
    rows: Ints,
    keys: Numbers,
    times: Ints,
    reads: Ints,
    hop: int,
    out: Floats,
) -> None:
    """Answer sorted rows, of `keys` as of `times`, into the `rows` of `out`; `reads` as in a sketch's layout."""
    buckets = np.empty(len(values), np.int64)
    for i in range(len(values)):
        buckets[i] = _NONE if np.isnan(values[i]) else bucket_of(values[i]) + LARGEST_BUCKET
    counts = np.zeros(_GROUPS * _GROUP, np.int64)
    groups = np.zeros(_GROUPS, np.int64)
    first = 0
    while first < len(reads):
        after = first
        while after < len(reads) and reads[after, 4] == reads[first, 4]:
            after += 1
        _slide_window(
            event_times, starts, buckets, rows, keys, times, reads[first:after], hop, counts, groups, out
        )
        first = after


@nb.njit(cache=True)
def _slide_window(
    event_times: Ints,
    starts: Ints,
    buckets: Ints,
    rows: Ints,
    keys: Numbers,
    times: Ints,
    reads: Ints,
    hop: int,
    counts: Ints,
    groups: Ints,
    out: Floats,
) -> None:
    """All reads of one window. `counts` and `groups` are 0 before and after."""
    window = reads[0, 4]
    low, high, n, answered = 0, 0, 0, _NONE
    for i in range(len(rows)):
        row, start, stop = rows[i], starts[keys[i]], starts[keys[i] + 1]
        begin, end = max(low, start), max(high, start)
        until, since = times[i] // hop * hop, (times[i] - window) // hop * hop
        while end < stop and event_times[end] < until:
            end += 1
        while begin < end and event_times[begin] < since:
            begin += 1
        if begin == low and end == high and answered != _NONE:
            for r in range(len(reads)):
                out[row, reads[r, 5]] = out[answered, reads[r, 5]]
            continue
        for event in range(low, min(begin, high)):
            n -= _count(buckets[event], -1, counts, groups)
        for event in range(max(begin, high), end):
            n += _count(buckets[event], 1, counts, groups)
        low, high, answered = begin, end, row
        for r in range(len(reads)):
            if reads[r, 0] == COUNT:
                out[row, reads[r, 5]] = n
            else:
                out[row, reads[r, 5]] = (
                    _at_rank((n - 1) * reads[r, 1] // 100, counts, groups) if n > 0 else np.nan
                )
    for event in range(low, high):
        _count(buckets[event], -1, counts, groups)


@nb.njit(cache=True, inline="always")
def _count(bucket: int, times: int, counts: Ints, groups: Ints) -> int:
    """1 if there was a value to count."""
    if bucket == _NONE:
        return 0
    counts[bucket] += times
    groups[bucket // _GROUP] += times
    return 1


@nb.njit(cache=True)
def _at_rank(rank: int, counts: Ints, groups: Ints) -> float:
    group = 0
    below = groups[0]
    while below <= rank:
        group += 1
        below += groups[group]
    below -= groups[group]
    bucket = group * _GROUP
    below += counts[bucket]
    while below <= rank:
        bucket += 1
        below += counts[bucket]
    return value_of(bucket - LARGEST_BUCKET)
