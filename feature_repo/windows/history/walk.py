"""Features of a history as it was known at the query's time: events accepted later are ignored.

Which events are ignored changes from query to query, so windows cannot slide: every query visits its window, with the
kernels that read states.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.history.dense_ids import DenseIds
from feature_repo.windows.history.queries import SortedQueries
from feature_repo.windows.kernels.fold import add_to_tile, empty_tile
from feature_repo.windows.kernels.read_events import read_events
from feature_repo.windows.kernels.read_tiles import read_tiles
from feature_repo.windows.kernels.sketch import read_sketch, sketch_rows
from feature_repo.windows.kernels.tables import HOP, IS_SKETCH, ROW_FLOATS, ROW_INTS, ReadTables, Rows
from feature_repo.windows.kernels.words import EVENT_TIME, NOTHING, TILE_HOP


@kernel
def walk_history(
    ints: Ints,
    floats: Floats,
    starts: Ints,
    queries: SortedQueries,
    tables: ReadTables,
    merge: Ints,
    longest: int,
    out: Floats,
    flags: Any,
) -> None:
    """Write features and flags of sorted queries to `out` (null = NaN) and `flags`, from the events accepted by then.

    `ints` and `floats` are those of sorted `Events`, with the time of acceptance (us) as the last int word; key k has
    the rows [starts[k], starts[k + 1]). `tables` and `merge` are those of the view's layout, `longest` is its longest
    window (us).
    """
    hop, sketch = tables.measures[HOP], tables.measures[IS_SKETCH] > 0
    at = 0
    for i in range(len(queries.rows)):
        row, t, key = queries.rows[i], queries.times[i], queries.keys[i]
        start, stop = starts[key], starts[key + 1]
        at = max(at, start)
        while at < stop and ints[at, EVENT_TIME] < t:
            at += 1
        if hop == 0:
            flags[row] = read_events(Rows(ints, floats, start, at), NOTHING, tables, t, out[row], t)
            continue
        first = at
        oldest = (t - longest) // hop * hop
        while first > start and ints[first - 1, EVENT_TIME] >= oldest:
            first -= 1
        if sketch:
            counts, n = sketch_rows(ints, floats, first, at, hop, t)
            flags[row] = read_sketch(counts, 0, n, NOTHING, tables, t, out[row])
        else:
            tiles = _tiles(Rows(ints, floats, first, at), tables.measures, merge, t)
            flags[row] = read_tiles(tiles, NOTHING, tables, t, out[row])


@kernel
def has_later_accepted(event_times: Ints, created: Ints, starts: Ints, keys: DenseIds, times: Ints) -> Any:
    """Return which sorted queries (bool [n]) have an earlier event of their key that was accepted after them.

    `event_times` and `created`, the times of acceptance, are those of the sorted events.
    """
    found = np.zeros(len(times), np.bool_)
    at, latest = 0, NOTHING
    for i in range(len(times)):
        start, stop = starts[keys[i]], starts[keys[i] + 1]
        if start >= at:
            at, latest = start, NOTHING
        while at < stop and event_times[at] < times[i]:
            latest = max(latest, created[at])
            at += 1
        found[i] = latest > times[i]
    return found


@kernel
def _tiles(events: Rows, measures: Ints, merge: Ints, created: int) -> Any:
    """Return the tiles (`Rows`) of the sorted events that were accepted by `created`."""
    ints, hop = events.ints, measures[HOP]
    n = 0
    last = np.int64(NOTHING)
    for i in range(events.start, events.end):
        if ints[i, EVENT_TIME] // hop != last:
            n += 1
            last = ints[i, EVENT_TIME] // hop
    tiles = np.empty((n, measures[ROW_INTS]), np.int64)
    tile_floats = np.empty((n, measures[ROW_FLOATS]), np.float64)
    n = 0
    for i in range(events.start, events.end):
        if ints[i, ints.shape[1] - 1] > created:
            continue
        number = ints[i, EVENT_TIME] // hop
        if n == 0 or tiles[n - 1, TILE_HOP] != number:
            empty_tile(tiles, tile_floats, n, number, merge)
            n += 1
        add_to_tile(tiles, tile_floats, n - 1, ints, events.floats, i, merge, hop)
    return Rows(tiles, tile_floats, 0, n)
