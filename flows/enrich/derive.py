"""Compute derived columns (`feature_repo.enrichment.derived`) once, when an event is accepted, as data.

A column may depend on the account's own past: windows, read as of the event, over events accepted before it. So this
step keeps states, one part per shard of the stream's `derive_by` key, and blocks are split by that key first. Inside a
part everything is columnar. A level of the program is all contexts whose input columns exist, read and folded by
compiled code over the whole block, then the columns that need no more than their results.

Rows leave in the log's schema. After a restart the states are folded from the log up to the source's position
(`flows.window_state.partition`); what had been derived by then stands in the log, what was not durable is derived again
to the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from bytewax.operators import StatefulBatchLogic

from feature_repo.enrichment.derived import Derived, Step
from feature_repo.enrichment.functions import Floats
from feature_repo.windows.columns import BlockColumns, numbers
from feature_repo.windows.spec import ViewSpec
from flows.blocks import EntityKeys, Events
from flows.settings import FlowSettings
from flows.streams import EventStream
from flows.window_state.partition import KeyedStates, PartState, StatesContext
from flows.window_state.replay import LogReplay
from flows.window_state.slices import LiveSlice, cut, origin_of

Piece = tuple[int, Events]
"""A shard, and the events of a block that belong to it."""
DeriveState = dict[str, PartState]
"""Resume state of a part: the state of each of its keyed states, by `<level>:<entity>`."""
ANY_COLUMN: Final = frozenset({"", "event_id", "label_id", "event_timestamp"})


@dataclass(frozen=True)
class Level:
    """Columns computed from the results of earlier levels, then the contexts to read and fold, by entity."""

    columns: tuple[Derived, ...]
    contexts: dict[EntityKeys, tuple[ViewSpec, ...]]


def levels(program: Sequence[Step]) -> tuple[Level, ...]:
    """Split a program into as few levels as its dependencies allow.

    >>> [len(level.columns) for level in levels([Derived("a", ("amount",), abs), Derived("b", ("a",), abs)])]
    [2]
    """
    made_at: dict[str, int] = {}
    columns: dict[int, list[Derived]] = {}
    contexts: dict[int, dict[EntityKeys, list[ViewSpec]]] = {}
    for step in program:
        if isinstance(step, Derived):
            level = max((made_at.get(name, 0) for name in step.inputs), default=0)
            columns.setdefault(level, []).append(step)
            made_at[step.name] = level
            continue
        level = max((made_at.get(name, 0) for name in step.columns), default=0)
        contexts.setdefault(level, {}).setdefault(step.join_keys, []).append(step)
        made_at.update(dict.fromkeys(step.feature_names, level + 1))
    last = max([*columns, *contexts], default=-1)
    return tuple(
        Level(
            tuple(columns.get(i, ())),
            {entity: tuple(specs) for entity, specs in contexts.get(i, {}).items()},
        )
        for i in range(last + 1)
    )


@dataclass(frozen=True)
class DeriveContext:
    """Shared by all parts of a flow; one `StatesContext` per level."""

    stream: EventStream
    levels: tuple[Level, ...]
    states: tuple[StatesContext, ...]
    shards: int


def derive_context(
    stream: EventStream, settings: FlowSettings, run: str, own: AbstractSet[str]
) -> DeriveContext:
    """Prepare the stream's program for its parts."""
    made = levels(stream.program)
    states = tuple(
        StatesContext(
            stream=stream,
            settings=settings,
            entities=level.contexts,
            replay=LogReplay(stream, settings, level.contexts, shard_by=stream.derive_by),
            own_partitions=own,
            run=run,
            prefix=f"derive{i}",
        )
        for i, level in enumerate(made)
    )
    return DeriveContext(stream, made, states, settings.key_shards)


class ShardSplitter:
    """Splits joined events by the shard of the stream's `derive_by` key.

    The first block of a source partition goes to every part, so that each builds its states at once.
    """

    def __init__(self, context: DeriveContext) -> None:
        self._by = context.stream.derive_by
        self._shards = context.shards
        self._started: set[str] = set()

    def __call__(self, events: Events) -> list[tuple[str, Piece]]:
        """Return (part key, (shard, its rows in their order)) pairs."""
        first = events.partition not in self._started
        self._started.add(events.partition)
        if not (first or events.rows.num_rows):
            return []
        shards = BlockColumns(events.rows).keys(self._by).shards(self._shards)
        pieces = []
        for shard in range(self._shards):
            where = np.flatnonzero(shards == shard)
            if len(where) or first:
                rows = events.rows if len(where) == len(shards) else events.rows.take(pa.array(where))
                pieces.append((f"{shard:02d}", (shard, replace(events, rows=rows, dead=()))))
        return pieces


class HeartbeatRows:
    """Passes on heartbeats, which no shard gets: blocks without rows, in the log's schema."""

    def __init__(self, stream: EventStream) -> None:
        self._none = pa.RecordBatch.from_pylist([], schema=stream.log_schema)

    def __call__(self, events: Events) -> tuple[Events, ...]:
        """Return a block without rows for a block without rows, else nothing."""
        return () if events.rows.num_rows else (replace(events, rows=self._none, dead=()),)


class DerivePart(StatefulBatchLogic[Piece, Events, DeriveState]):
    """The derived columns of one shard."""

    def __init__(self, context: DeriveContext, resumed: DeriveState | None) -> None:
        self._context = context
        self._resumed = resumed or {}
        self._states: dict[str, KeyedStates] = {}
        self._at_end = False
        for name in self._resumed:
            level, _, entity = name.partition(":")
            keys = tuple(entity.split("+"))
            if int(level) < len(context.levels) and keys in context.levels[int(level)].contexts:
                self._keyed(int(level), keys, self._resumed[name]["shard"])

    def on_batch(self, values: list[Piece]) -> tuple[list[Events], bool]:
        """Return the blocks of the shard in the same order, in the log's schema; keeps the state."""
        return [self._derive(shard, events) for shard, events in values], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[Events], bool]:
        """Mark the end of the files, so that the next snapshot leaves a checkpoint."""
        self._at_end = True
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> DeriveState:
        """Return pointers to the states."""
        return {name: states.snapshot(at_end=self._at_end) for name, states in self._states.items()}

    def _derive(self, shard: int, events: Events) -> Events:
        known = _Columns(events.rows)
        stream, shards = self._context.stream, self._context.shards
        for i, level in enumerate(self._context.levels):
            for column in level.columns:
                known.put(column.name, column.function(*map(known.get, column.inputs)))
            if not level.contexts:
                continue
            for name in (n for specs in level.contexts.values() for s in specs for n in s.feature_names):
                known.put(name, np.full(events.rows.num_rows, np.nan))
            rows = known.with_columns(stream, level.contexts)
            slices = cut(rows, level.contexts, shards, shard_by=stream.derive_by, every=not rows.num_rows)
            for piece in (p for p in slices if p.shard == shard):
                states = self._keyed(i, piece.entity, piece.shard)
                read = states.read_then_fold(LiveSlice(piece, (origin_of(events),)))
                states.dirty.take()
                for spec, values in zip(states.specs, read, strict=True):
                    for name, column in zip(spec.feature_names, values.T, strict=True):
                        known.put_at(name, piece.positions, column)
        return replace(events, rows=known.as_logged(stream))

    def _keyed(self, level: int, entity: EntityKeys, shard: int) -> KeyedStates:
        name = f"{level}:{'+'.join(entity)}"
        if name not in self._states:
            self._states[name] = KeyedStates(
                self._context.states[level], entity, shard, self._resumed.get(name)
            )
        return self._states[name]


def derive_part(context: DeriveContext) -> Callable[[DeriveState | None], DerivePart]:
    """Return the builder for `op.stateful_batch`, one `DerivePart` per shard."""
    return lambda state: DerivePart(context, state)


class _Columns:
    """The columns of a block as float64 arrays (null is NaN), and those computed so far."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self._rows = rows
        self._made: dict[str, Floats] = {}

    def get(self, name: str) -> Floats:
        if name not in self._made:
            column = self._rows.column(name)
            if pa.types.is_timestamp(column.type):
                column = column.view(pa.int64())
            self._made[name] = numbers(column)
        return self._made[name]

    def put(self, name: str, values: Floats) -> None:
        self._made[name] = np.asarray(values, np.float64)

    def put_at(self, name: str, rows: Any, values: Floats) -> None:
        """Set some rows of an existing column."""
        self._made[name][rows] = values

    def with_columns(
        self, stream: EventStream, contexts: dict[EntityKeys, tuple[ViewSpec, ...]]
    ) -> pa.RecordBatch:
        """Return the rows with the derived columns that the contexts fold."""
        wanted = {c for specs in contexts.values() for spec in specs for c in spec.columns}
        return self._add(self._rows, wanted - set(self._rows.schema.names), stream)

    def as_logged(self, stream: EventStream) -> pa.RecordBatch:
        """Return the rows in the log's schema."""
        missing = set(stream.log_schema.names) - set(self._rows.schema.names)
        rows = self._add(self._rows, missing, stream)
        return pa.RecordBatch.from_arrays(
            [rows.column(name) for name in stream.log_schema.names], schema=stream.log_schema
        )

    def _add(self, rows: pa.RecordBatch, names: set[str], stream: EventStream) -> pa.RecordBatch:
        columns, fields = list(rows.columns), list(rows.schema)
        for name in sorted(names - ANY_COLUMN):
            field = stream.log_schema.field(name)
            values = self._made.get(name)
            if values is None:
                column = pa.nulls(rows.num_rows, field.type)
            else:
                missing = np.isnan(values)
                plain = values != 0.0 if field.type == pa.bool_() else values
                column = pa.array(plain, field.type, mask=missing)
            columns.append(column)
            fields.append(field)
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
