"""The words of a packed state and of its rows: positions that kernels, writers and readers share.

A packed state is little-endian, in 8-byte words, so reading it needs no parsing:

    word 0      magic "MSW1" (low 32 bits), kind: 0 exact, 1 tiled, 2 sketch (high 32 bits)
    word 1      fingerprint of the layout (`ViewSpec.fingerprint`)
    word 2      number of rows
    word 3      version: number of events folded for this key so far
    word 4      floor: the latest event time that may be missing (int64 us); `NOTHING` if nothing was dropped
    word 5      newest event time folded (int64 us)
    word 6, 7   int64 words per row, float64 words per row
    then        rows x ints, rows x floats, each row in the order of `Layout.parts`

The bytes are a function of the set of events folded, not of their order.
"""

from typing import Final

import numpy as np

MAGIC: Final = 0x3157534D
HEADER: Final = 8
"""Words before the first row."""
NOTHING: Final = np.iinfo(np.int64).min
"""A time before all times: no event was dropped, or none was folded."""

(
    WORD_MAGIC,
    WORD_FINGERPRINT,
    WORD_ROWS,
    WORD_VERSION,
    WORD_FLOOR,
    WORD_NEWEST,
    WORD_ROW_INTS,
    WORD_ROW_FLOATS,
) = range(HEADER)

# Int words of a row of an exact view: the event's time, its id (two words), its hashed columns.
EVENT_TIME, EVENT_ID_HIGH, EVENT_ID_LOW, EVENT_HASHED = 0, 1, 2, 3

# Int words of a row of a tiled view: hop number, events, time of the latest of them, then the parts of `tables`.
TILE_HOP, TILE_ROWS, TILE_LAST_TS, TILE_PARTS = 0, 1, 2, 3

# Int words of a row of a sketch view: hop number, bucket, number of values in it.
SKETCH_HOP, SKETCH_BUCKET, SKETCH_COUNT = 0, 1, 2
