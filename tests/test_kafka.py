"""Kafka as the source: a real broker, read exactly once, stopped loudly where records are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from feature_repo.errors import FlowError, SettingsError
from feature_repo.kafka import client_properties, made
from flows.blocks import RawBlock
from flows.connectors.kafka import SLOTS, KafkaSlot, KafkaSource, SlotState
from flows.generator.bus import partition_of
from flows.settings import FlowSettings
from flows.streams import PAYMENTS
from tests import kafkakit
from tests.flowkit import (
    accounted,
    dead,
    encoded,
    folded_from_log,
    kill,
    logged,
    payment,
    publish,
    start,
    stored_online,
    wait_for,
)
from tests.kafkaflows import kafka_settings
from tests.soak import kafka_bounce, kafka_kills

WHY_NOT = kafkakit.why_not()
pytestmark = pytest.mark.skipif(
    WHY_NOT is not None and not kafkakit.REQUIRED, reason=WHY_NOT or "there is a broker"
)


@pytest.fixture
def topic() -> str:
    """A topic of two partitions."""
    name = kafkakit.fresh("payments")
    kafkakit.make_topic(kafkakit.servers(), name, 2)
    return name


@pytest.fixture
def writer() -> kafkakit.Writer:
    return kafkakit.Writer(kafkakit.servers())


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
    slot: Callable[..., KafkaSlot], topic: str, writer: kafkakit.Writer
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
    slot: Callable[..., KafkaSlot], topic: str, writer: kafkakit.Writer
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
    slot: Callable[..., KafkaSlot], topic: str, writer: kafkakit.Writer
) -> None:
    kafkakit.add_partitions(kafkakit.servers(), topic, SLOTS + 2)
    for p in range(SLOTS + 2):
        writer.send(topic, [(None, b"%d" % p)], partition=p)
    assert sorted(payloads(read(slot(number=1), 2))) == [b"1", b"9"]
    assert payloads(read(slot(number=7), 1)) == [b"7"]


def test_partition_that_is_added_is_read_without_a_restart(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafkakit.Writer
) -> None:
    part = slot(number=3)
    assert part.next_batch() == []
    kafkakit.add_partitions(kafkakit.servers(), topic, 4)
    writer.send(topic, [(None, b"new")], partition=3)
    (block,) = read(part, 1)
    assert (block.partition, block.offsets.tolist(), block.began) == ("kafka:payments:3", [0], -1)


def test_records_that_are_gone_unread_stop_the_flow(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafkakit.Writer
) -> None:
    writer.send(topic, [(None, b"%d" % n) for n in range(10)], partition=0)
    part = slot(block_events=4)
    read(part, 4)
    state = part.snapshot()
    kafkakit.delete_before(kafkakit.servers(), topic, 0, 7)
    with pytest.raises(
        FlowError, match=r"3 offsets from 4 on are no longer in the topic.*MILLSTREAM_BUS_GAP=accept"
    ):
        read(slot(state), 1)
    assert payloads(read(slot(state, bus_gap="accept"), 3)) == [b"7", b"8", b"9"]


def test_topic_that_lost_what_was_read_stops_the_flow_whatever_is_accepted(
    slot: Callable[..., KafkaSlot], topic: str, writer: kafkakit.Writer
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
        made(Producer, client_properties(settings))
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


def test_flow_over_kafka_keeps_what_the_flow_over_the_bus_keeps(
    home: Path, clean_redis: redis.Redis, topic: str, writer: kafkakit.Writer
) -> None:
    events = [payment(n) for n in range(600)]
    for p in range(2):
        mine = [encoded(e) for e in events if partition_of(e["account_id"], 2) == p]
        mine += [b"{", encoded(payment(p, amount=-1.0, event_id=f"minus{p}"))]
        publish(clean_redis, mine, p)
        writer.send(topic, [(None, payload) for payload in mine], partition=p)
    kept = []
    url = str(clean_redis.connection_pool.connection_kwargs["port"])
    for source in ("bus", "kafka"):
        settings = kafka_settings(
            home / source, topic, source=source, bus_partitions=2, redis_url=f"redis://127.0.0.1:{url}/0"
        )
        process = start(settings)
        wait_for(lambda s=settings: accounted(s) == 604, process)  # type: ignore[misc]
        time.sleep(0.3)
        kill(process)
        states = stored_online(clean_redis)
        assert states == folded_from_log(settings, clean_redis)
        rows = logged(settings).drop_columns(["created_timestamp", "source_partition", "source_offset"])
        kept.append(
            (rows.sort_by("event_id").combine_chunks(), states, sorted(d["reason"] for d in dead(settings)))
        )
        for key in stored_online(clean_redis):
            clean_redis.delete(key)
    assert kept[0] == kept[1]


def test_killed_flow_loses_nothing_and_a_replay_gives_the_same_values() -> None:
    assert "partitions added" in kafka_kills.trial(1)


@pytest.mark.skipif("KAFKA_BOOTSTRAP_SERVERS" in os.environ, reason="the broker is not ours to stop")
def test_flow_outlives_a_broker_that_is_stopped_and_started() -> None:
    kafka_bounce.trial(1)
