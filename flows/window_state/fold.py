"""Events into window states, and states to the online store: one part per entity and key shard, all views of the entity together.

How a part keeps its states and finds them again after a start: `flows.window_state.partition`. States of touched keys leave as rows for the
online store: at once where events come from the bus; in a run over files when many keys have gathered and at the end, since
nobody waits for the states in between. Where the store has lost writes (`flows.online.loss_detector`), all states leave once more, in pieces,
between those of touched keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from bytewax.operators import StatefulBatchLogic

from feature_repo.stores.online.script_calls import NO_CALLS
from feature_repo.windows.spec import ViewSpec
from flows import metrics
from flows.blocks import EntityKeys, Int64s
from flows.online.loss_detector import CHECK_SECONDS, Standing, StoreWatch
from flows.online.retry import send_patiently
from flows.online.rows import OnlineRows
from flows.online.writers import Projections
from flows.window_state.partition import KeyedStates, PartState, StatesContext
from flows.window_state.rate_limit import Pace, Turn
from flows.window_state.slices import Slice, part_key

GATHERED_KEYS: Final = 20_000
"""A run over files hands a part's states on when so many of its keys have changed."""
REWRITTEN_KEYS: Final = 4_000
REWRITTEN_BYTES: Final = 4_000_000
"""Most keys, and about how many bytes of their states, that leave at a time when everything is written again."""


@dataclass(frozen=True)
class FoldContext:
    """What all fold parts of a flow share."""

    states: StatesContext
    projections: Projections
    kept: tuple[ViewSpec, ...]
    """Every version of `views.json`, of all streams: what the online store is told to be kept."""
    live: bool
    """States are handed on with every block (bus), not gathered (files)."""
    pace: Pace = field(default_factory=Pace)
    watch: StoreWatch | None = None
    """Notices that the store lost writes; None where nobody looks."""


class FoldPart(StatefulBatchLogic[Slice, OnlineRows, PartState]):
    """The window states of one entity and shard."""

    def __init__(self, context: FoldContext, resumed: PartState | None) -> None:
        self._context = context
        self._resumed = resumed
        self._states: KeyedStates | None = None
        self._at_end = False
        self._turn = Turn(context.pace)
        self._standing: Standing | None = None
        self._rewritten, self._to_rewrite = 0, 0
        """Slots below the one have been written again, those up to the other are to be."""
        if resumed is not None:
            self._open(tuple(resumed["entity"]), resumed["shard"])

    def on_batch(self, values: list[Slice]) -> tuple[list[OnlineRows], bool]:
        """Fold slices; hand on the states of the keys they touched."""
        oldest = min((piece.oldest_accepted_us for piece in values if len(piece.keys)), default=0)
        while values and self._states is None:
            self._open(values[0].entity, values[0].shard)
            if self._states is None:
                values = values[1:]
        if self._states is not None:
            self._states.take(values)
        if self._context.live or (self._states is not None and len(self._states.dirty) >= GATHERED_KEYS):
            return self._hand_on(oldest), StatefulBatchLogic.RETAIN
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[OnlineRows], bool]:
        """The end of the files: hand on what has gathered, and leave a checkpoint for the flow that follows."""
        self._at_end = True
        return self._hand_on(0), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Soon, while there is work to do; when the large states that wait may leave; when to look at the store again."""
        if self._rewriting:
            return datetime.now(UTC)
        wait = CHECK_SECONDS if self._standing is not None else None
        if self._turn.at is not None:
            wait = max(self._turn.at - time.monotonic(), 0.0)
        return None if wait is None else datetime.now(UTC) + timedelta(seconds=wait)

    def on_notify(self) -> tuple[list[OnlineRows], bool]:
        """Timer: look whether the store has lost writes, go on with rewriting, emit the states that are due."""
        self._look_at_store()
        return self._rewrite() + self._hand_on(0), StatefulBatchLogic.RETAIN

    def snapshot(self) -> PartState:
        """A pointer. A part whose views were removed keeps the one it had."""
        if self._states is None:
            assert self._resumed is not None
            return self._resumed
        made = self._states.snapshot(at_end=self._at_end)
        if self._standing is not None:
            made["written"] = self._standing.number
        return made

    def _open(self, entity: EntityKeys, shard: int) -> KeyedStates | None:
        if (
            entity in self._context.states.entities
        ):  # else its views were removed: nothing comes for it any more
            self._states = KeyedStates(self._context.states, entity, shard, self._resumed)
            if self._context.watch is not None:
                written = self._resumed.get("written", 0) if self._resumed else 0
                self._stand(self._context.watch.begin(part_key(entity, shard), written))
        return self._states

    def _look_at_store(self) -> None:
        watch, standing = self._context.watch, self._standing
        if watch is not None and standing is not None and (why := watch.trouble(standing)):
            self._stand(watch.begin_anew(standing, why))

    def _stand(self, standing: Standing) -> None:
        """Begin with the store as it is: unless it has all that was sent, all states are sent."""
        self._standing = standing
        states = self._states
        if standing.whole or states is None:
            return
        self._rewritten, self._to_rewrite = 0, len(states.index)
        send_patiently(self._context.projections.publish, self._context.kept)
        if standing.gone:
            send_patiently(lambda gone: self._context.projections.unmark(gone, states.shard), states.versions)
        states.unmarked[:] = states.versions

    @property
    def _rewriting(self) -> bool:
        return self._rewritten < self._to_rewrite

    def _rewrite(self) -> list[OnlineRows]:
        """A piece of the states that are written again."""
        states = self._states
        if states is None or not self._rewriting:
            return []
        slots = np.arange(self._rewritten, min(self._rewritten + REWRITTEN_KEYS, self._to_rewrite))
        sizes = np.zeros(len(slots), np.int64)
        for state in states.states:
            sizes += state.sizes(slots)
        slots = slots[: max(int(np.searchsorted(np.cumsum(sizes), REWRITTEN_BYTES)), 1)]
        self._rewritten += len(slots)
        return [self._rows(states, slots, 0, (), new=self._standing is not None and self._standing.empty)]

    def _hand_on(self, oldest_accepted_us: int) -> list[OnlineRows]:
        states = self._states
        if states is None:
            return []
        filled = tuple(states.unmarked) if states.complete and not self._rewriting else ()
        slots = states.clean()
        if self._context.live and not (filled or self._at_end):
            slots, oldest_accepted_us = self._without_waiting(states, slots, oldest_accepted_us)
        else:
            self._turn.at = None
        if not (len(slots) or filled):
            return []
        if filled:
            states.unmarked.clear()
        return [self._rows(states, slots, oldest_accepted_us, filled)]

    def _rows(
        self,
        states: KeyedStates,
        slots: Int64s,
        oldest_accepted_us: int,
        filled: tuple[str, ...],
        *,
        new: bool = False,
    ) -> OnlineRows:
        rows, made = NO_CALLS, NO_CALLS
        if states.specs:
            projection = self._context.projections.of(states.specs)
            rows = projection.calls(states.index, states.states, slots)
            if new:
                made = projection.new(states.index, states.states, slots)
        metrics.KEYS_HELD.labels(states.label, f"{states.shard:02d}").set(len(states.index))
        mark = None
        if self._standing is not None and self._context.watch is not None:
            self._standing.count()
            if not self._rewriting:
                mark = self._standing.mark(self._context.watch.hash)
        return OnlineRows(states.entity, states.versions, rows, oldest_accepted_us, filled, mark, made)

    def _without_waiting(
        self, states: KeyedStates, slots: Int64s, oldest_accepted_us: int
    ) -> tuple[Int64s, int]:
        """The dirty slots whose states leave now, and when the oldest event among theirs was accepted; the others stay dirty.

        So a crash loses nothing: a checkpoint says which slots are dirty, and what is folded again after it becomes so.
        """
        sizes = np.zeros(len(slots), np.int64)
        for state in states.states:
            sizes += state.sizes(slots)
        wait, oldest_accepted_us = self._turn.waits(sizes, oldest_accepted_us, time.monotonic())
        states.dirty.add(slots[wait])
        return slots[~wait], oldest_accepted_us


def folding(context: FoldContext) -> Callable[[PartState | None], FoldPart]:
    """What `op.stateful_batch` builds per entity and shard."""
    return lambda state: FoldPart(context, state)
