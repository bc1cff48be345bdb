"""Kernels that put events into a state. Events come in any order; the state ends up a function of their set.

Both kernels keep the rows of a key sorted, find an event's place from the end (late events are few and near it), and return how
many events they folded: fewer than given when the row arrays are full and the caller must enlarge them and call again.
"""

from typing import Any, Final

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.exact_sum import add_square, add_value
from feature_repo.windows.spec import (
    PART_FIRST,
    PART_LAST,
    PART_MAX,
    PART_MIN,
    PART_N,
    PART_SQUARES,
    PART_SUM,
    TILE_HOP,
    TILE_LAST_TS,
    TILE_ROWS,
)

FULL: Final = -1
# Columns of `segments`, see state._Arrays.
_START, _SIZE, _HEAD, _ROWS, _VERSION, _FLOOR, _NEWEST = range(7)
_IN_USE = 63  # free[63]: rows handed out so far


@nb.njit(cache=True)
def fold_events(
    ints: Ints,
    floats: Floats,
    segments: Ints,
    free: Ints,
    slots: Ints,
    event_ints: Ints,
    event_floats: Floats,
    start: int,
    most_rows: int,
    retention: int,
) -> int:
    """Insert events into their keys' sorted rows; keep the newest `most_rows` that are within `retention` of the newest."""
    for i in range(start, len(slots)):
        segment = segments[slots[i]]
        ts = event_ints[i, 0]
        segment[_NEWEST] = max(segment[_NEWEST], ts)
        if ts < segment[_NEWEST] - retention:
            segment[_FLOOR] = max(segment[_FLOOR], ts)
            segment[_VERSION] += 1
            continue
        _drop_before(ints, segment, segment[_NEWEST] - retention, 0)
        if _make_room(ints, floats, segment, free, most_rows + 1) == FULL:
            return i
        first = segment[_START] + segment[_HEAD]
        place = first + segment[_ROWS]
        same = False
        while place > first:
            order = _compare(ints, place - 1, event_ints, i)
            if order <= 0:
                same = order == 0
                break
            place -= 1
        if same:
            continue  # the same event again changes nothing
        _insert(ints, floats, segment, place)
        for c in range(ints.shape[1]):
            ints[place, c] = event_ints[i, c]
        for c in range(floats.shape[1]):
            floats[place, c] = event_floats[i, c]
        segment[_VERSION] += 1
        if segment[_ROWS] > most_rows:
            segment[_FLOOR] = max(segment[_FLOOR], ints[segment[_START] + segment[_HEAD], 0])
            segment[_HEAD] += 1
            segment[_ROWS] -= 1
    return len(slots)


@nb.njit(cache=True)
def fold_tiles(
    ints: Ints,
    floats: Floats,
    segments: Ints,
    free: Ints,
    slots: Ints,
    event_ints: Ints,
    event_floats: Floats,
    start: int,
    merge: Ints,
    hop: int,
    retention: int,
) -> int:
    """Merge events into the tile of their hop; drop tiles that no read within `retention` of the newest event can need."""
    for i in range(start, len(slots)):
        segment = segments[slots[i]]
        ts = event_ints[i, 0]
        segment[_NEWEST] = max(segment[_NEWEST], ts)
        oldest = (segment[_NEWEST] - retention) // hop
        number = ts // hop
        if number < oldest:
            segment[_FLOOR] = max(segment[_FLOOR], (number + 1) * hop - 1)
            segment[_VERSION] += 1
            continue
        _drop_before(ints, segment, oldest, hop)
        if _make_room(ints, floats, segment, free, 1 << 40) == FULL:
            return i
        first = segment[_START] + segment[_HEAD]
        place = first + segment[_ROWS]
        while place > first and ints[place - 1, TILE_HOP] > number:
            place -= 1
        if place > first and ints[place - 1, TILE_HOP] == number:
            place -= 1
        else:
            _insert(ints, floats, segment, place)
            empty_tile(ints, floats, place, number, merge)
        add_to_tile(ints, floats, place, event_ints, event_floats, i, merge)
        segment[_VERSION] += 1
    return len(slots)


@nb.njit(cache=True)
def empty_tile(ints: Ints, floats: Floats, row: int, number: int, merge: Ints) -> None:
    """Make `row` the tile of hop `number` without events."""
    ints[row, :] = 0
    ints[row, TILE_HOP] = number
    ints[row, TILE_LAST_TS] = np.iinfo(np.int64).min
    for m in range(len(merge)):
        if merge[m, 0] >= PART_MIN:
            floats[row, merge[m, 3]] = np.nan


@nb.njit(cache=True)
def add_to_tile(
    ints: Ints, floats: Floats, row: int, event_ints: Ints, event_floats: Floats, i: int, merge: Ints
) -> None:
    """Add event `i` to the tile at `row`: every part is associative and order-free."""
    words = ints[row]
    words[TILE_ROWS] += 1
    words[TILE_LAST_TS] = max(words[TILE_LAST_TS], event_ints[i, 0])
    for m in range(len(merge)):
        part, column, at, f_at = merge[m, 0], merge[m, 1], merge[m, 2], merge[m, 3]
        x = event_floats[i, column]
        if np.isnan(x):
            continue
        if part == PART_N:
            words[at] += 1
        elif part == PART_SUM:
            add_value(words, at, x)
        elif part == PART_SQUARES:
            add_square(words, at, x)
        elif part == PART_MIN:
            if not floats[row, f_at] <= x:
                floats[row, f_at] = x
        elif part == PART_MAX:
            if not floats[row, f_at] >= x:
                floats[row, f_at] = x
        elif part == PART_FIRST or part == PART_LAST:
            order = np.int64(1)
            if not np.isnan(floats[row, f_at]):
                order = _compare_words(
                    event_ints[i, 0],
                    event_ints[i, 1],
                    event_ints[i, 2],
                    words[at],
                    words[at + 1],
                    words[at + 2],
                )
                order = -order if part == PART_FIRST else order
            if order > 0:
                words[at], words[at + 1], words[at + 2] = event_ints[i, 0], event_ints[i, 1], event_ints[i, 2]
                floats[row, f_at] = x


@nb.njit(cache=True, inline="always")
def _compare_words(a0: int, a1: int, a2: int, b0: int, b1: int, b2: int) -> Any:
    if a0 != b0:
        return np.int64(1) if a0 > b0 else np.int64(-1)
    if a1 != b1:
        return np.int64(1) if a1 > b1 else np.int64(-1)
    if a2 != b2:
        return np.int64(1) if a2 > b2 else np.int64(-1)
    return np.int64(0)


@nb.njit(cache=True, inline="always")
def _compare(ints: Ints, row: int, event_ints: Ints, i: int) -> Any:
    """Order of a row and an event by (time, id): above 0 when the row comes after the event."""
    return _compare_words(
        ints[row, 0], ints[row, 1], ints[row, 2], event_ints[i, 0], event_ints[i, 1], event_ints[i, 2]
    )


@nb.njit(cache=True)
def _drop_before(ints: Ints, segment: Ints, oldest: int, hop: int) -> None:
    """Drop rows whose first word is below `oldest` and raise the floor to the last moment they covered."""
    while segment[_ROWS] > 0:
        value = ints[segment[_START] + segment[_HEAD], 0]
        if value >= oldest:
            return
        segment[_FLOOR] = max(segment[_FLOOR], value if hop == 0 else (value + 1) * hop - 1)
        segment[_HEAD] += 1
        segment[_ROWS] -= 1


@nb.njit(cache=True)
def _make_room(ints: Ints, floats: Floats, segment: Ints, free: Ints, most_rows: int) -> int:
    """See that one row can be added behind the last one: slide down, move to a segment of another size, or say FULL."""
    size = segment[_SIZE]
    rows, head = segment[_ROWS], segment[_HEAD]
    if size >= 0 and head + rows < (1 << size):
        return 0
    if size >= 0 and 2 * rows <= (1 << size) and (size < 2 or 4 * rows > (1 << size)):
        _move(ints, floats, segment[_START] + head, segment[_START], rows)
        segment[_HEAD] = 0
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
        old = segment[_START]
        _move(ints, floats, old + head, start, rows)
        ints[old, 0] = free[size]
        free[size] = old
    segment[_START], segment[_SIZE], segment[_HEAD] = start, wanted, 0
    return 0


@nb.njit(cache=True)
def _move(ints: Ints, floats: Floats, source: int, target: int, rows: int) -> None:
    for r in range(rows):
        for c in range(ints.shape[1]):
            ints[target + r, c] = ints[source + r, c]
        for c in range(floats.shape[1]):
            floats[target + r, c] = floats[source + r, c]


@nb.njit(cache=True)
def _insert(ints: Ints, floats: Floats, segment: Ints, place: int) -> None:
    """Open a gap at `place`."""
    last = segment[_START] + segment[_HEAD] + segment[_ROWS]
    for r in range(last, place, -1):
        for c in range(ints.shape[1]):
            ints[r, c] = ints[r - 1, c]
        for c in range(floats.shape[1]):
            floats[r, c] = floats[r - 1, c]
    segment[_ROWS] += 1
