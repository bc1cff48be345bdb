"""Windowed features of entity rows from the event log: one scan per log and key, one sort, one pass.

The result has one row of values per entity row, in order, as of the row's time. Only the columns that the views read
and the rows of requested keys are kept in memory, as flat arrays. If these exceed `PASS_BYTES`, they are processed in
hash partitions of the key, with one scan each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.errors import LogError
from feature_repo.stores.event_log.read import count_rows, log_files, scan_log
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history.answer import EventColumns, answer
from feature_repo.windows.history.dense_ids import UNKNOWN
from feature_repo.windows.history.queries import Queries
from feature_repo.windows.history.view import HistoryView
from feature_repo.windows.spec import ViewSpec

PASS_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class Lookup:
    """A view to compute: its spec, its log, and the entity columns of its sorted join keys.

    `created_column` is the column of acceptance times, None if they do not matter.
    """

    spec: ViewSpec
    log: Path
    entity_columns: tuple[str, ...]
    created_column: str | None


def point_in_time(
    lookups: Sequence[Lookup], rows: pa.Table, times: Ints, pass_bytes: int = PASS_BYTES
) -> Iterator[tuple[int, Floats]]:
    """Yield, per lookup, its position and float64 [rows, features] (null = NaN).

    Features are in the order of `spec.feature_names`. Lookups are returned as each is finished, not in the given
    order, so that not all results are in memory at once.

    A row with a null in its key has null for every feature, counts and sums included. Lookups with the same log, keys
    and clock share scans. Raises `LogError` for a column that the log does not have.
    """
    groups: dict[Any, list[int]] = {}
    for i, look in enumerate(lookups):
        groups.setdefault(
            (look.log, look.spec.join_keys, look.entity_columns, look.created_column, look.spec.id_column), []
        ).append(i)
    for members in groups.values():
        yield from zip(members, _look_up([lookups[i] for i in members], rows, times, pass_bytes), strict=True)


def _look_up(lookups: Sequence[Lookup], rows: pa.Table, times: Ints, pass_bytes: int) -> Iterator[Floats]:
    first = lookups[0]
    entities = BlockColumns(rows.select(list(dict.fromkeys(first.entity_columns))))
    hashes, has_key = entities.key_hashes(first.entity_columns), entities.has_keys(first.entity_columns)
    log = _Log(lookups, int(times.min()) if len(times) else 0, int(times.max()) if len(times) else 0)
    views = [HistoryView(look.spec, len(times), log.values, log.hashed) for look in lookups]
    passes = max(1, -(-log.n_bytes // pass_bytes))
    partition = hashes[:, 0].view(np.uint64) % np.uint64(passes)
    for number in range(passes):
        queries = Queries(hashes, times, has_key & (partition == number))
        if len(queries.sorted.rows):
            answer(views, queries, log.events(queries))
    while views:
        yield views.pop(0).out


class _Log:
    """The part of a log that views of one key read: rows that the windows of entity rows in [first, last] can reach."""

    def __init__(self, lookups: Sequence[Lookup], first: int, last: int) -> None:
        look = lookups[0]
        specs = [look.spec for look in lookups]
        self.values = list(dict.fromkeys(name for spec in specs for name in spec.values))
        self.hashed = list(dict.fromkeys(name for spec in specs for name in spec.hashed))
        self._log, self._join_keys, self._id = look.log, look.spec.join_keys, look.spec.id_column
        self._created = look.created_column
        self._files = log_files(look.log)
        self._reach = (first - max(spec.longest_us + spec.hop_us for spec in specs), last)

    @property
    def n_bytes(self) -> int:
        """Bytes that all its rows take in memory, with their sort order."""
        words = 3 + len(self.values) + len(self.hashed) + (self._created is not None)
        return 8 * words * count_rows(self._files)

    def events(self, queries: Queries) -> EventColumns:
        """Return the events of the requested keys."""
        names = {
            "event_timestamp",
            *self._join_keys,
            *(c.removeprefix("?") for c in self.values),
            *self.hashed,
        }
        if self._created:
            names.add(self._created)
        chosen: list[npt.NDArray[np.bool_]] = []
        parts: list[list[npt.NDArray[Any]]] = []
        for block in self._blocks(sorted(names)):
            numbers = queries.key_ids(block.key_hashes(self._join_keys))
            mine = (numbers != UNKNOWN) & block.has_keys(self._join_keys)
            chosen.append(mine)
            columns: list[npt.NDArray[Any]] = [numbers, block.times("event_timestamp")]
            columns += [block.values(name) for name in self.values]
            columns += [block.hashed(name) for name in self.hashed]
            if self._created:
                columns.append(block.times(self._created))
            parts.append(columns if mine.all() else [column[mine] for column in columns])
        return self._joined(parts, chosen)

    def _joined(
        self, parts: list[list[npt.NDArray[Any]]], chosen: list[npt.NDArray[np.bool_]]
    ) -> EventColumns:
        words = len(self.hashed) + (self._created is not None)
        kinds = [np.int32, np.int64, *[np.float64] * len(self.values), *[np.int64] * words]
        none = [np.zeros(0, kind) for kind in kinds]
        columns = []
        for empty in none:
            columns.append(np.concatenate([empty, *(part[0] for part in parts)]))
            for part in parts:
                del part[0]  # so that no more than one column is there twice
        after = 2 + len(self.values)
        return EventColumns(
            columns[0],
            columns[1],
            dict(zip(self.values, columns[2:after], strict=True)),
            dict(zip(self.hashed, columns[after : after + len(self.hashed)], strict=True)),
            lambda: self._ids(chosen),
            columns[-1] if self._created else None,
        )

    def _ids(self, chosen: list[npt.NDArray[np.bool_]]) -> Ints:
        """Return the ids of the chosen events.

        They are read only when events of one key have the same time, because this is the largest column.
        """
        ids = np.concatenate([block.ids(self._id) for block in self._blocks(["event_timestamp", self._id])])
        mine = np.concatenate(chosen)
        if len(ids) != len(mine):
            msg = f"the event log had {len(mine):,} rows, and then {len(ids):,}, of the same files"
            raise LogError(
                msg,
                where=self._log,
                todo="something rewrites its files (an erasure?); ask again when it is done",
            )
        return ids[mine]

    def _blocks(self, columns: Sequence[str]) -> Iterator[BlockColumns]:
        texts = {*self._join_keys, *self.hashed}
        for batch in scan_log(self._log, columns, *self._reach, files=self._files, dictionaries=texts):
            yield BlockColumns(batch)
