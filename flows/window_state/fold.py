"""Fold events into window states and hand changed states to the online store.

One part per entity and key shard, with all views of the entity. How a part keeps its states and builds them again after
a start: `flows.window_state.partition`. Changed states leave as rows for the online store: at once where events come
from the bus; in a run over files when many keys have changed, and at the end, because nobody reads the states in
between. If the store has lost writes (`flows.online.rollback_detector`), all states are written once more, in pieces,
between the changed ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from bytewax.operators import StatefulBatchLogic

from feature_repo.windows.spec import ViewSpec
from flows import metrics
from flows.blocks import EntityKeys, Int64s
from flows.online.retry import call_with_retry
from flows.online.rollback_detector import CHECK_SECONDS, Loss, RollbackDetector, WriteSession
from flows.online.rows import OnlineRows
from flows.online.writers import Projections
from flows.window_state.partition import KeyedStates, PartState, StatesContext
from flows.window_state.rate_limit import ByteRateLimiter, LargeStates
from flows.window_state.slices import LiveSlice, part_key

GATHERED_KEYS: Final = 20_000
"""A run over files emits a part's states when this many of its keys have changed."""
REWRITTEN_KEYS: Final = 4_000
REWRITTEN_BYTES: Final = 4_000_000
"""Most keys, and about how many bytes of their states, that are emitted at a time when everything is written again."""


@dataclass(frozen=True)
class FoldContext:
    """What all fold parts of a flow share."""

    states: StatesContext
    projections: Projections
    kept: tuple[ViewSpec, ...]
    """Every version of `views.json`, of all streams: those the online store lists as kept."""
    live: bool
    """Whether changed states are emitted with every block (bus, Kafka), or gathered (files)."""
    limiter: ByteRateLimiter = field(default_factory=ByteRateLimiter)
    detector: RollbackDetector | None = None
    """Detects that the store has lost writes; None in a run over files."""


class FoldPart(StatefulBatchLogic[LiveSlice, OnlineRows, PartState]):
    """The window states of one entity and shard."""

    def __init__(self, context: FoldContext, resumed: PartState | None) -> None:
        self._context = context
        self._resumed = resumed
        self._states: KeyedStates | None = None
        self._at_end = False
        self._large = LargeStates(context.limiter)
        self._session: WriteSession | None = None
        self._rewritten, self._to_rewrite = 0, 0
        """Slots below the first number have been written again; those up to the second are to be."""
        if resumed is not None:
            self._open(tuple(resumed["entity"]), resumed["shard"])

    def on_batch(self, values: list[LiveSlice]) -> tuple[list[OnlineRows], bool]:
        """Fold slices; emit the states of the keys they changed."""
        rows = values[0].rows
        states = self._states or self._open(rows.entity, rows.shard)
        if states is None:
            return [], StatefulBatchLogic.RETAIN
        states.fold(values)
        if not (self._context.live or len(states.dirty) >= GATHERED_KEYS):
            return [], StatefulBatchLogic.RETAIN
        oldest = min((piece.oldest_accepted_us for piece in values if len(piece.rows)), default=0)
        return self._emit(oldest), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[OnlineRows], bool]:
        """The end of the files: emit what has gathered.

        The next snapshot writes a checkpoint for the flow that follows.
        """
        self._at_end = True
        return self._emit(0), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """When to call `on_notify`.

        At once while everything is written again; else when delayed states are due, or at the next look at the store.
        """
        if self._rewriting:
            return datetime.now(UTC)
        wait = CHECK_SECONDS if self._session is not None else None
        if self._large.due is not None:
            wait = max(self._large.due - time.monotonic(), 0.0)
        return None if wait is None else datetime.now(UTC) + timedelta(seconds=wait)

    def on_notify(self) -> tuple[list[OnlineRows], bool]:
        """Timer: check whether the store has lost writes, go on with rewriting, emit the states that are due."""
        self._check_store()
        return self._rewrite() + self._emit(0), StatefulBatchLogic.RETAIN

    def snapshot(self) -> PartState:
        """The resume state. A part whose views were removed keeps the one it had."""
        if self._states is None:
            assert self._resumed is not None
            return self._resumed
        made = self._states.snapshot(at_end=self._at_end)
        if self._session is not None:
            made["written"] = self._session.number
        return made

    def _open(self, entity: EntityKeys, shard: int) -> KeyedStates | None:
        """Build the states; None if the entity has no views any more."""
        if entity not in self._context.states.entities:
            return None
        self._states = KeyedStates(self._context.states, entity, shard, self._resumed)
        if self._context.detector is not None:
            written = self._resumed.get("written", 0) if self._resumed else 0
            self._start_session(self._states, self._context.detector.start(part_key(entity, shard), written))
        return self._states

    def _check_store(self) -> None:
        detector, session, states = self._context.detector, self._session, self._states
        if detector is None or session is None or states is None:
            return
        renewed = detector.check(session)
        if renewed is not None:
            self._start_session(states, renewed)

    def _start_session(self, states: KeyedStates, session: WriteSession) -> None:
        """Write to the store in this session; if it may lack writes, begin to write all states again."""
        self._session = session
        if session.loss is Loss.NONE:
            return
        self._rewritten, self._to_rewrite = 0, len(states.index)
        projections = self._context.projections
        call_with_retry(lambda: projections.publish(self._context.kept))
        if session.loss is Loss.CERTAIN:
            call_with_retry(lambda: projections.unmark_filled(states.versions, states.shard))
        states.unannounced[:] = states.versions

    @property
    def _rewriting(self) -> bool:
        return self._rewritten < self._to_rewrite

    def _rewrite(self) -> list[OnlineRows]:
        """The next piece of the states that are written again."""
        states = self._states
        if states is None or not self._rewriting:
            return []
        slots = np.arange(self._rewritten, min(self._rewritten + REWRITTEN_KEYS, self._to_rewrite))
        sizes = np.cumsum(_sizes(states, slots))
        slots = slots[: max(int(np.searchsorted(sizes, REWRITTEN_BYTES)), 1)]
        self._rewritten += len(slots)
        return [self._rows(states, slots, 0, ())]

    def _emit(self, oldest_accepted_us: int) -> list[OnlineRows]:
        """Emit the changed states, without large ones that are not due.

        Also names the versions of which every state has been written with these.
        """
        states = self._states
        if states is None:
            return []
        filled = tuple(states.unannounced) if states.complete and not self._rewriting else ()
        slots = states.dirty.take()
        if self._context.live and not (filled or self._at_end):
            delayed, oldest_accepted_us = self._large.delay(
                _sizes(states, slots), oldest_accepted_us, time.monotonic()
            )
            # A crash loses nothing: a checkpoint lists the dirty slots, and what is folded again becomes dirty again.
            states.dirty.add(slots[delayed])
            slots = slots[~delayed]
        else:
            self._large.due = None
        if not (len(slots) or filled):
            return []
        states.unannounced = [] if filled else states.unannounced
        return [self._rows(states, slots, oldest_accepted_us, filled)]

    def _rows(
        self,
        states: KeyedStates,
        slots: Int64s,
        oldest_accepted_us: int,
        filled: tuple[str, ...],
    ) -> OnlineRows:
        """The states of these slots as commands."""
        projection = self._context.projections.of(states.specs)
        rows = projection.calls(states.index, states.states, slots)
        metrics.KEYS_HELD.labels(states.label, f"{states.shard:02d}").set(len(states.index))
        progress = None
        if self._session is not None:
            self._session.advance()
            if not self._rewriting:
                progress = self._session.progress()
        return OnlineRows(states.entity, states.versions, rows, oldest_accepted_us, filled, progress)


def _sizes(states: KeyedStates, slots: Int64s) -> Int64s:
    """Bytes of the states of these slots, of all views together: int64[n]."""
    sizes = np.zeros(len(slots), np.int64)
    for state in states.states:
        sizes += state.sizes(slots)
    return sizes


def folding(context: FoldContext) -> Callable[[PartState | None], FoldPart]:
    """What `op.stateful_batch` calls to build a part."""
    return lambda state: FoldPart(context, state)
