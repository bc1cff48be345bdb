"""Repaired dead letters go back onto a topic of a real broker, each once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feature_repo.streams.payments import PAYMENTS
from flows.accept.avro import avro_reader
from flows.redrive.already_sent import SentLetters
from flows.redrive.lines import as_line
from flows.redrive.topic import HEADER
from flows.settings import FlowSettings
from tests.flows.redrive.test_redrive import NOW, broken, dead_lettered, exported, redrive, write_back
from tests.kits import kafka_broker
from tests.kits.payments import as_table, payment

WHY_NOT = kafka_broker.reason_without_broker()
pytestmark = pytest.mark.skipif(
    WHY_NOT is not None and not kafka_broker.REQUIRED, reason=WHY_NOT or "there is a broker"
)


@pytest.fixture
def topic(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of three partitions that the settings name."""
    name = kafka_broker.unused_topic("payments")
    kafka_broker.make_topic(kafka_broker.servers(), name, 3)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_broker.servers())
    monkeypatch.setenv("MILLSTREAM_KAFKA_TOPICS", json.dumps({"payments": name}))
    return name


def records(topic: str) -> list[Any]:
    """All records of a topic."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka_broker.servers(), "group.id": "test"})
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(3)}
    consumer.assign([TopicPartition(topic, p, 0) for p in ends])
    found: list[Any] = []
    while len(found) < sum(ends.values()):
        found += [record for record in consumer.consume(100, 1.0) if record.error() is None]
    consumer.close()
    return found


def repaired(home: Path) -> Path:
    lines = exported(home / "out.jsonl")
    for line in lines:
        line["event"]["amount"] = 2.5
    return write_back(home / "repaired.jsonl", lines)


def test_letters_go_to_the_topic_keyed_by_account_and_once(
    home: Path, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_lettered(home, [broken(n) for n in range(40)])
    path = repaired(home)
    monkeypatch.setenv("MILLSTREAM_SOURCE", "kafka")
    with monkeypatch.context() as patched:
        patched.setattr(SentLetters, "record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        redrive("send", path)
    assert len(records(topic)) == 40
    done = redrive("send", path)
    assert "0 events published on Kafka\n40 had been sent before" in done.stdout, done.output
    found = records(topic)
    assert sorted(json.loads(r.value())["event_id"] for r in found) == sorted(f"b{n}" for n in range(40))
    assert all(r.key().decode() == json.loads(r.value())["account_id"] for r in found)
    assert len({dict(r.headers())[HEADER] for r in found}) == 40
    assert "40 sent again" in redrive("list").stdout


def test_avro_letters_are_repaired_as_json_and_go_back_as_avro(
    home: Path, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_lettered(home, [broken(1)])
    path = repaired(home)
    monkeypatch.setenv("MILLSTREAM_SOURCE", "kafka")
    monkeypatch.setenv("MILLSTREAM_FORMAT", "avro")
    assert redrive("send", path).exit_code == 0
    (record,) = records(topic)
    reader = avro_reader(PAYMENTS, FlowSettings())
    assert reader is not None
    row = {"source_partition": "kafka:payments:0", "source_offset": 0, "reason": "check", "detail": "amount"}
    line = json.loads(as_line(PAYMENTS, row | {"created_timestamp": NOW, "payload": record.value()}, reader))
    event = line["event"]
    sent = as_table([payment(1, NOW, event_id="b1", amount=2.5)]).to_pylist()[0]
    assert (event["event_id"], event["amount"], event["account_id"]) == ("b1", 2.5, sent["account_id"])


def test_topic_that_is_not_there_is_said_in_a_sentence(
    home: Path, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_lettered(home, [broken(1)])
    path = repaired(home)
    monkeypatch.setenv("MILLSTREAM_SOURCE", "kafka")
    monkeypatch.setenv(
        "MILLSTREAM_KAFKA_TOPICS", json.dumps({"payments": kafka_broker.unused_topic("nothing")})
    )
    done = redrive("send", path)
    assert done.exit_code == 2
    assert "there is no such topic" in done.stderr
