"""Runs over files: every event accounted for, the same files again add nothing; metrics and settings say what they
mean.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis
from prometheus_client import REGISTRY

from feature_repo.errors import FlowError
from flows import backfill_files
from flows.backfill_files import Counts
from flows.graph import mermaid
from flows.metrics import CATALOGUE
from flows.settings import FlowSettings
from tests.kits.flow_output import states_from_log, states_online
from tests.kits.payments import as_table, encoded, payment, write_lines
from tests.kits.views import apply_views


def test_counts_account_for_every_event_and_a_second_run_adds_none(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = FlowSettings(redis_url=redis_url)
    apply_views(settings)
    pq.write_table(as_table([payment(n) for n in range(1_000)]), home / "a.parquet")
    broken = [encoded(payment(n)) for n in range(1_000, 1_200)] + [b"{", encoded(payment(1_100)), b"[]"]
    lines = write_lines(home / "b.jsonl", broken)
    label = {
        "label_id": "p1:5",
        "event_timestamp": "2026-11-02T00:00:00Z",
        "payment_id": "p1",
        "is_fraud": True,
        "labeler": "chargeback",
    }
    labels = write_lines(home / "labels.jsonl", [encoded(label)])
    seen: list[tuple[str, int, int]] = []
    expected = {
        "payments": Counts(1_203, 1_200, {"malformed": 1, "duplicate": 1, "schema": 1}),
        "labels": Counts(1, 1, {}),
    }
    for _ in range(2):
        counts = backfill_files.run(
            settings,
            payments=[home / "a.parquet", lines],
            labels=[labels],
            on_progress=lambda *progress: seen.append(progress),
        )
        assert counts == expected
    assert seen[-1] == ("labels", 1, 1)
    assert states_online(clean_redis) == states_from_log(settings, clean_redis)


def test_failed_run_says_why(home: Path, redis_url: str) -> None:
    pq.write_table(as_table([payment(1)]).drop_columns(["amount"]), home / "a.parquet")
    with pytest.raises(FlowError, match="no column amount"):
        backfill_files.run(FlowSettings(redis_url=redis_url), payments=[home / "a.parquet"])


def test_catalogue_holds_every_metric_of_the_flows() -> None:
    scraped = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("millstream_")}
    ours = {re.sub("_total$", "", name) for name in CATALOGUE if name.startswith("millstream_")}
    assert ours <= scraped
    assert all(metric.meaning and metric.name == name for name, metric in CATALOGUE.items())


def test_every_setting_is_described() -> None:
    assert [name for name, field in FlowSettings.model_fields.items() if not field.description] == []


def test_settings_come_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_RECOVERY", "off")
    monkeypatch.setenv("MILLSTREAM_ALLOWED_LATENESS_SECONDS", "30")
    settings = FlowSettings()
    assert (settings.recovery_mode, settings.allowed_lateness_us, settings.home) == ("off", 30_000_000, home)


def test_graph_shows_the_way_from_source_to_log_and_online_store(home: Path) -> None:
    drawn = mermaid("payments", FlowSettings())
    assert drawn.startswith("flowchart")
    for step in ("source", "accept", "admit", "dead_letters", "log", "route", "fold", "online"):
        assert f"payments.{step}[" in drawn
