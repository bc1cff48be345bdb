"""Send accepted rows to the fold parts of their keys: one item per entity and key shard.

Only shards that have rows get an item, with one exception: the first block of a source partition after a start goes to
every part, empty if need be, so that each part builds its states at once and not when its first event arrives.
"""

from __future__ import annotations

import pyarrow as pa

from feature_repo.windows.columns import times_us
from flows.blocks import Events
from flows.window_state.slices import Entities, LiveSlice, columns_read, cut, origin_of, part_key


class Router:
    """Cuts admitted events into slices; call it with the blocks of one turn of the flow.

    Blocks of a partition may come in any order and through several steps before this one. The blocks of one turn cover
    the same time, and to cut one block costs about the same whatever its size, so they are cut as one, in order of
    event time.
    """

    def __init__(self, entities: Entities, shards: int) -> None:
        self._entities = entities
        self._shards = shards
        self._columns = sorted(columns_read(entities))
        self._seen: set[str] = set()
        """Partitions whose first block has been sent to every part."""

    def __call__(self, turn: list[Events]) -> list[tuple[str, LiveSlice]]:
        """(part key, slice) for each part that has rows or must be built."""
        new = {events.partition for events in turn} - self._seen
        self._seen |= new
        blocks = [events for events in turn if events.partition in new or events.rows.num_rows]
        if not blocks:
            return []
        if len(blocks) == 1:
            rows = blocks[0].rows
        else:
            rows = pa.concat_batches([events.rows.select(self._columns) for events in blocks])
        origins = tuple(map(origin_of, blocks))
        accepted = times_us(rows["created_timestamp"])
        oldest = int(accepted.min()) if len(accepted) else 0
        slices = cut(rows, self._entities, self._shards, by_time=len(blocks) > 1, every=bool(new))
        return [(part_key(piece.entity, piece.shard), LiveSlice(piece, origins, oldest)) for piece in slices]
