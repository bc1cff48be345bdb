"""The window states of one entity's views and one shard of its keys: what a part of a flow keeps, and how it gets it back.

A part's snapshot is a pointer, the name of a checkpoint file, never the states. A part that starts takes every view's states from
the newest checkpoint that may be trusted with them (views need not come from the same one) and folds the rows of the log beyond it.
All that is published is durable, and folded at once; of a partition it reads itself, then the staged rows up to where the partition's
source stood when this run began (`Slice.began`).
From then on it folds what comes, in any order: a result is a function of the set of events, so the states, and a key's version
(events folded), are the same after any replay.

Used by the fold step, whose states go to the online store, and by the derive step, which asks its states about an event before
folding it (`absorb` with `ViewState.read_then_fold`). Replayed rows are only folded: what they were told then stands in the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, NotRequired, TypedDict, TypeVar

import numpy as np
import structlog

from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.columns import Events as Columns
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows import metrics
from flows.blocks import EntityKeys, Int64s
from flows.log.files import Within
from flows.settings import FlowSettings
from flows.streams import EventStream
from flows.window_state.checkpoints import BACKFILL, CheckpointFolder, run_of
from flows.window_state.dirty_slots import DirtySlots
from flows.window_state.replay import LogReplay
from flows.window_state.slices import Slice, part_key, together

log = structlog.get_logger(__name__)

Made = TypeVar("Made")

_FIRST: Final = -1
_told: set[tuple[str, ...]] = set()


class PartState(TypedDict):
    """Resume state of a part: whose states it keeps, and the checkpoint it may begin from."""

    entity: list[str]
    shard: int
    checkpoint: str | None
    written: NotRequired[int]
    """How far the part's writes to the online store had come (`flows.online.loss_detector`)."""


@dataclass(frozen=True)
class StatesContext:
    """What all parts of a step share. `prefix` sets the checkpoints of one step apart from another's (`derive`)."""

    stream: EventStream
    settings: FlowSettings
    entities: dict[EntityKeys, tuple[ViewSpec, ...]]
    replay: LogReplay
    own_partitions: AbstractSet[str]
    """The partitions this run reads; of a topic of Kafka, which may get more, those known so far."""
    run: str
    prefix: str = ""


class KeyedStates:
    """One state per view of `entity`, over one index of the shard's keys. `dirty`: slots whose states changed since `clean`."""

    def __init__(
        self, context: StatesContext, entity: EntityKeys, shard: int, resumed: PartState | None = None
    ) -> None:
        self.entity, self.shard = entity, shard
        self.specs = context.entities.get(entity, ())
        self.versions = tuple(map(version_id, self.specs))
        self.index = KeyIndex()
        self.states = [ViewState(spec) for spec in self.specs]
        self.dirty = DirtySlots()
        self.label = "-".join(filter(None, (context.prefix, "+".join(entity))))
        self._context = context
        self._offsets: list[dict[str, int]] = [{} for _ in self.specs]
        """Per view: the last offset folded of each source partition."""
        self._joined: set[str] = set()
        self.unmarked: list[str] = list(self.versions)
        """Versions whose states are complete here, of which the online store does not know it yet."""
        self._since_checkpoint = 0
        settings = context.settings
        folder = settings.checkpoints / context.stream.name
        part = part_key(entity, shard, context.prefix)
        self._folder = CheckpointFolder(folder, part, context.run, settings.key_shards)
        self._checkpoint: str | None = None
        self._written: Future[str] | None = None
        share = shard / settings.key_shards  # not all at once
        self._checkpoint_due = time.monotonic() + settings.checkpoint_seconds * (1 + share)
        published = context.replay.published_offsets()
        self._restore(resumed, published)
        self._fold_log(published)

    def take(self, pieces: Sequence[Slice]) -> None:
        """Fold slices of events of this run: together, if they may be, in order of time.

        Blocks of several partitions tell of the same time one after the other. Folded so, each but the first would be inserted among
        rows that are there already; and a fold of many costs less than many folds.
        """
        if len(pieces) > 1:
            for piece in pieces:
                self._meet(piece)
            self._take_together(pieces)
        elif pieces:
            self.absorb(pieces[0], ViewState.fold)

    def _take_together(self, pieces: Sequence[Slice]) -> None:
        keys, columns = together(pieces)
        slots = self.index.slots(keys)
        for state, events in zip(self.states, columns, strict=True):
            state.fold(slots, events)
        self._count(slots)
        for piece in pieces:
            self._note(piece)

    def absorb(self, piece: Slice, how: Callable[[ViewState, Int64s, Columns], Made]) -> list[Made]:
        """Fold a slice of events of this run by `how(state, slots, events)`; what it returned, per view.

        With `ViewState.read_then_fold` that is, per view, float64 [rows of the slice, features]: each row's features as of its time,
        from the log and the slices before. Rows stand in the order of the block the slice was cut from.
        """
        self._meet(piece)
        slots = self.index.slots(piece.keys)
        made = [how(state, slots, columns) for state, columns in zip(self.states, piece.columns, strict=True)]
        self._count(slots)
        self._note(piece)
        return made

    def _meet(self, piece: Slice) -> None:
        """Fold the log before the first slice of a partition."""
        new = {partition: began for partition, began, _ in piece.origins if partition not in self._joined}
        if new:
            self._joined.update(new)
            self._fold_log(new)

    def _note(self, piece: Slice) -> None:
        for offsets in self._offsets:
            for partition, _, last in piece.origins:
                offsets[partition] = max(offsets.get(partition, _FIRST), last)

    def clean(self) -> Int64s:
        """The slots that changed since the last call, ascending."""
        return self.dirty.take()

    @property
    def complete(self) -> bool:
        """Whether every partition of this run has been seen, and with it all of the log been folded."""
        return self._context.own_partitions <= self._joined

    def snapshot(self, *, at_end: bool = False) -> PartState:
        """A pointer; now and then a checkpoint is begun, and pointed to when it is written.

        The first and the last are waited for: nobody may ask again, since a part that gets no events takes no snapshots.
        """
        settings = self._context.settings
        if self._written is not None and (at_end or self._written.done()):
            self._checkpoint, self._written = self._written.result(), None
            self._folder.prune()
            metrics.CHECKPOINTS.labels(self.label).inc()
        due = self._since_checkpoint and (at_end or time.monotonic() >= self._checkpoint_due)
        if self._written is None and (due or self._since_checkpoint >= settings.checkpoint_events):
            what = (self.index, self.states, self._offsets, self.dirty.all())
            now = at_end or self._checkpoint is None
            if now:
                self._checkpoint = self._folder.write(*what)
                metrics.CHECKPOINTS.labels(self.label).inc()
            else:
                self._written = self._folder.begin(*what)
            if now or self._written is not None:
                self._since_checkpoint = 0
                self._checkpoint_due = time.monotonic() + settings.checkpoint_seconds
        return {"entity": list(self.entity), "shard": self.shard, "checkpoint": self._checkpoint}

    def _restore(self, resumed: PartState | None, published: dict[str, int]) -> None:
        """Each view from the checkpoint of the durable snapshot, else from the newest that another run left."""
        missing = {version_id(spec): i for i, spec in enumerate(self.specs)}
        durable = resumed["checkpoint"] if resumed else None
        if resumed is not None:
            self._folder.remove_after(durable)
        names = self._folder.names()[::-1]
        for name in [n for n in names if n == durable] + [n for n in names if n != durable]:
            if not missing:
                break
            found = self._folder.read(name, missing)
            if found is None:
                continue
            of_index = self.index.slots(found.keys) if found.views else np.empty(0, np.int64)
            for version, saved in found.views.items():
                if name == durable or self._may_be_trusted(name, saved.offsets, published):
                    i = missing.pop(version)
                    self.states[i].load(of_index, saved.blob, saved.at)
                    self._offsets[i] = dict(saved.offsets)
                    self.dirty.add(of_index[found.dirty])
            if name == durable:
                self._checkpoint = name
        if missing and durable is not None:
            _tell_once([self.specs[i].name for i in missing.values()])

    def _may_be_trusted(self, name: str, offsets: dict[str, int], published: dict[str, int]) -> bool:
        """Without a snapshot that names it, a checkpoint must not know more than the log does.

        Nor, unless it was made from the published log alone, anything of our own partitions: its epoch may never have become durable.
        """
        known = all(last <= published.get(p, _FIRST) for p, last in offsets.items())
        return known and (
            run_of(name) == BACKFILL or not any(p in self._context.own_partitions for p in offsets)
        )

    def _fold_log(self, highs: dict[str, int]) -> None:
        """Fold the rows of the log up to `highs` (partition: offset) that a view's checkpoint does not contain."""
        if not self.specs:
            return
        lows = [{p: offsets.get(p, _FIRST) for p in highs} for offsets in self._offsets]
        within = {p: (min(low[p] for low in lows), high) for p, high in highs.items()}
        within = {p: (low, high) for p, (low, high) in within.items() if low < high}
        if not within or self._take_folded(within):
            return
        for piece in self._context.replay.slices(self.entity, self.shard, within):
            slots = self.index.slots(piece.keys)
            for state, columns, low in zip(self.states, piece.columns, lows, strict=True):
                new = piece.offsets > low[piece.partition]
                if new.all():
                    state.fold(slots, columns)
                elif new.any():
                    state.fold(slots[new], columns.take(new))
            self._count(slots)
        self._reach(within)

    def _take_folded(self, within: Within) -> bool:
        """A part that has nothing finds its states made, in the pass over the log that the first of them began."""
        if len(self.index) or any(self._offsets):
            return False
        context = self._context
        folder = context.settings.checkpoints / context.stream.name

        def is_empty(entity: EntityKeys, shard: int) -> bool:
            part = part_key(entity, shard, context.prefix)
            return CheckpointFolder(folder, part, "", context.settings.key_shards).is_empty()

        found = context.replay.refold.take(self.entity, self.shard, within, is_empty)
        if found is None:
            return False
        self.index, self.states = found.index, found.states
        self._count(np.arange(len(self.index)), found.rows)
        self._reach(within)
        return True

    def _reach(self, within: Within) -> None:
        for offsets in self._offsets:
            for p, (_, high) in within.items():
                offsets[p] = max(offsets.get(p, _FIRST), high)

    def _count(self, slots: Int64s, events: int | None = None) -> None:
        """Slots that changed, by so many events: one each, unless it is said."""
        if len(slots):
            events = len(slots) if events is None else events
            self.dirty.add(slots)
            self._since_checkpoint += events
            metrics.EVENTS_FOLDED.labels(self.label).inc(events)


def _tell_once(views: list[str]) -> None:
    """A changed definition concerns every shard of its entity; the reader of the terminal needs to hear of it once."""
    if tuple(views) not in _told:
        _told.add(tuple(views))
        log.info("checkpoint.other_views", views=", ".join(views), then="folded anew from the log")
