"""Windowed features of entity rows from the event log: one scan per log and key partition, one sort, one pass.

One row of values per entity row, in order, as of its time. Memory is bounded by the partition: a log with more rows than
`PARTITION_ROWS` is worked through in hash partitions of the key, each scan keeping only the rows of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from feature_repo.stores.log import count_rows, scan_log
from feature_repo.windows.columns import BlockColumns, Events, Floats, Ints, Keys
from feature_repo.windows.history import features_at
from feature_repo.windows.spec import ViewSpec

PARTITION_ROWS: Final = 4_000_000


@dataclass(frozen=True)
class Lookup:
    """A view to look up: its spec, its log, the entity columns for its sorted join keys, and the acceptance time column, if it counts."""

    spec: ViewSpec
    log: Path
    entity_columns: tuple[str, ...]
    created_column: str | None


def point_in_time(
    lookups: Sequence[Lookup], rows: pa.Table, times: Ints, partition_rows: int = PARTITION_ROWS
) -> list[Floats]:
    """float64 [rows, features] per lookup (null = NaN), in the order of `spec.feature_names`.

    A row with a null in its key has null for every feature, counts and sums too. Lookups that share log, keys and clock share
    scans. Raises `LogError` for a column the log does not have.
    """
    answers = [np.empty((rows.num_rows, len(look.spec.aggregates)), np.float64) for look in lookups]
    groups: dict[tuple[Path, tuple[str, ...], tuple[str, ...], str | None], list[int]] = {}
    for i, look in enumerate(lookups):
        groups.setdefault(
            (look.log, look.spec.join_keys, look.entity_columns, look.created_column), []
        ).append(i)
    for members in groups.values():
        _look_up([lookups[i] for i in members], rows, times, [answers[i] for i in members], partition_rows)
    return answers


def _look_up(
    lookups: Sequence[Lookup], rows: pa.Table, times: Ints, answers: Sequence[Floats], partition_rows: int
) -> None:
    first = lookups[0]
    entities = BlockColumns(rows.select(list(dict.fromkeys(first.entity_columns))))
    wanted, known = entities.keys(first.entity_columns), entities.has_keys(first.entity_columns)
    for answer in answers:
        answer[~known] = np.nan
    n = max(1, -(-count_rows(first.log) // partition_rows))
    shards = wanted.shards(n)
    for shard in range(n):
        mine = np.flatnonzero((shards == shard) & known)
        if len(mine) == 0:
            continue
        oldest = int(times[mine].min()) - max(look.spec.longest_us + look.spec.hop_us for look in lookups)
        keys, events, created = _scan(lookups, shard, n, oldest, int(times[mine].max()))
        part = take_keys(wanted, mine)
        for look, own_events, answer in zip(lookups, events, answers, strict=True):
            answer[mine], _ = features_at(look.spec, keys, own_events, part, times[mine], created)


def _scan(
    lookups: Sequence[Lookup], shard: int, n_shards: int, start: int, end: int
) -> tuple[Keys, list[Events], Ints | None]:
    """The events of one key partition that windows of rows in [start, end] can reach."""
    first = lookups[0]
    columns = {"event_timestamp", *first.spec.join_keys}
    for look in lookups:
        columns |= {look.spec.id_column, *look.spec.columns}
    if first.created_column:
        columns.add(first.created_column)
    keys: list[Keys] = []
    events: list[list[Events]] = [[] for _ in lookups]
    created: list[Ints] = []
    for batch in scan_log(first.log, sorted(columns), start, end):
        block = BlockColumns(batch)
        block_keys = block.keys(first.spec.join_keys)
        mine = np.flatnonzero((block_keys.shards(n_shards) == shard) & block.has_keys(first.spec.join_keys))
        keys.append(take_keys(block_keys, mine))
        for look, part in zip(lookups, events, strict=True):
            part.append(block.events(look.spec).take(mine))
        if first.created_column:
            created.append(block.times(first.created_column)[mine])
    all_events = [_concat(look.spec, part) for look, part in zip(lookups, events, strict=True)]
    return (
        concat_keys(keys),
        all_events,
        np.concatenate(created or [np.zeros(0, np.int64)]) if first.created_column else None,
    )


def _concat(spec: ViewSpec, parts: list[Events]) -> Events:
    if not parts:
        return Events(np.zeros((0, 3 + len(spec.hashed)), np.int64), np.zeros((0, len(spec.values))))
    return Events(np.concatenate([p.ints for p in parts]), np.concatenate([p.floats for p in parts]))


def take_keys(keys: Keys, rows: Ints) -> Keys:
    """Some of the keys. Their bytes are not copied: history needs only the hashes."""
    return Keys(keys.hashes[rows], np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.uint8))


def concat_keys(parts: list[Keys]) -> Keys:
    """Keys one after another, hashes only."""
    hashes = np.concatenate([p.hashes for p in parts]) if parts else np.zeros((0, 2), np.int64)
    return Keys(hashes, np.zeros(len(hashes) + 1, np.int64), np.zeros(0, np.uint8))
