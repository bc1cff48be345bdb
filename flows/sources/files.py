"""Files as a source: a backfill is the same flow, over Parquet or JSON-lines files, to their end.

Unit of parallelism: the file. Delivery: exactly once into everything that snapshots with the flow; the offset of an
event is its row (or line) number, and reading resumes in the middle of a file.

A partition is called `file:<name>:<fingerprint>`, so that a file whose content has changed is another partition, and
its rows are not mistaken for those of the old file. Reading the same files again resumes at their end and adds nothing.

The last rows count only when their epoch is durable, so a partition at its end sends heartbeats for two more epochs.
Bytewax leaves an epoch only when the epoch before is durable: after the first of the two, the files
staged with the last rows may be published, and the second begins after they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from feature_repo.errors import DataError, SettingsError
from flows import metrics
from flows.blocks import BLOCK_BYTES, EPOCH_BYTES, ArrowBlock, RawBlock, SourceBlock
from flows.settings import FlowSettings

_EPOCHS_AFTER_END: Final = 2
_EDGE_BYTES: Final = 65_536
_EMPTY: Final = np.empty(0, np.int64)
_NAP: Final = timedelta(milliseconds=2)

FilePosition = tuple[int, int]
"""Resume state: rows (lines) read, and for JSON lines the byte at which the next line begins."""


def part_name(path: Path) -> str:
    """Return the partition name of a file, with a fingerprint of its size, its head and its tail (Parquet's footer)."""
    digest = hashlib.blake2b(digest_size=4)
    with path.open("rb") as file:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(size - _EDGE_BYTES, 0))
        digest.update(file.read(_EDGE_BYTES))
    return f"file:{path.name}:{digest.hexdigest()}"


def count_rows(path: Path) -> int:
    """Count the events in a file: rows by its Parquet footer, or lines that are not empty."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as file:
        return sum(1 for line in file if line.rstrip(b"\r\n"))


class FileSource(FixedPartitionedSource[SourceBlock, FilePosition]):
    """Files of one stream. Raises `SettingsError` for a missing file or one given twice."""

    def __init__(self, paths: tuple[Path, ...], settings: FlowSettings) -> None:
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise SettingsError(
                "no such file",
                where=", ".join(missing),
                todo="check MILLSTREAM_SOURCE_FILES, separated like PATH",
            )
        self.paths = {part_name(path): path for path in paths}
        if len(self.paths) < len(paths):
            raise SettingsError(
                "the same file is given twice",
                where=", ".join(str(path) for path in paths),
                todo="name each file once",
            )
        self._settings = settings

    def list_parts(self) -> list[str]:
        """Return all files: every worker is expected to see them."""
        return list(self.paths)

    def build_part(self, step_id: str, for_part: str, resume_state: FilePosition | None) -> FilePartition:
        """Begin at the row the durable state names."""
        del step_id
        position = resume_state or (0, 0)
        epoch_bytes = EPOCH_BYTES // len(self.paths)
        return FilePartition(for_part, self.paths[for_part], position, self._settings, epoch_bytes)


class FilePartition(StatefulSourcePartition[SourceBlock, FilePosition]):
    """One file, read from a row to its end."""

    def __init__(
        self,
        part: str,
        path: Path,
        position: FilePosition,
        settings: FlowSettings,
        epoch_bytes: int = EPOCH_BYTES,
    ) -> None:
        self._part = part
        self._epoch_bytes = epoch_bytes
        self._position = position
        self._began = position[0] - 1
        self._settings = settings
        self._in_epoch = self._bytes_in_epoch = 0
        self._heartbeat_due = True
        self._epochs_after_end = -1
        self._awake: datetime | None = None
        self._blocks = self._parquet(path) if path.suffix == ".parquet" else self._lines(path)

    def next_batch(self) -> list[SourceBlock]:
        """Return at most one block; a heartbeat in each epoch without one. Ends two epochs after the last row."""
        self._awake = None
        full = self._in_epoch >= self._settings.epoch_events or self._bytes_in_epoch >= self._epoch_bytes
        if not full and self._epochs_after_end < 0:
            block = next(self._blocks, None)
            if block is not None:
                if isinstance(block, RawBlock):
                    rows = len(block.payloads)
                    self._bytes_in_epoch += sum(map(len, block.payloads))
                else:
                    rows = block.rows.num_rows
                self._in_epoch += rows
                self._heartbeat_due = False
                metrics.EVENTS_IN.labels(self._part).inc(rows)
                return [block]
            self._epochs_after_end = 0
        if self._epochs_after_end >= _EPOCHS_AFTER_END:
            raise StopIteration
        self._awake = datetime.now(UTC) + _NAP
        if self._heartbeat_due:
            self._heartbeat_due = False
            return [RawBlock(self._part, self._began, _EMPTY, None, [])]
        return []

    def next_awake(self) -> datetime | None:
        """Return None (at once), or a time while the epoch is full or the last rows are not durable yet."""
        return self._awake

    def snapshot(self) -> FilePosition:
        """Return the position after the last block and open the next epoch."""
        self._in_epoch = self._bytes_in_epoch = 0
        self._heartbeat_due = True
        if self._epochs_after_end >= 0:
            self._epochs_after_end += 1
        return self._position

    def _parquet(self, path: Path) -> Iterator[SourceBlock]:
        try:
            with pq.ParquetFile(path) as file:
                skip, first = self._position[0], 0
                groups: list[int] = []
                for group in range(file.metadata.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if groups or first + rows > skip:
                        groups.append(group)
                    else:
                        first += rows
                for batch in file.iter_batches(self._settings.file_block_events, row_groups=groups):
                    begin = max(skip - first, 0)
                    rows = batch.slice(begin)
                    if rows.num_rows:
                        self._position = (first + batch.num_rows, 0)
                        yield ArrowBlock(self._part, self._began, first + begin, rows)
                    first += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"the file cannot be read as Parquet: {error}",
                where=path,
                todo="write it again, then start over",
            ) from error

    def _lines(self, path: Path) -> Iterator[SourceBlock]:
        number, place = self._position
        with path.open("rb") as file:
            file.seek(place)
            offsets: list[int] = []
            payloads: list[bytes] = []
            size = 0
            for line in file:
                place += len(line)
                text = line.rstrip(b"\r\n")
                if text:
                    offsets.append(number)
                    payloads.append(text)
                    size += len(text)
                number += 1
                if len(payloads) >= self._settings.block_events or size >= BLOCK_BYTES:
                    self._position = (number, place)
                    yield RawBlock(self._part, self._began, np.array(offsets, np.int64), None, payloads)
                    offsets, payloads, size = [], [], 0
            if payloads:
                self._position = (number, place)
                yield RawBlock(self._part, self._began, np.array(offsets, np.int64), None, payloads)
