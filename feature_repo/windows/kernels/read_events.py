"""The kernel that finishes sorted events at a time `t`. Windows are half-open, `[t - W, t)`.

Rows are walked once, from the newest back, and every window is finished when the walk leaves it; since sums are exact, that
order does not matter.
"""

from typing import Any

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.decay import weight
from feature_repo.windows.exact_sum import add_square, add_value, to_float, variance
from feature_repo.windows.functions import (
    COUNT,
    COUNT_DISTINCT,
    COUNT_SINCE,
    DECAYED_SUM,
    FIRST,
    LAST,
    LAST_2,
    LAST_3,
    MAX,
    MEAN,
    MIN,
    SECONDS_SINCE_LAST,
    STD,
    SUM,
    VAR,
)
from feature_repo.windows.header import NOTHING
from feature_repo.windows.kernels.rows import CAPPED, INCOMPLETE
from feature_repo.windows.layout import EVENT_HASHED, HASH, ROWS, VALUE

_NEEDS_SUM, _NEEDS_SQUARES = 1, 2


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
        if seen < capacity and floor >= window_start:
            flags |= INCOMPLETE
            out[reads[r, 5]] = np.nan
            continue
        if _is_walked(reads[r]):
            value = _walk(ints, floats, row + 1, end, reads[r], t, created)
        else:
            value = _event_value(reads[r], t, seen, newest, n, sums, squares, extremes, n_hash)
        out[reads[r, 5]] = value
        if seen >= capacity and ((row >= start and ints[row, 0] >= window_start) or floor >= window_start):
            found = is_of_the_newest(reads[r, 0]) and not np.isnan(value)
            if not found:  # else the rest cannot change it
                flags |= CAPPED
    return flags


@nb.njit(cache=True, inline="always")
def _is_walked(read: Ints) -> bool:
    return bool(read[0] >= LAST_2 or (read[0] == SECONDS_SINCE_LAST and read[1] == VALUE))


@nb.njit(cache=True, inline="always")
def is_of_the_newest(function: int) -> bool:
    return bool(
        function == LAST
        or function == LAST_2
        or function == LAST_3
        or function == SECONDS_SINCE_LAST
        or function == COUNT_SINCE
    )


@nb.njit(cache=True)
def _walk(ints: Any, floats: Any, start: int, end: int, read: Ints, t: int, created: int) -> float:
    """A function that depends on where in the window a value stands: another walk over its rows [start, end), from the newest back."""
    function, kind, c, window = read[0], read[1], read[2], read[4]
    sums = np.zeros(2, np.int64)
    rows, found = 0, 0
    for row in range(end - 1, start - 1, -1):
        if created != NOTHING and ints[row, ints.shape[1] - 1] > created:
            continue
        if kind == VALUE and np.isnan(floats[row, c]):
            rows += 1
            continue
        found += 1
        if function == DECAYED_SUM:
            add_value(sums, 0, floats[row, c] * weight(t - ints[row, 0], window))
        elif function == COUNT_SINCE:
            return float(rows)
        elif function == SECONDS_SINCE_LAST:
            return float((t - ints[row, 0]) / 1e6)
        elif (function == LAST_2 and found == 2) or (function == LAST_3 and found == 3):
            return float(floats[row, c])
    return float(to_float(sums, 0)) if function == DECAYED_SUM else np.nan


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
