"""Avro payloads decode to the very rows JSON gives; whatever is wrong with one is its own dead letter."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
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
from tests.kits.schema_registry import Registry

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
def registry() -> Iterator[Registry]:
    with Registry() as found:
        yield found


def test_schema_is_fetched_once_per_id_with_the_password(home: Path, registry: Registry) -> None:
    for schema_id in (7, 300):
        registry.register("payments", avro_schema(PAYMENTS), schema_id=schema_id)
    events = decoded(
        [avro(payment(n), identity=300 if n % 2 else 7) for n in range(20)],
        format="avro",
        schema_registry_url=registry.url,
        schema_registry_auth=SecretStr("flow:secret"),
    )
    assert events.rows.num_rows == 20
    assert registry.asked == [f"/schemas/ids/{n} Basic ZmxvdzpzZWNyZXQ=" for n in (7, 300)]


def test_id_or_schema_of_no_use_is_the_records_fault(home: Path, registry: Registry) -> None:
    registry.register("payments", "message P {}", schema_id=2, schemaType="PROTOBUF")
    registry.register("payments", '{"type": "no such"}', schema_id=3)
    payloads = [avro(payment(n), identity=n) for n in (1, 1, 2, 3)] + [avro(payment(1)), b"\0\0"]
    events = decoded(payloads, format="avro", schema_registry_url=registry.url)
    found = [detail for _, reason, detail in letters(events) if reason == "malformed"]
    assert len(found) == len(payloads)
    assert "the registry knows no schema 1" in found[0]
    assert "schema 2 is PROTOBUF, not Avro" in found[2]
    assert "schema 3 cannot be read" in found[3]
    assert "no zero byte and schema id" in found[4]
    assert len(registry.asked) == 3


@pytest.mark.parametrize("answer", [503, 401, 404, [], "no object"])
def test_registry_that_does_not_answer_is_waited_for(home: Path, registry: Registry, answer: Any) -> None:
    """404 without the code of an unknown schema is a proxy's, or another server's."""
    registry.answers["/schemas/ids/1"] = [answer]
    registry.register("payments", avro_schema(PAYMENTS))
    events = decoded([avro(payment(1), identity=1)], format="avro", schema_registry_url=registry.url)
    assert events.rows.num_rows == 1


SHARED = "com.bank"


def with_references(registry: Registry) -> tuple[int, Any]:
    """A schema of payments with two fields of a referenced schema, and one of another that references the same: id,
    parsed whole.
    """
    money = {"type": "record", "name": "Money", "namespace": SHARED, "fields": [{"name": "cents", "type": "long"}]}  # fmt: skip
    fee = {"type": "record", "name": "Fee", "namespace": SHARED, "fields": [{"name": "of", "type": "Money"}]}
    whole = avro_schema(PAYMENTS)
    whole["fields"] += [{"name": "tip", "type": f"{SHARED}.Money"}, {"name": "fee", "type": f"{SHARED}.Fee"}]
    to_money = {"name": f"{SHARED}.Money", "subject": "money", "version": 2}
    to_fee = {"name": f"{SHARED}.Fee", "subject": "fee/eu", "version": 1}
    registry.register("money", {"type": "record", "name": "Money", "namespace": SHARED, "fields": []})
    registry.register("money", money)
    registry.register("fee/eu", fee, references=[to_money])
    schema_id = registry.register("payments", whole, references=[to_money, to_fee])
    named: dict[str, Any] = {}
    for schema in (money, fee):
        parse_schema(schema, named)
    return schema_id, parse_schema(whole, named)


def test_schema_that_references_others_is_read_with_them(home: Path, registry: Registry) -> None:
    schema_id, whole = with_references(registry)
    extra = {"tip": {"cents": 5}, "fee": {"of": {"cents": 7}}}
    payloads = [avro(payment(n, **extra), whole, identity=schema_id) for n in range(3)]
    events = decoded(payloads, format="avro", schema_registry_url=registry.url)
    assert events.rows.equals(decoded([encoded(payment(n)) for n in range(3)]).rows)
    assert [line.split()[0] for line in registry.asked] == [
        f"/schemas/ids/{schema_id}",
        "/subjects/money/versions/2",
        "/subjects/fee%2Feu/versions/1",
    ]


def test_referenced_schema_that_is_missing_is_the_records_fault(home: Path, registry: Registry) -> None:
    missing = [{"name": "x.Y", "subject": "nobody", "version": 1}]
    schema_id = registry.register("payments", avro_schema(PAYMENTS), references=missing)
    events = decoded([avro(payment(1), identity=schema_id)], format="avro", schema_registry_url=registry.url)
    ((_, reason, detail),) = letters(events)
    assert reason == "malformed"
    assert "references a schema that the registry does not have: Subject 'nobody' not found." in detail


def test_outage_while_references_are_fetched_is_waited_out(home: Path, registry: Registry) -> None:
    schema_id, whole = with_references(registry)
    registry.answers["/subjects/money/versions/2"] = [503]
    payload = avro(payment(1, tip={"cents": 5}, fee={"of": {"cents": 7}}), whole, identity=schema_id)
    assert decoded([payload], format="avro", schema_registry_url=registry.url).rows.num_rows == 1


def test_password_without_a_user_is_refused(home: Path) -> None:
    with pytest.raises(SettingsError, match="MILLSTREAM_SCHEMA_REGISTRY_AUTH") as error:
        avro_reader(
            PAYMENTS,
            FlowSettings(
                format="avro", schema_registry_url="http://x", schema_registry_auth=SecretStr("hunter2")
            ),
        )
    assert "hunter2" not in str(error.value)


def test_address_with_a_password_is_refused(home: Path) -> None:
    with pytest.raises(SettingsError, match="without a password") as error:
        avro_reader(PAYMENTS, FlowSettings(format="avro", schema_registry_url="http://u:hunter2@x"))
    assert "hunter2" not in str(error.value)
