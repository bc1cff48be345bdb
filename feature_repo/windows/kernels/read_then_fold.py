"""Event by event: the features of its key as of its own time, from the state so far; then the event goes into the state.

One row of features per event, in the order given. This is how a column is derived from what had been accepted before: the order
of events is part of the question here, and nowhere else in these kernels.
"""

import numba as nb

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.header import NOTHING
from feature_repo.windows.kernels.fold import fold_events, fold_tiles
from feature_repo.windows.kernels.read_events import finish_events
from feature_repo.windows.kernels.read_tiles import finish_tiles
from feature_repo.windows.kernels.rows import first_not_before
from feature_repo.windows.kernels.sketch import finish_sketch, fold_sketch


@nb.njit(cache=True)
def read_then_fold(
    ints: Ints,
    floats: Floats,
    segments: Ints,
    free: Ints,
    slots: Ints,
    event_ints: Ints,
    event_floats: Floats,
    start: int,
    reads: Ints,
    meta: Ints,
    merge: Ints,
    retention: int,
    out: Floats,
) -> int:
    """Read and fold the events from `start` on; returns where it stopped, short of the end when the row arrays are full."""
    hop, most_rows, sketch = meta[0], 2 * meta[1], meta[6] > 0
    for i in range(start, len(slots)):
        segment = segments[slots[i]]
        t = event_ints[i, 0]
        first = segment[0] + segment[2]
        end, floor = first + segment[3], segment[5]
        if sketch:
            finish_sketch(ints, first, end, floor, reads, meta, t, out[i])
        elif hop > 0:
            finish_tiles(ints, floats, first, end, floor, reads, meta, t, out[i])
        else:
            before = first_not_before(ints, first, end, t)
            finish_events(ints, floats, first, before, floor, reads, meta, t, out[i], NOTHING)
        own_slot, own_ints, own_floats = slots[i : i + 1], event_ints[i : i + 1], event_floats[i : i + 1]
        if sketch:
            folded = fold_sketch(
                ints, floats, segments, free, own_slot, own_ints, own_floats, 0, hop, retention
            )
        elif hop > 0:
            folded = fold_tiles(
                ints, floats, segments, free, own_slot, own_ints, own_floats, 0, merge, hop, retention
            )
        else:
            folded = fold_events(
                ints, floats, segments, free, own_slot, own_ints, own_floats, 0, most_rows, retention
            )
        if folded == 0:
            return i
    return len(slots)
