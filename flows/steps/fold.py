"""Events into window states: one part per entity and key shard, all views of the entity folded together.

The snapshot is a pointer, the name of a checkpoint file, never the states. A part that starts loads that checkpoint and
folds the rows of the log beyond it: of a partition it reads itself up to where its source stood (`after` of the first
block), of partitions that other runs logged (a backfill, before the bus flow first started) all that is published. Of its own,
published and staged files both count. From then on it folds what comes. A result is a function of the set of events, so neither the
order nor the way in matters, and a key's version (events folded) is the same after any replay.

States of touched keys leave as rows for the online store: at once where events come from the bus; in a run over files
when many keys have gathered and at the end, since nobody waits for the states in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import numpy as np
import structlog
from bytewax.operators import StatefulBatchLogic

from feature_repo.stores.projection import EntityProjection
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows import metrics
from flows.blocks import Int64s
from flows.checkpoints import CheckpointFolder
from flows.replay import LogReplay
from flows.settings import FlowSettings
from flows.steps.route import EntityKeys, Slice, part_key
from flows.streams import EventStream

log = structlog.get_logger(__name__)

GATHERED_KEYS: Final = 20_000
"""A run over files hands a part's states on when so many of its keys have changed."""
_FIRST: Final = -1
_LAST: Final = 2**63 - 1


class FoldState(TypedDict):
    """Resume state of a part: its checkpoint, and what it had folded (for the checks of the next start)."""

    entity: list[str]
    shard: int
    checkpoint: str | None
    offsets: dict[str, int]


@dataclass(frozen=True, slots=True)
class OnlineRows:
    """States on their way to the online store: (Redis key, script arguments) per key."""

    entity: EntityKeys
    rows: list[tuple[bytes, list[Any]]]
    oldest_accepted_us: int


@dataclass(frozen=True)
class FoldContext:
    """What all parts of a flow share."""

    stream: EventStream
    settings: FlowSettings
    entities: dict[EntityKeys, tuple[ViewSpec, ...]]
    projections: dict[EntityKeys, EntityProjection]
    replay: LogReplay
    own_partitions: frozenset[str]
    run: str
    live: bool
    """States are handed on with every block (bus), not gathered (files)."""


class FoldPart(StatefulBatchLogic[Slice, OnlineRows, FoldState]):
    """The window states of one entity and shard."""

    def __init__(self, context: FoldContext, resumed: FoldState | None) -> None:
        self._context = context
        self._resumed = resumed
        self._entity: EntityKeys = ()
        self._shard = 0
        self._index = KeyIndex()
        self._states: list[ViewState] = []
        self._offsets: dict[str, int] = {}
        self._joined: set[str] = set()
        self._dirty: set[int] = set()
        self._checkpoint: str | None = None
        self._folder: CheckpointFolder | None = None
        self._since_checkpoint = 0
        self._checkpoint_due = 0.0
        self._at_end = False
        if resumed is not None:
            self._load(tuple(resumed["entity"]), resumed["shard"])

    def on_batch(self, values: list[Slice]) -> tuple[list[OnlineRows], bool]:
        """Fold slices; hand on the states of the keys they touched."""
        oldest = min((piece.oldest_accepted_us for piece in values if len(piece.keys)), default=0)
        for piece in values:
            if self._folder is None:
                self._load(piece.entity, piece.shard)
            if piece.partition not in self._joined:
                self._join(piece.partition, piece.after)
            self._fold(piece)
        if self._context.live or len(self._dirty) >= GATHERED_KEYS:
            return self._hand_on(oldest), StatefulBatchLogic.RETAIN
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[OnlineRows], bool]:
        """The end of the files: hand on what has gathered, and leave a checkpoint for the flow that follows."""
        self._at_end = True
        return self._hand_on(0), StatefulBatchLogic.RETAIN

    def snapshot(self) -> FoldState:
        """A pointer; now and then, and at the end, the checkpoint it points to."""
        due = self._since_checkpoint and (self._at_end or time.monotonic() >= self._checkpoint_due)
        if self._folder is not None and (
            due or self._since_checkpoint >= self._context.settings.checkpoint_events
        ):
            self._checkpoint = self._folder.write(
                self._index, self._specs, self._states, self._offsets, np.array(sorted(self._dirty), np.int64)
            )
            self._since_checkpoint = 0
            self._checkpoint_due = time.monotonic() + self._context.settings.checkpoint_seconds
            metrics.CHECKPOINTS.labels("+".join(self._entity)).inc()
        return {
            "entity": list(self._entity),
            "shard": self._shard,
            "checkpoint": self._checkpoint,
            "offsets": dict(self._offsets),
        }

    @property
    def _specs(self) -> tuple[ViewSpec, ...]:
        return self._context.entities[self._entity]

    def _load(self, entity: EntityKeys, shard: int) -> None:
        """The checkpoint of the durable snapshot, else one another run left; then the rows of other runs beyond it."""
        self._entity, self._shard = entity, shard
        if entity not in self._context.entities:
            return  # its views were removed: nothing comes for it any more
        context = self._context
        folder = context.settings.checkpoints / context.stream.name
        self._folder = CheckpointFolder(folder, part_key(entity, shard), context.run)
        seconds = context.settings.checkpoint_seconds
        self._checkpoint_due = time.monotonic() + seconds * (
            1 + shard / context.settings.key_shards
        )  # not all at once
        logged = context.replay.published_offsets()
        self._restore(logged)
        others = {
            p: (self._offsets.get(p, _FIRST), last)
            for p, last in logged.items()
            if p not in context.own_partitions
        }
        self._fold_log(others)

    def _restore(self, logged: dict[str, int]) -> None:
        assert self._folder is not None
        self._states = [ViewState(spec) for spec in self._specs]
        if self._resumed is not None:
            self._folder.remove_after(self._resumed["checkpoint"])
        candidates = [self._resumed["checkpoint"]] if self._resumed else self._folder.names()[::-1]
        for name in candidates:
            found = self._folder.read(name, self._specs) if name else None
            if found is None:
                continue
            # Without a snapshot of ours, a checkpoint must not know more than the log does, nor anything of our partitions.
            ours = self._context.own_partitions
            known = all(p not in ours and last <= logged.get(p, _FIRST) for p, last in found.offsets.items())
            if self._resumed is None and not known:
                continue
            self._index, self._states, self._offsets = found.index, found.states, dict(found.offsets)
            self._dirty = set(found.dirty.tolist())
            self._checkpoint = name
            return

    def _join(self, partition: str, after: int) -> None:
        """First block of a partition since the start: fold what of it is durable in the log and not in the checkpoint."""
        self._joined.add(partition)
        self._fold_log({partition: (self._offsets.get(partition, _FIRST), after)})

    def _fold_log(self, within: dict[str, tuple[int, int]]) -> None:
        within = {p: (low, high) for p, (low, high) in within.items() if low < high}
        if within:
            for piece in self._context.replay.slices(self._entity, self._shard, within):
                self._fold(piece)
            for partition, (_, high) in within.items():
                self._offsets[partition] = high

    def _fold(self, piece: Slice) -> None:
        if len(piece.keys):
            slots = self._index.slots(piece.keys)
            for state, columns in zip(self._states, piece.columns, strict=True):
                state.fold(slots, columns)
            self._dirty.update(np.unique(slots).tolist())
            self._since_checkpoint += len(slots)
            metrics.EVENTS_FOLDED.labels("+".join(self._entity)).inc(len(slots))
        self._offsets[piece.partition] = max(self._offsets.get(piece.partition, _FIRST), piece.last_offset)

    def _hand_on(self, oldest_accepted_us: int) -> list[OnlineRows]:
        if not self._dirty:
            return []
        slots: Int64s = np.array(sorted(self._dirty), np.int64)
        self._dirty = set()
        rows = self._context.projections[self._entity].rows(self._index, self._states, slots)
        metrics.KEYS_HELD.labels("+".join(self._entity), f"{self._shard:02d}").set(len(self._index))
        return [OnlineRows(self._entity, rows, oldest_accepted_us)]


def folding(context: FoldContext) -> Callable[[FoldState | None], FoldPart]:
    """What `op.stateful_batch` builds per entity and shard."""
    return lambda state: FoldPart(context, state)
