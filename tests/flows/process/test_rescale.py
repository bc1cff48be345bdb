"""Shards of keys and partitions of the bus may become more between two starts, and not fewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from feature_repo.errors import RecoveryError
from feature_repo.stores.redis_layout.view_versions import KeptVersions, versions_key
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.state import KeyIndex
from flows.pipeline import build
from flows.process import recovery
from flows.settings import FlowSettings
from flows.window_state.checkpoints import CheckpointFolder
from tests.kits.flow_process import running_flow
from tests.kits.payments import encoded, payment, publish
from tests.kits.views import VIEWS, apply_views


def settings_of(redis_url: str, **options: Any) -> FlowSettings:
    return FlowSettings(redis_url=redis_url, epoch_ms=100, checkpoint_seconds=0.5, **options)


def filled(client: redis.Redis) -> bool:
    kept = KeptVersions.of(client.hkeys(versions_key("millstream")))  # type: ignore[arg-type]
    return all(kept.is_filled(spec) for spec in VIEWS.streams["payments"])


def test_with_more_key_shards_every_state_is_still_the_fold_of_the_log(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    sent = 0
    for shards in (4, 6):
        settings = settings_of(redis_url, key_shards=shards)
        apply_views(settings)
        with running_flow(settings) as process:
            for _ in range(2):
                publish(clean_redis, [encoded(payment(n)) for n in range(sent, sent + 150)])
                sent += 150
                process.wait_for_events(sent)
            process.wait_for_states(clean_redis)
            assert filled(clean_redis)


def test_a_new_partition_of_the_bus_is_read_from_its_first_entry(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url, bus_partitions=1)
    apply_views(settings)
    with running_flow(settings) as process:
        publish(clean_redis, [encoded(payment(n)) for n in range(100)])
        process.wait_for_events(100)
    publish(clean_redis, [encoded(payment(n)) for n in range(100, 200)], partition=1)
    settings = settings_of(redis_url, bus_partitions=2)
    with running_flow(settings) as process:
        process.wait_for_events(200)
        process.wait_for_states(clean_redis)


@pytest.mark.parametrize("number", ["key_shards", "bus_partitions"])
def test_fewer_than_there_were_are_refused(number: str, home: Path, redis_url: str) -> None:
    flow = build(PAYMENTS, settings_of(redis_url))
    path = home / "recovery" / "payments-bus"
    for count in (4, 6):
        recovery.guard(flow, settings_of(redis_url, **{number: count}), "payments", path)
        recovery.release(settings_of(redis_url), "payments")
    with pytest.raises(RecoveryError, match=rf"{number} is 5, and was 6.*MILLSTREAM_{number.upper()}=6"):
        recovery.guard(flow, settings_of(redis_url, **{number: 5}), "payments", path)
    recovery.release(settings_of(redis_url), "payments")


def test_a_checkpoint_that_is_damaged_or_of_other_shards_is_not_read(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "account_id:00", "bus", 4)
    name = folder.write(KeyIndex(), [], [], np.empty(0, np.int64))
    assert folder.read(name, ()) is not None
    assert CheckpointFolder(tmp_path, "account_id:00", "bus", 6).read(name, ()) is None
    content = (tmp_path / name).read_bytes()
    for cut in range(0, len(content), 97):
        (tmp_path / name).write_bytes(content[:cut])
        assert folder.read(name, ()) is None
