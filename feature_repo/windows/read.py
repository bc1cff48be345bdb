"""Kernels that finish a state at a time `t`: one row of features per call, float64, null = NaN.

The same kernels serve the scorer, `get_online_features` and the offline store. Windows are half-open, `[t - W, t)`; tiled ones are
whole hops, `[floor((t - W) / h) h, floor(t / h) h)`. Rows are walked once, from the newest back, and every window is finished when
the walk leaves it; since sums are exact, that order does not matter.
"""

from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.exact_sum import add_square, add_value, merge_limbs, to_float, variance
from feature_repo.windows.header import HEADER, NOTHING, check_header
from feature_repo.windows.spec import (
    COUNT,
    COUNT_DISTINCT,
    EVENT_HASHED,
    FIRST,
    HASH,
    LAST,
    MAX,
    MEAN,
    MEAN_HOP_COUNT,
    MEAN_HOP_MAX,
    MIN,
    ROWS,
    SECONDS_SINCE_LAST,
    STD,
    SUM,
    TILE_HOP,
    TILE_LAST_TS,
    TILE_ROWS,
    VALUE,
    VAR,
    ViewSpec,
)

INCOMPLETE: Final = 1
"""Flag: the read lies too far in the past for some window, whose events have been dropped from the state; its features are null."""
CAPPED: Final = 2
"""Flag: a window held more than `capacity` events; the answer is from the newest of them."""

_NEEDS_SUM, _NEEDS_SQUARES = 1, 2


def read_state(
    state: bytes | None, spec: ViewSpec, t: int, floor: int = NOTHING
) -> tuple[npt.NDArray[np.float64], int]:
    """The features of one key as of `t` (int64 UTC us) from its packed state, and the flags.

    Order of the values: `spec.feature_names`. A key without a state has no events after `floor` (see `forgotten_before`).
    Raises `StateError` for bytes that are not a state of this view.
    """
    out = np.empty(len(spec.aggregates), np.float64)
    words = no_state(floor) if state is None else np.frombuffer(state, np.int64)
    if state is not None:
        check_header(words, spec)
    return out, int(finish_state(words, *read_tables(spec), t, out))


def no_state(floor: int = NOTHING) -> Ints:
    """The header of a state without events, of which those up to `floor` may have been forgotten."""
    words = np.array([0, 0, 0, 0, floor, NOTHING, 0, 0], np.int64)
    words.setflags(
        write=False
    )  # as bytes from a store are: to numba another type, and another compilation of seconds
    return words


def forgotten_before(spec: ViewSpec, now: int) -> int:
    """Online keys expire `lifetime_us` after their last write; so a key that is not there may have had events up to this time."""
    return now - spec.lifetime_us


def read_tables(spec: ViewSpec) -> tuple[Ints, Ints]:
    """What `finish_state` needs to know of a view: (reads, [hop, capacity, int words, float words, value columns, hashed columns])."""
    layout = spec.layout
    meta = [spec.hop_us, spec.capacity, layout.n_ints, layout.n_floats, len(spec.values), len(spec.hashed)]
    return layout.reads, np.array(meta, np.int64)


@nb.njit(cache=True)
def finish_state(words: Any, reads: Ints, meta: Ints, t: int, out: Floats) -> int:
    """Finish a packed state (int64 words; header checked before). Returns the flags."""
    n_ints, n_floats = meta[2], meta[3]
    rows = words[2]
    middle = HEADER + rows * n_ints
    ints = words[HEADER:middle].reshape((rows, n_ints))
    floats = words[middle : middle + rows * n_floats].view(np.float64).reshape((rows, n_floats))
    if meta[0] > 0:
        return finish_tiles(ints, floats, 0, rows, words[4], reads, meta, t, out)
    return finish_events(
        ints, floats, 0, first_not_before(ints, 0, rows, t), words[4], reads, meta, t, out, NOTHING
    )


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


@nb.njit(cache=True)
def finish_events(
    ints: Any,
    floats: Any,
    start: int,
    end: int,
    floor: int,
    reads: Ints,
    meta: Ints,
    t: int,
    out: Floats,
    created: int,
) -> int:
    """Walk the sorted events [start, end), all before `t`, from the newest back.

    `floor` is the latest event time that may be missing. `created`: with a value other than NOTHING, the last int word of a row is
    the time its event was accepted, and events accepted after `created` are not seen.
    """
    capacity, n_values, n_hashed = meta[1], meta[4], meta[5]
    needs = np.zeros(n_values, np.int64)
    for r in range(len(reads)):
        function = reads[r, 0]
        if reads[r, 1] == VALUE:
            if function == SUM or function == MEAN:
                needs[reads[r, 2]] |= _NEEDS_SUM
            elif function == STD or function == VAR:
                needs[reads[r, 2]] |= _NEEDS_SUM | _NEEDS_SQUARES
    n: Any = np.zeros(n_values, np.int64)
    sums = np.zeros(n_values * 2, np.int64)
    squares = np.zeros(n_values * 4, np.int64)
    extremes = np.full((n_values, 4), np.nan)  # min, max, first, last
    n_hash = np.zeros((n_hashed, 2), np.int64)  # values, distinct values
    table = np.zeros((n_hashed, _table_size(min(end - start, capacity)) if n_hashed else 1), np.int64)
    seen = 0
    newest: Any = np.int64(NOTHING)
    flags = 0
    row = end - 1
    for r in range(len(reads)):
        window_start = t - reads[r, 4]
        while row >= start and seen < capacity and ints[row, 0] >= window_start:
            if created == NOTHING or ints[row, ints.shape[1] - 1] <= created:
                seen += 1
                newest = max(newest, ints[row, 0])
                for c in range(n_values):
                    x = floats[row, c]
                    if np.isnan(x):
                        continue
                    n[c] += 1
                    if needs[c] & _NEEDS_SUM:
                        add_value(sums, 2 * c, x)
                    if needs[c] & _NEEDS_SQUARES:
                        add_square(squares, 4 * c, x)
                    if not extremes[c, 0] <= x:
                        extremes[c, 0] = x
                    if not extremes[c, 1] >= x:
                        extremes[c, 1] = x
                    extremes[c, 2] = x
                    if np.isnan(extremes[c, 3]):
                        extremes[c, 3] = x
                for c in range(n_hashed):
                    value = ints[row, EVENT_HASHED + c]
                    if value != 0:
                        n_hash[c, 0] += 1
                        n_hash[c, 1] += _add_to_set(table[c], value)
            row -= 1
        if seen >= capacity:
            newest_only = (
                reads[r, 0] == LAST or reads[r, 0] == SECONDS_SINCE_LAST
            )  # the rest cannot change these
            if not newest_only and ((row >= start and ints[row, 0] >= window_start) or floor >= window_start):
                flags |= CAPPED
        elif floor >= window_start:
            flags |= INCOMPLETE
            out[reads[r, 5]] = np.nan
            continue
        out[reads[r, 5]] = _event_value(reads[r], t, seen, newest, n, sums, squares, extremes, n_hash)
    return flags


@nb.njit(cache=True)
def _event_value(
    read: Ints,
    t: int,
    seen: int,
    newest: int,
    n: Ints,
    sums: Ints,
    squares: Ints,
    extremes: Floats,
    n_hash: Ints,
) -> float:
    function, kind, c = read[0], read[1], read[2]
    if function == COUNT:
        return float(seen) if kind == ROWS else float(n_hash[c, 0] if kind == HASH else n[c])
    if function == COUNT_DISTINCT:
        return float(n_hash[c, 1])
    if function == SECONDS_SINCE_LAST:
        return (t - newest) / 1e6 if seen > 0 else np.nan
    if function == SUM:
        return to_float(sums, 2 * c)
    if function == MEAN:
        return to_float(sums, 2 * c) / n[c] if n[c] > 0 else np.nan
    if function == MIN:
        return float(extremes[c, 0])
    if function == MAX:
        return float(extremes[c, 1])
    if function == FIRST:
        return float(extremes[c, 2])
    if function == LAST:
        return float(extremes[c, 3])
    if n[c] < 2:
        return np.nan
    var = variance(sums, 2 * c, squares, 4 * c, n[c])
    return float(np.sqrt(var)) if function == STD else float(var)


@nb.njit(cache=True)
def finish_tiles(
    ints: Any, floats: Any, start: int, end: int, floor: int, reads: Ints, meta: Ints, t: int, out: Floats
) -> int:
    """Merge the tiles [start, end), sorted by hop, whose hop lies in each window."""
    hop = meta[0]
    stop = first_not_before(ints, start, end, t // hop)
    flags = 0
    for r in range(len(reads)):
        function, a, b, c = reads[r, 0], reads[r, 1], reads[r, 2], reads[r, 3]
        first_hop = (t - reads[r, 4]) // hop
        if floor >= first_hop * hop:
            flags |= INCOMPLETE
            out[reads[r, 5]] = np.nan
            continue
        sums = np.zeros(6, np.int64)
        count: Any = np.int64(0)
        hops, value, total = 0, np.nan, 0.0
        row = stop - 1
        newest = np.int64(NOTHING)
        while row >= start and ints[row, TILE_HOP] >= first_hop:
            hops += 1
            if function == COUNT:
                count += ints[row, a] if a >= 0 else ints[row, TILE_ROWS]
            elif function == SUM:
                merge_limbs(sums, 0, ints[row], a, 2)
            elif function == MEAN:
                count += ints[row, a]
                merge_limbs(sums, 0, ints[row], b, 2)
            elif function == STD or function == VAR:
                count += ints[row, a]
                merge_limbs(sums, 0, ints[row], b, 2)
                merge_limbs(sums, 2, ints[row], c, 4)
            elif function == MIN:
                if not value <= floats[row, a] and not np.isnan(floats[row, a]):
                    value = floats[row, a]
            elif function == MAX:
                if not value >= floats[row, a] and not np.isnan(floats[row, a]):
                    value = floats[row, a]
            elif function == FIRST:
                if not np.isnan(floats[row, b]):
                    value = floats[row, b]
            elif function == LAST:
                if np.isnan(value):
                    value = floats[row, b]
            elif function == SECONDS_SINCE_LAST:
                newest = max(newest, ints[row, TILE_LAST_TS])
            elif function == MEAN_HOP_COUNT:
                count += ints[row, TILE_ROWS]
            elif function == MEAN_HOP_MAX:
                if np.isnan(floats[row, a]):
                    hops -= 1
                else:
                    add_value(sums, 0, floats[row, a])
            row -= 1
        if function == COUNT:
            total = float(count)
        elif function == SUM:
            total = to_float(sums, 0)
        elif function == MEAN:
            total = to_float(sums, 0) / count if count > 0 else np.nan
        elif function == STD or function == VAR:
            total = variance(sums, 0, sums, 2, count) if count > 1 else np.nan
            total = np.sqrt(total) if function == STD else total
        elif function == SECONDS_SINCE_LAST:
            total = (t - newest) / 1e6 if hops > 0 else np.nan
        elif function == MEAN_HOP_COUNT:
            total = count / hops if hops > 0 else np.nan
        elif function == MEAN_HOP_MAX:
            total = to_float(sums, 0) / hops if hops > 0 else np.nan
        else:
            total = value
        out[reads[r, 5]] = total
    return flags


@nb.njit(cache=True)
def _table_size(n: int) -> int:
    size = 4
    while size < 2 * n:
        size *= 2
    return size


@nb.njit(cache=True)
def _add_to_set(table: Any, value: int) -> int:
    """1 if `value` (not 0) was not in the open-addressing set yet."""
    mask = len(table) - 1
    at = value & mask
    while table[at] != 0:
        if table[at] == value:
            return 0
        at = (at + 1) & mask
    table[at] = value
    return 1
