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

from feature_repo.errors import DefinitionError
from feature_repo.windows.functions import (
    EXACT_ONLY,
    FUNCTIONS,
    INTEGER_FUNCTIONS,
    NEVER_NULL,
    PRESENCE_FUNCTIONS,
    QUANTILES,
    TILED_ONLY,
    VALUE_FUNCTIONS,
)
from feature_repo.windows.layout import Layout, layout_of

__all__ = [
    "EXACT_ONLY",
    "FUNCTIONS",
    "INTEGER_FUNCTIONS",
    "NEVER_NULL",
    "QUANTILES",
    "TILED_ONLY",
    "Aggregate",
    "Layout",
    "ViewSpec",
    "is_windowed",
    "view_spec",
]

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
    `?column` holding 1.0 or NaN, for a `count` and the like of a nullable column of which nothing else reads the number).
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
        values = {a.column for a in self.aggregates if a.function in VALUE_FUNCTIONS}
        hashed = {a.column for a in self.aggregates if a.function == "count_distinct"}
        never_null = NEVER_NULL.union(self.join_keys, (self.id_column,))
        for a in self.aggregates:
            known = values | never_null | (hashed if a.function == "count" else set())
            if a.function in PRESENCE_FUNCTIONS and a.column not in known:
                values.add("?" + a.column)
        object.__setattr__(self, "values", tuple(sorted(values)))
        object.__setattr__(self, "hashed", tuple(sorted(hashed)))

    @property
    def tiled(self) -> bool:
        return self.hop_us > 0

    @property
    def sketch(self) -> bool:
        """A tiled view of quantiles: its state counts values in buckets."""
        return any(a.function in QUANTILES for a in self.aggregates)

    def source(self, a: Aggregate) -> str | None:
        """Which of `values` an aggregate reads; None when it is about all rows, or about hashes."""
        if a.function in VALUE_FUNCTIONS or (a.function in PRESENCE_FUNCTIONS and a.column in self.values):
            return a.column
        return "?" + a.column if a.function in PRESENCE_FUNCTIONS and "?" + a.column in self.values else None

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
        return layout_of(self)

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
        if not a.column and a.function in VALUE_FUNCTIONS | EXACT_ONLY:
            msg = f"{where}: {a.function} ({a.name!r}) needs a column; add column=..."
            raise DefinitionError(msg)
        if spec.sketch and (
            not spec.tiled or a.column != spec.aggregates[0].column or a.function not in {"count", *QUANTILES}
        ):
            msg = (
                f"{where}: quantiles ({', '.join(QUANTILES)}) stand in a view of their own, with enable_tiling=True, over one column, and"
                f" beside them only count of that column; move {a.function} of {a.column!r} ({a.name!r}) to another view or correct it"
            )
            raise DefinitionError(msg)
        if a.name in seen:
            msg = f"{where}: two aggregations are called {a.name!r}; give one of them another name=..."
            raise DefinitionError(msg)
        seen.add(a.name)
