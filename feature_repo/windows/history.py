"""Features of many keys at many times from a history of events: the offline side of the fold and the read.

One row per row asked for, in the order asked, as of its time. The events are sorted once by key and time; for an exact view the
sorted events of a key *are* its state, for a tiled view they are folded into tiles by the flow's own kernel. Then the read kernels
finish it at every time asked. Nothing is approximated and nothing differs from the live path but where the rows come from.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Events, Floats, Ints, Keys
from feature_repo.windows.fold import add_to_tile, empty_tile
from feature_repo.windows.header import NOTHING
from feature_repo.windows.layout import TILE_HOP
from feature_repo.windows.read import read_tables
from feature_repo.windows.read_events import finish_events
from feature_repo.windows.read_tiles import finish_tiles
from feature_repo.windows.sketch import finish_sketch, sketch_rows
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex


def features_at(
    spec: ViewSpec, keys: Keys, events: Events, wanted: Keys, times: Ints, created: Ints | None = None
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """The features of `wanted[i]` as of `times[i]` from a history of events.

    Returns float64 [len(wanted), features] in the order of `spec.feature_names` (null = NaN) and uint8 flags (`read.CAPPED`).
    `created`, the acceptance time of every event, hides events from rows asked for earlier than that: what the system knew by then.
    """
    index = KeyIndex()
    wanted_slots = index.slots(wanted)
    n_keys = len(index)
    event_slots = index.slots(keys)
    asked = np.flatnonzero(event_slots < n_keys)  # events of keys nobody asks for cost nothing more
    order = asked[_order(event_slots[asked], events.take(asked))]
    ints, floats = events.ints[order], events.floats[order]
    if created is not None:
        ints = np.ascontiguousarray(np.column_stack([ints, created[order]]))
    starts = np.searchsorted(event_slots[order], np.arange(n_keys + 1))
    rows = np.lexsort((times, wanted_slots))
    row_starts = np.searchsorted(wanted_slots[rows], np.arange(n_keys + 1))
    out = np.empty((len(wanted), len(spec.aggregates)), np.float64)
    flags = np.zeros(len(wanted), np.uint8)
    reads, meta = read_tables(spec)
    _read_history(
        ints,
        floats,
        starts,
        rows,
        row_starts,
        times,
        created is not None,
        reads,
        meta,
        spec.layout.merge,
        spec.hop_us,
        spec.longest_us,
        out,
        flags,
    )
    return out, flags


def _order(slots: Ints, events: Events) -> Ints:
    """Rows sorted by (key, time, id): a log is nearly in time order already, so only keys are really sorted."""
    return np.lexsort((events.ints[:, 2], events.ints[:, 1], events.ints[:, 0], slots))


@nb.njit(cache=True)
def _read_history(
    ints: Ints,
    floats: Floats,
    starts: Ints,
    rows: Ints,
    row_starts: Ints,
    times: Ints,
    by_created: bool,
    reads: Ints,
    meta: Ints,
    merge: Ints,
    hop: int,
    longest: int,
    out: Floats,
    flags: Any,
) -> None:
    n_ints, n_floats, sketch = meta[2], meta[3], meta[6] > 0
    for key in range(len(starts) - 1):
        start, end = starts[key], starts[key + 1]
        tiles, tile_floats, n_tiles = _NO_INTS, _NO_FLOATS, 0
        if hop > 0 and not by_created and row_starts[key + 1] > row_starts[key]:
            if sketch:
                tiles, n_tiles = sketch_rows(ints, floats, start, end, hop, NOTHING)
            else:
                tiles, tile_floats, n_tiles = _tiles(
                    ints, floats, start, end, hop, merge, n_ints, n_floats, NOTHING
                )
        known = -1  # the row of this key answered last
        at = start
        for q in range(row_starts[key], row_starts[key + 1]):
            row = rows[q]
            t = times[row]
            while at < end and ints[at, 0] < t:
                at += 1
            created = t if by_created else NOTHING
            if hop == 0:
                flags[row] = finish_events(
                    ints, floats, start, at, NOTHING, reads, meta, t, out[row], created
                )
                continue
            if by_created:
                first = at
                oldest = (t - longest) // hop * hop
                while first > start and ints[first - 1, 0] >= oldest:
                    first -= 1
                if sketch:
                    tiles, n_tiles = sketch_rows(ints, floats, first, at, hop, created)
                else:
                    tiles, tile_floats, n_tiles = _tiles(
                        ints, floats, first, at, hop, merge, n_ints, n_floats, created
                    )
            if sketch:
                if not by_created and known >= 0 and times[known] // hop == t // hop:
                    out[row] = out[known]  # quantiles change with the hop, not within it
                else:
                    flags[row] = finish_sketch(tiles, 0, n_tiles, NOTHING, reads, meta, t, out[row])
                known = row
                continue
            flags[row] = finish_tiles(tiles, tile_floats, 0, n_tiles, NOTHING, reads, meta, t, out[row])


_NO_INTS = np.zeros((0, 0), np.int64)
_NO_FLOATS = np.zeros((0, 0), np.float64)


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
    """The tiles of sorted events; of those accepted by `created` only, unless it is NOTHING."""
    n = 0
    last = np.int64(NOTHING)
    for i in range(start, end):
        if ints[i, 0] // hop != last:
            n += 1
            last = ints[i, 0] // hop
    tiles, tile_floats = np.empty((n, n_ints), np.int64), np.empty((n, n_floats), np.float64)
    n = 0
    for i in range(start, end):
        if created != NOTHING and ints[i, ints.shape[1] - 1] > created:
            continue
        number = ints[i, 0] // hop
        if n == 0 or tiles[n - 1, TILE_HOP] != number:
            empty_tile(tiles, tile_floats, n, number, merge)
            n += 1
        add_to_tile(tiles, tile_floats, n - 1, ints, floats, i, merge, hop)
    return tiles, tile_floats, n
