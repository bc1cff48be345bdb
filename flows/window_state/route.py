"""Accepted rows to the fold parts that keep their keys: one item per entity and key shard of a block.

A block's columns become flat arrays once, are sorted by shard once, and the items are slices of them. Only shards that
occur get an item, with one exception: the first block of a source partition after a start goes to every part, empty if need be, so that
each builds its state at once and not when its first event happens to come. A row whose key has a null component is in no window of that
entity: no part gets it.
"""

from __future__ import annotations

import pyarrow as pa

from flows.blocks import Events
from flows.window_state.slices import Entities, Slice, columns_read, cut, last_offset, part_key


class Router:
    """Cuts blocks into slices; call it with admitted events, those of one turn of the flow together.

    Blocks of a partition may come in any order and from several steps before this one; each router greets for itself. Blocks of one turn
    are cut as one: they tell of the same time one after the other, and to cut one block costs about the same whatever its size.
    """

    def __init__(self, entities: Entities, shards: int) -> None:
        self._entities = entities
        self._shards = shards
        self._greeted: set[str] = set()

    def __call__(self, turn: list[Events]) -> list[tuple[str, Slice]]:
        """(part key, slice) for each part that has something to do."""
        greeted = [self._greets(events) for events in turn]
        some = [
            (events, greet)
            for events, greet in zip(turn, greeted, strict=True)
            if greet or events.rows.num_rows
        ]
        if len(some) > 1:
            slices = self._cut_together([events for events, _ in some], every=any(greet for _, greet in some))
        else:
            slices = [piece for events, greet in some for piece in self._cut(events, every=greet)]
        return [(part_key(piece.entity, piece.shard), piece) for piece in slices]

    def _greets(self, events: Events) -> bool:
        greet = events.partition not in self._greeted
        self._greeted.add(events.partition)
        return greet

    def _cut(self, events: Events, *, every: bool) -> list[Slice]:
        return cut(
            events.rows, self._entities, self._shards, events.partition, events.origin.began, every=every
        )

    def _cut_together(self, turn: list[Events], *, every: bool) -> list[Slice]:
        names = sorted(columns_read(self._entities))
        rows = pa.concat_batches([events.rows.select(names) for events in turn])
        origins = [(e.partition, e.origin.began, last_offset(e.rows, e.origin.began)) for e in turn]
        return cut(rows, self._entities, self._shards, every=every, origins=origins)
