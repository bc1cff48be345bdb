"""Dead letters: every event that was not accepted, with its bytes, the reason and where it came from, exactly once.

Parquet files under `home/dead_letters/<stream>`, schema `flows.blocks.DEAD_LETTER`, written like the log
(`flows.log.epoch_files`). The bytes may hold personal data that cannot be located, so they are encrypted
(`flows.privacy.payload_cipher`); `decrypt` and `python -m flows.dead_letters --show` open them for who has the key.
Without a key (`off`) they are kept as they came, but for streams with columns that `off` does not make harmless: those
letters have no payload. `flows.accept.dead_letter_limit` stops a flow of which most events end here; `python -m
flows.redrive` puts them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.outputs import FixedPartitionedSink

from feature_repo.privacy import Pseudonyms
from feature_repo.privacy.policy import lost_without_key
from feature_repo.stores.event_log import checksums
from flows.blocks import DEAD_LETTER, Events, RawBlock, SourceBlock
from flows.log.epoch_files import Folders, StagedPart, StagedState, count_reasons
from flows.privacy.payload_cipher import PayloadCipher, encrypt_payloads, with_payloads
from flows.settings import FlowSettings
from flows.streams import EventStream

_NO_LETTERS: Final = pa.RecordBatch.from_pylist([], schema=DEAD_LETTER)


class DeadLetterSink(FixedPartitionedSink[pa.RecordBatch, StagedState]):
    """Writes record batches of schema `DEAD_LETTER`; one part takes all."""

    def __init__(self, part: str, stream: EventStream, settings: FlowSettings) -> None:
        self._part = part
        self._stream = stream
        self._folders = folders(stream, settings)

    def list_parts(self) -> list[str]:
        """Return the one part of this run."""
        return [self._part]

    def build_part(self, step_id: str, for_part: str, resume_state: StagedState | None) -> StagedPart:
        """Continue after the last durable file."""
        del step_id
        return StagedPart(for_part, self._folders, DEAD_LETTER, resume_state, self._count)

    def _count(self, table: pa.Table) -> None:
        count_reasons(self._stream.name, table)


class StorableDeadLetters:
    """Turns the dead letters of a block into what may be stored: payloads encrypted, or withheld."""

    def __init__(self, stream: EventStream, pseudonyms: Pseudonyms) -> None:
        self._cipher = PayloadCipher(stream.name, pseudonyms) if pseudonyms.keyed else None
        self._withheld = bool(lost_without_key(stream.personal))

    def __call__(self, events: Events) -> tuple[pa.RecordBatch, ...]:
        """Return one batch or several; an empty batch is the heartbeat of the sink."""
        if not events.dead:
            return (_NO_LETTERS,)
        dead = tuple(_traced(letters, events.origin) for letters in events.dead)
        if self._cipher is not None:
            return tuple(encrypt_payloads(letters, self._cipher) for letters in dead)
        if self._withheld:
            return tuple(with_payloads(letters, [None] * letters.num_rows) for letters in dead)
        return dead


def _traced(letters: pa.RecordBatch, origin: SourceBlock) -> pa.RecordBatch:
    """Add the trace context that the events came with."""
    if not (isinstance(origin, RawBlock) and origin.traces):
        return letters
    traces = [origin.traces.get(offset) for offset in letters["source_offset"].to_pylist()]
    at = letters.schema.get_field_index("traceparent")
    return letters.set_column(at, letters.schema.field(at), pa.array(traces, pa.string()))


def folders(stream: EventStream, settings: FlowSettings) -> Folders:
    """Return the folders of a stream's dead letters."""
    name = f"{stream.name}-dead-letters"
    return Folders(stream.name, settings.dead_letters / stream.name, settings.staging / name)


def read(stream: EventStream, settings: FlowSettings) -> Iterator[pa.Table]:
    """Yield the published dead letters of a stream, one table per file; payloads as they are stored."""
    for path in sorted((settings.dead_letters / stream.name).glob("*.parquet")):
        checksums.check([path])
        yield pq.read_table(path, schema=DEAD_LETTER)


def decrypt(letters: pa.Table, stream: EventStream, pseudonyms: Pseudonyms) -> pa.Table:
    """Return dead letters with decrypted payloads.

    Raises `DataError` for another key, `SettingsError` without a key.
    """
    cipher = PayloadCipher(stream.name, pseudonyms)
    opened = [
        None
        if row["payload"] is None
        else cipher.decrypt(row["payload"], row["source_partition"], row["source_offset"])
        for row in letters.select(["payload", "source_partition", "source_offset"]).to_pylist()
    ]
    at = letters.schema.get_field_index("payload")
    return letters.set_column(at, letters.schema.field(at), pa.array(opened, pa.binary()))
