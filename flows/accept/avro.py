"""Read Avro payloads as plain records, for the decoder.

Without a registry a payload is the bare Avro binary encoding of one record, written with `<stream>.avsc` of
`MILLSTREAM_AVRO_SCHEMAS`, or else with the schema `avro_schema` makes of the stream's columns. With a registry it
begins with a zero byte and the schema's id, four bytes, big-endian (what Confluent's serializers write); see
`flows.accept.schema_registry`.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
import pyarrow as pa

from feature_repo.errors import SettingsError
from feature_repo.kafka.client import require_package
from flows.blocks import TIMESTAMP
from flows.settings import FlowSettings
from flows.streams import EventStream

MAGIC: Final = 0
_HEADER: Final = 5
_TYPES: Final[dict[pa.DataType, Any]] = {
    pa.string(): "string",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.int64(): "long",
    TIMESTAMP: {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(stream: EventStream) -> dict[str, Any]:
    """Return the Avro schema of a stream's own columns; columns that are not required may be null.

    >>> from feature_repo.streams.labels import LABELS
    >>> avro_schema(LABELS)["fields"][0]
    {'name': 'label_id', 'type': 'string'}
    """
    fields: list[dict[str, Any]] = []
    for field in stream.schema:
        kind = _TYPES[field.type]
        if field.name in stream.required:
            fields.append({"name": field.name, "type": kind})
        else:
            fields.append({"name": field.name, "type": ["null", kind], "default": None})
    return {"type": "record", "name": stream.name, "namespace": "millstream", "fields": fields}


def avro_reader(stream: EventStream, settings: FlowSettings) -> AvroReader | None:
    """Return the reader of a stream's payloads, None if they are JSON. Raises `SettingsError`."""
    if settings.format == "json":
        return None
    require_package("fastavro")
    if settings.schema_registry_url:
        from flows.accept.schema_registry import SchemaRegistry

        return AvroReader(SchemaRegistry(settings).schema)
    schema = parsed(_schema_of(stream, settings))
    return AvroReader(lambda _: schema, framed=False)


class AvroReader:
    """Reads one payload as a dict of JSON-like values: times as RFC 3339 texts, NaN as None.

    A call with the bytes raises whatever is wrong with them: a `msgspec.DecodeError`, whose message holds none of the
    payload's values, or an error of fastavro.
    """

    def __init__(self, schema_of: Callable[[int], Any], *, framed: bool = True) -> None:
        """`schema_of` returns the parsed schema of an id; payloads begin with one only if they are `framed`."""
        from fastavro import schemaless_reader

        self._schema_of = schema_of
        self._framed = framed
        self._read: Callable[..., Any] = schemaless_reader

    def __call__(self, payload: bytes) -> Any:
        """Return the record."""
        identity, begin = -1, 0
        if self._framed:
            if len(payload) < _HEADER or payload[0] != MAGIC:
                raise msgspec.DecodeError("no zero byte and schema id at the beginning")
            identity, begin = int.from_bytes(payload[1:_HEADER], "big"), _HEADER
        file = io.BytesIO(payload)
        file.seek(begin)
        record = self._read(file, self._schema_of(identity), None)
        if file.tell() != len(payload):
            raise msgspec.DecodeError(f"{len(payload) - file.tell()} bytes after the record")
        return {name: _plain(value) for name, value in record.items()} if isinstance(record, dict) else record


def schema_to_write(stream: EventStream, settings: FlowSettings) -> Any:
    """Return the parsed schema our own producers write with.

    Raises `SettingsError` with a registry, where it is not registered.
    """
    if settings.schema_registry_url:
        raise SettingsError(
            "our own producers do not register schemas",
            where="SCHEMA_REGISTRY_URL",
            todo="unset it, or produce with Confluent's serializers",
        )
    return parsed(_schema_of(stream, settings))


def _schema_of(stream: EventStream, settings: FlowSettings) -> Any:
    if settings.avro_schemas is None:
        return avro_schema(stream)
    path = settings.avro_schemas / f"{stream.name}.avsc"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Avro schema can be read: {type(error).__name__}",
            where=path,
            todo="check MILLSTREAM_AVRO_SCHEMAS",
        ) from None


def parsed(schema: Any) -> Any:
    """Parse a schema. Raises fastavro's errors."""
    from fastavro import parse_schema

    return parse_schema(schema)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, datetime | date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
