"""Kernels that read packed states: of one view, and of all views of a request in one call."""

from typing import Any, Final

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.kernels.read_events import read_events
from feature_repo.windows.kernels.read_tiles import read_tiles
from feature_repo.windows.kernels.rows import first_not_before
from feature_repo.windows.kernels.sketch import read_sketch
from feature_repo.windows.kernels.tables import HOP, IS_SKETCH, ROW_FLOATS, ROW_INTS, ReadTables, Rows
from feature_repo.windows.kernels.words import (
    HEADER,
    MAGIC,
    NOTHING,
    WORD_FINGERPRINT,
    WORD_FLOOR,
    WORD_MAGIC,
    WORD_NEWEST,
    WORD_ROWS,
    WORD_VERSION,
)

VERSION, NEWEST, FLAGS = 0, 1, 2
"""Columns of what is found of a view: events folded (-1: there was no key to read), newest event time (us), flags."""
ALL_READ: Final = -1


@kernel
def read_words(words: Any, tables: ReadTables, t: int, out: Floats) -> int:
    """Read a packed state (int64 words, header checked before) as of `t` into `out`. Returns the flags."""
    n_ints, n_floats = tables.measures[ROW_INTS], tables.measures[ROW_FLOATS]
    n_rows, floor = words[WORD_ROWS], words[WORD_FLOOR]
    middle = HEADER + n_rows * n_ints
    ints = words[HEADER:middle].reshape((n_rows, n_ints))
    floats = words[middle : middle + n_rows * n_floats].view(np.float64).reshape((n_rows, n_floats))
    if tables.measures[IS_SKETCH] > 0:
        return read_sketch(ints, 0, n_rows, floor, tables, t, out)
    if tables.measures[HOP] > 0:
        return read_tiles(Rows(ints, floats, 0, n_rows), floor, tables, t, out)
    before = first_not_before(ints, 0, n_rows, t)
    return read_events(Rows(ints, floats, 0, before), floor, tables, t, out, NOTHING)


@kernel
def read_all(
    words: Any,
    ends: Ints,
    first: Ints,
    reads: Ints,
    measures: Ints,
    fingerprints: Ints,
    t: int,
    out: Floats,
    found: Ints,
) -> int:
    """Read the states of all views, which stand one after another in `words`: view v ends at byte `ends[v]`.

    View v has the aggregates from `first[v]` to `first[v + 1]` of `reads`, the tables `measures[v]` and
    `fingerprints[v]`. Writes its values to the same range of `out`, and `VERSION`, `NEWEST`, `FLAGS` to `found[v]`.
    Returns the first view whose bytes are not a state of it (see `header.check_header`), or `ALL_READ`.

    Tables are passed one by one: numba takes a microsecond longer to unpack a tuple, a tenth of a call.
    """
    start = 0
    for v in range(len(measures)):
        end = ends[v] // 8
        own = slice(first[v], first[v + 1])
        values = out[own]
        if ends[v] == 8 * start:
            values[:] = np.nan
            found[v, VERSION], found[v, NEWEST], found[v, FLAGS] = -1, NOTHING, 0
            continue
        if ends[v] % 8 != 0 or end - start < HEADER:
            return v
        state = words[start:end]
        size = HEADER + state[WORD_ROWS] * (measures[v, ROW_INTS] + measures[v, ROW_FLOATS])
        is_own = state[WORD_MAGIC] & 0xFFFFFFFF == MAGIC and state[WORD_FINGERPRINT] == fingerprints[v]
        if not is_own or len(state) < size:
            return v
        found[v, VERSION], found[v, NEWEST] = state[WORD_VERSION], state[WORD_NEWEST]
        found[v, FLAGS] = read_words(state, ReadTables(reads[own], measures[v]), t, values)
        start = end
    return ALL_READ
