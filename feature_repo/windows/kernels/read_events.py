"""The kernel that reads an exact view: the features of a key's sorted events as of `t`.

Windows are half-open, `[t - W, t)`.

Rows are visited once, from the newest back, and a window's features are taken when the first row before the window is
met. Since sums are exact, the order of visiting does not matter.
"""

from typing import Any, NamedTuple

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
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
from feature_repo.windows.kernels.decay import weight
from feature_repo.windows.kernels.exact_sum import add_square, add_value, to_float, variance
from feature_repo.windows.kernels.rows import CAPPED, INCOMPLETE
from feature_repo.windows.kernels.tables import (
    CAPACITY,
    HASH,
    N_HASHED,
    N_VALUES,
    READ_A,
    READ_B,
    READ_FUNCTION,
    READ_OUT,
    READ_WINDOW,
    ROWS,
    VALUE,
    ReadTables,
    Rows,
)
from feature_repo.windows.kernels.words import EVENT_HASHED, EVENT_TIME, NOTHING

_NEEDS_SUM, _NEEDS_SQUARES = 1, 2
_MIN, _MAX, _FIRST, _LAST = range(4)  # columns of `Totals.extremes`


class Totals(NamedTuple):
    """What the rows visited so far add up to, per value column and per hashed column."""

    n: Ints
    """[value columns]: values that are not null."""
    sums: Ints
    """[2 x value columns], see `exact_sum`."""
    squares: Ints
    """[4 x value columns]."""
    extremes: Floats
    """[value columns, 4]: min, max, first, last."""
    n_hash: Ints
    """[hashed columns, 2]: values that are not null, distinct ones."""


@kernel
def read_events(rows: Rows, floor: int, tables: ReadTables, t: int, out: Floats, created: int) -> int:
    """Write the features as of `t` (us) of sorted events that are all before `t` to `out`, null = NaN.

    Returns the flags.

    `floor` is the latest event time that may be missing. If `created` is not `NOTHING`, the last int word of a row is
    the time its event was accepted, and events accepted after `created` are ignored.
    """
    ints, floats, start, end = rows.ints, rows.floats, rows.start, rows.end
    reads, measures = tables.reads, tables.measures
    capacity, n_values, n_hashed = measures[CAPACITY], measures[N_VALUES], measures[N_HASHED]
    needs = np.zeros(n_values, np.int64)
    for r in range(len(reads)):
        function = reads[r, READ_FUNCTION]
        if reads[r, READ_A] == VALUE:
            if function == SUM or function == MEAN:
                needs[reads[r, READ_B]] |= _NEEDS_SUM
            elif function == STD or function == VAR:
                needs[reads[r, READ_B]] |= _NEEDS_SUM | _NEEDS_SQUARES
    totals = Totals(
        np.zeros(n_values, np.int64),
        np.zeros(n_values * 2, np.int64),
        np.zeros(n_values * 4, np.int64),
        np.full((n_values, 4), np.nan),
        np.zeros((n_hashed, 2), np.int64),
    )
    n, sums, squares, extremes, n_hash = totals
    table = np.zeros((n_hashed, _table_size(min(end - start, capacity)) if n_hashed else 1), np.int64)
    seen = 0
    newest: Any = np.int64(NOTHING)
    flags = 0
    row = end - 1
    for r in range(len(reads)):
        window_start = t - reads[r, READ_WINDOW]
        while row >= start and seen < capacity and ints[row, EVENT_TIME] >= window_start:
            if created == NOTHING or ints[row, ints.shape[1] - 1] <= created:
                seen += 1
                newest = max(newest, ints[row, EVENT_TIME])
                for c in range(n_values):
                    x = floats[row, c]
                    if np.isnan(x):
                        continue
                    n[c] += 1
                    if needs[c] & _NEEDS_SUM:
                        add_value(sums, 2 * c, x)
                    if needs[c] & _NEEDS_SQUARES:
                        add_square(squares, 4 * c, x)
                    if not extremes[c, _MIN] <= x:
                        extremes[c, _MIN] = x
                    if not extremes[c, _MAX] >= x:
                        extremes[c, _MAX] = x
                    extremes[c, _FIRST] = x
                    if np.isnan(extremes[c, _LAST]):
                        extremes[c, _LAST] = x
                for c in range(n_hashed):
                    value = ints[row, EVENT_HASHED + c]
                    if value != 0:
                        n_hash[c, 0] += 1
                        n_hash[c, 1] += _add_to_set(table[c], value)
            row -= 1
        if seen < capacity and floor >= window_start:
            flags |= INCOMPLETE
            out[reads[r, READ_OUT]] = np.nan
            continue
        if _needs_rows(reads[r]):
            value = _from_rows(Rows(ints, floats, row + 1, end), reads[r], t, created)
        else:
            value = _from_totals(reads[r], t, seen, newest, totals)
        out[reads[r, READ_OUT]] = value
        if seen >= capacity and (
            (row >= start and ints[row, EVENT_TIME] >= window_start) or floor >= window_start
        ):
            found = reads_newest(reads[r, READ_FUNCTION]) and not np.isnan(value)
            if not found:  # older events cannot change a value that was found
                flags |= CAPPED
    return flags


@kernel(inline="always")
def _needs_rows(read: Ints) -> bool:
    """Whether a function depends on where in the window a value stands."""
    function = read[READ_FUNCTION]
    return bool(function >= LAST_2 or (function == SECONDS_SINCE_LAST and read[READ_A] == VALUE))


@kernel(inline="always")
def reads_newest(function: int) -> bool:
    """Whether a function returns something about the newest values, so that older events cannot change it."""
    return bool(
        function == LAST
        or function == LAST_2
        or function == LAST_3
        or function == SECONDS_SINCE_LAST
        or function == COUNT_SINCE
    )


@kernel
def _from_rows(rows: Rows, read: Ints, t: int, created: int) -> float:
    """Compute a function that depends on where in the window a value stands.

    It visits the rows of the window again, from the newest back.
    """
    function, kind, c = read[READ_FUNCTION], read[READ_A], read[READ_B]
    ints, floats = rows.ints, rows.floats
    sums = np.zeros(2, np.int64)
    nulls, found = 0, 0
    for row in range(rows.end - 1, rows.start - 1, -1):
        if created != NOTHING and ints[row, ints.shape[1] - 1] > created:
            continue
        if kind == VALUE and np.isnan(floats[row, c]):
            nulls += 1
            continue
        found += 1
        if function == DECAYED_SUM:
            add_value(sums, 0, floats[row, c] * weight(t - ints[row, EVENT_TIME], read[READ_WINDOW]))
        elif function == COUNT_SINCE:
            return float(nulls)
        elif function == SECONDS_SINCE_LAST:
            return float((t - ints[row, EVENT_TIME]) / 1e6)
        elif (function == LAST_2 and found == 2) or (function == LAST_3 and found == 3):
            return float(floats[row, c])
    return float(to_float(sums, 0)) if function == DECAYED_SUM else np.nan


@kernel
def _from_totals(read: Ints, t: int, seen: int, newest: int, totals: Totals) -> float:
    """Compute a function from the totals of its window, which holds `seen` events, the latest at `newest`."""
    function, kind, c = read[READ_FUNCTION], read[READ_A], read[READ_B]
    n, sums = totals.n, totals.sums
    if function == COUNT:
        return float(seen) if kind == ROWS else float(totals.n_hash[c, 0] if kind == HASH else n[c])
    if function == COUNT_DISTINCT:
        return float(totals.n_hash[c, 1])
    if function == SECONDS_SINCE_LAST:
        return (t - newest) / 1e6 if seen > 0 else np.nan
    if function == SUM:
        return to_float(sums, 2 * c)
    if function == MEAN:
        return to_float(sums, 2 * c) / n[c] if n[c] > 0 else np.nan
    if function == MIN:
        return float(totals.extremes[c, _MIN])
    if function == MAX:
        return float(totals.extremes[c, _MAX])
    if function == FIRST:
        return float(totals.extremes[c, _FIRST])
    if function == LAST:
        return float(totals.extremes[c, _LAST])
    if n[c] < 2:
        return np.nan
    var = variance(sums, 2 * c, totals.squares, 4 * c, n[c])
    return float(np.sqrt(var)) if function == STD else float(var)


@kernel
def _table_size(n: int) -> int:
    """Return the size of a set for n values: a power of two, at most half full."""
    size = 4
    while size < 2 * n:
        size *= 2
    return size


@kernel
def _add_to_set(table: Any, value: int) -> int:
    """Add `value` (not 0) to an open-addressing set. Returns 1 if it was not in it yet, else 0."""
    mask = len(table) - 1
    at = value & mask
    while table[at] != 0:
        if table[at] == value:
            return 0
        at = (at + 1) & mask
    table[at] = value
    return 1
