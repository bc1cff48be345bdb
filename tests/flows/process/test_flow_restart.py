"""Whole flows on a real server, killed at random moments: nothing lost, nothing twice, online as in the log."""

from __future__ import annotations

import random
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
from tests.kits.flow_output import dead_letter_rows, events_written, log_rows, states_from_log, states_online
from tests.kits.flow_process import BYTEWAX, run_to_end, running_command, running_flow
from tests.kits.payments import START, as_table, encoded, payment, publish
from tests.kits.views import VIEWS, apply_views
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
        before = events_written(settings)
        with running_flow(settings) as process:
            process.wait_for(lambda before=before: events_written(settings) > before)  # type: ignore[misc]
            time.sleep(draw.random() * 0.15)
    assert 0 < events_written(settings) < 40_000
    run_to_end(settings, seconds=60)
    rows = log_rows(settings)
    assert sorted(rows["source_offset"].to_pylist()) == list(range(40_000))
    assert states_online(clean_redis) == states_from_log(settings, clean_redis)


def test_bus_flow_goes_on_from_the_states_a_backfill_left(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    path = home / "history.parquet"
    pq.write_table(as_table([payment(n) for n in range(2_000)]), path)
    settings = bus_settings(redis_url)
    apply_views(settings)
    run("payments", settings.model_copy(update={"source_files": str(path)}))
    with running_flow(settings) as process:
        publish(clean_redis, [encoded(payment(n)) for n in range(2_000, 2_300)])
        process.wait_for_events(2_300)
    assert states_online(clean_redis) == states_from_log(settings, clean_redis)


def test_added_view_is_filled_for_every_key_at_the_next_start(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = bus_settings(redis_url)
    fewer = AppliedViews("millstream", {"payments": VIEWS.streams["payments"][1:2]})
    apply_views(settings, fewer)
    publish(clean_redis, [encoded(payment(n)) for n in range(1_000)])
    with running_flow(settings) as process:
        process.wait_for_events(1_000)
    assert states_online(clean_redis, fewer) == states_from_log(settings, clean_redis, fewer)
    apply_views(settings)
    with running_flow(settings) as process:
        process.wait_for_states(clean_redis)
        publish(clean_redis, [encoded(payment(n)) for n in range(1_000, 1_100)])
        process.wait_for_events(1_100)
    assert states_online(clean_redis) == states_from_log(settings, clean_redis)


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
    with running_flow(settings) as process:
        publish(clean_redis, [encoded(event) for event in events], first_ms=now * 1000)
        process.wait_for_events(len(events))
    assert {(d["reason"], d["source_partition"]) for d in dead_letter_rows(settings)} == {
        (reason, "bus:payments:0") for reason in ("late", "future", "duplicate")
    }
    assert sorted(log_rows(settings)["event_id"].to_pylist()) == ["p0000000000", "p0000000003"]


def test_plain_bytewax_command_recovers_after_a_kill(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = FlowSettings(redis_url=redis_url)
    publish(clean_redis, [encoded(payment(n)) for n in range(300)])
    for expected in (300, 400):
        with running_command(settings, *BYTEWAX) as flow:
            flow.wait_for_events(expected)
            assert flow.log_lines("recovery.on") == 1 + (expected > 300)
        publish(clean_redis, [encoded(payment(n)) for n in range(300, 400)])
    folder = recovery.folder(settings, "payments", "bus")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.glob("part-*.sqlite3"))) == FlowSettings().recovery_partitions
    rows = log_rows(settings)
    assert sorted(rows["event_id"].to_pylist()) == [payment(n)["event_id"] for n in range(400)]


def test_recovery_can_be_switched_off_and_says_so(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = bus_settings(redis_url)
    with running_command(settings, *BYTEWAX, MILLSTREAM_RECOVERY="off") as flow:
        flow.wait_for(lambda: flow.log_lines("flow.start") > 0)
        assert flow.log_lines("recovery.off") == 1
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
    with running_flow(settings) as process:
        process.wait_for((settings.recovery / "payments-bus" / recovery.FINGERPRINT).exists)
        with pytest.raises(RecoveryError, match="another flow process"):
            run("payments", settings)
