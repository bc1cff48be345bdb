"""The rows of a block or of the log that belong to one part: cut by entity and key shard, picked, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.windows.columns import BlockColumns, Keys
from feature_repo.windows.columns import Events as Columns
from feature_repo.windows.spec import ViewSpec
from flows.blocks import EntityKeys, Int64s

Entities = dict[EntityKeys, tuple[ViewSpec, ...]]


Origin = tuple[str, int, int]
"""Of a block: its partition, where that began, and the last offset in it."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one block whose key of one entity lies in one shard; `columns` holds one entry per view.

    `began`: where the partition's source stood when this run began (`flows.blocks.RawBlock`). `rows` are the positions in the block,
    ascending; `offsets` belong to them.
    """

    entity: EntityKeys
    shard: int
    partition: str
    began: int
    last_offset: int
    oldest_accepted_us: int
    keys: Keys
    columns: tuple[Columns, ...]
    rows: npt.NDArray[np.intp]
    offsets: Int64s
    more: tuple[Origin, ...] = ()
    """Further blocks whose rows are among these, in order of time; `offsets` tells nothing then."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the rows come from."""
        return ((self.partition, self.began, self.last_offset), *self.more)


def columns_read(entities: Entities) -> set[str]:
    """What `cut` reads of a block."""
    found = {"event_timestamp", "created_timestamp", "source_offset"}
    for entity, specs in entities.items():
        found.update(entity, *((spec.id_column, *spec.columns) for spec in specs))
    return found


def last_offset(rows: pa.RecordBatch, began: int) -> int:
    """The highest offset of a block, or where its partition began."""
    return int(rows["source_offset"].to_numpy().max()) if rows.num_rows else began


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
    entities: dict[EntityKeys, tuple[ViewSpec, ...]],
    shards: int,
    partition: str = "",
    began: int = -1,
    *,
    every: bool = False,
    shard_by: EntityKeys | None = None,
    origins: Sequence[Origin] = (),
) -> list[Slice]:
    """Slices of log rows for all entities; of every shard, or of those that occur. `origins`: those of rows of several blocks.

    A row's shard is that of its key; with `shard_by`, that of those columns instead, so that the states of several entities can
    live side by side in one part.
    """
    if not entities:
        return []
    block = BlockColumns(rows)
    offsets = rows["source_offset"].to_numpy()
    accepted = block.times("created_timestamp") if rows.num_rows else np.empty(0, np.int64)
    first, *more = origins or [(partition, began, last_offset(rows, began))]
    oldest = int(accepted.min()) if len(accepted) else 0
    pieces = []
    by_time = np.argsort(block.times("event_timestamp"), kind="stable") if more and rows.num_rows else None
    given = block.keys(shard_by).shards(shards) if shard_by else None
    for entity, specs in entities.items():
        keys = block.keys(entity)
        of_row = keys.shards(shards) if given is None else given
        if by_time is None:
            order = np.argsort(of_row, kind="stable")
        else:
            order = by_time[np.argsort(of_row[by_time], kind="stable")]
        known = block.has_keys(tuple(sorted({*entity, *(shard_by or ())})))
        if not known.all():
            order = order[known[order]]
        keys = _take(keys, order)
        columns = [block.events(spec).take(order) for spec in specs]
        bounds = np.searchsorted(of_row[order], np.arange(shards + 1))
        placed = offsets[order]
        for shard in range(shards):
            a, b = int(bounds[shard]), int(bounds[shard + 1])
            if a == b and not every:
                continue
            pieces.append(
                Slice(
                    entity=entity,
                    shard=shard,
                    partition=first[0],
                    began=first[1],
                    last_offset=first[2],
                    more=tuple(more),
                    oldest_accepted_us=oldest,
                    keys=_part(keys, a, b),
                    columns=tuple(Columns(c.ints[a:b], c.floats[a:b]) for c in columns),
                    rows=order[a:b],
                    offsets=placed[a:b],
                )
            )
    return pieces


def between(piece: Slice, low: int, high: int) -> Slice:
    """The rows with `low < offset <= high`."""
    wanted = (piece.offsets > low) & (piece.offsets <= high)
    return piece if wanted.all() else pick(piece, wanted)


def pick(piece: Slice, rows: npt.NDArray[np.bool_]) -> Slice:
    """The rows of a mask."""
    where = np.flatnonzero(rows)
    return replace(
        piece,
        keys=_take(piece.keys, where),
        columns=tuple(c.take(where) for c in piece.columns),
        rows=piece.rows[where],
        offsets=piece.offsets[where],
    )


def together(pieces: Sequence[Slice]) -> tuple[Keys, list[Columns]]:
    """Keys and columns of slices of the same views as those of one, in order of time."""
    some = [piece for piece in pieces if len(piece.keys)]
    if len(some) < 2:
        piece = some[0] if some else pieces[0]
        return piece.keys, list(piece.columns)
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
    """Keys in another order, without a loop over them."""
    starts, lengths = keys.offsets[rows], np.diff(keys.offsets)[rows]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    gather = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Keys(keys.hashes[rows], offsets, keys.data[gather])


def _part(keys: Keys, a: int, b: int) -> Keys:
    offsets = keys.offsets[a : b + 1]
    return Keys(keys.hashes[a:b], offsets - offsets[0], keys.data[offsets[0] : offsets[-1]])
