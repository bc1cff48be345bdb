"""The broker stops (cleanly or killed) and returns while a flow reads and a producer writes.

The flow must wait and continue by itself, and every record that the broker acknowledged must be written exactly once.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from pathlib import Path

from tests.kits import kafka_broker
from tests.kits.flow_output import events_written
from tests.kits.flow_process import running_flow
from tests.kits.kafka_flows import embedded_redis, kafka_settings, keyed_traffic
from tests.soak.kafka_kills import check

TRIALS = 50
EVENTS = 600


def trial(seed: int) -> str:
    """Stop and start the broker once, at a random event."""
    draw = random.Random(seed)
    broker = kafka_broker.shared()
    assert broker is not None, "the trial stops its own broker only: unset KAFKA_BOOTSTRAP_SERVERS"
    client = embedded_redis()
    client.flushall()
    topic = kafka_broker.unused_topic("payments")
    kafka_broker.make_topic(broker.servers, topic, 3)
    folder = Path(tempfile.mkdtemp(prefix="millstream-soak-"))
    settings = kafka_settings(folder / "home", topic)
    sent, expected = keyed_traffic(EVENTS, draw)
    producer = threading.Thread(target=_produce, args=(broker.servers, topic, sent))
    with running_flow(settings) as process:
        producer.start()
        reached = draw.randrange(len(sent) // 2)
        process.wait_for(lambda: events_written(settings) >= reached, seconds=240)
        hard = draw.random() < 0.5
        broker.stop(kill=hard)
        time.sleep(draw.random())
        broker.start()
        producer.join()
        process.wait_for_events(len(sent), 240)
        time.sleep(0.3)
        assert process.is_alive()
    check(settings, client, len(sent), expected)
    shutil.rmtree(folder)
    return f"{len(sent):,} events, broker {'killed' if hard else 'stopped'} after {reached:,}"


def _produce(servers: str, topic: str, sent: list[tuple[str, bytes]]) -> None:
    writer = kafka_broker.Writer(servers)
    for at in range(0, len(sent), 20):
        writer.send(topic, sent[at : at + 20])
        time.sleep(0.02)
