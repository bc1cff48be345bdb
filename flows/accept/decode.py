"""Decode bytes into columns: one record batch per block, the stream's columns, then the log's own.

Invalid records become dead letters.

Each record is decoded by itself, strictly (a string is no number, NaN is no JSON), so an invalid one does not affect
its neighbours. Plain records, nearly all, go into columns in one compiled pass over the block's bytes
(`flows.accept.json_columns`). A msgspec struct made from the Arrow schema reads the others and words what is wrong.
Avro records (`flows.accept.avro`) obey the same rules.

Blocks that are columnar at their source are cast to the schema instead: a file's column has one type, so a wrong type
is an error of the file, while the values obey the same rules (valid UTF-8; NaN counts as null).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import SchemaError
from flows.accept.avro import AvroReader
from flows.accept.json_columns import Columns, JsonColumns
from flows.blocks import TIMESTAMP, ArrowBlock, Events, Payloads, RawBlock, SourceBlock, dead_letters
from flows.privacy.redaction import Describe, show
from flows.streams import EventStream

MALFORMED = "malformed"
"""Reason of a payload that is no JSON object in UTF-8, or no Avro record."""
SCHEMA = "schema"
"""Reason of an object with a missing field, or a value of the wrong type."""

EARLIEST_US = 0
LATEST_US = 9_214_646_400_000_000
"""Event times from 1970 up to 2262: pandas, and so Feast, counts nanoseconds in 64 bits, which end there."""

_PYTHON_TYPES: dict[pa.DataType, Any] = {
    pa.string(): str,
    pa.float64(): float,
    pa.bool_(): bool,
    pa.int64(): int,
    TIMESTAMP: str,  # cast in bulk: 0.03 us each, against 0.5 us through datetime objects
}


class Decoder:
    """Decodes the blocks of one stream. `describe` makes the text about a value for the detail of a dead letter."""

    def __init__(
        self, stream: EventStream, describe: Describe = show, avro: AvroReader | None = None
    ) -> None:
        """`avro` reads the payloads, if they are not JSON."""
        self._stream = stream
        self._describe = describe
        required = [(n, _PYTHON_TYPES[stream.schema.field(n).type]) for n in stream.required]
        optional = [
            (f.name, _PYTHON_TYPES[f.type] | None, None)
            for f in stream.schema
            if f.name not in stream.required
        ]
        struct = msgspec.defstruct(stream.name, [*required, *optional], kw_only=True, gc=False)
        self._read: Callable[[Payloads], Columns] = JsonColumns(stream.schema, stream.required)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
        self._object: Callable[[bytes], Any] = msgspec.json.decode
        if avro is not None:
            self._read = self._nothing
            self._decode = lambda payload: msgspec.convert(avro(payload), struct)
            self._object = avro
        self._columns = [
            (operator.attrgetter(f.name), pa.string() if f.type == TIMESTAMP else f.type)
            for f in stream.schema
        ]

    def __call__(self, block: SourceBlock) -> Events:
        """Return the columns of a block, and its dead letters.

        Raises `SchemaError` for a file whose columns do not fit.
        """
        if isinstance(block, ArrowBlock):
            return self._cast(block)
        return self._parse(block)

    def _parse(self, block: RawBlock) -> Events:
        payloads = Payloads.of(block.payloads)
        arrays, good = self._read(payloads)
        kept = np.arange(len(payloads))
        dead: tuple[pa.RecordBatch, ...] = ()
        if not good.all():
            others = np.flatnonzero(~good)
            full, read, failures = self._parse_fully([payloads[i] for i in others.tolist()])
            dead = self._letters(
                block, [(int(others[i]), reason, detail) for i, reason, detail in sorted(failures)]
            )
            kept = np.concatenate([kept[good], others[read]])
            order = np.argsort(kept)
            kept, places = kept[order], pa.array(order)
            arrays = [pa.concat_arrays(both).take(places) for both in zip(arrays, full, strict=True)]
        times = arrays[self._stream.schema.get_field_index("event_timestamp")]
        offsets, created = block.offsets, times
        if len(kept) < len(offsets):
            offsets = offsets[kept]
        if block.accepted_us is not None:
            created = pa.array(block.accepted_us[kept] if dead else block.accepted_us).view(TIMESTAMP)
        rows = self._batch(block.partition, arrays, created, offsets)
        return _reject_unreadable_times(Events(block.partition, rows, origin=block, dead=dead))

    def _nothing(self, payloads: Payloads) -> Columns:
        """Read no row: all are left to the full parser."""
        arrays = [pa.array([], field.type) for field in self._stream.schema]
        return Columns(arrays, np.zeros(len(payloads), np.bool_))

    def _parse_fully(
        self, payloads: Sequence[bytes]
    ) -> tuple[list[pa.Array], npt.NDArray[np.intp], list[tuple[int, str, str]]]:
        """Parse payloads: (columns, indices of the payloads they hold, failures as (index, reason, detail))."""
        failures: list[tuple[int, str, str]] = []
        decode = self._decode
        try:
            records = [decode(payload) for payload in payloads]
        except Exception:  # noqa: BLE001  RecursionError and others: an error while decoding is the record's
            records = self._parse_each(payloads, failures)
        arrays = [pa.array(list(map(get, records)), kind) for get, kind in self._columns]
        kept = np.delete(np.arange(len(payloads)), [index for index, _, _ in failures])
        wrong: dict[int, str] = {}
        for at, field in enumerate(self._stream.schema):
            if field.type == TIMESTAMP:
                texts = arrays[at]
                arrays[at], bad = _timestamps(texts)
                for i in bad.tolist():
                    told = self._describe(field.name, texts[i].as_py())
                    wrong.setdefault(i, f"{field.name}: {told} is no RFC 3339 time with a zone")
        if wrong:
            failures += [(int(kept[i]), SCHEMA, detail) for i, detail in wrong.items()]
            good = np.delete(np.arange(len(kept)), list(wrong))
            arrays, kept = [column.take(pa.array(good)) for column in arrays], kept[good]
        return arrays, kept, failures

    def _parse_each(self, payloads: Sequence[bytes], failures: list[tuple[int, str, str]]) -> list[Any]:
        """Parse payloads one by one; appends each failure with its reason."""
        records = []
        for index, payload in enumerate(payloads):
            try:
                records.append(self._decode(payload))
            except msgspec.ValidationError as error:
                failures.append((index, SCHEMA, f"{error}{self._value_of(payload, str(error))}"))
            except Exception as error:  # noqa: BLE001  as above
                failures.append((index, MALFORMED, f"{type(error).__name__}{_place(error)}"))
        return records

    def _value_of(self, payload: bytes, message: str) -> str:
        """Return the value that a validation message is about, for the reader of the dead letter."""
        _, found, path = message.partition("`$.")
        if not found:
            return ""
        name = path.strip("`")
        try:
            return f" (value {self._describe(name, self._object(payload)[name])})"
        except Exception:  # noqa: BLE001  the detail is complete without it
            return ""

    def _letters(self, block: RawBlock, failures: list[tuple[int, str, str]]) -> tuple[pa.RecordBatch, ...]:
        if not failures:
            return ()
        indices = np.array([index for index, _, _ in failures])
        if block.accepted_us is None:
            accepted = pa.nulls(len(indices), TIMESTAMP)
        else:
            accepted = pa.array(block.accepted_us[indices]).cast(TIMESTAMP)
        return (
            dead_letters(
                block.partition,
                offsets=pa.array(block.offsets[indices]),
                event_timestamps=accepted,
                accepted=accepted,
                payloads=[block.payloads[i] for i in indices.tolist()],
                reasons=[reason for _, reason, _ in failures],
                details=[detail for _, _, detail in failures],
            ),
        )

    def _cast(self, block: ArrowBlock) -> Events:
        """Cast a file's columns to the schema; missing columns become null, unknown ones are left out."""
        rows, names = block.rows, set(block.rows.schema.names)
        absent = [name for name in self._stream.required if name not in names]
        if absent:
            raise SchemaError(
                f"the file has no column {', '.join(absent)}",
                where=block.partition,
                todo="see feature_repo/streams for the columns, or bring the file in with a mapping (flows.bring)",
            )
        arrays = [
            _cast_column(rows[f.name], f, block.partition)
            if f.name in names
            else pa.nulls(rows.num_rows, f.type)
            for f in self._stream.schema
        ]
        times = arrays[self._stream.schema.get_field_index("event_timestamp")]
        created = times
        if "created_timestamp" in names:
            field = self._stream.decoded.field("created_timestamp")
            created = pc.coalesce(_cast_column(rows["created_timestamp"], field, block.partition), times)
        offsets = np.arange(block.first_offset, block.first_offset + rows.num_rows)
        events = Events(block.partition, self._batch(block.partition, arrays, created, offsets), origin=block)
        return _reject_unreadable_times(_reject_bad_text(events))

    def _batch(
        self, partition: str, arrays: list[pa.Array], created: pa.Array, offsets: npt.NDArray[np.int64]
    ) -> pa.RecordBatch:
        partitions = pa.repeat(pa.scalar(partition, pa.string()), len(offsets))
        return pa.RecordBatch.from_arrays(
            [*arrays, created, partitions, pa.array(offsets)], schema=self._stream.decoded
        )


def _timestamps(texts: pa.Array) -> tuple[pa.Array, npt.NDArray[np.intp]]:
    """RFC 3339 texts as timestamps, and the positions of those that are none (null there)."""
    try:
        return texts.cast(TIMESTAMP), np.empty(0, np.intp)
    except pa.ArrowInvalid:
        given = texts.to_pylist()
    values = [None if text is None else _timestamp(text) for text in given]
    bad = [
        i
        for i, (text, value) in enumerate(zip(given, values, strict=True))
        if text is not None and value is None
    ]
    return pa.array(values, pa.int64()).cast(TIMESTAMP), np.array(bad, np.intp)


def _timestamp(text: str) -> int | None:
    """One text as microseconds, by the very rules of the bulk cast."""
    try:
        value: int = pa.scalar(text).cast(TIMESTAMP).value
    except pa.ArrowInvalid:
        return None
    return value


def _place(error: Exception) -> str:
    """What is wrong with bytes, and where; never the bytes themselves, which may be anybody's name."""
    if isinstance(error, UnicodeDecodeError):
        return f": {error.reason} (byte {error.start})"
    return f": {error}" if isinstance(error, msgspec.DecodeError) else ""


def _cast_column(column: pa.Array, field: pa.Field, where: str) -> pa.Array:
    kind = column.type
    if isinstance(kind, pa.DictionaryType):
        column, kind = column.dictionary_decode(), kind.value_type
    fits = {
        pa.string(): pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind),
        pa.float64(): pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind),
        pa.bool_(): pa.types.is_boolean(kind),
        TIMESTAMP: pa.types.is_timestamp(kind) and kind.tz is not None,
    }
    if not (fits.get(field.type, False) or pa.types.is_null(kind)):
        raise SchemaError(
            f"column {field.name} is {kind}, not {field.type}",
            where=where,
            todo="write it with that type, or bring the file in with a mapping (flows.bring)",
        )
    cast = column.cast(field.type, safe=False)  # nanoseconds are cut to microseconds
    if field.type == pa.float64() and pc.any(pc.is_nan(cast)).as_py():
        cast = pc.if_else(pc.is_nan(cast), pa.scalar(None, pa.float64()), cast)
    return cast


def _reject_unreadable_times(events: Events) -> Events:
    """A time that pandas cannot hold would break every later reader of the log."""
    bad = np.zeros(events.rows.num_rows, bool)
    details = np.full(events.rows.num_rows, "", object)
    for field in events.rows.schema:
        if field.type == TIMESTAMP:
            own = field.name in {"event_timestamp", "created_timestamp"}
            earliest = EARLIEST_US if own else -LATEST_US
            column = events.rows[field.name]
            if column.null_count == len(column):
                continue
            times = column.view(pa.int64()).fill_null(EARLIEST_US).to_numpy()
            wrong = (times < earliest) | (times >= LATEST_US)
            if wrong.any():
                details[wrong & ~bad] = (
                    f"{field.name}: a time before {1970 if own else 1678} or after 2261 cannot be kept"
                )
                bad |= wrong
    if not bad.any():
        return events
    # The time of such a letter is when it was accepted: its own time cannot be kept in the dead letters either.
    accepted = _null_unreadable(events.rows["created_timestamp"])
    happened = pc.coalesce(_null_unreadable(events.rows["event_timestamp"]), accepted)
    rows = events.rows
    for name, column in (("event_timestamp", happened), ("created_timestamp", accepted)):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), column)
    return replace(events, rows=rows).reject(bad, [SCHEMA] * int(bad.sum()), details[bad].tolist())


def _null_unreadable(times: pa.Array) -> pa.Array:
    values = times.view(pa.int64())
    fine = pc.and_(pc.greater_equal(values, EARLIEST_US), pc.less(values, LATEST_US))
    return pc.if_else(fine, times, pa.scalar(None, TIMESTAMP))


def _reject_bad_text(events: Events) -> Events:
    """Reject rows with invalid UTF-8, which Parquet permits: one would break every reader of the log."""
    try:
        events.rows.validate(full=True)
    except pa.ArrowInvalid:
        bad = np.zeros(events.rows.num_rows, bool)
        for row in range(events.rows.num_rows):
            try:
                events.rows.slice(row, 1).validate(full=True)
            except pa.ArrowInvalid:
                bad[row] = True
        count = int(bad.sum())
        return events.reject(bad, [MALFORMED] * count, ["a text of the row is not valid UTF-8"] * count)
    return events
