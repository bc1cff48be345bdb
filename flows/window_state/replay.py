"""Log rows cut for the fold parts: what a part folds again after a restart, beyond its checkpoint.

One row per logged event and entity. All parts of a process share one reader, so that a file of the log is opened, hashed
and cut once for all shards, not once for each of them; what it keeps is bounded, beyond that files are read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Final

import pyarrow.compute as pc

from feature_repo.windows.spec import ViewSpec
from flows.blocks import EntityKeys, Int64s, Mask
from flows.log.files import LogFile, Within, log_files
from flows.settings import FlowSettings
from flows.streams import EventStream
from flows.window_state.rebuild import Refold
from flows.window_state.slices import Slice, between, columns_read, cut

KEPT_ROWS: Final = 2_000_000

Wanted = Callable[[str, Int64s], Mask]
"""Source partition and offsets in, mask of the rows to fold out."""


class LogReplay:
    """The log of one stream, cut into slices; safe to use from several workers."""

    def __init__(
        self,
        stream: EventStream,
        settings: FlowSettings,
        entities: dict[EntityKeys, tuple[ViewSpec, ...]],
        shard_by: EntityKeys | None = None,
    ) -> None:
        self._stream = stream
        self._settings = settings
        self._entities = entities
        self._shard_by = shard_by
        self._columns = sorted({*columns_read(entities), "source_partition", *(shard_by or ())})
        self._files: dict[tuple[str, int], LogFile] = {}
        self._cut: OrderedDict[tuple[str, int, EntityKeys], list[Slice]] = OrderedDict()
        self._kept = 0
        self._lock = Lock()
        self.refold = Refold(entities, settings.key_shards, lambda: self._list(staged=True), self.pieces)
        """For parts that have nothing, in one pass."""

    def published_offsets(self) -> dict[str, int]:
        """Highest offset in the published log per source partition."""
        highest: dict[str, int] = {}
        with self._lock:
            for file in self._list(staged=False):
                for partition, (_, last) in file.offsets().items():
                    highest[partition] = max(highest.get(partition, -1), last)
        return highest

    def slices(self, entity: EntityKeys, shard: int, within: Within) -> Iterator[Slice]:
        """Rows of a part with `low < offset <= high` for the partitions of `within` (partition: (low, high))."""
        with self._lock:
            files = self._list(staged=True)
        for file in files:
            with (
                self._lock
            ):  # not while a piece is folded: whoever takes its time over that must not stop the others
                if not file.holds_some(within):
                    continue
                pieces = self._pieces(file, entity)
            for piece in pieces:
                if piece.shard != shard or piece.partition not in within or not len(piece.offsets):
                    continue
                wanted = between(piece, *within[piece.partition])
                if len(wanted.offsets):
                    yield wanted

    def _list(self, *, staged: bool) -> list[LogFile]:
        """Files by name; one seen before keeps its footer, for a file never changes."""
        files = log_files(self._stream, self._settings, staged=staged)
        return [self._files.setdefault((file.name, file.written_ns), file) for file in files]

    def _pieces(self, file: LogFile, entity: EntityKeys) -> list[Slice]:
        known = self._cut.get((file.name, file.written_ns, entity))
        if known is not None:
            return known
        pieces = self.pieces(file, entity)
        self._cut[file.name, file.written_ns, entity] = pieces
        self._kept += sum(len(piece.offsets) for piece in pieces)
        while self._kept > KEPT_ROWS and len(self._cut) > 1:
            _, dropped = self._cut.popitem(last=False)
            self._kept -= sum(len(piece.offsets) for piece in dropped)
        return pieces

    def pieces(self, file: LogFile, entity: EntityKeys) -> list[Slice]:
        """All rows of one file, cut for the parts of an entity; nothing is kept."""
        table = file.read(self._columns).combine_chunks()
        pieces: list[Slice] = []
        for partition in table["source_partition"].unique().to_pylist():
            rows = table.filter(pc.equal(table["source_partition"], partition)).combine_chunks()
            views = {entity: self._entities[entity]}
            pieces += cut(rows, views, self._settings.key_shards, partition, shard_by=self._shard_by)
        return pieces
