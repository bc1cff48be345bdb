"""Dead letters: every event that was not accepted, with its bytes, the reason and where it came from, exactly once.

Parquet files under `home/dead_letters/<stream>`, schema `flows.blocks.DEAD_LETTER`, written like the log
(`flows.connectors.staged`). A limit stops the flow when most events fail, so that a bad deploy of a producer, or of our
own checks, does not dead-letter the world: the epoch is not durable then, and is read again after the repair.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
from bytewax.outputs import FixedPartitionedSink

from feature_repo.errors import DeadLetterLimit
from flows.blocks import DEAD_LETTER, Events
from flows.connectors.staged import Folders, StagedPart, StagedState, count_reasons
from flows.settings import FlowSettings
from flows.streams import EventStream

MEASURED_EVENTS: Final = 10_000


class DeadLetterSink(FixedPartitionedSink[pa.RecordBatch, StagedState]):
    """Writes record batches of schema `DEAD_LETTER`; one part takes all."""

    def __init__(self, part: str, stream: EventStream, settings: FlowSettings) -> None:
        self._part = part
        self._stream = stream
        self._folders = folders(stream, settings)

    def list_parts(self) -> list[str]:
        """The one part of this run."""
        return [self._part]

    def build_part(self, step_id: str, for_part: str, resume_state: StagedState | None) -> StagedPart:
        """Go on after the last durable file."""
        del step_id
        return StagedPart(for_part, self._folders, DEAD_LETTER, resume_state, self._count)

    def _count(self, table: pa.Table) -> None:
        count_reasons(self._stream.name, table)


class DeadLetterGauge:
    """Counts what passes and what does not, and raises when the share of dead letters exceeds the limit."""

    def __init__(self, limit: float, stream: EventStream) -> None:
        self._limit = limit
        self._stream = stream
        self._example: pa.RecordBatch | None = None
        self._all = self._dead = 0

    def __call__(self, events: Events) -> Events:
        """Let a block through, or stop the flow."""
        dead = sum(letters.num_rows for letters in events.dead)
        if dead:
            self._example = next(letters for letters in events.dead if letters.num_rows).slice(0, 1)
        self._dead += dead
        self._all += dead + events.rows.num_rows
        if (
            self._all >= MEASURED_EVENTS
            and self._dead > self._limit * self._all
            and self._example is not None
        ):
            letter = self._example.to_pylist()[0]
            raise DeadLetterLimit(
                f"{self._dead:,} of the last {self._all:,} {self._stream.name} became dead letters, "
                f"such as: {letter['reason']}, {letter['detail']}",
                where=letter["source_partition"],
                todo="repair the producer or the checks, or raise MILLSTREAM_DEAD_LETTER_LIMIT, and start again",
            )
        if self._all >= 2 * MEASURED_EVENTS:  # forget slowly: the share of the recent past counts
            self._all //= 2
            self._dead //= 2
        return events


def folders(stream: EventStream, settings: FlowSettings) -> Folders:
    """Folders of a stream's dead letters."""
    name = f"{stream.name}-dead-letters"
    return Folders(stream.name, settings.dead_letters / stream.name, settings.staging / name)
