"""Kafka as the source: a real broker, read exactly once, stopped loudly where records are gone."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from feature_repo.errors import FlowError, SettingsError
from feature_repo.kafka.client import client_properties, make_client
from feature_repo.kafka.producer import TopicProducer
from feature_repo.privacy import Pseudonyms
from feature_repo.streams.payments import PAYMENTS
from flows.accept.avro import avro_reader
from flows.accept.decode import Decoder
from flows.blocks import RawBlock
from flows.log.dead_letters import StorableDeadLetters
from flows.publish.topics import TopicPublisher
from flows.settings import FlowSettings
from flows.sources.kafka import SLOTS, KafkaSlot, KafkaSource, SlotState
from flows.streams import partition_of
from serving.outputs.score_topic import ScoreTopic
from serving.settings import ScorerSettings
from tests.flows.accept.test_avro import avro
from tests.kits import kafka_broker
from tests.kits.flow_output import dead_letter_rows, log_rows, states_from_log, states_online
from tests.kits.flow_process import running_flow
from tests.kits.kafka_flows import kafka_settings
from tests.kits.payments import as_table, encoded, payment, publish
from tests.soak import kafka_bounce, kafka_joins, kafka_kills

WHY_NOT = kafka_broker.reason_without_broker()
pytestmark = pytest.mark.skipif(
    WHY_NOT is not None and not kafka_broker.REQUIRED, reason=WHY_NOT or "there is a broker"
)


@pytest.fixture
def topic() -> str:
    """A topic of two partitions."""
    name = kafka_broker.unused_topic("payments")
    kafka_broker.make_topic(kafka_broker.servers(), name, 2)
    return name


@pytest.fixture
def writer() -> kafka_broker.Writer:
    return kafka_broker.Writer(kafka_broker.servers())


@pytest.fixture
def slot(home: Path, topic: str) -> Iterator[Callable[..., KafkaSlot]]:
    """Makes slots of sources over the topic; `number` says which."""
    made_slots = []

    def make(state: SlotState | None = None, number: int = 0, **options: Any) -> KafkaSlot:
        source = KafkaSource(PAYMENTS, kafka_settings(home, topic, **options))
        part = source.build_part("source", f"kafka:payments:slot-{number}", state)
        made_slots.append(part)
        return part

    yield make
    for part in made_slots:
        part.close()


def read(part: KafkaSlot, count: int) -> list[RawBlock]:
    """Blocks with at least so many records."""
    blocks: list[RawBlock] = []
    give_up = time.monotonic() + 20
    while sum(len(block.payloads) for block in blocks) < count:
        assert time.monotonic() < give_up, "the records did not come"
        blocks += [block for block in part.next_batch() if len(block.payloads)]
        time.sleep(0.005)
    return blocks


def payloads(blocks: list[RawBlock]) -> list[bytes]:
    return [payload for block in blocks for payload in block.payloads]


def test_block_has_payloads_offsets_and_the_brokers_time(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafka_broker.Writer
) -> None:
    before = time.time_ns() // 1_000_000
    writer.send(topic, [("a", b"0"), ("b", b"1"), (None, None)], partition=0)
    blocks = read(slot(), 3)
    assert payloads(blocks) == [b"0", b"1", b""]
    assert [o for block in blocks for o in block.offsets.tolist()] == [0, 1, 2]
    assert {(block.partition, block.began) for block in blocks} == {("kafka:payments:0", -1)}
    for block in blocks:
        assert block.accepted_us is not None
        assert before * 1000 <= block.accepted_us.min() <= block.accepted_us.max() <= time.time_ns() // 1000


def test_slot_goes_on_after_the_records_of_its_snapshot(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafka_broker.Writer
) -> None:
    writer.send(topic, [(None, b"%d" % n) for n in range(10)], partition=0)
    first = slot(block_events=4)
    assert payloads(read(first, 4)) == [b"0", b"1", b"2", b"3"]
    state = first.snapshot()
    assert state is not None
    assert state["next"][0][0] == 4
    assert payloads(read(first, 6)) == [b"%d" % n for n in range(4, 10)]
    (*_, last) = again = read(slot(state), 6)
    assert payloads(again) == [b"%d" % n for n in range(4, 10)]
    assert last.began == 3


def test_trace_of_a_record_is_kept_with_its_dead_letter(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafka_broker.Writer
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    writer.send(topic, [(None, b"{")], partition=0, headers={"traceparent": trace, "who": "Ada"})
    writer.send(topic, [(None, b"{")], partition=0, headers={"traceparent": "Ada"})
    part = slot()
    traces = [
        row["traceparent"]
        for block in read(part, 2)
        for letters in StorableDeadLetters(PAYMENTS, Pseudonyms.off())(Decoder(PAYMENTS)(block))
        for row in letters.to_pylist()
    ]
    assert traces == [trace, None]


def test_quiet_partition_gives_one_heartbeat_per_epoch(slot: Callable[..., KafkaSlot]) -> None:
    part = slot()
    found = []
    give_up = time.monotonic() + 20
    while not found and time.monotonic() < give_up:
        found = part.next_batch()
        time.sleep(0.01)
    assert [(block.partition, len(block.payloads)) for block in found] == [("kafka:payments:0", 0)]
    assert part.next_batch() == []
    part.snapshot()
    assert [len(part.next_batch()) for _ in range(2)] == [1, 0]


def test_every_partition_belongs_to_one_slot(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafka_broker.Writer
) -> None:
    kafka_broker.add_partitions(kafka_broker.servers(), topic, SLOTS + 2)
    for p in range(SLOTS + 2):
        writer.send(topic, [(None, b"%d" % p)], partition=p)
    assert sorted(payloads(read(slot(number=1), 2))) == [b"1", b"9"]
    assert payloads(read(slot(number=7), 1)) == [b"7"]


def test_partition_that_is_added_is_read_without_a_restart(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafka_broker.Writer
) -> None:
    part = slot(number=3)
    assert part.next_batch() == []
    kafka_broker.add_partitions(kafka_broker.servers(), topic, 4)
    writer.send(topic, [(None, b"new")], partition=3)
    (block,) = read(part, 1)
    assert (block.partition, block.offsets.tolist(), block.began) == ("kafka:payments:3", [0], -1)


def test_records_that_are_gone_unread_stop_the_flow(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafka_broker.Writer
) -> None:
    writer.send(topic, [(None, b"%d" % n) for n in range(10)], partition=0)
    part = slot(block_events=4)
    read(part, 4)
    state = part.snapshot()
    kafka_broker.delete_before(kafka_broker.servers(), topic, 0, 7)
    with pytest.raises(
        FlowError, match=r"3 offsets from 4 on are no longer in the topic.*MILLSTREAM_BUS_GAP=accept"
    ):
        read(slot(state), 1)
    assert payloads(read(slot(state, bus_gap="accept"), 3)) == [b"7", b"8", b"9"]


def test_topic_that_lost_what_was_read_stops_the_flow_whatever_is_accepted(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafka_broker.Writer
) -> None:
    writer.send(topic, [(None, b"0")], partition=0)
    part = slot()
    read(part, 1)
    state = part.snapshot()
    assert state is not None
    beyond: SlotState = {"topic_id": state["topic_id"], "next": {0: (50, -1)}}
    with pytest.raises(FlowError, match="it ends before offset 1, the flow has read up to 49"):
        read(slot(beyond, bus_gap="accept"), 1)


def test_topic_that_was_made_again_is_refused(slot: Callable[..., KafkaSlot]) -> None:
    with pytest.raises(FlowError, match="deleted and made again"):
        read(slot({"topic_id": "another", "next": {0: (0, -1)}}), 1)


def test_broken_settings_are_told_without_their_values(home: Path, tmp_path: Path) -> None:
    secret = "hunter2-never-shown"
    settings = FlowSettings(
        kafka_properties={"sasl.password": SecretStr(secret), "security.protocol": SecretStr(secret)}
    )
    assert secret not in repr(settings)
    from confluent_kafka import Producer

    with pytest.raises(SettingsError, match=r"security\.protocol") as error:
        make_client(Producer, client_properties(settings))
    assert secret not in str(error.value)
    file = tmp_path / "kafka.properties"
    file.write_text(f"# how we come in\nsasl.password = {secret}\nsasl.username=flow\n")
    found = client_properties(
        FlowSettings(kafka_properties_file=file, kafka_properties={"sasl.username": SecretStr("u")})
    )
    assert (found["sasl.password"], found["sasl.username"]) == (secret, "u")
    file.write_text(f"{secret}\n")
    with pytest.raises(SettingsError, match="line 1") as error:
        client_properties(FlowSettings(kafka_properties_file=file))
    assert secret not in str(error.value)
    with pytest.raises(SettingsError, match=r"auto\.offset\.reset cannot be set"):
        client_properties(FlowSettings(kafka_properties={"auto.offset.reset": SecretStr("latest")}))


@pytest.mark.skipif("KAFKA_BOOTSTRAP_SERVERS" in os.environ, reason="the broker's users are not ours")
def test_tls_and_password_are_passed_on_and_never_told(
    home: Path, topic: str, writer: kafka_broker.Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = kafka_broker.shared()
    assert broker is not None
    writer.send(topic, [(None, b"0")], partition=0)

    def secured(password: str) -> KafkaSlot:
        properties = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": kafka_broker.USER,
            "sasl.password": password,
            "ssl.ca.location": str(broker.certificate),
        }
        secrets = {name: SecretStr(value) for name, value in properties.items()}
        settings = kafka_settings(
            home, topic, kafka_bootstrap_servers=broker.secured, kafka_properties=secrets
        )
        return KafkaSource(PAYMENTS, settings).build_part("source", "kafka:payments:slot-0", None)

    part = secured(kafka_broker.PASSWORD)
    assert payloads(read(part, 1)) == [b"0"]
    part.close()
    wrong = secured("wrong-" + kafka_broker.PASSWORD)
    give_up = time.monotonic() + 20
    told = ""
    while "kafka.unreachable" not in told and time.monotonic() < give_up:
        assert wrong.next_batch() == []
        time.sleep(0.05)
        told += "".join(capsys.readouterr())
    wrong.close()
    assert "kafka.unreachable" in told
    assert kafka_broker.PASSWORD not in told


def test_flow_over_kafka_in_avro_keeps_what_the_flow_over_the_bus_keeps(
    home: Path, clean_redis: redis.Redis, topic: str, writer: kafka_broker.Writer
) -> None:
    events = [payment(n) for n in range(600)]
    for p in range(2):
        mine = [e for e in events if partition_of(e["account_id"], 2) == p]
        mine.append(payment(p, amount=-1.0, event_id=f"minus{p}"))
        publish(clean_redis, [*map(encoded, mine), b"{"], p)
        writer.send(topic, [(None, payload) for payload in [*map(avro, mine), b"{"]], partition=p)
    kept = []
    url = str(clean_redis.connection_pool.connection_kwargs["port"])
    for source in ("bus", "kafka"):
        settings = kafka_settings(
            home / source,
            topic,
            source=source,
            format="avro" if source == "kafka" else "json",
            bus_partitions=2,
            redis_url=f"redis://127.0.0.1:{url}/0",
        )
        with running_flow(settings) as process:
            process.wait_for_events(604)
            time.sleep(0.3)
        states = states_online(clean_redis)
        assert states == states_from_log(settings, clean_redis)
        rows = log_rows(settings).drop_columns(["created_timestamp", "source_partition", "source_offset"])
        kept.append(
            (
                rows.sort_by("event_id").combine_chunks(),
                states,
                sorted(d["reason"] for d in dead_letter_rows(settings)),
            )
        )
        for key in states_online(clean_redis):
            clean_redis.delete(key)
    assert kept[0] == kept[1]


def test_killed_flow_loses_nothing_and_a_replay_gives_the_same_values() -> None:
    assert "partitions added" in kafka_kills.trial(1, kills=3)


def test_live_join_over_topics_is_that_of_the_logs_after_a_kill_and_in_a_replay() -> None:
    kafka_joins.trial(5)


@pytest.mark.skipif("KAFKA_BOOTSTRAP_SERVERS" in os.environ, reason="the broker is not ours to stop")
def test_flow_outlives_a_broker_that_is_stopped_and_started() -> None:
    kafka_bounce.trial(1)


def records(topic: str, count: int) -> list[Any]:
    """The first records of a topic."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka_broker.servers(), "group.id": "tests"})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    found: list[Any] = []
    give_up = time.monotonic() + 20
    while len(found) < count and time.monotonic() < give_up:
        found += consumer.consume(count, 0.1)
    consumer.close()
    return found


def test_published_payments_are_keyed_by_account(home: Path, topic: str) -> None:
    settings = kafka_settings(home, topic)
    events = [payment(n) for n in range(40)]
    assert TopicPublisher(settings).publish("payments", as_table(events)) == 40
    found = records(topic, 40)
    assert sorted(json.loads(r.value())["event_id"] for r in found) == [e["event_id"] for e in events]
    where: dict[str, set[int]] = {}
    for r in found:
        assert r.key().decode() == json.loads(r.value())["account_id"]
        where.setdefault(r.key().decode(), set()).add(r.partition())
    assert {len(partitions) for partitions in where.values()} == {1}


def test_published_avro_is_what_the_flow_reads(home: Path, topic: str) -> None:
    settings = kafka_settings(home, topic, format="avro")
    rows = as_table([payment(n) for n in range(40)])
    TopicPublisher(settings).publish("payments", rows)
    (slot,) = records(topic, 40)[:1]
    read = avro_reader(PAYMENTS, settings)
    assert read is not None
    assert read(slot.value())["currency"] == "EUR"


def test_record_that_is_not_delivered_is_told_and_sent_again(home: Path) -> None:
    topic = kafka_broker.unused_topic("later")
    settings = kafka_settings(
        home,
        topic,
        kafka_properties={
            "message.timeout.ms": SecretStr("400"),
            "topic.metadata.propagation.max.ms": SecretStr("100"),
        },
    )
    failures: list[tuple[str, bool]] = []
    producer = TopicProducer(settings, lambda name, lost: failures.append((name, lost)))
    producer.send(topic, b"a", b"1")
    give_up = time.monotonic() + 20
    while not failures and time.monotonic() < give_up:
        producer.poll(0.1)
    assert failures
    assert not failures[0][1]
    assert producer.waiting == 1
    kafka_broker.make_topic(kafka_broker.servers(), topic, 1)
    assert producer.flush(20) == 0
    producer.send(topic, b"a", b"x" * 2_000_000)
    producer.send(topic, b"a", b"2")
    assert producer.flush(20) == 0
    assert failures[-1] == ("MSG_SIZE_TOO_LARGE", True)
    assert [r.value() for r in records(topic, 2)] == [b"1", b"2"]


def test_scores_and_alerts_reach_their_topics(home: Path) -> None:
    scores, alerts = kafka_broker.unused_topic("scores"), kafka_broker.unused_topic("alerts")
    for name in (scores, alerts):
        kafka_broker.make_topic(kafka_broker.servers(), name, 1)
    settings = ScorerSettings(
        kafka_bootstrap_servers=kafka_broker.servers(), score_topic=scores, alert_topic=alerts
    )

    async def answer() -> None:
        sink = ScoreTopic(settings)
        await sink.start()
        for n in range(30):
            decision = "decline" if n % 10 == 0 else "approve"
            sink.append(
                {"score_id": f"s{n}", "account_id": "a1", "decision": decision, "features": {"f": 1.0}}
            )
            await asyncio.sleep(0.01)
        await sink.stop()

    asyncio.run(answer())
    found = [json.loads(r.value()) for r in records(scores, 30)]
    assert [r["score_id"] for r in found] == [f"s{n}" for n in range(30)]
    assert "features" not in found[0]
    assert [json.loads(r.value())["score_id"] for r in records(alerts, 3)] == ["s0", "s10", "s20"]
