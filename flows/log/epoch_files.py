"""A sink part that writes each event exactly once into immutable Parquet files, whatever is killed and when.

Bytewax replays everything since the last durable epoch, so a file may only become visible when its epoch is durable,
and a replay must not write it again. A source leaves epoch e only when e-1 is durable; therefore, at `snapshot()` of
epoch e, everything staged in an earlier epoch may be published:

    write_batch   buffers
    snapshot      publishes the files that earlier snapshots staged (rename), stages this epoch's rows as one file
                  (write aside, fsync, rename) and returns {seq, pending}: the next number, the file just staged
    build_part    publishes `pending` again (refusing a damaged file), removes staged files of undurable epochs, and
                  refuses to start if there are published files that the recovery state does not have

Files are named `<part>-<seq>.parquet`; staging and published folder are on one file system. Each footer says which
offsets of which source partition a file holds (`millstream.offsets`), so that a restart opens only the files it needs,
and has checksums (`feature_repo.stores.event_log.checksums`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog
from bytewax.outputs import StatefulSinkPartition

from feature_repo.errors import LogError
from feature_repo.files import replaced, sync, target_of
from feature_repo.stores.event_log.checksums import CRC_KEY, UNSEALED, check, seal
from flows import metrics
from flows.process.disk import writing

log = structlog.get_logger(__name__)

ROW_GROUP_ROWS: Final = 131_072
_HEAD_ROWS: Final = 1_000
OFFSETS_KEY: Final = b"millstream.offsets"
NEWEST_KEY: Final = b"millstream.newest"
"""In a file with erased rows (`flows.erase`): the newest event time it had per source partition, for admission."""
ERASED_KEY: Final = b"millstream.erased"
"""In such a file: how many rows were erased, per source partition."""


class StagedState(TypedDict):
    """Resume state of a part: the number of its next file, and the files staged but not yet published."""

    seq: int
    pending: list[str]


@dataclass(frozen=True)
class Folders:
    """Folders of one kind of file: published for all readers, staged for the flow only."""

    stream: str
    published: Path
    staging: Path


class StagedPart(StatefulSinkPartition[pa.RecordBatch, StagedState]):
    """One writer of numbered files. Rows of an epoch go into one file, sorted by event time."""

    def __init__(
        self,
        part: str,
        folders: Folders,
        schema: pa.Schema,
        state: StagedState | None,
        on_write: Callable[[pa.Table], None] = lambda _: None,
        *,
        complete: bool = False,
    ) -> None:
        """`complete`: refuse to start if a published file is missing."""
        self._part = part
        self._folders = folders
        self._schema = schema
        self._on_write = on_write
        self._buffer: list[pa.RecordBatch] = []
        self._seq = 0 if state is None else state["seq"]
        self._pending: list[str] = [] if state is None else list(state["pending"])
        with self._writing(folders.published):
            folders.published.mkdir(parents=True, exist_ok=True)
            folders.staging.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._refuse_unknown_files(state)
            if complete:
                self._refuse_gaps()
            check(path for name in self._pending if (path := folders.staging / name).exists())
            self._publish()
            self._remove_undurable()

    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        """Buffer rows until the epoch ends."""
        self._buffer += [rows for rows in values if rows.num_rows]

    def snapshot(self) -> StagedState:
        """Publish the files of earlier epochs and stage this epoch's.

        Raises `DiskError`, and `LogError` for a lost file.
        """
        with self._writing(self._folders.published):
            self._publish()
        if self._buffer:
            self._pending = [self._stage()]
        return {"seq": self._seq, "pending": list(self._pending)}

    def _writing(self, where: Path) -> AbstractContextManager[None]:
        return writing(f"a file of {self._folders.stream}", where)

    def _stage(self) -> str:
        began = time.perf_counter()
        table = pa.Table.from_batches(self._buffer, self._schema).combine_chunks()
        self._buffer = []
        times = table["event_timestamp"].cast(pa.int64()).fill_null(0).to_numpy()
        if np.any(times[1:] < times[:-1]):
            table = table.take(pa.array(np.argsort(times, kind="stable")))
        self._on_write(table)
        notes = {OFFSETS_KEY: json.dumps(offset_ranges(table)).encode(), CRC_KEY: UNSEALED}
        table = table.replace_schema_metadata(notes)
        name = f"{self._part}-{self._seq:010d}.parquet"
        with self._writing(self._folders.staging), replaced(self._folders.staging / name) as file:
            pq.write_table(
                table, file, compression="zstd", row_group_size=ROW_GROUP_ROWS, **encodings_of(table)
            )
            seal(file)
        self._seq += 1
        metrics.EPOCH_WRITE.labels(self._folders.stream).observe(time.perf_counter() - began)
        return name

    def _publish(self) -> None:
        for name in self._pending:
            target = self._folders.published / name
            try:
                (self._folders.staging / name).rename(target)
            except FileNotFoundError:
                if not target.exists():
                    raise LogError(
                        f"file {name} of a durable epoch is neither staged nor published",
                        where=self._folders.staging,
                        todo=(
                            "put the file back if somebody moved it; else its events are only on the bus: remove "
                            "the recovery folder, the log and the staging folder together, and start over"
                        ),
                    ) from None
            else:
                metrics.FILES_PUBLISHED.labels(self._folders.stream).inc()
        if self._pending:
            sync(self._folders.published)
        self._pending = []

    def _remove_undurable(self) -> None:
        for path in self._folders.staging.iterdir():
            if _sequence(self._part, target_of(path.name) or path.name) is not None:
                log.info("log.undurable_removed", file=path.name)
                path.unlink()

    def _refuse_unknown_files(self, state: StagedState | None) -> None:
        beyond = sorted(
            path.name
            for path in self._folders.published.glob(f"{self._part}-*.parquet")
            if (_sequence(self._part, path.name) or 0) >= self._seq or state is None
        )
        if beyond:
            what = "there is no recovery state" if state is None else "the recovery state is older"
            raise LogError(
                f"{what}, but files are published ({beyond[0]}, {len(beyond)} in all): going on would write events twice",
                where=self._folders.published,
                todo=(
                    "bring back the recovery folder that belongs to this log; to begin anew, move log, staging, "
                    "dead letters, checkpoints and recovery away together"
                ),
            )

    def _refuse_gaps(self) -> None:
        """Refuse gaps in the numbers: erasures leave empty files, so a missing file was moved, lost or not restored."""
        folders = (self._folders.published, self._folders.staging)
        names = [path.name for folder in folders for path in folder.glob(f"{self._part}-*.parquet")]
        missing = sorted(set(range(self._seq)) - {_sequence(self._part, name) for name in names})
        if missing:
            raise LogError(
                f"file {self._part}-{missing[0]:010d}.parquet is missing, {len(missing)} in all, which the recovery state knows",
                where=self._folders.published,
                todo="bring them back from where they went, or a backup whose log and recovery folder were copied together",
            )


def encodings_of(table: pa.Table) -> dict[str, Any]:
    """Return Parquet encodings of columns: dictionaries for texts that repeat, differences for times and integers.

    By default the writer tries a dictionary for every column and gives it up late for ids, times and offsets, which
    never repeat. That takes half of the CPU time and nearly half of the bytes.
    """
    head = table.slice(0, _HEAD_ROWS)
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    whole = [
        field.name
        for field in table.schema
        if pa.types.is_timestamp(field.type) or pa.types.is_integer(field.type)
    ]
    return {
        "use_dictionary": [name for name in texts if 2 * len(head[name].unique()) <= len(head)],
        "column_encoding": dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
    }


def offset_ranges(table: pa.Table) -> dict[str, list[int]]:
    """Return the first and last source offset per source partition.

    >>> offset_ranges(pa.table({"source_partition": ["a", "b", "a"], "source_offset": [4, 7, 2]}))
    {'a': [2, 4], 'b': [7, 7]}
    """
    grouped = table.select(["source_partition", "source_offset"]).group_by("source_partition")
    bounds = grouped.aggregate([("source_offset", "min"), ("source_offset", "max")]).to_pylist()
    return {
        row["source_partition"]: [row["source_offset_min"], row["source_offset_max"]]
        for row in sorted(bounds, key=lambda row: str(row["source_partition"]))
    }


def count_reasons(stream: str, table: pa.Table) -> None:
    """Count dead letters by reason in the metrics."""
    for row in pc.value_counts(table["reason"]).to_pylist():
        metrics.DEAD_LETTERS.labels(stream, row["values"]).inc(row["counts"])


def _sequence(part: str, name: str) -> int | None:
    """Return the number of a file of this part, None for any other file."""
    found = re.fullmatch(re.escape(part) + r"-(\d+)\.parquet", name)
    return int(found[1]) if found else None
