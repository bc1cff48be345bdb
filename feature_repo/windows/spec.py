"""What a windowed view computes: one `ViewSpec` per `StreamFeatureView`, derived from Feast's own declaration.

A spec is plain data without a reference to Feast, so a scorer loads it from JSON in milliseconds.
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
from feature_repo.windows.aggregate import Aggregate
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
"""An exact view reads at most this many events before t (tag `capacity`); its state holds twice as many."""
DEFAULT_GRACE: Final = timedelta(minutes=10)
"""How far behind a key's newest event a read is still exact (tag `grace_seconds`); covers the flow's allowed
lateness."""
DEFAULT_HOP: Final = timedelta(minutes=5)
"""Hop of a tiled view that sets no `tiling_hop_size`."""
LAYOUT_VERSION: Final = 1
"""Part of every fingerprint; a change of what the words of a state mean raises it."""


@dataclass(frozen=True)
class ViewSpec:
    """How the events of one view are folded into a state, and how the state is read.

    `hop_us` is 0 for an exact view. The event columns that aggregates need are kept in three roles: `values`
    (float64, null = NaN), `hashed` (int64 hash of the value, null = 0) and presence (a value column named `?column`
    that holds 1.0 or NaN; for `count` and similar functions of a nullable column whose number nothing else reads).
    `id_column` (tag `id_column` of the view) identifies an event of its stream and orders events of the same time.

    Raises `DefinitionError` for aggregates that cannot be computed exactly.
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
        """Whether the state has a row per hop instead of a row per event."""
        return self.hop_us > 0

    @property
    def sketch(self) -> bool:
        """Whether this is a tiled view of quantiles, whose state counts values in buckets."""
        return any(a.function in QUANTILES for a in self.aggregates)

    @property
    def longest_us(self) -> int:
        """The longest window."""
        return max(a.window_us for a in self.aggregates)

    @property
    def retention_us(self) -> int:
        """How much older than its key's newest event a row may be; a row older than that is read by no window."""
        return self.longest_us + self.grace_us

    @property
    def lifetime_us(self) -> int:
        """How long a key is kept after its last event: a window of whole hops reaches back up to one hop further."""
        return self.retention_us + self.hop_us

    @property
    def columns(self) -> tuple[str, ...]:
        """The event columns this view reads, apart from its keys, `id_column` and `event_timestamp`."""
        return tuple(dict.fromkeys([c.removeprefix("?") for c in self.values] + list(self.hashed)))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the aggregates, in the order in which values are returned."""
        return tuple(a.name for a in self.aggregates)

    @cached_property
    def layout(self) -> Layout:
        """The words of a row of the state, and the tables for the kernels."""
        return layout_of(self.aggregates, self.values, self.hashed, self.hop_us, self.capacity)

    @cached_property
    def fingerprint(self) -> int:
        """int64 digest of everything that decides what the bytes of a state mean.

        A state packed by a spec of the same fingerprint can be read, and events can be folded into it.
        """
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
        """Return the spec as plain JSON types; `from_dict` is the inverse."""
        made = asdict(self)
        names = ("name", "join_keys", "hop_us", "capacity", "grace_us", "aggregates", "id_column")
        return {k: made[k] for k in names}

    @classmethod
    def from_dict(cls, made: Mapping[str, Any]) -> ViewSpec:
        """Build the spec from what `to_dict` returned."""
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
    """Return the spec of a Feast `StreamFeatureView` that declares aggregations.

    Raises `DefinitionError` for a declaration that cannot be computed exactly: an unknown function, a missing window,
    a window that is not a whole number of hops.
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
    """Return whether a Feast view declares aggregations over time windows."""
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
            msg = f"{where}: aggregation {a.name!r} uses unknown function {a.function!r}; known are {', '.join(FUNCTIONS)}"
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
                f"{where}: quantiles ({', '.join(QUANTILES)}) need a view of their own with enable_tiling=True, over one column,"
                f" and with no other function than count of that column; move {a.function} of {a.column!r} ({a.name!r}) to another view"
            )
            raise DefinitionError(msg)
        if a.name in seen:
            msg = f"{where}: two aggregations are called {a.name!r}; give one of them another name=..."
            raise DefinitionError(msg)
        seen.add(a.name)
