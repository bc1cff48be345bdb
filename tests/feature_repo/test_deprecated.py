"""Old names of settings and metrics work for one release."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from feature_repo import deprecated
from flows import metrics
from flows.settings import FlowSettings


@pytest.fixture(autouse=True)
def _nothing_warned_of_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deprecated, "_warned", set())


def test_an_old_name_of_a_setting_is_read_and_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_LATENESS_SECONDS", "30")
    with pytest.warns(
        FutureWarning, match="MILLSTREAM_LATENESS_SECONDS .*MILLSTREAM_ALLOWED_LATENESS_SECONDS"
    ):
        assert FlowSettings().allowed_lateness_seconds == 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FlowSettings().allowed_lateness_seconds == 30


def test_an_old_name_in_the_file_env_is_warned_of_too(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("MILLSTREAM_AHEAD_SECONDS=7\n")
    with pytest.warns(FutureWarning, match="MILLSTREAM_MAX_FUTURE_SKEW_SECONDS"):
        assert FlowSettings(_env_file=tmp_path / "env").max_future_skew_us == 7_000_000  # type: ignore[call-arg]


def test_the_new_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_BUS_KEEP", "all")
    monkeypatch.setenv("MILLSTREAM_BUS_RETENTION", "unread")
    with pytest.warns(FutureWarning):
        assert FlowSettings().bus_retention == "unread"


def test_new_names_are_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_ALLOWED_LATENESS_SECONDS", "30")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FlowSettings().allowed_lateness_us == 30_000_000


def test_an_old_name_of_a_metric_has_the_values_of_the_new_one() -> None:
    metrics.WATERMARK.labels("old-name").set(5)
    metrics.BUS_ROLLED_BACK.labels("old-name").inc(2)
    here = {"partition": "old-name"}
    assert REGISTRY.get_sample_value("millstream_watermark_seconds", here) == 5
    assert REGISTRY.get_sample_value("millstream_watermark_timestamp_seconds", here) == 5
    assert REGISTRY.get_sample_value("millstream_bus_went_back_total", here) == 2
