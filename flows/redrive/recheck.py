"""Check repaired events with the checks of the flow before they are sent, so that each invalid line can be named.

In addition to the steps for single events (`flows.accept.stages`): the id is not in the log, the event is not in the
future, and it would not be late. The watermark advances meanwhile, so an event near it may become a dead letter
`late` again; it is not lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.accept.admit import BEGINNING, DUPLICATE, FUTURE, LATE
from flows.accept.avro import schema_to_write
from flows.accept.stages import Acceptance
from flows.blocks import RawBlock
from flows.log.files import log_files
from flows.publish.topics import avro_encoder
from flows.redrive.lines import Repaired
from flows.settings import FlowSettings
from flows.streams import EventStream, partition_of

LATE_TODO: Final = "write it to a file with --late-to FILE and backfill that file: docs/dead-letters.md"


@dataclass(frozen=True)
class Fit:
    """A valid line: destination (partition of the bus, or key of the Kafka record), bytes to send.

    `late` says if it is late.
    """

    line: Repaired
    place: str
    payload: bytes
    event_us: int
    late: str


class Recheck:
    """Checks repaired lines of one stream."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._stream, self._settings = stream, settings
        self._accept = Acceptance(stream, settings.model_copy(update={"format": "json"}))
        self._parts = stream.bus_parts(settings.bus_partitions)
        self._kafka = settings.source == "kafka"
        self._key = stream.partition_by
        self._avro = avro_encoder(schema_to_write(stream, settings)) if settings.format == "avro" else None
        self._seen: set[str] = set()

    def __call__(self, lines: Sequence[Repaired]) -> tuple[list[Fit], list[tuple[int, str]]]:
        """Return the valid lines, and (line number, reason) of the others."""
        now = time.time_ns() // 1000
        n = len(lines)
        block = RawBlock("redrive", -1, np.arange(n), np.full(n, now), [line.payload for line in lines])
        plain = self._accept.check(self._accept.decode(block))
        columns = (plain.rows["source_offset"].to_pylist(), plain.rows[self._key].to_pylist())
        keys = dict(zip(*columns, strict=True))
        payloads = self._payloads(lines, plain.rows)
        events = self._accept.normalize(self._accept.pseudonymise(plain))
        refused = [
            (lines[row["source_offset"]].number, f"{row['reason']}: {row['detail']}")
            for letters in events.dead
            for row in letters.to_pylist()
        ]
        ids = events.rows[self._stream.id_column].to_pylist()
        known, watermarks = self._in_the_log(ids)
        fits: list[Fit] = []
        times = events.rows["event_timestamp"].view(pa.int64()).to_pylist()
        for at, identity, event_us in zip(events.rows["source_offset"].to_pylist(), ids, times, strict=True):
            line = lines[at]
            if identity in known or identity in self._seen:
                refused.append(
                    (line.number, f"{DUPLICATE}: {identity!r} is in the log, or on an earlier line")
                )
            elif event_us > now + self._settings.max_future_skew_us:
                refused.append((line.number, f"{FUTURE}: its event time is in the future"))
            else:
                self._seen.add(identity)
                place = (keys[at] or "") if self._kafka else self._part(keys[at])
                behind = self._watermark(watermarks, place) - event_us
                late = _late(behind) if behind > self._settings.allowed_lateness_us else ""
                fits.append(Fit(line, place, payloads[at], event_us, late))
        return fits, sorted(refused)

    def _part(self, key: str | None) -> str:
        """Return the partition of the bus that the producer uses for a key."""
        return self._parts[partition_of(key, len(self._parts)) if key and len(self._parts) > 1 else 0]

    def _watermark(self, watermarks: dict[str, int], place: str) -> int:
        """Return the watermark of a partition of the bus.

        For Kafka the highest of the topic, whose partition is not known.
        """
        if not self._kafka:
            return watermarks.get(place, BEGINNING)
        prefix = f"kafka:{self._stream.name}:"
        return max((us for part, us in watermarks.items() if part.startswith(prefix)), default=BEGINNING)

    def _payloads(self, lines: Sequence[Repaired], rows: pa.RecordBatch) -> dict[int, bytes]:
        """Return the bytes to send per line: the repaired JSON, or the row as Avro."""
        places = rows["source_offset"].to_pylist()
        if self._avro is None:
            return {at: lines[at].payload for at in places}
        table = pa.Table.from_batches([rows.select(self._stream.schema.names)])
        return dict(zip(places, self._avro(table), strict=True))

    def _in_the_log(self, ids: list[str]) -> tuple[set[str], dict[str, int]]:
        """Return the ids that are in the log, and the watermark of each partition (us), from one pass over the log."""
        known: set[str] = set()
        watermarks: dict[str, int] = {}
        wanted = pa.array(ids, pa.string())
        for file in log_files(self._stream, self._settings):
            rows = file.read([self._stream.id_column, "event_timestamp", "source_partition"])
            found = rows[self._stream.id_column]
            known.update(found.filter(pc.is_in(found, wanted)).to_pylist())
            newest = rows.group_by("source_partition").aggregate([("event_timestamp", "max")])
            for part, time_us in zip(
                newest["source_partition"].to_pylist(),
                newest["event_timestamp_max"].cast(pa.int64()).to_pylist(),
                strict=True,
            ):
                watermarks[part] = max(time_us, watermarks.get(part, time_us))
        return known, watermarks


def _late(behind_us: int) -> str:
    return f"{LATE}: {behind_us / 1e6:,.0f} s behind the newest event of its partition; {LATE_TODO}"
