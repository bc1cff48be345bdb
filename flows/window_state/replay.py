"""Read the log back, cut for the parts of a flow: what a part folds after a start, beyond its checkpoint.

One row per logged event and entity. All parts of a process share one reader, so that a file of the log is opened,
hashed and cut once for all shards, not once for each of them. What the reader keeps is bounded; beyond that, files are
read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import Final

import pyarrow.compute as pc

from flows.blocks import EntityKeys
from flows.log.files import LogFile, Within, log_files
from flows.settings import FlowSettings
from flows.streams import EventStream
from flows.window_state.cold_rebuild import ColdRebuild
from flows.window_state.slices import Entities, LogSlice, columns_read, cut

KEPT_ROWS: Final = 2_000_000
"""Most rows that are kept cut, of all files together."""


class LogReplay:
    """The log of one stream, cut into slices; safe to use from several workers.

    `shard_by`: columns whose shard decides the part of a row, instead of the entity's key
    (`flows.window_state.slices.cut`).
    """

    def __init__(
        self,
        stream: EventStream,
        settings: FlowSettings,
        entities: Entities,
        shard_by: EntityKeys | None = None,
    ) -> None:
        self.entities = entities
        self.shards = settings.key_shards
        self._stream = stream
        self._settings = settings
        self._shard_by = shard_by
        self._columns = sorted({*columns_read(entities), "source_partition", *(shard_by or ())})
        self._files: dict[tuple[str, int], LogFile] = {}
        self._cut: OrderedDict[tuple[str, int, EntityKeys], list[LogSlice]] = OrderedDict()
        self._kept = 0
        self._lock = Lock()
        self.cold_rebuild = ColdRebuild(self)

    def published_offsets(self) -> dict[str, int]:
        """Highest offset in the published log, by source partition."""
        highest: dict[str, int] = {}
        with self._lock:
            for file in self.files(staged=False):
                for partition, (_, last) in file.offsets().items():
                    highest[partition] = max(highest.get(partition, -1), last)
        return highest

    def slices(self, entity: EntityKeys, shard: int, within: Within) -> Iterator[LogSlice]:
        """Rows of a part with `low < offset <= high` for the partitions of `within` (partition: (low, high))."""
        with self._lock:
            files = self.files(staged=True)
        for file in files:
            with (
                self._lock
            ):  # released while the caller folds a slice, so that other parts can read meanwhile
                if not file.holds_some(within):
                    continue
                pieces = self._kept_pieces(file, entity)
            for piece in pieces:
                if piece.rows.shard != shard or piece.partition not in within:
                    continue
                wanted = piece.between(*within[piece.partition])
                if len(wanted.rows):
                    yield wanted

    def files(self, *, staged: bool) -> list[LogFile]:
        """Published files by name, with the staged ones if asked for.

        A file that was seen before keeps its footer, because a file never changes.
        """
        files = log_files(self._stream, self._settings, staged=staged)
        return [self._files.setdefault((file.name, file.written_ns), file) for file in files]

    def _kept_pieces(self, file: LogFile, entity: EntityKeys) -> list[LogSlice]:
        known = self._cut.get((file.name, file.written_ns, entity))
        if known is not None:
            return known
        pieces = self.pieces(file, entity)
        self._cut[file.name, file.written_ns, entity] = pieces
        self._kept += sum(len(piece.rows) for piece in pieces)
        while self._kept > KEPT_ROWS and len(self._cut) > 1:
            _, dropped = self._cut.popitem(last=False)
            self._kept -= sum(len(piece.rows) for piece in dropped)
        return pieces

    def pieces(self, file: LogFile, entity: EntityKeys) -> list[LogSlice]:
        """All rows of one file, cut for the parts of an entity; nothing is kept."""
        table = file.read(self._columns).combine_chunks()
        views = {entity: self.entities[entity]}
        pieces: list[LogSlice] = []
        for partition in table["source_partition"].unique().to_pylist():
            rows = table.filter(pc.equal(table["source_partition"], partition)).combine_chunks()
            offsets = rows["source_offset"].to_numpy()
            slices = cut(rows, views, self.shards, shard_by=self._shard_by)
            pieces += [LogSlice(piece, partition, offsets[piece.positions]) for piece in slices]
        return pieces
