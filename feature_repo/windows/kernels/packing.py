"""Kernels that pack the rows of keys into bytes, and unpack them. The bytes are described in `words`."""

from typing import Any, NamedTuple

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Bytes, Ints
from feature_repo.windows.kernels.rows import (
    IN_USE,
    SEG_FLOOR,
    SEG_HEAD,
    SEG_NEWEST,
    SEG_ROWS,
    SEG_SIZE,
    SEG_START,
    SEG_VERSION,
    StateArrays,
    first_not_before,
)
from feature_repo.windows.kernels.words import (
    EVENT_ID_HIGH,
    EVENT_ID_LOW,
    EVENT_TIME,
    HEADER,
    MAGIC,
    NOTHING,
    WORD_FINGERPRINT,
    WORD_FLOOR,
    WORD_MAGIC,
    WORD_NEWEST,
    WORD_ROW_FLOATS,
    WORD_ROW_INTS,
    WORD_ROWS,
    WORD_VERSION,
)


class RowBytes(NamedTuple):
    """The arrays of a state as bytes, whose rows have `int_row` and `float_row` bytes."""

    ints: Bytes
    floats: Bytes
    segments: Ints
    int_row: int
    float_row: int


@kernel
def _copy(source: Bytes, first: int, n: int, target: Bytes, at: int) -> None:
    """Copy n bytes. Slicing first gives indices that cannot be negative, so the compiler copies 32 bytes at a time."""
    source, target = source[first : first + n], target[at : at + n]
    for k in range(n):
        target[k] = source[k]


@kernel
def pack(state: RowBytes, slots: Ints, at: Ints, out: Bytes, fingerprint: int, kind: int) -> None:
    """Write the packed state of `slots[i]` to `out` from byte `at[i]` on.

    A state is its header, then its int words, then its float words.
    """
    ints, floats, segments = state.ints, state.floats, state.segments
    int_row, float_row = state.int_row, state.float_row
    header = np.empty(HEADER, np.int64)
    header[WORD_MAGIC], header[WORD_FINGERPRINT] = MAGIC | (kind << 32), fingerprint
    header[WORD_ROW_INTS], header[WORD_ROW_FLOATS] = int_row // 8, float_row // 8
    header_bytes = header.view(np.uint8)
    for i in range(len(slots)):
        segment = segments[slots[i]]
        rows, first = segment[SEG_ROWS], segment[SEG_START] + segment[SEG_HEAD]
        header[WORD_ROWS], header[WORD_VERSION] = rows, segment[SEG_VERSION]
        header[WORD_FLOOR], header[WORD_NEWEST] = segment[SEG_FLOOR], segment[SEG_NEWEST]
        _copy(header_bytes, 0, 8 * HEADER, out, at[i])
        _copy(ints, first * int_row, rows * int_row, out, at[i] + 8 * HEADER)
        _copy(floats, first * float_row, rows * float_row, out, at[i] + 8 * HEADER + rows * int_row)


@kernel
def first_wrong(words: Ints, at: Ints, fingerprint: int, row_words: int) -> int:
    """Return the first packed state that is not of this layout, -1 if there is none.

    State i is `words[at[i]:at[i + 1]]`.
    """
    for i in range(len(at) - 1):
        n = at[i + 1] - at[i]
        if n < HEADER or words[at[i]] & 0xFFFFFFFF != MAGIC or words[at[i] + WORD_FINGERPRINT] != fingerprint:
            return i
        if n < HEADER + words[at[i] + WORD_ROWS] * row_words:
            return i
    return -1


@kernel
def rows_wanted(words: Ints, at: Ints) -> int:
    """Return how many rows the segments of these packed states have together."""
    wanted = 0
    for i in range(len(at) - 1):
        wanted += 1 << _size_for(words[at[i] + WORD_ROWS])
    return wanted


@kernel
def _size_for(rows: int) -> int:
    """Return log2 of the size of the smallest segment that holds `rows` rows."""
    size = 0
    while (1 << size) < rows:
        size += 1
    return size


@kernel
def load(state: StateArrays, slots: Ints, words: Ints, at: Ints) -> None:
    """Unpack the state at `words[at[i]:]` into the empty slot `slots[i]`.

    The row arrays have room for `rows_wanted`.
    """
    ints, floats, segments, free = state.ints, state.floats, state.segments, state.free
    n_ints, n_floats = ints.shape[1], floats.shape[1]
    as_floats = words.view(np.float64)
    for i in range(len(slots)):
        place = at[i]
        rows = words[place + WORD_ROWS]
        size = _size_for(rows)
        start = free[IN_USE]
        free[IN_USE] += 1 << size
        segment = segments[slots[i]]
        segment[SEG_START], segment[SEG_SIZE], segment[SEG_HEAD], segment[SEG_ROWS] = start, size, 0, rows
        segment[SEG_VERSION], segment[SEG_FLOOR] = words[place + WORD_VERSION], words[place + WORD_FLOOR]
        segment[SEG_NEWEST] = words[place + WORD_NEWEST]
        place += HEADER
        for row in range(start, start + rows):
            for c in range(n_ints):
                ints[row, c] = words[place]
                place += 1
        for row in range(start, start + rows):
            for c in range(n_floats):
                floats[row, c] = as_floats[place]
                place += 1


@kernel
def find_events(words: Ints, n_ints: int, retention: int, times: Ints, ids: Ints, found: Any) -> None:
    """Write to `found` (bool [n]) which events a packed state of an exact view holds, or would drop as too old.

    `times`, int64 [n] (us), and `ids`, int64 [n, 2], describe the events; `n_ints` and `retention` (us) are those of
    the view.
    """
    rows = words[WORD_ROWS]
    ints = words[HEADER : HEADER + rows * n_ints].reshape((rows, n_ints))
    too_old = words[WORD_FLOOR]
    if words[WORD_NEWEST] != NOTHING:
        too_old = max(too_old, words[WORD_NEWEST] - retention - 1)
    for i in range(len(times)):
        found[i] = times[i] <= too_old
        row = first_not_before(ints, 0, rows, times[i])
        while not found[i] and row < rows and ints[row, EVENT_TIME] == times[i]:
            found[i] = ints[row, EVENT_ID_HIGH] == ids[i, 0] and ints[row, EVENT_ID_LOW] == ids[i, 1]
            row += 1
