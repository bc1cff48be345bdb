"""Rows cut by entity and key shard: what one part of a flow folds.

A block's columns become flat arrays once, are sorted by shard once, and the slices are views of them.

    Slice       rows of one part, whatever they come from
    LiveSlice   rows on their way through a running flow, and the source positions they come from
    LogSlice    rows read back from the log, and their offsets
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.windows.columns import BlockColumns, Keys
from feature_repo.windows.columns import Events as Columns
from feature_repo.windows.spec import ViewSpec
from flows.blocks import EntityKeys, Events, Int64s

Entities = Mapping[EntityKeys, tuple[ViewSpec, ...]]
"""The views of each entity."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of one part: the shard of their key of `entity` is `shard`.

    `columns` has one entry per view of the entity: what its fold reads. `positions`: intp[n], where the rows are in the
    batch they were cut from.
    """

    entity: EntityKeys
    shard: int
    keys: Keys
    columns: tuple[Columns, ...]
    positions: npt.NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, rows: npt.NDArray[Any]) -> Slice:
        """The rows of a mask (bool[n]) or of indices."""
        where = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return Slice(
            self.entity,
            self.shard,
            _take(self.keys, where),
            tuple(c.take(where) for c in self.columns),
            self.positions[where],
        )


class Origin(NamedTuple):
    """Where rows come from: a source partition and its last offset among them.

    `began`: the offset before this run (`flows.blocks.RawBlock`).
    """

    partition: str
    began: int
    last_offset: int


@dataclass(frozen=True, slots=True)
class LiveSlice:
    """Rows of one part from one or more blocks; of several blocks in order of time.

    `oldest_accepted_us`: when the oldest event of these blocks was accepted, 0 if they have no rows.
    """

    rows: Slice
    origins: tuple[Origin, ...]
    oldest_accepted_us: int = 0


@dataclass(frozen=True, slots=True)
class LogSlice:
    """Logged rows of one part and one source partition; `offsets`: int64[n]."""

    rows: Slice
    partition: str
    offsets: Int64s

    def between(self, low: int, high: int) -> LogSlice:
        """The rows with `low < offset <= high`."""
        wanted = (self.offsets > low) & (self.offsets <= high)
        if wanted.all():
            return self
        return LogSlice(self.rows.take(wanted), self.partition, self.offsets[wanted])


def origin_of(events: Events) -> Origin:
    """The origin of a block; without rows its last offset is the one at which its partition began."""
    began = events.origin.began
    offsets = events.rows["source_offset"].to_numpy()
    return Origin(events.partition, began, int(offsets.max()) if len(offsets) else began)


def columns_read(entities: Entities) -> set[str]:
    """The columns of the log that `cut` and its callers read."""
    found = {"event_timestamp", "created_timestamp", "source_offset"}
    for entity, specs in entities.items():
        found.update(entity, *((spec.id_column, *spec.columns) for spec in specs))
    return found


def part_key(entity: EntityKeys, shard: int, prefix: str = "") -> str:
    """Key of a part; with a prefix, that of another step's part.

    >>> part_key(("account_id",), 3)
    'account_id:03'
    >>> part_key(("account_id", "device_id"), 3, "derive")
    'derive-account_id+device_id:03'
    """
    return f"{prefix}{'-' if prefix else ''}{'+'.join(entity)}:{shard:02d}"


def cut(
    rows: pa.RecordBatch | pa.Table,
    entities: Entities,
    shards: int,
    *,
    shard_by: EntityKeys | None = None,
    by_time: bool = False,
    every: bool = False,
) -> list[Slice]:
    """Cut rows into slices, one per entity and shard.

    A row whose key has a null component is in no window, and in no slice. A row's shard is that of its key; with
    `shard_by`, that of those columns instead, so that the states of several entities can be in one part. `by_time`
    orders the rows of a slice by event time, else they keep their order. `every` makes empty slices for the other
    shards.
    """
    block = BlockColumns(rows)
    by_row = np.argsort(block.times("event_timestamp"), kind="stable") if by_time and rows.num_rows else None
    given = block.keys(shard_by).shards(shards) if shard_by else None
    slices = []
    for entity, specs in entities.items():
        keys = block.keys(entity)
        shard_of = keys.shards(shards) if given is None else given
        if by_row is None:
            order = np.argsort(shard_of, kind="stable")
        else:
            order = by_row[np.argsort(shard_of[by_row], kind="stable")]
        known = block.has_keys(tuple(sorted({*entity, *(shard_by or ())})))
        if not known.all():
            order = order[known[order]]
        keys = _take(keys, order)
        columns = [block.events(spec).take(order) for spec in specs]
        bounds = np.searchsorted(shard_of[order], np.arange(shards + 1)).tolist()
        for shard, (a, b) in enumerate(pairwise(bounds)):
            if a < b or every:
                parts = tuple(Columns(c.ints[a:b], c.floats[a:b]) for c in columns)
                slices.append(Slice(entity, shard, _range(keys, a, b), parts, order[a:b]))
    return slices


def together(slices: Sequence[Slice]) -> tuple[Keys, Sequence[Columns]]:
    """Keys and columns of several slices of the same views, at least one, in order of event time."""
    some = [piece for piece in slices if len(piece)]
    if len(some) < 2:
        piece = some[0] if some else slices[0]
        return piece.keys, piece.columns
    ints = [np.concatenate(found) for found in zip(*([c.ints for c in p.columns] for p in some), strict=True)]
    floats = [
        np.concatenate(found) for found in zip(*([c.floats for c in p.columns] for p in some), strict=True)
    ]
    sizes = np.array([p.keys.offsets[-1] for p in some])
    starts = np.cumsum(sizes) - sizes
    keys = Keys(
        np.concatenate([p.keys.hashes for p in some]),
        np.concatenate(
            [np.zeros(1, np.int64), *(p.keys.offsets[1:] + s for p, s in zip(some, starts, strict=True))]
        ),
        np.concatenate([p.keys.data for p in some]),
    )
    order = np.argsort(ints[0][:, 0], kind="stable")
    return _take(keys, order), [Columns(i[order], f[order]) for i, f in zip(ints, floats, strict=True)]


def _take(keys: Keys, rows: npt.NDArray[np.intp]) -> Keys:
    """The keys of some rows, without a loop over them."""
    starts, lengths = keys.offsets[rows], np.diff(keys.offsets)[rows]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    gather = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Keys(keys.hashes[rows], offsets, keys.data[gather])


def _range(keys: Keys, first: int, end: int) -> Keys:
    """The keys of the rows from `first` to `end`, exclusive."""
    offsets = keys.offsets[first : end + 1]
    return Keys(keys.hashes[first:end], offsets - offsets[0], keys.data[offsets[0] : offsets[-1]])
