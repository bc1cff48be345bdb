"""Which words a row of a state has, and the tables that drive the kernels.

* exact view: a row is an event;
* tiled view: a row is a hop, with the parts that the aggregates need of it;
* sketch view (tiled, quantiles of one column): a row is a hop and a bucket, with a count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from feature_repo.windows.aggregate import Aggregate
from feature_repo.windows.arrays import Ints
from feature_repo.windows.functions import FUNCTIONS, QUANTILES
from feature_repo.windows.kernels.tables import (
    HASH,
    PART_DECAYED,
    PART_FIRST,
    PART_LAST,
    PART_MAX,
    PART_MIN,
    PART_N,
    PART_NEWEST,
    PART_SQUARES,
    PART_SUM,
    ROWS,
    VALUE,
    ReadTables,
)
from feature_repo.windows.kernels.words import EVENT_HASHED, TILE_PARTS


@dataclass(frozen=True)
class Layout:
    """`n_ints` int64 and `n_floats` float64 words per row.

    `parts` names the words in order; the fingerprint covers them.

    `merge`, int64 [parts, 5], is empty unless the view is tiled: what an event adds to a tile (columns
    `tables.MERGE_*`).
    """

    n_ints: int
    n_floats: int
    parts: tuple[str, ...]
    merge: Ints
    tables: ReadTables


def layout_of(
    aggregates: Sequence[Aggregate], values: Sequence[str], hashed: Sequence[str], hop_us: int, capacity: int
) -> Layout:
    """Return the layout of a view with these aggregates, value columns and hashed columns.

    `hop_us` is 0 for an exact view.
    """
    sketch = any(a.function in QUANTILES for a in aggregates)
    merge, n_floats = np.zeros((0, 5), np.int64), 0
    if sketch:
        n_ints, reads = 3, _sketch_reads(aggregates)
        parts: tuple[str, ...] = ("hop", f"bucket({values[0]}, 1 %)", "count")
    elif hop_us:
        n_ints, n_floats, parts, merge, reads = _tiles(aggregates, values)
    else:
        n_ints, n_floats, reads = (
            EVENT_HASHED + len(hashed),
            len(values),
            _event_reads(aggregates, values, hashed),
        )
        parts = ("event_timestamp", "event_id_hi", "event_id_lo", *(f"hash({c})" for c in hashed), *values)
    measures = [hop_us, capacity, n_ints, n_floats, len(values), len(hashed), int(sketch)]
    by_window = np.array(sorted(reads, key=lambda r: (r[4], r[5])), np.int64).reshape(-1, 6)
    return Layout(n_ints, n_floats, parts, merge, ReadTables(by_window, np.array(measures, np.int64)))


def source_of(a: Aggregate, values: Sequence[str], hashed: Sequence[str]) -> tuple[int, int]:
    """Return (source kind, column of that kind) of an aggregate over events."""
    if (column := a.value_column(values)) is not None:
        return VALUE, values.index(column)
    if a.column in hashed and a.function in {"count", "count_distinct"}:
        return HASH, hashed.index(a.column)
    return ROWS, 0


def _event_reads(
    aggregates: Sequence[Aggregate], values: Sequence[str], hashed: Sequence[str]
) -> list[tuple[int, ...]]:
    return [
        (FUNCTIONS[a.function], *source_of(a, values, hashed), 0, a.window_us, out)
        for out, a in enumerate(aggregates)
    ]


def _sketch_reads(aggregates: Sequence[Aggregate]) -> list[tuple[int, ...]]:
    return [
        (FUNCTIONS[a.function], QUANTILES.get(a.function, 0), 0, 0, a.window_us, out)
        for out, a in enumerate(aggregates)
    ]


_PART_WORDS: Final = {
    PART_N: (1, 0),
    PART_SUM: (2, 0),
    PART_SQUARES: (4, 0),
    PART_MIN: (0, 1),
    PART_MAX: (0, 1),
    PART_FIRST: (3, 1),
    PART_LAST: (3, 1),
    PART_NEWEST: (1, 0),
    PART_DECAYED: (2, 0),
}
"""Part -> (int words, float words)."""
_PART_NAMES: Final = ("n", "sum", "sum_of_squares", "min", "max", "first", "last", "newest", "decayed")
_NEEDS: Final[Mapping[str, tuple[int, ...]]] = {
    "count": (PART_N,),
    "sum": (PART_SUM,),
    "mean": (PART_N, PART_SUM),
    "min": (PART_MIN,),
    "max": (PART_MAX,),
    "std": (PART_N, PART_SUM, PART_SQUARES),
    "var": (PART_N, PART_SUM, PART_SQUARES),
    "first": (PART_FIRST,),
    "last": (PART_LAST,),
    "seconds_since_last": (PART_NEWEST,),
    "decayed_sum": (PART_DECAYED,),
    "mean_hop_max": (PART_MAX,),
}
"""Function -> parts of its column. An aggregate over all rows reads the first words of a tile instead."""


def _tiles(
    aggregates: Sequence[Aggregate], values: Sequence[str]
) -> tuple[int, int, tuple[str, ...], Ints, list[tuple[int, ...]]]:
    """Return (int words, float words, names of the words, merge table, reads) of a tiled view."""
    n_ints, n_floats = TILE_PARTS, 0
    offsets: dict[tuple[int, int, int], tuple[int, int]] = {}
    parts = ["hop", "rows", "last_timestamp"]
    for column, part, window in sorted({need for a in aggregates for need in _tile_needs(a, values)}):
        offsets[column, part, window] = (n_ints, n_floats)
        ints, floats = _PART_WORDS[part]
        n_ints, n_floats = n_ints + ints, n_floats + floats
        of = f"{values[column]}, {window}" if window else values[column]
        parts.append(f"{_PART_NAMES[part]}({of})")
    reads = []
    for out, a in enumerate(aggregates):
        sources: list[int] = []
        for need in _tile_needs(a, values):
            i, f = offsets[need]
            if need[1] in (PART_FIRST, PART_LAST):
                sources = [i, f]
            else:
                sources.append(f if need[1] in (PART_MIN, PART_MAX) else i)
        reads.append((FUNCTIONS[a.function], *[*sources, -1, -1, -1][:3], a.window_us, out))
    merge = [(part, column, i, f, window) for (column, part, window), (i, f) in offsets.items()]
    return n_ints, n_floats, tuple(parts), np.array(merge, np.int64).reshape(-1, 5), reads


def _tile_needs(a: Aggregate, values: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return the (value column, part, window) triples of an aggregate.

    A decayed sum has another half-life for each window, so it has a part for each window; other parts serve all
    windows (0).
    """
    source = a.value_column(values)
    if source is None:
        return []
    column = values.index(source)
    return [(column, part, a.window_us if part == PART_DECAYED else 0) for part in _NEEDS[a.function]]
