"""A log folded from nothing for all parts in one pass: after an erasure, with a new home's first bus flow, when checkpoints are lost.

Parts are built one after the other, each for its own share of the log; for each of them to read and cut it would cost as many
passes as there are parts. So the first that has nothing folds for all that have nothing, and the others find their states made. They are
the very states they would have made: a state is a function of the set of events. Parts with a checkpoint have little to read, and read
for themselves (`flows.window_state.replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock

from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import EntityKeys
from flows.log.files import LogFile, Within
from flows.process import recovery
from flows.window_state.slices import Slice, between

IsEmpty = Callable[[EntityKeys, int], bool]
"""Whether a part, by entity and shard, has no states to begin from."""


@dataclass
class Folded:
    """The states of one part, of `rows` rows of the log."""

    states: list[ViewState]
    index: KeyIndex = field(default_factory=KeyIndex)
    rows: int = 0


class Refold:
    """The states of the parts of one process; safe to use from several workers."""

    def __init__(
        self,
        entities: dict[EntityKeys, tuple[ViewSpec, ...]],
        shards: int,
        files: Callable[[], Iterable[LogFile]],
        pieces: Callable[[LogFile, EntityKeys], list[Slice]],
    ) -> None:
        self._entities, self._shards = entities, shards
        self._files, self._pieces = files, pieces
        self._lock = Lock()
        self._made: dict[tuple[EntityKeys, int], Folded] = {}
        self._of: Within | None = None
        options = recovery.run_options() or {}
        self._alone = options.get("process_id") is None
        """In a cluster a process has some of the parts, and cannot know which."""

    def take(self, entity: EntityKeys, shard: int, within: Within, is_empty: IsEmpty) -> Folded | None:
        """The states of an empty part, of the rows within; None if they are not to be had here, or no longer."""
        if not self._alone:
            return None
        with self._lock:
            if self._of is None:
                self._of = dict(within)
                self._fold(within, is_empty)
            return self._made.pop((entity, shard), None) if self._of == within else None

    def _fold(self, within: Within, is_empty: IsEmpty) -> None:
        for entity, specs in self._entities.items():
            for shard in range(self._shards):
                if is_empty(entity, shard):
                    self._made[entity, shard] = Folded([ViewState(spec) for spec in specs])
        for file in self._files():
            if not file.holds_some(within):
                continue
            for entity in self._entities:
                for piece in self._pieces(file, entity):
                    part = self._made.get((entity, piece.shard))
                    if part is not None and piece.partition in within:
                        _fold(part, between(piece, *within[piece.partition]))


def _fold(part: Folded, piece: Slice) -> None:
    slots = part.index.slots(piece.keys)
    for state, columns in zip(part.states, piece.columns, strict=True):
        state.fold(slots, columns)
    part.rows += len(slots)
