"""The features of sorted rows asked for from a sorted history: windows slide along it, and no row costs more for a longer window.

The rows asked for stand in the order of their keys and times, so both ends of every window only move forward. Counts, sums and the
values at either end of a window come from `running`; extremes from a stack of candidates; distinct values are counted as they come
and go. Only decayed sums walk their window.

A tiled window is whole hops, so it holds the very events of its tiles, and a sum of tiles is the sum of their events.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.decay import weight
from feature_repo.windows.exact_sum import add_value, difference, take_limbs, to_float, variance
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
    MEAN_HOP_COUNT,
    MEAN_HOP_MAX,
    MIN,
    SECONDS_SINCE_LAST,
    STD,
    SUM,
)
from feature_repo.windows.history.dense_ids import Numbers
from feature_repo.windows.history.prefix_sums import History, Hops, Totals
from feature_repo.windows.kernels.read_events import is_of_the_newest
from feature_repo.windows.kernels.rows import CAPPED
from feature_repo.windows.layout import HASH, ROWS

CHUNK: Final = 512
"""Rows answered together: what they share stays in the cache, and what a read is is not asked row by row."""

# Columns of `reads`.
FUNCTION, KIND, COLUMN, WINDOW, OUT, PLACE = range(6)


@nb.njit(cache=True)
def slide(
    history: History,
    totals: Totals,
    hops: Hops,
    rows: Ints,
    keys: Numbers,
    times: Ints,
    windows: Ints,
    reads: Ints,
    shape: Ints,
    out: Floats,
    flags: Any,
) -> None:
    """Answer sorted rows, of `keys` as of `times`, into the `rows` of `out` and `flags`.

    `windows`: the different ones. `reads`, int64 [aggregates, 6]: function, source kind, column, place of its window in `windows`,
    output position, and place of what it keeps: reads of the same extreme of the same column stand together and share a stack.
    `shape`: hop (0: exact), capacity, stacks, sets of distinct values, and how many distinct values there are.
    """
    hop, capacity, n_windows, n_reads = shape[0], shape[1], len(windows), len(reads)
    start, end = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.int64)
    begins = np.empty((n_windows, CHUNK), np.int64)
    capped = np.empty((n_windows, CHUNK), np.bool_)
    n_capped = np.zeros(n_windows, np.int64)
    cursors = np.zeros(n_windows + 1, np.int64)
    stacks = np.empty((shape[2], len(history.times)), np.int64)
    stack_values = np.empty((shape[2], len(history.times)), np.float64)
    stack_ends = np.zeros((shape[2], 2), np.int64)
    heads = np.zeros(n_reads, np.int64)
    sets = np.zeros((shape[3], shape[4]), np.int32)
    set_ends = np.zeros((shape[3], 3), np.int64)
    answers = np.empty((n_reads, CHUNK), np.float64)
    for first in range(0, len(rows), CHUNK):
        n = min(CHUNK, len(rows) - first)
        t = times[first : first + n]
        _find_ends(history.times, history.starts, keys[first : first + n], t, hop, cursors, start, end)
        for w in range(n_windows):
            n_capped[w] = _find_begins(
                history.times, windows[w], hop, capacity, t, start, end, cursors, w, begins[w], capped[w]
            )
        r = 0
        while r < n_reads:
            read = reads[r]
            function, place = read[FUNCTION], read[PLACE]
            begin, answer = begins[read[WINDOW]], answers[read[OUT]]
            after = r + 1
            if function == MIN or function == MAX:
                while after < n_reads and reads[after, FUNCTION] == function and reads[after, PLACE] == place:
                    after += 1
                _extremes(
                    history.values[read[COLUMN]],
                    history.times,
                    hop,
                    reads[r:after],
                    n,
                    start,
                    end,
                    begins,
                    stacks[place],
                    stack_values[place],
                    stack_ends[place],
                    heads[r:after],
                    answers,
                )
            elif function == COUNT_DISTINCT:
                _distinct(history.hashes[read[COLUMN]], n, end, begin, sets[place], set_ends[place], answer)
            elif function == MEAN and r > 0 and _is_its_sum(reads[r - 1], read):
                _divide(answers[reads[r - 1, OUT]], totals.known[read[COLUMN]], n, end, begin, answer)
            elif function == DECAYED_SUM or function == MEAN_HOP_COUNT or function == MEAN_HOP_MAX:
                _over_hops(history, hops, read, hop, windows[read[WINDOW]], t, end, begin, answer)
            else:
                _difference(history, totals, read, t, end, begin, answer)
            r = after
        for i in range(n):
            row = rows[first + i]
            for r in range(n_reads):
                out[row, r] = answers[r, i]
        for r in range(n_reads):
            w, answer = reads[r, WINDOW], answers[reads[r, OUT]]
            if n_capped[w] > 0:
                decided = is_of_the_newest(reads[r, FUNCTION])  # the rest cannot change what was found
                for i in range(n):
                    if capped[w, i] and not (decided and not np.isnan(answer[i])):
                        flags[rows[first + i]] |= CAPPED


@nb.njit(cache=True)
def _find_ends(
    event_times: Ints, starts: Ints, keys: Numbers, t: Ints, hop: int, cursors: Ints, start: Ints, end: Ints
) -> None:
    """The first event of every row's key, and the first one that its windows are too early for."""
    at = cursors[-1]
    for i in range(len(t)):
        start[i], stop = starts[keys[i]], starts[keys[i] + 1]
        until = t[i] // hop * hop if hop > 0 else t[i]
        at = max(at, start[i])
        while at < stop and event_times[at] < until:
            at += 1
        end[i] = at
    cursors[-1] = at


@nb.njit(cache=True)
def _find_begins(
    event_times: Ints,
    window: int,
    hop: int,
    capacity: int,
    t: Ints,
    start: Ints,
    end: Ints,
    cursors: Ints,
    w: int,
    begin: Ints,
    capped: Any,
) -> int:
    """The first event of every row's window, and how many windows held more than `capacity` of them."""
    at, n_capped = cursors[w], 0
    for i in range(len(t)):
        since = (t[i] - window) // hop * hop if hop > 0 else t[i] - window
        at = max(at, start[i])
        while at < end[i] and event_times[at] < since:
            at += 1
        capped[i] = end[i] - at > capacity
        n_capped += capped[i]
        begin[i] = end[i] - capacity if capped[i] else at
    cursors[w] = at
    return n_capped


@nb.njit(cache=True)
def _is_its_sum(other: Ints, read: Ints) -> bool:
    return bool(other[FUNCTION] == SUM and other[COLUMN] == read[COLUMN] and other[WINDOW] == read[WINDOW])


@nb.njit(cache=True)
def _divide(sums: Floats, known: Ints, n: int, end: Ints, begin: Ints, answer: Floats) -> None:
    for i in range(n):
        values = known[end[i]] - known[begin[i]]
        answer[i] = sums[i] / values if values > 0 else np.nan


@nb.njit(cache=True)
def _difference(
    history: History, totals: Totals, read: Ints, t: Ints, end: Ints, begin: Ints, answer: Floats
) -> None:
    """What is known from the rows at both ends of a window."""
    function, kind, c, n = read[FUNCTION], read[KIND], read[COLUMN], len(t)
    if function == COUNT:
        if kind == ROWS:
            for i in range(n):
                answer[i] = end[i] - begin[i]
        else:
            known = totals.known_hashes[c] if kind == HASH else totals.known[c]
            for i in range(n):
                answer[i] = known[end[i]] - known[begin[i]]
    elif function == SUM:
        sums = totals.sums[c]
        for i in range(n):
            answer[i] = difference(sums, 2 * end[i], 2 * begin[i])
    elif function == MEAN:
        sums, known = totals.sums[c], totals.known[c]
        for i in range(n):
            values = known[end[i]] - known[begin[i]]
            answer[i] = difference(sums, 2 * end[i], 2 * begin[i]) / values if values > 0 else np.nan
    elif function == FIRST:
        for i in range(n):
            row = totals.following[c, begin[i]]
            answer[i] = history.values[c, row] if row < end[i] else np.nan
    elif function == LAST or function == LAST_2 or function == LAST_3:
        back = 0 if function == LAST else 1 if function == LAST_2 else 2
        for i in range(n):
            row = totals.previous[c, end[i]]
            for _ in range(back):
                row = totals.previous[c, row] if row >= begin[i] else row
            answer[i] = history.values[c, row] if row >= begin[i] else np.nan
    elif function == SECONDS_SINCE_LAST or function == COUNT_SINCE:
        for i in range(n):
            row = end[i] - 1 if kind == ROWS else totals.previous[c, end[i]]
            answer[i] = np.nan
            if row >= begin[i]:
                answer[i] = end[i] - 1 - row if function == COUNT_SINCE else (t[i] - history.times[row]) / 1e6
    else:
        words = np.empty(6, np.int64)
        sums, squares, known = totals.sums[c], totals.squares[c], totals.known[c]
        for i in range(n):
            values = known[end[i]] - known[begin[i]]
            answer[i] = np.nan
            if values > 1:
                take_limbs(words, 0, sums, 2 * end[i], 2 * begin[i], 2)
                take_limbs(words, 2, squares, 4 * end[i], 4 * begin[i], 4)
                var = variance(words, 0, words, 2, values)
                answer[i] = np.sqrt(var) if function == STD else var


@nb.njit(cache=True)
def _extremes(
    values: Floats,
    event_times: Ints,
    hop: int,
    reads: Ints,
    n: int,
    start: Ints,
    end: Ints,
    begins: Ints,
    stack: Ints,
    stack_values: Floats,
    ends: Ints,
    heads: Ints,
    answers: Floats,
) -> None:
    """Minima or maxima of all windows of a column.

    The stack holds every event that a window may have its extreme in: each larger than all after it (for minima, negated). A window's
    extreme is the first of them that is in the window; `heads` only move back to what was pushed since.
    """
    sign = -1.0 if reads[0, FUNCTION] == MIN else 1.0
    top, at = ends[0], ends[1]
    for i in range(n):
        if start[i] >= at:
            top, at = 0, start[i]
        lowest = top
        while at < end[i]:
            x = sign * values[at]
            if not np.isnan(x):
                while top > 0 and stack_values[top - 1] < x:
                    top -= 1
                # Of equals (0.0, -0.0) the newest stands for all, but within a hop the oldest, as in a tile.
                same = top > 0 and stack_values[top - 1] == x
                if not (same and hop > 0 and event_times[stack[top - 1]] // hop == event_times[at] // hop):
                    top -= same
                    lowest = min(lowest, top)
                    stack[top], stack_values[top] = at, x
                    top += 1
            at += 1
        for k in range(len(reads)):
            begin = begins[reads[k, WINDOW], i]
            head = min(heads[k], lowest)
            while head < top and stack[head] < begin:
                head += 1
            answers[reads[k, OUT], i] = sign * stack_values[head] if head < top else np.nan
            heads[k] = head
    ends[0], ends[1] = top, at


@nb.njit(cache=True)
def _distinct(hashes: Ints, n: int, end: Ints, begin: Ints, counts: Any, ends: Ints, answer: Floats) -> None:
    """`counts`: of every value within the window [ends[0], ends[1]), ends[2]: how many of them are not 0."""
    low, high, distinct = ends[0], ends[1], ends[2]
    for i in range(n):
        if begin[i] >= high:
            for row in range(low, high):
                counts[hashes[row]] = 0
            low, high, distinct = begin[i], begin[i], np.int64(0)
        for row in range(high, end[i]):
            value = hashes[row]
            distinct += counts[value] == 0 and value != 0
            counts[value] += 1
        high = end[i]
        for row in range(low, begin[i]):
            value = hashes[row]
            counts[value] -= 1
            distinct -= counts[value] == 0 and value != 0
        low = begin[i]
        answer[i] = distinct
    ends[0], ends[1], ends[2] = low, high, distinct


@nb.njit(cache=True)
def _over_hops(
    history: History,
    hops: Hops,
    read: Ints,
    hop: int,
    window: int,
    t: Ints,
    end: Ints,
    begin: Ints,
    answer: Floats,
) -> None:
    """Means over hops, and decayed sums: these have another weight at every time asked, so they walk."""
    function, c = read[FUNCTION], read[COLUMN]
    words = np.zeros(2, np.int64)
    for i in range(len(t)):
        if function == MEAN_HOP_COUNT:
            number = hops.before[end[i]] - hops.before[begin[i]]
            answer[i] = (end[i] - begin[i]) / number if number > 0 else np.nan
        elif function == MEAN_HOP_MAX:
            number = hops.maxima[c, end[i]] - hops.maxima[c, begin[i]]
            total = difference(hops.max_sums[c], 2 * end[i], 2 * begin[i])
            answer[i] = total / number if number > 0 else np.nan
        elif hop > 0:
            answer[i] = 0.0
            for h in range(
                hops.before[end[i]] - 1, hops.before[begin[i]] - 1, -1
            ):  # the newest first, as tiles are read
                age = t[i] - (hops.numbers[h] + 1) * hop
                answer[i] += to_float(hops.decayed[read[PLACE]], 2 * h) * weight(age, window)
        else:
            words[:] = 0
            for row in range(begin[i], end[i]):
                x = history.values[c, row]
                if not np.isnan(x):
                    add_value(words, 0, x * weight(t[i] - history.times[row], window))
            answer[i] = to_float(words, 0)
