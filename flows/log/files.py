"""Read files of the log: the published ones, and the staged ones, which count just as much for a restart.

A flow's states are pointers into the log; at a restart they are rebuilt from its rows. A file may move from staging to
the log while it is read, so staging is listed first and a file is opened in whichever folder it is found. A staged file
may also disappear: when its flow starts, files of undurable epochs are removed, perhaps while another process reads. It
then counts as empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from feature_repo.errors import LogError
from feature_repo.stores.event_log import checksums
from flows.log.epoch_files import ERASED_KEY, NEWEST_KEY, OFFSETS_KEY, offset_ranges
from flows.settings import FlowSettings
from flows.streams import EventStream

log = structlog.get_logger(__name__)

_warned: set[Path] = set()
_TIMES: Final = pa.timestamp("us", tz="UTC")
_NO_COLUMNS: Final = pa.schema([])
Found = TypeVar("Found")
Within = dict[str, tuple[int, int]]
"""Source partition: (low, high), for the rows with `low < offset <= high`."""


class LogFile:
    """One file of the log, in whichever of `folders` it is: published first, then staged."""

    def __init__(self, name: str, folders: Sequence[Path], schema: pa.Schema | None = None) -> None:
        """`schema` is that of the stream's log, for columns that were added after the file was written."""
        self.name = name
        self._schema = schema
        self._folders = folders
        self._published = len(folders) == 1
        """Whether it was seen among the published files, which never disappear."""
        self._empty = (schema or _NO_COLUMNS).empty_table()
        self.written_ns = self._wherever(lambda path: path.stat().st_mtime_ns, lambda: 0)
        """Time of writing: differs from that of an earlier, undurable file of the same name; a rename keeps it."""
        self._metadata: pq.FileMetaData | None = None
        self._offsets: dict[str, list[int]] | None = None

    def read(self, columns: list[str], predicate: pc.Expression | None = None) -> pa.Table:
        """Read columns of the rows that a predicate selects; columns that are newer than the file are null."""
        held = set(self.columns())
        wanted = [c for c in columns if c in held]
        rows = self._wherever(
            lambda path: _rows_of(path, wanted, predicate),
            lambda: self._empty.select([c for c in wanted if c in self._empty.column_names]),
        )
        for field in self._schema or ():
            if field.name in columns and field.name not in held:
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        return rows

    def offsets(self) -> dict[str, list[int]]:
        """Return the first and last offset per source partition, from the footer, else from the rows."""
        if self._offsets is None:
            stored = (self._footer().metadata or {}).get(OFFSETS_KEY)
            if stored is None:
                self._offsets = offset_ranges(self.read(["source_partition", "source_offset"]))
            else:
                self._offsets = json.loads(stored)
        return self._offsets

    def holds_some(self, within: Within) -> bool:
        """Whether the file may hold rows `within`, by its first and last offsets."""
        held = self.offsets()
        return any(p in held and held[p][1] > low and held[p][0] <= high for p, (low, high) in within.items())

    def rows(self) -> int:
        """Return the number of events in the file."""
        return int(self._footer().num_rows)

    def columns(self) -> list[str]:
        """Return the names of the file's columns; a file keeps the columns of the version that wrote it."""
        names: list[str] = self._footer().schema.to_arrow_schema().names
        return names

    def newest_us(self) -> int:
        """Return the highest event time in the file, int64 microseconds; files are sorted by it. Erased rows count."""
        footer = self._footer()
        newest = self.newest_before_erasure()
        if newest:
            return max(newest.values())
        if not footer.num_rows:
            return -(2**63)
        column = footer.schema.to_arrow_schema().get_field_index("event_timestamp")
        last = footer.row_group(footer.num_row_groups - 1).column(column).statistics
        return int(pa.scalar(last.max, _TIMES).value)

    def newest_before_erasure(self) -> dict[str, int]:
        """Return the highest event time per source partition before rows were erased; empty if none were."""
        return self._stored(NEWEST_KEY)

    def erased(self) -> dict[str, int]:
        """Return how many rows were erased, per source partition."""
        return self._stored(ERASED_KEY)

    def _stored(self, key: bytes) -> dict[str, int]:
        stored = (self._footer().metadata or {}).get(key)
        found: dict[str, int] = json.loads(stored) if stored else {}
        return found

    def _footer(self) -> pq.FileMetaData:
        if self._metadata is None:
            self._metadata = self._wherever(_footer_of, lambda: _footer_without(self._empty))
        return self._metadata

    def _wherever(self, look: Callable[[Path], Found], nothing: Callable[[], Found]) -> Found:
        """Apply `look` to the file; tried twice, since it may move from staging to the log meanwhile.

        Raises `LogError`.
        """
        for _ in range(2):
            for folder in self._folders:
                try:
                    found = look(folder / self.name)
                except FileNotFoundError:
                    continue
                except (pa.ArrowException, OSError) as error:
                    raise LogError(
                        f"a file of the log cannot be read: {error}",
                        where=folder / self.name,
                        todo="restore this file from a backup",
                    ) from error
                self._published |= folder == self._folders[0]
                return found
        if not self._published:
            return nothing()
        raise LogError(
            "a file of the log vanished while it was read", where=self.name, todo="start the flow again"
        )


def _footer_without(table: pa.Table) -> pq.FileMetaData:
    """Return the footer of a file with these rows and no offsets."""
    file = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({OFFSETS_KEY: b"{}"}), file)
    return pq.read_metadata(pa.BufferReader(file.getvalue()))


def _rows_of(path: Path, columns: list[str], predicate: pc.Expression | None) -> pa.Table:
    checksums.check([path])
    return pq.read_table(path, columns=columns, filters=predicate)


def _footer_of(path: Path) -> pq.FileMetaData:
    checksums.check_footer(path)
    return pq.read_metadata(path)


def log_files(
    stream: EventStream, settings: FlowSettings, part: str = "", *, staged: bool = True
) -> list[LogFile]:
    """Return the files of a stream's log by name, with staged ones or without; of one log part if it is given."""
    published = stream.log_folder(settings)
    folders = (stream.staging_folder(settings), published) if staged else (published,)
    pattern = f"{part}-*.parquet" if part else "*.parquet"
    names = {
        path.name
        for folder in folders
        if folder.is_dir()
        for path in folder.glob(pattern)
        if not (staged and folder == folders[0] and _is_damaged_tail(path))
    }
    return [
        LogFile(name, folders[::-1], stream.log_schema) for name in sorted(names) if not name.startswith(".")
    ]


def _is_damaged_tail(path: Path) -> bool:
    """Whether a staged file is damaged.

    If its epoch is durable, the log's writer refuses to start, else its events are read again.
    """
    try:
        checksums.check([path])
    except FileNotFoundError:
        pass
    except LogError as error:
        if path not in _warned:
            _warned.add(path)
            log.warning("log.damaged_tail", error=str(error), then="the file is skipped")
        return True
    return False


def recent_rows(
    stream: EventStream, settings: FlowSettings, part: str, partition: str, *, since_us: int, last_offset: int
) -> Iterator[pa.Table]:
    """Yield ids and times of a partition's logged events from an event time on, up to an offset; newest files first.

    It reads only the files it needs: a row is never further behind its watermark than the allowed lateness, so once
    a file's newest row is that much before `since_us`, no older file can hold a wanted row.
    """
    predicate = (
        (pc.field("source_partition") == partition)
        & (pc.field("source_offset") <= last_offset)
        & (pc.field("event_timestamp") >= pa.scalar(since_us, pa.int64()).cast(_TIMES))
    )
    for file in reversed(log_files(stream, settings, part)):
        if partition not in file.offsets():
            continue
        yield file.read([stream.id_column, "event_timestamp"], predicate)
        if file.newest_us() < since_us - settings.allowed_lateness_us:
            return
