"""The kernel that reads and folds event by event.

It reads the features as of an event's own time, then folds the event.

It derives columns from what was accepted before. Here, unlike in the other kernels, the order of the events matters.
"""

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.kernels.fold import fold_events, fold_tiles
from feature_repo.windows.kernels.read_events import read_events
from feature_repo.windows.kernels.read_tiles import read_tiles
from feature_repo.windows.kernels.rows import (
    SEG_FLOOR,
    SEG_HEAD,
    SEG_ROWS,
    SEG_START,
    EventArrays,
    StateArrays,
    first_not_before,
)
from feature_repo.windows.kernels.sketch import fold_sketch, read_sketch
from feature_repo.windows.kernels.tables import CAPACITY, HOP, IS_SKETCH, ReadTables, Rows
from feature_repo.windows.kernels.words import EVENT_TIME, NOTHING


@kernel
def read_then_fold(
    state: StateArrays,
    events: EventArrays,
    start: int,
    tables: ReadTables,
    merge: Ints,
    retention: int,
    out: Floats,
) -> int:
    """Read and fold the events from `start` on, in their order; the features of event i go to `out[i]`.

    `merge` is the view's `Layout.merge`, `retention` its `retention_us`. Returns the index of the first event that
    was not folded: the number of events, or less when the row arrays are full.
    """
    ints, floats = state.ints, state.floats
    hop, most_rows = tables.measures[HOP], 2 * tables.measures[CAPACITY]
    sketch = tables.measures[IS_SKETCH] > 0
    for i in range(start, len(events.slots)):
        segment = state.segments[events.slots[i]]
        t = events.ints[i, EVENT_TIME]
        first = segment[SEG_START] + segment[SEG_HEAD]
        end, floor = first + segment[SEG_ROWS], segment[SEG_FLOOR]
        own = EventArrays(events.slots[i : i + 1], events.ints[i : i + 1], events.floats[i : i + 1])
        if sketch:
            read_sketch(ints, first, end, floor, tables, t, out[i])
            folded = fold_sketch(state, own, 0, hop, retention)
        elif hop > 0:
            read_tiles(Rows(ints, floats, first, end), floor, tables, t, out[i])
            folded = fold_tiles(state, own, 0, merge, hop, retention)
        else:
            before = first_not_before(ints, first, end, t)
            read_events(Rows(ints, floats, first, before), floor, tables, t, out[i], NOTHING)
            folded = fold_events(state, own, 0, most_rows, retention)
        if folded == 0:
            return i
    return len(events.slots)
