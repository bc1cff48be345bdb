"""The scorer's compiled reader: one vector per payment, as of the payment's own time, without Feast.

It says which hashes and fields to fetch (`commands`), the caller fetches them in one pipelined round trip over whatever client it
has, and `vector` finishes them. The values equal `store.get_online_features` at that time, and the offline store's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_repo.errors import StateError
from feature_repo.stores.keys import (
    decode_timestamp,
    decode_value,
    key_prefix,
    key_values,
    state_field,
    time_field,
)
from feature_repo.stores.on_demand import load
from feature_repo.stores.plan import BOOL, INT, TIME, PlainRead, Plan, WindowedRead
from feature_repo.windows.header import NOTHING, check_header
from feature_repo.windows.read import (
    CAPPED,
    INCOMPLETE,
    finish_state,
    forgotten_before,
    no_state,
    read_tables,
)
from feature_repo.windows.spec import INTEGER_FUNCTIONS

Command = tuple[bytes, list[bytes]]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Vector:
    """The features of one payment, in the order of `plan.columns`.

    `values` float64, null = NaN (a string or timestamp feature is NaN here and only in `named`). `named` has Python values, a
    timestamp is a datetime in UTC, null = None: what Feast hands to on-demand functions.
    `versions` tells per windowed view how many events of its key the state had seen; `newest_us` the newest of them, None if none.
    `incomplete` and `capped` name the views whose answer is partly null, or from the newest `capacity` events only.
    """

    values: npt.NDArray[np.float64]
    named: dict[str, Any]
    versions: dict[str, int]
    newest_us: int | None
    incomplete: tuple[str, ...]
    capped: tuple[str, ...]


class Reader:
    """Compiled once from a plan. `repo` is the folder the plan's on-demand functions are loaded from; raises `DefinitionError`."""

    def __init__(self, plan: Plan, repo: Path) -> None:
        self.plan = plan
        self._project = plan.project.encode()
        self._functions = [(view, load(repo, view)) for view in plan.on_demand]
        self._windowed = [_Windowed(read) for read in plan.windowed]
        self._groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[_Windowed | _Plain]] = {}
        parts: list[_Windowed | _Plain] = [*self._windowed, *map(_Plain, plan.plain)]
        for part in parts:
            self._groups.setdefault((part.read_keys, part.entity_columns), []).append(part)
        self._fetches = []
        for (join_keys, entity_columns), parts in self._groups.items():
            self._fetches.append(
                (key_prefix(join_keys), entity_columns, [f for part in parts for f in part.fields])
            )
        self._index = {name: i for i, (name, _) in enumerate(plan.columns)}

    def commands(self, row: Mapping[str, Any]) -> list[Command]:
        """What to HMGET for a payment: one (key, fields) per entity whose columns the payment has."""
        return [
            (prefix + key_values([str(row[c]) for c in columns]) + self._project, fields)
            for prefix, columns, fields in self._fetches
            if _has_key(row, columns)
        ]

    def vector(
        self, row: Mapping[str, Any], replies: Sequence[Sequence[bytes | None]], as_of_us: int, now_us: int
    ) -> Vector:
        """Finish the replies of `commands(row)` as of `as_of_us`. Raises `StateError` for a state of another definition.

        `row` holds the request columns; its `event_timestamp` may be missing, the time is `as_of_us`. `now_us` is the wall clock when
        the replies were fetched: it tells how far back a key that is not there can be said to have had no events. A view for whose key
        the payment has no value (None, or no such column) has no reply, and null for every feature.
        """
        named: dict[str, Any] = {}
        versions: dict[str, int] = {}
        newest: int | None = None
        incomplete, capped = [], []
        present = iter(replies)
        for (_, columns), parts in self._groups.items():
            if not _has_key(row, columns):
                for part in parts:
                    named.update(dict.fromkeys(part.feature_names))
                continue
            reply = next(present)
            at = 0
            for part in parts:
                got = reply[at : at + len(part.fields)]
                at += len(part.fields)
                if isinstance(part, _Plain):
                    part.finish(got, as_of_us, named)
                    continue
                version, seen, flags = part.finish(got[0], as_of_us, now_us, named)
                versions[part.name] = version
                if seen != NOTHING and (newest is None or seen > newest):
                    newest = seen
                if flags & INCOMPLETE:
                    incomplete.append(part.name)
                if flags & CAPPED:
                    capped.append(part.name)
        self._on_demand(row, as_of_us, named)
        values = np.full(len(self._index), np.nan)
        for name, i in self._index.items():
            value = named.get(name)
            if value is not None and not isinstance(value, str | datetime):
                values[i] = value
        return Vector(values, named, versions, newest, tuple(incomplete), tuple(capped))

    def empty(self, row: Mapping[str, Any], as_of_us: int) -> Vector:
        """The vector of a payment about which nothing is stored: what an entity without history has."""
        replies = [[None] * len(fields) for _, columns, fields in self._fetches if _has_key(row, columns)]
        return self.vector(row, replies, as_of_us, as_of_us)

    def _on_demand(self, row: Mapping[str, Any], as_of_us: int, named: dict[str, Any]) -> None:
        when = _EPOCH + timedelta(microseconds=as_of_us)
        for view, function in self._functions:
            inputs: dict[str, list[Any]] = {}
            for column, source in view.inputs:
                value = [
                    named.get(column) if source else when if column == "event_timestamp" else row.get(column)
                ]
                inputs[column] = value
                if source:
                    inputs[f"{source}__{column}"] = value
            made = function(inputs)
            for feature, _ in view.outputs:
                named[feature] = made[feature][0]


class _Windowed:
    def __init__(self, read: WindowedRead) -> None:
        self.name = read.spec.name
        self.read_keys, self.entity_columns = read.spec.join_keys, read.entity_columns
        self.fields = [state_field(read.spec)]
        self.feature_names = read.spec.feature_names
        self._spec = read.spec
        self._reads, self._meta = read_tables(read.spec)
        self._features = [(a.name, a.function in INTEGER_FUNCTIONS) for a in read.spec.aggregates]
        self.finish(None, 0, 0, {})  # compile now, not in the first request

    def finish(self, state: bytes | None, t: int, now: int, named: dict[str, Any]) -> tuple[int, int, int]:
        """Put the view's values into `named`; returns (version, newest event time, flags)."""
        words = no_state(forgotten_before(self._spec, now)) if state is None else _words(state, self.name)
        if state is not None:
            check_header(words, self._spec)
        out = np.empty(len(self._features), np.float64)
        flags = int(finish_state(words, self._reads, self._meta, t, out))
        for (name, whole), value in zip(self._features, out.tolist(), strict=True):
            named[name] = None if value != value else int(value) if whole else value  # noqa: PLR0124 - NaN
        return int(words[3]), int(words[5]), flags


class _Plain:
    def __init__(self, read: PlainRead) -> None:
        self.read_keys, self.entity_columns = read.join_keys, read.entity_columns
        self.fields = [bytes.fromhex(field) for _, _, field in read.features] + [time_field(read.name)]
        self.feature_names = tuple(name for name, _, _ in read.features)
        self._read = read

    def finish(self, values: Sequence[bytes | None], t: int, named: dict[str, Any]) -> None:
        time = values[-1]
        stale = time is None or (self._read.ttl_us > 0 and decode_timestamp(time) < t - self._read.ttl_us)
        for (name, kind, _), value in zip(self._read.features, values, strict=False):
            named[name] = None if stale or value is None else _typed(decode_value(value), kind)


def _has_key(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    return all(row.get(column) is not None for column in columns)


def _typed(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == TIME:
        return _EPOCH + timedelta(seconds=value)
    return int(value) if kind == INT else bool(value) if kind == BOOL else value


def _words(state: bytes, view: str) -> npt.NDArray[np.int64]:
    if len(state) % 8:
        msg = f"the stored state of view {view!r} is not a whole number of words"
        raise StateError(msg, todo="let the flow write the key again")
    return np.frombuffer(state, np.int64)
