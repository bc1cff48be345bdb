"""Read the features of one payment for the scorer, as of the payment's own time, without Feast.

`commands` names the hashes and fields to fetch, the caller fetches them in one pipelined round trip, and `vector`
computes the features from the replies: all states in one call of a kernel, then the on-demand functions. The values
equal those of `store.get_online_features` at that time, and those of the offline store.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_repo.stores.reader.on_demand import Inputs, Transform, load
from feature_repo.stores.reader.pending import NOTHING_FOUND, Found, Lists, Pending
from feature_repo.stores.reader.plan import BOOL, INT, STRING, TIME, PlainRead, Plan
from feature_repo.stores.redis_layout.keys import (
    decode_timestamp,
    decode_value,
    key_prefix,
    key_values,
    state_field,
    time_field,
)
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.kernels.read_state import FLAGS, NEWEST, VERSION
from feature_repo.windows.kernels.rows import CAPPED, INCOMPLETE
from feature_repo.windows.kernels.words import NOTHING
from feature_repo.windows.read_views import NO_KEY, ViewReads
from feature_repo.windows.spec import INTEGER_FUNCTIONS

Command = tuple[bytes, list[bytes]]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_STATE_OF_OURS: Final = b"\0"
"""Stands for a stored field that is empty, so that it is refused; `NO_KEY` would mean that the request has no key."""


@dataclass(frozen=True, slots=True)
class Vector:
    """The features of one payment, in the order of `plan.columns`.

    `values` float64, null = NaN (a string or timestamp feature is NaN here and only in `named`). `named` has Python
    values, a timestamp is a datetime in UTC, null = None: what Feast hands to on-demand functions. `versions`:
    windowed view -> number of events folded for its key; `newest_us`: time of the newest of them, None if there is
    none. `incomplete` and `capped` name the views whose features are partly null, or computed from the newest
    `capacity` events only. `pending` is what the lists of payments that the flow had not folded yet held.
    """

    values: npt.NDArray[np.float64]
    named: dict[str, Any]
    versions: dict[str, int]
    newest_us: int | None
    incomplete: tuple[str, ...]
    capped: tuple[str, ...]
    pending: Found = NOTHING_FOUND


class Reader:
    """Reads the features of a plan. `repo` is the folder that on-demand functions are imported from.

    Raises `DefinitionError` when a function is missing or is not the one the plan was made with.
    """

    def __init__(self, plan: Plan, repo: Path) -> None:
        self.plan = plan
        self.pending = Pending(plan, PAYMENTS.schema.names)
        self._functions = [_Function(load(repo, view), view.inputs, view.outputs) for view in plan.on_demand]
        self._of_request = [f for f in self._functions if not f.reads_features]
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], _Entity] = {}
        for windowed in plan.windowed:
            where = windowed.spec.join_keys, windowed.entity_columns
            groups.setdefault(where, _Entity(*where)).windowed.append(windowed.spec)
        for plain in plan.plain:
            where = plain.join_keys, plain.entity_columns
            groups.setdefault(where, _Entity(*where)).plain.append(_Plain(plain))
        self._entities = list(groups.values())
        for entity in self._entities:
            entity.compile(plan.project.encode())
        specs = [spec for entity in self._entities for spec in entity.windowed]
        self._views = [spec.name for spec in specs]
        self._reads = ViewReads(specs)
        whole = {a.name for spec in specs for a in spec.aggregates if a.function in INTEGER_FUNCTIONS}
        self._whole = [i for i, name in enumerate(self._reads.names) if name in whole]
        # Where the vector's values come from: most straight from the kernel, the rest by name.
        at = {name: i for i, name in enumerate(self._reads.names)}
        order = [(i, name, kind) for i, (name, kind) in enumerate(plan.columns)]
        self._to = np.array([i for i, name, _ in order if name in at], np.int64)
        self._from = np.array([at[name] for _, name, _ in order if name in at], np.int64)
        others = [(i, name) for i, name, kind in order if name not in at and kind not in {STRING, TIME}]
        self._others_to = np.array([i for i, _ in others], np.int64)
        self._others = [name for _, name in others]

    def commands(self, row: Mapping[str, Any]) -> list[Command]:
        """Return what to HMGET for a payment: one (key, fields) pair per entity whose columns the payment has."""
        made = []
        for entity in self._entities:
            key = entity.key(row)
            if key is not None:
                made.append((key, entity.fields))
        return made

    def vector(
        self,
        row: Mapping[str, Any],
        replies: Sequence[Sequence[bytes | None]],
        as_of_us: int,
        now_us: int,
        lists: Lists = (),
    ) -> Vector:
        """Return the features as of `as_of_us` (UTC us), from the replies to `commands(row)`.

        `row` holds the request columns; its `event_timestamp` may be missing. `now_us` is the wall clock when the
        replies were fetched: it decides which events a key that is not stored may have had. `lists` are the members
        of the payment's pending lists (`pending.keys(row)`); those that the states lack are folded in first. If the
        payment has no value for the key of a view (None, or no such column), the view has no reply and all its
        features are null.

        Raises `StateError` for a state of another definition.
        """
        states: list[bytes | None] = []
        named: dict[str, Any] = {}
        present = iter(replies)
        for entity in self._entities:
            n = len(entity.windowed)
            if entity.is_asked_for(row):
                reply = next(present)
                states += [_NO_STATE_OF_OURS if state == b"" else state for state in reply[:n]]
                for part, start, end in entity.parts:
                    part.finish(reply[start:end], as_of_us, named)
            else:
                states += [NO_KEY] * n
                for part, _, _ in entity.parts:
                    named.update(dict.fromkeys(part.feature_names))
        pending = NOTHING_FOUND
        if any(lists):
            by_view = dict(zip(self._views, states, strict=True))
            event_id = str(row.get("event_id", ""))
            pending = self.pending.fold(by_view, row, event_id, lists, as_of_us, now_us)
            states = list(by_view.values())
        finished, found = self._reads.read(states, as_of_us, now_us)
        named.update(zip(self._reads.names, self._python(finished), strict=True))
        self._on_demand(row, as_of_us, named, self._functions)
        values = np.full(len(self.plan.columns), np.nan)
        values[self._to] = finished[self._from]
        values[self._others_to] = _floats(list(map(named.get, self._others)))
        versions, newest, incomplete, capped = self._found(found)
        if pending.capped:
            capped = tuple(dict.fromkeys((*capped, *pending.capped)))
        return Vector(values, named, versions, newest, incomplete, capped, pending)

    def empty(self, row: Mapping[str, Any], as_of_us: int) -> Vector:
        """Return the vector of a payment whose entities have nothing stored."""
        replies = [[None] * len(e.fields) for e in self._entities if e.is_asked_for(row)]
        return self.vector(row, replies, as_of_us, as_of_us)

    def _python(self, finished: npt.NDArray[np.float64]) -> list[Any]:
        """Return values as Feast does: null is None, a count is an int."""
        values: list[Any] = finished.tolist()
        for i in self._whole:
            value = values[i]
            if value == value:  # noqa: PLR0124 - NaN
                values[i] = int(value)
        for i in np.isnan(finished).nonzero()[0].tolist():
            values[i] = None
        return values

    def _found(
        self, found: npt.NDArray[np.int64]
    ) -> tuple[dict[str, int], int | None, tuple[str, ...], tuple[str, ...]]:
        """(versions, newest event time, incomplete views, capped views)."""
        columns = found.T.tolist()
        versions = {view: n for view, n in zip(self._views, columns[VERSION], strict=True) if n >= 0}
        newest = max(columns[NEWEST], default=NOTHING)
        incomplete: tuple[str, ...] = ()
        capped: tuple[str, ...] = ()
        if any(columns[FLAGS]):
            flagged = list(zip(self._views, columns[FLAGS], strict=True))
            incomplete = tuple(view for view, flags in flagged if flags & INCOMPLETE)
            capped = tuple(view for view, flags in flagged if flags & CAPPED)
        return versions, None if newest == NOTHING else newest, incomplete, capped

    def of_request(self, row: Mapping[str, Any], as_of_us: int) -> dict[str, Any]:
        """Return the features computed from the payment alone (`Plan.of_request`), by name."""
        named: dict[str, Any] = {}
        self._on_demand(row, as_of_us, named, self._of_request)
        return named

    def _on_demand(
        self, row: Mapping[str, Any], as_of_us: int, named: dict[str, Any], functions: Sequence[_Function]
    ) -> None:
        if not functions:
            return
        request = {**row, "event_timestamp": _EPOCH + timedelta(microseconds=as_of_us)}
        for function in functions:
            made = function(request, named)
            for feature in function.outputs:
                named[feature] = made[feature][0]


class _Entity:
    """The views of one entity: they share a key, hence a command."""

    def __init__(self, join_keys: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self._prefix, self._columns, self._project = key_prefix(join_keys), columns, b""
        self.windowed: list[Any] = []
        self.plain: list[_Plain] = []
        self.fields: list[bytes] = []
        self.parts: list[tuple[_Plain, int, int]] = []

    def compile(self, project: bytes) -> None:
        self._project = project
        self.fields = [state_field(spec) for spec in self.windowed]
        for part in self.plain:
            self.parts.append((part, len(self.fields), len(self.fields) + len(part.fields)))
            self.fields += part.fields

    def is_asked_for(self, row: Mapping[str, Any]) -> bool:
        """Return whether the payment has a key for this entity."""
        for column in self._columns:  # noqa: SIM110  a generator would cost more than all it looks at
            if row.get(column) is None:
                return False
        return True

    def key(self, row: Mapping[str, Any]) -> bytes | None:
        """Return the Redis key, None if the payment has none."""
        if not self.is_asked_for(row):
            return None
        return self._prefix + key_values([str(row[column]) for column in self._columns]) + self._project


class _Function:
    """An on-demand function and where its inputs come from.

    `sources`: name that the function reads -> (name of the value, whether it is a feature).
    """

    def __init__(
        self, call: Transform, inputs: Sequence[tuple[str, str]], outputs: Sequence[tuple[str, str]]
    ) -> None:
        self.call = call
        self.sources: dict[str, tuple[str, bool]] = {}
        for column, view in inputs:
            self.sources[column] = (column, bool(view))
            if view:
                self.sources[f"{view}__{column}"] = (column, True)
        self.reads_features = any(view for _, view in inputs)
        self.outputs = [feature for feature, _ in outputs]
        self._asked_for: list[tuple[str, str]] | None = None

    def inputs(self, request: Mapping[str, Any], named: Mapping[str, Any]) -> Inputs:
        """Return the inputs for one payment; features of the first call are filled in, others when read."""
        made = Inputs(self.sources, request, named)
        if self._asked_for is not None:
            made.update({column: [named[name]] for column, name in self._asked_for})
        return made

    def __call__(self, request: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, list[Any]]:
        inputs = self.inputs(request, named)
        made = self.call(inputs)
        if self._asked_for is None:
            asked = [(column, *self.sources[column]) for column in dict.__iter__(inputs)]
            self._asked_for = [
                (column, name) for column, name, is_feature in asked if is_feature and name in named
            ]
        return made


class _Plain:
    def __init__(self, read: PlainRead) -> None:
        self.fields = [bytes.fromhex(field) for _, _, field in read.features] + [time_field(read.name)]
        self.feature_names = tuple(name for name, _, _ in read.features)
        self._read = read

    def finish(self, values: Sequence[bytes | None], t: int, named: dict[str, Any]) -> None:
        time = values[-1]
        stale = time is None or (self._read.ttl_us > 0 and _newest(time) < t - self._read.ttl_us)
        for (name, kind, _), value in zip(self._read.features, values, strict=False):
            named[name] = None if stale or value is None else _typed(value, kind)


@lru_cache(maxsize=200_000)
def _newest(stored: bytes) -> int:
    """Return the time of a row (us). Rows change slowly, and a cached time costs a tenth of decoding it."""
    return decode_timestamp(stored)


@lru_cache(maxsize=200_000)
def _typed(stored: bytes, kind: str) -> Any:
    value: Any = decode_value(stored)
    if value is None:
        return None
    if kind == TIME:
        return _EPOCH + timedelta(seconds=value)
    return int(value) if kind == INT else bool(value) if kind == BOOL else value


def _floats(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return values as float64 [n]; None, and a value that is not a number, is NaN."""
    try:
        numbers = array("d", [np.nan if value is None else value for value in values])
    except TypeError:
        numbers = array("d", [value if isinstance(value, int | float) else np.nan for value in values])
    return np.frombuffer(numbers, np.float64) if values else np.zeros(0)
