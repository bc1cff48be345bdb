"""Quantiles from counts in logarithmic buckets: mergeable, free of order, of bounded size, exact to 1 % of the value.

This is DDSketch without its limit on buckets (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", VLDB 2019). With gamma = 1.01 / 0.99, bucket i holds the values in (gamma^(i-1), gamma^i] and is answered
by 2 gamma^i / (gamma + 1), which is at most 1 % of the value away from any of them. Negative values have mirrored buckets, with the
same bound. Magnitudes below 1e-9 count as zero, and there is nothing beyond `exact_sum.LIMIT` (such values are null). Between these
there are 2,425 buckets for each sign, so a state has at most that many rows a hop, and in practice as many as the hop has
distinct amounts, to 2 %.

The quantile q of n values is the one at rank floor(q (n - 1)) when they are sorted, counted from 0: a value that occurred, not one
between two.
"""

from typing import Any, Final

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.exact_sum import LIMIT
from feature_repo.windows.functions import COUNT
from feature_repo.windows.kernels.rows import (
    FULL,
    INCOMPLETE,
    SEG_FLOOR,
    SEG_HEAD,
    SEG_NEWEST,
    SEG_ROWS,
    SEG_START,
    SEG_VERSION,
    drop_before,
    first_not_before,
    insert,
    make_room,
)
from feature_repo.windows.layout import SKETCH_BUCKET, SKETCH_COUNT, SKETCH_HOP

GAMMA: Final = 1.01 / 0.99
SMALLEST: Final = 1e-9


def _upper_ends() -> Floats:
    """The upper end of every bucket, by multiplication from 1: the same bits on every machine."""
    ends = [1.0]
    while ends[0] > SMALLEST:
        ends.insert(0, ends[0] / GAMMA)
    while ends[-1] < LIMIT:
        ends.append(ends[-1] * GAMMA)
    return np.array(ends)


_ENDS = _upper_ends()
LARGEST_BUCKET: Final = len(_ENDS)
_TO_MIDDLE: Final = 2 / (GAMMA + 1)


@nb.njit(cache=True)
def bucket_of(x: float) -> int:
    """0 for zero, 1, 2, ... for positive values, the same below zero for negative ones: ordered as the values are."""
    size = abs(x)
    if size < SMALLEST:
        return 0
    low, high = 0, len(_ENDS) - 1
    while low < high:
        middle = (low + high) // 2
        if _ENDS[middle] < size:
            low = middle + 1
        else:
            high = middle
    return low + 1 if x > 0 else -low - 1


@nb.njit(cache=True)
def value_of(bucket: int) -> float:
    """What stands for the values of a bucket."""
    if bucket == 0:
        return 0.0
    size = _ENDS[abs(bucket) - 1] * _TO_MIDDLE
    return float(size if bucket > 0 else -size)


@nb.njit(cache=True)
def fold_sketch(
    ints: Ints,
    floats: Floats,
    segments: Ints,
    free: Ints,
    slots: Ints,
    event_ints: Ints,
    event_floats: Floats,
    start: int,
    hop: int,
    retention: int,
) -> int:
    """Count events in their hops' buckets; as `fold.fold_tiles`. An event without a value changes the version and the newest time only."""
    for i in range(start, len(slots)):
        segment = segments[slots[i]]
        ts, x = event_ints[i, 0], event_floats[i, 0]
        segment[SEG_NEWEST] = max(segment[SEG_NEWEST], ts)
        oldest = (segment[SEG_NEWEST] - retention) // hop
        number = ts // hop
        drop_before(ints, segment, oldest, hop)
        segment[SEG_VERSION] += 1
        if np.isnan(x):
            continue
        if number < oldest:
            segment[SEG_FLOOR] = max(segment[SEG_FLOOR], (number + 1) * hop - 1)
            continue
        if make_room(ints, floats, segment, free, 1 << 40) == FULL:
            segment[SEG_VERSION] -= 1  # the caller will come again with it
            return i
        bucket = bucket_of(x)
        first = segment[SEG_START] + segment[SEG_HEAD]
        end = first + segment[SEG_ROWS]
        place = _place(ints, first, end, number, bucket)
        if _is_of(ints, place, end, number, bucket):
            ints[place, SKETCH_COUNT] += 1
            continue
        insert(ints, floats, segment, place)
        ints[place, SKETCH_HOP], ints[place, SKETCH_BUCKET], ints[place, SKETCH_COUNT] = number, bucket, 1
    return len(slots)


@nb.njit(cache=True)
def sketch_rows(ints: Ints, floats: Floats, start: int, end: int, hop: int, created: int) -> tuple[Any, int]:
    """The rows of those of the sorted events [start, end) that were accepted by `created`, and how many."""
    rows = np.empty((end - start, 3), np.int64)
    n = 0
    for i in range(start, end):
        if np.isnan(floats[i, 0]) or ints[i, ints.shape[1] - 1] > created:
            continue
        number, bucket = ints[i, 0] // hop, bucket_of(floats[i, 0])
        place = _place(rows, 0, n, number, bucket)
        if _is_of(rows, place, n, number, bucket):
            rows[place, SKETCH_COUNT] += 1
            continue
        for r in range(n, place, -1):
            for c in range(3):
                rows[r, c] = rows[r - 1, c]
        rows[place, SKETCH_HOP], rows[place, SKETCH_BUCKET], rows[place, SKETCH_COUNT] = number, bucket, 1
        n += 1
    return rows, n


@nb.njit(cache=True)
def _place(ints: Ints, start: int, end: int, number: int, bucket: int) -> int:
    """The first of the sorted rows [start, end) that is not before (hop, bucket)."""
    while start < end:
        middle = (start + end) // 2
        hop = ints[middle, SKETCH_HOP]
        if hop < number or (hop == number and ints[middle, SKETCH_BUCKET] < bucket):
            start = middle + 1
        else:
            end = middle
    return start


@nb.njit(cache=True)
def _is_of(ints: Ints, row: int, end: int, number: int, bucket: int) -> bool:
    return bool(row < end and ints[row, SKETCH_HOP] == number and ints[row, SKETCH_BUCKET] == bucket)


@nb.njit(cache=True)
def finish_sketch(
    ints: Any, start: int, end: int, floor: int, reads: Ints, meta: Ints, t: int, out: Floats
) -> int:
    """Answer every read from the rows [start, end) whose hop lies in its window. Returns the flags."""
    hop = meta[0]
    last = first_not_before(ints, start, end, t // hop) - 1
    oldest = (t - reads[len(reads) - 1, 4]) // hop
    low, high = np.int64(0), np.int64(0)
    row = last
    while row >= start and ints[row, SKETCH_HOP] >= oldest:
        low, high = min(low, ints[row, SKETCH_BUCKET]), max(high, ints[row, SKETCH_BUCKET])
        row -= 1
    counts = np.zeros(high - low + 1, np.int64)
    n = np.int64(0)
    flags = 0
    row = last
    for r in range(len(reads)):
        first_hop = (t - reads[r, 4]) // hop
        while row >= start and ints[row, SKETCH_HOP] >= first_hop:
            counts[ints[row, SKETCH_BUCKET] - low] += ints[row, SKETCH_COUNT]
            n += ints[row, SKETCH_COUNT]
            row -= 1
        value = np.nan
        if floor >= first_hop * hop:
            flags |= INCOMPLETE
        elif reads[r, 0] == COUNT:
            value = float(n)
        elif n > 0:
            value = _quantile(counts, low, (n - 1) * reads[r, 1] // 100)
        out[reads[r, 5]] = value
    return flags


@nb.njit(cache=True)
def _quantile(counts: Ints, low: Any, rank: Any) -> float:
    bucket = 0
    below = counts[0]
    while below <= rank:
        bucket += 1
        below += counts[bucket]
    return float(value_of(low + bucket))
