"""Kernels that fold events into a state. Events come in any order; the resulting state depends on their set alone.

The kernels keep the rows of a key sorted and search an event's place from the end, since late events are few and near
it. They return the index of the first event that was not folded: the number of events, or less when the row arrays
are full and the caller must enlarge them and continue from there.
"""

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.kernels.decay import weight
from feature_repo.windows.kernels.exact_sum import add_square, add_value
from feature_repo.windows.kernels.rows import (
    FULL,
    SEG_FLOOR,
    SEG_HEAD,
    SEG_NEWEST,
    SEG_ROWS,
    SEG_START,
    SEG_VERSION,
    EventArrays,
    StateArrays,
    compare,
    compare_words,
    drop_before,
    insert,
    make_room,
)
from feature_repo.windows.kernels.tables import (
    MERGE_COLUMN,
    MERGE_FLOAT,
    MERGE_INT,
    MERGE_PART,
    MERGE_WINDOW,
    PART_DECAYED,
    PART_FIRST,
    PART_LAST,
    PART_MAX,
    PART_MIN,
    PART_N,
    PART_NEWEST,
    PART_SQUARES,
    PART_SUM,
)
from feature_repo.windows.kernels.words import EVENT_TIME, NOTHING, TILE_HOP, TILE_LAST_TS, TILE_ROWS

NO_LIMIT = 1 << 40
"""For `make_room`: a key may have any number of rows."""


@kernel
def fold_events(state: StateArrays, events: EventArrays, start: int, most_rows: int, retention: int) -> int:
    """Insert the events from `start` on into their keys' sorted rows.

    Keeps the newest `most_rows` of a key, as far as they are within `retention` (us) of the newest. Returns where it
    stopped.
    """
    ints, floats, segments = state.ints, state.floats, state.segments
    slots, event_ints, event_floats = events.slots, events.ints, events.floats
    for i in range(start, len(slots)):
        segment = segments[slots[i]]
        ts = event_ints[i, EVENT_TIME]
        segment[SEG_NEWEST] = max(segment[SEG_NEWEST], ts)
        if ts < segment[SEG_NEWEST] - retention:
            segment[SEG_FLOOR] = max(segment[SEG_FLOOR], ts)
            segment[SEG_VERSION] += 1
            continue
        drop_before(ints, segment, segment[SEG_NEWEST] - retention, 0)
        if make_room(state, segment, most_rows + 1) == FULL:
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


@kernel
def fold_tiles(
    state: StateArrays, events: EventArrays, start: int, merge: Ints, hop: int, retention: int
) -> int:
    """Merge the events from `start` on into the tiles of their hops.

    Drops tiles that no read within `retention` (us) of the newest event can need. Returns where it stopped.
    """
    ints, floats, segments = state.ints, state.floats, state.segments
    slots, event_ints, event_floats = events.slots, events.ints, events.floats
    for i in range(start, len(slots)):
        segment = segments[slots[i]]
        ts = event_ints[i, EVENT_TIME]
        segment[SEG_NEWEST] = max(segment[SEG_NEWEST], ts)
        oldest = (segment[SEG_NEWEST] - retention) // hop
        number = ts // hop
        if number < oldest:
            segment[SEG_FLOOR] = max(segment[SEG_FLOOR], (number + 1) * hop - 1)
            segment[SEG_VERSION] += 1
            continue
        drop_before(ints, segment, oldest, hop)
        if make_room(state, segment, NO_LIMIT) == FULL:
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


@kernel
def empty_tile(ints: Ints, floats: Floats, row: int, number: int, merge: Ints) -> None:
    """Make `row` an empty tile of hop `number`."""
    ints[row, :] = 0
    ints[row, TILE_HOP] = number
    ints[row, TILE_LAST_TS] = NOTHING
    for m in range(len(merge)):
        if PART_MIN <= merge[m, MERGE_PART] <= PART_LAST:
            floats[row, merge[m, MERGE_FLOAT]] = np.nan
        elif merge[m, MERGE_PART] == PART_NEWEST:
            ints[row, merge[m, MERGE_INT]] = NOTHING


@kernel
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
    """Add event `i` to the tile at `row`. No part depends on the order in which events are added."""
    words = ints[row]
    words[TILE_ROWS] += 1
    words[TILE_LAST_TS] = max(words[TILE_LAST_TS], event_ints[i, EVENT_TIME])
    for m in range(len(merge)):
        part, at, f_at = merge[m, MERGE_PART], merge[m, MERGE_INT], merge[m, MERGE_FLOAT]
        x = event_floats[i, merge[m, MERGE_COLUMN]]
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
            words[at] = max(words[at], event_ints[i, EVENT_TIME])
        elif part == PART_DECAYED:  # as of the tile's end
            age = (words[TILE_HOP] + 1) * hop - event_ints[i, EVENT_TIME]
            add_value(words, at, x * weight(age, merge[m, MERGE_WINDOW]))
