"""Quantiles from counts in logarithmic buckets.

They are mergeable, independent of order, of bounded size, and within 1 % of the value.

This is DDSketch without its limit on buckets (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch
with relative-error guarantees", VLDB 2019). With gamma = 1.01 / 0.99, bucket i holds the values in (gamma^(i-1),
gamma^i] and returns 2 gamma^i / (gamma + 1) for them, which is at most 1 % of the value away from any of them.
Negative values have mirrored buckets with the same bound. Magnitudes below 1e-9 count as zero; values beyond
`exact_sum.LIMIT` are null. Between these there are 2,425 buckets for each sign, so a state has at most that many rows
per hop, and usually as many as the hop has distinct amounts, to 2 %.

The quantile q of n values is the one at rank floor(q (n - 1)) when they are sorted, counted from 0: a value that
occurred, not one interpolated between two.
"""

from typing import Any, Final

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.functions import COUNT
from feature_repo.windows.kernels.exact_sum import LIMIT
from feature_repo.windows.kernels.fold import NO_LIMIT
from feature_repo.windows.kernels.rows import (
    FULL,
    INCOMPLETE,
    SEG_FLOOR,
    SEG_HEAD,
    SEG_NEWEST,
    SEG_ROWS,
    SEG_START,
    SEG_VERSION,
    EventArrays,
    StateArrays,
    drop_before,
    first_not_before,
    insert,
    make_room,
)
from feature_repo.windows.kernels.tables import HOP, READ_A, READ_FUNCTION, READ_OUT, READ_WINDOW, ReadTables
from feature_repo.windows.kernels.words import EVENT_TIME, SKETCH_BUCKET, SKETCH_COUNT, SKETCH_HOP

GAMMA: Final = 1.01 / 0.99
SMALLEST: Final = 1e-9


def _upper_ends() -> Floats:
    """Return the upper end of every bucket, ascending.

    They are computed by multiplication from 1, so that every machine has the same bits.
    """
    ends = [1.0]
    while ends[0] > SMALLEST:
        ends.insert(0, ends[0] / GAMMA)
    while ends[-1] < LIMIT:
        ends.append(ends[-1] * GAMMA)
    return np.array(ends)


_ENDS = _upper_ends()
LARGEST_BUCKET: Final = len(_ENDS)
_TO_MIDDLE: Final = 2 / (GAMMA + 1)


@kernel
def bucket_of(x: float) -> int:
    """Return the bucket of a value: 0 for zero, 1, 2, ...

    For positive values, -1, -2, ... for negative ones. Ordered like the values.
    """
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


@kernel
def value_of(bucket: int) -> float:
    """Return the value that is within 1 % of all values of a bucket."""
    if bucket == 0:
        return 0.0
    size = _ENDS[abs(bucket) - 1] * _TO_MIDDLE
    return float(size if bucket > 0 else -size)


@kernel
def fold_sketch(state: StateArrays, events: EventArrays, start: int, hop: int, retention: int) -> int:
    """Count the events from `start` on in the buckets of their hops; see `fold.fold_tiles`.

    An event whose value is null changes only the version and the newest time.
    """
    ints, floats, segments = state.ints, state.floats, state.segments
    slots, event_ints, event_floats = events.slots, events.ints, events.floats
    for i in range(start, len(slots)):
        segment = segments[slots[i]]
        ts, x = event_ints[i, EVENT_TIME], event_floats[i, 0]
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
        if make_room(state, segment, NO_LIMIT) == FULL:
            segment[SEG_VERSION] -= 1  # the caller folds this event again
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


@kernel
def sketch_rows(ints: Ints, floats: Floats, start: int, end: int, hop: int, created: int) -> tuple[Any, int]:
    """Return the sketch rows (int64 [room, 3]) of sorted events accepted by `created`, and their number.

    The last int word of an event is the time (us) it was accepted.
    """
    rows = np.empty((end - start, 3), np.int64)
    n = 0
    for i in range(start, end):
        if np.isnan(floats[i, 0]) or ints[i, ints.shape[1] - 1] > created:
            continue
        number, bucket = ints[i, EVENT_TIME] // hop, bucket_of(floats[i, 0])
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


@kernel
def _place(ints: Ints, start: int, end: int, number: int, bucket: int) -> int:
    """Return the first of the sorted rows [start, end) that is not before (hop, bucket)."""
    while start < end:
        middle = (start + end) // 2
        hop = ints[middle, SKETCH_HOP]
        if hop < number or (hop == number and ints[middle, SKETCH_BUCKET] < bucket):
            start = middle + 1
        else:
            end = middle
    return start


@kernel
def _is_of(ints: Ints, row: int, end: int, number: int, bucket: int) -> bool:
    """Whether `row` exists and counts this hop and bucket."""
    return bool(row < end and ints[row, SKETCH_HOP] == number and ints[row, SKETCH_BUCKET] == bucket)


@kernel
def read_sketch(ints: Any, start: int, end: int, floor: int, tables: ReadTables, t: int, out: Floats) -> int:
    """Write the features as of `t` (us) of the sorted rows [start, end) to `out`, null = NaN. Returns the flags.

    `floor` is the latest event time that may be missing.
    """
    reads, hop = tables.reads, tables.measures[HOP]
    last = first_not_before(ints, start, end, t // hop) - 1
    oldest = (t - reads[len(reads) - 1, READ_WINDOW]) // hop
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
        first_hop = (t - reads[r, READ_WINDOW]) // hop
        while row >= start and ints[row, SKETCH_HOP] >= first_hop:
            counts[ints[row, SKETCH_BUCKET] - low] += ints[row, SKETCH_COUNT]
            n += ints[row, SKETCH_COUNT]
            row -= 1
        value = np.nan
        if floor >= first_hop * hop:
            flags |= INCOMPLETE
        elif reads[r, READ_FUNCTION] == COUNT:
            value = float(n)
        elif n > 0:
            value = _quantile(counts, low, (n - 1) * reads[r, READ_A] // 100)
        out[reads[r, READ_OUT]] = value
    return flags


@kernel
def _quantile(counts: Ints, low: Any, rank: Any) -> float:
    """Return the value at `rank`; `counts[i]` values are in bucket `low + i`."""
    bucket = 0
    below = counts[0]
    while below <= rank:
        bucket += 1
        below += counts[bucket]
    return float(value_of(low + bucket))
