"""When a running flow starts itself again, and which views it then folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feature_repo.stores.applied_views import AppliedViews
from feature_repo.stores.redis_layout.keys import version_id
from flows.process import recovery
from flows.settings import FlowSettings
from flows.window_state.folded_views import LEFT_OUT, FoldedViews, write_handover
from flows.window_state.view_watch import ViewWatch
from tests.kits.views import VIEWS, apply_views

RECENT, DAILY, MERCHANT = VIEWS.streams["payments"]
ONLY_DAILY = AppliedViews("millstream", {"payments": (DAILY,)})


@pytest.fixture
def settings(home: Path) -> FlowSettings:
    made = FlowSettings(home=home)
    apply_views(made, ONLY_DAILY)
    return made


def watched(settings: FlowSettings) -> tuple[ViewWatch, list[frozenset[str]]]:
    """A watch of a flow that starts now, and the versions left out of each restart it calls for."""
    restarts: list[frozenset[str]] = []
    return ViewWatch(FoldedViews.read("payments", settings), settings, restarts.append), restarts


def test_new_view_alone_is_no_reason_to_start_again(settings: FlowSettings) -> None:
    watch, restarts = watched(settings)
    watch.look()
    apply_views(settings)
    watch.look()
    assert restarts == []


def test_flow_starts_again_with_the_views_a_backfill_has_filled_and_without_the_others(
    settings: FlowSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, restarts = watched(settings)
    apply_views(settings)
    write_handover(settings, "payments", [version_id(RECENT)])
    watch.look()
    assert restarts == [{version_id(MERCHANT)}]

    monkeypatch.setenv(LEFT_OUT, ",".join(restarts[0]))
    assert FoldedViews.read("payments", settings).entities == {("account_id",): (RECENT, DAILY)}
    watch, restarts = watched(settings)
    watch.look()
    assert restarts == []
    write_handover(settings, "payments", [version_id(RECENT), version_id(MERCHANT)])
    watch.look()
    assert restarts == [frozenset()]


def test_flow_starts_again_without_a_retired_version(settings: FlowSettings) -> None:
    apply_views(settings)
    watch, restarts = watched(settings)
    apply_views(settings, ONLY_DAILY)
    watch.look()
    assert restarts == [frozenset()]


def test_views_of_other_streams_are_no_reason_to_start_again(settings: FlowSettings) -> None:
    watch, restarts = watched(settings)
    apply_views(settings, AppliedViews("millstream", {"payments": (DAILY,), "labels": (MERCHANT,)}))
    write_handover(settings, "labels", [version_id(MERCHANT)])
    watch.look()
    assert restarts == []


def test_flow_started_before_the_first_apply_starts_again_after_a_backfill(home: Path) -> None:
    settings = FlowSettings(home=home)
    watch, restarts = watched(settings)
    watch.look()
    apply_views(settings, ONLY_DAILY)
    watch.look()
    assert restarts == []
    write_handover(settings, "payments", [version_id(DAILY)])
    watch.look()
    assert restarts == [frozenset()]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"recovery_mode": "off"}, {}),
        ({"source_files": "/data/a.parquet"}, {}),
        ({}, {"process_id": 0}),
    ],
    ids=["without recovery", "over files", "in a cluster"],
)
def test_flow_that_cannot_start_itself_again(
    changes: dict[str, Any], options: dict[str, Any], settings: FlowSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recovery.can_reexec(settings)
    monkeypatch.setattr(recovery, "run_options", lambda: options)
    assert not recovery.can_reexec(settings.model_copy(update=changes))
