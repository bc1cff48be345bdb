"""Follow the changelogs that a stream joins: from their logs and, live, from the bus.

An event is joined with the rows of the other stream that had been accepted when it was accepted itself. Live, `read_to`
first reads the bus of the other stream up to that instant, through the same steps by which its own flow accepts events
(decode, check, policy, admission), so that both agree on every row, whichever is ahead. One round trip per block for
all changelogs.

Followers are shared by the workers of a process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pyarrow as pa
import redis

from feature_repo.retry import Outage
from feature_repo.windows.columns import BlockColumns
from flows.accept.admit import AdmitState, admission
from flows.accept.stages import Acceptance
from flows.blocks import Events
from flows.enrich.asof_index import AsOfIndex
from flows.log.files import LogFile, log_files
from flows.settings import FlowSettings
from flows.sources.redis_blocks import entry_id, offset_of, raw_block, stream_key
from flows.streams import EventStream

_COUNT: Final = 10_000
_LOOK_AGAIN_S: Final = 0.5
_TRUST_S: Final = 15.0
"""The bus keeps what is in the log for longer than this; after a longer pause the log is read first."""
_FUTURE_MS: Final = 1_000
"""An entry id further ahead of the server's clock was not given by the server; the flow does not wait for it."""
_STAMP_NS: Final = 100_000_000
"""File systems stamp a folder with a resolution of milliseconds: a younger stamp may be given to another change too."""
_OUTAGE: Final = Outage("changelogs", "check the server and REDIS_URL")
_UNREACHABLE: Final = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)
BUS: Final = "bus"


class LogFollower:
    """Versions of a stream's keys from its log; files that are added are read too."""

    def __init__(
        self,
        stream: EventStream,
        settings: FlowSettings,
        key: str,
        columns: Sequence[str],
        within_us: int,
        *,
        keep_us: int,
        staged: bool,
    ) -> None:
        self.stream = stream
        self.key = key
        self._settings = settings
        self._columns = tuple(columns)
        self._staged = staged
        self._seen: set[tuple[str, int]] = set()
        self._looked = 0.0
        self._stamps: tuple[int, ...] = ()
        self.versions = AsOfIndex(
            pa.schema([stream.log_schema.field(c) for c in columns]), within_us, keep_us
        )
        self.offsets: dict[str, int] = {}
        self.watermarks: dict[str, int] = {}

    def look(self, *, now: bool = False) -> bool:
        """Read new files, at most every half second unless `now`. Returns whether there were any."""
        if not now and time.monotonic() - self._looked < _LOOK_AGAIN_S:
            return False
        self._looked = time.monotonic()
        stamps = self._folder_stamps()
        if stamps == self._stamps:
            return False
        self._stamps = stamps if time.time_ns() - max(stamps) > _STAMP_NS else ()
        files = log_files(self.stream, self._settings, staged=self._staged)
        new = [file for file in files if (file.name, file.written_ns) not in self._seen]
        for file in new:
            self._read(file)
            self._seen.add((file.name, file.written_ns))
        return bool(new)

    def take(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add rows of the stream; rows without a key are ignored."""
        block = BlockColumns(rows)
        known = block.has_keys((self.key,))
        if not known.all():
            rows = rows.filter(pa.array(known))
            block = BlockColumns(rows)
        values = [_plain(rows.column(c)).cast(self.versions.schema.field(c).type) for c in self._columns]
        self.versions.add(
            block.keys((self.key,)),
            block.times("event_timestamp"),
            block.times("created_timestamp"),
            pa.RecordBatch.from_arrays(values, schema=self.versions.schema),
        )

    def _folder_stamps(self) -> tuple[int, ...]:
        """Return when the folders of the log last changed; cheaper than listing thousands of files."""
        folders = [self.stream.log_folder(self._settings)]
        if self._staged:
            folders.append(self.stream.staging_folder(self._settings))
        return tuple(folder.stat().st_mtime_ns if folder.is_dir() else 0 for folder in folders)

    def _read(self, file: LogFile) -> None:
        held = file.offsets()
        wanted = {self.key, *self._columns, "event_timestamp", "created_timestamp", "source_partition"}
        rows = file.read(sorted(wanted)).combine_chunks()
        if rows.num_rows:
            self.take(rows)
        times = rows.group_by("source_partition").aggregate([("event_timestamp", "max")])
        for partition, newest in zip(
            times["source_partition"].to_pylist(),
            times["event_timestamp_max"].cast(pa.int64()).to_pylist(),
            strict=True,
        ):
            self.watermarks[partition] = max(self.watermarks.get(partition, newest), newest)
        for partition, newest in file.newest_before_erasure().items():
            self.watermarks[partition] = max(self.watermarks.get(partition, newest), newest)
        for partition, (_, last) in held.items():
            self.offsets[partition] = max(self.offsets.get(partition, -1), last)


class BusFollower:
    """A changelog followed on the bus beyond its log."""

    def __init__(self, follower: LogFollower, settings: FlowSettings) -> None:
        self.follower = follower
        self._settings = settings
        self._accept = Acceptance(follower.stream, settings)
        self._partitions = follower.stream.bus_parts(settings.bus_partitions)
        self._admissions: dict[str, Any] = {}
        self.positions: dict[str, str] = {}
        self._begin()

    def streams(self) -> list[tuple[str, str]]:
        """Return (Redis stream, last id read) of each partition."""
        return [(stream_key(p), self.positions[p]) for p in self._partitions]

    def go_back_to_log(self) -> None:
        """Read the log again after a pause, since the bus may have removed entries that are in the log."""
        self.follower.look(now=True)
        self._begin()

    def take(self, stream: str, entries: list[Any]) -> None:
        """Pass entries of one partition through the steps of its own flow and add the accepted rows."""
        partition = next(p for p in self._partitions if stream_key(p) == stream)
        events = self._accept(raw_block(partition, entries))
        admitted, _ = self._admissions[partition].on_batch([replace(events, dead=())])
        self.follower.take(_rows(admitted))
        self.positions[partition] = entries[-1][0].decode()

    def _begin(self) -> None:
        """Continue after the last offset in the log, unless the bus has been read further."""
        for partition in self._partitions:
            offset = self.follower.offsets.get(partition, -1)
            known = self.positions.get(partition)
            if known is not None and offset_of(known) >= offset:
                continue
            self.positions[partition] = "0-0" if offset < 0 else entry_id(offset)
            state: AdmitState | None = None
            if offset >= 0:
                state = (self.follower.watermarks[partition], offset)
            self._admissions[partition] = admission(self.follower.stream, self._settings, BUS)(state)


class Changelogs:
    """All bus followers of a flow, read together."""

    def __init__(self, followers: Sequence[BusFollower], settings: FlowSettings) -> None:
        self._followers = followers
        self._client = redis.Redis.from_url(
            settings.redis_url, socket_timeout=1.0, socket_connect_timeout=1.0, protocol=2
        )
        self._read_at = time.monotonic()
        self._past_ms = -1

    def read_to(self, accepted_us: int) -> None:
        """Read every changelog at least up to events accepted by then. Waits while the server is unreachable."""
        wanted_ms = accepted_us // 1000
        if wanted_ms < self._past_ms or not self._followers:
            return  # nothing to follow, or read beyond it already, for another block
        while not _OUTAGE.wait_out(partial(self._read_all, wanted_ms), _UNREACHABLE):
            time.sleep(0.001)  # the millisecond of the event has not passed

    def _read_all(self, at_least_ms: int) -> bool:
        """Read all streams to their end. Returns whether the server's clock has passed `at_least_ms`."""
        if time.monotonic() - self._read_at > _TRUST_S:
            for follower in self._followers:
                follower.go_back_to_log()
        while True:
            owners = {s: f for f in self._followers for s, _ in f.streams()}
            positions = [pair for f in self._followers for pair in f.streams()]
            with self._client.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.xread(dict(positions), count=_COUNT)
                (seconds, micros), reply = pipe.execute()
            full = False
            for name, entries in reply:
                raw = [
                    [identity, [x for pair in fields.items() for x in pair]] for identity, fields in entries
                ]
                owners[name.decode()].take(name.decode(), raw)
                full = full or len(entries) == _COUNT
            self._read_at = time.monotonic()
            if not full:
                self._past_ms = int(seconds * 1000 + micros // 1000)
                behind = at_least_ms - self._past_ms
                return behind < 0 or behind > _FUTURE_MS


def _rows(events: Sequence[Events]) -> pa.Table:
    return pa.Table.from_batches([e.rows for e in events]).combine_chunks()


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
