"""Settings, keyed traffic and a Redis server for tests of flows over Kafka."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis

from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings
from tests.kits import kafka_broker
from tests.kits.payments import START, encoded, payment
from tests.kits.views import apply_views


def kafka_settings(home: Path, topic: str, **options: Any) -> FlowSettings:
    """Settings of a flow of payments over a topic of the shared broker; applies the views. Topics of other streams do
    not exist.
    """
    home.mkdir(parents=True, exist_ok=True)
    nowhere = {name: f"{topic}.{name}" for name in ("customers", "merchants", "charges", "labels")}
    defaults: dict[str, Any] = {
        "home": home,
        "redis_url": redis_url(),
        "source": "kafka",
        "kafka_bootstrap_servers": kafka_broker.servers(),
        "kafka_topics": nowhere | {"payments": topic},
        "pseudonym_key": "off",
        "epoch_ms": 100,
        "checkpoint_seconds": 2.0,
        "recovery_partitions": 2,
    }
    settings = FlowSettings(**defaults | options)
    apply_views(settings)
    return settings


@functools.cache
def redis_url() -> str:
    """The address of an embedded server that runs until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-redis-"))
    server = EmbeddedServer(folder).__enter__()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.__exit__, None, None, None)
    return server.url


@functools.cache
def embedded_redis() -> redis.Redis:
    """A client of that server."""
    return redis.Redis.from_url(redis_url())


def keyed_traffic(count: int, draw: random.Random) -> tuple[list[tuple[str, bytes]], dict[str, int]]:
    """(account, payload) pairs out of order, some late, duplicated or broken, and how many there are of each reason."""
    sent: list[tuple[str, bytes]] = []
    expected = {"late": 0, "duplicate": 0, "malformed": 0, "schema": 0, "check": 0}
    for n in range(count):
        good = payment(n, START + timedelta(seconds=n * 4 - draw.randrange(300)))
        others: dict[str, bytes] = {
            "late": encoded(payment(n, START + timedelta(seconds=n * 4 - 1300), event_id=f"late{n}")),
            "duplicate": encoded(good),
            "malformed": b'{"event_id": "cut o',
            "schema": encoded(payment(n, amount="much", event_id=f"text{n}")),
            "check": encoded(payment(n, amount=-1.0, event_id=f"minus{n}")),
        }
        sent.append((good["account_id"], encoded(good)))
        kind = draw.choice(list(others))
        if draw.random() < 0.1 and (kind != "late" or n > 400):
            expected[kind] += 1
            sent.append((good["account_id"], others[kind]))
    return sent, expected


def in_order(rows: pa.Table) -> pa.Table:
    """Sort rows of a log by source partition and offset."""
    return rows.sort_by([("source_partition", "ascending"), ("source_offset", "ascending")]).combine_chunks()
