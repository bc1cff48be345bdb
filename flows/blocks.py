"""What travels through a flow: blocks of a few thousand events of one source partition, in arrival order.

An item is never a single event. A block without rows is a heartbeat: it wakes every stateful part in each epoch, so
that the last file of the log does not wait for the next event. Dead letters travel with their block, and leave it in
one place, after the last step that rejects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
EntityKeys = tuple[str, ...]
"""The sorted join keys that name an entity, such as `("account_id",)`."""

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

BLOCK_BYTES: Final = 32 << 20
"""A source ends a block at about this many bytes, because an event may have any size."""
EPOCH_BYTES: Final = 512 << 20
"""Most bytes in an epoch, about, of all partitions together: they are in memory until it is written."""

DEAD_LETTER: Final = pa.schema(
    [
        pa.field("event_timestamp", TIMESTAMP),  # of the event if it could be read, else when it was accepted
        pa.field("reason", pa.string()),  # malformed, schema, check, erased, late, future, duplicate
        pa.field("detail", pa.string()),  # which field, which value, what is wrong with it
        pa.field("payload", pa.binary()),  # as the source has it; a row of Parquet as JSON; null: withheld
        pa.field("created_timestamp", TIMESTAMP),  # when the bus accepted it; files: as event_timestamp
        pa.field("source_partition", pa.string()),
        pa.field("source_offset", pa.int64()),
        pa.field("traceparent", pa.string()),  # W3C trace context of the record, where its source has headers
    ]
)
"""One row per event that was rejected, as of the time its source accepted it."""


class Payloads(Sequence[bytes]):
    """Payloads in one buffer: number i is `data[starts[i]:ends[i]]`. A `bytes` object is made when one is read.

    >>> Payloads.of([b"a", b"bc"])[1]
    b'bc'
    """

    __slots__ = ("data", "ends", "starts")

    def __init__(self, data: npt.NDArray[np.uint8], starts: Int64s, ends: Int64s) -> None:
        self.data, self.starts, self.ends = data, starts, ends

    @classmethod
    def of(cls, payloads: Sequence[bytes]) -> Payloads:
        """The payloads copied into one buffer, unless they are in one."""
        if isinstance(payloads, Payloads):
            return payloads
        ends = np.cumsum([0, *map(len, payloads)])
        return cls(np.frombuffer(b"".join(payloads), np.uint8), ends[:-1], ends[1:])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Payloads(self.data, self.starts[index], self.ends[index])
        return self.data[self.starts[index] : self.ends[index]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        whole = self.data.data
        return (bytes(whole[a:b]) for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as for a list


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Undecoded events: one payload per offset. `accepted_us` is None where the source has no clock of its own.

    `began` is the last offset before this run of the source, -1 if it began at the first; it is the same in all blocks
    of a run. Rows of the log up to `began` are durable: a state is built from them, and from the blocks of this run in
    whichever order they arrive.
    """

    partition: str
    began: int
    offsets: Int64s
    accepted_us: Int64s | None
    payloads: Sequence[bytes]
    traces: Mapping[int, str] = field(default_factory=dict)
    """W3C `traceparent` by offset, of the events that have one."""


@dataclass(frozen=True, slots=True)
class ArrowBlock:
    """Events that are columnar at their source: row i has offset `first_offset + i`. `began` as in `RawBlock`."""

    partition: str
    began: int
    first_offset: int
    rows: pa.RecordBatch


SourceBlock = RawBlock | ArrowBlock


@dataclass(frozen=True, slots=True)
class Events:
    """Decoded events (log schema, rows in arrival order), where they came from, and the dead letters found so far."""

    partition: str
    rows: pa.RecordBatch
    origin: SourceBlock
    dead: tuple[pa.RecordBatch, ...] = field(default=())

    def reject(
        self, bad: Mask, reasons: Sequence[str], details: Sequence[str], *, withheld: bool = False
    ) -> Self:
        """Move the rows of a mask to the dead letters, with one reason and one detail per row.

        `withheld`: without their payloads.
        """
        rows = self.rows.filter(pa.array(bad))
        payloads: Sequence[bytes | None] = (
            [None] * rows.num_rows if withheld else self.payloads(np.flatnonzero(bad))
        )
        letters = dead_letters(
            self.partition,
            offsets=rows["source_offset"],
            event_timestamps=rows["event_timestamp"],
            accepted=rows["created_timestamp"],
            payloads=payloads,
            reasons=reasons,
            details=details,
        )
        return replace(self, rows=self.rows.filter(pa.array(~bad)), dead=(*self.dead, letters))

    def payloads(self, indices: Int64s | npt.NDArray[np.intp]) -> list[bytes]:
        """The source's own bytes of some rows."""
        offsets = self.rows["source_offset"].to_numpy()[indices]
        if isinstance(self.origin, RawBlock):
            return [self.origin.payloads[i] for i in np.searchsorted(self.origin.offsets, offsets).tolist()]
        return [row_as_json(self.origin.rows, int(i)) for i in offsets - self.origin.first_offset]


def dead_letters(
    partition: str,
    *,
    offsets: pa.Array,
    event_timestamps: pa.Array,
    accepted: pa.Array,
    payloads: Sequence[bytes | None],
    reasons: Sequence[str],
    details: Sequence[str],
) -> pa.RecordBatch:
    """Dead letters of one partition as a record batch of schema `DEAD_LETTER`."""
    return pa.RecordBatch.from_arrays(
        [
            event_timestamps,
            pa.array(reasons, pa.string()),
            pa.array([_printable(detail) for detail in details], pa.string()),
            pa.array(payloads, pa.binary()),
            accepted,
            pa.array([partition] * len(payloads), pa.string()),
            offsets,
            pa.nulls(len(payloads), pa.string()),
        ],
        schema=DEAD_LETTER,
    )


def row_as_json(rows: pa.RecordBatch, index: int) -> bytes:
    """One row of a columnar source as a JSON object, for a dead letter.

    >>> row_as_json(pa.RecordBatch.from_pydict({"a": [1.5], "b": ["x"]}), 0)
    b'{"a":1.5,"b":"x"}'
    """
    import orjson

    row = {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        cell = column.slice(index, 1)
        try:
            row[name] = cell[0].as_py()
        except UnicodeDecodeError:
            row[name] = repr(cell.cast(pa.binary())[0].as_py())
        except (ValueError, OverflowError):  # a time beyond those of Python
            row[name] = cell.view(pa.int64())[0].as_py()
    return orjson.dumps(row, default=repr)


def _printable(text: str) -> str:
    """A text that can be stored as UTF-8, of at most 500 characters."""
    return text.encode("utf-8", "backslashreplace").decode()[:500]
