"""Where things stand in a row of a state, and the tables that drive the kernels.

* exact view: a row is an event;
* tiled view: a row is a hop with what its aggregates need of it;
* sketch view (tiled, quantiles of one column): a row is a hop and a bucket, with a count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from feature_repo.windows.functions import FUNCTIONS, QUANTILES

if TYPE_CHECKING:
    from feature_repo.windows.spec import Aggregate, ViewSpec


@dataclass(frozen=True)
class Layout:
    """`n_ints` int64 and `n_floats` float64 words a row. `parts` names the words in order, for the fingerprint and the docs.

    `merge` (tiled only), int64 [k, 5]: what an event adds to a tile: (part code, value column, int offset, float offset, window).
    `reads`, int64 [aggregates, 6], ascending by window: (function, source a, source b, source c, window, output position).
    """

    n_ints: int
    n_floats: int
    parts: tuple[str, ...]
    merge: npt.NDArray[np.int64]
    reads: npt.NDArray[np.int64]


def layout_of(spec: ViewSpec) -> Layout:
    if spec.sketch:
        return _sketch_layout(spec)
    return _tile_layout(spec) if spec.tiled else _event_layout(spec)


# Exact view. Ints: time, id (two words), hashed columns. Floats: value columns.
EVENT_HASHED = 3

# Source kinds of `reads` in an exact view.
ROWS, VALUE, HASH = 0, 1, 2


def _event_layout(spec: ViewSpec) -> Layout:
    reads = [
        (FUNCTIONS[a.function], *source_of(spec, a), 0, a.window_us, out)
        for out, a in enumerate(spec.aggregates)
    ]
    parts = (
        "event_timestamp",
        "event_id_hi",
        "event_id_lo",
        *(f"hash({c})" for c in spec.hashed),
        *spec.values,
    )
    return Layout(
        n_ints=EVENT_HASHED + len(spec.hashed),
        n_floats=len(spec.values),
        parts=parts,
        merge=_NO_MERGE,
        reads=_by_window(reads),
    )


def source_of(spec: ViewSpec, a: Aggregate) -> tuple[int, int]:
    """(source kind, column of that kind) of an aggregate over events."""
    if (column := spec.source(a)) is not None:
        return VALUE, spec.values.index(column)
    if a.column in spec.hashed and a.function in {"count", "count_distinct"}:
        return HASH, spec.hashed.index(a.column)
    return ROWS, 0


# Tiled view. Ints: hop number, rows, time of its last event; then the parts below, as the aggregates need them.
TILE_HOP, TILE_ROWS, TILE_LAST_TS, TILE_PARTS = 0, 1, 2, 3
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
"""Parts of a column; an aggregate that is about all rows finds what it needs in the first words of a tile."""


def _tile_layout(spec: ViewSpec) -> Layout:
    n_ints, n_floats = TILE_PARTS, 0
    offsets: dict[tuple[int, int, int], tuple[int, int]] = {}
    parts = ["hop", "rows", "last_timestamp"]
    for column, part, window in sorted({need for a in spec.aggregates for need in _tile_needs(spec, a)}):
        offsets[column, part, window] = (n_ints, n_floats)
        ints, floats = _PART_WORDS[part]
        n_ints, n_floats = n_ints + ints, n_floats + floats
        of = f"{spec.values[column]}, {window}" if window else spec.values[column]
        parts.append(f"{_PART_NAMES[part]}({of})")
    reads = []
    for out, a in enumerate(spec.aggregates):
        sources: list[int] = []
        for need in _tile_needs(spec, a):
            i, f = offsets[need]
            if need[1] in (PART_FIRST, PART_LAST):
                sources = [i, f]
            else:
                sources.append(f if need[1] in (PART_MIN, PART_MAX) else i)
        a_, b_, c_ = [*sources, -1, -1, -1][:3]
        reads.append((FUNCTIONS[a.function], a_, b_, c_, a.window_us, out))
    merge = [(part, column, i, f, window) for (column, part, window), (i, f) in offsets.items()]
    return Layout(
        n_ints=n_ints,
        n_floats=n_floats,
        parts=tuple(parts),
        merge=np.array(merge, np.int64).reshape(-1, 5),
        reads=_by_window(reads),
    )


def _tile_needs(spec: ViewSpec, a: Aggregate) -> list[tuple[int, int, int]]:
    """(value column, part, window) of an aggregate. A decayed sum has another half-life for each window, so a part for each."""
    source = spec.source(a)
    if source is None:
        return []
    column = spec.values.index(source)
    return [(column, part, a.window_us if part == PART_DECAYED else 0) for part in _NEEDS[a.function]]


# Sketch view. Ints: hop number, bucket, values in it.
SKETCH_HOP, SKETCH_BUCKET, SKETCH_COUNT = 0, 1, 2


def _sketch_layout(spec: ViewSpec) -> Layout:
    reads = [
        (FUNCTIONS[a.function], QUANTILES.get(a.function, 0), 0, 0, a.window_us, out)
        for out, a in enumerate(spec.aggregates)
    ]
    parts = ("hop", f"bucket({spec.values[0]}, 1 %)", "count")
    return Layout(n_ints=3, n_floats=0, parts=parts, merge=_NO_MERGE, reads=_by_window(reads))


_NO_MERGE: Final = np.zeros((0, 5), np.int64)


def _by_window(reads: Sequence[tuple[int, ...]]) -> npt.NDArray[np.int64]:
    return np.array(sorted(reads, key=lambda r: (r[4], r[5])), np.int64).reshape(-1, 6)
