"""The sorted rows of a key in the flat arrays of a state.

The kernels find a place, open a gap, drop the oldest rows and change the segment.

The rows of a key stand in one segment, whose size is a power of two, so dropping the oldest row is `head += 1` and
reading is a slice. Freed segments are kept in a free list per size.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints

FULL: Final = -1
"""The row arrays have no room; the caller must enlarge them and call again."""
INCOMPLETE: Final = 1
"""Flag: some window begins before events that were dropped from the state; its features are null."""
CAPPED: Final = 2
"""Flag: a window held more than `capacity` events; its features are computed from the newest of them."""

SEG_START, SEG_SIZE, SEG_HEAD, SEG_ROWS, SEG_VERSION, SEG_FLOOR, SEG_NEWEST = range(7)
"""Columns of `StateArrays.segments`: start, log2 of the capacity (-1: no segment), head, rows; the others as in a
state's header."""
IN_USE: Final = 63
"""`free[IN_USE]`: number of rows in all segments, free ones included."""


class StateArrays(NamedTuple):
    """The flat arrays that hold the rows of all keys of a view."""

    ints: Ints
    """int64 [room, int words]."""
    floats: Floats
    """float64 [room, float words]."""
    segments: Ints
    """int64 [slots, 7], columns `SEG_*`."""
    free: Ints
    """int64 [64]: first free segment of each size, -1 if none; the next one stands in its first int word. See
    `IN_USE`."""


class EventArrays(NamedTuple):
    """Events to fold and the slot of each one's key; `ints` and `floats` as in `columns.Events`."""

    slots: Ints
    ints: Ints
    floats: Floats


@kernel
def first_not_before(ints: Any, start: int, end: int, t: int) -> int:
    """Return the first row in [start, end) whose first word is at or after `t`.

    It is a galloping search from the end, because most reads are recent.

    J. L. Bentley, A. C. Yao: "An almost optimal algorithm for unbounded searching", 1976.
    """
    step = 1
    low = end
    while low > start and ints[low - 1, 0] >= t:
        end = low - 1
        low = max(start, low - step)
        step *= 2
        if ints[low, 0] < t:
            break
    while low < end:
        middle = (low + end) // 2
        if ints[middle, 0] < t:
            low = middle + 1
        else:
            end = middle
    return low


@kernel(inline="always")
def compare_words(a0: int, a1: int, a2: int, b0: int, b1: int, b2: int) -> Any:
    """Return 1, 0 or -1: the order of two (time, id high, id low) triples."""
    if a0 != b0:
        return np.int64(1) if a0 > b0 else np.int64(-1)
    if a1 != b1:
        return np.int64(1) if a1 > b1 else np.int64(-1)
    if a2 != b2:
        return np.int64(1) if a2 > b2 else np.int64(-1)
    return np.int64(0)


@kernel(inline="always")
def compare(ints: Ints, row: int, event_ints: Ints, i: int) -> Any:
    """Return the order of a row and an event by (time, id): above 0 when the row comes after the event."""
    return compare_words(
        ints[row, 0], ints[row, 1], ints[row, 2], event_ints[i, 0], event_ints[i, 1], event_ints[i, 2]
    )


@kernel
def drop_before(ints: Ints, segment: Ints, oldest: int, hop: int) -> None:
    """Drop rows whose first word is below `oldest` and raise the floor to the last time (us) that they covered.

    `hop` is 0 for an exact view.
    """
    while segment[SEG_ROWS] > 0:
        value = ints[segment[SEG_START] + segment[SEG_HEAD], 0]
        if value >= oldest:
            return
        segment[SEG_FLOOR] = max(segment[SEG_FLOOR], value if hop == 0 else (value + 1) * hop - 1)
        segment[SEG_HEAD] += 1
        segment[SEG_ROWS] -= 1


@kernel
def make_room(state: StateArrays, segment: Ints, most_rows: int) -> int:
    """Make room for one row behind the last one, if need be in a segment of another size. Returns 0, or `FULL`."""
    size = segment[SEG_SIZE]
    rows, head = segment[SEG_ROWS], segment[SEG_HEAD]
    if size >= 0 and head + rows < (1 << size):
        return 0
    ints, floats, free = state.ints, state.floats, state.free
    if size >= 0 and 2 * rows <= (1 << size) and (size < 2 or 4 * rows > (1 << size)):
        move(ints, floats, segment[SEG_START] + head, segment[SEG_START], rows)
        segment[SEG_HEAD] = 0
        return 0
    wanted = 0
    while (1 << wanted) < min(max(2 * rows, 1), most_rows) or (1 << wanted) <= rows:
        wanted += 1
    if free[wanted] >= 0:
        start = free[wanted]
        free[wanted] = ints[start, 0]
    elif free[IN_USE] + (1 << wanted) <= len(ints):
        start = free[IN_USE]
        free[IN_USE] += 1 << wanted
    else:
        return FULL
    if size >= 0:
        old = segment[SEG_START]
        move(ints, floats, old + head, start, rows)
        ints[old, 0] = free[size]
        free[size] = old
    segment[SEG_START], segment[SEG_SIZE], segment[SEG_HEAD] = start, wanted, 0
    return 0


@kernel
def move(ints: Ints, floats: Floats, source: int, target: int, rows: int) -> None:
    """Copy `rows` rows from row `source` on to row `target` on, the first row first."""
    for r in range(rows):
        for c in range(ints.shape[1]):
            ints[target + r, c] = ints[source + r, c]
        for c in range(floats.shape[1]):
            floats[target + r, c] = floats[source + r, c]


@kernel
def insert(ints: Ints, floats: Floats, segment: Ints, place: int) -> None:
    """Move the rows from `place` on by one, so that `place` can be written."""
    last = segment[SEG_START] + segment[SEG_HEAD] + segment[SEG_ROWS]
    for r in range(last, place, -1):
        for c in range(ints.shape[1]):
            ints[r, c] = ints[r - 1, c]
        for c in range(floats.shape[1]):
            floats[r, c] = floats[r - 1, c]
    segment[SEG_ROWS] += 1
