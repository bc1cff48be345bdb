"""A flow that reads Kafka is killed with -9 at random moments while events arrive; with odd seeds the topic gets more
partitions.

Every event must be in the log or among the dead letters exactly once, and the online store must equal the fold of the
log. Reading the topic again from its earliest offsets into an empty home must give the same log and store, value for
value. Where partitions were added, columns derived from an account's past are left out of this comparison, because
their order across partitions is not defined.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from pathlib import Path

import redis

from feature_repo.streams.payments import PAYMENTS
from flows.settings import FlowSettings
from tests.kits import kafka_broker
from tests.kits.flow_output import dead_letter_rows, events_written, log_rows, states_from_log, states_online
from tests.kits.flow_process import run_until, running_flow
from tests.kits.kafka_flows import embedded_redis, in_order, kafka_settings, keyed_traffic
from tests.kits.views import apply_views

TRIALS = 200
KILLS = 5
EVENTS = 1_500
PACE_S = 0.02


def trial(seed: int, kills: int = KILLS) -> str:
    """Kill one flow `kills` times."""
    draw = random.Random(seed)
    client = embedded_redis()
    client.flushall()
    topic = kafka_broker.unused_topic("payments")
    kafka_broker.make_topic(kafka_broker.servers(), topic, draw.randrange(1, 5))
    folder = Path(tempfile.mkdtemp(prefix="millstream-soak-"))
    settings = kafka_settings(folder / "home", topic, block_events=draw.choice([16, 48, 400]))
    sent, expected = keyed_traffic(EVENTS, draw)
    grows_at = draw.randrange(len(sent)) if seed % 2 else None
    producer = threading.Thread(target=_produce, args=(topic, sent, grows_at))
    producer.start()
    on_the_way = 0
    for _ in range(kills):
        before = events_written(settings)
        with running_flow(settings) as process:
            if before < len(sent):
                process.wait_for(lambda before=before: events_written(settings) > before, seconds=240)  # type: ignore[misc]
            time.sleep(draw.random() * 0.25)
        on_the_way += before < events_written(settings) < len(sent)
    producer.join()
    finish(settings, len(sent))
    check(settings, client, len(sent), None if grows_at is not None else expected)
    first, states = in_order(log_rows(settings)), states_online(client)

    client.flushall()
    again = kafka_settings(folder / "again", topic)
    finish(again, len(sent))
    check(again, client, len(sent), None)
    replayed = in_order(log_rows(again))
    if grows_at is not None:
        # Accounts moved to other partitions: what is derived from their past depends on the order in which partitions
        # are read.
        first, replayed = first.select(PAYMENTS.decoded.names), replayed.select(PAYMENTS.decoded.names)
    assert replayed.equals(first)
    assert states_online(client) == states
    shutil.rmtree(folder)
    return f"{len(sent):,} events, {on_the_way} kills while events arrived" + (
        ", partitions added" if grows_at else ""
    )


def finish(settings: FlowSettings, count: int) -> None:
    """Run the flow until `count` events are written."""
    apply_views(settings)
    run_until(settings, count, linger=0.3)


def check(settings: FlowSettings, client: redis.Redis, count: int, expected: dict[str, int] | None) -> None:
    """Check that each event is written once, the dead letters by reason (if `expected` is given), and the online
    store.
    """
    rows, letters = log_rows(settings), dead_letter_rows(settings)
    places = [
        *zip(rows["source_partition"].to_pylist(), rows["source_offset"].to_pylist(), strict=True),
        *((letter["source_partition"], letter["source_offset"]) for letter in letters),
    ]
    assert len(places) == len(set(places)) == count
    assert len(set(rows["event_id"].to_pylist())) == rows.num_rows
    if expected is not None:
        found: dict[str, int] = dict.fromkeys(expected, 0)
        for letter in letters:
            found[letter["reason"]] += 1
        assert found == expected
    assert states_online(client) == states_from_log(settings, client)


def _produce(topic: str, sent: list[tuple[str, bytes]], grows_at: int | None) -> None:
    writer = kafka_broker.Writer(kafka_broker.servers())
    for at in range(0, len(sent), 20):
        if grows_at is not None and at <= grows_at < at + 20:
            kafka_broker.add_partitions(kafka_broker.servers(), topic, 6)
        writer.send(topic, sent[at : at + 20])
        time.sleep(PACE_S)
