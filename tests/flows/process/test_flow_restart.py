"""Whole flows on a real server, killed at random moments: nothing lost, nothing twice, on line as in the log."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis

from feature_repo.errors import RecoveryError
from feature_repo.stores.applied_views import AppliedViews
from feature_repo.streams.payments import PAYMENTS
from flows.bootstrap import run
from flows.pipeline import build
from flows.process import recovery
from flows.settings import FlowSettings
from tests.kits.flows_running import (
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
from tests.soak import kill_flow, kill_one_of_two


def bus_settings(redis_url: str, **options: Any) -> FlowSettings:
    defaults: dict[str, Any] = {
        "epoch_ms": 100,
        "checkpoint_seconds": 2.0,
        "key_shards": 4,
        "recovery_partitions": 4,
    }
    return FlowSettings(redis_url=redis_url, **defaults | options)


def test_killed_flow_loses_nothing_and_doubles_nothing() -> None:
    assert kill_flow.trial(20261122, count=3_000, kills=8)


def test_one_process_of_a_cluster_killed_takes_the_other_with_it_and_both_go_on_exactly() -> None:
    assert kill_one_of_two.trial(20261122, kills=1)


def test_processes_of_a_cluster_that_start_at_once_share_one_recovery_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recovery" / "payments-bus"
    init = recovery._init_db_dir

    def init_while_the_other_is_faster(folder: Path, partitions: int) -> None:
        monkeypatch.setattr(recovery, "_init_db_dir", init)
        recovery.prepare(path, partitions)
        init(folder, partitions)

    monkeypatch.setattr(recovery, "_init_db_dir", init_while_the_other_is_faster)
    assert recovery.prepare(path, 2) == path
    assert len([*path.glob("part-*.sqlite3")]) == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


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
