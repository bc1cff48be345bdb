"""The window states of one part of a flow, and how a start builds them again.

A part has the views of one entity for the keys of one shard. A part's snapshot is a pointer, the name of a checkpoint
file, never the states. A part that starts takes every view's states from the newest checkpoint that can be trusted with
them (views need not come from the same one), and folds the rows of the log beyond it. Every published row is durable
and is folded at once. Of a partition that this run reads, the staged rows follow, up to the offset at which the
partition's source began (`Origin.began`). From then on the part folds what arrives, in any order: a state is a function
of the set of events, so the states, and a key's version (its number of folded events), are the same after any replay.

Used by the fold step, whose states go to the online store, and by the derive step, which reads the features of an event
before it folds the event (`KeyedStates.read_then_fold`). Replayed rows are only folded: their derived columns are in
the log already.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, NotRequired, TypedDict

import structlog

from feature_repo.windows.arrays import Floats
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows import metrics
from flows.blocks import EntityKeys, Int64s
from flows.log.files import Within
from flows.settings import FlowSettings
from flows.streams import EventStream
from flows.window_state.checkpoints import BACKFILL, CheckpointFolder, run_of
from flows.window_state.dirty_slots import DirtySlots
from flows.window_state.part_fold import NOTHING_FOLDED, PartFold
from flows.window_state.replay import LogReplay
from flows.window_state.slices import Entities, LiveSlice, part_key, together

log = structlog.get_logger(__name__)

_logged: Final[set[tuple[str, ...]]] = set()
"""Views of which this process has logged that their checkpoints are of other definitions."""


class PartState(TypedDict):
    """Resume state of a part: its entity and shard, and the checkpoint it begins with, None if there is none yet."""

    entity: list[str]
    shard: int
    checkpoint: str | None
    written: NotRequired[int]
    """Progress number of the part's writes to the online store (`flows.online.rollback_detector`)."""


@dataclass(frozen=True)
class StatesContext:
    """What all parts of a step share. `prefix` tells the checkpoints of one step from those of another (`derive0`)."""

    stream: EventStream
    settings: FlowSettings
    entities: Entities
    replay: LogReplay
    own_partitions: AbstractSet[str]
    """The partitions this run reads; of a Kafka topic, which may get more, those known so far."""
    run: str
    prefix: str = ""


class KeyedStates:
    """The states of one part of a running flow, with its checkpoints."""

    def __init__(
        self, context: StatesContext, entity: EntityKeys, shard: int, resumed: PartState | None = None
    ) -> None:
        self.entity, self.shard = entity, shard
        self.specs: tuple[ViewSpec, ...] = context.entities.get(entity, ())
        self.label = "-".join(filter(None, (context.prefix, "+".join(entity))))
        self._context = context
        self._part = PartFold(self.specs)
        self.versions = tuple(view.version for view in self._part.views)
        self._joined: set[str] = set()
        """Partitions of this run of which a slice has arrived, and which have therefore been folded from the log."""
        self.unannounced: list[str] = list(self.versions)
        """Versions that the online store is not known to have all states of."""
        self._since_checkpoint = 0
        settings = context.settings
        self._folder = self._folder_of(entity, shard, context.run)
        self._checkpoint: str | None = None
        self._pending: Future[str] | None = None
        """A checkpoint that is being written."""
        share = shard / settings.key_shards  # so that the parts do not write all at once
        self._checkpoint_due = time.monotonic() + settings.checkpoint_seconds * (1 + share)
        published = context.replay.published_offsets()
        self._restore(resumed, published)
        self._fold_log(published)

    @property
    def index(self) -> KeyIndex:
        """The slot of every key."""
        return self._part.index

    @property
    def states(self) -> list[ViewState]:
        """One per view, in the order of `specs`."""
        return self._part.states

    @property
    def dirty(self) -> DirtySlots:
        """Slots whose states have changed since they were last taken for the online store."""
        return self._part.dirty

    @property
    def complete(self) -> bool:
        """Whether every partition of this run has joined, and the log has been folded as far as needed."""
        return self._context.own_partitions <= self._joined

    def fold(self, pieces: Sequence[LiveSlice]) -> None:
        """Fold slices of events of this run, at least one: together, in order of event time.

        Blocks of several partitions cover the same time. Folded one after the other, each but the first would be
        inserted among rows that are there already, and one fold of many rows costs less than many folds.
        """
        self._join(pieces)
        keys, columns = together([piece.rows for piece in pieces])
        slots = self.index.slots(keys)
        for state, events in zip(self.states, columns, strict=True):
            state.fold(slots, events)
        self._arrived(pieces, slots)

    def read_then_fold(self, piece: LiveSlice) -> list[Floats]:
        """Fold a slice of events of this run, and return the features of each row as of its event time.

        Per view float64[rows of the slice, features]. A feature counts the log, the slices before, and the earlier rows
        of this one.
        """
        self._join([piece])
        slots = self.index.slots(piece.rows.keys)
        made = [
            state.read_then_fold(slots, columns)
            for state, columns in zip(self.states, piece.rows.columns, strict=True)
        ]
        self._arrived([piece], slots)
        return made

    def _join(self, pieces: Sequence[LiveSlice]) -> None:
        """Fold the log of partitions that are met for the first time."""
        new = {
            origin.partition: origin.began
            for piece in pieces
            for origin in piece.origins
            if origin.partition not in self._joined
        }
        if new:
            self._joined.update(new)
            self._fold_log(new)

    def _arrived(self, pieces: Sequence[LiveSlice], slots: Int64s) -> None:
        self.dirty.add(slots)
        self._count(len(slots))
        self._part.reach(
            [(origin.partition, origin.last_offset) for piece in pieces for origin in piece.origins]
        )

    def snapshot(self, *, at_end: bool = False) -> PartState:
        """The resume state; now and then this begins a checkpoint, which the state names as soon as it is written.

        The first checkpoint, and the one at the end of the input, are written before this returns: a part that gets no
        more events is not asked for snapshots any more.
        """
        settings = self._context.settings
        if self._pending is not None and (at_end or self._pending.done()):
            self._checkpoint, self._pending = self._pending.result(), None
            self._folder.prune()
            metrics.CHECKPOINTS.labels(self.label).inc()
        due = self._since_checkpoint and (at_end or time.monotonic() >= self._checkpoint_due)
        if self._pending is None and (due or self._since_checkpoint >= settings.checkpoint_events):
            self._begin_checkpoint(wait=at_end or self._checkpoint is None)
        return {"entity": list(self.entity), "shard": self.shard, "checkpoint": self._checkpoint}

    def _begin_checkpoint(self, *, wait: bool) -> None:
        part = self._part
        if wait:
            self._checkpoint = part.save(self._folder)
            metrics.CHECKPOINTS.labels(self.label).inc()
        else:
            self._pending = self._folder.begin(part.index, part.states, part.offsets, part.dirty.all())
        if wait or self._pending is not None:
            self._since_checkpoint = 0
            self._checkpoint_due = time.monotonic() + self._context.settings.checkpoint_seconds

    def _restore(self, resumed: PartState | None, published: Mapping[str, int]) -> None:
        """Load each view from the checkpoint that the durable snapshot names, else from another.

        The newest that can be trusted is taken.
        """
        durable = resumed["checkpoint"] if resumed else None
        if resumed is not None:
            self._folder.remove_after(durable)

        def trusted(name: str, offsets: Mapping[str, int]) -> bool:
            return name == durable or self._is_within_log(name, offsets, published)

        names = self._folder.names()[::-1]
        names.sort(key=lambda name: name != durable)  # the durable one first, then the newest first
        loaded = self._part.restore(self._folder, names, trusted)
        if durable in loaded.values():
            self._checkpoint = durable
        missing = tuple(view.spec.name for view in self._part.views if view.version not in loaded)
        if missing and durable is not None and missing not in _logged:
            _logged.add(missing)  # it concerns every shard of the entity; once is enough
            log.info("checkpoint.other_views", views=", ".join(missing), then="folded from the whole log")

    def _is_within_log(self, name: str, offsets: Mapping[str, int], published: Mapping[str, int]) -> bool:
        """Whether a checkpoint that no snapshot names holds durable events only.

        It must not be further than the published log. It must hold nothing of the partitions this run reads, because
        its epoch may never have become durable; except if a backfill made it, from the published log alone.
        """
        known = all(last <= published.get(p, NOTHING_FOLDED) for p, last in offsets.items())
        return known and (run_of(name) == BACKFILL or self._context.own_partitions.isdisjoint(offsets))

    def _fold_log(self, highs: Mapping[str, int]) -> None:
        """Fold the rows of the log up to `highs` (last offset by partition) that a view does not contain yet."""
        views = self._part.views
        if not views:
            return
        within = {p: (min(view.last(p) for view in views), high) for p, high in highs.items()}
        within = {p: (low, high) for p, (low, high) in within.items() if low < high}
        if not within or self._take_rebuilt(within):
            return
        for piece in self._context.replay.slices(self.entity, self.shard, within):
            self._count(len(self._part.fold_log(piece)))
        self._part.reach((partition, high) for partition, (_, high) in within.items())

    def _take_rebuilt(self, within: Within) -> bool:
        """Whether this part was empty and got its states from the one pass over the log that all empty parts share."""
        if not self._part.is_empty:
            return False

        def is_empty(entity: EntityKeys, shard: int) -> bool:
            return self._folder_of(entity, shard, "").is_empty()

        found = self._context.replay.cold_rebuild.take(self.entity, self.shard, within, is_empty)
        if found is None:
            return False
        self._part = found.part
        self._count(found.rows)
        return True

    def _folder_of(self, entity: EntityKeys, shard: int, run: str) -> CheckpointFolder:
        context = self._context
        folder = context.settings.checkpoints / context.stream.name
        part = part_key(entity, shard, context.prefix)
        return CheckpointFolder(folder, part, run, context.settings.key_shards)

    def _count(self, events: int) -> None:
        if events:
            self._since_checkpoint += events
            metrics.EVENTS_FOLDED.labels(self.label).inc(events)
