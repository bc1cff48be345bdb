"""Back up and restore as docs/operations.md tells it: stop, copy, start; and a copy goes on where it was made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis

from feature_repo.errors import LogError
from flows.bootstrap import run
from flows.settings import FlowSettings
from tests.kits.flow_output import log_rows
from tests.kits.flow_process import running_flow
from tests.kits.payments import encoded, payment, publish
from tests.kits.views import apply_views


def through(settings: FlowSettings, client: redis.Redis, first: int, last: int) -> None:
    """Payments first to last, published while a flow runs, and the flow stopped when they are accounted for."""
    with running_flow(settings) as process:
        publish(client, [encoded(payment(n)) for n in range(first, last)])
        process.wait_for_events(last)


def test_a_copy_of_the_home_goes_on_from_where_it_was_made(
    home: Path, clean_redis: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    settings = FlowSettings(redis_url=redis_url, epoch_ms=100)
    apply_views(settings)
    through(settings, clean_redis, 0, 200)
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    through(settings, clean_redis, 200, 300)
    shutil.rmtree(home)  # the disaster
    restored = settings.model_copy(update={"home": copy})
    with running_flow(restored) as process:
        publish(clean_redis, [encoded(payment(n)) for n in range(300, 350)])
        process.wait_for_events(350)
        process.wait_for_states(clean_redis)
    assert sorted(log_rows(restored)["event_id"].to_pylist()) == [payment(n)["event_id"] for n in range(350)]


def test_a_log_copied_without_stopping_the_flow_is_refused(
    home: Path, clean_redis: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    settings = FlowSettings(redis_url=redis_url, epoch_ms=100)
    apply_views(settings)
    through(settings, clean_redis, 0, 50)
    copy = tmp_path / "copy"
    shutil.copytree(settings.log_dir, copy / "log")
    through(settings, clean_redis, 50, 100)
    for rest in ("recovery", "staging", "dead_letters", "checkpoints"):
        shutil.copytree(home / rest, copy / rest)
    with pytest.raises(LogError, match="is missing, "):
        run("payments", settings.model_copy(update={"home": copy}))
