"""The event log: accepted events into Parquet, exactly once (how: `flows.log.epoch_files`).

Unit of parallelism: a log part (`MILLSTREAM`'s bus flow has one per stream, a run over files has its own). One file per
part and epoch, sorted by event time, zstd.
"""

from __future__ import annotations

import pyarrow as pa
from bytewax.outputs import FixedPartitionedSink

from flows import metrics
from flows.log.epoch_files import Folders, StagedPart, StagedState
from flows.settings import FlowSettings
from flows.streams import EventStream


class LogSink(FixedPartitionedSink[pa.RecordBatch, StagedState]):
    """Writes record batches of a stream's log schema; the key of an item does not matter, one part takes all."""

    def __init__(self, part: str, stream: EventStream, settings: FlowSettings) -> None:
        self._part = part
        self._stream = stream
        self._folders = Folders(stream.name, stream.log_folder(settings), stream.staging_folder(settings))

    def list_parts(self) -> list[str]:
        """Return the one part of this run."""
        return [self._part]

    def build_part(self, step_id: str, for_part: str, resume_state: StagedState | None) -> StagedPart:
        """Continue after the last durable file."""
        del step_id
        return StagedPart(
            for_part, self._folders, self._stream.log_schema, resume_state, self._count, complete=True
        )

    def _count(self, table: pa.Table) -> None:
        metrics.EVENTS_LOGGED.labels(self._stream.name).inc(table.num_rows)
