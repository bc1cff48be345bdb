"""Events into window states, and states to the online store: one part per entity and key shard, all views of the entity together.

How a part keeps its states and finds them again after a start: `flows.keyed_states`. States of touched keys leave as rows for the
online store: at once where events come from the bus; in a run over files when many keys have gathered and at the end, since
nobody waits for the states in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bytewax.operators import StatefulBatchLogic

from feature_repo.stores.projection import EntityProjection
from flows import metrics
from flows.keyed_states import KeyedStates, PartState, StatesContext
from flows.steps.route import EntityKeys, Slice

GATHERED_KEYS: Final = 20_000
"""A run over files hands a part's states on when so many of its keys have changed."""


@dataclass(frozen=True, slots=True)
class OnlineRows:
    """States on their way to the online store: (Redis key, script arguments) per key."""

    entity: EntityKeys
    rows: list[tuple[bytes, list[Any]]]
    oldest_accepted_us: int


@dataclass(frozen=True)
class FoldContext:
    """What all fold parts of a flow share."""

    states: StatesContext
    projections: dict[EntityKeys, EntityProjection]
    live: bool
    """States are handed on with every block (bus), not gathered (files)."""


class FoldPart(StatefulBatchLogic[Slice, OnlineRows, PartState]):
    """The window states of one entity and shard."""

    def __init__(self, context: FoldContext, resumed: PartState | None) -> None:
        self._context = context
        self._resumed = resumed
        self._states: KeyedStates | None = None
        self._at_end = False
        if resumed is not None:
            self._open(tuple(resumed["entity"]), resumed["shard"])

    def on_batch(self, values: list[Slice]) -> tuple[list[OnlineRows], bool]:
        """Fold slices; hand on the states of the keys they touched."""
        oldest = min((piece.oldest_accepted_us for piece in values if len(piece.keys)), default=0)
        for piece in values:
            states = self._states or self._open(piece.entity, piece.shard)
            if states is not None:
                states.take(piece)
        if self._context.live or (self._states is not None and len(self._states.dirty) >= GATHERED_KEYS):
            return self._hand_on(oldest), StatefulBatchLogic.RETAIN
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[OnlineRows], bool]:
        """The end of the files: hand on what has gathered, and leave a checkpoint for the flow that follows."""
        self._at_end = True
        return self._hand_on(0), StatefulBatchLogic.RETAIN

    def snapshot(self) -> PartState:
        """A pointer. A part whose views were removed keeps the one it had."""
        if self._states is None:
            assert self._resumed is not None
            return self._resumed
        return self._states.snapshot(at_end=self._at_end)

    def _open(self, entity: EntityKeys, shard: int) -> KeyedStates | None:
        if (
            entity in self._context.states.entities
        ):  # else its views were removed: nothing comes for it any more
            self._states = KeyedStates(self._context.states, entity, shard, self._resumed)
        return self._states

    def _hand_on(self, oldest_accepted_us: int) -> list[OnlineRows]:
        states = self._states
        if states is None or not states.dirty:
            return []
        rows = self._context.projections[states.entity].rows(states.index, states.states, states.clean())
        metrics.KEYS_HELD.labels(states.label, f"{states.shard:02d}").set(len(states.index))
        return [OnlineRows(states.entity, rows, oldest_accepted_us)]


def folding(context: FoldContext) -> Callable[[PartState | None], FoldPart]:
    """What `op.stateful_batch` builds per entity and shard."""
    return lambda state: FoldPart(context, state)
