"""The sorted rows of a key in the flat arrays: find a place, open a gap, drop the oldest, move to a larger segment.

`segments` and `free` are described in `state`.
"""

from typing import Any, Final

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints

FULL: Final = -1
"""The row arrays have no room; the caller must enlarge them and call again."""
INCOMPLETE: Final = 1
"""Flag: the read lies too far in the past for some window, whose events have been dropped from the state; its features are null."""
CAPPED: Final = 2
"""Flag: a window held more than `capacity` events; the answer is from the newest of them."""

# Columns of `segments`.
SEG_START, SEG_SIZE, SEG_HEAD, SEG_ROWS, SEG_VERSION, SEG_FLOOR, SEG_NEWEST = range(7)
_IN_USE = 63  # free[63]: rows handed out so far


@nb.njit(cache=True)
def first_not_before(ints: Any, start: int, end: int, t: int) -> int:
    """The first row in [start, end) whose first word is at or after `t`, by bisection from the end (queries are mostly recent)."""
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


@nb.njit(cache=True, inline="always")
def compare_words(a0: int, a1: int, a2: int, b0: int, b1: int, b2: int) -> Any:
    if a0 != b0:
        return np.int64(1) if a0 > b0 else np.int64(-1)
    if a1 != b1:
        return np.int64(1) if a1 > b1 else np.int64(-1)
    if a2 != b2:
        return np.int64(1) if a2 > b2 else np.int64(-1)
    return np.int64(0)


@nb.njit(cache=True, inline="always")
def compare(ints: Ints, row: int, event_ints: Ints, i: int) -> Any:
    """Order of a row and an event by (time, id): above 0 when the row comes after the event."""
    return compare_words(
        ints[row, 0], ints[row, 1], ints[row, 2], event_ints[i, 0], event_ints[i, 1], event_ints[i, 2]
    )


@nb.njit(cache=True)
def drop_before(ints: Ints, segment: Ints, oldest: int, hop: int) -> None:
    """Drop rows whose first word is below `oldest` and raise the floor to the last moment they covered."""
    while segment[SEG_ROWS] > 0:
        value = ints[segment[SEG_START] + segment[SEG_HEAD], 0]
        if value >= oldest:
            return
        segment[SEG_FLOOR] = max(segment[SEG_FLOOR], value if hop == 0 else (value + 1) * hop - 1)
        segment[SEG_HEAD] += 1
        segment[SEG_ROWS] -= 1


@nb.njit(cache=True)
def make_room(ints: Ints, floats: Floats, segment: Ints, free: Ints, most_rows: int) -> int:
    """See that one row can be added behind the last one: slide down, move to a segment of another size, or say FULL."""
    size = segment[SEG_SIZE]
    rows, head = segment[SEG_ROWS], segment[SEG_HEAD]
    if size >= 0 and head + rows < (1 << size):
        return 0
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
    elif free[_IN_USE] + (1 << wanted) <= len(ints):
        start = free[_IN_USE]
        free[_IN_USE] += 1 << wanted
    else:
        return FULL
    if size >= 0:
        old = segment[SEG_START]
        move(ints, floats, old + head, start, rows)
        ints[old, 0] = free[size]
        free[size] = old
    segment[SEG_START], segment[SEG_SIZE], segment[SEG_HEAD] = start, wanted, 0
    return 0


@nb.njit(cache=True)
def move(ints: Ints, floats: Floats, source: int, target: int, rows: int) -> None:
    for r in range(rows):
        for c in range(ints.shape[1]):
            ints[target + r, c] = ints[source + r, c]
        for c in range(floats.shape[1]):
            floats[target + r, c] = floats[source + r, c]


@nb.njit(cache=True)
def insert(ints: Ints, floats: Floats, segment: Ints, place: int) -> None:
    """Open a gap at `place`."""
    last = segment[SEG_START] + segment[SEG_HEAD] + segment[SEG_ROWS]
    for r in range(last, place, -1):
        for c in range(ints.shape[1]):
            ints[r, c] = ints[r - 1, c]
        for c in range(floats.shape[1]):
            floats[r, c] = floats[r - 1, c]
    segment[SEG_ROWS] += 1
