"""A backfill beside a running flow: new views end as if they had been there from the first event."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis

from feature_repo.errors import DefinitionError
from feature_repo.stores.applied_views import AppliedViews
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.stores.redis_layout.view_versions import KeptVersions, versions_key
from flows import backfill as module
from flows.backfill import Shard, backfill, flow_runs
from flows.bootstrap import run
from flows.settings import FlowSettings
from tests.kits.flow_command import BYTEWAX, RUN, FlowCommand
from tests.kits.flows_running import (
    VIEWS,
    accounted,
    apply_views,
    as_table,
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

FEWER = AppliedViews("millstream", {"payments": VIEWS.streams["payments"][1:2]})
NEW = [version_id(spec) for spec in (VIEWS.streams["payments"][0], VIEWS.streams["payments"][2])]
"""A view more of an entity the flow keeps already, and one of an entity it does not."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.kits.warm"])


def settings_of(redis_url: str, **options: Any) -> FlowSettings:
    defaults: dict[str, Any] = {
        "epoch_ms": 100,
        "checkpoint_seconds": 0.5,
        "key_shards": 4,
        "recovery_partitions": 4,
    }
    return FlowSettings(redis_url=redis_url, **defaults | options)


def die_after_two_shards(settings: FlowSettings) -> None:
    """A backfill that a power cut ends."""
    write, written = module.Backfill._write, []

    def write_or_die(self: module.Backfill, shard: Shard) -> None:
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, shard)
        written.append(shard)

    module.Backfill._write = write_or_die  # type: ignore[method-assign]
    backfill(settings)


def filled_versions(client: redis.Redis) -> set[str]:
    kept = KeptVersions.of(client.hkeys(versions_key("millstream")))  # type: ignore[arg-type]
    return {
        f"{view}:{version}"
        for view, versions in kept.views.items()
        for version, (done, of) in versions.items()
        if 0 < of == done
    }


def filled(client: redis.Redis, versions: list[str]) -> bool:
    return set(versions) <= filled_versions(client)


def history(home: Path, settings: FlowSettings, views: AppliedViews, count: int) -> None:
    """Payments logged and folded by a run over a file."""
    path = home / "history.parquet"
    pq.write_table(as_table([payment(n) for n in range(count)]), path)
    apply_views(settings, views)
    run("payments", settings.model_copy(update={"source_files": str(path), "file_block_events": 500}))


@pytest.mark.parametrize(
    "command",
    [(*RUN, "--epoch-ms", "100", "--workers", "2"), BYTEWAX],
    ids=["flows.run with two workers", "bytewax.run"],
)
def test_running_flow_starts_itself_again_with_new_views_and_they_end_as_from_the_first_event(
    command: tuple[str, ...], home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 3_000)
    stop = threading.Event()
    sent = [3_000]

    def traffic() -> None:
        draw = random.Random(7)
        while not stop.is_set():
            events = [payment(n) for n in range(sent[0], sent[0] + 20)]
            draw.shuffle(events)
            publish(clean_redis, [encoded(event) for event in events], partition=draw.randrange(4))
            sent[0] += 20
            time.sleep(0.05)

    producer = threading.Thread(target=traffic)
    with FlowCommand(settings, *command) as process:
        producer.start()
        try:
            wait_for(lambda: accounted(settings) > 3_100, process)
            apply_views(settings)
            interrupted = _context.Process(target=die_after_two_shards, args=(settings,), daemon=True)
            interrupted.start()
            interrupted.join(60)
            assert interrupted.exitcode == -signal.SIGKILL
            assert not filled(clean_redis, NEW)
            began = accounted(settings)
            assert sorted(backfill(settings)) == sorted(NEW)
            wait_for(lambda: filled(clean_redis, NEW), process)
            wait_for(lambda: accounted(settings) > began + 100, process)
        finally:
            stop.set()
            producer.join()
        wait_for(lambda: accounted(settings) == sent[0], process)
        wait_for(lambda: stored_online(clean_redis) == folded_from_log(settings, clean_redis), process, 20)
        assert backfill(settings) == []  # nothing is left to do
        assert process.logged("flow.restarts") == 1
        assert flow_runs(settings, "payments")

    with FlowCommand(settings, *command) as process:
        publish(clean_redis, [encoded(payment(n)) for n in range(sent[0], sent[0] + 200)])
        wait_for(lambda: accounted(settings) == sent[0] + 200, process)
        wait_for(lambda: stored_online(clean_redis) == folded_from_log(settings, clean_redis), process, 20)
    ids = logged(settings, ["event_id"])["event_id"].to_pylist()
    assert sorted(ids) == [payment(n)["event_id"] for n in range(sent[0] + 200)]


def test_view_that_no_backfill_has_filled_does_not_hold_up_one_that_is(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 1_000)
    with FlowCommand(settings, *RUN, "--epoch-ms", "100") as process:
        publish(clean_redis, [encoded(payment(n)) for n in range(1_000, 1_100)])
        wait_for(lambda: accounted(settings) == 1_100, process)
        apply_views(settings)
        wait_for(lambda: process.logged("view.new") == 2, process)
        assert backfill(settings, ["account_recent"]) == NEW[:1]
        wait_for(lambda: filled(clean_redis, NEW[:1]), process)
        assert process.logged("flow.restarts") == 1
        assert not filled(clean_redis, NEW[1:])
        assert backfill(settings) == NEW[1:]
        wait_for(lambda: filled(clean_redis, NEW), process)
        assert process.logged("flow.restarts") == 2
        publish(clean_redis, [encoded(payment(n)) for n in range(1_100, 1_300)])
        wait_for(lambda: accounted(settings) == 1_300, process)
        wait_for(lambda: stored_online(clean_redis) == folded_from_log(settings, clean_redis), process, 20)


def test_next_start_goes_on_from_what_a_backfill_left(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 2_000)
    apply_views(settings)
    assert sorted(backfill(settings)) == sorted(NEW)
    assert stored_online(clean_redis) == folded_from_log(settings, clean_redis)
    process = start(settings)
    publish(clean_redis, [encoded(payment(n)) for n in range(2_000, 2_300)])
    wait_for(lambda: accounted(settings) == 2_300, process)
    wait_for(lambda: stored_online(clean_redis) == folded_from_log(settings, clean_redis), process, 20)
    wait_for(lambda: filled(clean_redis, NEW), process)
    kill(process)


def test_shards_that_do_not_fit_into_memory_come_in_another_pass(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 2_000)
    apply_views(settings)
    backfill(settings, memory_bytes=1)
    assert stored_online(clean_redis) == folded_from_log(settings, clean_redis)


def test_only_the_views_named_are_filled(home: Path, clean_redis: redis.Redis, redis_url: str) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 200)
    apply_views(settings)
    assert backfill(settings, ["account_recent"]) == NEW[:1]
    with pytest.raises(DefinitionError, match="no windowed view is called nonsense"):
        backfill(settings, ["nonsense"])
