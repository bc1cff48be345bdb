"""A backfill beside a running flow: new views end as if they had been there from the first event."""

from __future__ import annotations

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
from tests.kits.flow_output import events_written, log_rows, states_from_log, states_online
from tests.kits.flow_process import BYTEWAX, RUN, running_command, running_flow, start_process
from tests.kits.payments import as_table, encoded, payment, publish
from tests.kits.views import VIEWS, apply_views

FEWER = AppliedViews("millstream", {"payments": VIEWS.streams["payments"][1:2]})
NEW = [version_id(spec) for spec in (VIEWS.streams["payments"][0], VIEWS.streams["payments"][2])]
"""A view more of an entity the flow keeps already, and one of an entity it does not."""


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
    with running_command(settings, *command) as flow:
        producer.start()
        try:
            flow.wait_for(lambda: events_written(settings) > 3_100)
            apply_views(settings)
            interrupted = start_process(die_after_two_shards, settings)
            interrupted.join(60)
            assert interrupted.exitcode == -signal.SIGKILL
            assert not filled(clean_redis, NEW)
            began = events_written(settings)
            assert sorted(backfill(settings)) == sorted(NEW)
            flow.wait_for(lambda: filled(clean_redis, NEW))
            flow.wait_for(lambda: events_written(settings) > began + 100)
        finally:
            stop.set()
            producer.join()
        flow.wait_for_events(sent[0])
        flow.wait_for_states(clean_redis, seconds=20)
        assert backfill(settings) == []  # nothing is left to do
        assert flow.log_lines("flow.restarts") == 1
        assert flow_runs(settings, "payments")

    with running_command(settings, *command) as flow:
        publish(clean_redis, [encoded(payment(n)) for n in range(sent[0], sent[0] + 200)])
        flow.wait_for_events(sent[0] + 200)
        flow.wait_for_states(clean_redis, seconds=20)
    ids = log_rows(settings, ["event_id"])["event_id"].to_pylist()
    assert sorted(ids) == [payment(n)["event_id"] for n in range(sent[0] + 200)]


def test_view_that_no_backfill_has_filled_does_not_hold_up_one_that_is(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 1_000)
    with running_command(settings, *RUN, "--epoch-ms", "100") as flow:
        publish(clean_redis, [encoded(payment(n)) for n in range(1_000, 1_100)])
        flow.wait_for_events(1_100)
        apply_views(settings)
        flow.wait_for(lambda: flow.log_lines("view.new") == 2)
        assert backfill(settings, ["account_recent"]) == NEW[:1]
        flow.wait_for(lambda: filled(clean_redis, NEW[:1]))
        assert flow.log_lines("flow.restarts") == 1
        assert not filled(clean_redis, NEW[1:])
        assert backfill(settings) == NEW[1:]
        flow.wait_for(lambda: filled(clean_redis, NEW))
        assert flow.log_lines("flow.restarts") == 2
        publish(clean_redis, [encoded(payment(n)) for n in range(1_100, 1_300)])
        flow.wait_for_events(1_300)
        flow.wait_for_states(clean_redis, seconds=20)


def test_next_start_goes_on_from_what_a_backfill_left(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 2_000)
    apply_views(settings)
    assert sorted(backfill(settings)) == sorted(NEW)
    assert states_online(clean_redis) == states_from_log(settings, clean_redis)
    with running_flow(settings) as flow:
        publish(clean_redis, [encoded(payment(n)) for n in range(2_000, 2_300)])
        flow.wait_for_events(2_300)
        flow.wait_for_states(clean_redis, seconds=20)
        flow.wait_for(lambda: filled(clean_redis, NEW))


def test_shards_that_do_not_fit_into_memory_come_in_another_pass(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 2_000)
    apply_views(settings)
    backfill(settings, memory_bytes=1)
    assert states_online(clean_redis) == states_from_log(settings, clean_redis)


def test_only_the_views_named_are_filled(home: Path, clean_redis: redis.Redis, redis_url: str) -> None:
    settings = settings_of(redis_url)
    history(home, settings, FEWER, 200)
    apply_views(settings)
    assert backfill(settings, ["account_recent"]) == NEW[:1]
    with pytest.raises(DefinitionError, match="no windowed view is called nonsense"):
        backfill(settings, ["nonsense"])
