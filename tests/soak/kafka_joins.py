"""Payments are joined with customers over two topics while the flow is killed; live and replayed rows are equal.

The joined columns of each logged payment must equal an as-of join of the two logs by both clocks. Reading the topics
again from their earliest offsets into an empty home must give the same log, value for value.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import duckdb

from flows.settings import FlowSettings
from tests.kits import kafka_broker
from tests.kits.flow_output import log_rows
from tests.kits.flow_process import running_flow
from tests.kits.kafka_flows import embedded_redis, in_order, kafka_settings
from tests.kits.payments import START, encoded, payment

TRIALS = 50
EVENTS = 300


def log_of(settings: FlowSettings, stream: str) -> str:
    return f"read_parquet('{settings.log_dir}/{stream}/*.parquet')"


def logged_customers(settings: FlowSettings) -> int:
    try:
        return int(duckdb.sql(f"SELECT count(*) FROM {log_of(settings, 'customers')}").fetchall()[0][0])
    except duckdb.IOException:
        return 0


def trial(seed: int) -> str:
    """Send payments and customers in turn, kill the flow of payments once, then replay."""
    embedded_redis().flushall()
    draw = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="millstream-soak-"))
    killed_at = draw.randrange(EVENTS)
    topic = kafka_broker.unused_topic("payments")
    settings = kafka_settings(folder / "home", topic)
    kafka_broker.make_topic(kafka_broker.servers(), topic, 2)
    kafka_broker.make_topic(kafka_broker.servers(), f"{topic}.customers", 2)
    writer = kafka_broker.Writer(kafka_broker.servers())
    with running_flow(settings) as flow, running_flow(settings, "customers") as changelog:
        for n in range(EVENTS):
            account = f"a{n % 17}"
            if n % 3 == 0:
                version = {
                    "event_id": f"c{n:06d}",
                    "event_timestamp": (START + timedelta(seconds=n - draw.randrange(400))).isoformat(),
                    "account_id": account,
                    "home_latitude": float(n % 90),
                    "home_longitude": 8.0,
                    "segment": "standard",
                    "opened_at": (START - timedelta(days=n)).isoformat(),
                }
                writer.send(f"{topic}.customers", [(account, encoded(version))])
            at = START + timedelta(seconds=n - draw.randrange(200))
            writer.send(topic, [(account, encoded(payment(n, at, latitude=48.0, longitude=11.0)))])
            if n == killed_at:
                flow.restart()
        flow.wait_for_events(EVENTS, 240)
        changelog.wait_for(lambda: logged_customers(settings) == EVENTS // 3, seconds=240)
    wrong = duckdb.sql(f"""
        WITH joined AS (
            SELECT p.event_id, p.customer_opened_at AS ours, c.opened_at AS theirs,
                row_number() OVER (PARTITION BY p.event_id ORDER BY c.event_timestamp DESC, c.created_timestamp DESC, c.source_offset DESC) AS nth
            FROM {log_of(settings, "payments")} p LEFT JOIN {log_of(settings, "customers")} c
            ON p.account_id = c.account_id AND c.event_timestamp <= p.event_timestamp AND c.created_timestamp <= p.created_timestamp)
        SELECT count(*), count(theirs), count(*) FILTER (WHERE ours IS DISTINCT FROM theirs) FROM joined WHERE nth = 1""")
    n, known, different = wrong.fetchall()[0]
    assert (n, different) == (EVENTS, 0)
    assert known > EVENTS // 2

    first = in_order(log_rows(settings))
    again = kafka_settings(folder / "again", topic)
    with running_flow(again) as flow:
        flow.wait_for_events(EVENTS, 240)
        time.sleep(0.3)
    assert in_order(log_rows(again)).equals(first)
    shutil.rmtree(folder)
    return f"{EVENTS} payments, {known} with a customer, killed after {killed_at}"
