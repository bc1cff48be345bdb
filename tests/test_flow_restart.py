"""Whole flows on a real server, killed at random moments: nothing lost, nothing twice, on line as in the log."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis

from feature_repo.errors import RecoveryError
from feature_repo.stores.specs import AppliedViews
from flows import recovery
from flows.bootstrap import run
from flows.pipeline import build
from flows.settings import FlowSettings
from flows.streams import PAYMENTS
from tests.flowkit import (
    START,
    VIEWS,
    accounted,
    apply_views,
    as_table,
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


def bus_settings(redis_url: str, **options: Any) -> FlowSettings:
    defaults: dict[str, Any] = {
        "epoch_ms": 100,
        "checkpoint_seconds": 2.0,
        "key_shards": 4,
        "recovery_partitions": 4,
    }
    return FlowSettings(redis_url=redis_url, **defaults | options)


def traffic(first: int, count: int, draw: random.Random) -> tuple[list[bytes], dict[str, int]]:
    """Payments in disorder among which some are late, doubled or broken, and how many of each."""
    payloads, expected = [], {"late": 0, "duplicate": 0, "malformed": 0, "schema": 0, "check": 0}
    for n in range(first, first + count):
        good = payment(n, START + timedelta(seconds=n * 4 - draw.randrange(300)))
        payloads.append(encoded(good))
        kind = draw.random()
        if kind < 0.02 and n > 400:
            payloads.append(encoded(payment(n, START + timedelta(seconds=n * 4 - 1300), event_id=f"late{n}")))
            expected["late"] += 1
        elif kind < 0.04:
            payloads.append(encoded(good))
            expected["duplicate"] += 1
        elif kind < 0.06:
            payloads.append(b'{"event_id": "cut o')
            expected["malformed"] += 1
        elif kind < 0.08:
            payloads.append(encoded(payment(n, amount="much", event_id=f"text{n}")))
            expected["schema"] += 1
        elif kind < 0.10:
            payloads.append(encoded(payment(n, amount=-1.0, event_id=f"minus{n}")))
            expected["check"] += 1
    return payloads, expected


def test_killed_flow_loses_nothing_and_doubles_nothing(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    seed = 20261122
    draw = random.Random(seed)
    settings = bus_settings(redis_url, block_events=48)
    apply_views(settings)
    sent, expected = traffic(0, 3_000, draw)
    first_ms = int(time.time() * 1000)

    def produce() -> None:
        for at in range(0, len(sent), 20):
            publish(clean_redis, sent[at : at + 20], first_ms=first_ms + at)
            time.sleep(0.03)

    producer = threading.Thread(target=produce)
    producer.start()
    kills_on_the_way = 0
    for _ in range(8):
        before = accounted(settings)
        process = start(settings)
        wait_for(lambda before=before: accounted(settings) > before, process)  # type: ignore[misc]
        time.sleep(draw.random() * 0.25)
        kill(process)
        kills_on_the_way += before < accounted(settings) < len(sent)
    producer.join()
    process = start(settings)
    wait_for(lambda: accounted(settings) >= len(sent), process)
    time.sleep(0.5)
    kill(process)

    assert kills_on_the_way >= 5
    reasons_found: dict[str, int] = {}
    letters = dead(settings)
    for letter in letters:
        reasons_found[letter["reason"]] = reasons_found.get(letter["reason"], 0) + 1
    rows = logged(settings)
    assert rows.num_rows + len(letters) == len(sent), f"seed {seed}"
    assert len(set(rows["event_id"].to_pylist())) == rows.num_rows == 3000, f"seed {seed}"
    assert reasons_found == expected, f"seed {seed}"
    places = rows["source_offset"].to_pylist() + [letter["source_offset"] for letter in letters]
    assert len(set(places)) == len(sent), f"seed {seed}"
    assert stored_online(clean_redis) == folded_from_log(settings, clean_redis), f"seed {seed}"


def test_killed_run_over_files_ends_like_an_undisturbed_one(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    path = home / "in.parquet"
    pq.write_table(as_table([payment(n) for n in range(40_000)]), path)
    settings = bus_settings(
        redis_url, source_files=str(path), file_block_events=500, epoch_events=2_000, checkpoint_events=2_000
    )
    apply_views(settings)
    draw = random.Random(5)
    for _ in range(4):
        before = accounted(settings)
        process = start(settings)
        wait_for(lambda before=before: accounted(settings) > before, process)  # type: ignore[misc]
        time.sleep(draw.random() * 0.15)
        kill(process)
    assert 0 < accounted(settings) < 40_000
    process = start(settings)
    process.join(60)
    assert process.exitcode == 0
    rows = logged(settings)
    assert sorted(rows["source_offset"].to_pylist()) == list(range(40_000))
    assert stored_online(clean_redis) == folded_from_log(settings, clean_redis)


def test_bus_flow_goes_on_from_the_states_a_backfill_left(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    path = home / "history.parquet"
    pq.write_table(as_table([payment(n) for n in range(2_000)]), path)
    settings = bus_settings(redis_url)
    apply_views(settings)
    run("payments", settings.model_copy(update={"source_files": str(path)}))
    process = start(settings)
    publish(clean_redis, [encoded(payment(n)) for n in range(2_000, 2_300)])
    wait_for(lambda: accounted(settings) == 2_300, process)
    kill(process)
    assert stored_online(clean_redis) == folded_from_log(settings, clean_redis)


def test_added_view_is_filled_for_every_key_at_the_next_start(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = bus_settings(redis_url)
    fewer = AppliedViews("millstream", {"payments": VIEWS.streams["payments"][1:2]})
    apply_views(settings, fewer)
    publish(clean_redis, [encoded(payment(n)) for n in range(1_000)])
    process = start(settings)
    wait_for(lambda: accounted(settings) == 1_000, process)
    kill(process)
    assert stored_online(clean_redis, fewer) == folded_from_log(settings, clean_redis, fewer)
    apply_views(settings)
    process = start(settings)
    wait_for(lambda: stored_online(clean_redis) == folded_from_log(settings, clean_redis), process)
    publish(clean_redis, [encoded(payment(n)) for n in range(1_000, 1_100)])
    wait_for(lambda: accounted(settings) == 1_100, process)
    kill(process)
    assert stored_online(clean_redis) == folded_from_log(settings, clean_redis)


def test_late_future_and_duplicate_events_reach_the_dead_letters_with_their_reason(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    now = int(time.time())
    at = START + timedelta(seconds=now - int(START.timestamp()))
    events = [
        payment(0, at),
        payment(1, at - timedelta(minutes=11)),
        payment(2, at + timedelta(minutes=6)),
        payment(0, at),
        payment(3, at),
    ]
    settings = bus_settings(redis_url)
    process = start(settings)
    publish(clean_redis, [encoded(event) for event in events], first_ms=now * 1000)
    wait_for(lambda: accounted(settings) == len(events), process)
    kill(process)
    assert {(d["reason"], d["source_partition"]) for d in dead(settings)} == {
        (reason, "bus:payments:0") for reason in ("late", "future", "duplicate")
    }
    assert sorted(logged(settings)["event_id"].to_pylist()) == ["p0000000000", "p0000000003"]


def _bytewax(settings: FlowSettings, *options: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bytewax.run", "flows.payments", *options],
        env=os.environ | {"MILLSTREAM_HOME": str(settings.home), "REDIS_URL": settings.redis_url} | env,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_plain_bytewax_command_recovers_after_a_kill(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = bus_settings(redis_url)
    publish(clean_redis, [encoded(payment(n)) for n in range(300)])
    for expected in (300, 400):
        process = _bytewax(settings)
        try:
            wait_for(lambda n=expected: accounted(settings) == n)  # type: ignore[misc]
        finally:
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert "recovery.on" in errors
        publish(clean_redis, [encoded(payment(n)) for n in range(300, 400)])
    folder = recovery.folder(settings, "payments", "bus")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.glob("part-*.sqlite3"))) == FlowSettings().recovery_partitions
    rows = logged(settings)
    assert sorted(rows["event_id"].to_pylist()) == [payment(n)["event_id"] for n in range(400)]


def test_recovery_can_be_switched_off_and_says_so(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = bus_settings(redis_url)
    process = _bytewax(settings, MILLSTREAM_RECOVERY="off")
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "flow.start" in line:
            break
    process.kill()
    process.communicate()
    assert any("recovery.off" in line for line in lines)
    assert not (recovery.folder(settings, "payments", "bus")).exists()


def test_flow_of_another_shape_is_refused_on_its_recovery_state(home: Path, redis_url: str) -> None:
    settings = bus_settings(redis_url)
    flow = build(PAYMENTS, settings)
    path = home / "recovery" / "x"
    recovery.guard(flow, settings, "payments", path)
    recovery.release(settings, "payments")
    recovery.guard(flow, settings, "payments", path)
    recovery.release(settings, "payments")
    stored = path / recovery.FINGERPRINT
    stored.write_text(stored.read_text().replace("payments.admit", "payments.admission"))
    with pytest.raises(RecoveryError, match=r"gone: \['payments.admission.*new: \['payments.admit"):
        recovery.guard(flow, settings, "payments", path)
    recovery.release(settings, "payments")


def test_second_flow_of_a_home_is_refused(home: Path, clean_redis: redis.Redis, redis_url: str) -> None:
    settings = bus_settings(redis_url)
    process = start(settings)
    wait_for((settings.recovery / "payments-bus" / recovery.FINGERPRINT).exists, process)
    with pytest.raises(RecoveryError, match="another flow process"):
        run("payments", settings)
    kill(process)
