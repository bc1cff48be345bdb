"""Quantiles of sorted queries from a sorted history: the counts of a window's buckets are updated as the window slides.

The counts equal those of `kernels.sketch`, whose state has a row per hop and bucket: a window of whole hops holds the
same values.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.functions import COUNT
from feature_repo.windows.history.prefix_sums import History
from feature_repo.windows.history.queries import SortedQueries
from feature_repo.windows.kernels.sketch import LARGEST_BUCKET, bucket_of, value_of
from feature_repo.windows.kernels.tables import READ_A, READ_FUNCTION, READ_OUT, READ_WINDOW

_GROUP: Final = 64
"""Buckets per group. Groups have counts too, so a rank is searched among groups first and then within one."""
_GROUPS: Final = 2 * LARGEST_BUCKET // _GROUP + 1
_NONE: Final = -1


class Counts(NamedTuple):
    """How many values of the window are in every bucket, and in every group of buckets."""

    buckets: Ints
    groups: Ints


@kernel
def slide_sketch(
    history: History, column: int, queries: SortedQueries, reads: Ints, hop: int, out: Floats
) -> None:
    """Write the features of sorted queries to `out` (float64 [rows, aggregates], null = NaN).

    `column` is the value column of the view; `reads` are those of its layout (`tables.ReadTables`).
    """
    values = history.values[column]
    buckets = np.empty(len(values), np.int64)
    for i in range(len(values)):
        buckets[i] = _NONE if np.isnan(values[i]) else bucket_of(values[i]) + LARGEST_BUCKET
    counts = Counts(np.zeros(_GROUPS * _GROUP, np.int64), np.zeros(_GROUPS, np.int64))
    first = 0
    while first < len(reads):
        after = first
        while after < len(reads) and reads[after, READ_WINDOW] == reads[first, READ_WINDOW]:
            after += 1
        _slide_window(history, buckets, queries, reads[first:after], hop, counts, out)
        first = after


@kernel
def _slide_window(
    history: History,
    buckets: Ints,
    queries: SortedQueries,
    reads: Ints,
    hop: int,
    counts: Counts,
    out: Floats,
) -> None:
    """Compute all aggregates of one window. `counts` are 0 before and after."""
    starts, event_times, window = history.starts, history.times, reads[0, READ_WINDOW]
    low, high, n, answered = 0, 0, 0, _NONE
    for i in range(len(queries.rows)):
        row, t, key = queries.rows[i], queries.times[i], queries.keys[i]
        start, stop = starts[key], starts[key + 1]
        begin, end = max(low, start), max(high, start)
        until, since = t // hop * hop, (t - window) // hop * hop
        while end < stop and event_times[end] < until:
            end += 1
        while begin < end and event_times[begin] < since:
            begin += 1
        if begin == low and end == high and answered != _NONE:
            for r in range(len(reads)):
                out[row, reads[r, READ_OUT]] = out[answered, reads[r, READ_OUT]]
            continue
        for event in range(low, min(begin, high)):
            n -= _count(buckets[event], -1, counts)
        for event in range(max(begin, high), end):
            n += _count(buckets[event], 1, counts)
        low, high, answered = begin, end, row
        for r in range(len(reads)):
            if reads[r, READ_FUNCTION] == COUNT:
                out[row, reads[r, READ_OUT]] = n
            else:
                out[row, reads[r, READ_OUT]] = (
                    _at_rank((n - 1) * reads[r, READ_A] // 100, counts) if n > 0 else np.nan
                )
    for event in range(low, high):
        _count(buckets[event], -1, counts)


@kernel(inline="always")
def _count(bucket: int, times: int, counts: Counts) -> int:
    """Count a value `times` times. Returns 1, or 0 if the value is null."""
    if bucket == _NONE:
        return 0
    counts.buckets[bucket] += times
    counts.groups[bucket // _GROUP] += times
    return 1


@kernel
def _at_rank(rank: int, counts: Counts) -> float:
    """Return the value at `rank` of the window's sorted values."""
    group = 0
    below = counts.groups[0]
    while below <= rank:
        group += 1
        below += counts.groups[group]
    below -= counts.groups[group]
    bucket = group * _GROUP
    below += counts.buckets[bucket]
    while below <= rank:
        bucket += 1
        below += counts.buckets[bucket]
    return value_of(bucket - LARGEST_BUCKET)
