"""Kernels that put events into a state. Events come in any order; the state ends up a function of their set.

Both kernels keep the rows of a key sorted, find an event's place from the end (late events are few and near it), and return how
many events they folded: fewer than given when the row arrays are full and the caller must enlarge them and call again.
"""

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.decay import weight
from feature_repo.windows.exact_sum import add_square, add_value
from feature_repo.windows.kernels.rows import (
    FULL,
    SEG_FLOOR,
    SEG_HEAD,
    SEG_NEWEST,
    SEG_ROWS,
    SEG_START,
    SEG_VERSION,
    compare,
    compare_words,
    drop_before,
    insert,
    make_room,
)
from feature_repo.windows.layout import (
    PART_DECAYED,
    PART_FIRST,
    PART_LAST,
    PART_MAX,
    PART_MIN,
    PART_N,
    PART_NEWEST,
    PART_SQUARES,
    PART_SUM,
    TILE_HOP,
    TILE_LAST_TS,
    TILE_ROWS,
)


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
        segment[SEG_NEWEST] = max(segment[SEG_NEWEST], ts)
        if ts < segment[SEG_NEWEST] - retention:
            segment[SEG_FLOOR] = max(segment[SEG_FLOOR], ts)
            segment[SEG_VERSION] += 1
            continue
        drop_before(ints, segment, segment[SEG_NEWEST] - retention, 0)
        if make_room(ints, floats, segment, free, most_rows + 1) == FULL:
            return i
        first = segment[SEG_START] + segment[SEG_HEAD]
        place = first + segment[SEG_ROWS]
        same = False
        while place > first:
            order = compare(ints, place - 1, event_ints, i)
            if order <= 0:
                same = order == 0
                break
            place -= 1
        if same:
            continue  # the same event again changes nothing
        insert(ints, floats, segment, place)
        for c in range(ints.shape[1]):
            ints[place, c] = event_ints[i, c]
        for c in range(floats.shape[1]):
            floats[place, c] = event_floats[i, c]
        segment[SEG_VERSION] += 1
        if segment[SEG_ROWS] > most_rows:
            segment[SEG_FLOOR] = max(segment[SEG_FLOOR], ints[segment[SEG_START] + segment[SEG_HEAD], 0])
            segment[SEG_HEAD] += 1
            segment[SEG_ROWS] -= 1
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
        segment[SEG_NEWEST] = max(segment[SEG_NEWEST], ts)
        oldest = (segment[SEG_NEWEST] - retention) // hop
        number = ts // hop
        if number < oldest:
            segment[SEG_FLOOR] = max(segment[SEG_FLOOR], (number + 1) * hop - 1)
            segment[SEG_VERSION] += 1
            continue
        drop_before(ints, segment, oldest, hop)
        if make_room(ints, floats, segment, free, 1 << 40) == FULL:
            return i
        first = segment[SEG_START] + segment[SEG_HEAD]
        place = first + segment[SEG_ROWS]
        while place > first and ints[place - 1, TILE_HOP] > number:
            place -= 1
        if place > first and ints[place - 1, TILE_HOP] == number:
            place -= 1
        else:
            insert(ints, floats, segment, place)
            empty_tile(ints, floats, place, number, merge)
        add_to_tile(ints, floats, place, event_ints, event_floats, i, merge, hop)
        segment[SEG_VERSION] += 1
    return len(slots)


@nb.njit(cache=True)
def empty_tile(ints: Ints, floats: Floats, row: int, number: int, merge: Ints) -> None:
    """Make `row` the tile of hop `number` without events."""
    ints[row, :] = 0
    ints[row, TILE_HOP] = number
    ints[row, TILE_LAST_TS] = np.iinfo(np.int64).min
    for m in range(len(merge)):
        if PART_MIN <= merge[m, 0] <= PART_LAST:
            floats[row, merge[m, 3]] = np.nan
        elif merge[m, 0] == PART_NEWEST:
            ints[row, merge[m, 2]] = np.iinfo(np.int64).min


@nb.njit(cache=True)
def add_to_tile(
    ints: Ints,
    floats: Floats,
    row: int,
    event_ints: Ints,
    event_floats: Floats,
    i: int,
    merge: Ints,
    hop: int,
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
                order = compare_words(
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
        elif part == PART_NEWEST:
            words[at] = max(words[at], event_ints[i, 0])
        elif part == PART_DECAYED:  # as of the tile's end
            add_value(words, at, x * weight((words[TILE_HOP] + 1) * hop - event_ints[i, 0], merge[m, 4]))
