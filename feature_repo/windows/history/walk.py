"""Features of a history as it was known at the times asked: events accepted later are not seen.

What is hidden changes from row to row, so nothing slides: every row walks its window with the kernels of the live read.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.header import NOTHING
from feature_repo.windows.history.dense_ids import Numbers
from feature_repo.windows.kernels.fold import add_to_tile, empty_tile
from feature_repo.windows.kernels.read_events import finish_events
from feature_repo.windows.kernels.read_tiles import finish_tiles
from feature_repo.windows.kernels.sketch import finish_sketch, sketch_rows
from feature_repo.windows.layout import TILE_HOP


@nb.njit(cache=True)
def walk_history(
    ints: Ints,
    floats: Floats,
    starts: Ints,
    rows: Ints,
    keys: Numbers,
    times: Ints,
    reads: Ints,
    meta: Ints,
    merge: Ints,
    longest: int,
    out: Floats,
    flags: Any,
) -> None:
    """Answer sorted rows, of `keys` as of `times`, into the `rows` of `out` and `flags`, from what of their key was accepted by then.

    `ints` and `floats` as in `Events`, with the time of acceptance behind the ints. The other tables are those of
    `read.read_tables`, and `Layout.merge`.
    """
    hop, n_ints, n_floats, sketch = meta[0], meta[2], meta[3], meta[6] > 0
    at = 0
    for i in range(len(rows)):
        row, t, start, stop = rows[i], times[i], starts[keys[i]], starts[keys[i] + 1]
        at = max(at, start)
        while at < stop and ints[at, 0] < t:
            at += 1
        if hop == 0:
            flags[row] = finish_events(ints, floats, start, at, NOTHING, reads, meta, t, out[row], t)
            continue
        first = at
        oldest = (t - longest) // hop * hop
        while first > start and ints[first - 1, 0] >= oldest:
            first -= 1
        if sketch:
            tiles, n_tiles = sketch_rows(ints, floats, first, at, hop, t)
            flags[row] = finish_sketch(tiles, 0, n_tiles, NOTHING, reads, meta, t, out[row])
        else:
            tiles, tile_floats, n_tiles = _tiles(ints, floats, first, at, hop, merge, n_ints, n_floats, t)
            flags[row] = finish_tiles(tiles, tile_floats, 0, n_tiles, NOTHING, reads, meta, t, out[row])


@nb.njit(cache=True)
def hides_something(event_times: Ints, created: Ints, starts: Ints, keys: Numbers, times: Ints) -> Any:
    """Of which of the sorted rows an earlier event of their key was accepted only after them."""
    hidden = np.zeros(len(times), np.bool_)
    at, latest = 0, NOTHING
    for i in range(len(times)):
        start, stop = starts[keys[i]], starts[keys[i] + 1]
        if start >= at:
            at, latest = start, NOTHING
        while at < stop and event_times[at] < times[i]:
            latest = max(latest, created[at])
            at += 1
        hidden[i] = latest > times[i]
    return hidden


@nb.njit(cache=True)
def _tiles(
    ints: Ints,
    floats: Floats,
    start: int,
    end: int,
    hop: int,
    merge: Ints,
    n_ints: int,
    n_floats: int,
    created: int,
) -> tuple[Any, Any, int]:
    """The tiles of those of the sorted events that were accepted by `created`."""
    n = 0
    last = np.int64(NOTHING)
    for i in range(start, end):
        if ints[i, 0] // hop != last:
            n += 1
            last = ints[i, 0] // hop
    tiles, tile_floats = np.empty((n, n_ints), np.int64), np.empty((n, n_floats), np.float64)
    n = 0
    for i in range(start, end):
        if ints[i, ints.shape[1] - 1] > created:
            continue
        number = ints[i, 0] // hop
        if n == 0 or tiles[n - 1, TILE_HOP] != number:
            empty_tile(tiles, tile_floats, n, number, merge)
            n += 1
        add_to_tile(tiles, tile_floats, n - 1, ints, floats, i, merge, hop)
    return tiles, tile_floats, n
