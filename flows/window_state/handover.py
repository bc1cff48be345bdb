"""A version of a view on its way into a running part: from a backfill's checkpoint, then the log, then what came meanwhile.

The work is cut into small pieces, so that the part's other views go on being fresh. New events of the version are held until the
rest is there; order does not matter to a fold, only that every event is folded once. Rows of the log are read when the
source has gone far enough that all of them are durable (`flows.blocks.RawBlock.settled`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.columns import Events as Columns
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import Int64s
from flows.window_state.checkpoints import BACKFILL, CheckpointFolder, run_of
from flows.window_state.dirty_slots import DirtySlots
from flows.window_state.replay import LogReplay
from flows.window_state.slices import Slice

LOADED_AT_ONCE: Final = 2_000
"""Keys taken from a checkpoint in one piece of work."""
_FIRST: Final = -1


class Adoption:
    """One version and part. `since` is the generation that brought it; `changed` are the slots not on line as they are here."""

    def __init__(
        self,
        spec: ViewSpec,
        since: int,
        *,
        shard: int,
        index: KeyIndex,
        folder: CheckpointFolder,
        replay: LogReplay,
        own_partitions: AbstractSet[str],
    ) -> None:
        self.spec, self.since = spec, since
        self.version = version_id(spec)
        self.state = ViewState(spec)
        self.offsets: dict[str, int] = {}
        self.changed = DirtySlots()
        self.done = False
        self._shard, self._index, self._folder, self._replay = shard, index, folder, replay
        self._own = own_partitions
        self._held: list[tuple[Int64s, Columns]] = []
        self._held_offsets: dict[str, int] = {}
        self._highs: dict[str, int] = {}
        self._settled: set[str] = set()
        self._steps = self._work()

    def see(self, piece: Slice) -> None:
        """What a slice tells of its source: where the partition stood when it took the version up, and whether that is durable."""
        if len(piece.marks) >= self.since:
            self._highs.setdefault(piece.partition, piece.marks[self.since - 1])
        if piece.settled >= self.since:
            self._settled.add(piece.partition)

    def hold(self, piece: Slice, slots: Int64s, columns: Columns) -> None:
        """New events, to be folded when the rest is there."""
        self._held.append((slots, columns))
        last = self._held_offsets.get(piece.partition, _FIRST)
        self._held_offsets[piece.partition] = max(last, piece.last_offset)

    def work(self, seconds: float) -> None:
        """Go on for about so long; `done` says whether that was all."""
        until = time.monotonic() + seconds
        for idle in self._steps:
            if idle or time.monotonic() > until:
                return
        self.done = True

    def _work(self) -> Iterator[bool]:
        """Yields after each piece of work; True: there is nothing to do until more slices have come."""
        yield from self._load()
        while not self._own <= self._settled & self._highs.keys():
            yield True
        published = self._replay.published_offsets()
        highs = {p: last for p, last in published.items() if p not in self._own} | self._highs
        within = {p: (self.offsets.get(p, _FIRST), high) for p, high in highs.items()}
        within = {p: (low, high) for p, (low, high) in within.items() if low < high}
        if within:
            for piece in self._replay.slices(self.spec.join_keys, self._shard, within):
                self._fold(self._index.slots(piece.keys), piece.columns[0])
                yield False
        for slots, columns in self._held:
            self._fold(slots, columns)
            yield False
        for offsets in (highs, self._held_offsets):
            for p, last in offsets.items():
                self.offsets[p] = max(self.offsets.get(p, _FIRST), last)
        self._held = []

    def _load(self) -> Iterator[bool]:
        """The states a backfill left."""
        for name in self._folder.names()[::-1]:
            found = self._folder.read(name, (self.version,)) if run_of(name) == BACKFILL else None
            if found is None or self.version not in found.views:
                continue
            saved = found.views[self.version]
            slots = self._index.slots(found.keys)
            for start in range(0, len(slots), LOADED_AT_ONCE):
                end = start + LOADED_AT_ONCE
                self.state.load(slots[start:end], saved.blob, saved.at[start : end + 1])
                yield False
            self.offsets = dict(saved.offsets)
            self.changed.add(slots[found.dirty])
            return

    def _fold(self, slots: Int64s, columns: Columns) -> None:
        self.state.fold(slots, columns)
        self.changed.add(slots)
