"""Avro payloads as plain records, for the decoder: with one schema, or with the one a registry knows by the id in the payload.

Without a registry a payload is the bare Avro binary encoding of one record, written with `<stream>.avsc` of `MILLSTREAM_AVRO_SCHEMAS`,
or else with the schema `avro_schema` makes of the stream's columns. With a registry it begins with a zero byte and the schema's id, four
bytes, big-endian (what Confluent's serializers write). A schema is fetched once per id. While the registry is away the flow waits, as
for every server; only an id that it does not know is the record's fault.
"""

from __future__ import annotations

import base64
import io
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
import pyarrow as pa
import structlog

from feature_repo.errors import SettingsError
from feature_repo.kafka.client import needed
from flows.blocks import TIMESTAMP
from flows.settings import FlowSettings
from flows.streams import EventStream

log = structlog.get_logger(__name__)

MAGIC: Final = 0
_HEADER: Final = 5
_ANSWER_S: Final = 5.0
_NOT_FOUND: Final = 40403
_FORGET_UNKNOWN_S: Final = 60.0
_TYPES: Final[dict[pa.DataType, Any]] = {
    pa.string(): "string",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.int64(): "long",
    TIMESTAMP: {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(stream: EventStream) -> dict[str, Any]:
    """The Avro schema of a stream's own columns; what is not required may be null.

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
    """What reads the payloads of a stream, None when they are JSON."""
    if settings.format == "json":
        return None
    needed("fastavro")
    if settings.schema_registry_url:
        return AvroReader(SchemaRegistry(settings).schema)
    schema = _parsed(_schema_of(stream, settings))
    return AvroReader(lambda _: schema, framed=False)


class AvroReader:
    """Reads one payload as a dict of JSON-like values: times as RFC 3339 texts, NaN as None. Call it with the bytes.

    Raises whatever is wrong with them; what it raises itself is a `msgspec.DecodeError`, which tells nothing of what they hold.
    """

    def __init__(self, schema_of: Callable[[int], Any], *, framed: bool = True) -> None:
        """`schema_of` gives the parsed schema of an id; not `framed`, payloads have none."""
        from fastavro import schemaless_reader

        self._schema_of = schema_of
        self._framed = framed
        self._read: Callable[..., Any] = schemaless_reader

    def __call__(self, payload: bytes) -> Any:
        """The record."""
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


class SchemaRegistry:
    """Schemas by id, from a registry that speaks Confluent's protocol; each is asked for once."""

    def __init__(self, settings: FlowSettings) -> None:
        url = settings.schema_registry_url.rstrip("/")
        if not url.startswith(("http://", "https://")) or "@" in url:
            raise SettingsError(
                "the registry needs an http or https address without a password in it",
                where="SCHEMA_REGISTRY_URL",
                todo="user and password belong into MILLSTREAM_SCHEMA_REGISTRY_AUTH",
            )
        self._url = url
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if settings.schema_registry_auth is not None:
            secret = base64.b64encode(settings.schema_registry_auth.get_secret_value().encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"
        self._known: dict[int, Any] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, identity: int) -> Any:
        """The parsed schema. Raises `msgspec.DecodeError` for an id the registry does not know, or a schema that is no Avro."""
        if identity not in self._known:
            if time.monotonic() < self._unknown.get(identity, 0.0):
                raise msgspec.DecodeError(f"the registry knows no schema {identity}")
            answer = self._ask(identity)
            if answer is None:
                if len(self._unknown) > 10_000:
                    self._unknown.clear()
                self._unknown[identity] = time.monotonic() + _FORGET_UNKNOWN_S
                raise msgspec.DecodeError(f"the registry knows no schema {identity}")
            self._known[identity] = answer
        found = self._known[identity]
        if isinstance(found, str):
            raise msgspec.DecodeError(found)
        return found

    def _ask(self, identity: int) -> Any:
        """A parsed schema, or a text that says why it cannot be used, or None where there is none; waits for the registry."""
        waited = 0.0
        while True:
            request = urllib.request.Request(f"{self._url}/schemas/ids/{identity}", headers=self._headers)  # noqa: S310  http(s), see above
            try:
                with urllib.request.urlopen(request, timeout=_ANSWER_S) as reply:  # noqa: S310  same
                    body = json.loads(reply.read())
                    if waited:
                        log.info("registry.back", url=self._url)
                    return _usable(identity, body)
            except urllib.error.HTTPError as error:
                if error.code == 404 and _error_code(error) == _NOT_FOUND:
                    return None
                told = f"HTTP {error.code}"
            except (OSError, ValueError) as error:
                told = f"{type(error).__name__}: {error}"
            if not waited:
                log.warning(
                    "registry.unreachable",
                    url=self._url,
                    error=told,
                    todo="the flow waits and tries again; check SCHEMA_REGISTRY_URL and MILLSTREAM_SCHEMA_REGISTRY_AUTH",
                )
            waited = min(waited + 0.1, 2.0)
            time.sleep(waited)


def _usable(identity: int, body: dict[str, Any]) -> Any:
    if body.get("schemaType", "AVRO") != "AVRO":
        return f"schema {identity} is {body['schemaType']}, not Avro"
    if body.get("references"):
        return f"schema {identity} refers to other schemas"
    try:
        return _parsed(json.loads(body["schema"]))
    except Exception as error:  # noqa: BLE001  fastavro raises many kinds; none of them may stop a flow
        return f"schema {identity} cannot be read: {type(error).__name__}"


def _error_code(error: urllib.error.HTTPError) -> int:
    try:
        return int(json.loads(error.read())["error_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def schema_to_write(stream: EventStream, settings: FlowSettings) -> Any:
    """The parsed schema our own producers write with. Raises `SettingsError` with a registry, which would have to be told of it."""
    if settings.schema_registry_url:
        raise SettingsError(
            "events are not generated for a schema registry",
            where="SCHEMA_REGISTRY_URL",
            todo="unset it, or produce with Confluent's serializers",
        )
    return _parsed(_schema_of(stream, settings))


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


def _parsed(schema: Any) -> Any:
    from fastavro import parse_schema

    return parse_schema(schema)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, datetime | date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
