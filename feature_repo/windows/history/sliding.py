"""The features of sorted queries from a sorted history.

Windows slide along it, so a longer window costs no more per query.

The queries are sorted by key and time, so both ends of every window only move forward. Counts, sums and the values at
either end of a window come from `prefix_sums`; extremes from a monotonic stack of candidates; distinct values are
counted as they enter and leave the window. Only decayed sums visit every event of their window.

A tiled window is whole hops, so it holds exactly the events of its tiles, and a sum of tiles is the sum of their
events.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

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
    MEAN_HOP_COUNT,
    MEAN_HOP_MAX,
    MIN,
    SECONDS_SINCE_LAST,
    STD,
    SUM,
)
from feature_repo.windows.history.dense_ids import DenseIds
from feature_repo.windows.history.prefix_sums import History, Hops, Totals
from feature_repo.windows.history.queries import SortedQueries
from feature_repo.windows.kernels.decay import weight
from feature_repo.windows.kernels.exact_sum import add_value, difference, take_limbs, to_float, variance
from feature_repo.windows.kernels.read_events import reads_newest
from feature_repo.windows.kernels.rows import CAPPED
from feature_repo.windows.kernels.tables import HASH, ROWS

CHUNK: Final = 512
"""Queries answered together: shared data stays in the CPU cache, and each aggregate is dispatched once per chunk."""

FUNCTION, KIND, COLUMN, WINDOW, OUT, PLACE = range(6)
"""Columns of `Plan.reads`."""


class Plan(NamedTuple):
    """What a view computes from a history."""

    hop: int
    """us; 0 for an exact view."""
    capacity: int
    """A window is answered from at most this many events."""
    windows: Ints
    """int64 [windows]: the distinct windows, us."""
    reads: Ints
    """int64 [aggregates, 6]: function, source kind, column, index into `windows`, output position, and place: the
    index of the stack,
    set or decayed sum that the aggregate uses. Aggregates of the same extreme of the same column are consecutive and
    share a stack."""
    n_stacks: int
    n_sets: int
    n_values: int
    """One more than the largest dense id of a hashed value."""


class Chunk(NamedTuple):
    """Some queries and the events of their windows.

    Query i at `times[i]` reads the events [begins[w, i], end[i]) of window w.
    """

    times: Ints
    start: Ints
    """The first event of the query's key."""
    end: Ints
    begins: Ints


class Extremes(NamedTuple):
    """The stacks of `_extremes`, one per (extreme, column)."""

    events: Ints
    """int64 [stacks, events]"""
    values: Floats
    """float64 [stacks, events]: the values of `events`, negated for minima."""
    ends: Ints
    """int64 [stacks, 2]: height of the stack, next event to push."""


@kernel
def slide(
    history: History, totals: Totals, hops: Hops, queries: SortedQueries, plan: Plan, out: Floats, flags: Any
) -> None:
    """Write the features of sorted queries to `out` and their flags to `flags`.

    `out` is float64 [rows, aggregates], null = NaN; `flags` is uint8 [rows].
    """
    hop, capacity, reads = plan.hop, plan.capacity, plan.reads
    n_windows, n_reads, n_events = len(plan.windows), len(reads), len(history.times)
    start, end = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.int64)
    begins = np.empty((n_windows, CHUNK), np.int64)
    capped = np.empty((n_windows, CHUNK), np.bool_)
    n_capped = np.zeros(n_windows, np.int64)
    cursors = np.zeros(n_windows + 1, np.int64)
    stacks = Extremes(
        np.empty((plan.n_stacks, n_events), np.int64),
        np.empty((plan.n_stacks, n_events), np.float64),
        np.zeros((plan.n_stacks, 2), np.int64),
    )
    heads = np.zeros(n_reads, np.int64)
    sets = np.zeros((plan.n_sets, plan.n_values), np.int32)
    set_ends = np.zeros((plan.n_sets, 3), np.int64)
    answers = np.empty((n_reads, CHUNK), np.float64)
    for first in range(0, len(queries.rows), CHUNK):
        n = min(CHUNK, len(queries.rows) - first)
        t = queries.times[first : first + n]
        chunk = Chunk(t, start, end, begins)
        _find_ends(history, queries.keys[first : first + n], hop, cursors, chunk)
        for w in range(n_windows):
            n_capped[w] = _find_begins(
                history.times, plan.windows[w], hop, capacity, cursors, w, chunk, capped[w]
            )
        r = 0
        while r < n_reads:
            read = reads[r]
            function, place, column = read[FUNCTION], read[PLACE], read[COLUMN]
            begin, answer = begins[read[WINDOW]], answers[read[OUT]]
            after = r + 1
            if function == MIN or function == MAX:
                while after < n_reads and reads[after, FUNCTION] == function and reads[after, PLACE] == place:
                    after += 1
                _extremes(history, hop, reads[r:after], chunk, stacks, heads[r:after], answers)
            elif function == COUNT_DISTINCT:
                _distinct(history.hashes[column], n, end, begin, sets[place], set_ends[place], answer)
            elif function == MEAN and r > 0 and _is_its_sum(reads[r - 1], read):
                _divide(answers[reads[r - 1, OUT]], totals.known[column], n, end, begin, answer)
            elif function == DECAYED_SUM or function == MEAN_HOP_COUNT or function == MEAN_HOP_MAX:
                _over_hops(history, hops, read, hop, plan.windows[read[WINDOW]], chunk, answer)
            else:
                _difference(history, totals, read, t, end, begin, answer)
            r = after
        for i in range(n):
            row = queries.rows[first + i]
            for r in range(n_reads):
                out[row, r] = answers[r, i]
        for r in range(n_reads):
            w, answer = reads[r, WINDOW], answers[reads[r, OUT]]
            if n_capped[w] > 0:
                final = reads_newest(reads[r, FUNCTION])  # older events cannot change a value that was found
                for i in range(n):
                    if capped[w, i] and not (final and not np.isnan(answer[i])):
                        flags[queries.rows[first + i]] |= CAPPED


@kernel
def _find_ends(history: History, keys: DenseIds, hop: int, cursors: Ints, chunk: Chunk) -> None:
    """Write the first event of every query's key to `chunk.start`, the first event after its windows to `chunk.end`."""
    at = cursors[-1]
    for i in range(len(chunk.times)):
        t, stop = chunk.times[i], history.starts[keys[i] + 1]
        chunk.start[i] = history.starts[keys[i]]
        until = t // hop * hop if hop > 0 else t
        at = max(at, chunk.start[i])
        while at < stop and history.times[at] < until:
            at += 1
        chunk.end[i] = at
    cursors[-1] = at


@kernel
def _find_begins(
    event_times: Ints, window: int, hop: int, capacity: int, cursors: Ints, w: int, chunk: Chunk, capped: Any
) -> int:
    """Write the first event of every query's window to `chunk.begins[w]`.

    Returns how many windows held more than `capacity` events.
    """
    begin, end = chunk.begins[w], chunk.end
    at, n_capped = cursors[w], 0
    for i in range(len(chunk.times)):
        t = chunk.times[i]
        since = (t - window) // hop * hop if hop > 0 else t - window
        at = max(at, chunk.start[i])
        while at < end[i] and event_times[at] < since:
            at += 1
        capped[i] = end[i] - at > capacity
        n_capped += capped[i]
        begin[i] = end[i] - capacity if capped[i] else at
    cursors[w] = at
    return n_capped


@kernel
def _is_its_sum(other: Ints, read: Ints) -> bool:
    """Whether `other` is the sum that the mean `read` divides."""
    return bool(other[FUNCTION] == SUM and other[COLUMN] == read[COLUMN] and other[WINDOW] == read[WINDOW])


@kernel
def _divide(sums: Floats, known: Ints, n: int, end: Ints, begin: Ints, answer: Floats) -> None:
    for i in range(n):
        values = known[end[i]] - known[begin[i]]
        answer[i] = sums[i] / values if values > 0 else np.nan


@kernel
def _difference(
    history: History, totals: Totals, read: Ints, t: Ints, end: Ints, begin: Ints, answer: Floats
) -> None:
    """Compute functions that need only the prefix sums at both ends of a window."""
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


@kernel
def _extremes(
    history: History, hop: int, reads: Ints, chunk: Chunk, stacks: Extremes, heads: Ints, answers: Floats
) -> None:
    """Compute the minima or maxima of all windows of a column with a monotonic stack.

    The stack holds every event that can be the extreme of a window: each is larger than all after it (for minima:
    negated). The extreme of a window is the first of them inside the window. `heads[k]` is that place for the last
    query of `reads[k]`; it moves back only to what was pushed since.
    """
    sign = -1.0 if reads[0, FUNCTION] == MIN else 1.0
    place = reads[0, PLACE]
    values, event_times = history.values[reads[0, COLUMN]], history.times
    stack, stack_values, ends = stacks.events[place], stacks.values[place], stacks.ends[place]
    start, end, begins = chunk.start, chunk.end, chunk.begins
    top, at = ends[0], ends[1]
    for i in range(len(chunk.times)):
        if start[i] >= at:
            top, at = 0, start[i]
        lowest = top
        while at < end[i]:
            x = sign * values[at]
            if not np.isnan(x):
                while top > 0 and stack_values[top - 1] < x:
                    top -= 1
                # Of equal values (0.0, -0.0) the newest is kept, but within a hop the oldest, as in a tile.
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


@kernel
def _distinct(hashes: Ints, n: int, end: Ints, begin: Ints, counts: Any, ends: Ints, answer: Floats) -> None:
    """Count the distinct values of every window.

    `counts[value]` is how often a value occurs in the window [ends[0], ends[1]); ends[2] is how many counts, of value
    0 (null) apart, are above 0.
    """
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


@kernel
def _over_hops(
    history: History, hops: Hops, read: Ints, hop: int, window: int, chunk: Chunk, answer: Floats
) -> None:
    """Compute means over hops and decayed sums.

    The latter visit the whole window, since weights change with the query's time.
    """
    function, c = read[FUNCTION], read[COLUMN]
    t, end, begin = chunk.times, chunk.end, chunk.begins[read[WINDOW]]
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
            ):  # newest first, like `read_tiles`
                age = t[i] - (hops.numbers[h] + 1) * hop
                answer[i] += to_float(hops.decayed[read[PLACE]], 2 * h) * weight(age, window)
        else:
            words[:] = 0
            for row in range(begin[i], end[i]):
                x = history.values[c, row]
                if not np.isnan(x):
                    add_value(words, 0, x * weight(t[i] - history.times[row], window))
            answer[i] = to_float(words, 0)
