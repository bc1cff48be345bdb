"""Fold the log from its beginning for all empty parts in one pass.

Parts are empty after an erasure, in a new home, and when checkpoints are lost. Parts are built one after the other,
each for its own share of the log. If each of them read and cut the log, that would be as many passes as there are
parts. So the first empty part folds for all empty parts, and the others find their states made. Parts with a checkpoint
have little to read, and read for themselves (`flows.window_state.replay`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from flows.blocks import EntityKeys
from flows.log.files import Within
from flows.process import recovery
from flows.window_state.part_fold import PartFold

if TYPE_CHECKING:
    from flows.window_state.replay import LogReplay

IsEmpty = Callable[[EntityKeys, int], bool]
"""Whether a part, by entity and shard, has no checkpoint to begin from."""


@dataclass
class Rebuilt:
    """The states of one part, folded from `rows` rows of the log."""

    part: PartFold
    rows: int = 0


class ColdRebuild:
    """Builds the states of the empty parts of one process; safe to use from several workers."""

    def __init__(self, replay: LogReplay) -> None:
        self._replay = replay
        self._lock = Lock()
        self._made: dict[tuple[EntityKeys, int], Rebuilt] = {}
        self._within: Within | None = None
        options = recovery.run_options() or {}
        self._enabled = options.get("process_id") is None
        """In a cluster a process has some of the parts, and cannot know which."""

    def take(self, entity: EntityKeys, shard: int, within: Within, is_empty: IsEmpty) -> Rebuilt | None:
        """The states of an empty part, from the rows within (partition: (low, high)); each part may take its own once.

        None if the part must read the log itself: in a cluster, or if the pass was over other rows.
        """
        if not self._enabled:
            return None
        with self._lock:
            if self._within is None:
                self._within = dict(within)
                self._fold(within, is_empty)
            return self._made.pop((entity, shard), None) if self._within == within else None

    def _fold(self, within: Within, is_empty: IsEmpty) -> None:
        replay = self._replay
        for entity, specs in replay.entities.items():
            for shard in range(replay.shards):
                if is_empty(entity, shard):
                    self._made[entity, shard] = Rebuilt(PartFold(specs))
        for file in replay.files(staged=True):
            if not file.holds_some(within):
                continue
            for entity in replay.entities:
                for piece in replay.pieces(file, entity):
                    made = self._made.get((entity, piece.rows.shard))
                    if made is not None and piece.partition in within:
                        made.rows += len(made.part.fold_log(piece.between(*within[piece.partition])))
        for made in self._made.values():
            made.part.reach((partition, high) for partition, (_, high) in within.items())
