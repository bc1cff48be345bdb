"""What a windowed view computes: one `ViewSpec` per `StreamFeatureView`, derived from Feast's own declaration.

A spec is plain data without a reference to Feast, so that a scorer can load it from JSON in milliseconds.
All times and windows are int64 microseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_repo.errors import DefinitionError

(
    COUNT,
    SUM,
    MEAN,
    MIN,
    MAX,
    STD,
    VAR,
    COUNT_DISTINCT,
    FIRST,
    LAST,
    SECONDS_SINCE_LAST,
    MEAN_HOP_COUNT,
    MEAN_HOP_MAX,
) = range(13)

FUNCTIONS: Final[Mapping[str, int]] = {
    "count": COUNT,
    "sum": SUM,
    "mean": MEAN,
    "min": MIN,
    "max": MAX,
    "std": STD,
    "var": VAR,
    "count_distinct": COUNT_DISTINCT,
    "first": FIRST,
    "last": LAST,
    "seconds_since_last": SECONDS_SINCE_LAST,
    "mean_hop_count": MEAN_HOP_COUNT,
    "mean_hop_max": MEAN_HOP_MAX,
}
"""Feast function name -> kernel code. `std` and `var` are the sample statistics (n - 1), null below two values."""

TILED_ONLY: Final = frozenset({"mean_hop_count", "mean_hop_max"})
EXACT_ONLY: Final = frozenset({"count_distinct"})
INTEGER_FUNCTIONS: Final = frozenset({"count", "count_distinct"})
"""Functions whose value is a whole number; every other value is a float64. Both count 0, not null, on an empty window."""

_VALUE_FUNCTIONS: Final = frozenset(FUNCTIONS) - {
    "count",
    "count_distinct",
    "seconds_since_last",
    "mean_hop_count",
}
NEVER_NULL: Final = frozenset({"", "event_id", "event_timestamp", "label_id"})

DEFAULT_CAPACITY: Final = 1024
"""An exact view answers from at most this many events before t (tag `capacity`); its state holds twice as many."""
DEFAULT_GRACE: Final = timedelta(minutes=10)
"""How far behind a key's newest event a read is still answered exactly (tag `grace_seconds`): the lateness of the flow."""
DEFAULT_HOP: Final = timedelta(minutes=5)
LAYOUT_VERSION: Final = 1


@dataclass(frozen=True)
class Aggregate:
    """One feature: `function` over `column` in the half-open window `[t - window_us, t)`; tiled: whole hops of it."""

    name: str
    function: str
    column: str
    window_us: int


@dataclass(frozen=True)
class ViewSpec:
    """How one view is folded and read.

    `hop_us` is 0 for an exact view. `longest_us` is the longest window. Columns an aggregate needs are kept in three roles:
    `values` (float64, null = NaN), `hashed` (64-bit hash of the value, null = 0) and presence (a value column named
    `?column` holding 1.0 or NaN, for a `count` of a nullable column that nothing else reads).
    `id_column` (tag `id_column` of the view) identifies an event of its stream and orders events of one instant.
    """

    name: str
    join_keys: tuple[str, ...]
    hop_us: int
    capacity: int
    grace_us: int
    aggregates: tuple[Aggregate, ...]
    id_column: str = "event_id"
    values: tuple[str, ...] = field(init=False)
    hashed: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        _check(self)
        values = {a.column for a in self.aggregates if a.function in _VALUE_FUNCTIONS}
        hashed = {a.column for a in self.aggregates if a.function == "count_distinct"}
        never_null = NEVER_NULL.union(self.join_keys, (self.id_column,))
        for a in self.aggregates:
            if a.function == "count" and a.column not in values | hashed | never_null:
                values.add("?" + a.column)
        object.__setattr__(self, "values", tuple(sorted(values)))
        object.__setattr__(self, "hashed", tuple(sorted(hashed)))

    @property
    def tiled(self) -> bool:
        return self.hop_us > 0

    @property
    def longest_us(self) -> int:
        return max(a.window_us for a in self.aggregates)

    @property
    def retention_us(self) -> int:
        """A key's rows older than its newest event by more than this can no longer be asked for."""
        return self.longest_us + self.grace_us

    @property
    def lifetime_us(self) -> int:
        """A key must be kept so long after its last event: a window of whole hops reaches back up to one hop further."""
        return self.retention_us + self.hop_us

    @property
    def columns(self) -> tuple[str, ...]:
        """The event columns this view reads, apart from its keys, `id_column` and `event_timestamp`."""
        return tuple(dict.fromkeys([c.removeprefix("?") for c in self.values] + list(self.hashed)))

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.aggregates)

    @cached_property
    def layout(self) -> Layout:
        return _tile_layout(self) if self.tiled else _event_layout(self)

    @cached_property
    def fingerprint(self) -> int:
        """int64 digest of all that decides what the bytes of a state mean. Equal: a state can be read and folded on."""
        what = [
            LAYOUT_VERSION,
            self.id_column,
            self.hop_us,
            self.capacity,
            self.retention_us,
            self.values,
            self.hashed,
            self.layout.parts,
        ]
        return int.from_bytes(hashlib.sha256(json.dumps(what).encode()).digest()[:8], "little", signed=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        made = asdict(self)
        names = ("name", "join_keys", "hop_us", "capacity", "grace_us", "aggregates", "id_column")
        return {k: made[k] for k in names}

    @classmethod
    def from_dict(cls, made: Mapping[str, Any]) -> ViewSpec:
        return cls(
            name=made["name"],
            join_keys=tuple(made["join_keys"]),
            hop_us=made["hop_us"],
            capacity=made["capacity"],
            grace_us=made["grace_us"],
            aggregates=tuple(Aggregate(**a) for a in made["aggregates"]),
            id_column=made.get("id_column", "event_id"),
        )


@dataclass(frozen=True)
class Layout:
    """Where things stand in a row of a state, and the tables that drive the kernels.

    `n_ints` int64 and `n_floats` float64 words a row. `parts` names the words in order, for the fingerprint and the docs.
    `merge` (tiled only), int64 [k, 4]: what an event adds to a tile: (part code, value column, int offset, float offset).
    `reads`, int64 [aggregates, 6], ascending by window: (function, source a, source b, source c, window, output position).
    """

    n_ints: int
    n_floats: int
    parts: tuple[str, ...]
    merge: npt.NDArray[np.int64]
    reads: npt.NDArray[np.int64]


def view_spec(view: Any) -> ViewSpec:
    """The spec of a Feast `StreamFeatureView` that declares aggregations.

    Raises `DefinitionError` when Feast's words cannot be computed exactly: an unknown function, a missing window, a window
    that is not a whole number of hops.
    """
    if not view.aggregations:
        msg = f"feature view {view.name!r} declares no aggregations; give it aggregations=[Aggregation(...)]"
        raise DefinitionError(msg)
    hop = (view.tiling_hop_size or DEFAULT_HOP) if view.enable_tiling else timedelta(0)
    return ViewSpec(
        name=view.name,
        join_keys=tuple(sorted(view.join_keys)),
        hop_us=_us(hop),
        capacity=_tag(view, "capacity", DEFAULT_CAPACITY),
        grace_us=_tag(view, "grace_seconds", int(DEFAULT_GRACE.total_seconds())) * 1_000_000,
        aggregates=tuple(_aggregate(view.name, a) for a in view.aggregations),
        id_column=view.tags.get("id_column", "event_id"),
    )


def is_windowed(view: object) -> bool:
    """Whether a Feast view is one of ours: it declares aggregations over time windows."""
    aggregations: Sequence[Any] = getattr(view, "aggregations", None) or ()
    return any(a.time_window is not None for a in aggregations)


def _us(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _tag(view: Any, tag: str, default: int) -> int:
    text = view.tags.get(tag, str(default))
    if not text.isdecimal() or int(text) == 0:
        msg = f"feature view {view.name!r}: tag {tag}={text!r} is not a whole number above 0"
        raise DefinitionError(msg)
    return int(text)


def _aggregate(view: str, a: Any) -> Aggregate:
    if a.time_window is None:
        msg = f"feature view {view!r}: the aggregation {a.function} of {a.column!r} has no time_window; add time_window=timedelta(...)"
        raise DefinitionError(msg)
    return Aggregate(a.resolved_name(a.time_window), a.function, a.column, _us(a.time_window))


def _check(spec: ViewSpec) -> None:
    where = f"feature view {spec.name!r}"
    seen: set[str] = set()
    for a in spec.aggregates:
        if a.function not in FUNCTIONS:
            msg = f"{where}: aggregation {a.name!r} uses function {a.function!r}; there are {', '.join(FUNCTIONS)}"
            raise DefinitionError(msg)
        if spec.tiled and a.function in EXACT_ONLY:
            msg = f"{where}: {a.function} ({a.name!r}) cannot be merged from tiles; declare it in a view without enable_tiling"
            raise DefinitionError(msg)
        if not spec.tiled and a.function in TILED_ONLY:
            msg = f"{where}: {a.function} ({a.name!r}) is a mean over hops; set enable_tiling=True and tiling_hop_size on the view"
            raise DefinitionError(msg)
        if a.window_us <= 0 or (spec.tiled and a.window_us % spec.hop_us):
            msg = (
                f"{where}: the window of {a.name!r} ({timedelta(microseconds=a.window_us)}) is not a whole, positive number of hops"
                f" ({timedelta(microseconds=spec.hop_us)}); change time_window or tiling_hop_size"
            )
            raise DefinitionError(msg)
        if not a.column and a.function in _VALUE_FUNCTIONS | EXACT_ONLY:
            msg = f"{where}: {a.function} ({a.name!r}) needs a column; add column=..."
            raise DefinitionError(msg)
        if a.name in seen:
            msg = f"{where}: two aggregations are called {a.name!r}; give one of them another name=..."
            raise DefinitionError(msg)
        seen.add(a.name)


# Exact view: a row is an event. Ints: time, id (two words), hashed columns. Floats: value columns.
EVENT_HASHED = 3

# Source kinds of `reads` in an exact view.
ROWS, VALUE, HASH = 0, 1, 2


def _event_layout(spec: ViewSpec) -> Layout:
    reads = []
    for out, a in enumerate(spec.aggregates):
        if a.function == "count_distinct" or (a.function == "count" and a.column in spec.hashed):
            source = (HASH, spec.hashed.index(a.column))
        elif a.function in _VALUE_FUNCTIONS or (a.function == "count" and a.column in spec.values):
            source = (VALUE, spec.values.index(a.column))
        elif a.function == "count" and "?" + a.column in spec.values:
            source = (VALUE, spec.values.index("?" + a.column))
        else:
            source = (ROWS, 0)
        reads.append((FUNCTIONS[a.function], *source, 0, a.window_us, out))
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
        merge=np.zeros((0, 4), np.int64),
        reads=_by_window(reads),
    )


# Tiled view: a row is a hop. Ints: hop number, rows, time of its last event; then the parts below, as the aggregates need them.
TILE_HOP, TILE_ROWS, TILE_LAST_TS, TILE_PARTS = 0, 1, 2, 3
PART_N, PART_SUM, PART_SQUARES, PART_MIN, PART_MAX, PART_FIRST, PART_LAST = range(7)
_PART_WORDS: Final = {
    PART_N: (1, 0),
    PART_SUM: (2, 0),
    PART_SQUARES: (4, 0),
    PART_MIN: (0, 1),
    PART_MAX: (0, 1),
    PART_FIRST: (3, 1),
    PART_LAST: (3, 1),
}
_PART_NAMES: Final = ("n", "sum", "sum_of_squares", "min", "max", "first", "last")
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
    "seconds_since_last": (),
    "mean_hop_count": (),
    "mean_hop_max": (PART_MAX,),
}


def _tile_layout(spec: ViewSpec) -> Layout:
    n_ints, n_floats = TILE_PARTS, 0
    offsets: dict[tuple[int, int], tuple[int, int]] = {}
    parts = ["hop", "rows", "last_timestamp"]
    needed = sorted({(_value_index(spec, a), part) for a in spec.aggregates for part in _tile_needs(spec, a)})
    for column, part in needed:
        offsets[column, part] = (n_ints, n_floats)
        ints, floats = _PART_WORDS[part]
        n_ints, n_floats = n_ints + ints, n_floats + floats
        parts.append(f"{_PART_NAMES[part]}({spec.values[column]})")
    reads = []
    for out, a in enumerate(spec.aggregates):
        needs = _tile_needs(spec, a)
        at = [offsets[_value_index(spec, a), part] for part in needs]
        sources = [f if part in (PART_MIN, PART_MAX) else i for part, (i, f) in zip(needs, at, strict=True)]
        if needs in ((PART_FIRST,), (PART_LAST,)):
            sources = list(at[0])
        a_, b_, c_ = [*sources, -1, -1, -1][:3]
        reads.append((FUNCTIONS[a.function], a_, b_, c_, a.window_us, out))
    merge = [(part, column, i, f) for (column, part), (i, f) in offsets.items()]
    return Layout(
        n_ints=n_ints,
        n_floats=n_floats,
        parts=tuple(parts),
        merge=np.array(merge, np.int64).reshape(-1, 4),
        reads=_by_window(reads),
    )


def _tile_needs(spec: ViewSpec, a: Aggregate) -> tuple[int, ...]:
    if a.function == "count" and a.column not in spec.values and "?" + a.column not in spec.values:
        return ()  # every row has the column: the tile's row count is the answer
    return _NEEDS[a.function]


def _value_index(spec: ViewSpec, a: Aggregate) -> int:
    return (
        spec.values.index(a.column if a.column in spec.values else "?" + a.column)
        if _tile_needs(spec, a)
        else -1
    )


def _by_window(reads: Sequence[tuple[int, ...]]) -> npt.NDArray[np.int64]:
    return np.array(sorted(reads, key=lambda r: (r[4], r[5])), np.int64).reshape(-1, 6)
