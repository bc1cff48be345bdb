"""Avro payloads decode to the very rows JSON gives; whatever is wrong with one is its own dead letter."""

from __future__ import annotations

import io
import json
import random
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastavro import parse_schema, schemaless_writer
from pydantic import SecretStr

from feature_repo.errors import SettingsError
from feature_repo.streams.payments import PAYMENTS
from flows.accept.avro import avro_reader, avro_schema
from flows.accept.decode import Decoder
from flows.blocks import Events, RawBlock
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream
from tests.kits.payments import encoded, payment

SCHEMA = parse_schema(avro_schema(PAYMENTS))


def avro(event: dict[str, Any], schema: Any = SCHEMA, identity: int | None = None) -> bytes:
    """An event as Avro; with an id, as Confluent's serializers frame it."""
    file = io.BytesIO()
    schemaless_writer(
        file, schema, event | {"event_timestamp": datetime.fromisoformat(event["event_timestamp"])}
    )
    frame = b"" if identity is None else b"\0" + identity.to_bytes(4, "big")
    return frame + file.getvalue()


def decoded(payloads: Sequence[bytes], stream: EventStream = PAYMENTS, **options: Any) -> Events:
    settings = FlowSettings(**options)
    block = RawBlock("kafka:x:0", -1, np.arange(len(payloads)), np.arange(len(payloads)), list(payloads))
    return Decoder(stream, avro=avro_reader(stream, settings))(block)


def letters(events: Events) -> list[tuple[int, str, str]]:
    return [(r["source_offset"], r["reason"], r["detail"]) for b in events.dead for r in b.to_pylist()]


def test_rows_are_those_of_the_same_events_as_json(home: Path) -> None:
    events = [payment(n, device_id=None if n % 3 else f"d{n}") for n in range(50)]
    assert decoded([avro(e) for e in events], format="avro").rows.equals(
        decoded([encoded(e) for e in events]).rows
    )


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_every_stream_has_an_avro_schema(stream: EventStream, home: Path) -> None:
    parse_schema(avro_schema(stream))
    assert decoded([b"\xff"], stream, format="avro").rows.num_rows == 0


def test_what_is_no_record_becomes_a_dead_letter_and_spoils_no_neighbour(home: Path) -> None:
    good = avro(payment(1))
    events = decoded([good, good[:-3], b"", good + b"more", b"{}", avro(payment(2))], format="avro")
    assert events.rows["source_offset"].to_pylist() == [0, 5]
    assert [(at, reason) for at, reason, _ in letters(events)] == [(n, "malformed") for n in (1, 2, 3, 4)]
    assert letters(events)[2][2].endswith("4 bytes after the record")


def test_mutated_records_are_rows_or_dead_letters_never_an_error(home: Path) -> None:
    draw = random.Random(7)
    payloads = []
    for n in range(2_000):
        broken = bytearray(avro(payment(n)))
        for _ in range(draw.randrange(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        payloads.append(bytes(broken))
    events = decoded(payloads, format="avro")
    assert events.rows.num_rows + len(letters(events)) == 2_000


def test_schema_of_a_file_may_have_more_fields_and_other_types_for_times(home: Path) -> None:
    theirs = avro_schema(PAYMENTS)
    for field in theirs["fields"]:
        if field["name"] == "event_timestamp":
            field["type"] = {"type": "long", "logicalType": "timestamp-millis"}
    theirs["fields"].append({"name": "region", "type": "string"})
    (home / "payments.avsc").write_text(json.dumps(theirs))
    payload = avro(payment(5, region="north"), parse_schema(theirs))
    events = decoded([payload], format="avro", avro_schemas=home)
    assert events.rows["event_timestamp"].to_pylist() == [datetime(2026, 11, 1, 0, 0, 5, tzinfo=UTC)]
    with pytest.raises(SettingsError, match=r"labels\.avsc"):
        avro_reader(STREAMS["labels"], FlowSettings(format="avro", avro_schemas=home))


def test_long_without_a_logical_type_is_no_time(home: Path) -> None:
    theirs = avro_schema(PAYMENTS)
    for field in theirs["fields"]:
        if field["name"] == "event_timestamp":
            field["type"] = "long"
    (home / "payments.avsc").write_text(json.dumps(theirs))
    file = io.BytesIO()
    schemaless_writer(file, parse_schema(theirs), payment(5) | {"event_timestamp": 5})
    ((_, reason, detail),) = letters(decoded([file.getvalue()], format="avro", avro_schemas=home))
    assert (reason, "event_timestamp" in detail) == ("schema", True)


@pytest.fixture
def registry() -> Iterator[tuple[str, dict[int, Any], list[str]]]:
    """A registry's address, its schemas by id (an int there is an HTTP status), and what it was asked for."""
    schemas: dict[int, Any] = {}
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            found = schemas.get(int(self.path.rpartition("/")[2]))
            if isinstance(found, list):  # each answer once
                found = found.pop(0)
            status = found if isinstance(found, int) else 200 if found else 404
            body = found if status == 200 else {"error_code": status * 100 + 3}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", schemas, asked
    server.shutdown()
    server.server_close()


def test_schema_is_fetched_once_per_id_with_the_password(
    home: Path, registry: tuple[str, dict[int, Any], list[str]]
) -> None:
    url, schemas, asked = registry
    schemas[7] = {"schema": json.dumps(avro_schema(PAYMENTS))}
    schemas[300] = {"schema": json.dumps(avro_schema(PAYMENTS))}
    events = decoded(
        [avro(payment(n), identity=300 if n % 2 else 7) for n in range(20)],
        format="avro",
        schema_registry_url=url,
        schema_registry_auth=SecretStr("flow:secret"),
    )
    assert events.rows.num_rows == 20
    assert asked == [f"/schemas/ids/{n} Basic ZmxvdzpzZWNyZXQ=" for n in (7, 300)]


def test_id_or_schema_of_no_use_is_the_records_fault(
    home: Path, registry: tuple[str, dict[int, Any], list[str]]
) -> None:
    url, schemas, asked = registry
    schemas[2] = {"schema": "message P {}", "schemaType": "PROTOBUF"}
    schemas[3] = {"schema": '{"type": "no such"}'}
    payloads = [avro(payment(n), identity=n) for n in (1, 1, 2, 3)] + [avro(payment(1)), b"\0\0"]
    events = decoded(payloads, format="avro", schema_registry_url=url)
    found = [detail for _, reason, detail in letters(events) if reason == "malformed"]
    assert len(found) == len(payloads)
    assert "the registry knows no schema 1" in found[0]
    assert "schema 2 is PROTOBUF, not Avro" in found[2]
    assert "schema 3 cannot be read" in found[3]
    assert "no zero byte and schema id" in found[4]
    assert len(asked) == 3


def test_registry_that_is_away_is_waited_for(
    home: Path, registry: tuple[str, dict[int, Any], list[str]]
) -> None:
    url, schemas, _ = registry
    schemas[1] = [503, 401, {"schema": json.dumps(avro_schema(PAYMENTS))}]
    assert decoded([avro(payment(1), identity=1)], format="avro", schema_registry_url=url).rows.num_rows == 1


def test_address_with_a_password_is_refused(home: Path) -> None:
    with pytest.raises(SettingsError, match="without a password") as error:
        avro_reader(PAYMENTS, FlowSettings(format="avro", schema_registry_url="http://u:hunter2@x"))
    assert "hunter2" not in str(error.value)
