"""The tables that tell the kernels what a view computes, and the meaning of their columns."""

from typing import Any, NamedTuple

from feature_repo.windows.arrays import Ints


class ReadTables(NamedTuple):
    """What reading a state needs to know of its view. A view's tables are made by `layout.layout_of`."""

    reads: Ints
    """int64 [aggregates, 6], ascending by window; columns `READ_*`."""
    measures: Ints
    """int64 [7]; positions `HOP` to `IS_SKETCH`."""


class Rows(NamedTuple):
    """The rows [start, end) of one key, sorted; `ints` [rows, int words] and `floats` [rows, float words]."""

    ints: Any
    floats: Any
    start: int
    end: int


# Columns of `ReadTables.reads`. What the sources mean depends on the kind of view:
# exact: a is the source kind (`ROWS`, `VALUE`, `HASH`), b the column of that kind;
# tiled: the words of the parts that the function needs, -1 for none;
# sketch: a is the quantile in per cent.
READ_FUNCTION, READ_A, READ_B, READ_C, READ_WINDOW, READ_OUT = range(6)

ROWS, VALUE, HASH = 0, 1, 2
"""Source kinds: all rows of the window, a value column, a hashed column."""

# Positions in `ReadTables.measures`: hop (us, 0 for an exact view), capacity, words of a row, columns, 1 for a sketch.
HOP, CAPACITY, ROW_INTS, ROW_FLOATS, N_VALUES, N_HASHED, IS_SKETCH = range(7)

# Columns of `Layout.merge`, int64 [parts, 5]: what an event adds to a tile.
MERGE_PART, MERGE_COLUMN, MERGE_INT, MERGE_FLOAT, MERGE_WINDOW = range(5)

(
    PART_N,
    PART_SUM,
    PART_SQUARES,
    PART_MIN,
    PART_MAX,
    PART_FIRST,
    PART_LAST,
    PART_NEWEST,
    PART_DECAYED,
) = range(9)
"""Parts of a tile, per value column: what several functions are computed from."""
